"""No single edit of a plan file goes unnoticed."""

import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.diagnostics import PlanError
from planner.plans.plan import canonical_json, read_plan
from planner.solver import solve
from tests.helpers import problem, slow_hardware


@cache
def plan_bytes() -> bytes:
    return canonical_json(solve(problem(hardware=slow_hardware())).plan)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of everything in a JSON document that is neither an object nor a list with content."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if not children or not value:
        yield path
    for key, child in children:
        yield from leaves(child, (*path, key))


LEAVES = sorted(leaves(msgspec.json.decode(plan_bytes())), key=repr)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-9, 10**6), st.floats(0, 1e6), st.text(max_size=5))


def replaced(path: tuple[Any, ...], by: Any, *, remove: bool) -> Any:
    """The plan's document with one leaf replaced, or removed."""
    document = msgspec.json.decode(plan_bytes())
    parent = document
    for key in path[:-1]:
        parent = parent[key]
    if remove:
        del parent[path[-1]]
    else:
        parent[path[-1]] = by
    return document


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.sampled_from(LEAVES), SCALARS, st.booleans())
def test_any_edit_of_one_field_is_noticed(path: tuple[Any, ...], value: Any, remove: bool) -> None:
    document = replaced(path, value, remove=remove)
    changed = canonical_json(document) != plan_bytes()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "a.plan"
        file.write_bytes(canonical_json(document))
        if not changed:
            read_plan(file)
            return
        with pytest.raises(PlanError) as raised:
            read_plan(file)
    assert raised.value.diagnostics[0].rule in ("PLAN001", "PLAN002", "USAGE")


def test_the_document_has_every_part() -> None:
    tops = {path[0] for path in LEAVES}
    assert tops == {
        "digest",
        "evidence",
        "format_version",
        "gptplan_version",
        "layout",
        "predicted",
        "problem",
        "spec_digests",
    }
