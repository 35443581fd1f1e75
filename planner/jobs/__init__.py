"""What is learned: the job of a run, its sections, its schedules, and whether a plan can execute it.

A plan decides the layout, a job the rest. Nothing here imports PyTorch.
"""

from planner.jobs.job import Job

__all__ = ["Job"]
