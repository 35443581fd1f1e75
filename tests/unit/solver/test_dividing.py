"""Divisions by dynamic programming are those of CP-SAT, and of brute force."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from planner.cost_model.terms import total
from planner.layouts.layout import FREE_RECOMPUTE, columns_of
from planner.solver import step_time
from planner.solver.dividing import best_division
from planner.solver.limits import stage_limits
from planner.solver.tables import stepped, time_tables
from tests.helpers import layout, problem, slow_hardware


@pytest.mark.parametrize("stages", [2, 3])
@pytest.mark.parametrize("memory", [260_000, 320_000, 10_000_000])
def test_a_division_is_the_best_of_all(stages: int, memory: int) -> None:
    asked = problem(
        model={"num_layers": 6},
        hardware=slow_hardware(memory_bytes=memory),
        stack={"recompute": "per-layer"},
        num_devices=stages,
        reserve=None,
    )
    one = layout(pipeline_parallel=stages, layers_per_stage=(6 // stages,) * stages)
    columns = replace(columns_of(one), recompute=np.array([FREE_RECOMPUTE]))
    limits = stage_limits(asked, columns)
    tables = time_tables(asked, limits)
    tables = stepped(asked, tables, limits)
    ranges = [range(int(low), int(high) + 1) for low, high in zip(limits.fewest, limits.most, strict=True)]
    divisions = [np.array(layers) for layers in itertools.product(*ranges) if sum(layers) == 6]
    steps = [float(tables.step(layers)[0]) for layers in divisions]
    found = best_division(tables, 0, np.inf)
    assert found is not None
    assert found.step == pytest.approx(min(steps))
    assert float(tables.step(np.array(found.layers))[0]) == pytest.approx(min(steps))
    assert best_division(tables, 0, min(steps) - 1) is None


def test_a_search_whose_effort_is_spent_is_finished_by_division(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = problem(model={"num_layers": 6}, hardware=slow_hardware(), num_devices=2)
    limits = stage_limits(asked, columns_of(layout(pipeline_parallel=2, layers_per_stage=(3, 3))))
    ranked = step_time.rank(asked, limits)
    whole = step_time.solve_exactly(asked, ranked, None)
    monkeypatch.setattr(step_time, "EFFORT", 0.0)
    spent = step_time.solve_exactly(asked, ranked, None)
    assert (spent.status, spent.bound) == ("optimal", spent.objective)
    assert spent.objective == pytest.approx(whole.objective)
    assert total({"layers": np.array(spent.layers or whole.layers, dtype=float)}).sum() == 6
