"""The kernel of :mod:`runtime.states.mixed_adamw`, which needs Triton."""

# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201, N803, PLR0124, PLR0913

import triton
import triton.language as tl


@triton.jit
def update(
    places, counts, groups, owners, starts, slopes, numbers, TYPE: tl.constexpr, SPAN: tl.constexpr, BLOCK: tl.constexpr
):
    """Each program updates ``SPAN`` elements of one weight, the upper half of which computes."""
    owner = tl.load(owners + tl.program_id(0))
    start, count = tl.load(starts + tl.program_id(0)), tl.load(counts + owner)
    place, number = places + 4 * owner, numbers + 7 * tl.load(groups + owner)
    rest = tl.load(place).to(tl.pointer_type(tl.int16))
    working = tl.load(place + 1).to(tl.pointer_type(tl.int16))
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
        low = tl.load(rest + at, mask=inside, other=0).to(tl.int32)
        high = tl.load(working + at, mask=inside, other=0).to(tl.int32) - (low < 0).to(tl.int32)
        w = ((high << 16) | (low & 0xFFFF)).to(tl.float32, bitcast=True)
        m = m + (slope - m) * (1.0 - beta1)
        v = v * beta2 + slope * slope * (1.0 - beta2)
        w = w * kept - rate * m / (tl.sqrt(v) / root + epsilon)
        tl.store(mean + at, m, mask=inside)
        tl.store(square + at, v, mask=inside)
        bits = tl.where(w != w, 0x7FC00000, w.to(tl.int32, bitcast=True))
        tl.store(rest + at, bits.to(tl.int16), mask=inside)
        tl.store(working + at, ((bits + 0x8000) >> 16).to(tl.int16), mask=inside)
