"""Rules that the cost model decides: what has to fit, and where."""

from typing import Any

from planner.diagnostics import Diagnostic
from planner.layouts.layout import Layout
from planner.layouts.problem import Problem
from planner.plans.prediction import Prediction
from planner.rules.rule import Rule
from planner.specs.units import format_gib


def _values(problem: Problem, layout: Layout) -> dict[str, Any]:
    return {
        "hardware": problem.hardware.name,
        "tensor_parallel": layout.tensor_parallel,
        "pipeline_parallel": layout.pipeline_parallel,
        "data_parallel": layout.data_parallel,
        "num_devices": problem.num_devices,
    }


DEVICE_MEMORY = Rule(
    id="MEM001",
    title="a stage does not fit the device",
    field="layers_per_stage",
    message="the fullest stage needs {need} on {hardware}, and {room} can be used",
    detail="TP {tensor_parallel} x PP {pipeline_parallel} x DP {data_parallel}: stage {stage} peaks at {peak} in "
    "its {phase} phase, {reserve} is reserved, the device gives {capacity}",
    hint="use more GPUs, a larger card, `{field.allow_offload} cpu` or a smaller `{field.reserve}`",
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


def misfits(problem: Problem, layout: Layout, predicted: Prediction) -> list[Diagnostic]:
    """What of a predicted layout does not fit: the fullest stage on the device, the offloaded states on the host."""
    stages = enumerate(predicted.stages)
    number, fullest = max(stages, key=lambda at: at[1].peak_bytes + at[1].reserve_bytes - at[1].capacity_bytes)
    room = fullest.capacity_bytes - fullest.reserve_bytes
    found = []
    if fullest.peak_bytes > room:
        found.append(
            DEVICE_MEMORY.diagnose(
                problem,
                layout,
                stage=number,
                phase=fullest.peak_phase,
                need=format_gib(fullest.peak_bytes),
                peak=format_gib(fullest.peak_bytes),
                room=format_gib(room),
                reserve=format_gib(fullest.reserve_bytes),
                capacity=format_gib(fullest.capacity_bytes),
            )
        )
    host = problem.hardware.host.memory_bytes
    if predicted.host_bytes_per_node > host:
        found.append(
            HOST_MEMORY.diagnose(
                problem, layout, need=format_gib(predicted.host_bytes_per_node), capacity=format_gib(host)
            )
        )
    drives = problem.hardware.host.nvme_capacity_bytes
    if predicted.nvme_bytes_per_node > drives:
        found.append(
            NVME.diagnose(problem, layout, need=format_gib(predicted.nvme_bytes_per_node), capacity=format_gib(drives))
        )
    return found
