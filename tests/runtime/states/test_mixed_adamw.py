"""The update in one pass against PyTorch's own."""

from pathlib import Path
from typing import Any

import pytest
import torch
from colossalai.amp.naive_amp.mixed_precision_mixin import BF16MixedPrecisionMixin

from runtime.states.mixed_adamw import MixedAdamW, overflows, update_in_one_pass

pytestmark = pytest.mark.runtime

SIZES = (300, 7, 64)
SETTINGS: dict[str, Any] = {"lr": 1e-2, "betas": (0.8, 0.95), "weight_decay": 0.1}


class _Wrapper:
    """What update_in_one_pass wants of Colossal-AI's optimizer."""

    def __init__(self, optimizer: MixedAdamW, working: dict[torch.Tensor, torch.nn.Parameter]) -> None:
        self.optim, self.master_to_working_map = optimizer, working
        self.step: Any = None
        self.mixed_precision = BF16MixedPrecisionMixin()


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
    pairs = zip(wrapper.master_to_working_map.items(), own, strict=True)
    return all(torch.equal(a, b) and torch.equal(w, b.bfloat16()) for (a, w), b in pairs)


def test_it_updates_as_pytorch_does_and_rounds_what_computes() -> None:
    wrapper, plain = _both()
    for seed in range(4):
        _step(wrapper, plain, seed)
        assert _agree(wrapper, plain)


def test_gradients_are_multiplied_in_one_step_alone() -> None:
    wrapper, plain = _both()
    own = [one for group in plain.param_groups for one in group["params"]]
    for seed, scale in enumerate((0.3, 1.0)):
        torch.manual_seed(seed)
        for weight, parameter in zip(wrapper.optim.working, own, strict=True):
            weight.grad = torch.randn(parameter.shape, dtype=torch.bfloat16)
            parameter.grad = weight.grad.float() * scale
        if scale != 1.0:
            wrapper.optim.gradient_scale = scale
        wrapper.optim.step()
        plain.step()
        assert all(torch.equal(*pair) for pair in zip(wrapper.optim.working, own, strict=True))


@pytest.mark.parametrize(("wrong", "expected"), [(65504.0, False), (float("inf"), True), (float("nan"), True)])
def test_overflows_are_seen_in_any_gradient(wrong: float, expected: bool) -> None:
    gradients = [torch.full((9,), 65504.0, dtype=torch.float16) for _ in range(3)]
    gradients[1][4] = wrong
    assert overflows([None, *gradients]) == expected


def test_states_that_a_checkpoint_puts_back_are_gone_on_from(tmp_path: Path) -> None:
    (resumed, plain), (first, _) = _both(), _both()
    weights, firsts = list(resumed.optim.working), list(first.optim.working)
    _step(first, plain, 0)
    for weight, other in zip(weights, firsts, strict=True):
        state = first.optim.state[other]
        weight.copy_(other)
        resumed.optim.state[weight] = {name: value.clone() for name, value in state.items()}
    _step(resumed, plain, 1)
    assert _agree(resumed, plain)
    assert {float(resumed.optim.state[weight]["step"]) for weight in weights} == {2.0}
