"""Job files and settings: one declaration, and everything that is wrong at once."""

import tomllib
from pathlib import Path

import msgspec
import pytest

from planner.diagnostics import PlanError
from planner.handover.work import JOB_FILE
from planner.jobs.job import DataSection, Job, OptimizerSection, ScheduleSection, num_steps
from planner.jobs.reading import is_job, keys, read_job, text_of, tokenizer_beside

OWN = Job(
    seed=3,
    data=DataSection(paths=('a "b"\\c', "d\u00e9"), weights=(0.25, 0.75), held_out=0.5),
    optimizer=OptimizerSection(learning_rate=1e-5, beta2=0.95),
    schedule=ScheduleSection(kind="wsd", tokens=10**9),
)


@pytest.mark.parametrize("job", [Job(), OWN], ids=["defaults", "own"])
@pytest.mark.parametrize("commented", [True, False])
def test_a_job_reads_back_as_it_was_written(job: Job, commented: bool, tmp_path: Path) -> None:
    text = text_of(job, commented=commented)
    (tmp_path / "job.toml").write_text(text)
    assert read_job(tmp_path / "job.toml") == job
    assert read_job(tmp_path / "job.toml").digest == job.digest
    assert is_job(text)


def test_the_written_job_has_every_key_with_its_meaning() -> None:
    lines = text_of(Job(), commented=True).splitlines()
    written = {line.removeprefix("# ").partition(" =")[0] for line in lines if " =" in line}
    assert written == {key.name for key in keys().values()}
    for key in keys().values():
        assert any(key.description[:40] in line for line in lines), key.path


def test_the_digest_is_that_of_what_is_learned() -> None:
    assert Job().digest == read_job(None, ["schedule.steps=50"]).digest
    assert Job().digest != read_job(None, ["schedule.steps=51"]).digest
    assert Job().digest == read_job(None, ["data.cache=elsewhere"]).digest


def test_settings_stand_above_the_file_and_have_their_types(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_text("[schedule]\nsteps = 7\n[data]\npaths = ['x']\n")
    settings = [
        "schedule.warmup_steps=2",
        "schedule.kind=cosine",
        "data.paths=corpus/",
        "data.weights=1",
        "tokenizer.path=12",
        "optimizer.learning_rate=1",
        "seed=5",
    ]
    job = read_job(path, settings)
    assert (job.schedule.steps, job.schedule.warmup_steps, job.schedule.kind) == (7, 2, "cosine")
    assert (job.data.paths, job.data.weights, job.tokenizer.path) == (("corpus/",), (1.0,), "12")
    assert (job.optimizer.learning_rate, job.seed) == (1.0, 5)
    assert read_job(path, ['data.paths=["a", "b"]']).data.paths == ("a", "b")
    assert read_job(path, ["seed=1", "seed=2"]).seed == 2


def test_everything_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_text(
        "sede = 1\nevaluation = 3\n[schedule]\nstpes = 7\nsteps = 0\nkind = 'cosin'\n[optimiser]\n[faults]\nkeep = 2\n"
    )
    settings = ["steps=4", "data.held_out=1", "schedule", "logging.every_steps=0"]
    with pytest.raises(PlanError) as refusal:
        read_job(path, settings)
    found = [(one.message, one.hint) for one in refusal.value.diagnostics]
    assert found == [
        ("unknown key `sede`", "did you mean `seed`?"),
        ("unknown key `schedule.stpes`", "did you mean `schedule.steps`?"),
        ("unknown key `optimiser`", "did you mean `[optimizer]`?"),
        ("unknown key `faults.keep`", "did you mean `checkpoint.keep`?"),
        ("unknown key `steps`", "did you mean `schedule.steps`?"),
        ("`data.held_out` cannot be 1: Expected `float` < 1.0", "`data.held_out` is number from 0 below 1"),
        ("`schedule` sets nothing", "for example `--set schedule.steps=100`"),
        (
            "`logging.every_steps` cannot be 0: Expected `int` >= 1",
            "`logging.every_steps` is whole number from 1 to 1,000,000,000",
        ),
        ("`evaluation` has to be a section", "write `[evaluation]` over its keys"),
        (
            "`schedule.kind` cannot be 'cosin': Invalid enum value 'cosin'",
            "`schedule.kind` is `constant`, `cosine`, `linear`, `wsd`",
        ),
        (
            "`schedule.steps` cannot be 0: Expected `int` >= 1",
            "`schedule.steps` is whole number from 1 to 1,000,000,000",
        ),
    ]


@pytest.mark.parametrize(
    ("content", "message"), [(None, "cannot read the job"), (b"a = ", "not TOML"), (b"\xff", "not TOML")]
)
def test_a_file_that_is_no_toml_is_refused(content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "job.toml").write_bytes(content)
    with pytest.raises(PlanError, match=message):
        read_job(tmp_path / "job.toml")


def test_the_environment_names_data_where_the_job_does_not() -> None:
    assert read_job(None, environ={"DATA": "/corpus"}).data.paths == ("/corpus",)
    assert read_job(None, ["data.paths=own"], {"DATA": "/corpus"}).data.paths == ("own",)
    assert read_job(None, environ={}).data.paths == ()


def test_what_is_a_job() -> None:
    assert is_job("[schedule]\nsteps = 1\n")
    assert is_job("[optimizer]\nlearning_rate = 1e-3\n")
    assert not is_job("[optimizer]\ntype = 'Adam'\n")
    assert not is_job("[zero_optimization]\nstage = 2\n")
    assert not is_job("BATCH_SIZE = 4\nmodel = dict(x=1)\n")
    assert not is_job('{"data": {}}')


def test_tokens_are_reached_in_whole_steps() -> None:
    assert num_steps(Job(), 1024) == 50
    assert [num_steps(read_job(None, [f"schedule.tokens={n}"]), 1024) for n in (1, 1024, 1025)] == [1, 1, 2]


def test_every_field_is_declared_with_its_meaning() -> None:
    assert all(key.description for key in keys().values())
    assert msgspec.convert(tomllib.loads(text_of(Job())), Job) == Job()


def test_the_tokenizer_of_a_checkpoint_is_that_of_its_run(tmp_path: Path) -> None:
    checkpoint = tmp_path / "run" / "checkpoints" / "step-00000010"
    checkpoint.mkdir(parents=True)
    assert tokenizer_beside(checkpoint) is None
    (tmp_path / "run" / JOB_FILE).write_text('[tokenizer]\npath = "gpt2/"\n')
    assert tokenizer_beside(checkpoint) == Path("gpt2")
