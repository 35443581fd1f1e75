"""Tokenizing: what is written, by one process and by several, and what an interruption leaves."""

import errno
import json
import random
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from planner.data import tokenizing
from planner.data.part import Part, Task, make_part
from planner.data.pool import run_all
from planner.data.token_files import open_token_file
from planner.data.tokenizers import BYTES, load_tokenizer
from planner.data.tokenizing import How, Manifest, Progress, read_manifest, recipe_of, tokenize
from planner.diagnostics import PlanError


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    draw = random.Random(1)
    folder = tmp_path / "corpus"
    folder.mkdir()
    for name in "abcde":
        records = [json.dumps({"text": f"{name}{number} " * draw.randrange(1, 30)}) for number in range(20)]
        (folder / f"{name}.jsonl").write_text("\n".join([*records, "broken"]) + "\n")
    (folder / "f.txt").write_text("a text of its own\n" * 40)
    return folder


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part for every file."""
    monkeypatch.setattr(tokenizing, "PIECE_BYTES", 1)


def run(
    corpus: Path, prefix: Path, how: How | None = None, progress: Progress = lambda done, total, tokens: None
) -> Manifest:
    tokenizer = load_tokenizer(BYTES)
    recipe = recipe_of([str(corpus)], "text", tokenizer)
    return tokenize(recipe, prefix, tokenizer, how or How(workers=1), progress)


def texts_of(corpus: Path) -> list[str]:
    lines = [line for path in sorted(corpus.glob("*.jsonl")) for line in path.read_text().splitlines()]
    records = [json.loads(line)["text"] for line in lines if line != "broken"]
    return [*records, *(path.read_text() for path in corpus.glob("*.txt"))]


def test_documents_come_in_order_each_with_its_end(corpus: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int, int]] = []
    manifest = run(corpus, tmp_path / "out-1.5", progress=lambda *what: told.append(what))
    file = open_token_file(tmp_path / "out-1.5.bin")
    found = bytes(file.tokens.tolist()).split(b"\xff")
    assert [text.decode() for text in found] == [*texts_of(corpus), ""]
    starts = [file.document_start(number) for number in range(101)]
    assert np.diff([*starts, len(file.tokens)]).tolist() == [len(text) + 1 for text in texts_of(corpus)]
    assert (manifest.documents, manifest.tokens) == (101, len(file.tokens))
    assert manifest.bad_records == {"not JSON": 5}
    assert manifest.first_bad == {"not JSON": f"{corpus / 'a.jsonl'}:21"}
    assert read_manifest(tmp_path / "out-1.5") == manifest
    assert told[-1] == (manifest.input_bytes, manifest.input_bytes, manifest.tokens)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus", "out-1.5.bin", "out-1.5.idx", "out-1.5.json"]


def test_several_processes_write_the_same_bytes(corpus: Path, tmp_path: Path) -> None:
    run(corpus, tmp_path / "one")
    run(corpus, tmp_path / "two", How(workers=2))
    for suffix in ("bin", "idx", "json"):
        assert (tmp_path / f"one.{suffix}").read_bytes() == (tmp_path / f"two.{suffix}").read_bytes()


def test_an_interrupted_call_goes_on_where_it_was(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(corpus, tmp_path / "whole")
    made: list[int] = []

    def making(task: Task, most: int = 3) -> Part:
        if len(made) == most:
            raise KeyboardInterrupt
        made.append(task.number)
        return make_part(task)

    monkeypatch.setattr(tokenizing, "make_part", making)
    with pytest.raises(KeyboardInterrupt):
        run(corpus, tmp_path / "out")
    assert made == [0, 1, 2]
    assert not list(tmp_path.glob("out.[bij]*"))
    # A part without its mark, as a killed process leaves it, counts for nothing.
    Task.path(tmp_path / "out.parts", 3, "tokens").write_bytes(b"half")
    made.clear()
    monkeypatch.setattr(tokenizing, "make_part", partial(making, most=9))
    run(corpus, tmp_path / "out")
    assert made == [3, 4, 5]
    assert (tmp_path / "out.bin").read_bytes() == (tmp_path / "whole.bin").read_bytes()
    assert (tmp_path / "out.idx").read_bytes() == (tmp_path / "whole.idx").read_bytes()
    assert not (tmp_path / "out.parts").exists()


def test_parts_of_another_input_are_not_used(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    with monkeypatch.context() as patched:
        patched.setattr(tokenizing, "_join", full)
        with pytest.raises(PlanError, match="cannot write the tokens: no space left"):
            run(corpus, tmp_path / "out")
    (corpus / "f.txt").write_text("changed")
    run(corpus, tmp_path / "out")
    assert bytes(open_token_file(tmp_path / "out.bin").tokens.tolist()).endswith(b"changed\xff")


def test_the_same_call_does_nothing_and_another_replaces_only_its_own(corpus: Path, tmp_path: Path) -> None:
    run(corpus, tmp_path / "out")
    before = (tmp_path / "out.bin").stat().st_ino
    run(corpus, tmp_path / "out")
    assert (tmp_path / "out.bin").stat().st_ino == before
    (corpus / "f.txt").unlink()
    assert run(corpus, tmp_path / "out").documents == 100
    (tmp_path / "out.json").unlink()
    with pytest.raises(PlanError, match="there is a file already"):
        run(corpus, tmp_path / "out")
    assert run(corpus, tmp_path / "out", How(force=True)).documents == 100


def test_two_calls_do_not_write_the_same_tokens(corpus: Path, tmp_path: Path) -> None:
    holding = tokenizing._parts_folder(
        tmp_path / "out.parts", recipe_of([str(corpus)], "text", load_tokenizer(BYTES)), wait=False
    )
    with holding:
        with pytest.raises(PlanError, match="another process is writing"):
            run(corpus, tmp_path / "out")
        waiting = threading.Thread(target=run, args=(corpus, tmp_path / "out"), kwargs={"how": How(wait=True)})
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive()
    waiting.join()
    assert read_manifest(tmp_path / "out") is not None
    assert not (tmp_path / "out.parts").exists()


def test_what_has_no_document_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"body": "x"}\n' * 3)
    with pytest.raises(PlanError, match="no document in it: 3 without the field") as refusal:
        run(tmp_path / "a.jsonl", tmp_path / "out")
    assert "data.field" in refusal.value.diagnostics[0].hint
    assert not list(tmp_path.glob("out.[bij]*"))
    (tmp_path / "a.bin").write_bytes(b"\1\2")
    with pytest.raises(PlanError, match="holds tokens already"):
        run(tmp_path / "a.bin", tmp_path / "out")


def test_a_link_is_followed_and_stays(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out.bin").symlink_to(tmp_path / "disk" / "there.bin")
    run(corpus, tmp_path / "out")
    assert (tmp_path / "out.bin").is_symlink()
    assert open_token_file(tmp_path / "disk" / "there.bin").num_documents == 101


def fails(number: int) -> int:
    if number == 2:
        raise ValueError(number)
    return number


def test_a_defect_in_a_process_is_not_swallowed() -> None:
    with pytest.raises(ValueError, match="2"):
        list(run_all(fails, [1, 2, 3], 2))
