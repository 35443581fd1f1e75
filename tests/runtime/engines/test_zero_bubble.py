"""Zero-bubble V pipelines train like one process, and what the library does otherwise is found."""

from functools import partial
from pathlib import Path

import pytest

from planner.handover.verification import Verification
from planner.layouts.zero_bubble import CHUNKS, node_order
from runtime.states.placement import held_layers, holds_loss
from tests.runtime.conftest import make_plan, run_ranks
from tests.runtime.zero_bubble_ranks import DEFERRED, ERRORS, LAYOUTS, VISITED, Found, V, all_of, case_plan

pytestmark = pytest.mark.runtime

TIMEOUT_S = 480


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[Found]]:
    """By the number of ranks, of each rank."""
    whole = {}
    for world in (2, 4):
        folder = tmp_path_factory.mktemp(f"ranks{world}")
        whole[world] = run_ranks(world, partial(all_of, world, folder), folder, timeout_s=TIMEOUT_S)
    return whole


def test_the_first_stage_of_a_v_holds_its_first_and_its_last_layers() -> None:
    layout = make_plan(**{**V, "model": {"num_layers": 12}, "pipeline_parallel": 3, "num_microbatches": 3}).layout
    assert [held_layers(layout, stage) for stage in range(3)] == [(0, 1, 10, 11), (2, 3, 8, 9), (4, 5, 6, 7)]
    assert [holds_loss(layout, stage) for stage in range(3)] == [True, False, False]


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_agrees_with_one_process(name: str, found: dict[int, list[Found]]) -> None:
    plan = case_plan(name)
    verification = found[plan.layout.num_devices][0].verified[name]
    assert isinstance(verification, Verification)
    assert verification.holds, verification
    replicated = plan.layout.num_devices > plan.layout.pipeline_parallel
    assert (verification.steps[0].replicas is not None) == replicated


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_of_the_library_is_found(name: str, found: dict[int, list[Found]]) -> None:
    verification = found[2][0].verified[name]
    assert not verification.holds
    first = verification.steps[0]
    assert first.loss_difference == pytest.approx(0.0, abs=1e-5)
    assert first.gradient.value is not None
    assert first.gradient.value > 0.5


@pytest.mark.parametrize("name", DEFERRED)
def test_stages_work_in_the_order_of_the_planner_and_put_off_all_products(
    name: str, found: dict[int, list[Found]]
) -> None:
    layout = case_plan(name).layout
    recomputes = any(layout.recompute_layers_per_stage)
    orders = node_order(layout.pipeline_parallel, layout.num_microbatches, recomputes=recomputes)
    layers = len(held_layers(layout, 0)) // CHUNKS
    for rank, of_rank in enumerate(found[layout.num_devices]):
        own = of_rank.work[name]
        stage = rank // layout.tensor_parallel % layout.pipeline_parallel
        assert own.order == [(node.kind, node.chunk) for node in orders[stage]]
        assert own.products == [layers * DEFERRED[name]] * CHUNKS * layout.num_microbatches
        assert own.left == 0


def test_batches_that_grow_and_are_evaluated_in_between_have_the_losses_of_plain_pytorch(
    found: dict[int, list[Found]], tmp_path: Path
) -> None:
    from tests.runtime.engines.test_evaluation import CLIPPED, plain

    (expected,) = run_ranks(1, lambda rank: plain(case_plan("gpt2"), CLIPPED), tmp_path)
    for of_rank in found[2]:
        assert of_rank.grown == [pytest.approx(one, rel=1e-5) for one in expected]


def test_recomputing_draws_the_same_dropout_and_keeps_the_same_documents_apart(found: dict[int, list[Found]]) -> None:
    losses = found[2][0].losses
    assert losses["dropout, recomputing"] == pytest.approx(losses["dropout"], rel=1e-6)
    assert losses["documents, recomputing"] == pytest.approx(losses["documents"], rel=1e-6)
    assert losses["documents"] != pytest.approx(losses["one document"], rel=1e-4)


def test_what_the_library_gets_wrong_before_it_trains_is_known(found: dict[int, list[Found]]) -> None:
    """If it stops to, the correction can go."""
    first, last = (of_rank.refused for of_rank in found[2])
    # The last norm and one end of the tied weights would be on a stage without the head.
    assert (first["norm"], last["norm"]) == ("False", "True")
    assert first["shared"] == last["shared"] == "[[0, 1]]"
    assert "GPT2FusedLinearConv" in first["conv"]
    assert int(first["handles"]) > 0
    assert "has no attribute 'type'" in first["forward"]


@pytest.mark.parametrize("precision", VISITED)
def test_every_layout_goes_on_from_every_other(precision: str, found: dict[int, list[Found]]) -> None:
    """The losses of a layout are those of a run without a break; its states those of another, bit by bit."""
    for of_rank in found[4]:
        assert of_rank.faults[precision] == {name: [] for name in VISITED[precision]}
