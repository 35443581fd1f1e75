"""The variables that a launched run needs, each with why and where it is from."""

from typing import NamedTuple

from planner.plans.plan import Plan

GUIDE = "Run GPT With Colossal-AI, run.sh"
NCCL = "NCCL user guide, environment variables"


class Setting(NamedTuple):
    """One environment variable."""

    name: str
    value: str
    why: str
    source: str


def settings(plan: Plan) -> tuple[Setting, ...]:
    """What NCCL is told for this plan: nothing on cores, where gloo communicates, and on a single GPU."""
    layout, problem = plan.layout, plan.problem
    if problem.hardware.device != "cuda" or layout.num_devices == 1:
        return ()
    return (*_IN_A_NODE, *(_BETWEEN_NODES if problem.num_nodes > 1 else ()))


_IN_A_NODE = (
    Setting(
        "NCCL_ALGO",
        "Ring",
        "the plan's times of collectives are those of rings",
        f"{GUIDE}; Thakur et al. 2005, in the cost model",
    ),
    Setting(
        "NCCL_P2P_LEVEL",
        "PXB",
        "GPUs copy to each other over NVLink and PCI switches, not through the processor",
        f"{GUIDE}, where it is 2, which {NCCL} calls PXB",
    ),
)
_BETWEEN_NODES = (
    Setting(
        "NCCL_NET_GDR_LEVEL",
        "SYS",
        "network cards read and write GPU memory themselves, however far they are from the GPU",
        f"{GUIDE}, where it is 5, which {NCCL} calls SYS",
    ),
    Setting(
        "NCCL_CROSS_NIC",
        "1",
        "a ring may leave a node by another network card than it came in; 0 if every card has switches of its own",
        f"{GUIDE}; {NCCL}",
    ),
)

CONNECTIONS = Setting(
    "CUDA_DEVICE_MAX_CONNECTIONS",
    "1",
    "kernels start in the order of their launches, so that communication overlaps products",
    "Megatron-LM, megatron/training/arguments.py, validate_args",
)
"""What Megatron-LM asks of tensor parallelism."""
