"""From the paths of a job to memory-mapped samples: what is tokens already stays where it is, text is tokenized once.

Text goes to the cache, under the digest of what its tokens depend on, so that the next run finds it there.
"""

import hashlib
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from planner.data.inputs import STANDARD_LIBRARY, File, Found, find
from planner.data.order import key_of
from planner.data.refusal import unusable
from planner.data.samples import Samples, Source
from planner.data.streams import Split, split
from planner.data.token_files import TokenFile, open_token_file
from planner.data.tokenizers import Tokenizer, load_tokenizer
from planner.data.tokenizing import How, Manifest, Progress, read_manifest, recipe_of_files, tokenize
from planner.jobs.documents import are_apart, end_of_document
from planner.jobs.job import Job
from planner.specs import ModelSpec

_FINGERPRINT_BLOCKS, _FINGERPRINT_TOKENS = 64, 1024


class TokenSource(msgspec.Struct, frozen=True):
    """One source as files of tokens."""

    name: str
    files: tuple[str, ...]
    weight: float


class TokenSources(msgspec.Struct, frozen=True, kw_only=True):
    """What every worker maps."""

    training: tuple[TokenSource, ...]
    evaluation: TokenSource | None
    """What `evaluation.paths` names."""
    fingerprint: str
    """SHA-256 of sizes, types and samples of all files, by which a resumed run knows them again."""
    end_of_document: int | None = None
    """The token with which a document ends, where a job keeps them apart."""


class Prepared(NamedTuple):
    """Sources of a run, and what is known of their making."""

    sources: TokenSources
    manifests: list[Manifest]
    """Of what was tokenized, now or before."""
    passed_over: int
    """Files that are neither text nor tokens."""


def named_sources(job: Job) -> list[tuple[str, list[Found]]]:
    """The sources of a job by name: one for each path if they have weights, else all as one.

    Raises:
        PlanError: there are none, or not as many weights as paths.
    """
    paths, weights = job.data.paths or (STANDARD_LIBRARY,), job.data.weights
    if not weights:
        return [(", ".join(paths), [find(path) for path in paths])]
    if len(weights) != len(paths):
        raise unusable(
            f"there are {len(weights)} weights for {len(paths)} paths", "data.weights", "give every path one weight"
        )
    return [(path, [find(path)]) for path in paths]


def tokenizer_of(job: Job) -> Tokenizer:
    """The tokenizer of a job.

    Raises:
        PlanError: it cannot be loaded.
    """
    return load_tokenizer(job.tokenizer.path, job.tokenizer.end_of_document)


def check_vocabulary(tokenizer: Tokenizer, model: ModelSpec) -> None:
    """Refuse a model that has no row for some token.

    Raises:
        PlanError: the vocabulary of the model is smaller than the tokenizer's.
    """
    if tokenizer.vocab_size > model.vocab_size:
        raise unusable(
            f"the tokenizer has {tokenizer.vocab_size} tokens, the model's vocabulary {model.vocab_size}",
            tokenizer.path,
            "choose a tokenizer with a smaller vocabulary, or solve for a larger `vocab_size`",
        )


def check_tokens(file: TokenFile, model: ModelSpec) -> None:
    """Refuse a file with tokens that the model has no row for, as far as a sample of it shows.

    Raises:
        PlanError: its vocabulary, or a token that was looked at, is too large.
    """
    manifest = read_manifest(file.path.with_suffix(""))
    found = manifest.vocab_size if manifest is not None else file.largest_seen() + 1
    if found > model.vocab_size:
        raise unusable(
            f"the tokens are of a vocabulary of {found} or more, the model's is {model.vocab_size}",
            file.path,
            "tokenize with the model's tokenizer; `data.token_type` says what a .bin without a header is made of",
        )


def prepare(job: Job, model: ModelSpec, progress: Progress = lambda done, total, tokens: None) -> Prepared:
    """Have every source of a job as tokens; the launcher of a run calls it before its workers start.

    Args:
        job: has the paths.
        model: its vocabulary has to have room for every token.
        progress: told after each part of what is tokenized.

    Raises:
        PlanError: the data cannot be used.
    """
    preparing = _Preparing(job, model, progress)
    named = named_sources(job)
    weights = job.data.weights or (1.0,)
    training = [
        TokenSource(name, preparing.files(name, found), weight)
        for (name, found), weight in zip(named, weights, strict=True)
    ]
    evaluation = None
    if job.evaluation.every_steps and job.evaluation.paths:
        name, found = ", ".join(job.evaluation.paths), [find(path) for path in job.evaluation.paths]
        evaluation = TokenSource(name, preparing.files(name, found), 1.0)
    files = [Path(file) for source in (*training, evaluation) if source is not None for file in source.files]
    sources = TokenSources(
        training=tuple(training),
        evaluation=evaluation,
        fingerprint=_fingerprint([open_token_file(file, job.data.token_type) for file in files]),
        end_of_document=end_of_sources(job),
    )
    return Prepared(sources, preparing.manifests, preparing.passed_over)


class _Preparing:
    """Tokenizes what is text, with one tokenizer that is loaded when the first text is met."""

    def __init__(self, job: Job, model: ModelSpec, progress: Progress) -> None:
        self._job, self._model, self._progress = job, model, progress
        self._tokenizer: Tokenizer | None = None
        self.manifests: list[Manifest] = []
        self.passed_over = 0

    def files(self, name: str, found: Sequence[Found]) -> tuple[str, ...]:
        """The .bin files of a source, in the order in which they are joined."""
        self.passed_over += sum(one.passed_over for one in found)
        files = [file for one in found for file in one.files]
        ready = [file.path for file in files if file.kind == "tokens"]
        text = [file for file in files if file.kind != "tokens"]
        if text:
            ready.append(self._tokenized(text))
        for path in ready:
            check_tokens(open_token_file(path, self._job.data.token_type), self._model)
        return tuple(map(str, ready))

    def _tokenized(self, text: list[File]) -> Path:
        if self._tokenizer is None:
            self._tokenizer = tokenizer_of(self._job)
            check_vocabulary(self._tokenizer, self._model)
        recipe = recipe_of_files(text, self._job.data.field, self._tokenizer)
        prefix = cache_folder(self._job) / recipe.digest.removeprefix("sha256:")[:16]
        manifest = tokenize(recipe, prefix, self._tokenizer, How(wait=True), self._progress)
        self.manifests.append(manifest)
        return prefix.with_suffix(".bin")


def end_of_sources(job: Job) -> int | None:
    """The token that ends each document of a job that keeps them apart.

    Raises:
        PlanError: nothing says so, or sources differ in it.
    """
    if not are_apart(job):
        return None
    paths = job.evaluation.paths if job.evaluation.every_steps else ()
    found = [one for _, several in named_sources(job) for one in several] + [find(path) for path in paths]
    return end_of_document(job, (file for one in found for file in one.files), partial(tokenizer_of, job))


def cache_folder(job: Job) -> Path:
    """Where tokens of text are kept."""
    if job.data.cache:
        return Path(job.data.cache)
    # XDG Base Directory Specification 0.8
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gptplan" / "tokens"


def _fingerprint(files: Sequence[TokenFile]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.kind} {file.tokens.dtype} {len(file.tokens)} {file.num_documents}\n".encode())
        starts = np.linspace(0, max(len(file.tokens) - _FINGERPRINT_TOKENS, 0), _FINGERPRINT_BLOCKS).astype(np.int64)
        for start in starts:
            digest.update(file.tokens[start : start + _FINGERPRINT_TOKENS].tobytes())
    return f"sha256:{digest.hexdigest()}"


class Opened(NamedTuple):
    """The samples of a job, as every worker and ``check`` see them."""

    training: Samples
    evaluation: Samples | None
    held_out_documents: int
    tokens: int
    """To learn from."""
    documents: int | None
    """``None`` where a file does not tell."""


def open_samples(sources: TokenSources, job: Job, seq_len: int) -> Opened:
    """Map the files of a job.

    Raises:
        PlanError: there is not a single sequence, or nothing to evaluate on.
    """
    opened = [[open_token_file(Path(file), job.data.token_type) for file in one.files] for one in sources.training]
    splits = [split(files, job.data.held_out, key_of(job.seed, number)) for number, files in enumerate(opened)]
    training = Samples(
        [Source(one.name, part.training, one.weight) for one, part in zip(sources.training, splits, strict=True)],
        seq_len=seq_len,
        seed=job.seed,
    )
    counts = [file.num_documents for files in opened for file in files]
    return Opened(
        training,
        _evaluation(sources, job, splits, seq_len),
        sum(part.held_out_documents for part in splits),
        sum(part.training.num_tokens for part in splits),
        None if None in counts else sum(filter(None, counts)),
    )


def check_evaluation(opened: Opened, job: Job, global_batch: int) -> int:
    """Global batches of one evaluation; 0 without any.

    Raises:
        PlanError: there is less than one to evaluate on.
    """
    if opened.evaluation is None:
        return 0
    sequences = opened.evaluation.num_sequences
    count = min(job.evaluation.batches, sequences // global_batch)
    if count == 0:
        raise unusable(
            f"there are {sequences} sequences to evaluate on, and a global batch takes {global_batch}",
            "evaluation.every_steps",
            "raise `data.held_out`, or name more with `evaluation.paths`",
        )
    return count


def read_sources(path: Path) -> TokenSources:
    """What the launcher of a run has left for its workers."""
    return msgspec.json.decode(path.read_bytes(), type=TokenSources)


def _evaluation(sources: TokenSources, job: Job, splits: Sequence[Split], seq_len: int) -> Samples | None:
    if not job.evaluation.every_steps:
        return None
    if sources.evaluation is not None:
        files = [open_token_file(Path(file), job.data.token_type) for file in sources.evaluation.files]
        parts = [(sources.evaluation.name, split(files, 0.0, 0).training)]
    else:
        parts = [
            (f"held out of {one.name}", part.held_out)
            for one, part in zip(sources.training, splits, strict=True)
            if part.held_out is not None
        ]
    if not parts:
        raise unusable(
            "there is nothing to evaluate on",
            "evaluation.every_steps",
            "keep a share of the documents with `data.held_out`, or name files with `evaluation.paths`",
        )
    whole = parts[0][1].joined([stream for _, stream in parts[1:]])
    name = ", ".join(name for name, _ in parts)
    return Samples([Source(name, whole)], seq_len=seq_len, seed=job.seed, shuffled=False)
