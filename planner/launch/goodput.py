"""Goodput: the share of a run's wall time in which it learned, and what took the rest, told from its records."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

TRAINING = "training"
OTHER = "other"
TERMS = {
    TRAINING: "steps that updated the weights and count",
    "no_update": "steps that updated nothing: overflows in fp16, and faults that were skipped",
    "passed_over": "batches that nothing was learned from",
    "start": "from the start of a launcher to its first step: data, processes, weights, checkpoint",
    "evaluation": "loss of the held-out part",
    "saving": "training stood still for checkpoints",
    "redone": "work after the checkpoint that a later start went on from",
    "between_starts": "from the last record of ranks to the next start of a launcher, or of ranks by it",
    OTHER: "reading batches, readings of memory, the profile at the end",
}
"""What the wall time of a run goes to."""


class Goodput(NamedTuple):
    """Where the time of a run went."""

    terms_s: dict[str, float]
    """Seconds by term; they sum to the wall time from the first start to the last record."""

    @property
    def wall_s(self) -> float:
        """From the first start to the last record."""
        return sum(self.terms_s.values())

    @property
    def share(self) -> float:
        """Of the wall time that trained."""
        return self.terms_s[TRAINING] / self.wall_s if self.wall_s else 0.0


def goodput(records: Sequence[dict[str, Any]]) -> Goodput | None:
    """Where the time went; ``None`` for records without times, as older versions wrote them.

    The time before a record belongs to what the record is of.
    """
    timed = [one for one in records if one["record"] != "event"]
    if not timed or timed[0]["record"] != "header" or not all("time_s" in one for one in timed):
        return None
    terms_s = dict.fromkeys(TERMS, 0.0)
    last_s = _began_s(timed[0])
    for one in timed:
        gap_s = max(one["time_s"] - last_s, 0.0)
        for term, spent_s in _divided(one, gap_s):
            terms_s[term] += spent_s
            gap_s -= spent_s
        # What a copy for a checkpoint took was before the step whose record came first.
        terms_s[OTHER] = max(terms_s[OTHER] + gap_s, 0.0)
        last_s = one["time_s"]
    return Goodput(terms_s)


def _began_s(header: dict[str, Any]) -> float:
    return float(header.get("began_s") or header["time_s"])


def _divided(one: dict[str, Any], gap_s: float) -> Iterator[tuple[str, float]]:
    """What the time before a record went to; what is left over is something else."""
    kind = one["record"]
    if kind == "header":
        start_s = min(max(one["time_s"] - _began_s(one), 0.0), gap_s)
        redone_s = min(one.get("redone_s", 0.0), gap_s - start_s)
        yield from (("start", start_s), ("redone", redone_s), ("between_starts", gap_s - start_s - redone_s))
    elif kind == "step" and one.get("passed_over"):
        yield "passed_over", gap_s
    elif kind == "step":
        yield TRAINING if one["updated"] else "no_update", min(one["step_s"], gap_s)
    elif kind == "evaluation":
        yield kind, gap_s
    elif kind == "checkpoint":
        yield "saving", max(gap_s, one.get("stall_s", 0.0))
