"""What one run has done: curves over its steps, what happened, and where its time went."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from planner import __version__
from planner.launch.goodput import TERMS, TRAINING, Goodput, goodput
from planner.launch.runs import RunSummary
from planner.specs.units import format_bytes, format_rate, format_seconds
from planner.views.content import Bar, Bars, Block, Bullets, Curve, Fields, Mark, Part, Section, Table
from planner.views.html import page
from planner.views.pictures import COLOURS
from planner.views.runs import when

MOST_ROWS = 10
"""Steps that a terminal shows."""
MOST_BUCKETS = 400
"""Parts of a curve, of each of which the lowest and the highest point are drawn."""
_EVENTS: dict[str, str] = {
    "fault": "step {step}: {kind}, {action}",
    "restart": "step {step}: begun again, {reason}; {downtime_s:.1f} s without a step",
    "replan": "{before_devices} to {after_devices} devices; predicted step {before_step_s:.3g} to {after_step_s:.3g} s",
    "end": "ended with exit code {code}",
}


class _Line(NamedTuple):
    """A quantity over the steps."""

    name: str
    title: str
    read: Callable[[dict[str, Any]], float | None]
    words: Callable[[float], str]


def _memory(step: dict[str, Any]) -> float | None:
    return max((one["allocated_bytes"] for one in step.get("memory", ())), default=None)


_LINES = (
    _Line("loss", "loss", lambda step: step["loss"], "{:.4f}".format),
    _Line("learning_rate", "rate", lambda step: step.get("learning_rate"), "{:.3g}".format),
    _Line("tokens_per_s", "speed", lambda step: step.get("tokens_per_s"), partial(format_rate, unit="tokens/s")),
    _Line("memory_bytes", "memory of the fullest rank", _memory, format_bytes),
)
_BATCH = _Line("global_batch", "batch", lambda step: step.get("global_batch"), "{:,}".format)
"""Of a run whose batch grows."""


class RunReport:
    """One run as a document, as blocks for a terminal, and as a page."""

    def __init__(self, about: RunSummary, records: Sequence[dict[str, Any]]) -> None:
        """How the run stands, and all that it has recorded."""
        self._about = about
        self._steps = [one for one in records if one["record"] == "step"]
        self._evaluations = [one for one in records if one["record"] == "evaluation"]
        self._events = [one for one in records if one["record"] == "event"]
        self._spent = goodput(records)
        grows = len({one["global_batch"] for one in self._steps if "global_batch" in one}) > 1
        self._lines = (*_LINES, _BATCH) if grows else _LINES

    def document(self) -> dict[str, Any]:
        """As JSON has it; a curve has a value, or none, for each of ``steps``."""
        spent = self._spent
        return {
            "run": self._about.document(),
            "goodput": None
            if spent is None
            else {"wall_s": spent.wall_s, "share": spent.share, "terms_s": spent.terms_s},
            "curves": {
                "steps": [one["step"] for one in self._steps],
                **{line.name: [line.read(one) for one in self._steps] for line in self._lines},
            },
            "evaluations": self._evaluations,
            "events": self._events,
        }

    def blocks(self) -> Iterator[str | Fields | Table]:
        """For a terminal."""
        yield self._facts()
        if self._steps:
            yield ""
            yield self._step_table()
        for table in self._evaluation_tables():
            yield ""
            yield table
        yield from ["", *self._happened()] if self._events else []
        yield from self._time()

    def page(self) -> str:
        """As HTML."""
        about = self._about
        curves: list[Block] = [curve for line in self._lines if (curve := self._curve(line)) is not None]
        time: list[Block] = [] if self._spent is None else [_bar(self._spent), _time_table(self._spent)]
        sections = [
            Section("Run", [self._facts()]),
            Section("Curves", curves),
            Section("Evaluation", self._evaluation_tables()),
            Section("What happened", [Bullets(self._happened())]),
            Section("Where the time went", time),
        ]
        return page(
            str(about.folder),
            f"{about.state.capitalize()} after {about.step:,} of {about.steps:,} steps.",
            [one for one in sections if one.body],
            made_by=f"gptplan {__version__}",
            digest=about.plan_digest,
        )

    def _facts(self) -> Fields:
        about = self._about
        rows = [
            ("run", str(about.folder)),
            ("plan", f"{about.plan}, {about.num_devices} devices"),
            ("started (UTC)", "" if about.started_s is None else when(about.started_s)),
            ("state", about.state),
            ("step", f"{about.step:,} of {about.steps:,}"),
            ("loss", "" if about.loss is None else f"{about.loss:.4f}"),
            ("speed", "" if about.tokens_per_s is None else format_rate(about.tokens_per_s, "tokens/s")),
            ("newest checkpoint", "none" if about.checkpoint is None else about.checkpoint.name),
        ]
        return Fields([row for row in rows if row[1]])

    def _step_table(self) -> Table:
        """Some steps, evenly over the run, and the last."""
        every = -(-len(self._steps) // MOST_ROWS)
        shown = self._steps[len(self._steps) - 1 :: -every][::-1]
        rows = [(f"{one['step']:,}", *(_shown(line, one) for line in self._lines)) for one in shown]
        return Table(("step", *(line.title for line in self._lines)), rows, left=())

    def _evaluation_tables(self) -> list[Table]:
        rows = [
            (f"{one['step']:,}", f"{one['loss']:.4f}", "" if one["perplexity"] is None else f"{one['perplexity']:.4g}")
            for one in self._evaluations[-MOST_ROWS:]
            if one["loss"] is not None
        ]
        return [Table(("step", "held-out loss", "perplexity"), rows, left=())] if rows else []

    def _happened(self) -> list[str]:
        return [f"{when(one['time_s'])} {_words(one)}" for one in self._events]

    def _time(self) -> Iterator[str | Table]:
        if self._spent is None:
            return
        yield f"\ngoodput: {self._spent.share:.1%} of {format_seconds(self._spent.wall_s)} trained"
        yield _time_table(self._spent)

    def _curve(self, line: _Line) -> Curve | None:
        found = [(one["step"], value) for one in self._steps if (value := line.read(one)) is not None]
        if not found:
            return None
        first, last = self._steps[0]["step"], self._steps[-1]["step"]
        low, high = min(value for _, value in found), max(value for _, value in found)
        width, height = max(last - first, 1), high - low or 1.0
        points = [((step - first) / width, (value - low) / height) for step, value in _thinned(found)]
        marks = [
            Mark((one["step"] - first) / width, _words(one))
            for one in self._events
            if first <= one.get("step", -1) <= last
        ]
        ends = (f"step {first:,}", f"step {last:,}")
        title = f"{line.title}, last {line.words(found[-1][1])}"
        return Curve(title, points, line.words(low), line.words(high), ends, marks)


def _shown(line: _Line, step: dict[str, Any]) -> str:
    value = line.read(step)
    return "" if value is None else line.words(value)


def _words(event: dict[str, Any]) -> str:
    """An event in words; one of another version by its name."""
    try:
        return _EVENTS[event["event"]].format(**event)
    except (KeyError, ValueError, TypeError):
        return str(event.get("event"))


def _thinned(points: Sequence[tuple[int, float]]) -> Iterator[tuple[int, float]]:
    """Few enough points to draw, with every peak and valley."""
    size = -(-len(points) // MOST_BUCKETS)
    for start in range(0, len(points), size):
        bucket = points[start : start + size]
        yield from sorted({min(bucket, key=lambda one: one[1]), max(bucket, key=lambda one: one[1])})


def _longest(spent: Goodput) -> list[tuple[str, float]]:
    """What took time: training, and the rest from the longest on."""
    rest = sorted(((name, s) for name, s in spent.terms_s.items() if s and name != TRAINING), key=lambda one: -one[1])
    return [(TRAINING, spent.terms_s[TRAINING]), *rest]


def _time_table(spent: Goodput) -> Table:
    rows = [
        (name.replace("_", " "), format_seconds(s), f"{s / (spent.wall_s or 1):.1%}", TERMS[name])
        for name, s in _longest(spent)
    ]
    return Table(("", "time", "share", "what it is"), rows, left=(0, 3))


def _bar(spent: Goodput) -> Bars:
    parts = [
        (Part(s / (spent.wall_s or 1), colour, f"{name.replace('_', ' ')}: {format_seconds(s)}"))
        for (name, s), colour in zip(_longest(spent), COLOURS, strict=False)
    ]
    legend = [(part.colour, part.title.partition(":")[0]) for part in parts]
    return Bars(f"Goodput {spent.share:.1%}: where the wall time went", [Bar("time", parts)], legend)
