"""One rank on a GPU, started by torchrun: trains the fixed batches by a plan and writes what it measured.

``python -m torch.distributed.run --standalone --nproc-per-node=N -m tests.runtime.gpu_ranks PLAN OUTPUT``
"""

import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from planner.plans.plan import read_plan
from tests.runtime.training import GPU_LEARNING_RATE, SEED, own_batches


def main(plan_path: str, output: str) -> None:
    """Train; rank 0 writes losses, gradient norms by parameter where Gemini trains, and peak memory."""
    from runtime.patches.host_accelerator import adapt

    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    adapt("cuda")
    dist.init_process_group("nccl")
    from runtime.engines.choice import make_engine

    plan = read_plan(Path(plan_path))
    folder = os.environ.get("NVME_FOLDER")
    engine = make_engine(
        plan, seed=SEED, learning_rate=GPU_LEARNING_RATE, nvme_folder=None if folder is None else Path(folder)
    )
    held = torch.cuda.memory_allocated()
    losses, norms = [], {}
    for number, batch in enumerate(own_batches(engine, plan)):
        losses.append(engine.step(batch))
        if number == 0 and plan.layout.zero_stage == 3 and folder is None:
            norms = gradient_norms(engine)
    found = {"losses": losses, "norms": norms, "held": held, "peak": torch.cuda.max_memory_allocated()}
    if dist.get_rank() == 0:
        Path(output).write_text(json.dumps(found))
    dist.barrier()


def gradient_norms(engine: Any) -> dict[str, float]:
    """Norm of the gradient of each parameter in the first step, read from Adam's first moments.

    After one step they are the gradient times ``1 - beta``, and every rank has a part of them. fp16
    gradients are scaled when they are summed, not any more in the moments.
    """
    optimizer = engine.optimizer
    beta = optimizer.param_groups[0]["betas"][0]
    norms = {}
    numbers = {id(parameter): number for number, parameter in optimizer.id_to_real_params.items()}
    for name, parameter in engine.model.module.named_parameters():
        number = numbers[id(parameter)]
        total = torch.zeros((), dtype=torch.float64, device=engine.device)
        if number in optimizer.id_to_fake_params:
            moment = optimizer.optim.state[optimizer.id_to_fake_params[number]]["exp_avg"]
            total += moment.double().square().sum().to(engine.device)
        dist.all_reduce(total)
        norms[name] = math.sqrt(float(total)) / (1 - beta)
    return norms


if __name__ == "__main__":
    main(*sys.argv[1:])
    sys.stdout.flush()
    os._exit(0)
