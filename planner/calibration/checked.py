"""A hardware spec from what a check of all nodes has measured: products, links within nodes, and the network."""

import itertools
from collections.abc import Sequence

import msgspec

from planner.calibration.curves import LEAST_TIMINGS, best_rate, efficiency_curve, fit_link
from planner.calibration.hardware import Origin, link_fields
from planner.handover.measurements import Collective, Product
from planner.specs import HardwareSpec, NetworkSpec
from planner.specs.units import BytesPerSecond, FlopsPerSecond, Seconds, format_rate


def checked(
    products: Sequence[Product],
    inside: Sequence[Collective],
    between: Sequence[Collective],
    origin: Origin,
    devices_per_node: int,
) -> tuple[HardwareSpec, list[str]]:
    """The base spec with what was measured in its place, and the names of these fields.

    Args:
        products: of all devices, in one precision.
        inside: over groups that stay on their node.
        between: over groups with one device on each node, all devices of a node at the same time.
        origin: the base, and what the new spec is called.
        devices_per_node: that took part in ``between``.
    """
    base, on = origin.base, f"measured by `gptplan doctor`, {origin.date}"
    values: dict[str, object] = {"name": origin.name, "title": f"{base.title}, checked {origin.date}"}
    sources: dict[str, str] = {}
    if products:
        _take_products(products, base, values, sources)
    links = link_fields(inside, base.device, origin)
    values |= links.values
    sources |= links.sources
    if len(between) >= LEAST_TIMINGS:
        network, words = network_of(between, base.network, devices_per_node)
        values["network"] = network
        sources |= {f"network.{key}": words for key in ("bandwidth", "efficiency", "latency", "oversubscription")}
    taken = {
        key: text if text.startswith("taken from") else f"taken from hardware spec {base.name}: {text}"
        for key, text in base.sources.items()
        if not key.startswith(_replaced(values))
    }
    spec: HardwareSpec = msgspec.structs.replace(
        base, **values, sources=taken | {key: f"{text}; {on}" for key, text in sources.items()}
    )
    return spec, sorted(set(values) - {"name", "title"})


def _replaced(values: dict[str, object]) -> tuple[str, ...]:
    """Sources of the base that a measured field takes the place of, beside its own."""
    found = {"efficiency": "efficiency.tiles", "node_link": "node_link.start"}
    return tuple(key for field, key in found.items() if field in values)


def _take_products(
    products: Sequence[Product], base: HardwareSpec, values: dict[str, object], sources: dict[str, str]
) -> None:
    precision = products[0].precision
    best = best_rate(products, precision) or 0.0
    peak = max(float(base.peak_flops_per_s.get(precision, 0.0)), best)
    values["peak_flops_per_s"] = base.peak_flops_per_s | {precision: FlopsPerSecond(peak)}
    values["efficiency"] = msgspec.structs.replace(
        base.efficiency, matmul=_rising(efficiency_curve(products, peak)), tiles=None
    )
    words = f"{len(products)} products in {precision}, the best at {format_rate(best, 'FLOP/s')}"
    sources["efficiency.matmul"] = words
    if best == peak:
        sources[f"peak.{precision}"] = words


def _rising(curve: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """The curve without falls: a larger product that did worse than a smaller one was disturbed by something."""
    shares = itertools.accumulate((share for _, share in curve), max)
    return tuple((flops, share) for (flops, _), share in zip(curve, shares, strict=True))


def network_of(between: Sequence[Collective], base: NetworkSpec, devices_per_node: int) -> tuple[NetworkSpec, str]:
    """The network that gives each device what the groups reached, and a source line.

    A device has the node's adapters to itself or shares them: what it reaches is the bandwidth of an adapter times
    ``min(1, adapters / devices)``, as :mod:`planner.layouts.topology` has it. Oversubscription is in the figure.
    """
    link = fit_link(between)
    adapter = link.bandwidth_bytes_per_s / min(1.0, base.nics_per_node / devices_per_node)
    stated = float(base.bandwidth_bytes_per_s)
    keep = stated >= adapter
    spec: NetworkSpec = msgspec.structs.replace(
        base,
        bandwidth_bytes_per_s=BytesPerSecond(stated if keep else adapter),
        efficiency=max(1e-4, round(adapter / stated, 4)) if keep else 1.0,
        oversubscription=1.0,
        latency_s=Seconds(link.latency_s),
    )
    sizes = ", ".join(str(size) for size in sorted({one.size for one in between}))
    words = (
        f"{format_rate(link.bandwidth_bytes_per_s, 'B/s')} for each of {devices_per_node} devices a node, and latency, "
        f"fitted to {len(between)} collectives over groups of {sizes}, mean error {link.error:.0%}"
    )
    return spec, words
