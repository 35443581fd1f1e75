"""A training script for Colossal-AI that runs without gptplan, of the layouts that it can hold in a readable way."""

import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from planner.data.token_files import token_type_of
from planner.diagnostics import Diagnostic, ExitCode, PlanError, escaped
from planner.export.launching import check_runs, header_values
from planner.export.options import ExportOptions
from planner.export.rendering import WIDTH, filled
from planner.jobs.batches import batches_of
from planner.jobs.job import Job
from planner.jobs.reading import read_job
from planner.launch.machine import TRANSFORMERS_VERSION
from planner.layouts.degrees import GRID_MODES
from planner.layouts.layout import SHARDS_GRADIENTS, SHARDS_WEIGHTS
from planner.plans.plan import Plan

RULE = "EXP001"
_ACTIVATIONS = {"gelu": "gelu", "gelu-tanh": "gelu_pytorch_tanh", "silu": "silu", "relu": "relu"}
"""What transformers calls the functions of a spec."""


def python(plan: Plan, path: Path, options: ExportOptions) -> str:
    """The script of a plan in ``path``, with what its job says of optimizer, schedule and seed.

    Raises:
        PlanError: the plan or the job needs what gptplan corrects in Colossal-AI and a script cannot hold.
    """
    check_runs(plan)
    job = read_job(options.job, options.settings)
    if refused := [*_beyond(plan), *_beyond_job(job)]:
        raise PlanError(*refused, exit_code=ExitCode.NEGATIVE)
    return filled("train.py.j2", **_values(plan, path, job))


def _values(plan: Plan, path: Path, job: Job) -> dict[str, Any]:
    layout, problem = plan.layout, plan.problem
    divided = layout.tensor_parallel > 1 or layout.pipeline_parallel > 1
    return {
        "about": _about(header_values(plan, path)),
        "layout": layout,
        "model": problem.model,
        "activation": _ACTIVATIONS[problem.model.mlp.activation],
        "hardware": problem.hardware.name,
        "device": problem.hardware.device,
        "devices": layout.num_devices,
        "nodes": problem.num_nodes,
        "per_node": min(problem.devices_per_node, layout.num_devices),
        "on_last_node": layout.num_devices - (problem.num_nodes - 1) * problem.devices_per_node,
        "seq_len": problem.seq_len,
        "vocab_multiple": problem.stack.vocab_multiple,
        "stack_version": problem.stack.version,
        "transformers": TRANSFORMERS_VERSION,
        "token_type": token_type_of(problem.model.vocab_size),
        "job": job,
        "steps": batches_of(job, problem).steps,
        "policy": divided,
        "recompute": any(layout.recompute_layers_per_stage),
        "sequence_parallel": layout.sequence_parallel,
        "replicated_dropout": layout.sequence_parallel and problem.model.dropout > 0,
    }


def _about(header: Mapping[str, Any]) -> str:
    """Where the script is from, as a part of its docstring."""
    written = f"Written by gptplan {header['version']} (`gptplan export`) from {header['source']},"
    shown = [escaped(line).replace("\\", "/").replace('"', "'") for line in (written, f"{header['summary']}.")]
    first, last = ("\n".join(textwrap.wrap(line, WIDTH)) for line in shown)
    return f"{first}\n{header['digest']}\n{last}"


def _beyond(plan: Plan) -> Iterator[Diagnostic]:
    """What of a plan gptplan corrects in Colossal-AI and a script cannot hold."""
    layout, problem = plan.layout, plan.problem
    if problem.model.family != "gpt2":
        yield _refused(
            f"the model is of the family {problem.model.family}",
            "Colossal-AI's forward of rotary models loses causality under sequence parallelism and rounds wave lengths "
            "in bf16; gptplan has a forward of its own",
        )
    if layout.schedule == "zbv":
        yield _refused(
            "schedule zbv",
            "Colossal-AI keeps the weight gradients of one micro batch alone under it, and puts GPT-2's last norm on "
            "another device than the head; gptplan corrects both, and has an order of work of its own",
        )
    if layout.tensor_mode in GRID_MODES:
        yield _refused(
            f"tensor mode {layout.tensor_mode}",
            "Colossal-AI has single layers for it and no model of them; gptplan's blocks are its own",
        )
    if layout.zero_stage == SHARDS_WEIGHTS:
        yield _refused(
            "ZeRO stage 3",
            "Gemini counts shares of offload once for every parameter in a chunk, and adds gradients of a step that it "
            "skipped to the next; gptplan corrects both",
        )
    if layout.recompute_pointwise:
        yield _refused(
            "pointwise recomputation",
            "PyTorch's compiler does it in blocks that gptplan has it compile; `solve --no-compile` plans without",
        )
    if layout.offload.tier == "nvme":
        yield _refused("offload to NVMe", "tensornvme has to be given room for the moments before the first step")
    summed_early = layout.sequence_parallel and layout.zero_stage == SHARDS_GRADIENTS and layout.num_microbatches > 1
    if summed_early:
        yield _refused(
            "ZeRO stage 2 with sequence parallelism and several micro batches",
            "Colossal-AI sums the accumulated gradients over the sequence again after every micro batch; gptplan does "
            "so once",
        )


def _beyond_job(job: Job) -> Iterator[Diagnostic]:
    if job.optimizer.clip_norm:
        yield _refused(
            f"optimizer.clip_norm {job.optimizer.clip_norm:g}",
            "Colossal-AI counts replicas of tensor parallelism, a tied head and padding of the vocabulary more than "
            "once in the norm; gptplan counts every parameter once",
        )
    if job.schedule.ramp_start:
        yield _refused(
            f"schedule.ramp_start {job.schedule.ramp_start}",
            "Colossal-AI's pipeline keeps the shapes of its first step; gptplan has it forget them where a batch grows",
        )
    if job.data.documents == "apart":
        yield _refused('data.documents "apart"', "gptplan's attention over stacks of documents is its own")


def _refused(what: str, why: str) -> Diagnostic:
    return Diagnostic(
        rule=RULE,
        message=f"a script without gptplan cannot have this: {what}",
        detail=why,
        hint="run it with gptplan: `--to slurm`, `--to torchrun`, `--to kubernetes` or `--to ssh`",
    )
