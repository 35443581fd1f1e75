"""The rule table: every rule accepts and refuses, and says so with its numbers."""

import re
from string import Formatter

import pytest

from planner.layouts.degrees import divisors
from planner.layouts.layout import Offload, columns_of
from planner.rules import ALL_RULES, RULES, screen, violations
from planner.rules.capacity import DEVICE_MEMORY, HOST_MEMORY, NVME
from planner.rules.rule import ASKED, NAMED_FIELDS, Rule, listed, names_of
from tests.helpers import layout, problem, problem_of
from tests.unit.rules import expert_cases, family_cases, rule_cases
from tests.unit.rules.rule_cases import Case

CASES = (*rule_cases.CASES, *family_cases.CASES, *expert_cases.CASES)

BY_ID = {rule.id: rule for rule in RULES}
EACH_CASE = pytest.mark.parametrize("case", CASES, ids=lambda case: case.rule)
EACH_RULE = pytest.mark.parametrize("rule", ALL_RULES, ids=lambda rule: rule.id)


def test_every_rule_has_a_case() -> None:
    assert sorted(case.rule for case in CASES) == sorted(BY_ID)


def test_ids_are_unique_and_well_formed() -> None:
    ids = [rule.id for rule in ALL_RULES]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[A-Z]{2,3}[0-9]{3}", rule_id) for rule_id in ids)


@EACH_CASE
def test_kept(case: Case) -> None:
    assert BY_ID[case.rule].holds_for(case.problem_of_kept(), case.kept)


@EACH_CASE
def test_broken(case: Case) -> None:
    rule, asked = BY_ID[case.rule], case.problem_of_broken()
    assert not rule.holds_for(asked, case.broken)
    assert case.rule in [diagnostic.rule for diagnostic in violations(asked, case.broken)]


@EACH_CASE
def test_diagnostic_has_the_numbers_and_one_hint(case: Case) -> None:
    diagnostic = BY_ID[case.rule].diagnose(case.problem_of_broken(), case.broken)
    assert (diagnostic.rule, diagnostic.severity) == (case.rule, "error")
    assert diagnostic.message == case.message
    assert diagnostic.hint == case.hint
    assert {name: diagnostic.values[name] for name in case.numbers} == case.numbers
    assert diagnostic.location.startswith(f"layout: {BY_ID[case.rule].field} = ")


TOLD_BY_LISTS = {"RC004"}
"""Rules that judge lists per stage, and columns of a search only where a pin lists what stages recompute."""


@EACH_CASE
def test_columns_agree_with_the_whole_layout(case: Case) -> None:
    rule = BY_ID[case.rule]
    if rule.holds is None or case.rule in TOLD_BY_LISTS:
        return
    _, rejected = screen(case.problem_of_broken(), columns_of(case.broken))
    assert rejected[rule.id] == 1
    assert rule.id not in screen(case.problem_of_kept(), columns_of(case.kept))[1]


def placeholders(template: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(template) if name}


@EACH_RULE
def test_texts_read_like_messages(rule: Rule) -> None:
    assert rule.title[0].islower() or re.match(r"[A-Z]{2}|ZeRO|2|3", rule.title)
    for text in (rule.title, rule.message, rule.detail, rule.hint):
        assert text
        assert not text.endswith(".")
    assert rule.why.endswith(".")
    assert rule.source


@EACH_CASE
def test_messages_start_in_lower_case(case: Case) -> None:
    message = BY_ID[case.rule].diagnose(case.problem_of_broken(), case.broken).message
    assert not re.match(r"[A-Z][a-z]+ ", message)


@EACH_RULE
def test_a_rule_is_judged_by_a_predicate_or_by_the_cost_model(rule: Rule) -> None:
    assert (rule.holds is None and rule.holds_layout is None) == (rule.id in ("MEM001", "MEM002", "MEM003"))


def test_layouts_that_keep_every_rule_have_no_violations() -> None:
    for divided in ({}, {"tensor_parallel": 2, "pipeline_parallel": 2}, {"data_parallel": 2, "num_microbatches": 4}):
        assert violations(problem_of(layout(**divided)), layout(**divided)) == []


def test_violations_come_in_the_order_of_the_table() -> None:
    broken = layout(tensor_parallel=3, zero_stage=3, sequence_parallel=True, offload=Offload(parameters=1.0))
    found = [diagnostic.rule for diagnostic in violations(problem(), broken)]
    assert found == [rule.id for rule in RULES if rule.id in found]
    assert {"DEV001", "TP001", "SP002", "STK003", "OFF004"} <= set(found)


def test_pinned_layers_are_judged() -> None:
    uneven = layout(pipeline_parallel=2, layers_per_stage=(1, 3))
    assert violations(problem_of(uneven, pins={"layers_per_stage": "1,3"}), uneven) == []
    found = violations(problem_of(uneven, pins={"layers_per_stage": "even"}), uneven)
    assert [diagnostic.rule for diagnostic in found] == ["PIN001"]


def test_device_memory_is_diagnosed_with_the_numbers_of_the_cost_model() -> None:
    numbers = {"need": "86.20 GiB", "peak": "86.20 GiB", "room": "78.00 GiB", "capacity": "80.00 GiB"}
    diagnostic = DEVICE_MEMORY.diagnose(problem(), layout(), **numbers, stage=0, phase="forward", reserve="2.00 GiB")
    assert diagnostic.message == "the fullest stage needs 86.20 GiB on tiny-gpu, and 78.00 GiB can be used"
    assert "stage 0 peaks at 86.20 GiB in its forward phase, 2.00 GiB is reserved" in diagnostic.detail
    assert diagnostic.values["need"] == "86.20 GiB"


def test_host_memory_is_diagnosed_with_the_numbers_of_the_cost_model() -> None:
    diagnostic = HOST_MEMORY.diagnose(problem(), layout(), need="2.00 TiB", capacity="1.00 TiB")
    assert diagnostic.message == "the ranks of a node need 2.00 TiB on a host with 1.00 TiB"
    assert diagnostic.location == "layout: offload.optimizer = 0.0"


def test_nvme_is_diagnosed_with_the_numbers_of_the_cost_model() -> None:
    diagnostic = NVME.diagnose(problem(), layout(), need="2.00 TiB", capacity="1.00 TiB")
    assert diagnostic.message == "the ranks of a node keep 2.00 TiB on NVMe drives of 1.00 TiB"
    assert diagnostic.rule == "MEM003"


@pytest.mark.parametrize(
    ("number", "expected"), [(1, [1]), (12, [1, 2, 3, 4, 6, 12]), (16, [1, 2, 4, 8, 16]), (7, [1, 7])]
)
def test_divisors(number: int, expected: list[int]) -> None:
    assert divisors(number) == expected


@pytest.mark.parametrize(
    ("values", "text"), [([], "no value"), ([3], "3"), ([1, 2], "1 or 2"), ([1, 2, 4], "1, 2 or 4")]
)
def test_listed(values: list[int], text: str) -> None:
    assert listed(values) == text


def test_long_lists_are_cut() -> None:
    assert listed(list(range(10)), most=3) == "0, 1, 2, ..."


def test_templates_name_only_values_that_exist() -> None:
    for rule in RULES:
        values = rule.values(problem(), layout())
        for template in (rule.message, rule.detail, rule.hint):
            named = {name for name in placeholders(template) if name.startswith(("name.", "field."))}
            assert placeholders(template) - named <= values.keys(), rule.id
            assert {name.partition(".")[2] for name in named} <= {*NAMED_FIELDS, *ASKED}, rule.id


def test_messages_take_the_words_of_a_framework() -> None:
    names = names_of({"tensor_parallel": "tp_size", "zero_stage": "stage"})
    found = BY_ID["ZER004"].diagnose(problem(), layout(zero_stage=3, tensor_parallel=2), names)
    assert found.message == "stage 3 does not go with tp_size 2"
    assert found.detail == "stage = 3, tp_size = 2"
    plain = BY_ID["ZER004"].diagnose(problem(), layout(zero_stage=3, tensor_parallel=2))
    assert plain.message == "ZeRO stage 3 does not go with tensor parallel degree 2"
    assert plain.detail == "zero_stage = 3, tensor_parallel = 2"


def test_templates_are_read_with_gptplans_own_words() -> None:
    spelled_out = BY_ID["ZER004"].spelled_out()
    assert spelled_out.message == "ZeRO stage 3 does not go with tensor parallel degree {tensor_parallel}"
    assert spelled_out.detail == "zero_stage = {zero_stage}, tensor_parallel = {tensor_parallel}"
