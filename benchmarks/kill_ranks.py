"""Kills ranks of a run at random moments and compares its losses with those of a run without a break.

``python -m benchmarks.kill_ranks --kills 20 --steps 200`` trains a small model on the cores of this machine with TP 2 x
DP 2; in between only two devices are left, and later all are there again.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
TIMEOUT_S = 900.0
ALL, FEW = "0,1,2,3\n", "0,1\n"
STARTING_S = 4.0
"""About how long ranks take to their first step."""


class Found(NamedTuple):
    """A run after which ranks were killed."""

    losses: dict[int, float]
    events: list[dict[str, Any]]
    kills: int
    output: str


def solve(folder: Path) -> Path:
    """The plan that is run: TP 2 x DP 2 of the smallest built-in model, on four cores."""
    plan = folder / "four.plan"
    question = "--model gpt2-tiny --gpu local-cpu --gpus 4 --seq-len 16 --precision fp32"
    pins = "--pin tensor_parallel=2 --pin data_parallel=2"
    gptplan("solve", *question.split(), *pins.split(), "-o", plan)
    return plan


def gptplan(*arguments: object) -> None:
    """Run a command to its end."""
    subprocess.run([sys.executable, "-m", "planner.cli", *map(str, arguments)], cwd=ROOT, check=True, stdout=sys.stderr)


def _command(plan: Path, folder: Path, steps: int) -> list[str]:
    fixed = ["--steps", steps, "--set", "checkpoint.every_steps=5", "--learning-rate", "1e-3", "--run-dir", folder]
    return [sys.executable, "-m", "planner.cli", "run", *map(str, [plan, *fixed])]


def undisturbed(plan: Path, folder: Path, steps: int) -> dict[int, float]:
    """The losses of a run without a break."""
    subprocess.run(_command(plan, folder, steps), cwd=ROOT, check=True, stdout=sys.stderr)
    return _losses(folder)


def disturbed(plan: Path, folder: Path, steps: int, *, kills: int, seed: int, changes: Sequence[int] = ()) -> Found:
    """A run of which ranks are killed: at random steps, every fourth of them while they start.

    Args:
        plan: what runs.
        folder: of the run.
        steps: of the run.
        kills: how many.
        seed: of steps, ranks and moments.
        changes: at the first of these steps two devices go, with a rank that is killed; at the second they come back.
    """
    draw, devices = random.Random(seed), folder.with_suffix(".devices")
    devices.write_text(ALL)
    moments = sorted(draw.sample(range(1, steps - 1), kills - min(len(changes), 1)))
    faults = {
        "devices_file": devices,
        "replan_pins": "pipeline_parallel=2",
        "restart_wait_s": 0,
        "max_restarts_in_place": 20,
    }
    settings = [text for key, value in faults.items() for text in ("--set", f"faults.{key}={value}")]
    with tempfile.TemporaryFile("w+") as output:
        command = [*_command(plan, folder, steps), "--keep-going", *settings]
        run = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
        try:
            done = _disturb(run, folder, draw, _plan_of(moments, changes, devices))
            code = run.wait(TIMEOUT_S)
        finally:
            run.kill()
        output.seek(0)
        text = output.read()
    if code:
        raise SystemExit(f"the run ended with {code}\n{text}")
    return Found(_losses(folder), [one for one in _records(folder) if one["record"] == "event"], done, text)


Moment = tuple[int, bool, Callable[[], object]]
"""A step, whether a rank is killed after it, and what else happens."""


def _plan_of(moments: Sequence[int], changes: Sequence[int], devices: Path) -> list[Moment]:
    planned: list[Moment] = [(step, True, lambda: None) for step in moments]
    for step, text in zip(changes, (FEW, ALL), strict=False):
        planned.append((step, text == FEW, lambda text=text: devices.write_text(text)))  # type: ignore[misc]
    return sorted(planned, key=lambda one: one[0])


def _disturb(run: "subprocess.Popen[bytes]", folder: Path, draw: random.Random, planned: Sequence[Moment]) -> int:
    kills, killed = 0, set[int]()
    for number, (step, is_kill, then) in enumerate(planned):
        deadline = time.monotonic() + TIMEOUT_S
        is_starting = is_kill and number % 4 == 3 and bool(killed)
        while True:
            if run.poll() is not None or time.monotonic() > deadline:
                return kills
            ranks = [rank for rank in _ranks(folder) if rank not in killed]
            if ranks and (is_starting or _last_step(folder) >= step):
                break
            time.sleep(0.02)
        time.sleep(draw.uniform(0, STARTING_S if is_starting else 0.2))
        then()
        ranks = _ranks(folder) if is_kill else []
        if ranks:
            os.kill(draw.choice(ranks), signal.SIGKILL)
            killed |= set(ranks)
            kills += 1
    return kills


def _ranks(folder: Path) -> list[int]:
    command = ["pgrep", "-f", f"runtime.train.worker {folder}"]
    return [int(line) for line in subprocess.run(command, capture_output=True, check=False).stdout.split()]


def _records(folder: Path) -> list[dict[str, Any]]:
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


def _last_step(folder: Path) -> int:
    return max((one["step"] for one in _records(folder) if one["record"] == "step"), default=0)


def _losses(folder: Path) -> dict[int, float]:
    steps = [(one["step"], one["loss"]) for one in _records(folder) if one["record"] == "step"]
    if [step for step, _ in steps] != list(range(1, len(steps) + 1)):
        raise SystemExit(f"steps of {folder} are not there once each: {[step for step, _ in steps]}")
    return dict(steps)


def worst_difference(found: dict[int, float], expected: dict[int, float]) -> float:
    """The largest of any loss, as a share of it."""
    if found.keys() != expected.keys():
        raise SystemExit(f"{len(found)} steps, not {len(expected)}")
    return max(abs(found[step] / expected[step] - 1) for step in expected)


def main() -> None:
    """Kill, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plan, start_s = solve(folder), time.monotonic()
        changes = (options.steps // 3, 2 * options.steps // 3)
        how = {"kills": options.kills, "seed": options.seed, "changes": changes}
        found = disturbed(plan, folder / "out", options.steps, **how)
        took_s = time.monotonic() - start_s
        difference = worst_difference(found.losses, undisturbed(plan, folder / "whole", options.steps))
        down_s = [one["downtime_s"] for one in found.events if one["event"] == "restart"]
    print(found.output)
    print(f"{found.kills} kills in {options.steps} steps and {took_s:.0f} s; losses differ by {difference:.1e} at most")
    print(f"without steps {sum(down_s):.0f} s in {len(down_s)} breaks")
    for one in found.events:
        if one["event"] == "replan":
            step = f"predicted step {one['before_step_s']:.3g} s, then {one['after_step_s']:.3g} s"
            print(f"{one['before_devices']} devices, then {one['after_devices']}: {step}")


if __name__ == "__main__":
    main()
