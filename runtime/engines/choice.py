"""Which engine executes a plan."""

from functools import partial
from pathlib import Path
from typing import Any

from torch.optim import Optimizer

from planner.diagnostics import PlanError, usage_error
from planner.handover.work import NVME_FOLDER
from planner.jobs.documents import no_documents
from planner.layouts.degrees import GRID_MODES
from planner.layouts.layout import SHARDS_WEIGHTS
from planner.plans.plan import Plan
from runtime.engines.engine import Engine
from runtime.engines.gemini import GeminiEngine
from runtime.engines.hybrid import HybridEngine
from runtime.states.optimizers import host_adam


def make_engine(
    plan: Plan,
    *,
    seed: int,
    learning_rate: float,
    nvme_folder: Path | None = None,
    optimizer: type[Optimizer] | None = None,
    end_of_document: int | None = None,
) -> Engine:
    """The engine of this rank on the device of the plan.

    ``nvme_folder`` is where the moments of the optimizer go if the plan offloads them to NVMe.
    ``optimizer`` replaces AdamW; what offloads or has chunks takes no other. With ``end_of_document`` the documents of
    a sequence, which end with that token, are kept apart.

    Raises:
        PlanError: the runtime cannot execute the plan's layout.
    """
    device = plan.problem.hardware.device
    chosen: dict[str, Any] = {} if optimizer is None else {"optimizer": optimizer}
    if plan.layout.tensor_mode in GRID_MODES:
        if end_of_document is not None:
            raise PlanError(*no_documents(plan.layout))
        from runtime.engines.grid import GridEngine  # the legacy package takes a second to import

        return GridEngine(plan, device, seed=seed, learning_rate=learning_rate, **chosen)
    chosen["end_of_document"] = end_of_document
    kind = GeminiEngine if plan.layout.zero_stage == SHARDS_WEIGHTS else HybridEngine
    if plan.layout.offload.tier != "nvme":
        return kind(plan, device, seed=seed, learning_rate=learning_rate, **chosen)
    if nvme_folder is None:
        raise usage_error(
            "the plan offloads to NVMe, and no folder is named",
            location=NVME_FOLDER,
            rule="RUN005",
            hint="start the workers with `gptplan run --nvme-path FOLDER`",
        )
    from runtime.states.nvme import reserve_moments  # here, because it needs tensornvme

    in_folder = partial(host_adam, nvme_folder=nvme_folder)
    chosen["optimizer"] = in_folder
    engine = kind(plan, device, seed=seed, learning_rate=learning_rate, **chosen)
    reserve_moments(engine.optimizer)
    return engine
