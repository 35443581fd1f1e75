"""How many tokens text has, told from its beginning."""

import gzip
import json
import random
from pathlib import Path

import pytest

from planner.data.inputs import find
from planner.data.tokenizers import BYTES, load_tokenizer
from planner.jobs import judge
from planner.jobs.reading import read_job

WORDS = ["wolf", "sheep", "mountain", "river", "and", "of", "the", "grazes", "howls"]


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.jsonl.gz", "a.parquet", "a.arrow"])
def test_the_beginning_of_a_file_tells_its_tokens(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "_PROBE_BYTES", 2**13)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    draw = random.Random(2)
    texts = [" ".join(draw.choices(WORDS, k=200)) for _ in range(300)]
    exact = sum(len(text) + 1 for text in texts)
    path = tmp_path / name
    if name == "a.txt":
        path.write_text("\n".join(texts))
    elif "jsonl" in name:
        content = "".join(f"{json.dumps({'id': 1, 'text': text})}\n" for text in texts).encode()
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    else:
        table(path, texts)
    job = read_job(None, [f"data.paths={path}"])
    tokens, is_exact = judge._count(find(str(path)).files, job, load_tokenizer(BYTES))
    assert not is_exact
    assert tokens == pytest.approx(exact, rel=0.25)


def table(path: Path, texts: list[str]) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    content = pyarrow.table({"text": texts})
    if path.suffix == ".parquet":
        parquet.write_table(content, path, use_dictionary=False)
        return
    with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, content.schema) as writer:
        writer.write_table(content, max_chunksize=50)
