"""The best layout of a problem, proven, or the reason why there is none."""

from planner.solver.solve import Answer, solve

__all__ = ["Answer", "solve"]
