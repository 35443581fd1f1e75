"""Texts and tokenizers, and what is refused of them before a run."""

import sys
from itertools import chain
from pathlib import Path

import pytest

from planner.diagnostics import ExitCode, PlanError
from planner.handover.texts import Tokenizer, check_texts, check_vocabulary, text_files, token_chunks


def folder_of(tmp_path: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path


def tokens(data: Path, tokenizer: Tokenizer) -> list[int]:
    return list(chain.from_iterable(found for _, found in token_chunks(text_files(data), tokenizer)))


def test_a_folder_is_read_in_the_order_of_its_names_without_what_is_not_text(tmp_path: Path) -> None:
    files = {"b/c.txt": b"two", "a.txt": b"one", "z.md": "\u00e9".encode(), "a.bin": b"\0\1", ".git/x": b"no"}
    files["latin.txt"] = b"\xff\xfe"
    found = tokens(folder_of(tmp_path, files), Tokenizer())
    assert bytes(found).decode() == "onetwo\u00e9"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\0binary", "not a text file"),
        (b"", "no text"),
        (None, "no such file"),
        (b"short", "5 tokens, one .* needs 9"),
    ],
    ids=["binary", "empty", "missing", "short"],
)
def test_data_that_cannot_be_trained_on_is_refused(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "data.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PlanError, match=message) as refusal:
        check_texts(path, None, vocab_size=256, seq_len=8)
    assert refusal.value.exit_code == ExitCode.USAGE
    assert refusal.value.diagnostics[0].location in (str(path), "")


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="no text"):
        text_files(tmp_path)


@pytest.mark.parametrize("name", ["some.jsonl", "some.JSON", "some.ndjson"])
@pytest.mark.parametrize("whole", [True, False], ids=["folder", "file"])
def test_the_syntax_of_records_is_not_trained(name: str, whole: bool, tmp_path: Path) -> None:
    folder_of(tmp_path, {"a.txt": b"some text", name: b'{"text": "some"}\n'})
    with pytest.raises(PlanError, match="this is JSON, whose syntax would be trained") as refusal:
        text_files(tmp_path if whole else tmp_path / name)
    (found,) = refusal.value.diagnostics
    assert found.location == str(tmp_path / name)
    assert "jq -r" in found.hint
    assert f" {name} > some.txt" in found.hint


def test_a_tokenizer_is_a_file_or_a_folder_with_one(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1, "?": 7}, unk_token="?"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "text.txt").write_text("b a c")
    for place in (tmp_path, tmp_path / "tokenizer.json"):
        tokenizer = Tokenizer(place)
        assert tokenizer.vocab_size == 8  # the largest token is 7
        assert tokens(tmp_path / "text.txt", tokenizer) == [1, 0, 7]
    check_texts(tmp_path / "text.txt", tmp_path, vocab_size=8, seq_len=2)
    with pytest.raises(PlanError, match="the tokenizer has 8 tokens, the model's vocabulary 7"):
        check_texts(tmp_path / "text.txt", tmp_path, vocab_size=7, seq_len=2)


@pytest.mark.parametrize(
    ("files", "name", "message"),
    [
        ({}, "tokenizer.json", "there is no such tokenizer file"),
        ({"vocab.txt": b"a"}, "", "this folder has no tokenizer.json"),
        ({"tokenizer.json": b"{}"}, "tokenizer.json", "this is not a tokenizer"),
    ],
    ids=["missing", "folder", "other json"],
)
def test_what_is_no_tokenizer_is_refused(files: dict[str, bytes], name: str, message: str, tmp_path: Path) -> None:
    if files.get(name):
        pytest.importorskip("tokenizers")
    with pytest.raises(PlanError, match=message) as refusal:
        Tokenizer(folder_of(tmp_path, files) / name)
    assert refusal.value.exit_code == ExitCode.USAGE


def test_without_its_library_a_tokenizer_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(PlanError, match="needs the package tokenizers") as refusal:
        Tokenizer(folder_of(tmp_path, {"tokenizer.json": b"{}"}))
    assert refusal.value.exit_code == ExitCode.NEGATIVE


def test_a_vocabulary_smaller_than_the_tokenizer_is_refused() -> None:
    check_vocabulary(Tokenizer(), 256)
    with pytest.raises(PlanError, match="256 tokens, the model's vocabulary 255"):
        check_vocabulary(Tokenizer(), 255)
