"""How fast the host of a machine is beside the one that a stack's host times were measured on."""

from planner.cost_model.sources import formula
from planner.layouts.problem import Problem


@formula("definition")
def host_slowness(problem: Problem) -> float:
    """How many times as long the machine's host takes for the same Python and launches; 1 where that is not known.

    The time in which a host issues forward and backward of one block of Hugging Face's GPT-2, over that of the host
    on which the stack's host times were measured.
    """
    own, measured = problem.hardware.host.gpt2_block_s, problem.stack.traffic.gpt2_block_s
    return 1.0 if not own or not measured else float(own) / float(measured)
