"""``job``, ``tokenize`` and ``check`` of a job, as a person types them."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import Run

PLAN = "tiny.plan"
ROOT = Path(__file__).parents[3]


@pytest.fixture
def typed(gptplan: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """``gptplan`` in a folder with a corpus and a plan for it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("DATA", raising=False)
    Path("corpus").mkdir()
    lines = [json.dumps({"text": f"document {number} " * 30}) for number in range(60)]
    Path("corpus/a.jsonl").write_text("\n".join([*lines, '{"no": 1}', "broken"]))
    assert gptplan("solve", "--model", "gpt2-tiny", "--gpu", "local-cpu", "--gpus", 2, "-o", PLAN).code == 0
    return gptplan


def test_from_a_folder_of_text_to_a_job_that_is_valid(typed: Run) -> None:
    made = typed("tokenize", "corpus", "-o", "tokens", "--workers", 1)
    assert made.code == 0
    first, *rest = made.out.splitlines()
    tokens = Path("tokens.bin").stat().st_size // 2
    assert first.startswith(f"{tokens:,} tokens of 60 documents, from ")
    assert rest == [
        "left out: 1 record without the field, the first at corpus/a.jsonl:61",
        "left out: 1 record not JSON, the first at corpus/a.jsonl:62",
        "tokens: tokens.bin, tokens.idx",
    ]
    document = typed("tokenize", "corpus", "-o", "tokens", "--json").document()
    assert (document["documents"], document["tokens"], document["prefix"]) == (60, tokens, "tokens")

    settings = ("--set", "data.paths=tokens", "--set", "schedule.steps=40")
    assert typed("job", *settings, "-o", "job.toml").code == 0
    assert typed("job", *settings, "-o", "job.toml").code == 2, "a job may have been edited"
    judged = typed("check", "job.toml", "--plan", PLAN)
    assert judged.code == 0, judged.out
    assert "valid: 40 steps of 8 x 128 tokens, 40,960 in all" in judged.out
    assert "states to keep: 9.64 MiB, 12 bytes a parameter" in judged.out
    document = typed("check", "job.toml", "--plan", PLAN, "--json").document()
    (source,) = document["sources"]
    assert (source["tokens"], source["is_exact"], document["valid"]) == (tokens, True, True)
    assert source["epochs"] == pytest.approx(320 / ((tokens - 1) // 128))


def test_text_that_is_not_tokenized_yet_is_estimated(typed: Run) -> None:
    typed("job", "--set", "data.paths=corpus", "-o", "job.toml")
    (source,) = typed("check", "job.toml", "--plan", PLAN, "--json").document()["sources"]
    assert not source["is_exact"]
    typed("tokenize", "corpus", "-o", "tokens", "--workers", 1)
    assert source["tokens"] == pytest.approx(Path("tokens.bin").stat().st_size // 2, rel=0.05)
    assert not Path("cache").exists()


def test_everything_that_stands_in_the_way_is_said(typed: Run) -> None:
    np.arange(3000, dtype="<u2").tofile("large.bin")
    np.full(3000, 7, "<u2").tofile("bare.bin")
    Path("short.txt").write_text("short")
    Path("empty.txt").write_text("")
    Path("latin.txt").write_bytes("café au lait".encode("latin1"))
    found = {
        "two weights": (["data.paths=corpus", "data.weights=[1, 2]"], "2 weights for 1 paths"),
        "vocabulary": (["data.paths=large.bin"], "vocabulary of 3000 or more, the model's is 256"),
        "missing": (["data.paths=nowhere"], "no such file or folder"),
        "short": (["data.paths=short.txt"], "6 tokens, and one sequence needs 129"),
        "field": (["data.paths=corpus", "data.field=body"], " without the field"),
        "empty": (["data.paths=empty.txt"], "no document in it: 1 empty"),
        "latin": (["data.paths=latin.txt"], "this is no UTF-8"),
        "tokenizer": (["data.paths=corpus", "tokenizer.path=nowhere.json"], "no such tokenizer"),
        "end": (["data.paths=bare.bin", "data.documents=apart"], "nothing says which token ends a document"),
        "evaluation": (["data.paths=corpus", "evaluation.every_steps=5"], "nothing to evaluate on"),
    }
    for name, (settings, message) in found.items():
        options = [part for setting in settings for part in ("--set", setting)]
        assert typed("job", *options, "-o", f"{name}.toml").code == 0
        judged = typed("check", f"{name}.toml", "--plan", PLAN)
        assert (judged.code, message in judged.out) == (1, True), judged.out
    several = ("schedule.ramp_start=3", "evaluation.every_steps=5", "data.paths=nowhere")
    typed("job", *(part for setting in several for part in ("--set", setting)), "-o", "all.toml")
    assert typed("check", "all.toml", "--plan", PLAN).out.count("error[") == 3
    assert len(typed("check", "all.toml", "--plan", PLAN, "--json").document()["diagnostics"]) == 3


def test_a_batch_that_grows_is_judged_and_shown(typed: Run) -> None:
    settings = ("data.paths=corpus", "schedule.ramp_start=4", "schedule.ramp_increment=4", "schedule.ramp_samples=100")
    typed("job", *(part for setting in settings for part in ("--set", setting)), "-o", "job.toml")
    judged = typed("check", "job.toml", "--plan", PLAN)
    assert judged.code == 1
    typed(
        "solve", "--model", "gpt2-tiny", "--gpu", "local-cpu", "--gpus", 2, "--pin", "micro_batch=1", "-o", "small.plan"
    )
    judged = typed("check", "job.toml", "--plan", "small.plan")
    assert judged.code == 0, judged.out
    assert "batch: 4 sequences at first; it grows 1 time, first at step 26; the plan's 8 are reached" in judged.out
    assert "valid: 50 steps of 8 x 128 tokens, 38,400 in all" in judged.out
    levels = typed("check", "job.toml", "--plan", "small.plan", "--json").document()["batches"]
    assert levels == [
        {"first_step": 0, "first_sample": 0, "batch": 4},
        {"first_step": 25, "first_sample": 100, "batch": 8},
    ]


@pytest.mark.parametrize(("plan", "code"), [("gpt2-2d", 1), ("gpt2-zero3", 0), ("gpt2-pp1d", 0)])
def test_documents_are_kept_apart_where_the_layout_can(plan: str, code: int, typed: Run) -> None:
    typed("job", "--set", "data.paths=corpus", "--set", "data.documents=apart", "-o", "job.toml")
    judged = typed("check", "job.toml", "--plan", ROOT / "plans" / f"{plan}.plan")
    assert judged.code == code, judged.out
    assert ("documents cannot be kept apart under tensor mode 2d" in judged.out) == (code == 1)


@pytest.mark.parametrize("plan", ["gpt2-2d", "gpt2-zero3", "gpt2-1d"])
def test_gradients_can_be_clipped_under_every_plan(plan: str, typed: Run) -> None:
    typed("job", "--set", "data.paths=corpus", "--set", "optimizer.clip_norm=1", "-o", "job.toml")
    judged = typed("check", "job.toml", "--plan", ROOT / "plans" / f"{plan}.plan")
    assert "clip" not in judged.out
    assert "error" not in typed("check", "job.toml", "--plan", PLAN).out


def test_faults_that_cannot_be_responded_to_are_refused(typed: Run) -> None:
    ends = "schedule.stop_after_minutes=5"
    settings = ("faults.spike=rewind", "checkpoint.every_steps=0", "faults.replan_pins=depth=2", ends)
    options = [part for setting in settings for part in ("--set", setting)]
    typed("job", "--set", "data.paths=corpus", *options, "-o", "job.toml")
    judged = typed("check", "job.toml", "--plan", PLAN)
    assert judged.code == 1
    assert "a run that saves no checkpoints has none to go back to" in judged.out
    assert "a run that is to end early and saves no checkpoints would lose what it has learned" in judged.out
    assert "faults.replan_pins" in judged.out
    assert judged.out.count("error[") == 3, judged.out


def test_replanning_that_several_nodes_do_not_have_is_a_warning(typed: Run) -> None:
    settings = ("data.paths=corpus", "faults.devices_file=devices", "tokenizer.path=bytes")
    typed("job", *(part for setting in settings for part in ("--set", setting)), "-o", "job.toml")
    judged = typed("check", "job.toml", "--plan", ROOT / "plans" / "gpt3-pp1d.plan")
    assert "warning[USAGE]: `devices_file` means nothing here: a plan for " in judged.out
    assert "devices_file" not in typed("check", "job.toml", "--plan", PLAN).out


def test_packages_that_a_job_wants_and_nobody_has_installed_are_named(
    typed: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed("job", "--set", "data.paths=corpus", "--set", "logging.wandb=offline", "-o", "job.toml")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    judged = typed("check", "job.toml", "--plan", PLAN)
    assert judged.code == 1
    assert "error[USAGE]: the package wandb is not installed here" in judged.out
    assert "`pip install wandb`" in judged.out
    assert "tensorboard" not in judged.out
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert typed("check", "job.toml", "--plan", PLAN).code == 0


def test_a_warm_up_longer_than_the_run_is_only_a_warning(typed: Run) -> None:
    typed("job", "--set", "data.paths=corpus", "--set", "schedule.steps=5", "-o", "job.toml")
    judged = typed("check", "job.toml", "--plan", PLAN)
    assert judged.code == 0
    assert "warning[USAGE]: the run of 5 steps ends before" in judged.out


def test_what_is_typed_wrong(typed: Run) -> None:
    Path("job.toml").write_text("[schedule]\nstep = 4\n")
    assert "did you mean `schedule.steps`?" in typed("check", "job.toml", "--plan", PLAN).err
    Path("job.toml").write_text("[schedule]\nsteps = 4\n")
    refused = typed("check", "job.toml")
    assert (refused.code, "which plan is the job for" in refused.err) == (2, True)
    assert typed("tokenize", "corpus", "-o", "-").code == 2
    Path("there.bin").write_bytes(b"somebody's")
    refused = typed("tokenize", "corpus", "-o", "there")
    assert (refused.code, Path("there.bin").read_bytes()) == (2, b"somebody's")
    assert "there is a file already" in refused.err
    assert typed("tokenize", "corpus/*.jsonl", "-o", "there", "--force", "--workers", 1).code == 0


def test_check_judges_a_job_with_what_set_changes(typed: Run) -> None:
    typed("job", "--set", "data.paths=corpus", "-o", "job.toml")
    judged = typed("check", "job.toml", "--plan", PLAN)
    assert judged.code == 0
    assert judged.out.startswith("source ")
    longer = typed("check", "job.toml", "--plan", PLAN, "--set", "schedule.steps=7")
    assert "valid: 7 steps of" in longer.out
    missing = typed("check", "job.toml", "--plan", PLAN, "--set", "data.paths=nowhere")
    assert (missing.code, "no such file or folder" in missing.out) == (1, True)
    assert typed("check", "job.toml", "--plan", PLAN, "--set", "data.pats=nowhere").code == 2
    lines = typed("check", "job.toml", "--plan", PLAN, "--set", "data.paths=nowhere", "--format", "github")
    assert (lines.code, lines.out.startswith("::error ")) == (1, True)


@pytest.mark.parametrize("option", ["--fix", "--as-plan", "--set=a=1"])
def test_options_for_configurations_are_refused_for_plans_and_jobs(option: str, typed: Run) -> None:
    assert typed("check", PLAN, option).code == 2
    typed("job", "-o", "job.toml")
    assert typed("check", "job.toml", "--plan", PLAN, option).code == 2


def test_with_a_plan_it_is_a_job_even_where_it_cannot_be_read(typed: Run) -> None:
    Path("job.toml").write_text("[schedule]\nsteps = 5\nsteps = 6\n")
    refused = typed("check", "job.toml", "--plan", PLAN)
    assert (refused.code, "the job is not TOML" in refused.err) == (2, True)
