"""The best layout of a problem, proven, or the reason why there is none."""

from planner.solver.answer import Answer
from planner.solver.min_devices import solve_least_devices
from planner.solver.search import solve

__all__ = ["Answer", "solve", "solve_least_devices"]
