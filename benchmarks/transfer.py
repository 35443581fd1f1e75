"""What constants of another machine cost: ``python -m benchmarks.transfer TABLE.csv ...``.

Rows of each stack are predicted once with its own host times, which were measured on the machine of the rows, and
once with those of the other stack, measured on another machine. The difference of the mean errors is the
``transfer_error`` of both: what a step-time prediction may miss by more on a machine that nobody measured.

The runs by hand were on another machine than the host times of their stack; how much further off they are with a
calibrated spec of that machine, which does not have the host's time for a block, than the runs that the host times were
read off is the ``calibrated_transfer_error``. A calibration that has that time is not known to be as far off.
"""

import statistics
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from planner.calibration.constants import CONSTANTS
from planner.calibration.refit import predicted_s
from planner.specs import HardwareSpec, StackSpec
from planner.specs.files import load_spec
from planner.specs.units import Seconds
from planner.validation import validate
from planner.validation.cases import Case

FOLDER = Path(__file__).parent.parent / "tests" / "validation"
RUNS, BY_HAND, CALIBRATED = FOLDER / "h200_runs.csv", FOLDER / "library_runs.csv", FOLDER / "h200_calibrated.toml"
OTHERS = {"colossalai": "colossalai-hf", "colossalai-hf": "colossalai"}
"""Stacks whose host times were measured on different machines, each with the other."""


class Transfer(NamedTuple):
    """Mean absolute relative errors of step time over the rows of one stack."""

    runs: int
    own: float
    other: float


def with_host_times(stack: StackSpec, other: StackSpec) -> StackSpec:
    """``stack`` with the host times of ``other``: those of :data:`CONSTANTS` that are times."""
    for constant in CONSTANTS:
        value = constant.of(other)
        if constant.unit is Seconds and value is not None:
            stack = constant.put(stack, value)
    return stack


def transfers(tables: Iterable[Path]) -> dict[str, Transfer]:
    """Errors with own and with foreign host times, by stack."""
    cases: dict[str, list[Case]] = {name: [] for name in OTHERS}
    for case in _timed(tables):
        cases.get(case.problem.stack.name, []).append(case)
    found = {}
    for name, rows in cases.items():
        if rows:
            own = load_spec(name, StackSpec)
            foreign = with_host_times(own, load_spec(OTHERS[name], StackSpec))
            found[name] = Transfer(len(rows), _error(rows, own), _error(rows, foreign))
    return found


def mean_transfer(found: dict[str, Transfer]) -> float:
    """What foreign host times add to the mean error over all rows."""
    return sum(one.runs * (one.other - one.own) for one in found.values()) / sum(one.runs for one in found.values())


def calibrated_transfer(own_error: float) -> float:
    """What runs by hand on another host are further off with a calibrated spec than ``own_error``."""
    cases = _timed([BY_HAND], load_spec(str(CALIBRATED), HardwareSpec))
    return _error(cases, cases[0].problem.stack) - own_error


def _timed(tables: Iterable[Path], hardware: HardwareSpec | None = None) -> list[Case]:
    """The replayed rows that have a step time."""
    cases = (one.case for one in validate(list(tables), hardware=hardware).replays)
    return [case for case in cases if case is not None and case.measured.step_s is not None]


def _error(rows: list[Case], stack: StackSpec) -> float:
    return statistics.mean(abs(predicted_s(row, stack) / (row.measured.step_s or 1.0) - 1.0) for row in rows)


def main() -> None:
    """Print the errors of every stack, and what they grow by over all rows."""
    found = transfers([Path(name) for name in sys.argv[1:]] or [RUNS])
    for name, one in found.items():
        print(f"{name}: {one.runs} runs, {one.own:.1%} with own host times, {one.other:.1%} with those of the other")
    print(f"transfer_error = {mean_transfer(found):.3f}")
    if "colossalai-hf" in found:
        print(f"calibrated_transfer_error = {calibrated_transfer(found['colossalai-hf'].own):.3f}")


if __name__ == "__main__":
    main()
