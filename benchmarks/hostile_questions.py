"""Time and memory of the hardest questions that specs allow: `python -m benchmarks.hostile_questions`.

Deep models and numbers with very many divisors have the most layouts, of which the most stages have to be judged. Each
question is asked in a process of its own; an answer and a refusal that names the limit are both fine. Prints a table
and exits with 1 if a question takes more than 60 s of a core, more than 2 GB, or ends in any other way.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec

from planner.specs import ModelSpec
from planner.specs.files import load_spec
from planner.specs.toml import to_toml

MOST_S, MOST_BYTES = 60.0, 2e9
ENDS = {0: "answered", 1: "no layout", 2: "refused"}
DEEP = {"num_layers": 1024, "hidden_size": 16384, "num_heads": 128, "ffn_hidden_size": 65536}
DIVISIBLE = {"num_layers": 1008, "hidden_size": 45360, "num_heads": 5040, "ffn_hidden_size": 65536}
THIN = {"num_layers": 1024, "hidden_size": 2048, "num_heads": 128, "ffn_hidden_size": 8192}
SHORT = THIN | {"num_heads": 1024, "seq_len": 128, "max_seq_len": 128}
QUESTIONS = {
    "deep, 16,384 GPUs": (DEEP, "--gpus 16384 --gpu h100-80g --global-batch 16384"),
    "deep, 64 GPUs": (DEEP, "--gpus 64 --gpu h100-80g --global-batch 16384"),
    "many divisors": (DIVISIBLE, "--gpus 15120 --gpu h100-80g --global-batch 5040"),
    "more divisors": (DIVISIBLE, "--gpus 15120 --gpu h100-80g --global-batch 14414400"),
    "many divisors, no room": (DIVISIBLE, "--gpus 15120 --gpu v100-32g --global-batch 720"),
    "half as many GPUs, no room": (DIVISIBLE, "--gpus 7560 --gpu v100-32g --global-batch 2520"),
    "few GPUs, no room": (DIVISIBLE, "--gpus 720 --gpu v100-32g --global-batch 720"),
    "thin, 131,072 GPUs": (THIN, "--gpus 131072 --gpu h100-80g --global-batch 131072"),
    "thin, 16,384 GPUs": (THIN, "--gpus 16384 --gpu h100-80g --global-batch 131072"),
    "largest batch": (SHORT, "--gpus 16384 --gpu h100-80g --global-batch 16777216"),
    "large batch": (SHORT, "--gpus 8192 --gpu h100-80g --global-batch 262144"),
    "least count, none valid": (
        THIN,
        "--gpus 16384 --gpu h100-80g --global-batch 131072 --min-gpus --pin micro_batch=3",
    ),
    "least count": (DIVISIBLE, "--gpus 131072 --gpu v100-32g --global-batch 720720 --min-gpus"),
}
"""A model's shape, and the rest of the question."""


def ask(folder: Path, shape: dict[str, int], options: str) -> tuple[int, float, int]:
    """Exit code, seconds of processor time and peak bytes of one question."""
    model = folder / "model.toml"
    spec = msgspec.structs.replace(load_spec("gpt3-175b", ModelSpec), **(shape | {"name": "hard"}))
    model.write_text(to_toml(spec), encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "planner.cli",
        "solve",
        "--model",
        str(model),
        "-o",
        str(folder / "x.plan"),
        "--force",
    ]
    process = subprocess.Popen([*command, *options.split()], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def main() -> int:
    """Ask every question."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    bad = False
    print(f"{'question':30}  {'end':10}  processor time   peak memory")
    with tempfile.TemporaryDirectory() as folder:
        for name, (shape, options) in QUESTIONS.items():
            code, seconds, peak = ask(Path(folder), shape, options)
            fine = code in ENDS and seconds <= MOST_S and peak <= MOST_BYTES
            bad |= not fine
            end = ENDS.get(code, f"exit {code}")
            print(
                f"{name:30}  {end:10}  {seconds:12.1f} s  {peak / 1e6:8.0f} MB{'' if fine else '  TOO MUCH'}",
                flush=True,
            )
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
