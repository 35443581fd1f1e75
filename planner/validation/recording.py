"""What ``gptplan run --record`` appends: one run as a row that :mod:`planner.validation.recorded` reads."""

import csv
import fcntl
import importlib.metadata
import io
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from planner.diagnostics import PlanError, usage_error
from planner.layouts.compilation import is_compiled
from planner.layouts.degrees import GRID_MODES
from planner.layouts.layout import SHARDS_WEIGHTS, Layout
from planner.plans.plan import Plan
from planner.specs import HardwareSpec
from planner.specs.units import MIB
from planner.validation.machines import CARDS
from planner.validation.tables import RECORDED, read_table

INFORMATIVE = (
    "torch colossalai transformers flash_attention optimizer peak_reserved_mib_max device_used_mib_max "
    "after_boost_allocated_mib fresh_process gpus_per_node ffn_hidden tied_embeddings dropout"
)
"""Columns that a table may lack whatever is in them; of the model's, a replay fills in those of its built-in spec."""

_ANOTHER_FILE = "name another file with `--record`; a new one gets a header with every column"

Outcome = Literal["fit", "oom"]


def check_record(path: Path, plan: Plan) -> None:
    """Refuse a file that a row of ``plan`` cannot be appended to, before the run.

    Raises:
        PlanError: it is no table of recorded runs, lacks a column that the plan needs, or cannot be written.
    """
    if path.is_dir() or not _is_writable(path):
        problem = "this is a folder, not a table" if path.is_dir() else "the table cannot be written"
        raise usage_error(problem, location=str(path), hint="name a CSV file with `--record`")
    if _is_new(path):
        return
    try:
        table = read_table(path)
    except PlanError as error:
        found = error.diagnostics[0]
        raise usage_error(found.message, location=found.location, hint=_ANOTHER_FILE) from error
    if table.dialect is not RECORDED:
        raise usage_error(
            f"this is a table of {table.dialect.name} runs, with other columns than those of a recorded run",
            location=f"{path}:1",
            hint=_ANOTHER_FILE,
        )
    cells = {**_plan_cells(plan), **_model_cells(plan)}
    lacking = [name for name, text in cells.items() if text and name not in {*table.columns, *INFORMATIVE.split()}]
    if lacking:
        raise usage_error(
            f"the table has no column {lacking[0]}, which this plan needs (`{cells[lacking[0]]}`)",
            location=f"{path}:1",
            hint=_ANOTHER_FILE,
        )


def append_run(path: Path, plan: Plan, *, name: str, outcome: Outcome, metrics: Path | None) -> None:
    """Append the row of one run, with the header if the file is new; ``metrics`` is that of a run that ended well.

    Raises:
        PlanError: the file has come to have other columns, or cannot be written.
    """
    check_record(path, plan)

    def cells(number: int) -> dict[str, str]:
        row = {"id": f"{name}-{number:03d}", "outcome": outcome, **_plan_cells(plan), **_model_cells(plan)}
        return row | (_measured_cells(plan, _records(metrics)) if metrics else {})

    append_row(path, cells)


def append_row(path: Path, cells: Callable[[int], Mapping[str, str]]) -> None:
    """Append one row in the columns of the table, with the header if the file is new; ``cells`` gets its number.

    Raises:
        PlanError: the file is no table, or cannot be written.
    """
    try:
        with path.open("a+b", buffering=0) as file:
            # Several runs may append to one table.
            fcntl.flock(file, fcntl.LOCK_EX)
            content = Path(path).read_bytes()
            columns = RECORDED.columns if not content.strip() else read_table(path).columns
            number = max(0, len(content.splitlines()) - 1)
            row = cells(number)
            lines = [] if content.strip() else [columns]
            lines.append(tuple(row.get(column, "") for column in columns))
            _write_whole(file, _csv(lines, new_line=bool(content) and not content.endswith(b"\n")), len(content))
    except OSError as error:
        raise usage_error(
            f"cannot write the table: {error.strerror}", location=str(path), hint="name a CSV file with `--record`"
        ) from error


def _is_new(path: Path) -> bool:
    return not path.exists() or path.stat().st_size == 0


def _is_writable(path: Path) -> bool:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(path if path.exists() else path.parent, os.W_OK)


def _csv(lines: Sequence[Sequence[str]], *, new_line: bool) -> bytes:
    text = io.StringIO()
    text.write("\n" * new_line)
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue().encode()


def _write_whole(file: io.FileIO, content: bytes, length: int) -> None:
    """One write, so that a reader sees the row whole; what a full drive cut off goes again."""
    if file.write(content) != len(content):
        file.truncate(length)
        raise OSError(28, os.strerror(28))


def _records(metrics: Path) -> list[dict[str, Any]]:
    return [msgspec.json.decode(line) for line in metrics.read_bytes().splitlines()]


def _plan_cells(plan: Plan) -> dict[str, str]:
    layout, problem = plan.layout, plan.problem
    is_gemini, is_grid = layout.zero_stage == SHARDS_WEIGHTS, layout.tensor_mode in GRID_MODES
    plugin = "GeminiPlugin" if is_gemini else "" if is_grid else "HybridParallelPlugin"
    on_host = is_gemini or layout.offload.tier == "nvme"
    adam = "torch.optim.AdamW fused" if problem.hardware.device == "cuda" else "torch.optim.AdamW"
    return {
        "set": f"{problem.stack.name}-{_card(problem.hardware)[0].lower()}",
        "gpu": "-".join(filter(None, _card(problem.hardware))),
        "n_gpus": str(layout.num_devices),
        **{package: importlib.metadata.version(package) for package in ("torch", "colossalai", "transformers")},
        "plugin": plugin or "gptplan grid",
        "tp": str(layout.tensor_parallel),
        "pp": str(layout.pipeline_parallel),
        "dp": str(layout.data_parallel),
        "zero_stage": str(layout.zero_stage),
        "pp_style": layout.schedule if layout.pipeline_parallel > 1 else "",
        "num_model_chunks": str(layout.num_model_chunks) if layout.num_model_chunks > 1 else "",
        "layers_per_stage": " ".join(map(str, layout.layers_per_stage)) if layout.pipeline_parallel > 1 else "",
        "micro_batch": str(layout.micro_batch),
        "batch_per_dp_rank": str(layout.micro_batch * layout.num_microbatches),
        "global_batch": str(layout.global_batch),
        "recompute": _recompute(layout),
        "precision": layout.precision,
        "flash_attention": "True",
        "attn": "gptplan causal sdpa",
        "sequence_parallel": "split_gather" if layout.sequence_parallel else "",
        "shard_param_frac": "1.0" if is_gemini else "",
        "offload_optim_frac": str(layout.offload.optimizer),
        "optimizer": "HybridAdam" if on_host else adam,
        "gpus_per_node": str(problem.devices_per_node) if problem.num_nodes > 1 else "",
        "compiled": "yes" if is_compiled(problem, layout) else "",
        "recompute_pointwise": "yes" if layout.recompute_pointwise else "",
        "tensor_mode": layout.tensor_mode if is_grid else "",
        "tensor_depth": str(layout.tensor_depth) if layout.tensor_depth > 1 else "",
        "offload_param_frac": str(layout.offload.parameters) if layout.offload.parameters else "",
        "offload_tier": "nvme" if layout.offload.tier == "nvme" else "",
        "fresh_process": "yes",
    }


def _model_cells(plan: Plan) -> dict[str, str]:
    model, problem = plan.problem.model, plan.problem
    return {
        "model": model.name,
        "layers": str(model.num_layers),
        "hidden": str(model.hidden_size),
        "heads": str(model.num_heads),
        "vocab": str(model.vocab_size),
        "seq_len": str(problem.seq_len),
        "kv_heads": "" if model.kv_heads == model.num_heads else str(model.kv_heads),
        "ffn_hidden": "" if model.ffn_hidden_size == 4 * model.hidden_size else str(model.ffn_hidden_size),
        "tied_embeddings": "" if model.tied_embeddings else "no",
        "dropout": str(model.dropout),
    }


def _card(hardware: HardwareSpec) -> tuple[str, str]:
    """Kind and memory of a card as the tables write them; the spec's name for one that they do not know."""
    known = {name: (kind, f"{gigabytes}G") for (kind, gigabytes), name in CARDS.items()}
    return known.get(hardware.name, (hardware.name, ""))


def _recompute(layout: Layout) -> str:
    layers, recomputed = layout.layers_per_stage, layout.recompute_layers_per_stage
    if not any(recomputed):
        return "none"
    return "full" if recomputed == layers else " ".join(map(str, recomputed))


def _measured_cells(plan: Plan, records: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    header, summary = records[0], records[-1]
    on_cpu = plan.problem.hardware.device == "cpu"
    return measured_cells(summary["median_step_s"], header["memory"], summary["ranks"], on_cpu=on_cpu)


def measured_cells(
    median_step_s: float | None,
    boosted: Sequence[Mapping[str, Any]],
    ranks: Sequence[Mapping[str, Any]],
    *,
    on_cpu: bool,
) -> dict[str, str]:
    """The cells of what a run measured.

    Args:
        median_step_s: the step time, ``None`` of a run in fp16 that came to no update.
        boosted: memory of every rank after boosting, in bytes, as the runtime records it.
        ranks: the same at the end.
        on_cpu: whether ranks were processes without a device.
    """
    cells = {"step_s": "" if median_step_s is None else f"{median_step_s:.5g}"}
    device_used = _mib(max(rank["device_used_bytes"] for rank in ranks))
    if on_cpu:
        # The largest resident size has the libraries in it, as the driver's reading of a card has its context.
        return cells | {"device_used_mib_max": device_used}
    return cells | {
        "peak_allocated_mib_per_rank": " ".join(_mib(rank["allocated_bytes"]) for rank in ranks),
        "peak_reserved_mib_max": _mib(max(rank["reserved_bytes"] for rank in ranks)),
        "device_used_mib_max": device_used,
        "after_boost_allocated_mib": " ".join(_mib(rank["held_bytes"]) for rank in boosted),
    }


def _mib(num_bytes: int) -> str:
    return str(round(num_bytes / MIB))
