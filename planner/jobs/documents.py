"""Whether the documents of a sequence can be kept apart: by the layout, and by a token that ends each of them."""

from collections.abc import Callable, Iterable, Iterator
from functools import cache

from planner.data.inputs import File
from planner.data.refusal import unusable
from planner.data.token_files import open_token_file
from planner.data.tokenizers import BYTES, Tokenizer
from planner.data.tokenizing import read_manifest
from planner.diagnostics import Diagnostic
from planner.jobs.job import Job
from planner.layouts.degrees import GRID_MODES
from planner.layouts.layout import Layout

_KEY = "data.documents"
_PROBE_TOKENS = 2**20
_HINT = 'use `data.documents = "joined"`'


def are_apart(job: Job) -> bool:
    """Whether a job wants the documents of a sequence kept apart."""
    return job.data.documents == "apart"


def no_documents(layout: Layout) -> Iterator[Diagnostic]:
    """A finding where a layout cannot keep them apart."""
    if layout.tensor_mode in GRID_MODES:
        message = (
            f"documents cannot be kept apart under tensor mode {layout.tensor_mode}: its ranks divide the sequences of "
            "a micro batch among them, each layer in its own way, and have no borders of documents for them"
        )
        hint = f"{_HINT}, or solve for another mode with `--mode 1d`"
        yield Diagnostic(rule="USAGE", message=message, location=_KEY, hint=hint)


def end_of_document(job: Job, files: Iterable[File], tokenizer: Callable[[], Tokenizer]) -> int:
    """The token with which every document in ``files`` ends.

    That of text is that of the ``tokenizer``, that of tokens what is written beside them, or else the tokenizer's too.

    Raises:
        PlanError: nothing says what it is, it is not among the tokens, or not all of them have the same.
    """
    own, ends = cache(tokenizer), dict[int, str]()
    for file in files:
        token = _end_of_tokens(job, file, own) if file.kind == "tokens" else own().end_of_document
        ends.setdefault(token, str(file.path))
    if len(ends) > 1:
        listed = ", ".join(f"{token} in {path}" for token, path in ends.items())
        message = f"documents end with different tokens, which cannot be kept apart together: {listed}"
        raise unusable(message, _KEY, f"tokenize all of it with the same tokenizer, or {_HINT}")
    return next(iter(ends))


def _end_of_tokens(job: Job, file: File, tokenizer: Callable[[], Tokenizer]) -> int:
    manifest = read_manifest(file.path.with_suffix(""))
    if manifest is not None:
        return manifest.end_of_document
    if job.tokenizer.path == BYTES:
        message = "nothing says which token ends a document: no JSON of `gptplan tokenize` is beside these tokens"
        raise unusable(message, file.path, f"name their tokenizer with `tokenizer.path`, or {_HINT}")
    token = tokenizer().end_of_document
    looked_at = open_token_file(file.path, job.data.token_type).tokens[:_PROBE_TOKENS]
    if token not in looked_at:
        message = f"token {token}, with which a document is to end, is not among the first {len(looked_at):,} tokens"
        hint = f"tokenize with an end after each document, Megatron-LM's `--append-eod`, or {_HINT}"
        raise unusable(message, file.path, hint)
    return token
