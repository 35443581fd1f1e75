"""From what was typed to the job of a run."""

import os
from pathlib import Path

import pytest

from planner.diagnostics import PlanError
from planner.handover.options import declared
from planner.handover.work import RunOptions
from planner.jobs.job import Job
from planner.jobs.reading import keys
from planner.launch.jobs import SHORT_FORMS, job_of


def test_short_forms_stand_above_settings_and_those_above_the_file(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text("[schedule]\nsteps = 1\nwarmup_steps = 2\ntokens = 5\nkind = 'linear'\n")
    options = RunOptions(
        job=tmp_path / "job.toml",
        settings=("schedule.steps=3", "schedule.warmup_steps=4"),
        steps=5,
        data=Path("[odd].txt"),
        tokenizer=Path("own"),
        seed=6,
        learning_rate=0.5,
    )
    job = job_of(options, {"DATA": "elsewhere"})
    assert (job.schedule.steps, job.schedule.warmup_steps, job.schedule.kind) == (5, 4, "linear")
    assert job.schedule.tokens is None, "as many steps as were asked for"
    assert (job.data.paths, job.tokenizer.path, job.seed, job.optimizer.learning_rate) == (
        ("[odd].txt",),
        "own",
        6,
        0.5,
    )


def test_without_options_it_is_the_job_of_defaults() -> None:
    assert job_of(RunOptions(), {}) == Job()
    assert job_of(RunOptions(), {"DATA": "corpus"}).data.paths == ("corpus",)


def test_a_name_that_is_no_text_is_refused() -> None:
    with pytest.raises(PlanError, match=r"`data.paths` cannot be .*: it is no UTF-8"):
        job_of(RunOptions(data=Path(os.fsdecode(b"no \xff UTF-8"))), {})


def test_every_short_form_says_which_key_it_stands_for() -> None:
    options = {one.field: one for one in declared(RunOptions)}
    for name, key in SHORT_FORMS.items():
        assert key in keys()
        assert options[name].option.help.startswith(f"{key} of the job")
        assert options[name].default is None
