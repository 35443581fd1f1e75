"""What Colossal-AI's legacy layers get wrong and gptplan goes around: each defect is there, its remedy works."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional

from planner.plans.plan import Plan
from tests.runtime.grid.test_grid import CUBE, PAIR, SQUARE, make_engine
from tests.runtime.training import MakePlan, Ranks, own_batches

pytestmark = pytest.mark.runtime

HIDDEN = 8
"""Hidden size of the single layers below."""


def mesh_of(plan: Plan) -> Any:
    from runtime.grid.mesh import Mesh

    return Mesh(plan.layout)


def failure(function: Callable[[], Any]) -> str:
    """Name of the exception that a function ends in, empty if it does not."""
    try:
        function()
    except Exception as error:
        return type(error).__name__
    return ""


def test_launch_cannot_name_a_host(ranks: Ranks) -> None:
    def launch(rank: int) -> str:
        from colossalai.legacy.core import global_context

        return failure(lambda: global_context.init_global_dist(0, 1, "gloo", "127.0.0.1", 29500))

    assert ranks(1, launch) == ["ValueError"]


def test_a_second_model_in_a_process_needs_a_context_that_forgot_the_first(plan: MakePlan, ranks: Ranks) -> None:
    def second_model(rank: int) -> tuple[str, str]:
        from runtime.grid import mesh

        flat, deep = plan(tensor_mode="2.5d", tensor_parallel=4), plan(**PAIR, data_parallel=2)
        forgetting = failure(lambda: (mesh_of(flat), mesh_of(deep)))
        mesh._forget = lambda: None
        return forgetting, failure(lambda: mesh_of(flat))

    assert ranks(4, second_model) == [("", "AssertionError")] * 4


def test_a_2_5d_square_of_one_rank_has_no_backward(plan: MakePlan, ranks: Ranks) -> None:
    """The row of two GPUs with depth 2, on the library's product and on ours."""

    def backward(rank: int) -> tuple[str, str]:
        from colossalai.legacy.nn.layer.parallel_2p5d._operation import Matmul_AB_2p5D

        from runtime.grid.operations import SummaOperations, operations

        mesh = mesh_of(plan(**PAIR))
        states, weight = torch.ones(2, 3, HIDDEN, requires_grad=True), torch.ones(HIDDEN, 4, requires_grad=True)
        theirs = Matmul_AB_2p5D.apply(states, weight, 1, (2, 3, 4), *SummaOperations(mesh)._place)
        ours = operations(mesh).linear(states, weight, inner=False)
        return failure(theirs.sum().backward), failure(ours.sum().backward)

    assert ranks(2, backward) == [("AttributeError", "")] * 2


def test_2_5d_trains_as_many_models_as_its_depth_unless_gradients_are_summed(plan: MakePlan, ranks: Ranks) -> None:
    def spread(rank: int) -> tuple[float, float]:
        found = []
        for summed in (True, False):
            chosen = plan(model={"num_layers": 1}, **PAIR)
            engine = make_engine(chosen)
            if not summed:
                engine._copied = []
            engine.step(next(own_batches(engine, chosen)))
            weight = engine.model.transformer.h["0"].mlp.c_fc.weight.detach()
            other = weight.clone()
            torch.distributed.all_reduce(other)
            found.append(float((other / 2 - weight).abs().max()))
        return found[0], found[1]

    for summed, apart in ranks(2, spread):
        assert summed < 1e-7
        assert apart > 1e-5


def test_2_5d_biases_have_a_gradient_in_one_row_only(plan: MakePlan, ranks: Ranks) -> None:
    """So gptplan's grid adds its own biases, and sums their gradients once a step."""

    def gradient(rank: int) -> float:
        from colossalai.legacy.nn.layer.parallel_2p5d._operation import ParallelMode, add_bias_2p5d

        at = mesh_of(plan(tensor_mode="2.5d", tensor_parallel=4)).coordinates
        bias = torch.zeros(4, requires_grad=True)
        column = ParallelMode.PARALLEL_2P5D_COL
        output = add_bias_2p5d(torch.zeros(3, 4), bias, 4, 2, at["row"], at["col"], 0, column, False, 0, 0, 1, 4)
        output.sum().backward()
        assert bias.grad is not None
        return float(bias.grad.sum())

    assert ranks(4, gradient) == [24.0, 24.0, 0.0, 0.0]


def test_2d_norm_overflows_in_fp16(plan: MakePlan, ranks: Ranks) -> None:
    def error(rank: int) -> tuple[float, float]:
        from colossalai.legacy.nn.layer.parallel_2d import LayerNorm2D

        from runtime.grid.functions import ShardedLayerNorm

        mesh = mesh_of(plan(**SQUARE))
        whole = 300.0 * torch.arange(1.0, HIDDEN + 1).repeat(1, 1, 1)
        own = whole.chunk(2, dim=2)[mesh.coordinates["col"]].half()
        wanted = functional.layer_norm(whole, (HIDDEN,)).chunk(2, dim=2)[mesh.coordinates["col"]]
        theirs = LayerNorm2D(HIDDEN, dtype=torch.float16)(own)
        ones, zeros = torch.ones(4).half(), torch.zeros(4).half()
        ours = ShardedLayerNorm.apply(own, ones, zeros, 1e-5, mesh.group("col"))
        return float((theirs - wanted).abs().max()), float((ours - wanted).abs().max())

    for theirs, ours in ranks(4, error):
        assert not theirs < 0.5
        assert ours < 2e-3


def test_3d_head_of_a_small_vocabulary_loses_gradients_off_the_diagonal(plan: MakePlan, ranks: Ranks) -> None:
    def backward(rank: int) -> tuple[str, bool]:
        from colossalai.legacy.nn.layer.parallel_3d._operation import classifier_3d

        from runtime.grid.operations import CubeOperations

        mesh, ours = mesh_of(plan(**CUBE)), CubeOperations()
        modes = (ours._INPUT, ours._WEIGHT, ours._OUTPUT)
        states = torch.ones(1, 3, HIDDEN // 2)
        small = torch.nn.Parameter(torch.ones(4, HIDDEN // 2))
        ours.prepare(small)
        theirs = failure(classifier_3d(states, small, None, *modes).sum().backward)
        weight = torch.nn.Parameter(torch.ones(1, HIDDEN // 2))
        ours.prepare(weight)
        ours.head(states, weight).sum().backward()
        on_diagonal = mesh.coordinates["input"] == mesh.coordinates["output"]
        assert weight.grad is not None
        assert float(weight.grad.min()) > 0
        return theirs, on_diagonal

    for theirs, on_diagonal in ranks(8, backward):
        assert (theirs == "") == on_diagonal
