"""Layers dealt to stages: all of them, within the limits, as evenly as those allow."""

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from planner.layouts.stages import stages_of
from planner.solver.limits import StageLimits
from planner.solver.tables import deal_evenly
from tests.helpers import layout
from tests.unit.solver.test_solver_model import table


@st.composite
def dealings(draw: st.DrawFn) -> tuple[StageLimits, int]:
    """Limits of one to three pipelines and a number of layers that all of them can hold."""
    counts = draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    total = sum(counts)
    fewest = np.array(draw(st.lists(st.integers(0, 3), min_size=total, max_size=total)))
    extra = np.array(draw(st.lists(st.integers(0, 6), min_size=total, max_size=total)))
    pipelines = table(*(layout(pipeline_parallel=count, layers_per_stage=(1,) * count) for count in counts))
    limits = StageLimits(stages=stages_of(pipelines), fewest=fewest, most=fewest + extra)
    starts = limits.stages.first_rows()
    least = int(np.add.reduceat(limits.fewest, starts).max())
    most = int(np.add.reduceat(limits.most, starts).min())
    assume(least <= most)
    return limits, draw(st.integers(least, most))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(dealings())
def test_all_layers_are_dealt_within_the_limits(dealing: tuple[StageLimits, int]) -> None:
    limits, num_layers = dealing
    layers = deal_evenly(limits, limits.most, num_layers)
    assert (np.add.reduceat(layers, limits.stages.first_rows()) == num_layers).all()
    assert ((limits.fewest <= layers) & (layers <= limits.most)).all()


@settings(max_examples=300, deadline=None, derandomize=True)
@given(dealings())
def test_no_layer_can_move_to_a_stage_with_two_fewer(dealing: tuple[StageLimits, int]) -> None:
    limits, num_layers = dealing
    layers = deal_evenly(limits, limits.most, num_layers)
    pipeline = limits.stages.layout_row
    for giver in np.flatnonzero(layers > limits.fewest):
        for taker in np.flatnonzero((layers < limits.most) & (pipeline == pipeline[giver])):
            assert layers[giver] - layers[taker] < 2
