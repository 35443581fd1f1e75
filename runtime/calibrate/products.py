"""Rate of matrix products by size and precision, in the shapes of a transformer, forward and backward."""

import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from planner.handover.measurements import Product
from planner.specs import Precision
from runtime.calibrate.timing import QueuedTimer

TORCH_TYPES: dict[Precision, torch.dtype] = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
COLD_BYTES = 256 * 1024**2
"""Operands are taken in turn from copies of about this size, so that no cache holds them all."""
MOST_COPIES = 16


class Shape(NamedTuple):
    """A product ``[m, k] x [k, n]``: ``m`` tokens times a weight."""

    m: int
    k: int
    n: int

    @property
    def flops(self) -> float:
        """Floating-point operations; a multiply-add counts 2."""
        return 2.0 * self.m * self.k * self.n


def transformer_shapes(hidden_sizes: Sequence[int], tokens: Sequence[int], splits: Sequence[int]) -> list[Shape]:
    """The four products of GPT layers with weights, whole and split over tensor-parallel ranks, by rising FLOP."""
    shapes = set()
    for h in hidden_sizes:
        for m in tokens:
            for t in splits:
                shapes |= {Shape(m, h, 3 * h // t), Shape(m, h // t, h), Shape(m, h, 4 * h // t)}
                shapes.add(Shape(m, 4 * h // t, h))
    return sorted(shapes, key=lambda shape: (shape.flops, shape))


def shapes_for(device: torch.device) -> list[Shape]:
    """A spread of shapes from small to large for the device."""
    if device.type == "cuda":
        shapes = transformer_shapes((256, 768, 1600, 2048, 4096, 8192, 12288), (512, 2048, 8192), (1, 4, 8))
        return _spread(shapes, per_decade=8)
    return _spread(transformer_shapes((32, 64, 128, 256, 768, 1024), (16, 128, 512), (1, 2, 4)), per_decade=5)


def _spread(shapes: Sequence[Shape], per_decade: int) -> list[Shape]:
    """At most ``per_decade`` shapes in each factor of ten of FLOP, evenly chosen, and the largest."""
    decades: dict[int, list[Shape]] = {}
    for shape in shapes:
        decades.setdefault(len(str(int(shape.flops))), []).append(shape)
    chosen: list[Shape] = []
    for members in decades.values():
        step = max(1.0, len(members) / per_decade)
        chosen += [members[int(index * step)] for index in range(min(per_decade, len(members)))]
    return list(dict.fromkeys([*chosen, shapes[-1]]))


def measure_products(
    device: torch.device, precision: Precision, shapes: Sequence[Shape], budget_s: float
) -> list[Product]:
    """Each shape in turn until the budget or the device's memory is spent. Units: s.

    A precision that the device lacks gives nothing.
    """
    found: list[Product] = []
    try:
        found.extend(_measured(device, precision, shapes, budget_s))
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "not implemented" not in str(error):
            raise
    return found


def _measured(
    device: torch.device, precision: Precision, shapes: Sequence[Shape], budget_s: float
) -> Iterator[Product]:
    timer, deadline = QueuedTimer(device), time.perf_counter() + budget_s
    rate = 0.0
    for index, shape in enumerate(shapes):
        left = deadline - time.perf_counter()
        share = left / (len(shapes) - index)
        if left <= 0 or (rate and 3 * shape.flops / rate > left):
            return
        seconds = _one(timer, device, TORCH_TYPES[precision], shape, share)
        rate = shape.flops / seconds
        yield Product(precision=precision, m=shape.m, k=shape.k, n=shape.n, seconds=seconds)


def _one(timer: QueuedTimer, device: torch.device, kind: torch.dtype, shape: Shape, budget_s: float) -> float:
    """The mean of forward, of the gradient of the input and of that of the weight, which have the same FLOP."""
    m, k, n = shape
    size = (m * k + k * n + m * n) * kind.itemsize
    copies = max(1, min(MOST_COPIES, COLD_BYTES // size if device.type == "cuda" else 2))
    inputs, weights, gradients = (
        [_random(rows, columns, device, kind) for _ in range(copies)] for rows, columns in ((m, k), (k, n), (m, n))
    )
    output, input_gradient, weight_gradient = (
        torch.empty(rows, columns, device=device, dtype=kind) for rows, columns in ((m, n), (m, k), (k, n))
    )

    def forward(index: int) -> object:
        return torch.mm(inputs[index % copies], weights[index % copies], out=output)

    def by_input(index: int) -> object:
        return torch.mm(gradients[index % copies], weights[index % copies].t(), out=input_gradient)

    def by_weight(index: int) -> object:
        return torch.mm(inputs[index % copies].t(), gradients[index % copies], out=weight_gradient)

    works = (forward, by_input, by_weight)
    return timer.in_step_seconds(works, budget_s) / len(works)


def _random(rows: int, columns: int, device: torch.device, kind: torch.dtype) -> torch.Tensor:
    # Values matter: products of zeros take less power and run at a higher clock.
    return torch.randn(rows, columns, device=device).to(kind)
