"""Candidates: each is valid or breaks a rule, and columns and whole layouts are judged alike."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from planner.layouts.layout import FIELDS, RECOMPUTE, Field, Layout, LayoutColumns, columns_of, layout_with
from planner.layouts.problem import Problem
from planner.rules import ALL_RULES, RULES, screen, violations
from planner.solver.candidates import enumerate_layouts
from tests.helpers import problem

LAYOUT_RULES = {rule.id for rule in RULES if rule.holds is None}
PINNED = st.sampled_from(
    [
        {},
        {},
        {},
        {"tensor_mode": "2d"},
        {"tensor_mode": "2.5d"},
        {"tensor_mode": "3d"},
        {"zero_stage": "3"},
        {"offload.tier": "nvme"},
        {"offload.optimizer": "0.5"},
        {"micro_batch": "2"},
        {"schedule": "interleaved"},
    ]
)


@st.composite
def questions(draw: st.DrawFn) -> Problem:
    """Problems that allow much, so that every rule has something to reject."""
    model = {
        "num_layers": draw(st.integers(1, 12)),
        "num_heads": draw(st.sampled_from([1, 4, 6])),
        "hidden_size": draw(st.sampled_from([12, 24])),
        "vocab_size": draw(st.sampled_from([100, 128])),
    }
    stack = {
        "uneven_stages": draw(st.booleans()),
        "recompute": draw(st.sampled_from(["none", "all-or-nothing"])),
        "sequence_parallel": draw(st.booleans()),
        "vocab_multiple": draw(st.sampled_from([0, 1, 16])),
    }
    return problem(
        model=model,
        stack=stack,
        num_devices=draw(st.integers(1, 12)),
        global_batch=draw(st.integers(1, 12)),
        seq_len=draw(st.sampled_from([6, 8, 16])),
        precision=draw(st.sampled_from(["bf16", "fp32"])),
        allow_offload=draw(st.sampled_from(["none", "cpu", "nvme"])),
        pins=draw(PINNED),
        forbids=draw(st.sampled_from([{}, {}, {"zero_stage": ("1",)}])),
    )


def whole(asked: Problem, columns: LayoutColumns, row: int) -> Layout:
    """The layout of a row with its layers divided as evenly as they go."""
    stages = int(columns.pipeline_parallel[row])
    share, rest = divmod(asked.model.num_layers, stages)
    layers = [share + (stage < rest) for stage in range(stages)]
    return columns.layout(row, layers, layers if columns.recompute[row] else [0] * stages, asked.precision)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(questions(), st.randoms(use_true_random=False))
def test_columns_and_whole_layouts_are_judged_alike(asked: Problem, random: Any) -> None:
    columns = enumerate_layouts(asked)
    valid, rejected = screen(asked, columns)
    for row in random.sample(range(len(columns)), min(40, len(columns))):
        layout = whole(asked, columns, row)
        broken = {diagnostic.rule for diagnostic in violations(asked, layout)}
        assert bool(valid[row]) == (not broken - LAYOUT_RULES)
        assert broken - LAYOUT_RULES <= rejected.keys()
        assert not valid[row] or not broken


@settings(max_examples=60, deadline=None, derandomize=True)
@given(questions())
def test_each_candidate_is_valid_or_breaks_a_rule(asked: Problem) -> None:
    columns = enumerate_layouts(asked)
    valid, rejected = screen(asked, columns)
    assert (valid.all()) == (not rejected)
    assert max(rejected.values(), default=0) <= (~valid).sum() <= sum(rejected.values())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(questions())
def test_candidates_use_every_device_once_and_are_distinct(asked: Problem) -> None:
    columns = enumerate_layouts(asked)
    devices = columns.tensor_parallel * columns.pipeline_parallel * columns.data_parallel
    assert (devices == asked.num_devices).all()
    rows = set(zip(*(column.tolist() for column in vars(columns).values()), strict=True))
    assert len(rows) == len(columns)


@st.composite
def any_layout(draw: st.DrawFn) -> Layout:
    """Any layout that decodes, sensible or not."""
    values = {field.name: draw(any_value(field)) for field in FIELDS.values() if field.name != RECOMPUTE}
    return layout_with(
        values | {"pipeline_parallel": draw(st.integers(1, 5))},
        layers_per_stage=tuple(draw(st.lists(st.integers(0, 9), max_size=6))),
        recompute_layers_per_stage=tuple(draw(st.lists(st.integers(0, 9), max_size=6))),
        precision=draw(st.sampled_from(["fp16", "bf16", "fp32"])),
    )


def any_value(field: Field) -> st.SearchStrategy[Any]:
    if field.values:
        return st.sampled_from(field.values)
    return st.sampled_from([0.0, 0.5, 1.0]) if field.is_share else st.integers(1, 70)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(questions(), any_layout())
def test_every_rule_has_words_for_any_layout(asked: Problem, layout: Layout) -> None:
    numbers = dict.fromkeys(("stage", "phase", "need", "peak", "room", "reserve", "capacity"), "x")
    for rule in ALL_RULES:
        diagnostic = rule.diagnose(asked, layout, **numbers)
        assert "{" not in diagnostic.message + diagnostic.detail + diagnostic.hint
        assert not diagnostic.message.endswith(".")


@settings(max_examples=200, deadline=None, derandomize=True)
@given(any_layout())
def test_columns_and_back_is_the_same_layout(layout: Layout) -> None:
    columns = columns_of(layout)
    back = columns.layout(0, layout.layers_per_stage, layout.recompute_layers_per_stage, layout.precision)
    assert back == layout


def test_a_pinned_number_of_chunks_is_tried() -> None:
    """Ten layers on two stages of five chunks break no rule, so they are not infeasible."""
    asked = problem(model={"num_layers": 10}, num_devices=2, pins={"pipeline_parallel": "2", "num_model_chunks": "5"})
    valid, _ = screen(asked, enumerate_layouts(asked))
    assert valid.any()
