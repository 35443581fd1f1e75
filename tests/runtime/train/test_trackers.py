"""What TensorBoard and Weights & Biases are told of a run; the latter is stood in for."""

import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from planner.diagnostics import PlanError
from planner.jobs.job import Job, LoggingSection
from planner.plans.plan import Plan
from runtime.train.measure import MetricsFile
from runtime.train.trackers import Trackers

pytestmark = pytest.mark.runtime

BOTH = Job(logging=LoggingSection(tensorboard=True, wandb="offline"))


class Stub:
    """What of Weights & Biases a run calls."""

    def __init__(self) -> None:
        self.given: dict[str, Any] = {}
        self.logged: list[dict[str, Any]] = []
        self.is_full = self.is_finished = False

    def init(self, **given: Any) -> "Stub":
        self.given = given
        return self

    def define_metric(self, name: str, *, step_metric: str) -> None:
        assert (name, step_metric) == ("*", "step")

    def log(self, values: dict[str, Any]) -> None:
        if self.is_full:
            raise OSError("no room")
        self.logged.append(values)

    def finish(self) -> None:
        self.is_finished = True


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Stub:
    stub, module = Stub(), types.ModuleType("wandb")
    module.init = stub.init  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", module)
    return stub


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """All that TensorBoard shows of a folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder / "tensorboard"))
    found.Reload()
    return {tag: [(one.step, one.value) for one in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


@pytest.mark.filterwarnings("ignore")
def test_records_go_to_both_and_those_of_a_resume_take_the_place_of_others(
    plan: Callable[..., Plan], wandb: Stub, tmp_path: Path
) -> None:
    said: list[str] = []
    for done in (0, 1):
        trackers = Trackers(plan(), BOTH, tmp_path, done=done, say=said.append)
        with MetricsFile(tmp_path / "metrics.jsonl", after=done, follow=trackers.record) as metrics:
            metrics.write("header", steps=3)
            for step in (1, 2, 3)[done:]:
                memory = {"memory": [{"allocated_bytes": 5}, {"allocated_bytes": 7}]} if step == 3 else {}
                metrics.write(
                    "step", step=step, loss=10.0 * done + step, learning_rate=0.5, gradient_norm=None, **memory
                )
            metrics.write("evaluation", step=3, loss=2.0, perplexity=7.5)
            metrics.event("fault", step=3)
        trackers.close()
        assert (metrics.redone_s > 0) == (done == 1), "step 1 stays, and steps 2 and 3 are done again"
    shown = scalars(tmp_path)
    assert shown["train/loss"] == [(1, 1.0), (2, 12.0), (3, 13.0)]
    assert (shown["evaluation/perplexity"], shown["train/memory_bytes"]) == ([(3, 7.5)], [(3, 7.0)])
    assert "train/gradient_norm" not in shown
    assert (wandb.given["mode"], wandb.given["dir"], wandb.given["resume"]) == ("offline", str(tmp_path), "allow")
    assert wandb.logged[0] == {"train/loss": 1.0, "train/learning_rate": 0.5, "step": 1}
    assert (len(wandb.logged), wandb.is_finished, said) == (7, True, [])


def test_one_that_fails_ends_no_training(plan: Callable[..., Plan], wandb: Stub, tmp_path: Path) -> None:
    said: list[str] = []
    job = msgspec.structs.replace(BOTH, logging=LoggingSection(wandb="online"))
    trackers = Trackers(plan(), job, tmp_path, done=0, say=said.append)
    wandb.is_full = True
    for step in (1, 2):
        trackers.record("step", {"step": step, "loss": 1.0})
    trackers.close()
    assert said == ["warning: `logging.wandb` has ended: no room; training goes on without it"]
    sys.modules["wandb"].init = None  # type: ignore[attr-defined]
    with pytest.raises(PlanError, match=r"`logging\.wandb` cannot begin") as refusal:
        Trackers(plan(), job, tmp_path, done=0, say=said.append)
    assert "--set logging.wandb=off" in refusal.value.diagnostics[0].hint
