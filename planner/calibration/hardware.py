"""A hardware spec from measurements, and from a base spec for what one machine cannot tell."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from planner.calibration.curves import LEAST_TIMINGS, Link, best_rate, efficiency_curve, fit_link
from planner.handover.measurements import Collective, Measurements
from planner.layouts.topology import PAIR
from planner.specs import HardwareSpec, HostSpec, LinkSpec, Precision
from planner.specs.units import GIB, MIB, Bytes, BytesPerSecond, FlopsPerSecond, Seconds, format_bytes, format_rate

ADAM_BYTES = 28
"""Host memory traffic of one fp32 AdamW update per parameter: four tensors read, three written."""


class Origin(NamedTuple):
    """What the new spec is called and where the rest of it comes from."""

    name: str
    base: HardwareSpec
    date: str
    """ISO 8601."""
    same_device: bool
    """Whether ``base`` is the spec of this very device: its datasheet peaks then stay."""
    devices_per_node: int


class Fields(NamedTuple):
    """Fields of a spec that were measured, with a source line for each key."""

    values: dict[str, object]
    sources: dict[str, str]


REPLACED = {"efficiency": ("efficiency.tiles",), "node_link": ("node_link.start",)}
"""Measured fields, and what of the base's they take the place of without a value of their own."""


def main_precision(measured: Measurements) -> Precision:
    """The precision that the curve is made of: bf16 or fp16 on an accelerator, fp32 on a CPU."""
    order: Sequence[Precision] = ("bf16", "fp16", "fp32") if measured.device == "cuda" else ("fp32",)
    present = {one.precision for one in measured.products}
    return next(precision for precision in order if precision in present)


def calibrated(measured: Measurements, origin: Origin) -> HardwareSpec:
    """The spec; every field has a source that says what was measured or which spec it was taken from.

    A measured curve of products takes the place of tiles, and a fitted latency includes what collectives
    take to start.
    """
    parts = [
        _rates(measured, origin),
        _memory(measured, origin),
        link_fields(measured.collectives, measured.device, origin),
        _host(measured, origin),
        _identity(measured, origin),
    ]
    values = {name: value for part in parts for name, value in part.values.items()}
    measured_sources = {key: f"{text}; {_on(measured, origin)}" for part in parts for key, text in part.sources.items()}
    gone = tuple(key for field, keys in REPLACED.items() if field in values for key in keys)
    taken = {
        key: f"taken from hardware spec {origin.base.name}: {text}"
        for key, text in origin.base.sources.items()
        if not key.startswith(gone)
    }
    spec: HardwareSpec = msgspec.structs.replace(origin.base, **values, sources=taken | measured_sources)
    return spec


def _on(measured: Measurements, origin: Origin) -> str:
    processes = f"{measured.num_devices} at once" if measured.num_devices > 1 else "one"
    threads = f", {measured.threads_per_process} threads each" if measured.device == "cpu" else ""
    return f"measured on {measured.device_name} ({processes}{threads}), torch {measured.torch_version}, {origin.date}"


def _identity(measured: Measurements, origin: Origin) -> Fields:
    title = f"{measured.device_name}, calibrated {origin.date}"
    names = origin.base.device_names if origin.same_device else (measured.device_name,)
    values = {
        "name": origin.name,
        "title": title,
        "device": measured.device,
        "device_names": names,
        "devices_per_node": origin.devices_per_node,
        "calibrated": True,
    }
    if measured.device == "cpu":
        return Fields(values, {})
    return Fields(values, {"devices_per_node": "devices that the driver shows on this machine"})


def _rates(measured: Measurements, origin: Origin) -> Fields:
    main = main_precision(measured)
    peaks: dict[Precision, FlopsPerSecond] = {}
    sources = {}
    for precision in ("fp16", "bf16", "fp32"):
        best = best_rate(measured.products, precision)
        stated = origin.base.peak_flops_per_s.get(precision) if origin.same_device else None
        if best is None:
            if precision in origin.base.peak_flops_per_s:
                peaks[precision] = origin.base.peak_flops_per_s[precision]
            continue
        found = f"best product {format_rate(best, 'FLOP/s')}"
        if stated is not None and stated >= best:
            peaks[precision] = stated
            sources[f"peak.{precision}"] = f"{origin.base.sources.get(f'peak.{precision}', 'datasheet')}; {found}"
        else:
            peaks[precision] = FlopsPerSecond(best)
            sources[f"peak.{precision}"] = found
    products = [one for one in measured.products if one.precision == main]
    curve = efficiency_curve(products, peaks[main])
    sources["efficiency.matmul"] = (
        f"{len(products)} products of tokens with GPT weights, whole and split over tensor-parallel ranks, in {main}, "
        "each the mean of forward and of both gradients among element-wise kernels; the median share of the peak in "
        "each half decade of FLOP"
    )
    bandwidth, share = _memory_share(measured, origin)
    sources["efficiency.memory"] = f"addition of activations, {format_rate(measured.memory_bytes_per_s, 'B/s')}"
    if share == 1.0:
        sources["memory_bandwidth"] = sources["efficiency.memory"]
    sources["kernel_launch"] = "host time of one small operation that autograd records"
    efficiency = msgspec.structs.replace(origin.base.efficiency, matmul=curve, memory=share, tiles=None)
    if measured.attention is not None:
        rates = (measured.attention.forward_flops_per_s, measured.attention.backward_flops_per_s)
        forward, backward = (round(min(1.0, rate / peaks[main]), 4) for rate in rates)
        efficiency = msgspec.structs.replace(efficiency, native_attention=(forward, backward))
        sources["efficiency.native_attention"] = (
            f"causal attention with 128 units a head, {format_rate(rates[0], 'FLOP/s')} forward and "
            f"{format_rate(rates[1], 'FLOP/s')} backward"
        )
    values: dict[str, object] = {
        "peak_flops_per_s": peaks,
        "efficiency": efficiency,
        "memory_bandwidth_bytes_per_s": BytesPerSecond(bandwidth),
        "kernel_launch_s": Seconds(measured.kernel_launch_s),
    }
    return Fields(values, sources)


def _memory_share(measured: Measurements, origin: Origin) -> tuple[float, float]:
    """Bandwidth, and the share of it that was reached: all of what was measured unless a datasheet says more."""
    stated, reached = float(origin.base.memory_bandwidth_bytes_per_s), measured.memory_bytes_per_s
    if origin.same_device and measured.device == "cuda" and stated >= reached:
        return stated, round(reached / stated, 4)
    return reached, 1.0


def _memory(measured: Measurements, origin: Origin) -> Fields:
    found = measured.device_memory
    if found is None:
        return Fields({}, {})
    # A training run loads more kernels and opens more channels than a calibration: never below the base.
    base, context = origin.base, found.context_bytes
    values: dict[str, object] = {
        "memory_bytes": _whole_mib(found.total_bytes),
        "context_bytes": max(base.context_bytes, _whole_mib(context)),
    }
    sources = {
        "memory": "what the driver reports in all",
        "context": f"the larger of {format_bytes(context)}, in use by the driver's figure less what torch reserved "
        f"after a first matrix product, and of {base.name}'s figure for a training run",
    }
    if found.communicator_bytes is not None:
        values["communicator_bytes"] = max(base.communicator_bytes, _whole_mib(found.communicator_bytes))
        sources["communicator"] = (
            f"the larger of {format_bytes(found.communicator_bytes)}, which the first NCCL communicator took by the "
            f"same figure, and of {base.name}'s figure for a training run"
        )
    return Fields(values, sources)


def _whole_mib(num_bytes: float) -> Bytes:
    return Bytes(int(num_bytes) // MIB * MIB)


def link_fields(collectives: Sequence[Collective], device: str, origin: Origin) -> Fields:
    """The link of rings over more than two devices where there are any, and what rings over two keep of it.

    Two devices alone do not tell larger rings; those of the same card in the base spec stay.
    """
    pairs = [one for one in collectives if one.size == PAIR]
    larger = [one for one in collectives if one.size > PAIR]
    if not larger and origin.same_device and origin.base.node_link.pair_efficiency is not None:
        return _pair_link(pairs, origin.base.node_link)
    fitted = larger or pairs
    if len(fitted) < LEAST_TIMINGS:
        return Fields({}, {})
    link, base = fit_link(fitted), origin.base.node_link
    stated = float(base.bandwidth_bytes_per_s)
    keep = origin.same_device and device == "cuda" and stated >= link.bandwidth_bytes_per_s
    bandwidth = stated if keep else link.bandwidth_bytes_per_s
    pair = _pair_ring(pairs) if larger else None
    spec = LinkSpec(
        kind=base.kind,
        bandwidth_bytes_per_s=BytesPerSecond(bandwidth),
        latency_s=Seconds(link.latency_s),
        efficiency=round(link.bandwidth_bytes_per_s / stated, 4) if keep else 1.0,
        pair_efficiency=_share(pair[0], bandwidth) if pair else None,
    )
    keys = ("efficiency", "latency") if keep else ("bandwidth", "efficiency", "latency")
    sources = {f"node_link.{key}": _fit_words(link, fitted) for key in keys}
    if pair is not None:
        sources["node_link.pair_efficiency"] = pair[1]
    return Fields({"node_link": spec}, sources)


def _pair_link(pairs: Sequence[Collective], base: LinkSpec) -> Fields:
    pair = _pair_ring(pairs)
    if pair is None:
        return Fields({}, {})
    link, words = pair
    share = _share(link, float(base.bandwidth_bytes_per_s))
    spec: LinkSpec = msgspec.structs.replace(
        base, pair_efficiency=share, latency_s=Seconds(link.latency_s), start_s=Seconds(0.0)
    )
    return Fields({"node_link": spec}, {"node_link.pair_efficiency": words, "node_link.latency": words})


def _pair_ring(pairs: Sequence[Collective]) -> tuple[Link, str] | None:
    """What rings over two devices reach, with a source line; sends go around no ring."""
    rings = [one for one in pairs if one.kind != "send"]
    if len(rings) < LEAST_TIMINGS:
        return None
    link = fit_link(rings)
    return link, _fit_words(link, rings)


def _share(link: Link, bandwidth_bytes_per_s: float) -> float:
    return round(min(1.0, link.bandwidth_bytes_per_s / bandwidth_bytes_per_s), 4)


def _fit_words(link: Link, timings: Sequence[Collective]) -> str:
    sizes = ", ".join(str(size) for size in sorted({one.size for one in timings}))
    kinds = ", ".join(sorted({one.kind for one in timings}))
    return (
        f"{format_rate(link.bandwidth_bytes_per_s, 'B/s')} and latency fitted to {len(timings)} timings of {kinds} "
        f"over groups of {sizes}, mean error {link.error:.0%}"
    )


def _host(measured: Measurements, origin: Origin) -> Fields:
    adam = measured.adam_parameters_per_s * ADAM_BYTES
    base = origin.base.host
    spec = HostSpec(
        memory_bytes=_whole_mib(measured.host_memory_bytes),
        memory_bandwidth_bytes_per_s=BytesPerSecond(adam),
        device_bandwidth_bytes_per_s=BytesPerSecond(measured.pinned_bytes_per_s),
        nvme_capacity_bytes=Bytes(max(measured.disk_free_bytes // GIB, 1) * GIB),
        nvme_read_bytes_per_s=BytesPerSecond(measured.disk_read_bytes_per_s),
        nvme_write_bytes_per_s=BytesPerSecond(measured.disk_write_bytes_per_s),
        process_bytes=base.process_bytes,
        gpt2_block_s=Seconds(measured.gpt2_block_s),
    )
    sources = {
        "host.memory": "what this process may use of the host",
        "host.memory_bandwidth": (
            f"all processes together: {measured.adam} updates {measured.adam_parameters_per_s:.3g} parameters/s at "
            f"{ADAM_BYTES} bytes each, {format_rate(adam, 'B/s')}; plain copies reach "
            f"{format_rate(measured.host_copy_bytes_per_s, 'B/s')}"
        ),
        "host.device_bandwidth": (
            f"the slower direction with page-locked memory; {format_rate(measured.pageable_bytes_per_s, 'B/s')} with "
            "ordinary memory"
        ),
        "host.gpt2_block": "host time to issue forward and backward of a tiny block in bf16, the median over the ranks",
        "host.nvme_capacity": "free on the drive of the folder that was measured",
        "host.nvme_read": "one file, read back past the page cache",
        "host.nvme_write": "one file, until fsync returned",
    }
    return Fields({"host": spec}, sources)


def spec_name(stem: str) -> str:
    """A spec's name from that of its file: other characters than names have become hyphens."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).lstrip("._-")[:64]
    return name or "calibrated"
