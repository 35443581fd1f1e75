"""Replays whole tables, sums their errors up by set, and says both in words, JSON and CSV."""

import csv
import io
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from planner.cost_model.intervals import DEFAULT_CONFIDENCE
from planner.diagnostics import usage_error
from planner.specs import HardwareSpec
from planner.specs.files import did_you_mean
from planner.specs.units import GIB
from planner.validation import score
from planner.validation.cases import MEMORY_KINDS, Case, MemoryKind
from planner.validation.facts import KnownFacts
from planner.validation.replay import Replay, replay
from planner.validation.score import Coverage, Errors, Limits, Outcomes, Pair, Ranking, error_pct
from planner.validation.tables import OUTPUT_COLUMNS, Table, read_table


class SetScore(msgspec.Struct, frozen=True, kw_only=True):
    """The scores of one set."""

    rows: int
    scored: int
    skipped: dict[str, int]
    """Reason to the number of rows."""
    memory: Errors
    """Of the finest reading that each row has: allocated before reserved before device."""
    memory_by_kind: dict[str, Errors]
    step_time: Errors
    outcome: Outcomes
    sure_outcome: Outcomes
    """The same, where only what fits with the usual probability is said to fit."""
    memory_coverage: Coverage
    step_time_coverage: Coverage
    ranking: Ranking


INTERVALS = ("predicted_step_s_interval", "predicted_mem_gib_interval")
"""Fields of a row that are two columns of a table."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a validation found."""

    tables: tuple[Table, ...]
    replays: tuple[Replay, ...]
    sets: dict[str, SetScore]
    assumptions: dict[str, int]
    """How blanks were filled, and in how many rows."""

    def over(self, limits: Limits) -> list[str]:
        """Each set whose mean error is beyond a limit, in words."""
        found = []
        for name, one in self.sets.items():
            for what, errors, limit in (
                ("memory", one.memory, limits.memory_pct),
                ("step time", one.step_time, limits.time_pct),
            ):
                if limit is not None and errors.mean_abs_pct is not None and errors.mean_abs_pct > limit:
                    found.append(f"{name}: the mean {what} error is {errors.mean_abs_pct:.1f} %, the limit {limit:g} %")
        return found


def validate(
    paths: Sequence[Path],
    sets: Sequence[str] = (),
    hardware: HardwareSpec | None = None,
    known: KnownFacts | None = None,
) -> Report:
    """Replay the tables, or those ``sets`` of them, and score the predictions; blanks are filled by ``known``.

    Raises:
        PlanError: a table cannot be read, or a named set is in no table.
    """
    tables = tuple(read_table(path) for path in paths)
    names = list(dict.fromkeys(row.set_name for table in tables for row in table.rows))
    for name in sets:
        if name not in names:
            raise usage_error(
                f"no table has a set named `{name}`",
                location="--set",
                hint=did_you_mean(name, names) or f"the sets are {', '.join(names)}",
            )
    replays = tuple(
        replay(row, table.dialect, hardware, known)
        for table in tables
        for row in table.rows
        if not sets or row.set_name in sets
    )
    assumptions = Counter(text for one in replays if one.case for text in one.case.assumptions)
    chosen = [name for name in names if not sets or name in sets]
    return Report(
        tables=tables,
        replays=replays,
        sets={name: score_set([one for one in replays if one.row.set_name == name]) for name in chosen},
        assumptions=dict(assumptions.most_common()),
    )


def score_set(replays: Sequence[Replay]) -> SetScore:
    """The scores of the rows of one set."""
    by_kind = {kind: pairs for kind in MEMORY_KINDS if (pairs := memory_pairs(replays, kind))}
    return SetScore(
        rows=len(replays),
        scored=sum(one.case is not None for one in replays),
        skipped=dict(Counter(one.skipped for one in replays if one.skipped is not None).most_common()),
        memory=score.errors([pair for one in replays if (pair := memory_pair(one)) is not None]),
        memory_by_kind={kind: score.errors(pairs) for kind, pairs in by_kind.items()},
        step_time=score.errors([pair for one in replays if (pair := time_pair(one)) is not None]),
        outcome=score.outcomes((one.case.measured.outcome, one.outcome) for one in replays if one.case and one.outcome),
        sure_outcome=score.outcomes(
            (one.case.measured.outcome, sure_outcome(one)) for one in replays if one.case and one.sureness
        ),
        memory_coverage=score.coverage(
            [
                (pair[0], one.sureness.memory_bytes)
                for one in replays
                if (pair := memory_pair(one)) and one.sureness and one.sureness.memory_bytes
            ]
        ),
        step_time_coverage=score.coverage(
            [(pair[0], one.sureness.step_s) for one in replays if (pair := time_pair(one)) and one.sureness]
        ),
        ranking=score.ranking(_groups(replays)),
    )


def sure_outcome(one: Replay) -> str:
    """``fit`` where a row fits with the usual probability."""
    return "fit" if one.sureness and one.sureness.fits_probability >= DEFAULT_CONFIDENCE else "oom"


def memory_pairs(replays: Sequence[Replay], kind: MemoryKind) -> list[Pair]:
    """Measured and predicted bytes of the rows that have a reading of that kind."""
    return [
        (one.case.measured.memory_bytes[kind], one.memory_bytes[kind])
        for one in replays
        if one.case and kind in one.memory_bytes
    ]


def memory_pair(one: Replay) -> Pair | None:
    """Measured and predicted bytes of a row's finest reading."""
    for kind in MEMORY_KINDS:
        pairs = memory_pairs([one], kind)
        if pairs:
            return pairs[0]
    return None


def time_pair(one: Replay) -> Pair | None:
    """Measured and predicted step time of a row, in seconds."""
    if one.case is None or one.predicted is None or one.case.measured.step_s is None:
        return None
    return one.case.measured.step_s, one.predicted.step_s


def predicted_gib(one: Replay) -> float | None:
    """The prediction that a row's memory is compared with, or the peak of the fullest stage."""
    pair = memory_pair(one)
    if pair is not None:
        return pair[1] / GIB
    return max(stage.peak_bytes for stage in one.predicted.stages) / GIB if one.predicted else None


def _groups(replays: Sequence[Replay]) -> dict[Hashable, list[Pair]]:
    """Step times by model, card, number of GPUs, batch, sequence length and precision."""
    groups: dict[Hashable, list[Pair]] = {}
    for one in replays:
        pair = time_pair(one)
        if one.case is not None and pair is not None:
            groups.setdefault(_group(one.case), []).append(pair)
    return groups


def _group(case: Case) -> Hashable:
    problem, model = case.problem, case.problem.model
    return (
        problem.hardware.name,
        problem.num_devices,
        problem.global_batch,
        problem.seq_len,
        problem.precision,
        model.num_layers,
        model.hidden_size,
        model.num_heads,
        model.vocab_size,
    )


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


def percent(value: float | None, *, signed: bool = False) -> str:
    """``"4.2 %"``, with its sign if asked for, and nothing for ``None``."""
    return "" if value is None else f"{value:+.1f} %" if signed else f"{value:.1f} %"


def layout_words(one: Replay) -> str:
    """A replayed layout in a few words: degrees, ZeRO stage, micro batch x their number, and the rest."""
    if one.case is None:
        return ""
    layout = one.case.layout
    mode = layout.tensor_mode.upper() + " " if layout.tensor_mode not in ("none", "1d") else ""
    words = [f"{mode}TP{layout.tensor_parallel} PP{layout.pipeline_parallel} DP{layout.data_parallel}"]
    words += [f"ZeRO{layout.zero_stage}"] * bool(layout.zero_stage)
    words += [f"{layout.micro_batch} x {layout.num_microbatches}"]
    chunks = "zbv" if layout.schedule == "zbv" else f"v{layout.num_model_chunks}"
    words += [chunks] * (layout.num_model_chunks > 1)
    words += ["recompute"] * any(layout.recompute_layers_per_stage) + ["SP"] * layout.sequence_parallel
    return " ".join(words + ["offload"] * (layout.offload.optimizer > 0))


def document(report: Report, limits: Limits) -> dict[str, Any]:
    """The report as one JSON document."""
    return {
        "sets": msgspec.to_builtins(report.sets),
        "rows": [row_document(one) for one in report.replays],
        "assumptions": report.assumptions,
        "over_limit": report.over(limits),
    }


def row_document(one: Replay) -> dict[str, Any]:
    """One row of the report; the predictions are null where it was skipped."""
    memory, step, sure = memory_pair(one), time_pair(one), one.sureness
    return {
        "id": one.row.id,
        "set": one.row.set_name,
        "predicted_mem_gib": predicted_gib(one),
        "predicted_step_s": one.predicted.step_s if one.predicted else None,
        "predicted_outcome": one.outcome,
        "skipped": one.skipped,
        "memory_error_pct": score.error_pct(*memory) if memory else None,
        "step_error_pct": score.error_pct(*step) if step else None,
        "predicted_step_s_interval": sure and list(sure.step_s),
        "predicted_mem_gib_interval": sure and sure.memory_bytes and [end / GIB for end in sure.memory_bytes],
        "fits_probability": sure and sure.fits_probability,
    }


def rows_csv(report: Report) -> bytes:
    """The rows as they were read, with the predicted columns behind them, as CSV."""
    columns = list(
        dict.fromkeys(name for table in report.tables for name in table.columns if name not in OUTPUT_COLUMNS)
    )
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*columns, *OUTPUT_COLUMNS])
    for one in report.replays:
        predicted = row_document(one)
        for name in INTERVALS:
            low, high = predicted[name] or (None, None)
            predicted |= {f"{name.removesuffix('_interval')}_low": low} | {
                f"{name.removesuffix('_interval')}_high": high
            }
        # Nothing is written for None.
        writer.writerow([*map(one.row.cells.get, columns), *map(predicted.get, OUTPUT_COLUMNS)])
    return text.getvalue().encode(errors="surrogateescape")
