"""Whether a job can be run under a plan, told on any machine: files, tokens, vocabulary, steps, room on the drive."""

import importlib.util
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec
import numpy as np

from planner.cost_model.activations import apart_bytes
from planner.cost_model.checkpoints import checkpoint_cost
from planner.data.compressed import COMPRESSED
from planner.data.inputs import File, Found, find
from planner.data.records import Piece, Tally, documents
from planner.data.refusal import no_document, unusable
from planner.data.token_files import open_token_file
from planner.data.tokenizers import Tokenizer
from planner.data.tokenizing import read_manifest, recipe_of_files
from planner.diagnostics import Diagnostic, PlanError
from planner.jobs.batches import BatchSchedule, batches_of
from planner.jobs.documents import are_apart, no_documents
from planner.jobs.job import Job, LoggingSection
from planner.jobs.ramp import of_ramp
from planner.jobs.sources import (
    cache_folder,
    check_tokens,
    check_vocabulary,
    end_of_sources,
    named_sources,
    tokenizer_of,
)
from planner.layouts.pins import parse_pin
from planner.layouts.stages import stages_of_layout
from planner.plans.plan import Plan
from planner.specs import ModelSpec
from planner.specs.units import format_bytes

Answer = TypeVar("Answer")

_PROBE_BYTES = 2**18
"""How much of a text is tokenized to tell how many tokens all of it has."""


class SourceFound(NamedTuple):
    """What is known of a source before it is tokenized."""

    name: str
    files: int
    tokens: int
    is_exact: bool
    """Whether all of them are counted; else a sample of the text was tokenized."""
    weight: float


class Judgement(NamedTuple):
    """What ``check`` says of a job."""

    findings: list[Diagnostic]
    sources: list[SourceFound]
    batches: BatchSchedule
    seq_len: int
    checkpoint_bytes: int
    free_bytes: int
    """On the drive of the current folder."""

    @property
    def valid(self) -> bool:
        """Whether nothing is an error."""
        return not any(one.severity == "error" for one in self.findings)

    @property
    def tokens(self) -> int:
        """Tokens that the run learns from, repetitions included."""
        return self.batches.samples * self.seq_len

    def epochs(self, source: SourceFound) -> float:
        """About how often a source is gone through."""
        share = source.weight / sum(one.weight for one in self.sources)
        return self.batches.samples * share / max((source.tokens - 1) // self.seq_len, 1)


def judge(job: Job, plan: Plan, done: int = 0) -> Judgement:
    """Look at everything of a job that can be looked at without tokenizing all of its text.

    So many of its steps are ``done``, perhaps under another plan.
    """
    problem, findings = plan.problem, list(_of_keys(job, plan, done))
    model = problem.model
    counting = _Counting(job, model, findings)
    named = counting.tried(lambda: named_sources(job)) or []
    weights = job.data.weights if len(job.data.weights) == len(named) else [1.0] * len(named)
    sources = [counting.source(name, found, weight) for (name, found), weight in zip(named, weights, strict=True)]
    counting.tried(partial(end_of_sources, job))
    evaluated = job.evaluation.paths if job.evaluation.every_steps else ()
    findings += _too_short([one for one in sources if one is not None], job, problem.seq_len)
    for path in evaluated:
        found = counting.tried(partial(find, path))
        if found is not None:
            counting.source(path, [found], 1.0)
    return Judgement(
        findings=findings,
        sources=[one for one in sources if one is not None],
        batches=batches_of(job, problem),
        seq_len=problem.seq_len,
        checkpoint_bytes=checkpoint_cost(plan.problem, plan.layout).num_bytes,
        free_bytes=shutil.disk_usage(Path()).free,
    )


def _of_keys(job: Job, plan: Plan, done: int) -> Iterator[Diagnostic]:
    """Findings about keys that do not go together, or not with the plan."""
    problem, layout = plan.problem, plan.layout
    if are_apart(job):
        yield from [*no_documents(layout), *_more_memory(plan)]
    yield from _of_faults(job, problem.num_nodes)
    yield from _of_logging(job.logging)
    yield from of_ramp(job, problem, layout, done)
    steps = batches_of(job, problem).steps
    if job.schedule.warmup_steps >= steps:
        message = f"the run of {steps} steps ends before the learning rate has risen for {job.schedule.warmup_steps}"
        yield _finding(message, "schedule.warmup_steps", f"use at most {steps - 1}", "warning")
    if job.evaluation.every_steps and not (job.evaluation.paths or job.data.held_out):
        message = "there is nothing to evaluate on"
        hint = "keep a share of the documents with `data.held_out`, or name files with `evaluation.paths`"
        yield _finding(message, "evaluation.every_steps", hint)


def _more_memory(plan: Plan) -> Iterator[Diagnostic]:
    """A warning where documents that are kept apart may take more memory than a stage has."""
    more = apart_bytes(plan.problem, stages_of_layout(plan.layout)).tolist()
    for number, (stage, extra) in enumerate(zip(plan.predicted.stages, more, strict=False)):
        free = stage.capacity_bytes - stage.reserve_bytes - stage.peak_bytes
        if extra > free:
            message = (
                f"documents that are kept apart take up to {format_bytes(extra)} of stage {number}, beyond what is "
                f"predicted, and {format_bytes(max(free, 0))} are free"
            )
            yield _finding(message, "data.documents", "solve again with a larger `--reserve`", "warning")


def _of_faults(job: Job, num_nodes: int) -> Iterator[Diagnostic]:
    """Findings about what a run is to do when it goes wrong, or has to end."""
    for key in ("not_finite", "spike"):
        if getattr(job.faults, key) == "rewind" and not job.checkpoint.every_steps:
            message = "a run that saves no checkpoints has none to go back to"
            yield _finding(message, f"faults.{key}", "let the run save by `checkpoint.every_steps`, or use `skip`")
    if job.schedule.stop_after_minutes and not job.checkpoint.every_steps:
        message = "a run that is to end early and saves no checkpoints would lose what it has learned"
        yield _finding(message, "schedule.stop_after_minutes", "let the run save by `checkpoint.every_steps`, or use 0")
    for key in ("devices_file", "replan_pins"):
        if num_nodes > 1 and getattr(job.faults, key):
            message = f"`{key}` means nothing here: a plan for {num_nodes} nodes is not planned again for fewer devices"
            yield _finding(message, f"faults.{key}", "leave the key out", "warning")
    for pin in job.faults.replan_pins:
        try:
            parse_pin(pin, "faults.replan_pins")
        except PlanError as error:
            yield from error.diagnostics


def _of_logging(settings: LoggingSection) -> Iterator[Diagnostic]:
    """Findings about packages that are not here."""
    wanted = {"tensorboard": settings.tensorboard, "wandb": settings.wandb != "off"}
    for package, is_wanted in wanted.items():
        if is_wanted and importlib.util.find_spec(package) is None:
            message = f"the package {package} is not installed here"
            yield _finding(message, f"logging.{package}", f"`pip install {package}`, or leave the key out")


def _finding(message: str, location: str, hint: str, severity: str = "error") -> Diagnostic:
    return Diagnostic(rule="USAGE", message=message, location=location, hint=hint, severity=severity)


def refuse(job: Job, plan: Plan, done: int = 0) -> None:
    """Refuse a job that cannot be run under ``plan`` after the steps that are ``done``.

    No more of its data is read than it takes.

    Raises:
        PlanError: with every finding that is an error.
    """
    errors = [one for one in judge(job, plan, done).findings if one.severity == "error"]
    if errors:
        raise PlanError(*errors)


def _too_short(sources: Sequence[SourceFound], job: Job, seq_len: int) -> Iterator[Diagnostic]:
    for one in sources:
        if one.tokens <= seq_len:
            refusal = unusable(
                f"there are {one.tokens} tokens, and one sequence needs {seq_len + 1}",
                one.name,
                "name more data in `data.paths`, or solve for a smaller `--seq-len`",
            )
            yield from refusal.diagnostics


class _Counting:
    """Counts tokens of sources; what stands in the way becomes a finding, once."""

    def __init__(self, job: Job, model: ModelSpec, findings: list[Diagnostic]) -> None:
        self._job, self._model, self._findings = job, model, findings
        self._tokenizer: Tokenizer | None = None
        self._has_failed = False

    def tried(self, question: Callable[[], Answer]) -> Answer | None:
        """The answer, or nothing and a finding."""
        try:
            return question()
        except PlanError as error:
            self._findings += [one for one in error.diagnostics if one not in self._findings]
            return None

    def source(self, name: str, found: Sequence[Found], weight: float) -> SourceFound | None:
        """What a source holds."""
        files = [file for one in found for file in one.files]
        ready = [self.tried(partial(self._ready, file)) for file in files if file.kind == "tokens"]
        text = [file for file in files if file.kind != "tokens"]
        counted, is_exact = self._of_text(text) if text else (0, True)
        if None in ready or counted is None:
            return None
        return SourceFound(name, len(files), counted + sum(filter(None, ready)), is_exact, weight)

    def _ready(self, file: File) -> int:
        opened = open_token_file(file.path, self._job.data.token_type)
        check_tokens(opened, self._model)
        return len(opened.tokens)

    def _of_text(self, text: list[File]) -> tuple[int | None, bool]:
        if self._tokenizer is None and not self._has_failed:
            self._tokenizer = self.tried(self._checked_tokenizer)
            self._has_failed = self._tokenizer is None
        if self._tokenizer is None:
            return None, False
        tokenizer = self._tokenizer
        counted = self.tried(lambda: _count(text, self._job, tokenizer))
        return counted or (None, False)

    def _checked_tokenizer(self) -> Tokenizer:
        tokenizer = tokenizer_of(self._job)
        check_vocabulary(tokenizer, self._model)
        return tokenizer


def _count(text: list[File], job: Job, tokenizer: Tokenizer) -> tuple[int, bool]:
    """Tokens of files of text: of an earlier run, or as many to a byte as the beginning has."""
    recipe = recipe_of_files(text, job.data.field, tokenizer)
    known = read_manifest(cache_folder(job) / recipe.digest.removeprefix("sha256:")[:16])
    if known is not None:
        return known.tokens, True
    tally, tokens, looked_at_bytes = Tally(), 0, 0.0
    for piece in recipe.pieces:
        found, num_bytes = _probe(piece, job, tokenizer, tally)
        tokens, looked_at_bytes = tokens + found, looked_at_bytes + num_bytes
        if looked_at_bytes >= _PROBE_BYTES:
            break
    if not tokens:
        raise no_document(tally.bad, next(iter(tally.first.values()), recipe.files[0][0]), recipe.field)
    size = sum(piece.size_bytes for piece in recipe.pieces)
    return round(tokens * size / max(looked_at_bytes, 1)), False


def _probe(piece: Piece, job: Job, tokenizer: Tokenizer, tally: Tally) -> tuple[int, float]:
    """Tokens of the beginning of a piece, and about how many bytes of its file they are from."""
    is_compressed = Path(piece.path).suffix in COMPRESSED
    if piece.kind in ("text", "jsonl") and not is_compressed and piece.size_bytes > _PROBE_BYTES:
        piece = msgspec.structs.replace(piece, stop=piece.start + _PROBE_BYTES, size_bytes=_PROBE_BYTES)
    tokens, texts = 0, bytearray()
    for part, _ in documents(piece, job.data.field, tally):
        texts += part[:_PROBE_BYTES].encode()
        tokens += 1 + len(tokenizer.encode([part[:_PROBE_BYTES]], np.dtype(np.int64))[0])
        if len(texts) > _PROBE_BYTES and piece.size_bytes > _PROBE_BYTES:
            # How far that is into a compressed file, its text tells when it is compressed again.
            return tokens, len(zlib.compress(texts)) if is_compressed else len(texts)
    return tokens, piece.size_bytes
