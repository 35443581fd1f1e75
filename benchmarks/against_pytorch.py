"""gptplan beside a plain PyTorch trainer: ``python -m benchmarks.against_pytorch PLAN [--steps N] [--record TABLE]``.

Trains the plan, of one GPU and a GPT-2 model in bf16, and then the same model, batch and dropout with
:mod:`benchmarks.peer`, each in processes of its own on the same card, and prints both and their ratio. The peer takes
the largest micro batch that it has room for, up to that of the plan or as told.
"""

import argparse
import csv
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import msgspec

from benchmarks.peer import Trained, Work
from planner.handover.metrics import read_records
from planner.plans.plan import Plan, read_plan
from planner.specs.units import GIB

WARM_UP_STEPS = 3
"""Left out of the median of the peer, as `gptplan run` leaves them out."""

COLUMNS = (
    *("model", "seq_len", "sequences", "dropout", "gpu", "torch", "compiled", "micro_batch", "step_s", "peak_bytes"),
    *("predicted_step_s", "predicted_peak_bytes", "peer_micro_batch", "peer_step_s", "peer_peak_bytes", "note"),
)


class Run(NamedTuple):
    """What one trainer reached."""

    micro_batch: int
    step_s: float
    peak_bytes: int


def own_run(plan: Path, steps: int, runs: Path | None) -> tuple[Run, str]:
    """What ``gptplan run`` reaches, and with which PyTorch; appended to the table ``runs``, where there is one."""
    with tempfile.TemporaryDirectory() as folder:
        own = Path(folder) / "run"
        told = ["--steps", str(steps), "--run-dir", str(own), "--set", "checkpoint.every_steps=0"]
        told += [] if runs is None else ["--record", str(runs)]
        subprocess.run([sys.executable, "-m", "planner.cli", "run", str(plan), *told], check=True)
        records = read_records(own / "metrics.jsonl")
    summary = next(one for one in records if one["record"] == "summary")
    header = next(one for one in records if one["record"] == "header")
    peak = max(one["allocated_bytes"] for one in summary["ranks"])
    return Run(read_plan(plan).layout.micro_batch, summary["median_step_s"], peak), header["versions"]["torch"]


def work_of(plan: Plan, steps: int, micro_batch: int) -> Work:
    """The plan's model, batch and steps for the peer."""
    model, problem = plan.problem.model, plan.problem
    return Work(
        num_layers=model.num_layers,
        hidden_size=model.hidden_size,
        num_heads=model.num_heads,
        ffn_hidden_size=model.ffn_hidden_size,
        vocab_size=model.vocab_size,
        seq_len=problem.seq_len,
        dropout=model.dropout,
        global_batch=problem.global_batch,
        micro_batch=micro_batch,
        steps=steps,
        device=problem.hardware.device,
    )


def peer_run(plan: Plan, steps: int, micro_batch: int) -> Run | None:
    """What the peer reaches with ``micro_batch`` sequences at once; ``None``: it has no room for them."""
    work = work_of(plan, steps, micro_batch)
    command = [sys.executable, "-m", "benchmarks.peer", msgspec.json.encode(work).decode()]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    trained = msgspec.json.decode(done.stdout.splitlines()[-1], type=Trained | None)
    if trained is None:
        return None
    return Run(micro_batch, statistics.median(trained.steps_s[WARM_UP_STEPS:]), trained.peak_bytes)


def refusal(plan: Plan) -> str:
    """Why there is no peer for a plan; empty where there is one."""
    model = plan.problem.model
    if plan.layout.num_devices != 1:
        return f"the plan is for {plan.layout.num_devices} devices, and the peer knows one"
    if model.family != "gpt2":
        return f"the peer is a GPT-2, and the plan's model is of {model.family}"
    return (
        "" if plan.layout.precision == "bf16" else f"the peer trains in bf16, and the plan in {plan.layout.precision}"
    )


def row_of(plan: Plan, own: Run, peer: Run, torch: str) -> dict[str, object]:
    """Both runs and what was predicted, by :data:`COLUMNS`."""
    problem, predicted = plan.problem, plan.predicted
    about = (problem.model.name, problem.seq_len, problem.global_batch, problem.model.dropout, problem.hardware.name)
    figures = (
        torch,
        "yes" if problem.compiled else "",
        *own,
        predicted.step_s,
        predicted.stages[0].peak_bytes,
        *peer,
        "",
    )
    return dict(zip(COLUMNS, (*about, *figures), strict=True))


def main() -> int:
    """Compare, print, and keep a row where one is asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.against_pytorch")
    parser.add_argument("plan", type=Path)
    parser.add_argument("--steps", type=int, default=12, help=f"of each; the first {WARM_UP_STEPS} do not count")
    parser.add_argument("--peer-micro-batch", type=int, help="the largest one to try; default: the plan's")
    parser.add_argument("--record", type=Path, metavar="TABLE", help="a CSV table to append to")
    parser.add_argument("--runs", type=Path, metavar="TABLE", help="a CSV table for `gptplan validate` to append to")
    options = parser.parse_args()
    plan = read_plan(options.plan)
    if reason := refusal(plan):
        parser.error(reason)
    if options.steps <= WARM_UP_STEPS:
        parser.error(f"--steps has to be more than {WARM_UP_STEPS}")
    own, torch = own_run(options.plan, options.steps, options.runs)
    micro_batch, peer = options.peer_micro_batch or plan.layout.micro_batch, None
    while peer is None and micro_batch:
        peer = peer_run(plan, options.steps, micro_batch)
        micro_batch //= 2
    if peer is None:
        parser.error("the peer has no room for a single sequence")
    row = row_of(plan, own, peer, torch)
    print(json.dumps(row))
    for name, run in (("gptplan", own), ("PyTorch", peer)):
        print(f"{name}: {run.step_s * 1e3:.1f} ms a step, {run.peak_bytes / GIB:.1f} GiB, {run.micro_batch} at once")
    print(f"{peer.step_s / own.step_s:.3f} times as fast, {own.peak_bytes / peer.peak_bytes:.2f} of the memory")
    if options.record is not None:
        is_new = not options.record.exists()
        with options.record.open("a", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            if is_new:
                table.writeheader()
            table.writerow(row)
    return 0


if __name__ == "__main__":
    sys.exit(main())
