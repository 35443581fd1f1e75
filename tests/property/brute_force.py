"""The optimum by trying every candidate with every division of its layers, without the solver."""

from collections.abc import Iterator
from itertools import combinations, pairwise, product

from planner.cost_model import predict
from planner.layouts.layout import FREE_RECOMPUTE, FULL_RECOMPUTE, NO_RECOMPUTE, SOME_RECOMPUTE, Layout
from planner.layouts.problem import Problem
from planner.plans.prediction import Prediction
from planner.rules import RULES, screen
from planner.solver.candidates import enumerate_layouts


def compositions(num_layers: int, parts: int) -> Iterator[tuple[int, ...]]:
    """Every way to write ``num_layers`` as ``parts`` ordered counts of 1 or more."""
    for cuts in combinations(range(1, num_layers), parts - 1):
        edges = (0, *cuts, num_layers)
        yield tuple(after - before for before, after in pairwise(edges))


def layouts(problem: Problem) -> Iterator[Layout]:
    """Every valid whole layout of the candidates of ``problem``."""
    candidates = enumerate_layouts(problem)
    columns = candidates.take(screen(problem, candidates)[0])
    whole_rules = [rule for rule in RULES if rule.holds_layout is not None]
    for row in range(len(columns)):
        for layers in compositions(problem.model.num_layers, int(columns.pipeline_parallel[row])):
            if _pinned_away(problem, layers):
                continue
            for recompute in recomputed(int(columns.recompute[row]), layers):
                layout = columns.layout(row, layers, recompute, problem.precision)
                if all(rule.holds_for(problem, layout) for rule in whole_rules):
                    yield layout


def recomputed(word: int, layers: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Every way to recompute some of each stage's layers that a layout's column allows."""
    allowed = {
        NO_RECOMPUTE: [range(1) for _ in layers],
        FULL_RECOMPUTE: [range(n, n + 1) for n in layers],
        SOME_RECOMPUTE: [range(1, n) for n in layers],
        FREE_RECOMPUTE: [range(n + 1) for n in layers],
    }
    return product(*allowed[word])


def _pinned_away(problem: Problem, layers: tuple[int, ...]) -> bool:
    pinned = problem.pins.get("layers_per_stage")
    if pinned is None:
        return False
    return len(set(layers)) > 1 if pinned == "even" else ",".join(map(str, layers)) != pinned


def fits(problem: Problem, predicted: Prediction) -> bool:
    """Whether every stage fits its device and every node its host and its NVMe."""
    on_device = all(stage.peak_bytes <= stage.capacity_bytes - stage.reserve_bytes for stage in predicted.stages)
    host = problem.hardware.host
    on_host = predicted.host_bytes_per_node <= host.memory_bytes
    return on_device and on_host and predicted.nvme_bytes_per_node <= host.nvme_capacity_bytes


def objective_of(problem: Problem, predicted: Prediction) -> float:
    """Seconds of a step, or bytes of the fullest stage."""
    if problem.objective == "memory":
        return max(stage.peak_bytes for stage in predicted.stages)
    return predicted.step_s


def optimum(problem: Problem) -> float | None:
    """The best objective of all layouts that fit; ``None`` if none does."""
    predictions = [predict(problem, layout) for layout in layouts(problem)]
    return min((objective_of(problem, p) for p in predictions if fits(problem, p)), default=None)
