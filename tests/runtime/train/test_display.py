"""The live line of a run on terminals of every width, and in a file."""

import io

import pytest
from rich.console import Console

from planner.jobs.batches import BatchSchedule, Level
from runtime.train import display
from runtime.train.display import StepDisplay
from runtime.train.steps import Step
from tests.runtime.training import MakePlan

pytestmark = pytest.mark.runtime

BATCHES = BatchSchedule([Level(0, 0, 4), Level(2, 8, 8)], 1200)
WHOLE = "loss 2.5000, rate 0.0003, 1.28 ktokens/s, MFU 10.0%, 0 B, 100 ms a step, predicted 10.0 ms, 0:05:19 left"


def lines(plan: MakePlan, monkeypatch: pytest.MonkeyPatch, width: int, *, is_terminal: bool = True) -> list[str]:
    """What is there of steps 1 and 3, and after a message."""
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=is_terminal, highlight=False, color_system=None)
    monkeypatch.setattr(display, "Console", lambda **settings: console)
    # 12 of 9,592 sequences in 0.4 s: the other 9,576 take 319 s.
    clock = iter([0.0, *[0.4] * 9])
    monkeypatch.setattr("runtime.train.display.time.monotonic", lambda: next(clock))
    shown = StepDisplay(plan(), BATCHES, every=3, shown=True)
    found = []
    for number, step in ((1, Step(3.5, 0.1, is_whole=False)), (3, Step(2.5, 0.1))):
        shown.step(number, step, 3e-4, [])
        if is_terminal:
            out.truncate(out.seek(0))
            console.print(shown._progress.get_renderable())
            found.append(out.getvalue().rstrip())
    return found or out.getvalue().splitlines()


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 120, 160])
def test_a_line_fits_its_terminal_and_says_the_most_important(
    width: int, plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    for line in lines(plan, monkeypatch, width):
        assert len(line) <= width
        assert "\n" not in line
        assert "/1200" in line
        assert ("loss" in line) == (width > 20)
        assert width < 60 or line.index("loss") == len("step    1/1200 ") + display.BAR_WIDTH + 1


def test_a_wide_line_says_everything(plan: MakePlan, monkeypatch: pytest.MonkeyPatch) -> None:
    first, last = lines(plan, monkeypatch, 160)
    assert first.endswith("640 tokens/s, MFU 5.0%, 0 B, 100 ms a step, batch 4 of 8")
    assert last.endswith(WHOLE)
    narrow = lines(plan, monkeypatch, 80)[1]
    assert narrow.endswith("loss 2.5000, 1.28 ktokens/s, MFU 10.0%, 0:05:19 left")


def test_a_file_has_whole_lines(plan: MakePlan, monkeypatch: pytest.MonkeyPatch) -> None:
    assert lines(plan, monkeypatch, 40, is_terminal=False)[1] == f"step 3/1200: {WHOLE}"


def test_no_step_uses_more_than_a_whole_device(plan: MakePlan) -> None:
    shown = StepDisplay(plan(), BATCHES, every=3, shown=False)
    parts = [shown._parts(3, Step(2.5, seconds), 3e-4)["mfu"] for seconds in (0.01, 0.005)]
    assert parts == ["MFU 100.0%", "MFU over 100% of test-cpu's rate"]
