"""How sure a prediction is: the probability that a stage fits, and an interval around a step time.

Both rest on runs that others measured and that were predicted as any question is, which residuals.json has by table,
stack, card and kind of layout; `make validate` writes it. Runs of one table on one card with one kind of layout are a
group. How far a question is from them is told by class: :data:`DISTANCES`, and whether it is on one node or several.
A table's own errors are filed by how far it is from the other tables, as a question of a user's is from all of them.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from planner.cost_model.conformal import Calibration, Cell, Group, calibrated
from planner.cost_model.errors import KINDS, kind_columns
from planner.cost_model.imbalance import judged_probability
from planner.cost_model.parameters import model_parameters
from planner.cost_model.parts import counted_whole
from planner.cost_model.sources import formula
from planner.diagnostics import usage_error
from planner.layouts.problem import Problem
from planner.layouts.stages import Floats, StageColumns

FILE = Path(__file__).with_name("residuals.json")
DEFAULT_CONFIDENCE = 0.95
"""Probability that every stage of a layout fits, if the user asks for no other and states no reserve."""
INTERVAL = 0.9
"""Probability that a step takes as long as its interval says: half of the rest is left on either side."""
NEAR_SIZE = 2.0
"""Models up to so many times smaller or larger than the measured ones are like them."""
DISTANCES = (
    "like measured runs of its stack",
    "its stack was measured with other kinds of layout, sizes of model or cards",
    "its stack was never measured with such a model",
    "neither its stack nor such a model was ever measured",
)
"""How far a question is from what was measured, the nearest first; cards count for the step time alone."""

Quantity = Literal["step_time", "memory"]
READINGS = ("allocated", "reserved", "device")
"""Columns of memory: live tensors, what PyTorch's allocator holds for them, what the driver shows; ever coarser."""
NODES = ("one node", "several nodes")
"""Columns of the step time."""


class Runs(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Measured runs of one table that are alike, and by how much they missed: ``log(measured / predicted)``."""

    table: str
    stack: str
    hardware: str
    kind: str
    parameters: int
    """Of their model."""
    other_parts: bool = False
    """Whether the model has other parts than GPT-2's."""
    several_nodes: bool = False
    step_time: tuple[float, ...] = ()
    allocated: tuple[float, ...] = ()
    """Peak memory of tensors, as PyTorch counts it."""
    reserved: tuple[float, ...] = ()
    """Memory that PyTorch's allocator held."""
    device: tuple[float, ...] = ()
    """Memory that the driver showed."""


@dataclass(frozen=True)
class Seen:
    """What the measured runs of a stack were."""

    hardware: frozenset[str]
    kinds: frozenset[str]
    least_parameters: float
    most_parameters: float
    parts: frozenset[bool]

    @classmethod
    def of(cls, runs: Sequence[Runs]) -> "Seen":
        """The cards, kinds of layout and sizes of models of runs."""
        sizes = [one.parameters for one in runs]
        return cls(
            hardware=frozenset(one.hardware for one in runs),
            kinds=frozenset(one.kind for one in runs),
            least_parameters=min(sizes),
            most_parameters=max(sizes),
            parts=frozenset(one.other_parts for one in runs),
        )


def confidence_of(problem: Problem) -> float:
    """The probability of fitting that a plan is held to."""
    return DEFAULT_CONFIDENCE if problem.confidence is None else problem.confidence


def distance(asked: Runs, measured: Sequence[Runs], quantity: Quantity) -> int:
    """Index into :data:`DISTANCES` of runs like ``asked``; ``measured`` are the runs of the same stack."""
    if not measured:
        return 3 if asked.other_parts else 2
    seen = _seen(tuple(measured))
    if asked.other_parts not in seen.parts:
        return 2
    sized = seen.least_parameters / NEAR_SIZE <= asked.parameters <= seen.most_parameters * NEAR_SIZE
    near = sized and asked.kind in seen.kinds and (quantity == "memory" or asked.hardware in seen.hardware)
    return 0 if near else 1


@cache
def _seen(runs: tuple[Runs, ...]) -> Seen:
    return Seen.of(runs)


@cache
def all_runs() -> tuple[Runs, ...]:
    """Every run that the intervals rest on."""
    return msgspec.json.decode(FILE.read_bytes(), type=tuple[Runs, ...])


@cache
def calibration(quantity: Quantity, without: str = "") -> Calibration:
    """The errors of all tables but one, filed by how far each table is from the others that are left."""
    runs = [one for one in all_runs() if one.table != without]
    by_stack: dict[str, list[Runs]] = defaultdict(list)
    for one in runs:
        if any(errors for _, errors in _errors(one, quantity)):
            by_stack[one.stack].append(one)
    found: dict[tuple[str, str, str, Cell, bool], list[float]] = defaultdict(list)
    for same in by_stack.values():
        others = {table: tuple(one for one in same if one.table != table) for table in {one.table for one in same}}
        for one in same:
            step = distance(one, others[one.table], quantity)
            finest = next(column for column, errors in _errors(one, quantity) if errors)
            for column, errors in _errors(one, quantity):
                if errors:
                    found[one.table, one.hardware, one.kind, (column, step), column != finest] += errors
    groups = [
        Group(table, (hardware, kind), cell, errors, again)
        for (table, hardware, kind, cell, again), errors in sorted(found.items())
    ]
    return calibrated(groups, columns=len(READINGS), steps=len(DISTANCES))


def _errors(runs: Runs, quantity: Quantity) -> list[tuple[int, tuple[float, ...]]]:
    """Errors with their column."""
    if quantity == "step_time":
        return [(int(runs.several_nodes), runs.step_time)]
    return list(enumerate((runs.allocated, runs.reserved, runs.device)))


def asked_runs(problem: Problem, kind: str) -> Runs:
    """A question with a kind of layout, in the form of runs without a reading."""
    return Runs(
        table="",
        stack=problem.stack.name,
        hardware=problem.hardware.name,
        kind=kind,
        parameters=sum(model_parameters(problem.model).values()),
        other_parts=not counted_whole(problem.model),
        several_nodes=problem.num_nodes > 1,
    )


def distance_of(problem: Problem, kind: str, quantity: Quantity, without: str = "") -> int:
    """How far a question is from the runs that were measured, without those of one table."""
    return _distance_of(asked_runs(problem, kind), quantity, without)


@lru_cache(maxsize=1024)
def _distance_of(asked: Runs, quantity: Quantity, without: str) -> int:
    same = [one for one in all_runs() if one.stack == asked.stack and one.table != without]
    return distance(asked, [one for one in same if any(errors for _, errors in _errors(one, quantity))], quantity)


@lru_cache(maxsize=256)
def finest_reading(stack: str, without: str = "") -> int:
    """Index into :data:`READINGS` of the finest reading of a stack's runs, those of one table left out.

    What its predictions missed by is known no better than that. The first for a stack without runs.
    """
    same = [one for one in all_runs() if one.stack == stack and one.table != without]
    return min((column for one in same for column, errors in _errors(one, "memory") if errors), default=0)


def _fit_cell(problem: Problem, kind: str, without: str = "") -> Cell:
    return finest_reading(problem.stack.name, without), distance_of(problem, kind, "memory", without)


@formula("lee2023")
def memory_bound(problem: Problem, kind: str, confidence: float) -> float:
    """Share of a stage's peak that it does not exceed its prediction by, with at least that probability; not below 0.

    Infinite where the runs cannot show so much.
    """
    return max(0.0, math.expm1(calibration("memory").bound(_fit_cell(problem, kind), confidence)))


def most_confidence() -> float:
    """The largest probability of fitting that the measured runs can show."""
    return calibration("memory").most


def memory_bounds(problem: Problem, stages: StageColumns, confidence: float) -> Floats:
    """:func:`memory_bound` of every stage.

    Where routers decide how full a rank is, it has to hold with more, so that both hold together with ``confidence``.

    Raises:
        PlanError: the runs cannot show so much.
    """
    judged = judged_probability(problem, stages.layouts)
    least = float(judged.min(initial=1.0))
    if confidence > (most := most_confidence() * least):
        known = math.floor(100 * most) / 100
        raise usage_error(
            f"a probability of {confidence:g} is more than the measured runs can show, which is {most:.4f}",
            location="--confidence",
            hint=f"use `--confidence {known:g}`, or leave more free with `--reserve`",
        )
    shares = np.array([memory_bound(problem, kind, confidence) for kind in KINDS])
    kinds = kind_columns(stages.layouts)
    if least == 1.0:
        return shares[kinds]
    surer = np.array([memory_bound(problem, kind, confidence / least) for kind in KINDS])
    return np.where(judged == 1.0, shares[kinds], surer[kinds])


@formula("lee2023")
def fits_probabilities(problem: Problem, kind: str, rooms: Iterable[float], without: str = "") -> list[float]:
    """Probability, at least, that stages fit which have ``rooms`` times the memory that they are predicted to need."""
    found, cell = calibration("memory", without), _fit_cell(problem, kind, without)
    return [round(found.probability(cell, math.log(room)), 4) if room > 0 else 0.0 for room in rooms]


@formula("lee2023")
def step_interval(problem: Problem, kind: str, without: str = "") -> tuple[float, float]:
    """Least and most that a step takes as a multiple of what is predicted, with probability :data:`INTERVAL`."""
    cell = (int(problem.num_nodes > 1), distance_of(problem, kind, "step_time", without))
    return _interval(calibration("step_time", without), cell)


@formula("lee2023")
def memory_interval(problem: Problem, kind: str, reading: str, without: str = "") -> tuple[float, float]:
    """The same of a reading of the memory of the fullest stage, one of :data:`READINGS`."""
    cell = (READINGS.index(reading), distance_of(problem, kind, "memory", without))
    return _interval(calibration("memory", without), cell)


def _interval(found: Calibration, cell: Cell) -> tuple[float, float]:
    side = (1.0 + INTERVAL) / 2.0
    return math.exp(found.bound(cell, side, upper=False)), math.exp(found.bound(cell, side))
