"""AdamW of float32 weights that compute in bf16: the update reads their gradients as they are.

One pass over memory does what takes four otherwise: a cast of the gradient to float32, its scaling by one, the update,
and a cast of the new weight. The four bytes a parameter of the cast gradients are never there.

Nor is a float32 weight: its upper half is what computes, and its lower half, the rest, is kept beside. What computes is
rounded to nearest, halves away from zero, so that the rest tells whether it was rounded up; as PyTorch rounds but for
exact halves.
"""

import itertools
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import AdamW

PAIR_BYTES = 4
SPAN, BLOCK = 2**15, 2**9
"""Elements that a program of the kernel updates, and of those at once."""

Numbers = tuple[float, float, float, float, float, float, float]
"""Both betas, what decay leaves of a weight, the rate over the first bias correction, the root of the second one,
epsilon, and by what gradients are multiplied."""


class Updated(NamedTuple):
    """What the update of a weight reads and writes beside its gradient, all of one shape."""

    rest: Tensor
    working: Tensor
    mean: Tensor
    square: Tensor


NOT_A_NUMBER = 0x7FC00000
"""What every such weight becomes: another one could carry into the sign when it is rounded."""


def divided(weight: Tensor) -> tuple[Tensor, Tensor]:
    """What computes, in bf16, and the rest of a float32 weight: the 16 bits that it lacks.

    The rest has the type of what computes too, so that it may have the gradient of the whole; as a number it means
    nothing.
    """
    bits = weight.contiguous().view(torch.int32)
    bits = torch.where(weight.isnan(), NOT_A_NUMBER, bits)
    upper, lower = ((bits + 0x8000) >> 16).to(torch.int16), bits.to(torch.int16)
    return upper.view(torch.bfloat16), lower.view(torch.bfloat16)


def joined(working: Tensor, rest: Tensor) -> Tensor:
    """The float32 weight of what computes and the rest."""
    lower = rest.view(torch.int16).to(torch.int32)
    upper = working.view(torch.int16).to(torch.int32) - (lower < 0).to(torch.int32)
    return ((upper << 16) | (lower & 0xFFFF)).view(torch.float32)


class MixedAdamW(AdamW):
    """torch.optim.AdamW of weights whose gradients have two bytes, and whose upper half computes.

    It updates the rests of weights, each with the gradient of the whole; its states are those of torch.optim.AdamW. All
    weights share one count of steps.
    """

    working: dict[Tensor, Tensor]
    """What computes, by the rest; told by :func:`hold_halves`."""
    gradient_scale: float = 1.0
    """By what the next step multiplies gradients: clipping takes no pass of its own."""
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
                    update_by_operations(updated, _gradient(updated.rest), own)
            return
        if self._tables is None:
            self._tables = _Tables.of(groups)
        self._tables.launch([_gradient(updated.rest) for group in groups for updated in group], numbers)

    def weight(self, rest: Tensor) -> Tensor:
        """The float32 weight of a rest."""
        return joined(self.working[rest].detach(), rest)

    def _find(self) -> "tuple[Any, list[list[Updated]], Tensor]":
        rests = [rest for group in self.param_groups for rest in group["params"]]
        steps = {float(self.state[rest]["step"]) for rest in rests if self.state[rest]} or {0.0}
        assert len(steps) == 1, "weights are updated together"
        count = torch.tensor(steps.pop())
        for rest in rests:
            state = self.state[rest]
            for name in ("exp_avg", "exp_avg_sq"):
                if name not in state:
                    state[name] = torch.zeros_like(rest, dtype=torch.float32)
            state["step"] = count
        groups = [[self._updated(rest) for rest in group["params"]] for group in self.param_groups]
        return self.state[rests[0]], groups, count

    def _updated(self, rest: Tensor) -> Updated:
        state = self.state[rest]
        return Updated(rest, self.working[rest], state["exp_avg"], state["exp_avg_sq"])


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
    in_pairs: bool
    """Whether two elements of 16 bits begin where one of 32 may."""

    @classmethod
    def of(cls, groups: list[list[Updated]]) -> "_Tables":
        """Of weights with states, which stay where they are; every tensor has to be contiguous."""
        own = [(number, one) for number, group in enumerate(groups) for one in group]
        assert all(tensor.is_contiguous() for _, one in own for tensor in one), "strides are those of the shape"
        sizes = [one.rest.numel() for _, one in own]
        programs = [(owner, start) for owner, size in enumerate(sizes) for start in range(0, size, SPAN)]
        owners, starts = zip(*programs, strict=True)
        places = [[tensor.data_ptr() for tensor in one] for _, one in own]
        columns = (places, sizes, [number for number, _ in own], owners, starts)
        in_pairs = all(place % PAIR_BYTES == 0 for place in itertools.chain(*places))
        tables = [torch.tensor(column, device=own[0][1].rest.device) for column in columns]
        return cls._make([*tables, in_pairs])

    def launch(self, gradients: list[Tensor], numbers: list[Numbers]) -> None:
        """Update all weights in one kernel."""
        import triton.language as tl  # where there is no GPU, there is no Triton

        from runtime.states.adamw_kernel import update

        device = self.places.device
        whole = [gradient.contiguous() for gradient in gradients]
        slopes = torch.tensor([gradient.data_ptr() for gradient in whole]).to(device, non_blocking=True)
        values = torch.tensor(numbers, dtype=torch.float32).to(device, non_blocking=True)
        aligned = self.in_pairs and all(gradient.data_ptr() % PAIR_BYTES == 0 for gradient in whole)
        shape = {"SPAN": SPAN, "BLOCK": BLOCK, "ALIGN": PAIR_BYTES if aligned else PAIR_BYTES // 2}
        update[(len(self.owners),)](*self[:-1], slopes, values, TYPE=tl.bfloat16, **shape)


def update_in_one_pass(optimizer: Any) -> None:
    """Have the wrapper of Colossal-AI's mixed precision hand gradients to a :class:`MixedAdamW` as they are.

    To be called after boosting, in bf16 and without ZeRO: there is nothing to divide them by then. With ZeRO that is
    :class:`runtime.engines.sharding.Sharding`.
    """
    working = hold_halves(optimizer.optim, optimizer.master_to_working_map)
    optimizer.master_to_working_map = working
    optimizer.working_to_master_map = {half: rest for rest, half in working.items()}
    optimizer.step = partial(_step, optimizer)


@torch.no_grad()
def hold_halves(plain: MixedAdamW, working_of: Mapping[Tensor, Tensor]) -> dict[Tensor, Tensor]:
    """Have the rests of weights in the place of weights that were to be updated; what computes, by the rest.

    ``working_of`` is that by the weight.
    """
    plain.working = {}
    for group in plain.param_groups:
        for at, weight in enumerate(group["params"]):
            working, rest = divided(weight)
            working_of[weight].copy_(working)
            plain.working[rest] = working_of[weight]
            group["params"][at] = rest
    return dict(plain.working)


def _step(optimizer: Any) -> None:
    plain = optimizer.optim
    for rest, working in plain.working.items():
        rest.grad, working.grad = working.grad, None
    plain.step()


def _gradient(rest: Tensor) -> Tensor:
    assert rest.grad is not None, "weights are updated together"
    return rest.grad


def update_by_operations(updated: Updated, gradient: Tensor, numbers: Numbers) -> None:
    """The same update by operations of PyTorch, one after the other."""
    rest, working, mean, square = updated
    weight = joined(working, rest)
    beta1, beta2, kept, rate, root, epsilon, scale = numbers
    gradient = gradient.float() * scale
    mean.lerp_(gradient, 1.0 - beta1)
    square.mul_(beta2).addcmul_(gradient, gradient, value=1.0 - beta2)
    weight.mul_(kept).addcdiv_(mean, square.sqrt().div_(root).add_(epsilon), value=-rate)
    for target, half in zip((working, rest), divided(weight), strict=True):
        target.copy_(half)
