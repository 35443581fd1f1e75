"""The exported training script runs without gptplan, with the losses of gptplan's own engine on the same tokens."""

import contextlib
import importlib.util
import io
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from planner.export.options import ExportOptions
from planner.export.targets import TARGETS
from planner.plans.plan import Plan
from tests.runtime.training import MakePlan, Ranks

pytestmark = pytest.mark.runtime

STEPS = 3
SETTINGS = (
    f"schedule.steps={STEPS}",
    "schedule.warmup_steps=2",
    "schedule.kind=cosine",
    "optimizer.learning_rate=0.01",
)
LAYOUTS: dict[str, dict[str, Any]] = {
    "ddp": {"data_parallel": 2, "num_microbatches": 2},
    "zero1": {"data_parallel": 2, "zero_stage": 1, "precision": "bf16", "num_microbatches": 2},
    "zero2": {"data_parallel": 2, "zero_stage": 2, "precision": "bf16", "num_microbatches": 2},
    "tensor": {"tensor_parallel": 2, "recompute_layers_per_stage": (2,)},
    "slices": {
        "tensor_parallel": 2,
        "sequence_parallel": True,
        "recompute_layers_per_stage": (1,),
        "model": {"dropout": 0.1},
    },
    "uneven": {"pipeline_parallel": 2, "layers_per_stage": (3, 1), "recompute_layers_per_stage": (1, 0)},
    "interleaved": {"pipeline_parallel": 2, "schedule": "interleaved", "num_model_chunks": 2, "num_microbatches": 4},
}


def export(plan: Plan, folder: Path, *more: str) -> Path:
    script = folder / "train.py"
    options = ExportOptions(settings=(*SETTINGS, *more))
    script.write_text(TARGETS["python"].text_of(plan, Path("small.plan"), options))
    return script


def tokens(folder: Path) -> Path:
    path = folder / "tokens.bin"
    np.random.default_rng(0).integers(0, 64, 4000).astype(np.uint16).tofile(path)
    return path


def losses(printed: str) -> list[float]:
    return [float(loss) for loss in re.findall(r"^step \d+: loss ([\d.]+)", printed, re.MULTILINE)]


def load(script: Path) -> Any:
    spec = importlib.util.spec_from_file_location("exported", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_in_rank(script: Path, *arguments: str) -> list[float]:
    """What the script prints as one of the ranks that are there already, whose group it takes for its own."""
    import torch.distributed as dist

    printed, group = io.StringIO(), {"init_process_group": mock.DEFAULT, "destroy_process_group": mock.DEFAULT}
    argv = ["train.py", *arguments]
    with mock.patch.multiple(dist, **group), mock.patch.object(sys, "argv", argv), contextlib.redirect_stdout(printed):
        load(script).main()
    return losses(printed.getvalue())


def of_engine(plan: Plan, script: Path, data: Path) -> list[float]:
    """The losses of gptplan's engine on the batches of the script."""
    from planner.jobs.reading import read_job
    from runtime.engines.choice import make_engine

    exported, job = load(script), read_job(None, SETTINGS)
    engine = make_engine(plan, seed=job.seed, learning_rate=job.optimizer.learning_rate)
    engine.set_optimizer(job.optimizer)
    found, rows = [], exported.Tokens(data)
    for step in range(STEPS):
        engine.set_learning_rate(exported.learning_rate_at(step))
        engine.seed_step(job.seed, step)
        found.append(engine.step(rows.batch(step, engine.position.data)))
    return found


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_script_has_the_losses_of_gptplan(plan: MakePlan, ranks: Ranks, tmp_path: Path, name: str) -> None:
    made = plan(**LAYOUTS[name])
    script, told, saving = (
        export(made, tmp_path),
        ("--data", str(tokens(tmp_path))),
        ("--checkpoints", str(tmp_path / "c")),
    )

    def three(rank: int) -> tuple[list[float], ...]:
        whole = run_in_rank(script, *told)
        halves = run_in_rank(script, *told, *saving, "--steps", str(STEPS - 1)) + run_in_rank(script, *told, *saving)
        return whole, of_engine(made, script, tmp_path / "tokens.bin"), halves

    (whole, expected, halves), *_ = ranks(2, three)
    assert len(whole) == STEPS
    assert whole == pytest.approx(expected, abs=1e-6)
    assert halves == pytest.approx(whole, abs=1e-6)
    assert whole[0] != pytest.approx(whole[-1], abs=1e-3)


def test_it_runs_under_torchrun_without_gptplan(plan: MakePlan, tmp_path: Path) -> None:
    script, data = export(plan(data_parallel=2), tmp_path), tokens(tmp_path)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", script.name]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [*command, "--data", data.name],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(losses(done.stdout)) == STEPS
    assert not re.search(r"^\s*(import|from) (planner|runtime)\b", script.read_text(), re.MULTILINE)
