"""Data and jobs for people: what was tokenized, what a job takes of its sources, and whether it can run."""

from collections.abc import Iterator, Sequence

from planner.cost_model.checkpoints import SAVED_BYTES
from planner.data.samples import Usage
from planner.data.tokenizing import Manifest
from planner.diagnostics import render
from planner.jobs.batches import BatchSchedule
from planner.jobs.judge import Judgement
from planner.specs.units import format_bytes
from planner.views.content import Fields, Table


def tokenized(manifest: Manifest, passed_over: int) -> Iterator[str]:
    """What was made, and what was left out, which is never silent."""
    size = format_bytes(manifest.input_bytes)
    yield (
        f"{manifest.tokens:,} tokens of {count(manifest.documents, 'document')}, from {size} "
        f"in {count(manifest.files, 'file')}, as {manifest.token_type}; vocabulary {manifest.vocab_size:,}, "
        f"end of document {manifest.end_of_document}"
    )
    yield from left_out(manifest, passed_over)


def left_out(manifest: Manifest, passed_over: int) -> Iterator[str]:
    """Records, bytes and files that are not among the tokens."""
    for what, number in manifest.bad_records.items():
        yield f"left out: {count(number, 'record')} {what}, the first at {manifest.first_bad[what]}"
    if manifest.replaced_bytes:
        yield f"replaced: {manifest.replaced_bytes:,} places that were not UTF-8, by U+FFFD"
    if passed_over:
        yield f"passed over: {count(passed_over, 'file')} of neither text nor tokens"


def count(number: int, what: str) -> str:
    """``1 file``, ``2,000 files``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def usage(found: Sequence[Usage]) -> Iterator[str]:
    """What a run takes of each source, and what it never sees."""
    for one in found:
        never = max(one.sequences - one.taken, 0)
        rest = f"{never:,} sequences are not reached" if never else f"every sequence {int(one.epochs):,} times or more"
        yield (
            f"data: {one.source}: {one.taken:,} of {one.sequences:,} sequences, {one.epochs:.3g} epochs; {rest}; "
            f"{one.left_tokens:,} tokens at the end make no sequence"
        )


def ramp(batches: BatchSchedule) -> Iterator[str]:
    """How the batch grows, where it does."""
    first, *later = batches.levels
    if first.batch == batches.whole:
        return
    steps = [level.first_step + 1 for level in later]
    is_reached = bool(later) and later[-1].batch == batches.whole
    end = f"are reached at step {steps[-1]:,}" if is_reached else "are not reached in this run"
    growth = f"it grows {count(len(later), 'time')}, first at step {steps[0]:,}; " if later else ""
    yield f"batch: {first.batch:,} sequences at first; {growth}the plan's {batches.whole:,} {end}"


def job_judgement(found: Judgement) -> list[str | Fields | Table]:
    """The verdict on a job, what it takes, and every finding."""
    lines: list[str | Fields | Table] = []
    if found.findings:
        lines.append("\n\n".join(map(render, found.findings)))
    if not found.valid:
        return lines
    if found.sources:
        rows = [
            (
                one.name,
                f"{one.files:,}",
                f"{'' if one.is_exact else 'about '}{one.tokens:,}",
                f"{found.epochs(one):.3g}",
            )
            for one in found.sources
        ]
        lines += [*([""] if lines else []), Table(("source", "files", "tokens", "epochs"), rows)]
    steps = f"{found.batches.steps:,} steps of {found.batches.whole:,} x {found.seq_len:,} tokens"
    size, free = format_bytes(found.checkpoint_bytes), format_bytes(found.free_bytes)
    return [
        *lines,
        *ramp(found.batches),
        f"\nvalid: {steps}, {found.tokens:,} in all",
        f"states to keep: {size}, {SAVED_BYTES} bytes a parameter; {free} are free here",
    ]
