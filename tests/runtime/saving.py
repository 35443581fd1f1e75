"""Engines that save, load and go on, for tests; each with other initial weights than the run that it goes on from."""

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from planner.checkpoints.manifest import Facts
from planner.layouts.layout import SHARDS_WEIGHTS
from planner.plans.plan import Plan
from tests.runtime.training import SEED, Batch

OTHER_SEED = 99
RATE = 1e-2


def batch_of(plan: Plan, step: int, rows: slice) -> Batch:
    """Rows of the global batch of a step: counting from random tokens, of which every layout sees the same."""
    generator = torch.Generator().manual_seed(SEED + step)
    start = torch.randint(0, 64, (plan.problem.global_batch, 1), generator=generator)
    tokens = ((start + torch.arange(plan.problem.seq_len + 1)) % 64)[rows]
    return {"input_ids": tokens[:, :-1].contiguous(), "labels": tokens[:, 1:].contiguous()}


def make(plan: Plan, seed: int = OTHER_SEED, nvme_folder: Path | None = None) -> Any:
    """An engine of the plan on the CPU, ZeRO stage 3 too."""
    from runtime.engines.choice import make_engine

    if plan.layout.zero_stage == SHARDS_WEIGHTS:
        from runtime.engines import gemini
        from tests.runtime.host_gemini import divide_on_host, host_plugin

        if vars(gemini)["gemini_plugin"] is not host_plugin:
            divide_on_host()
            vars(gemini)["gemini_plugin"] = host_plugin
        return gemini.GeminiEngine(plan, "cpu", seed=seed, learning_rate=RATE)
    if plan.layout.offload.tier != "nvme":
        return make_engine(plan, seed=seed, learning_rate=RATE)
    assert nvme_folder is not None
    folder = nvme_folder / f"moments-{uuid.uuid4()}"  # of this rank: each looks for a folder of its number
    folder.mkdir(parents=True)
    return make_engine(plan, seed=seed, learning_rate=RATE, nvme_folder=folder)


def go_on(engine: Any, plan: Plan, steps: range) -> list[float]:
    """The losses of some steps."""
    found = []
    for step in steps:
        engine.seed_step(SEED, step)
        found.append(engine.step(batch_of(plan, step, engine.rows)))
    return found


def facts(plan: Plan) -> Facts:
    """What a run would say of itself."""
    return Facts(
        step=0,
        consumed_sequences=0,
        optimizer_step=0,
        seed=SEED,
        precision=plan.layout.precision,
        model=plan.problem.model,
        plan_digest=plan.digest,
        gptplan_version="test",
        versions={},
    )


def save(engine: Any, plan: Plan, folder: Path, step: int, *, asynchronous: bool = False) -> Path:
    """Save as after ``step`` steps; the folder of the checkpoint."""
    from runtime.checkpoints.saving import Progress, Saver

    saver = Saver(engine, folder, facts(plan), asynchronous=asynchronous)
    saved = saver.save(Progress(step, step * plan.problem.global_batch)) or saver.finish()
    assert saved is not None
    assert saved.written.failure is None, saved.written.failure
    return saved.written.folder


def tensors(checkpoint: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of a checkpoint by kind and name."""
    from safetensors import safe_open

    for path in sorted(checkpoint.glob("*.safetensors")):
        kind = path.name.partition("-")[0]
        with safe_open(path, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - it is no mapping
                yield f"{kind} {name}", opened.get_tensor(name)


def bit_differences(one: Path, other: Path) -> list[str]:
    """Tensors that are not bit-equal."""
    mine, theirs = dict(tensors(one)), dict(tensors(other))
    return [name for name in sorted(mine.keys() | theirs.keys()) if not _equal(mine.get(name), theirs.get(name))]


def _equal(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    return one is not None and other is not None and one.shape == other.shape and torch.equal(one, other)
