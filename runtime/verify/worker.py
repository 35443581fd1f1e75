"""One rank of `gptplan verify`; started by torchrun as ``-m runtime.verify.worker PLAN RESULT``."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from planner.handover.verification import WORKAROUNDS
from planner.launch.workers import NVME_FOLDER, VerifyOptions
from planner.plans.plan import Plan, canonical_json, write_bytes
from runtime.train.parent import end_with_parent
from runtime.train.worker import leave, serve


def main(arguments: Sequence[str]) -> int:
    """Run this rank to the end; rank 0 writes what was found."""
    default = VerifyOptions()
    parser = argparse.ArgumentParser(prog="runtime.verify.worker")
    parser.add_argument("plan", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--steps", type=int, default=default.steps)
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--output", type=Path, default=default.output)
    parser.add_argument("--without", action="append", choices=WORKAROUNDS, default=[])
    given = parser.parse_args(arguments)

    def compare(plan: Plan) -> None:
        from runtime.verify.steps import verify  # here, so that a failing import is reported too

        folder = os.environ.get(NVME_FOLDER)
        nvme = None if folder is None else Path(folder)
        found = verify(plan, steps=given.steps, seed=given.seed, nvme_folder=nvme, without=given.without)
        if found is not None:
            write_bytes(canonical_json(found), given.result)

    return serve(given.plan, given.output / f"{given.plan.stem}.verify", compare)


if __name__ == "__main__":
    end_with_parent()
    leave(main(sys.argv[1:]))
