"""A validation for people: scores by set, the worst rows and the assumptions, on stdout."""

from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table

from planner.specs.units import format_gib, format_seconds
from planner.validation.report import Report, SetScore, Worst, layout_words, memory_pair, percent, time_pair, worst_rows
from planner.validation.score import Errors, error_pct
from planner.views.console import stdout_console


def print_report(report: Report, *, most: int) -> None:
    """Scores, ranking, skipped rows with reasons, assumptions, and the ``most`` worst rows of each quantity."""
    console = stdout_console()
    console.print(_errors_table(report))
    if any(one.ranking.groups for one in report.sets.values()):
        console.print("\nranking of the layouts of one model, card, number of GPUs and batch by step time")
        console.print(_ranking_table(report))
    _print_counts(console, "\nskipped", _skipped(report.sets))
    _print_counts(console, "\nassumed", report.assumptions)
    for what, pair, words in (("memory", memory_pair, format_gib), ("step time", time_pair, format_seconds)):
        worst = worst_rows(report.replays, pair, most)
        if worst:
            console.print(f"\nworst rows by {what}")
            console.print(_worst_table(worst, words))


def _errors_table(report: Report) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("set", "rows", "scored", "memory", "mean", "worst", "bias", "step time", "mean", "worst", "bias"):
        table.add_column(heading, justify="left" if heading == "set" else "right")
    table.add_column("fit as fit/oom", justify="right")
    table.add_column("oom as fit/oom", justify="right")
    for name, one in report.sets.items():
        outcome = one.outcome
        table.add_row(
            name,
            str(one.rows),
            str(one.scored),
            *_errors(one.memory),
            *_errors(one.step_time),
            f"{outcome.fit_as_fit}/{outcome.fit_as_oom}",
            f"{outcome.oom_as_fit}/{outcome.oom_as_oom}",
        )
    return table


def _errors(errors: Errors) -> tuple[str, str, str, str]:
    return (
        str(errors.n or ""),
        percent(errors.mean_abs_pct),
        percent(errors.max_abs_pct),
        percent(errors.bias_pct, signed=True),
    )


def _ranking_table(report: Report) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("set", "groups", "Kendall's tau", "predicted best slower by", "at most", "within 3 %"):
        table.add_column(heading, justify="left" if heading == "set" else "right")
    for name, one in report.sets.items():
        rank = one.ranking
        if rank.groups:
            tau = "" if rank.kendall_tau is None else f"{rank.kendall_tau:.2f}"
            table.add_row(
                name,
                str(rank.groups),
                tau,
                percent(rank.top1_regret_pct),
                percent(rank.top1_regret_max_pct),
                percent(rank.top1_within_3_pct),
            )
    return table


def _skipped(sets: dict[str, SetScore]) -> dict[str, int]:
    return {f"{name}: {reason}": count for name, one in sets.items() for reason, count in one.skipped.items()}


def _print_counts(console: Console, heading: str, counts: dict[str, int]) -> None:
    if counts:
        console.print(heading)
    for text, count in counts.items():
        console.print(f"{count:6} {text}", soft_wrap=True)


def _worst_table(worst: Sequence[Worst], words: Callable[[float], str]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("set", "row", "layout", "measured", "predicted", "error", "largest part of the prediction"):
        table.add_column(heading, justify="right" if heading in ("measured", "predicted", "error") else "left")
    for one in worst:
        measured, predicted = (words(value) for value in one.pair)
        table.add_row(
            one.replay.row.set_name,
            one.replay.row.id,
            layout_words(one.replay),
            measured,
            predicted,
            percent(error_pct(*one.pair), signed=True),
            one.part,
        )
    return table
