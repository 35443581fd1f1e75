"""How a diagnostic is carried and rendered."""

import pytest

from planner.diagnostics import Diagnostic, ExitCode, PlanError, render, usage_error


def test_render_lays_out_every_part() -> None:
    diagnostic = Diagnostic(
        rule="TP001",
        message="4 does not divide 10",
        location="layout: tensor_parallel = 4",
        detail="10 % 4 = 2\nheads = 10",
        hint="use 1 or 2",
    )
    assert render(diagnostic).splitlines() == [
        "error[TP001]: 4 does not divide 10",
        "  --> layout: tensor_parallel = 4",
        "  10 % 4 = 2",
        "  heads = 10",
        "hint: use 1 or 2",
    ]


def test_render_leaves_out_what_there_is_not() -> None:
    assert render(Diagnostic(rule="X", message="m", severity="note")) == "note[X]: m"


def test_usage_error_is_bad_input() -> None:
    error = usage_error("no such file", location="--model", hint="see `gptplan models`")
    assert error.exit_code == ExitCode.USAGE
    assert str(error) == "no such file"
    assert error.diagnostics == (
        Diagnostic(rule="USAGE", message="no such file", location="--model", hint="see `gptplan models`"),
    )


def test_an_error_carries_several_diagnostics() -> None:
    both = (Diagnostic(rule="A", message="one"), Diagnostic(rule="B", message="two"))
    error = PlanError(*both, exit_code=ExitCode.NEGATIVE)
    assert (str(error), error.diagnostics) == ("one; two", both)


@pytest.mark.parametrize(("code", "value"), [("OK", 0), ("NEGATIVE", 1), ("USAGE", 2), ("BUG", 3)])
def test_exit_codes(code: str, value: int) -> None:
    assert ExitCode[code] == value
