"""Starting a plan: does it match this machine, and which command runs it.

Nothing here imports the runtime or what it needs: versions are read from package metadata, GPUs
are asked for with `nvidia-smi`, and the workers are processes of their own.
"""

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from planner.diagnostics import Diagnostic, ExitCode, PlanError, usage_error
from planner.handover.verification import Workaround
from planner.launch.processes import Command, run_command
from planner.plans.plan import Plan
from planner.specs import HardwareSpec
from planner.specs.files import builtin_names, load_spec

STACK = "colossalai"
RUNTIME_PACKAGES = ("torch", "colossalai", "transformers", "peft", "galore_torch", "bitsandbytes", "rich")
TRANSFORMERS_VERSION = "4.51.3"
"""Colossal-AI's GPT-2 forward is written for this release's blocks."""
OLDEST_TORCH = (2, 2)
NUM_PORTS = 2**16

NVME_FOLDER = "GPTPLAN_NVME_FOLDER"
"""Environment variable: where the workers keep moments of the optimizer while they run."""


OUT_OF_MEMORY_FILE = "GPTPLAN_OUT_OF_MEMORY_FILE"
"""Environment variable: the file that a worker makes when it runs out of device memory."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What `gptplan run` may be told beside the plan."""

    steps: int = 50
    data: Path | None = None
    """A text file or a folder of them; ``None`` is the source of Python's standard library."""
    tokenizer: Path | None = None
    """A `tokenizer.json`; ``None`` makes every byte a token."""
    output: Path = Path("runs")
    """Folder of the metrics and log files."""
    seed: int = 0
    learning_rate: float = 3e-4
    warmup_steps: int = 10
    """Steps over which the learning rate rises to its value."""
    nvme_path: Path | None = None
    """A folder on a local drive, for the optimizer's moments of a plan that offloads them to NVMe."""
    record: Path | None = None
    """A table to append the run to, as a row that `gptplan validate` reads."""
    node_rank: int = 0
    rendezvous: str | None = None
    """``HOST:PORT`` of node 0, the same on every node; needed only for several nodes."""


@dataclass(frozen=True, kw_only=True)
class VerifyOptions:
    """What `gptplan verify` may be told beside the plan."""

    steps: int = 3
    seed: int = 7
    max_processes: int = 8
    on_gpus: bool = False
    own_precision: bool = False
    """In the precision of the plan, rather than in the one that shows errors best."""
    nvme_path: Path | None = None
    """A folder for the optimizer's moments of a plan that offloads them; ``None`` is one for temporary files."""
    output: Path = Path("runs")
    """Folder of the log files of failures."""
    without: tuple[Workaround, ...] = ()
    """Workarounds to switch off, so that their errors happen."""


def check_machine(plan: Plan, location: str, node_rank: int = 0) -> None:
    """Refuse a plan that was made for other software or hardware than node ``node_rank`` has.

    ``location`` is the plan file as the user named it.

    Raises:
        PlanError: with exit code 1 and all findings; each names what to type instead.
    """
    if plan.problem.stack.name != STACK:
        found = [_other_stack(plan)]
    else:
        found = _missing_packages() or [*_other_versions(plan), *_other_hardware(plan, node_rank)]
    if found:
        placed = (
            Diagnostic(rule=d.rule, message=d.message, detail=d.detail, hint=d.hint, location=location) for d in found
        )
        raise PlanError(*placed, exit_code=ExitCode.NEGATIVE)


def _solve(plan: Plan, *, gpu: str, gpus: int) -> str:
    return f"`gptplan solve --gpu {gpu} --gpus {gpus} --model {plan.problem.model.name}`"


def _other_stack(plan: Plan) -> Diagnostic:
    hint = f"solve with `--stack {STACK}` to get a plan that runs"
    return Diagnostic(
        rule="RUN004", message=f"only {STACK} plans can run, this one is for {plan.problem.stack.name}", hint=hint
    )


def _missing_packages() -> list[Diagnostic]:
    missing = [name for name in RUNTIME_PACKAGES if importlib.util.find_spec(name) is None]
    if not missing:
        return []
    message = f"running needs packages that are not installed: {', '.join(missing)}"
    hint = "install the `runtime` extra into this environment; the README says how"
    return [Diagnostic(rule="RUN001", message=message, hint=hint)]


def _other_versions(plan: Plan) -> Iterator[Diagnostic]:
    wanted = plan.problem.stack.version
    colossalai = importlib.metadata.version("colossalai")
    if colossalai != wanted:
        message = f"the plan was made for Colossal-AI {wanted}, {colossalai} is installed"
        hint = f"install colossalai=={wanted}, or solve with a `--stack` of version {colossalai}"
        yield Diagnostic(rule="RUN002", message=message, hint=hint)
    transformers = importlib.metadata.version("transformers")
    if transformers != TRANSFORMERS_VERSION:
        message = f"Colossal-AI needs transformers {TRANSFORMERS_VERSION}, {transformers} is installed"
        yield Diagnostic(rule="RUN002", message=message, hint=f"`pip install transformers=={TRANSFORMERS_VERSION}`")
    torch = importlib.metadata.version("torch")
    oldest = ".".join(map(str, OLDEST_TORCH))
    if tuple(map(int, re.findall(r"\d+", torch)[:2])) < OLDEST_TORCH:
        message = f"running needs torch {oldest} or newer, {torch} is installed"
        yield Diagnostic(rule="RUN002", message=message, hint=f"`pip install 'torch>={oldest}'`")


def _other_hardware(plan: Plan, node_rank: int) -> Iterator[Diagnostic]:
    hardware = plan.problem.hardware
    if hardware.device == "cpu":
        return
    names = present_gpus()
    wanted = _devices_of_node(plan, node_rank)
    if not names:
        message = f"the plan needs {wanted} {hardware.title} on this machine, no GPU was found"
        hint = f"run it where the GPUs are, or {_solve(plan, gpu='local-cpu', gpus=2)}"
        yield Diagnostic(rule="RUN003", message=message, hint=hint)
        return
    here = builtin_for(names[0]) or "FILE.toml"
    if len(names) < wanted:
        message = f"the plan needs {wanted} GPUs on this machine, {len(names)} found"
        hint = _solve(plan, gpu=here, gpus=len(names))
        yield Diagnostic(rule="RUN003", message=message, detail=f"found: {', '.join(names)}", hint=hint)
    others = sorted({name for name in names[:wanted] if not _is_named(name, hardware)})
    if others:
        message = f"the plan was made for {hardware.title}, this machine has {', '.join(others)}"
        hint = _solve(plan, gpu=here, gpus=plan.problem.num_devices)
        yield Diagnostic(rule="RUN003", message=message, hint=hint)


def present_gpus() -> list[str]:
    """Names of the GPUs of this machine that a process may use, as the driver reports them."""
    if shutil.which("nvidia-smi") is None:
        return []
    query = ("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits")
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    names = [line.rpartition(",")[0].strip() for line in answer.stdout.splitlines() if line.strip()]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return names
    chosen = [part.strip() for part in visible.split(",") if part.strip()]
    if all(part.isdigit() for part in chosen):
        return [names[int(part)] for part in chosen if int(part) < len(names)]
    return names[: len(chosen)]


def _is_named(name: str, hardware: HardwareSpec) -> bool:
    return any(part.lower() in name.lower() for part in hardware.device_names)


def builtin_for(name: str) -> str | None:
    """The built-in spec of the GPU that the driver reports under that name."""
    specs = (load_spec(known, HardwareSpec) for known in builtin_names(HardwareSpec))
    return next((spec.name for spec in specs if spec.device == "cuda" and _is_named(name, spec)), None)


def torchrun_command(plan: Plan, plan_path: Path, options: RunOptions) -> Command:
    """The command that runs ``plan`` on this node.

    Raises:
        PlanError: the plan needs several nodes and ``options`` does not say where they meet, or in no form known.
    """
    worker = ["runtime.train.worker", str(plan_path), *_worker_arguments(options)]
    here = _devices_of_node(plan, options.node_rank)
    return _command(plan, here, _rendezvous(plan, options), worker, options.nvme_path)


def verify_command(
    plan: Plan, plan_path: Path, result: Path, options: VerifyOptions, *, nvme_path: Path | None
) -> Command:
    """The command that compares ``plan`` with one process on this machine and writes ``result``."""
    worker = ["runtime.verify.worker", str(plan_path), str(result), f"--steps={options.steps}"]
    worker += [f"--seed={options.seed}", f"--output={options.output}"]
    worker += [f"--without={name}" for name in options.without]
    return _command(plan, plan.layout.num_devices, ["--standalone"], worker, nvme_path)


def _command(
    plan: Plan, processes: int, rendezvous: Sequence[str], worker: Sequence[str], nvme_path: Path | None
) -> Command:
    # The same as `python -m torch.distributed.run`, which users may call themselves.
    argv = [sys.executable, "-m", "runtime.train.elastic", f"--nproc-per-node={processes}", *rendezvous, "-m", *worker]
    env = _worker_env(processes)
    if nvme_path is not None and plan.layout.offload.tier == "nvme":
        env[NVME_FOLDER] = str(nvme_path.resolve())
    return Command(argv=tuple(argv), env=env)


def _devices_of_node(plan: Plan, node_rank: int) -> int:
    problem = plan.problem
    if not 0 <= node_rank < problem.num_nodes:
        raise usage_error(
            f"there is no node {node_rank}, the plan uses {problem.num_nodes}",
            location="--node-rank",
            hint=f"use 0 to {problem.num_nodes - 1}, another on each node",
        )
    return min(problem.devices_per_node, problem.num_devices - node_rank * problem.devices_per_node)


def _rendezvous(plan: Plan, options: RunOptions) -> list[str]:
    if plan.problem.num_nodes == 1:
        return ["--standalone"]
    if options.rendezvous is None:
        raise usage_error(
            f"the plan uses {plan.problem.num_nodes} nodes and does not know where they meet",
            location="--rendezvous",
            hint="on every node: `--rendezvous HOST:PORT` of node 0, and `--node-rank` 0, 1, ...",
        )
    _check_endpoint(options.rendezvous)
    return [
        f"--nnodes={plan.problem.num_nodes}",
        f"--node-rank={options.node_rank}",
        f"--rdzv-endpoint={options.rendezvous}",
    ]


def _check_endpoint(text: str) -> None:
    host, _, port = text.rpartition(":")
    is_port = port.isascii() and port.isdecimal() and 0 < int(port) < NUM_PORTS
    if not is_port or not re.fullmatch(r"[\w.-]+|[0-9a-fA-F:]+|\[[0-9a-fA-F:]+\]", host):
        raise usage_error(
            f"`{text}` is no host and port", location="--rendezvous", hint="for example `--rendezvous node0:29500`"
        )


def _worker_arguments(options: RunOptions) -> list[str]:
    arguments = [
        f"--steps={options.steps}",
        f"--output={options.output}",
        f"--seed={options.seed}",
        f"--learning-rate={options.learning_rate!r}",
        f"--warmup-steps={options.warmup_steps}",
    ]
    optional = {"data": options.data, "tokenizer": options.tokenizer}
    return arguments + [f"--{name}={value}" for name, value in optional.items() if value is not None]


def _python_path() -> str:
    # With PYTHONSAFEPATH a worker does not import from the current folder, where a user's own
    # `runtime` could shadow ours; in a checkout ours has to be named then.
    inherited = os.environ.get("PYTHONPATH", "")
    root = Path(__file__).resolve().parents[2]
    if not (root / "pyproject.toml").is_file():
        return inherited
    return os.pathsep.join(filter(None, (str(root), inherited)))


def run_plan(plan: Plan, path: Path, options: RunOptions) -> int:
    """Run the plan in ``path`` on this node until it ends; the exit code of the workers.

    A signal that asks this process to end ends the workers first.

    Raises:
        PlanError: the options do not fit the plan.
    """
    return run_command(torchrun_command(plan, path, options))


def calibration_command(
    result: Path, *, device: str, devices: int, time_limit_s: float, folder: Path, free_bytes: int
) -> Command:
    """The command that measures this node with one process per device and leaves JSON in ``result``."""
    argv = [
        sys.executable,
        "-m",
        "runtime.train.elastic",
        f"--nproc-per-node={devices}",
        "--standalone",
        "-m",
        "runtime.calibrate.worker",
        str(result),
        f"--device={device}",
        f"--time-limit={time_limit_s!r}",
        f"--folder={folder}",
        f"--free-bytes={free_bytes}",
    ]
    return Command(argv=tuple(argv), env=_worker_env(devices))


def _worker_env(here: int) -> dict[str, str]:
    """Environment of the workers of a node that runs ``here`` of them."""
    env = {"PYTHONSAFEPATH": "1", "PYTHONPATH": _python_path()}
    if "TORCH_CPP_LOG_LEVEL" not in os.environ:
        # PyTorch's own warnings about how it maps ranks to devices, which here is one to one.
        env["TORCH_CPP_LOG_LEVEL"] = "ERROR"
    if "OMP_NUM_THREADS" not in os.environ:
        env["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // here))
    return env
