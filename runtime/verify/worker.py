"""One rank of `gptplan verify`; started once per device as ``-m runtime.verify.worker PLAN RESULT OPTIONS``.

The options are :class:`planner.handover.work.VerifyOptions` as JSON.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from planner.handover.options import decode
from planner.handover.work import NVME_FOLDER, VerifyOptions
from planner.plans.plan import Plan, canonical_json
from runtime.train.worker import leave, serve


def main(arguments: Sequence[str]) -> int:
    """Run this rank to the end; rank 0 writes what was found."""
    plan_path, result, options = Path(arguments[0]), Path(arguments[1]), decode(arguments[2], VerifyOptions)

    def compare(plan: Plan) -> None:
        from runtime.verify.steps import verify  # here, so that a failing import is reported too

        folder = os.environ.get(NVME_FOLDER)
        nvme = None if folder is None else Path(folder)
        found = verify(plan, steps=options.steps, seed=options.seed, nvme_folder=nvme, without=options.without)
        if found is not None:
            result.write_bytes(canonical_json(found))

    return serve(plan_path, options.output / f"{plan_path.stem}.verify.rank", compare)


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
