"""A validation for people: scores by set, the worst rows and the assumptions."""

from collections.abc import Callable, Sequence

from planner.cost_model.intervals import DEFAULT_CONFIDENCE as USUAL
from planner.cost_model.intervals import INTERVAL
from planner.specs.units import format_gib, format_seconds
from planner.validation.report import Report, SetScore, Worst, layout_words, memory_pair, percent, time_pair, worst_rows
from planner.validation.score import Coverage, Errors, error_pct
from planner.views.content import Table


def scores(report: Report, *, most: int) -> list[str | Table]:
    """Scores, ranking, skipped rows with reasons, assumptions, and the ``most`` worst rows of each quantity."""
    blocks: list[str | Table] = [_errors_table(report)]
    if ranking := ranking_rows(report):
        headings = ("set", "groups", "Kendall's tau", "predicted best slower by", "at most", "within 3 %")
        words = "\nranking of the layouts of one model, card, number of GPUs and batch by step time"
        blocks += [words, Table(headings, ranking)]
    if covered := coverage_rows(report):
        covers = ("set", "memory", "held", "above", "step time", "held", "above", "fit as fit/oom", "oom as fit/oom")
        words = f"\nrows within their {INTERVAL:.0%} intervals, which the other sets make; what fits at {USUAL:.0%}"
        blocks += [words, Table(covers, covered)]
    blocks += [*_counts("\nskipped", skipped(report.sets)), *_counts("\nassumed", report.assumptions)]
    for what, pair, words_of in (("memory", memory_pair, format_gib), ("step time", time_pair, format_seconds)):
        worst = worst_rows(report.replays, pair, most)
        if worst:
            blocks += [f"\nworst rows by {what}", _worst_table(worst, words_of)]
    return blocks


def _errors_table(report: Report) -> Table:
    each = ("mean", "worst", "bias")
    headings = ("set", "rows", "scored", "memory", *each, "step time", *each, "fit as fit/oom", "oom as fit/oom")
    rows = [
        (
            name,
            str(one.rows),
            str(one.scored),
            *error_cells(one.memory),
            *error_cells(one.step_time),
            f"{one.outcome.fit_as_fit}/{one.outcome.fit_as_oom}",
            f"{one.outcome.oom_as_fit}/{one.outcome.oom_as_oom}",
        )
        for name, one in report.sets.items()
    ]
    return Table(headings, rows)


def error_cells(errors: Errors) -> list[str]:
    """Number of pairs, mean, largest and mean signed error; empty where there is no pair."""
    bias = percent(errors.bias_pct, signed=True)
    return [str(errors.n or ""), percent(errors.mean_abs_pct), percent(errors.max_abs_pct), bias]


def coverage_rows(report: Report) -> list[list[str]]:
    """Set, readings of memory and of time with the percentages within and above their intervals, and sure outcomes."""
    return [
        [
            name,
            *(cell for one in (score.memory_coverage, score.step_time_coverage) for cell in _coverage_cells(one)),
            f"{score.sure_outcome.fit_as_fit}/{score.sure_outcome.fit_as_oom}",
            f"{score.sure_outcome.oom_as_fit}/{score.sure_outcome.oom_as_oom}",
        ]
        for name, score in report.sets.items()
        if score.scored
    ]


def _coverage_cells(one: Coverage) -> list[str]:
    shares = ["" if share is None else f"{share:.0f} %" for share in (one.held_pct, one.above_pct)]
    return [str(one.n or ""), *shares]


def ranking_rows(report: Report) -> list[list[str]]:
    """Set, groups, Kendall's tau, mean and largest regret, and groups within 3 %, where there are groups."""
    return [
        [
            name,
            str(rank.groups),
            "" if rank.kendall_tau is None else f"{rank.kendall_tau:.2f}",
            percent(rank.top1_regret_pct),
            percent(rank.top1_regret_max_pct),
            percent(rank.top1_within_3_pct),
        ]
        for name, one in report.sets.items()
        if (rank := one.ranking).groups
    ]


def skipped(sets: dict[str, SetScore]) -> dict[str, int]:
    """Sets with reasons, and how many rows each left out."""
    return {f"{name}: {reason}": count for name, one in sets.items() for reason, count in one.skipped.items()}


def _counts(heading: str, counts: dict[str, int]) -> list[str]:
    return [*([heading] if counts else []), *(f"{count:6} {text}" for text, count in counts.items())]


def _worst_table(worst: Sequence[Worst], words: Callable[[float], str]) -> Table:
    rows = [
        (
            one.replay.row.set_name,
            one.replay.row.id,
            layout_words(one.replay),
            *map(words, one.pair),
            percent(error_pct(*one.pair), signed=True),
            one.part,
        )
        for one in worst
    ]
    headings = ("set", "row", "layout", "measured", "predicted", "error", "largest part of the prediction")
    return Table(headings, rows, left=(0, 1, 2, 6), keys=2)
