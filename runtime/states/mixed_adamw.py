"""AdamW of float32 weights that compute in bf16 or fp16: the update reads their gradients as they are.

One pass over memory does what takes four otherwise: a cast of the gradient to float32, its scaling by one, the update,
and a cast of the new weight. The four bytes a parameter of the cast gradients are never there.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import AdamW

HOLDS_OTHER_GRADIENTS = hasattr(Tensor, "grad_dtype")
"""Whether a tensor of this PyTorch may have a gradient in another precision."""
SPAN, BLOCK = 2**15, 2**11
"""Elements that a program of the kernel updates, and of those at once."""

Numbers = tuple[float, float, float, float, float, float, float]
"""Both betas, what decay leaves of a weight, the rate over the first bias correction, the root of the second one,
epsilon, and by what gradients are multiplied."""


class Updated(NamedTuple):
    """What the update of a weight reads and writes beside its gradient, all of one shape."""

    weight: Tensor
    working: Tensor
    mean: Tensor
    square: Tensor


class MixedAdamW(AdamW):
    """torch.optim.AdamW of weights whose gradients have two bytes, and which are rounded to what computes with them.

    Its states are those of torch.optim.AdamW; all weights share one count of steps.
    """

    working: dict[Tensor, Tensor]
    """What computes, by what is updated; told after boosting."""
    gradient_scale: float = 1.0
    """By what the next step multiplies gradients: clipping, and the scale of the loss, take no pass of their own."""
    _found: "tuple[Any, list[list[Updated]], Tensor] | None" = None
    """The state of the first weight; all that is updated, by group; the count of steps: while that state is the same
    object, no checkpoint was read."""
    _tables: "_Tables | None" = None

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter, which has to have a gradient; there is no ``closure``."""
        first = self.param_groups[0]["params"][0]
        if self._found is None or self._found[0] is not self.state[first]:
            self._found, self._tables = self._find(), None
        _, groups, count = self._found
        count += 1
        numbers = [_numbers(group, float(count), self.gradient_scale) for group in self.param_groups]
        self.gradient_scale = 1.0
        if not first.is_cuda:
            for group, own in zip(groups, numbers, strict=True):
                for updated in group:
                    update_by_operations(updated, _gradient(updated.weight), own)
            return
        if self._tables is None:
            self._tables = _Tables.of(groups)
        self._tables.launch([_gradient(updated.weight) for group in groups for updated in group], numbers)

    def _find(self) -> "tuple[Any, list[list[Updated]], Tensor]":
        weights = [weight for group in self.param_groups for weight in group["params"]]
        steps = {float(self.state[weight]["step"]) for weight in weights if self.state[weight]} or {0.0}
        assert len(steps) == 1, "weights are updated together"
        count = torch.tensor(steps.pop())
        for weight in weights:
            state = self.state[weight]
            for name in ("exp_avg", "exp_avg_sq"):
                if name not in state:
                    state[name] = torch.zeros_like(weight)
            state["step"] = count
        groups = [[self._updated(weight) for weight in group["params"]] for group in self.param_groups]
        return self.state[weights[0]], groups, count

    def _updated(self, weight: Tensor) -> Updated:
        state = self.state[weight]
        return Updated(weight, self.working[weight], state["exp_avg"], state["exp_avg_sq"])


def _numbers(group: dict[str, Any], step: float, scale: float) -> Numbers:
    # After Loshchilov and Hutter 2019, algorithm 2, as torch.optim.AdamW orders it.
    lr, (beta1, beta2) = float(group["lr"]), group["betas"]
    rate, root = lr / (1.0 - beta1**step), (1.0 - beta2**step) ** 0.5
    return beta1, beta2, 1.0 - lr * group["weight_decay"], rate, root, group["eps"], scale


class _Tables(NamedTuple):
    """Where the kernel finds what each of its programs updates."""

    places: Tensor
    """``[weights, 4]``: the addresses of what is updated."""
    counts: Tensor
    """``[weights]``: their elements."""
    groups: Tensor
    """``[weights]``: their groups."""
    owners: Tensor
    """``[programs]``: the weight of each."""
    starts: Tensor
    """``[programs]``: its first element."""

    @classmethod
    def of(cls, groups: list[list[Updated]]) -> "_Tables":
        """Of weights with states, which stay where they are; every tensor has to be contiguous."""
        own = [(number, one) for number, group in enumerate(groups) for one in group]
        assert all(tensor.is_contiguous() for _, one in own for tensor in one), "strides are those of the shape"
        sizes = [one.weight.numel() for _, one in own]
        programs = [(owner, start) for owner, size in enumerate(sizes) for start in range(0, size, SPAN)]
        owners, starts = zip(*programs, strict=True)
        places = [[tensor.data_ptr() for tensor in one] for _, one in own]
        columns = (places, sizes, [number for number, _ in own], owners, starts)
        return cls(*(torch.tensor(column, device=own[0][1].weight.device) for column in columns))

    def launch(self, gradients: list[Tensor], numbers: list[Numbers]) -> None:
        """Update all weights in one kernel."""
        import triton.language as tl  # where there is no GPU, there is no Triton

        from runtime.states.adamw_kernel import update

        device = self.places.device
        whole = [gradient.contiguous() for gradient in gradients]
        slopes = torch.tensor([gradient.data_ptr() for gradient in whole]).to(device, non_blocking=True)
        values = torch.tensor(numbers, dtype=torch.float32).to(device, non_blocking=True)
        kind = {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}[gradients[0].dtype]
        update[(len(self.owners),)](*self, slopes, values, TYPE=kind, SPAN=SPAN, BLOCK=BLOCK)


def update_in_one_pass(optimizer: Any) -> None:
    """Have the wrapper of Colossal-AI's mixed precision hand gradients to a :class:`MixedAdamW` as they are.

    To be called after boosting, without ZeRO. With ZeRO that is :class:`runtime.engines.sharding.Sharding`.
    """
    optimizer.optim.working = dict(optimizer.master_to_working_map)
    hold_other_gradients(optimizer.optim.working)
    scaling = optimizer.mixed_precision
    scaling.check_local_overflow = lambda: overflows(one.grad for one in optimizer.optim.working.values())
    optimizer.step = partial(_step, optimizer)


def hold_other_gradients(weights: Iterable[Any]) -> None:
    """Let weights have gradients in another precision than their own."""
    for weight in weights:
        weight.grad_dtype = None


def overflows(gradients: Iterable[Tensor | None]) -> bool:
    """Whether a gradient in fp16 is no number, told by one pass over all of them."""
    norms = torch._foreach_norm([one for one in gradients if one is not None], 2, dtype=torch.float32)
    return not bool(torch.stack(norms).isfinite().all())


def _step(optimizer: Any) -> None:
    plain, scaling = optimizer.optim, optimizer.mixed_precision
    if scaling.should_skip_step():
        optimizer.zero_grad()
        return
    plain.gradient_scale = 1.0 / scaling.get_grad_div_scale()
    for weight, working in plain.working.items():
        weight.grad, working.grad = working.grad, None
    plain.step()


def _gradient(weight: Tensor) -> Tensor:
    assert weight.grad is not None, "weights are updated together"
    return weight.grad


def update_by_operations(updated: Updated, gradient: Tensor, numbers: Numbers) -> None:
    """The same update by operations of PyTorch, one after the other."""
    weight, working, mean, square = updated
    beta1, beta2, kept, rate, root, epsilon, scale = numbers
    gradient = gradient.float() * scale
    mean.lerp_(gradient, 1.0 - beta1)
    square.mul_(beta2).addcmul_(gradient, gradient, value=1.0 - beta2)
    weight.mul_(kept).addcdiv_(mean, square.sqrt().div_(root).add_(epsilon), value=-rate)
    working.copy_(weight)
