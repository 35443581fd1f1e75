"""Rules that the cost model decides: what has to fit, and where."""

from typing import Any

from planner.layout import Layout
from planner.problem import Problem
from planner.rules.rule import Rule


def _values(problem: Problem, layout: Layout) -> dict[str, Any]:
    return {
        "hardware": problem.hardware.name, "tensor_parallel": layout.tensor_parallel,
        "pipeline_parallel": layout.pipeline_parallel, "data_parallel": layout.data_parallel,
        "num_devices": problem.num_devices,
    }  # fmt: skip


DEVICE_MEMORY = Rule(
    id="MEM001",
    title="a stage does not fit the device",
    field="layers_per_stage",
    message="the fullest stage needs {need} on {hardware}, and {room} can be used",
    detail="TP {tensor_parallel} x PP {pipeline_parallel} x DP {data_parallel}: stage {stage} peaks at {peak} in "
    "its {phase} phase, {reserve} is reserved, the device gives {capacity}",
    hint="use more GPUs, a larger card, `--allow-offload cpu` or a smaller `--reserve`",
    values=_values,
    why="A rank that allocates more than the device has ends the run.",
    source="memory model: planner/cost_model/memory.py",
)

HOST_MEMORY = Rule(
    id="MEM002",
    title="offloaded states do not fit the host",
    field="offload.optimizer",
    message="the ranks of a node need {need} on a host with {capacity}",
    detail="TP {tensor_parallel} x PP {pipeline_parallel} x DP {data_parallel} on {num_devices} GPUs",
    hint="use more nodes, or offload less",
    values=_values,
    why="The processes of a node, what they offload and their pinned copies share one host memory.",
    source="memory model: planner/cost_model/host.py",
)

NVME = Rule(
    id="MEM003",
    title="offloaded moments do not fit the NVMe drives",
    field="offload.optimizer",
    message="the ranks of a node keep {need} on NVMe drives of {capacity}",
    detail="TP {tensor_parallel} x PP {pipeline_parallel} x DP {data_parallel} on {num_devices} GPUs",
    hint="use more nodes, or offload less",
    values=_values,
    why="The moments of all ranks of a node share its drives.",
    source="memory model: planner/cost_model/host.py",
)

RULES = (DEVICE_MEMORY, HOST_MEMORY, NVME)
