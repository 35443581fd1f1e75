"""The pipeline schedules as orders of tasks, written from their definition, and the time they take."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import networkx as nx


class Task(NamedTuple):
    """Forward or backward of one micro batch in one virtual stage (chunk * stages + stage)."""

    is_forward: bool
    virtual_stage: int
    microbatch: int


def order_1f1b(stage: int, stages: int, microbatches: int) -> list[Task]:
    """Warm up with the stages behind this one, then alternate, then drain."""
    warmup = min(stages - stage - 1, microbatches)
    forward = [Task(True, stage, m) for m in range(microbatches)]
    backward = [Task(False, stage, m) for m in range(microbatches)]
    return alternate(forward, backward, warmup)


def order_interleaved(stage: int, stages: int, chunks: int, microbatches: int) -> list[Task]:
    """Groups of as many micro batches as stages go through one chunk after another."""
    total = microbatches * chunks
    warmup = min(2 * (stages - stage - 1) + (chunks - 1) * stages, total)
    round_of = stages * chunks
    places = [(index // stages % chunks, index // round_of * stages + index % stages) for index in range(total)]
    forward = [Task(True, chunk * stages + stage, m) for chunk, m in places]
    backward = [Task(False, (chunks - 1 - chunk) * stages + stage, m) for chunk, m in places]
    return alternate(forward, backward, warmup)


def alternate(forward: list[Task], backward: list[Task], warmup: int) -> list[Task]:
    """``warmup`` forwards, one forward and one backward in turn, the backwards that are left."""
    steady = len(forward) - warmup
    pairs = [task for pair in zip(forward[warmup:], backward[:steady], strict=True) for task in pair]
    return [*forward[:warmup], *pairs, *backward[steady:]]


def dependencies(orders: Sequence[list[Task]]) -> nx.DiGraph:
    """Each task waits for its input and for the task before it on its stage."""
    graph = nx.DiGraph()
    last = max(task.virtual_stage for order in orders for task in order)
    for order in orders:
        graph.add_edges_from(pairwise(order))
        for task in order:
            step = -1 if task.is_forward else 1
            source = task._replace(virtual_stage=task.virtual_stage + step)
            if task.virtual_stage == last and not task.is_forward:
                source = task._replace(is_forward=True)
            if source.virtual_stage >= 0:
                graph.add_edge(source, task)
    return graph


def makespan(orders: Sequence[list[Task]], forward_s: Sequence[float], backward_s: Sequence[float]) -> float:
    """Length of the longest path, with the times of each virtual stage."""
    end: dict[Task, float] = {}
    graph = dependencies(orders)
    for task in nx.topological_sort(graph):
        duration = (forward_s if task.is_forward else backward_s)[task.virtual_stage]
        end[task] = duration + max((end[before] for before in graph.predecessors(task)), default=0.0)
    return max(end.values())


def most_held(order: list[Task]) -> int:
    """The most forwards whose backward is still to come, while one backward runs."""
    held = most = 0
    for task in order:
        held += 1 if task.is_forward else 0
        most = max(most, held)
        held -= 0 if task.is_forward else 1
    return most
