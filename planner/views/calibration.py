"""A calibration for people: what was measured beside what the base spec says, or errors before and after."""

from planner.calibration.hardware import main_precision
from planner.calibration.refit import Refit
from planner.handover.measurements import Measurements
from planner.specs import HardwareSpec
from planner.specs.units import format_bytes, format_rate, format_seconds
from planner.validation.score import Errors
from planner.views.content import Table


def hardware(measured: Measurements, spec: HardwareSpec, base: HardwareSpec, path: str) -> list[str | Table]:
    """The new spec's figures beside those of the base."""
    devices = f"{measured.num_devices} x {measured.device_name}"
    return [
        f"{devices}, torch {measured.torch_version}, {measured.seconds:.0f} s of measuring",
        Table(("", "measured", base.name), _rows(measured, spec, base)),
        *([] if measured.collectives else [f"one device: the links are those of {base.name}"]),
        f"the network between nodes is that of {base.name}",
        f"wrote {path}; use it with `--gpu {path}`",
    ]


def _rows(measured: Measurements, spec: HardwareSpec, base: HardwareSpec) -> list[tuple[str, str, str]]:
    rows = []
    for precision in ("fp16", "bf16", "fp32"):
        rates = [one.flops_per_s for one in measured.products if one.precision == precision]
        if rates:
            known = base.peak_flops_per_s.get(precision)
            old = format_rate(known, "FLOP/s") + " peak" if known else ""
            rows.append((f"matrix products, {precision}, best", format_rate(max(rates), "FLOP/s"), old))
    curve = spec.efficiency.matmul
    rows.append(
        (
            f"efficiency curve, {main_precision(measured)}",
            f"{curve[0][1]:.0%} at {curve[0][0]:.1e} to {curve[-1][1]:.0%} at {curve[-1][0]:.1e} FLOP",
            f"{base.efficiency.matmul[0][1]:.0%} to {base.efficiency.matmul[-1][1]:.0%}",
        )
    )
    rows += [
        ("memory bandwidth", _memory(spec), _memory(base)),
        ("kernel launch", format_seconds(spec.kernel_launch_s), format_seconds(base.kernel_launch_s)),
    ]
    if measured.collectives:
        rows += [
            ("node link", _link(spec), _link(base)),
            ("node link latency", format_seconds(spec.node_link.latency_s), format_seconds(base.node_link.latency_s)),
        ]
    host, other = spec.host, base.host
    rows.append(("host memory", format_bytes(host.memory_bytes), format_bytes(other.memory_bytes)))
    pairs = {
        "host memory bandwidth, in Adam": (host.memory_bandwidth_bytes_per_s, other.memory_bandwidth_bytes_per_s),
        "host to device": (host.device_bandwidth_bytes_per_s, other.device_bandwidth_bytes_per_s),
        "disk read": (host.nvme_read_bytes_per_s, other.nvme_read_bytes_per_s),
        "disk write": (host.nvme_write_bytes_per_s, other.nvme_write_bytes_per_s),
    }
    return rows + [(name, format_rate(one, "B/s"), format_rate(two, "B/s")) for name, (one, two) in pairs.items()]


def _memory(spec: HardwareSpec) -> str:
    return format_rate(spec.memory_bandwidth_bytes_per_s * spec.efficiency.memory, "B/s")


def _link(spec: HardwareSpec) -> str:
    return format_rate(spec.node_link.bandwidth_bytes_per_s * spec.node_link.efficiency, "B/s")


def refitted(found: Refit, path: str) -> list[str | Table]:
    """Constants and errors before and after."""
    constants = [(one.name, f"{one.before:.4g}", f"{one.after:.4g}") for one in found.constants]
    return [
        Table((f"constant of {found.base}", "before", "after"), constants),
        "\nmean absolute error of step times (worst), before and after",
        f"  {found.fit_before.n} rows fitted:   {_words(found.fit_before)} -> {_words(found.fit_after)}",
        f"  {found.held_out_before.n} rows held out: {_words(found.held_out_before)} -> {_words(found.held_out_after)}",
        *(f"left out: {count} rows, {reason}" for reason, count in found.skipped.items()),
        *([f"wrote {path}; use it with `--stack {path}`"] if found.is_better else []),
    ]


def _words(errors: Errors) -> str:
    return f"{errors.mean_abs_pct or 0:.1f} % ({errors.max_abs_pct or 0:.1f} %)"
