"""Writes docs/verification.md, with layouts verified on this machine: ``python -m docs.verification_page``.

The figures of GPUs are those that `gptplan verify` printed on two H200, in docs/verification-h200.txt.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from planner.diagnostics import PlanError
from planner.handover.verification import TOLERANCES, WORKAROUNDS
from planner.launch.shrink import shrink
from planner.plans.plan import read_plan
from plans.make import asked, path_of

PAGE = Path(__file__).with_name("verification.md")
GPU_RECORD = Path(__file__).with_name("verification-h200.txt")

CASES: dict[str, tuple[str, ...]] = {
    "1D": ("tensor_parallel=2", "tensor_mode=1d"),
    "pipeline, uneven": ("pipeline_parallel=2", "layers_per_stage=7,5"),
    "interleaved": ("pipeline_parallel=2", "schedule=interleaved", "num_model_chunks=2"),
    "sequence": ("tensor_parallel=2", "tensor_mode=1d", "sequence_parallel=true"),
    "ZeRO 1": ("data_parallel=2", "zero_stage=1"),
    "ZeRO 2": ("data_parallel=2", "zero_stage=2"),
    "ZeRO 1, offload": ("data_parallel=2", "zero_stage=1", "offload.tier=cpu", "offload.optimizer=1"),
    "ZeRO 2, NVMe": ("data_parallel=2", "zero_stage=2", "offload.tier=nvme", "offload.optimizer=1"),
    "TP x PP x DP": ("tensor_parallel=2", "tensor_mode=1d", "pipeline_parallel=2", "data_parallel=2"),
    "2D": ("tensor_parallel=4", "tensor_mode=2d"),
    "2.5D": ("tensor_parallel=2", "tensor_mode=2.5d", "tensor_depth=2"),
    "3D": ("tensor_parallel=8", "tensor_mode=3d"),
}
"""Kind of layout to what is pinned of it; the other degrees are 1."""

ERRORS: dict[str, str] = {"causal-attention": "1D", "sequence-bias-sum": "sequence", "depth-sum": "2.5D"}
"""Workaround to the layout in which it is switched off."""

_HEAD = """\
# Verified layouts

`gptplan verify FILE.plan` trains a plan's layout on a model of a few layers and, from the same weights and batches, one
process of plain PyTorch. It compares the loss and the gradient of every parameter in each step, put together where
ranks divide it and taken where the optimizer begins its update, and compares the ranks that hold the same parameter.
A difference is the norm of the difference over the norm of the right gradient. Layouts without ZeRO run in fp32,
those with ZeRO in bf16, and with `--own-precision` in that of the plan. Updates are gradient descent, or AdamW where
states are offloaded or in chunks.

This page is written by `python -m docs.verification_page`; do not edit it.
"""


def main() -> None:
    """Solve and verify every case, and write the page."""
    with tempfile.TemporaryDirectory() as folder:
        found = {name: _verified(name, Path(folder)) for name in CASES}
        broken = {name: _verified(kind, Path(folder), "--without", name) for name, kind in ERRORS.items()}
    of_plans = {name: _verified_plan(path_of(name)) for name in asked()}
    sections = [_HEAD, _tolerances(), _plans(of_plans), _cases(found), _errors(broken), _on_gpus()]
    PAGE.write_text("\n".join(sections), encoding="utf-8")


def solve_command(name: str) -> str:
    """The command that makes the plan of a case."""
    fields = dict(pin.split("=") for pin in CASES[name])
    degrees = ("tensor_parallel", "pipeline_parallel", "data_parallel")
    gpus = 1
    for degree in degrees:
        gpus *= int(fields.setdefault(degree, "1"))
    pins = " ".join(f"--pin {field}={value}" for field, value in fields.items())
    allowed = f" --allow-offload {fields['offload.tier']}" if "offload.tier" in fields else ""
    return f"gptplan solve --model gpt2-small --gpus {gpus} {pins}{allowed} -o some.plan"


def _verified(name: str, folder: Path, *more: str) -> dict[str, Any]:
    _gptplan(solve_command(name).split()[1:], folder)
    found: dict[str, Any] = json.loads(_gptplan(["verify", "some.plan", "--json", *more], folder))
    return found


def _verified_plan(path: Path) -> list[dict[str, Any]]:
    """What `verify` found, also in the plan's own precision; nothing if the plan needs GPUs even when it is small."""
    try:
        shrink(read_plan(path), max_processes=8, on_gpus=False)
    except PlanError:
        return []
    command = ["verify", str(path), "--json"]
    both = (command, [*command, "--own-precision"])
    return [json.loads(_gptplan(one, Path.cwd())) for one in both]


def _gptplan(arguments: list[str], folder: Path) -> str:
    command = [sys.executable, "-m", "planner.cli.app", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode > 1 or not done.stdout:
        raise SystemExit(f"{' '.join(arguments)}\n{done.stderr}")
    return done.stdout


def _tolerances() -> str:
    rows = [f"| {p} | {t.loss:.0e} | {t.gradient:.0e} | {t.replicas:.0e} |" for p, t in TOLERANCES.items()]
    head = "| precision | loss | gradient | between ranks |\n|---|---|---|---|"
    return "\n".join(["Allowed, as rounding explains:\n", head, *rows, ""])


def _worst(document: dict[str, Any]) -> dict[str, Any]:
    steps = document["steps"]
    return max(steps, key=lambda step: step["gradient"]["value"])["gradient"] | {
        "loss": max(step["loss_difference"] for step in steps),
        "replicas": max((step["replicas"]["value"] for step in steps if step["replicas"]), default=0.0),
    }


def _plans(found: dict[str, list[dict[str, Any]]]) -> str:
    lines = [
        "## Plans that come with gptplan\n",
        "Each of [plans/](plans.md), on processor cores over gloo with at most eight processes: `gptplan verify "
        "plans/NAME.plan` prints every step. Largest differences in three steps. The second row of a plan is with "
        "`--own-precision`. Gemini, which is ZeRO stage 3, needs GPUs; what was verified of it is at the end of this "
        "page. `tests/runtime/test_committed_plans.py` compares the chunks of these plans on processor cores, without "
        "their offload.\n",
        "| plan | smaller than the plan | precision | loss | gradient | in | between ranks | verified |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, documents in found.items():
        if not documents:
            lines.append(f"| `{name}` | | | | | | | needs GPUs |")
        different = {document["layout"]["precision"]: document for document in documents}
        for document in different.values():
            changes = "; ".join(one for one in document["changes"] if not one.endswith(" instead of fp16"))
            lines.append(f"| `{name}` | {changes} | {_figures(document)} |")
    return "\n".join([*lines, ""])


def _figures(document: dict[str, Any]) -> str:
    worst = _worst(document)
    return (
        f"{document['layout']['precision']} | {worst['loss']:.1e} | {worst['value']:.1e} | `{worst['parameter']}` | "
        f"{worst['replicas']:.1e} | {'yes' if document['verified'] else 'NO'}"
    )


def _cases(found: dict[str, dict[str, Any]]) -> str:
    lines = [
        "## Other kinds of layout\n",
        "The same, with the plan of the command; `gptplan verify some.plan` prints every step.\n",
        "| layout | plan | precision | loss | gradient | in | between ranks | verified |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, document in found.items():
        lines.append(f"| {name} | `{solve_command(name)}` | {_figures(document)} |")
    return "\n".join([*lines, ""])


def _errors(broken: dict[str, dict[str, Any]]) -> str:
    lines = [
        "## Errors that are found\n",
        "Colossal-AI 0.5.0 makes these errors without a word; gptplan's runtime puts them right. With "
        "`gptplan verify some.plan --without NAME` a workaround is off, and the error is found.\n",
        "| switched off | what it is | layout | loss in step 1 | gradient | in | between ranks | verified |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, document in broken.items():
        first = document["steps"][0]
        lines.append(
            f"| {name} | {WORKAROUNDS[name]} | {ERRORS[name]} | "  # type: ignore[index]
            f"{first['loss_difference']:.1e} | {first['gradient']['value']:.1e} | `{first['gradient']['parameter']}` | "
            f"{first['replicas']['value']:.1e} | {'yes' if document['verified'] else 'no'} |"
        )
    return "\n".join([*lines, ""])


def _on_gpus() -> str:
    record = GPU_RECORD.read_text(encoding="utf-8")
    text = (
        "## On GPUs\n\n"
        "ZeRO stage 3 through Gemini needs GPUs. No A100 and no four H100 were to be had. On two H200 with torch "
        "2.11, over NCCL, the command printed what follows, with weights and optimizer on the device and with half of "
        "the optimizer on the host. With all of both on the host, as in the plans of the tables, "
        "`tests/runtime/test_gpu_modes.py` passed there, which compares losses and the norms of gradients. Moments on "
        "NVMe were compared by their losses, which were within 3.5e-4 under ZeRO 1 and with half of the optimizer "
        "under ZeRO 3; with the weights on the host too they have not run on a GPU.\n"
    )
    return f"{text}\n```text\n{record}```\n"


if __name__ == "__main__":
    main()
