"""From the paths of a job to samples: text is tokenized once, and tokens stay where they are."""

from pathlib import Path

import numpy as np
import pytest

from planner.data.inputs import STANDARD_LIBRARY
from planner.diagnostics import PlanError
from planner.jobs.job import Job
from planner.jobs.reading import read_job
from planner.jobs.sources import check_evaluation, named_sources, open_samples, prepare
from planner.specs import ModelSpec
from planner.specs.files import load_spec

MODEL = load_spec("gpt2-tiny", ModelSpec)


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Path("a").mkdir()
    for name in "xyz":
        Path("a", f"{name}.txt").write_text(name * 50)
    np.full(200, 7, "<u2").tofile("b.bin")
    return tmp_path


def job(*settings: str) -> Job:
    return read_job(None, settings)


def test_text_and_tokens_are_one_source_where_nothing_is_weighed(corpus: Path) -> None:
    chosen = job('data.paths=["a", "b.bin"]')
    made = prepare(chosen, MODEL)
    (source,) = made.sources.training
    assert source.name == "a, b.bin"
    assert [Path(file).parent.name for file in source.files] == ["", "tokens"]
    opened = open_samples(made.sources, chosen, 10)
    assert (opened.tokens, opened.documents, opened.training.num_sequences) == (200 + 3 * 51, None, 35)
    told: list[int] = []
    again = prepare(chosen, MODEL, lambda done, total, tokens: told.append(done))
    assert again.sources == made.sources
    assert not told, "the tokens are there"


def test_weights_make_a_source_of_each_path(corpus: Path) -> None:
    chosen = job('data.paths=["a", "b.bin"]', "data.weights=[3, 1]")
    sources = prepare(chosen, MODEL).sources
    assert [(one.name, one.weight) for one in sources.training] == [("a", 3.0), ("b.bin", 1.0)]
    usage = open_samples(sources, chosen, 10).training.usage(10_000)
    assert [one.taken for one in usage] == [7500, 2500]


def test_other_data_has_another_fingerprint(corpus: Path) -> None:
    before = prepare(job("data.paths=b.bin"), MODEL).sources.fingerprint
    tokens = np.full(200, 7, "<u2")
    tokens[100] = 8
    tokens.tofile("b.bin")
    assert prepare(job("data.paths=b.bin"), MODEL).sources.fingerprint != before


def test_what_is_evaluated_on(corpus: Path) -> None:
    held = job("data.paths=a", "data.held_out=0.4", "evaluation.every_steps=1", "evaluation.batches=3")
    opened = open_samples(prepare(held, MODEL).sources, held, 10)
    assert opened.held_out_documents == 1
    assert opened.evaluation is not None
    assert opened.evaluation.num_sequences == 5
    assert [check_evaluation(opened, held, batch) for batch in (1, 2, 5)] == [3, 2, 1]
    with pytest.raises(PlanError, match="5 sequences to evaluate on, and a global batch takes 6"):
        check_evaluation(opened, held, 6)
    named = job("data.paths=a", "evaluation.every_steps=1", "evaluation.paths=b.bin")
    opened = open_samples(prepare(named, MODEL).sources, named, 10)
    assert opened.evaluation is not None
    assert opened.evaluation.place(2) == ("b.bin", 0, 20)
    none = job("data.paths=a", "evaluation.every_steps=1")
    with pytest.raises(PlanError, match="nothing to evaluate on"):
        open_samples(prepare(none, MODEL).sources, none, 10)
    without = job("data.paths=a")
    assert check_evaluation(open_samples(prepare(without, MODEL).sources, without, 10), without, 8) == 0


def test_tokens_of_a_larger_vocabulary_are_refused(corpus: Path) -> None:
    np.full(200, 256, "<u2").tofile("c.bin")
    with pytest.raises(PlanError, match="vocabulary of 257 or more, the model's is 256"):
        prepare(job("data.paths=c.bin"), MODEL)
    with pytest.raises(PlanError, match="a vocabulary of 458760 or more"):
        prepare(job("data.paths=b.bin", "data.token_type=uint32"), MODEL)


def test_without_paths_it_is_the_standard_library() -> None:
    ((name, (found,)),) = named_sources(Job())
    assert name == STANDARD_LIBRARY
    assert len(found.files) > 100
