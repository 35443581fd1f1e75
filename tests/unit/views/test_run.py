"""A run as people read it: in a terminal, as JSON and as a page."""

import json
from pathlib import Path

import pytest

from planner.handover.work import METRICS_FILE
from tests.helpers import Run
from tests.unit.launch.test_runs import BEGAN_S, SUMMARY, made

FAULT = {"record": "event", "event": "fault", "time_s": BEGAN_S + 7, "step": 400, "kind": "spike", "action": "skip"}
EVALUATION = {"record": "evaluation", "step": 900, "loss": 2.5, "perplexity": 12.18, "time_s": BEGAN_S + 30}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run of 1,000 steps, with a spike of its loss."""
    folder = made(tmp_path / "runs" / "small" / "20231114T221320Z", steps=0)
    with (folder / METRICS_FILE).open("a") as metrics:
        for step in range(1, 1001):
            one = {"record": "step", "step": step, "loss": 90.0 if step == 400 else 5.0 - step / 500, "updated": True}
            times = {"step_s": 0.02, "time_s": BEGAN_S + 5 + step / 40, "tokens_per_s": 2e4, "learning_rate": 1e-3}
            memory = [{"allocated_bytes": 2**30}, {"allocated_bytes": 2**31}] if step <= 3 else []
            metrics.write(json.dumps(one | times | ({"memory": memory} if memory else {})) + "\n")
        metrics.write("".join(json.dumps(one) + "\n" for one in (FAULT, EVALUATION, SUMMARY)) + '{"record": "ste')
    return folder


def test_a_run_is_told_in_a_terminal(gptplan: Run, folder: Path) -> None:
    told = gptplan("report", folder)
    assert told.code == 0
    lines = [" ".join(line.split()) for line in told.out.splitlines()]
    assert "step loss rate speed memory of the fullest rank" in lines
    assert "400 90.0000 0.001 20.0 ktokens/s" in lines
    assert "2023-11-14 22:13 step 400: spike, skip" in lines
    assert "900 2.5000 12.18" in lines
    assert "goodput: 36.4% of 55.0 s trained" in lines
    assert any(line.startswith("training 20.0 s 36.4%") for line in lines)
    assert lines[-1] == f"page: {folder / 'report.html'}"
    assert gptplan("report", folder).code == 0, "its own page is written again"


def test_a_run_is_one_document(gptplan: Run, folder: Path) -> None:
    document = gptplan("report", folder, "--json").document()
    curves = document["curves"]
    assert (curves["steps"], len(curves["loss"])) == (list(range(1, 1001)), 1000)
    assert curves["memory_bytes"][:4] == [2**31, 2**31, 2**31, None]
    assert (document["run"]["state"], document["events"], document["evaluations"]) == (
        "finished",
        [FAULT],
        [EVALUATION],
    )
    assert sum(document["goodput"]["terms_s"].values()) == pytest.approx(document["goodput"]["wall_s"])
    assert gptplan("report", folder, "--json", "-o", "-").code == 2


def test_the_page_has_every_curve_with_its_peaks(gptplan: Run, folder: Path) -> None:
    assert gptplan("report", folder, "-o", "run.html").out.endswith("page: run.html\n")
    page = Path("run.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    for words in ("loss, last 3.0000, 3.0000 to 90.0000", "rate, last", "speed, last", "memory of the fullest rank"):
        assert words in page, words
    assert "399.4,0.0 " in page, "the spike"
    assert '<path class="mark" d="M399.4 0V160"><title>step 400: spike, skip</title></path>' in page
    assert page.count(",160.0 ") >= 1
    assert len(page) < 150_000


def test_a_run_that_did_nothing_yet_is_told(gptplan: Run, tmp_path: Path) -> None:
    folder = made(tmp_path / "run", steps=0)
    assert gptplan("report", folder).code == 0
    (folder / METRICS_FILE).unlink()
    told = gptplan("report", folder)
    assert (told.code, "interrupted" in told.out) == (0, True)


def test_other_folders_and_other_files_stay(gptplan: Run, folder: Path) -> None:
    refused = gptplan("report", "runs")
    assert (refused.code, "this is not the folder of a run" in refused.err) == (2, True)
    (folder / "report.html").write_text("somebody's")
    assert gptplan("report", folder).code == 2
    assert (folder / "report.html").read_text() == "somebody's"
