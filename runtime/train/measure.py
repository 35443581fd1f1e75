"""What a run measures: the records of its metrics file, peak memory and the prediction beside them."""

import contextlib
import errno
import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import torch

from planner.handover.metrics import read_records
from planner.layouts.layout import Layout
from planner.plans.plan import Plan
from planner.plans.prediction import StagePrediction
from planner.specs.units import format_bytes, format_seconds
from runtime.train.memory import RankMemory
from runtime.train.profile import StepProfile
from runtime.train.steps import Step, median_step_s

TERMS: dict[str, tuple[str, ...]] = {
    "compute": ("forward_backward", "recompute", "embedding", "loss_head", "gradient_accumulation"),
    "communication": (
        "tensor_parallel_communication",
        "weight_gathering",
        "data_parallel_communication",
        "tied_embedding_reduction",
    ),
    "pipeline": ("pipeline_communication", "pipeline_bubble"),
    "optimizer": ("optimizer", "offload"),
    "host": ("host",),
}
"""Term of a profiled step to the predicted ones that it stands for."""

PACKAGES = ("torch", "colossalai", "transformers")

Follower = Callable[[str, dict[str, Any]], None]
"""Is given every record: its kind and its fields."""


class MetricsFile:
    """A JSON Lines file: a header record, one record a step, and a summary if the run ends well."""

    def __init__(self, path: Path | None, *, after: int | None = None, follow: Follower | None = None) -> None:
        """Start the file anew, or go on ``after`` so many steps, without those that came later.

        What happened beside them stays. Without a path nothing is kept. ``follow`` is given every record.
        """
        self._file = None
        self.redone_s = 0.0
        """Time of the records that came after those steps, whose work is done again."""
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            if after is not None:
                self.redone_s = _cut(path, after)
            self._file = path.open("wb" if after is None else "ab", buffering=0)
        self._path, self._follow = path, follow

    def write(self, record: str, **fields: Any) -> None:
        """Append one record with its Unix time at once, so that a broken run keeps it; it is whole or not there.

        Raises:
            OSError: it cannot be written, as on a full drive.
        """
        if self._file is None:
            return
        line = _line({"record": record, "time_s": time.time(), **fields})
        start = self._file.tell()
        try:
            self._write_whole(line)
        except OSError:
            with contextlib.suppress(OSError):
                self._file.truncate(start)
            raise
        if self._follow is not None:
            self._follow(record, fields)

    def event(self, event: str, **fields: Any) -> None:
        """Append what happened now, as a record that a run which goes back keeps."""
        self.write("event", event=event, **fields)

    def _write_whole(self, line: bytes) -> None:
        # The last write that a drive has room for may be a short one, without an error.
        if self._file is not None and self._file.write(line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))

    def __enter__(self) -> Self:
        """The file itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def _line(record: dict[str, Any]) -> bytes:
    return json.dumps(record, allow_nan=False).encode() + b"\n"


def _cut(path: Path, step: int) -> float:
    """Leave the records up to a step in a file, and no line that was cut off: whole as before, or as it is to be.

    The seconds from the last of them to the last one that is gone.

    Raises:
        OSError: there is a file, and it cannot be read.
    """
    if not path.is_file():
        return 0.0
    path.open("rb").close()  # else it would be taken for an empty one
    kept, times = [], {True: 0.0, False: 0.0}
    for record in read_records(path):
        kind, is_early = record["record"], record.get("step", 0) <= step
        if kind == "event" or (is_early and kind != "summary"):
            kept.append(record)
        times[is_early] = record.get("time_s", 0.0) if kind not in ("event", "summary") else times[is_early]
    beside = path.with_name(f".{path.name}")
    with beside.open("wb") as file:
        file.writelines(map(_line, kept))
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    return max(times[False] - times[True], 0.0) if times[True] else 0.0


def header(plan: Plan, *, steps: int, seed: int) -> dict[str, Any]:
    """The fields of the first record: which plan ran, and on what."""
    device = torch.cuda.get_device_name() if plan.problem.hardware.device == "cuda" else "cpu"
    return {
        "plan_digest": plan.digest,
        "model": plan.problem.model.name,
        "device": device,
        "num_devices": plan.layout.num_devices,
        "global_batch": plan.problem.global_batch,
        "seq_len": plan.problem.seq_len,
        "steps": steps,
        "seed": seed,
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


class ResultLine(NamedTuple):
    """One line of the closing table."""

    name: str
    predicted: str
    measured: str
    ratio: str
    """Predicted over measured; empty where the two are not the same quantity."""


def result_lines(
    plan: Plan, steps: Sequence[Step], memory: Sequence[RankMemory], profile: StepProfile
) -> list[ResultLine]:
    """The prediction beside the measurement: step time, its terms, and peak memory of each stage's ranks."""
    expected = plan.predicted
    measured_s = median_step_s(steps)
    if measured_s is None:
        measured = ("no update" if any(step.is_whole for step in steps) else "no whole batch", "")
    else:
        measured = (format_seconds(measured_s), f"{expected.step_s / measured_s:.2f}")
    lines = [ResultLine("step time (median)", format_seconds(expected.step_s), *measured)]
    words = {"communication": communication_words(plan.layout)}
    lines += _step_terms(predicted_terms(expected.breakdown_s), profile.terms_s, words)
    lines += _hidden(profile.collectives_s)
    on_gpu = plan.problem.hardware.device == "cuda"
    for number, stage in enumerate(expected.stages):
        largest = max((m for m in memory if m.stage == number), key=lambda m: m.allocated_bytes)
        if on_gpu:
            lines += _device_memory(number, stage, largest)
        else:
            lines.append(_process_memory(number, stage.peak_bytes + plan.problem.hardware.context_bytes, largest))
    return lines


def predicted_terms(breakdown_s: dict[str, float]) -> dict[str, float]:
    """A predicted breakdown in the terms of a profiled step, in seconds."""
    return {name: sum(breakdown_s.get(part, 0.0) for part in parts) for name, parts in TERMS.items()}


def communication_words(layout: Layout) -> str:
    """What the collectives of a step are for: the profiler sees their kernels, not their groups."""
    kinds = [
        kind
        for kind, ranks in (("tensor-parallel", layout.tensor_parallel), ("data-parallel", layout.data_parallel))
        if ranks > 1
    ]
    return " ".join([" and ".join(kinds), "communication"]).strip()


def prediction_record(plan: Plan) -> dict[str, Any]:
    """What a plan predicts, for the record of its run: step time and the terms that a profile tells."""
    expected = plan.predicted
    return {"step_s": expected.step_s, "terms_s": predicted_terms(expected.breakdown_s)}


def _step_terms(expected_s: dict[str, float], measured_s: dict[str, float], words: dict[str, str]) -> list[ResultLine]:
    return [
        ResultLine(
            f"  {words.get(name, name)}",
            format_seconds(expected_s[name]),
            format_seconds(measured),
            f"{expected_s[name] / measured:.2f}" if measured else "",
        )
        for name, measured in measured_s.items()
        if measured or expected_s[name]
    ]


def _hidden(collectives_s: dict[str, float]) -> list[ResultLine]:
    """What of the collectives ran beside computation, which is in no term of the step; none where there are none."""
    if not collectives_s.get("all"):
        return []
    beside, whole = (format_seconds(collectives_s[name]) for name in ("beside_compute", "all"))
    return [ResultLine("  hidden beside computation", "", f"{beside} of {whole}", "")]


def _process_memory(stage: int, predicted_bytes: int, measured: RankMemory) -> ResultLine:
    # A process cannot tell its tensors from the libraries around them, so those are in both figures.
    return ResultLine(
        f"stage {stage} peak, max RSS",
        format_bytes(predicted_bytes),
        format_bytes(measured.allocated_bytes),
        f"{predicted_bytes / measured.allocated_bytes:.2f}",
    )


def _device_memory(stage: int, predicted: StagePrediction, measured: RankMemory) -> list[ResultLine]:
    return [
        ResultLine(
            f"stage {stage} peak, {kind}",
            format_bytes(predicted_bytes),
            format_bytes(num_bytes),
            f"{predicted_bytes / num_bytes:.2f}",
        )
        for kind, predicted_bytes, num_bytes in (
            ("allocated", predicted.peak_bytes, measured.allocated_bytes),
            ("reserved", predicted.reserved_bytes, measured.reserved_bytes),
            ("in use", predicted.device_bytes, measured.device_used_bytes),
        )
    ]
