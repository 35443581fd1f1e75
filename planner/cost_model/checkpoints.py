"""What a checkpoint takes: room on the drive, host memory, and time."""

from typing import NamedTuple

from planner.cost_model.parameters import model_parameters
from planner.cost_model.sources import formula
from planner.layouts.layout import Layout
from planner.layouts.problem import Problem
from planner.specs import ModelSpec

SAVED_BYTES = 12
"""Of a parameter: its float32 weight and two moments."""
ASSEMBLED_COPIES = 3
"""Of the parameter that a rank puts together: what has come, the whole, and what is on its way to the drive."""
ELEMENT_BYTES = 4


class CheckpointCost(NamedTuple):
    """Of one checkpoint of a layout."""

    num_bytes: int
    """On the drive."""
    copied_bytes: int
    """Host memory of a rank for copies that are written while training goes on: the largest stage's mean."""
    assembled_bytes: int
    """Host memory of a rank for the parameter that it puts together."""
    stall_s: float
    """How long training stands still while the copies are made."""
    write_s: float
    """From the copies to the drives of all nodes, at the rate at which these write."""

    def host_bytes(self, ranks: int) -> int:
        """Host memory of a node with so many ranks."""
        return ranks * (self.copied_bytes + self.assembled_bytes)


@formula("definition")
def checkpoint_cost(problem: Problem, layout: Layout) -> CheckpointCost:
    """Room, host memory and time of a checkpoint, without the time of putting tensors together.

    ``12 P`` bytes of ``P`` parameters on the drive. The stage with most parameters ``P_s`` copies them once over its
    ``tensor x data`` ranks, each over its own link to the host: ``12 P_s / (tensor x data)``. The drives of all nodes
    write side by side.
    """
    parameters, host = model_parameters(problem.model), problem.hardware.host
    largest = _largest_stage(parameters, problem.model, layout) / (layout.tensor_parallel * layout.data_parallel)
    num_bytes, copied = SAVED_BYTES * sum(parameters.values()), SAVED_BYTES * largest
    assembled = ASSEMBLED_COPIES * ELEMENT_BYTES * _largest_parameter(problem.model)
    on_device = problem.hardware.device == "cuda"
    link = host.device_bandwidth_bytes_per_s if on_device else host.memory_bandwidth_bytes_per_s
    write_s = num_bytes / (problem.num_nodes * host.nvme_write_bytes_per_s)
    return CheckpointCost(num_bytes, round(copied), assembled, copied / link, write_s)


def _largest_stage(parameters: dict[str, int], model: ModelSpec, layout: Layout) -> float:
    per_layer = parameters["layers"] / model.num_layers
    stages = [layers * per_layer for layers in layout.layers_per_stage]
    stages[0] += parameters["token_embedding"] + parameters["position_embedding"]
    stages[-1] += parameters["final_norm"] + parameters["head"]  # a tied head is the first stage's to save
    return max(stages)


def _largest_parameter(model: ModelSpec) -> int:
    widest = max(model.vocab_size, model.ffn_hidden_size, model.query_size + 2 * model.kv_size)
    return widest * model.hidden_size
