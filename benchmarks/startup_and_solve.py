"""Measures start-up and solving: wall time and peak memory of whole processes, median of several runs.

A benchmark, not a test: it asserts nothing. ``make bench`` runs it.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

CASES = {
    "gptplan --help": ["--help"],
    "solve --gpus 96 --model gpt3": ["solve", "--gpus", "96", "--model", "gpt3"],
    "solve --gpus 1024 --model gpt3": ["solve", "--gpus", "1024", "--model", "gpt3"],
}


class Measured(NamedTuple):
    """One run of one command."""

    wall_s: float
    peak_bytes: int


def measure(arguments: list[str]) -> Measured:
    """Run ``gptplan`` with ``arguments`` in a process of its own."""
    command = [sys.executable, "-m", "planner.cli.app", *arguments]
    start_s = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    # wait4 tells the peak of this one child; getrusage only that of the largest so far.
    _, status, usage = os.wait4(process.pid, 0)
    wall_s = time.perf_counter() - start_s
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"gptplan {' '.join(arguments)} ended with exit code {process.returncode}")
    return Measured(wall_s, usage.ru_maxrss * 1024)


def median(arguments: list[str], runs: int) -> Measured:
    """Medians over ``runs`` runs, after one that warms the file cache."""
    measure(arguments)
    measured = [measure(arguments) for _ in range(runs)]
    return Measured(
        statistics.median(m.wall_s for m in measured), round(statistics.median(m.peak_bytes for m in measured))
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="runs of each command (default: 5)")
    runs = parser.parse_args().runs
    print(f"median of {runs} runs, Python {sys.version.split()[0]}, {os.cpu_count()} cores")
    print(f"{'command':<32} {'wall':>8} {'peak RSS':>10}")
    with tempfile.TemporaryDirectory() as folder:
        for name, arguments in CASES.items():
            output = ["-o", str(Path(folder) / "bench.plan")] if arguments[0] == "solve" else []
            result = median([*arguments, *output], runs)
            print(f"{name:<32} {result.wall_s:>6.2f} s {result.peak_bytes / 1024**2:>6.0f} MiB")


if __name__ == "__main__":
    main()
