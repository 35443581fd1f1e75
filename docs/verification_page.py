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
from planner.handover.verification import TOLERANCES, WORKAROUNDS, Workaround
from planner.launch.shrink import shrink
from planner.plans.plan import read_plan
from planner.specs import ModelSpec
from planner.specs.files import load_spec
from plans.make import asked, path_of

PAGE = Path(__file__).with_name("verification.md")
GPU_RECORD = Path(__file__).with_name("verification-h200.txt")

_TP2 = ("tensor_parallel=2", "tensor_mode=1d")
CASES: dict[str, tuple[str, ...]] = {
    "1D": _TP2,
    "pipeline, uneven": ("pipeline_parallel=2", "layers_per_stage=7,5"),
    "interleaved": ("pipeline_parallel=2", "schedule=interleaved", "num_model_chunks=2"),
    "zero bubble": ("pipeline_parallel=2", "schedule=zbv"),
    "zero bubble, recomputed": ("pipeline_parallel=2", "schedule=zbv", "recompute_layers_per_stage=all"),
    "zero bubble x TP, ZeRO 1": (*_TP2, "pipeline_parallel=2", "schedule=zbv", "data_parallel=2", "zero_stage=1"),
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
"""Kind of layout to what is pinned of it for GPT-2; the other degrees are 1."""

_EXCHANGE = "sequence_parallel_degree=2"
_IN_V = ("zero bubble", "zero bubble, recomputed")
_OF_ALL = ("1D", "interleaved", *_IN_V, "sequence", "ZeRO 1", "ZeRO 2", "ZeRO 1, offload", "TP x PP x DP")
FAMILY_CASES: dict[str, tuple[str, ...]] = {
    **{kind: CASES[kind] for kind in _OF_ALL},
    "pipeline, uneven": ("pipeline_parallel=2", "layers_per_stage=UNEVEN"),
    "all-to-all": (_EXCHANGE,),
    "all-to-all x TP": (_EXCHANGE, "tensor_parallel=2", "tensor_mode=1d"),
    "all-to-all x PP": (_EXCHANGE, "pipeline_parallel=2"),
    "all-to-all x ZeRO 1": (_EXCHANGE, "data_parallel=2", "zero_stage=1"),
}
"""The same for the other families."""

_PAIR = ("data_parallel=2", "expert_parallel=2")
_COPIES = ("data_parallel=4", "expert_parallel=2")
EXPERT_CASES: dict[str, tuple[str, ...]] = {
    **{kind: CASES[kind] for kind in ("1D", "interleaved", *_IN_V, "ZeRO 2", "TP x PP x DP")},
    "experts": _PAIR,
    "experts, copies": _COPIES,
    "experts x 1D": (*_PAIR, *CASES["1D"]),
    "experts x pipeline, uneven": (*_PAIR, "pipeline_parallel=2", "layers_per_stage=UNEVEN"),
    "experts x interleaved": (*_PAIR, *CASES["interleaved"]),
    "experts, ZeRO 1": (*_COPIES, "zero_stage=1"),
    "experts x pipeline, ZeRO 1": (*_PAIR, "pipeline_parallel=2", "zero_stage=1"),
}
"""The same for models with experts."""

GPT2, LLAMA, MISTRAL, QWEN2, MIXTRAL = MODELS = (
    "gpt2-small",
    "llama3.2-1b",
    "mistral-tiny",
    "qwen2.5-0.5b",
    "mixtral-tiny",
)
"""A model of each family."""
TITLES = {GPT2: "GPT-2", LLAMA: "Llama", MISTRAL: "Mistral", QWEN2: "Qwen2", MIXTRAL: "Mixtral"}

ERRORS: tuple[tuple[Workaround, str, str], ...] = (
    ("causal-attention", GPT2, "1D"),
    ("causal-attention", LLAMA, "sequence"),
    ("causal-attention", QWEN2, "all-to-all"),
    ("sequence-bias-sum", GPT2, "sequence"),
    ("depth-sum", GPT2, "2.5D"),
    ("llama-policy", MISTRAL, "sequence"),
    ("expert-gradients", MIXTRAL, "experts, copies"),
    ("expert-average", MIXTRAL, "experts x pipeline, uneven"),
    ("weight-gradients", GPT2, "zero bubble x TP, ZeRO 1"),
)
"""Workarounds with the model and the layout in which each is switched off."""

_HEAD = """\
# Verified layouts

`gptplan verify FILE.plan` trains a plan's layout on a model of a few layers and, from the same weights and batches, one
process of plain PyTorch. It compares the loss and the gradient of every parameter in each step, put together where
ranks divide it and taken where the optimizer begins its update, and compares the ranks that hold the same parameter.
A difference is the norm of the difference over the norm of the right gradient; of a bias of keys, whose terms nearly
cancel, over that of the biases of queries, keys and values, which GPT-2 has in one. Layouts without ZeRO run in fp32,
those with ZeRO in bf16, and with `--own-precision` in that of the plan. Updates are gradient descent, or AdamW where
states are offloaded or in chunks.

This page is written by `python -m docs.verification_page`; do not edit it.
"""


def main() -> None:
    """Solve and verify every case, and write the page."""
    with tempfile.TemporaryDirectory() as folder:
        found = {model: {kind: _verified(model, kind, Path(folder)) for kind in cases_of(model)} for model in MODELS}
        broken = [_verified(model, kind, Path(folder), "--without", name) for name, model, kind in ERRORS]
    of_plans = {name: _verified_plan(path_of(name)) for name in asked()}
    sections = [_HEAD, _tolerances(), _plans(of_plans), _cases(found), _errors(broken), _on_gpus()]
    PAGE.write_text("\n".join(sections), encoding="utf-8")


def cases_of(model: str) -> dict[str, tuple[str, ...]]:
    """The kinds of layouts of a model, with what is pinned of them."""
    if model == GPT2:
        return CASES
    spec = load_spec(model, ModelSpec)
    half = spec.num_layers // 2
    cases = {
        kind: tuple(pin.replace("UNEVEN", f"{half - 1},{half + 1}") for pin in pins)
        for kind, pins in (FAMILY_CASES if spec.experts is None else EXPERT_CASES).items()
    }
    if spec.experts is None and spec.kv_heads % 4:  # ranks without heads of keys
        del cases["all-to-all x TP"]
    return cases


def solve_command(model: str, kind: str) -> str:
    """The command that makes the plan of a case."""
    fields = dict(pin.split("=") for pin in cases_of(model)[kind])
    degrees = ("tensor_parallel", "pipeline_parallel", "data_parallel")
    gpus = int(fields.get("sequence_parallel_degree", "1"))
    for degree in degrees:
        gpus *= int(fields.setdefault(degree, "1"))
    pins = " ".join(f"--pin {field}={value}" for field, value in fields.items())
    allowed = f" --allow-offload {fields['offload.tier']}" if "offload.tier" in fields else ""
    precision = "" if model == GPT2 else " --precision bf16"
    return f"gptplan solve --model {model} --gpus {gpus}{precision} {pins}{allowed} -o some.plan"


def _verified(model: str, kind: str, folder: Path, *more: str) -> dict[str, Any]:
    """What `verify` found; with a workaround switched off, the library's own error if it stops."""
    _gptplan(solve_command(model, kind).split()[1:], folder)
    done = _run(["verify", "some.plan", "--json", *more], folder)
    if more and done.returncode > 1:
        said = [line.strip() for line in done.stderr.splitlines() if line.startswith("  ") and "-->" not in line]
        return {"stops": said[0]}
    return {**json.loads(_answer(done))}


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
    return _answer(_run([*arguments, "--force"] if arguments[0] == "solve" else arguments, folder))


def _run(arguments: list[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "planner.cli.app", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def _answer(done: "subprocess.CompletedProcess[str]") -> str:
    if done.returncode > 1 or not done.stdout:
        raise SystemExit(f"{' '.join(done.args)}\n{done.stderr}")
    return done.stdout


def _tolerances() -> str:
    rows = [
        f"| {p} | {t.loss:.0e} | {t.gradient:.0e} | {t.replicas:.0e} | {t.routing:.0e} |" for p, t in TOLERANCES.items()
    ]
    head = "| precision | loss | gradient | between ranks | tokens to other experts |\n|---|---|---|---|---|"
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
        "page. `tests/runtime/engines/test_committed_plans.py` compares the chunks of these plans on processor cores, "
        "without their offload.\n",
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


def _cases(found: dict[str, dict[str, dict[str, Any]]]) -> str:
    lines = [
        "## Other kinds of layout\n",
        "The same, with the plan of the command; `gptplan verify some.plan` prints every step. Beside these, "
        "`tests/runtime/engines/test_families.py` compares every family with each kind of layout, untied heads, "
        "vocabularies that are padded, and parts that these models do not have; "
        "`tests/runtime/engines/test_experts.py` has those of experts, and the loss that balances them, and "
        "`tests/runtime/engines/test_zero_bubble.py` those of a zero-bubble V.\n",
    ]
    for model, cases in found.items():
        rows = (f"{kind} | `{solve_command(model, kind)}` | {_figures(one)}" for kind, one in cases.items())
        lines += [
            f"### {TITLES[model]}: `{model}`\n",
            "| layout | plan | precision | loss | gradient | in | between ranks | verified |",
            "|---|---|---|---|---|---|---|---|",
            *(f"| {row} |" for row in rows),
            "",
        ]
    return "\n".join(lines)


def _errors(broken: list[dict[str, Any]]) -> str:
    lines = [
        "## Errors that are found\n",
        "Colossal-AI 0.5.0 makes these errors, most without a word; gptplan's runtime puts them right. With "
        "`gptplan verify some.plan --without NAME` a workaround is off, and the error is found.\n",
        "| switched off | what it is | model | layout | loss in step 1 | gradient | in | between ranks | verified |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for (name, model, kind), document in zip(ERRORS, broken, strict=True):
        lines.append(f"| {name} | {WORKAROUNDS[name]} | `{model}` | {kind} | {_first_step(document)} |")
    return "\n".join([*lines, ""])


def _first_step(document: dict[str, Any]) -> str:
    if "stops" in document:
        return f"| | | | no: {document['stops']}"
    first = document["steps"][0]
    return (
        f"{first['loss_difference']:.1e} | {first['gradient']['value']:.1e} | `{first['gradient']['parameter']}` | "
        f"{first['replicas']['value']:.1e} | {'yes' if document['verified'] else 'no'}"
    )


def _on_gpus() -> str:
    record = GPU_RECORD.read_text(encoding="utf-8")
    text = (
        "## On GPUs\n\n"
        "ZeRO stage 3 through Gemini needs GPUs. No A100 and no four H100 were to be had. On two H200 with torch "
        "2.11, over NCCL, the command printed what follows, with weights and optimizer on the device and with half of "
        "the optimizer on the host. With all of both on the host, as in the plans of the tables, "
        "`tests/runtime/engines/test_gpu_modes.py` passed there, which compares losses and the norms of gradients. "
        "Moments on NVMe were compared by their losses, which were within 3.5e-4 under ZeRO 1 and with half of the "
        "optimizer under ZeRO 3; with the weights on the host too they have not run on a GPU.\n"
    )
    return f"{text}\n```text\n{record}```\n"


if __name__ == "__main__":
    main()
