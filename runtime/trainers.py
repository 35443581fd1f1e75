"""Which trainer executes a plan."""

from functools import partial
from pathlib import Path
from typing import Any

from planner.plan import Plan
from planner.rules.states import SHARDS_WEIGHTS
from runtime.booster import Trainer
from runtime.gemini import GeminiTrainer
from runtime.optimizers import host_adam
from runtime.support import GRID_MODES
from runtime.trainer import PlanTrainer


def make_trainer(plan: Plan, *, seed: int, learning_rate: float, nvme_folder: Path | None = None) -> PlanTrainer:
    """The trainer of this rank on the device of the plan.

    ``nvme_folder`` is where the moments of the optimizer go if the plan offloads them to NVMe.

    Raises:
        PlanError: the runtime cannot execute the plan's layout.
    """
    if plan.layout.tensor_mode in GRID_MODES:
        from runtime.grid.trainer import GridTrainer  # the legacy package takes a second to import

        return GridTrainer(plan, plan.problem.hardware.device, seed=seed, learning_rate=learning_rate)
    kind = GeminiTrainer if plan.layout.zero_stage == SHARDS_WEIGHTS else Trainer
    chosen: dict[str, Any] = {}
    if plan.layout.offload.tier == "nvme":
        chosen["optimizer"] = partial(host_adam, nvme_folder=nvme_folder)
    return kind(plan, plan.problem.hardware.device, seed=seed, learning_rate=learning_rate, **chosen)
