"""Which trainer executes a plan."""

from functools import partial
from pathlib import Path
from typing import Any

from torch.optim import Optimizer

from planner.diagnostics import usage_error
from planner.launch.workers import NVME_FOLDER
from planner.layouts.degrees import GRID_MODES
from planner.layouts.layout import SHARDS_WEIGHTS
from planner.plans.plan import Plan
from runtime.train.booster import Trainer
from runtime.train.gemini import GeminiTrainer
from runtime.train.optimizers import host_adam
from runtime.train.trainer import PlanTrainer


def make_trainer(
    plan: Plan,
    *,
    seed: int,
    learning_rate: float,
    nvme_folder: Path | None = None,
    optimizer: type[Optimizer] | None = None,
) -> PlanTrainer:
    """The trainer of this rank on the device of the plan.

    ``nvme_folder`` is where the moments of the optimizer go if the plan offloads them to NVMe.
    ``optimizer`` replaces AdamW; what offloads or has chunks takes no other.

    Raises:
        PlanError: the runtime cannot execute the plan's layout.
    """
    device = plan.problem.hardware.device
    chosen: dict[str, Any] = {} if optimizer is None else {"optimizer": optimizer}
    if plan.layout.tensor_mode in GRID_MODES:
        from runtime.grid.trainer import GridTrainer  # the legacy package takes a second to import

        return GridTrainer(plan, device, seed=seed, learning_rate=learning_rate, **chosen)
    kind = GeminiTrainer if plan.layout.zero_stage == SHARDS_WEIGHTS else Trainer
    if plan.layout.offload.tier != "nvme":
        return kind(plan, device, seed=seed, learning_rate=learning_rate, **chosen)
    if nvme_folder is None:
        raise usage_error(
            "the plan offloads to NVMe, and no folder is named",
            location=NVME_FOLDER,
            rule="RUN005",
            hint="start the workers with `gptplan run --nvme-path FOLDER`",
        )
    from runtime.train.nvme import reserve_moments  # here, because it needs tensornvme

    in_folder = partial(host_adam, nvme_folder=nvme_folder)
    trainer = kind(plan, device, seed=seed, learning_rate=learning_rate, optimizer=in_folder)
    reserve_moments(trainer.optimizer)
    return trainer
