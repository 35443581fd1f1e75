"""What rules are about, by which others find them."""

import pytest

from planner.rules import ids_about, rule_about


def test_kinds_of_rules_that_others_ask_for() -> None:
    assert ids_about("batch") == {"BAT001", "PP004", "PP005", "TP023", "ZER003"}
    assert ids_about("engine") == {"PP001", "PP004", "PP005"}
    assert ids_about("gpu") == {"ZER005"}


def test_the_one_rule_about_something() -> None:
    found = [rule_about(word).id for word in ("count", "pin", "forbid", "even-stages")]
    assert found == ["DEV001", "PIN001", "PIN002", "PP011"]


def test_what_several_rules_are_about_has_no_one_rule() -> None:
    with pytest.raises(ValueError, match="too many"):
        rule_about("batch")
