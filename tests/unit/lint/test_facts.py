"""What rules of configurations need is what their dialects tell, and the other way round."""

import inspect
from string import Formatter

import pytest

from planner.lint.check import read_and_judge
from planner.lint.config_rule import ConfigRule
from planner.lint.dialects.colossalai_2022.keys import DIALECT as OLD
from planner.lint.dialects.deepspeed.keys import DIALECT as DEEPSPEED
from planner.lint.dialects.megatron.keys import DIALECT as MEGATRON
from planner.lint.dialects.plugins.keys import DIALECTS
from planner.lint.draft import Asked, Dialect
from planner.lint.files import language_of
from planner.lint.reading import Reading
from planner.lint.registry import CONFIG_RULES
from planner.lint.repair import FACTS_OF_CANDIDATES
from planner.lint.source import Source
from planner.rules import RULES
from planner.specs import HardwareSpec
from planner.specs.files import load_spec
from tests.unit.lint.config_rule_cases import Case
from tests.unit.lint.test_config_rules import CASES

ALL = (OLD, DEEPSPEED, MEGATRON, *DIALECTS.values())
EACH_RULE = pytest.mark.parametrize("rule", CONFIG_RULES, ids=lambda rule: rule.id)
EACH_DIALECT = pytest.mark.parametrize("dialect", ALL, ids=lambda dialect: dialect.name)


def named(rule: ConfigRule) -> set[str]:
    """Parameters of the functions of a rule, which are facts."""
    functions = [rule.holds, rule.values, rule.repaired, rule.added]
    parameters = (p for f in functions if f is not None for p in inspect.signature(f).parameters.values())
    return {*rule.needs, *(p.name for p in parameters if p.kind is not p.VAR_KEYWORD)}


def shown(rule: ConfigRule) -> set[str]:
    """Names in the templates of a rule."""
    texts = (rule.message, rule.detail, rule.hint)
    return {name for text in texts for _, name, _, _ in Formatter().parse(text) if name}


@EACH_RULE
def test_every_dialect_of_a_rule_can_tell_what_it_needs(rule: ConfigRule) -> None:
    for dialect in ALL:
        if dialect.name in rule.dialects:
            assert named(rule) <= dialect.facts.keys()
            assert rule.fact in dialect.facts


@EACH_DIALECT
def test_every_fact_is_used_by_a_rule_or_a_repair(dialect: Dialect) -> None:
    # All plugins tell what stands beside them in a script, and each has rules about some of that.
    family = {*DIALECTS} if dialect.name in DIALECTS else {dialect.name}
    rules = [rule for rule in CONFIG_RULES if family & {*rule.dialects}]
    used = {name for rule in rules for name in named(rule) | shown(rule)} | {*FACTS_OF_CANDIDATES}
    assert dialect.facts.keys() <= used


@EACH_DIALECT
def test_facts_say_what_they_mean(dialect: Dialect) -> None:
    assert all(fact.meaning and not fact.meaning.endswith(".") for fact in dialect.facts.values())


@EACH_DIALECT
def test_a_dialect_replaces_rules_that_there_are(dialect: Dialect) -> None:
    assert {*dialect.replaced} <= {rule.id for rule in RULES}
    assert {*dialect.additions} <= {rule.field for rule in RULES}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.rule)
def test_facts_are_of_their_kind(case: Case) -> None:
    asked = Asked(gpus=case.gpus, hardware=load_spec("a100-40g", HardwareSpec), devices_per_node=8)
    for text in (case.broken, case.kept):
        _, judged = read_and_judge(text, case.name, language_of(text, case.name), asked)
        for draft in (one.draft for one in judged):
            assert draft.facts
            for name, value in draft.facts.items():
                assert isinstance(value, draft.dialect.facts[name].kind), name


def test_a_fact_that_is_not_declared_is_a_defect() -> None:
    source = Source(shown="a.json", text="", language="json", settings={})
    asked = Asked(gpus=8, hardware=load_spec("a100-40g", HardwareSpec), devices_per_node=8)
    with pytest.raises(KeyError):
        Reading(DEEPSPEED, source, asked).tell(zero_stag=1)
