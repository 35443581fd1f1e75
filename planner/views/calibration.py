"""A calibration for people: what was measured beside what the base spec says, or errors before and after."""

from collections.abc import Callable

from planner.calibration.hardware import main_precision
from planner.calibration.kernels import Derived
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
    new = f"{curve[0][1]:.0%} at {curve[0][0]:.1e} to {curve[-1][1]:.0%} at {curve[-1][0]:.1e} FLOP"
    old = f"{base.efficiency.matmul[0][1]:.0%} to {base.efficiency.matmul[-1][1]:.0%}"
    rows.append((f"efficiency curve, {main_precision(measured)}", new, old))
    links = [("node link", _link), ("node link latency", lambda s: format_seconds(s.node_link.latency_s))]
    both: list[tuple[str, Callable[[HardwareSpec], str]]] = [
        ("memory bandwidth", lambda s: _rate(s.memory_bandwidth_bytes_per_s * s.efficiency.memory)),
        ("kernel launch", lambda s: format_seconds(s.kernel_launch_s)),
        ("host time of a block of GPT-2", _block),
        *(links if measured.collectives else ()),
        ("host memory", lambda s: format_bytes(s.host.memory_bytes)),
        ("host memory bandwidth, in Adam", lambda s: _rate(s.host.memory_bandwidth_bytes_per_s)),
        ("host to device", lambda s: _rate(s.host.device_bandwidth_bytes_per_s)),
        ("disk read", lambda s: _rate(s.host.nvme_read_bytes_per_s)),
        ("disk write", lambda s: _rate(s.host.nvme_write_bytes_per_s)),
    ]
    return rows + [(name, words(spec), words(base)) for name, words in both]


def derived(found: Derived, base: HardwareSpec, path: str) -> list[str | Table]:
    """What tables of kernels changed of the base, and how far the fit is from products that were held out."""
    kernels, fit, spec = found.kernels, found.tiles, found.spec
    lines: list[str | Table] = [f"{len(kernels.products)} matrix products, {len(kernels.collectives)} collectives"]
    lines += [f"left out: {count} rows, {reason}" for reason, count in kernels.left_out.items()]
    if fit is not None:
        lines.append(
            f"tiles fitted to {fit.fitted} shapes of products; mean error of {fit.held_out} held out: {fit.error:.1%}, "
            f"95 in 100 below {fit.worst:.1%}"
        )
    latency, before = (format_seconds(one.node_link.latency_s) for one in (spec, base))
    rows = [("node link", _link(spec), _link(base)), ("node link latency", latency, before)]
    return [*lines, Table(("", "from kernels", base.name), rows), f"wrote {path}; use it with `--gpu {path}`"]


def _block(spec: HardwareSpec) -> str:
    return "" if spec.host.gpt2_block_s is None else format_seconds(spec.host.gpt2_block_s)


def _rate(bytes_per_s: float) -> str:
    return format_rate(bytes_per_s, "B/s")


def _link(spec: HardwareSpec) -> str:
    return _rate(spec.node_link.bandwidth_bytes_per_s * spec.node_link.efficiency)


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
