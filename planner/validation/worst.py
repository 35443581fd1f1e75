"""The rows with the largest errors, and which part of their prediction weighs most."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from planner.validation.replay import Replay
from planner.validation.report import time_pair
from planner.validation.score import Pair, error_pct


class Worst(NamedTuple):
    """A replay with the pair that was scored and the largest term of the prediction."""

    replay: Replay
    pair: Pair
    part: str


def worst_rows(replays: Sequence[Replay], pair_of: Callable[[Replay], Pair | None], most: int) -> list[Worst]:
    """The ``most`` rows with the largest relative errors, largest first."""
    scored = [(one, pair) for one in replays if (pair := pair_of(one)) is not None]
    scored.sort(key=lambda item: -abs(error_pct(*item[1])))
    return [Worst(one, pair, _largest_part(one, times=pair_of is time_pair)) for one, pair in scored[:most]]


def _largest_part(one: Replay, *, times: bool) -> str:
    if one.predicted is None:
        return ""
    fullest = max(one.predicted.stages, key=lambda stage: stage.peak_bytes)
    terms: dict[str, float] = dict(one.predicted.breakdown_s if times else fullest.breakdown_bytes)
    name = max(terms, key=lambda key: terms[key])
    return f"{name.replace('_', ' ')} {terms[name] / sum(terms.values()):.0%}"
