"""Which token ends the documents of a job that keeps them apart."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from planner.data.tokenizers import BYTE_END_OF_DOCUMENT
from planner.data.tokenizing import FORMAT
from planner.diagnostics import PlanError
from planner.jobs.reading import read_job
from planner.jobs.sources import end_of_sources


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Text, bare tokens with ends, without any, and with an end of their own."""
    (tmp_path / "text.txt").write_text("a document")
    np.array([1, 2, 9, 3, 9], "<u2").tofile(tmp_path / "ended.bin")
    np.array([1, 2, 3], "<u2").tofile(tmp_path / "endless.bin")
    words = {"model": {"type": "WordLevel", "vocab": {"a": 0, "</s>": 9}, "unk_token": "a"}}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"version": "1.0", "added_tokens": [], **words}))
    return tmp_path


def end_of(folder: Path, names: tuple[str, ...], *settings: str) -> int | None:
    paths = ", ".join(f'"{folder / name}"' for name in names)
    return end_of_sources(read_job(None, [f"data.paths=[{paths}]", "data.documents=apart", *settings]))


def test_the_end_is_the_tokenizers_also_of_bare_tokens(corpus: Path) -> None:
    own = f"tokenizer.path={corpus / 'tokenizer.json'}"
    assert end_of(corpus, ("text.txt",)) == BYTE_END_OF_DOCUMENT
    assert end_of(corpus, ("ended.bin",), own) == 9
    assert end_of(corpus, ("ended.bin", "text.txt"), own) == 9
    assert end_of_sources(read_job(None, [f"data.paths={corpus / 'nowhere'}"])) is None


@pytest.mark.parametrize(
    ("names", "message", "hint"),
    [
        (("ended.bin",), "nothing says which token ends a document", "`tokenizer.path`"),
        (("endless.bin",), "token 9, with which a document is to end, is not among the first 3 tokens", "--append-eod"),
        (("text.txt", "made.bin"), "documents end with different tokens", "the same tokenizer"),
    ],
)
def test_an_end_that_is_not_known_is_refused(names: tuple[str, ...], message: str, hint: str, corpus: Path) -> None:
    np.array([1, 2, 255], "<u2").tofile(corpus / "made.bin")
    counts = dict.fromkeys(("documents", "tokens", "files", "input_bytes", "replaced_bytes"), 3)
    words = dict.fromkeys(("recipe", "tokenizer", "tokenizer_digest", "token_type"), "uint16")
    made = {**counts, **words, "vocab_size": 256, "end_of_document": 255, "bad_records": {}, "first_bad": {}}
    (corpus / "made.json").write_text(json.dumps({"format": FORMAT, **made}))
    settings = () if "nothing" in message else (f"tokenizer.path={corpus / 'tokenizer.json'}",)
    with pytest.raises(PlanError, match=re.escape(message)) as refusal:
        end_of(corpus, names, *settings)
    assert hint in refusal.value.diagnostics[0].hint
