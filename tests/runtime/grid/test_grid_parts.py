"""The parts that a grid trains with: shards of weights, layer norm and cross-entropy over ranks."""

from itertools import product
from math import prod
from typing import Any

import pytest
import torch
from torch.nn import functional

from tests.runtime.grid.test_grid import CUBE, DEEP_SQUARE, SQUARE, make_engine
from tests.runtime.training import SEED, MakePlan, Ranks

pytestmark = pytest.mark.runtime


@pytest.mark.parametrize("fields", [SQUARE, DEEP_SQUARE, CUBE], ids=lambda fields: fields["tensor_mode"])
def test_parts_cover_every_parameter_once_for_each_copy(fields: dict[str, Any], plan: MakePlan, ranks: Ranks) -> None:
    def uneven(rank: int) -> list[str]:
        from runtime.grid.mesh import grid_of
        from runtime.grid.weights import sharding_of
        from runtime.states.model import build_model

        grid, found = grid_of(plan(**fields).layout), []
        places = [dict(zip(grid.axes, place, strict=True)) for place in product(*map(range, grid.axes.values()))]
        for name, parameter in build_model(plan(model={"vocab_size": 256}).problem.model, SEED).named_parameters():
            sharding, covered = sharding_of(name, grid), torch.zeros(parameter.shape)
            for place in places:
                covered[sharding.part(parameter.shape, grid, place)] += 1
            if not (covered == prod(grid.axes[axis] for axis in sharding.replicas(grid))).all():
                found.append(name)
        return found

    assert ranks(1, uneven) == [[]]


def test_ranks_hold_whole_heads_and_the_model_can_be_put_together(plan: MakePlan, ranks: Ranks) -> None:
    def held(rank: int) -> tuple[bool, bool]:
        from runtime.states.model import build_model

        engine = make_engine(plan(**SQUARE))
        whole = dict(build_model(plan().problem.model, SEED).named_parameters())
        found = engine.full_parameters()
        rows, heads, size = 32 // 2, 4 // 2, 32 // 4
        part = engine.model.transformer.h["0"].attn.c_attn.weight.view(rows, heads, 3, size)
        weight = whole["transformer.h.0.attn.c_attn.weight"].view(2, rows, 3, 2, heads, size)
        at = engine.mesh.coordinates
        own_heads = weight[at["row"], :, :, at["col"]].transpose(1, 2)
        return torch.equal(part, own_heads), all(torch.equal(found[name], value) for name, value in whole.items())

    assert ranks(4, held) == [(True, True)] * 4


def test_cross_entropy_over_ranks_leaves_padding_out(plan: MakePlan, ranks: Ranks) -> None:
    """Seven tokens in four columns a rank: a whole part, one with a padded column, one of padding only."""

    def errors(rank: int) -> tuple[float, float]:
        from torch.distributed import group

        from runtime.grid.functions import ShardedCrossEntropy

        generator = torch.Generator().manual_seed(SEED)
        logits = 5.0 * torch.randn((6, 7), generator=generator)
        labels = torch.tensor([0, 3, 4, 6, 6, 1])
        logits.requires_grad_()
        wanted = functional.cross_entropy(logits, labels, reduction="none")
        wanted.square().sum().backward()
        padded = torch.cat((logits.detach(), torch.full((6, 5), 50.0)), dim=1)
        own = padded[:, rank * 4 : rank * 4 + 4].clone().requires_grad_()
        losses = ShardedCrossEntropy.apply(own, labels, rank * 4, 7, group.WORLD)
        losses.square().sum().backward()
        assert logits.grad is not None
        assert own.grad is not None
        gradient = functional.pad(logits.grad, (0, 5))[:, rank * 4 : rank * 4 + 4]
        return float((losses - wanted).abs().max()), float((own.grad - gradient).abs().max())

    for loss_error, gradient_error in ranks(3, errors):
        assert loss_error < 1e-5
        assert gradient_error < 1e-5


def test_layer_norm_over_ranks_equals_the_whole(plan: MakePlan, ranks: Ranks) -> None:
    def errors(rank: int) -> list[float]:
        from torch.distributed import group

        from runtime.grid.functions import ShardedLayerNorm

        generator = torch.Generator().manual_seed(SEED)
        # A mean far from zero, where a difference of sums of squares loses its digits.
        states = (100.0 + torch.randn((2, 3, 8), generator=generator)).requires_grad_()
        weight, bias = (torch.randn(8, generator=generator).requires_grad_() for _ in range(2))
        wanted = functional.layer_norm(states, (8,), weight, bias, 1e-5)
        wanted.square().sum().backward()
        part = slice(rank * 4, rank * 4 + 4)
        own = [one.detach()[..., part].clone().requires_grad_() for one in (states, weight, bias)]
        normal = ShardedLayerNorm.apply(*own, 1e-5, group.WORLD)
        normal.square().sum().backward()
        pairs: list[Any] = [(normal, wanted)]
        pairs += [(one.grad, whole.grad) for one, whole in zip(own, (states, weight, bias), strict=True)]
        return [float((found - whole[..., part]).abs().max()) for found, whole in pairs]

    for found in ranks(2, errors):
        assert max(found) < 1e-3
        assert found[0] < 1e-4
