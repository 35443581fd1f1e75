"""The update in one pass against PyTorch's own."""

from pathlib import Path
from typing import Any

import pytest
import torch

from runtime.states.mixed_adamw import MixedAdamW, divided, joined, update_in_one_pass

pytestmark = pytest.mark.runtime

SIZES = (300, 7, 64)
SETTINGS: dict[str, Any] = {"lr": 1e-2, "betas": (0.8, 0.95), "weight_decay": 0.1}


class _Wrapper:
    """What update_in_one_pass wants of Colossal-AI's optimizer."""

    def __init__(self, optimizer: MixedAdamW, working: dict[torch.Tensor, torch.nn.Parameter]) -> None:
        self.optim, self.master_to_working_map = optimizer, working
        self.step: Any = None
        self.working_to_master_map = {half: weight for weight, half in working.items()}

    def weights(self) -> list[torch.Tensor]:
        """In float32."""
        return [self.optim.weight(rest) for rest in self.master_to_working_map]


def _both() -> tuple[_Wrapper, torch.optim.AdamW]:
    torch.manual_seed(3)
    weights = [torch.randn(size) for size in SIZES]
    plain = [torch.nn.Parameter(weight.clone()) for weight in weights]

    def groups(of: list[Any]) -> list[dict[str, Any]]:
        return [{"params": of[:2]}, {"params": of[2:], "weight_decay": 0.0}]

    working = {weight: torch.nn.Parameter(weight.bfloat16()) for weight in weights}
    wrapper = _Wrapper(MixedAdamW(groups(weights), **SETTINGS), working)
    update_in_one_pass(wrapper)
    return wrapper, torch.optim.AdamW(groups(plain), **SETTINGS)


def _step(wrapper: _Wrapper, plain: torch.optim.AdamW, seed: int) -> None:
    torch.manual_seed(seed)
    own = [one for group in plain.param_groups for one in group["params"]]
    for working, parameter in zip(wrapper.master_to_working_map.values(), own, strict=True):
        working.grad = torch.randn(parameter.shape, dtype=torch.bfloat16)
        parameter.grad = working.grad.float()
    wrapper.step()
    plain.step()


def _agree(wrapper: _Wrapper, plain: torch.optim.AdamW) -> bool:
    own = [one for group in plain.param_groups for one in group["params"]]
    halves = zip(wrapper.weights(), wrapper.master_to_working_map.values(), own, strict=True)
    return all(torch.equal(a, b) and torch.equal(w, b.bfloat16()) for a, w, b in halves)


def test_a_weight_is_the_half_that_computes_and_the_rest() -> None:
    upper = torch.randint(0, 2**16, (2**16,), dtype=torch.int32)
    bits = (upper << 16) | torch.arange(2**16, dtype=torch.int32)
    weights = torch.cat([bits.view(torch.float32), torch.tensor([0.0, -0.0, 1.0, torch.inf, -torch.inf, 3.4e38])])
    working, rest = divided(weights)
    assert (working.dtype, rest.dtype) == (torch.bfloat16, torch.bfloat16)
    number = ~weights.isnan()
    assert torch.equal(joined(working, rest)[number].view(torch.int32), weights[number].view(torch.int32))
    assert joined(working, rest)[~number].isnan().all()
    assert working[~number].isnan().all()
    assert number.any()
    assert not number.all()
    half = (bits & 0xFFFF) == 0x8000
    plain = weights[:-6].bfloat16()
    near = number[:-6] & ~half
    assert torch.equal(working[:-6][near], plain[near])
    assert torch.equal(working[-6:], weights[-6:].bfloat16())


def test_only_the_halves_are_held() -> None:
    wrapper, _ = _both()
    held = [one for group in wrapper.optim.param_groups for one in group["params"]]
    assert {one.dtype for one in held} == {torch.bfloat16}
    assert list(wrapper.working_to_master_map.values()) == held == list(wrapper.master_to_working_map)


def test_it_updates_as_pytorch_does_and_rounds_what_computes() -> None:
    wrapper, plain = _both()
    for seed in range(4):
        _step(wrapper, plain, seed)
        assert _agree(wrapper, plain)


def put(optimizer: MixedAdamW, rest: torch.Tensor, weight: torch.Tensor) -> None:
    for target, half in zip((optimizer.working[rest].detach(), rest), divided(weight), strict=True):
        target.copy_(half)


def test_gradients_are_multiplied_in_one_step_alone() -> None:
    wrapper, plain = _both()
    own = [one for group in plain.param_groups for one in group["params"]]
    for seed, scale in enumerate((0.3, 1.0)):
        torch.manual_seed(seed)
        for rest, parameter in zip(wrapper.optim.working, own, strict=True):
            rest.grad = torch.randn(parameter.shape, dtype=torch.bfloat16)
            parameter.grad = rest.grad.float() * scale
        if scale != 1.0:
            wrapper.optim.gradient_scale = scale
        wrapper.optim.step()
        plain.step()
        assert all(torch.equal(*pair) for pair in zip(wrapper.weights(), own, strict=True))


def test_states_that_a_checkpoint_puts_back_are_gone_on_from(tmp_path: Path) -> None:
    (resumed, plain), (first, _) = _both(), _both()
    weights, firsts = list(resumed.optim.working), list(first.optim.working)
    _step(first, plain, 0)
    for weight, other in zip(weights, firsts, strict=True):
        state = first.optim.state[other]
        put(resumed.optim, weight, first.optim.weight(other))
        resumed.optim.state[weight] = {name: value.clone() for name, value in state.items()}
    _step(resumed, plain, 1)
    assert _agree(resumed, plain)
    assert {float(resumed.optim.state[weight]["step"]) for weight in weights} == {2.0}
