"""One rank of a run; started once per device as ``-m runtime.train.worker FOLDER``.

The folder is that of the run, and has its plan, its job and the names of the files of tokens to learn from.
"""

import contextlib
import errno
import fcntl
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import torch
import torch.distributed as dist

from planner.diagnostics import Diagnostic, ExitCode, PlanError, render
from planner.handover.options import decode
from planner.handover.work import FAILURE_FILE, OUT_OF_MEMORY_FILE, PLAN_FILE, Beginning
from planner.plans.plan import Plan, read_plan
from runtime.engines.support import check_supported
from runtime.patches.quiet import quieten_libraries
from runtime.train.display import show_message
from runtime.train.group import join_group


def main(arguments: Sequence[str]) -> int:
    """Run this rank to the end; the exit code says how it ended."""
    folder, begins = Path(arguments[0]), decode(arguments[1], Beginning)

    def train(plan: Plan) -> ExitCode:
        from runtime.train.loop import run_training  # here, so that a failing import is reported too

        return run_training(plan, folder, begins)

    return serve(folder / PLAN_FILE, folder / "rank", train)


def serve(plan_path: Path, logs: Path, work: Callable[[Plan], ExitCode | None]) -> int:
    """Join the other ranks of the plan and do ``work`` with them; the exit code says how it ended.

    The traceback of a failure goes to a new file whose name begins like ``logs``, before the number of the rank.
    """
    rank = int(os.environ["RANK"])
    quieten_libraries()
    try:
        plan = read_plan(plan_path)
        check_supported(plan)
        _check_world(plan)
        _join(plan)
        ended = work(plan)
        dist.destroy_process_group()
    except PlanError as error:
        return fail("\n".join(map(render, error.diagnostics)), error.exit_code)
    except Exception as error:
        log = _write_log(logs.with_name(f"{logs.name}{rank}"))
        _note_out_of_memory(error)
        return fail(render(_explain(error, rank, log)), _exit_code(error))
    return ended or ExitCode.OK


def leave(status: int) -> NoReturn:
    """End this process without the interpreter's shutdown, in which a process group waits for peers that are gone."""
    sys.stdout.flush()
    os._exit(status)


def _check_world(plan: Plan) -> None:
    world = int(os.environ["WORLD_SIZE"])
    if world != plan.layout.num_devices:
        message = f"the plan uses {plan.layout.num_devices} processes, {world} were started"
        raise PlanError(Diagnostic(rule="RUN009", message=message, hint="start them with `gptplan run`"))


def _join(plan: Plan) -> None:
    from runtime.patches.host_accelerator import adapt

    device = plan.problem.hardware.device
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    adapt(device)
    join_group("nccl" if device == "cuda" else "gloo")


def _write_log(stem: Path) -> Path:
    """Keep the traceback in a new file, in the folder for temporary files if it cannot be there; never raises."""
    text = traceback.format_exc()
    elsewhere = Path(tempfile.gettempdir()) / f"gptplan-{os.getpid()}-{stem.name}.log"
    for path in (stem.with_name(f"{stem.name}.log"), stem.with_name(f"{stem.name}-{os.getpid()}.log"), elsewhere):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
                return path
        except FileExistsError:
            continue  # that of another run
        except OSError:
            # Where the metrics could not be written either; a full drive leaves an empty file.
            with contextlib.suppress(OSError):
                path.unlink()
    return elsewhere


def _explain(error: Exception, rank: int, log: Path) -> Diagnostic:
    rule, hint = "RUN008", ""
    if isinstance(error, torch.OutOfMemoryError):
        message, hint = f"rank {rank} ran out of device memory", "solve again with a larger `--reserve`"
    elif _is_full_drive(error):
        rule, message = "RUN011", f"rank {rank} cannot write: the drive is full"
        hint = "make room, or name another folder with `--run-dir`"
    else:
        message = f"rank {rank} failed with {type(error).__name__}"
    reason = str(error).strip().splitlines()[:1]
    return Diagnostic(rule=rule, message=message, location=str(log), detail="".join(reason), hint=hint)


def _note_out_of_memory(error: Exception) -> None:
    path = os.environ.get(OUT_OF_MEMORY_FILE)
    if path is not None and isinstance(error, torch.OutOfMemoryError):
        Path(path).write_text("yes", encoding="utf-8")


def _is_full_drive(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _exit_code(error: Exception) -> ExitCode:
    is_environment = isinstance(error, torch.OutOfMemoryError) or _is_full_drive(error)
    return ExitCode.NEGATIVE if is_environment else ExitCode.BUG


def fail(text: str, code: int) -> int:
    """Say why, unless another rank of this node was first: its peers fail only because it did."""
    path = os.environ.get(FAILURE_FILE)
    if path is None:
        show_message(text)
        return code
    with Path(path).open("r+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if not file.read(1):
            file.write(f"{int(code)}\n{text}")
    return code


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
