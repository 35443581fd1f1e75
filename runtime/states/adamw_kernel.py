"""The kernel of :mod:`runtime.states.mixed_adamw`, which needs Triton."""

# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201, N803, PLR0913

import triton
import triton.language as tl


@triton.jit
def update(
    places, counts, groups, owners, starts, slopes, numbers, TYPE: tl.constexpr, SPAN: tl.constexpr, BLOCK: tl.constexpr
):
    """Each program updates ``SPAN`` elements of one weight."""
    owner = tl.load(owners + tl.program_id(0))
    start, count = tl.load(starts + tl.program_id(0)), tl.load(counts + owner)
    place, number = places + 4 * owner, numbers + 7 * tl.load(groups + owner)
    weight = tl.load(place).to(tl.pointer_type(tl.float32))
    working = tl.load(place + 1).to(tl.pointer_type(TYPE))
    mean = tl.load(place + 2).to(tl.pointer_type(tl.float32))
    square = tl.load(place + 3).to(tl.pointer_type(tl.float32))
    gradient = tl.load(slopes + owner).to(tl.pointer_type(TYPE))
    beta1, beta2, kept = tl.load(number), tl.load(number + 1), tl.load(number + 2)
    rate, root, epsilon = tl.load(number + 3), tl.load(number + 4), tl.load(number + 5)
    scale = tl.load(number + 6)
    for offset in range(0, SPAN, BLOCK):
        at = start + offset + tl.arange(0, BLOCK)
        inside = at < count
        slope = tl.load(gradient + at, mask=inside).to(tl.float32) * scale
        m = tl.load(mean + at, mask=inside)
        v = tl.load(square + at, mask=inside)
        w = tl.load(weight + at, mask=inside)
        m = m + (slope - m) * (1.0 - beta1)
        v = v * beta2 + slope * slope * (1.0 - beta2)
        w = w * kept - rate * m / (tl.sqrt(v) / root + epsilon)
        tl.store(mean + at, m, mask=inside)
        tl.store(square + at, v, mask=inside)
        tl.store(weight + at, w, mask=inside)
        tl.store(working + at, w.to(TYPE), mask=inside)
