"""Plans made by hand, and ranks as forked processes that share one import of the libraries."""

import faulthandler
import importlib.util
import os
import re
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import msgspec
import pytest

from planner.layouts.layout import Layout
from planner.layouts.problem import Problem
from planner.plans.plan import Evidence, Plan, seal
from planner.plans.prediction import Prediction, StagePrediction
from planner.specs import HardwareSpec, ModelSpec, Precision, StackSpec
from planner.specs.stack import CompiledSpec
from planner.specs.units import Seconds
from tests.runtime import launched

_NEEDS_TORCH = re.compile(
    r"^((import|from) (torch|runtime|colossalai)\b|pytestmark = pytest.mark.runtime)", re.MULTILINE
)
if importlib.util.find_spec("torch") is None:
    _FOLDER = Path(__file__).parent
    _FILES = {path: path.read_text(encoding="utf-8") for path in _FOLDER.rglob("test_*.py")}
    collect_ignore = [str(path.relative_to(_FOLDER)) for path, text in _FILES.items() if _NEEDS_TORCH.search(text)]

SEQ_LEN = 16
RANK_TIMEOUT_S = 120

_MODEL = {
    "name": "test-model",
    "num_layers": 4,
    "hidden_size": 32,
    "num_heads": 4,
    "ffn_hidden_size": 64,
    "vocab_size": 257,
    "max_seq_len": 64,
    "tied_embeddings": True,
    "dropout": 0.0,
    "seq_len": SEQ_LEN,
    "global_batch": 8,
}
_HARDWARE = {
    "name": "test-cpu",
    "device": "cpu",
    "device_names": ["Test"],
    "peak": {"fp32": 1.0, "bf16": 1.0, "fp16": 1.0},
    "efficiency": {"matmul": [[1.0, 0.5]], "memory": 0.5},
}
_STACK = {
    "name": "colossalai",
    "version": "0.5.0",
    "vocab_multiple": 64,
    "tensor_modes": ["none", "1d", "2d", "2.5d", "3d"],
    "schedules": ["none", "1f1b", "interleaved", "zbv"],
    "zero_stages": [0, 1, 2, 3],
    "zero_stages_with_pipeline": [0, 1],
    "zero_precisions": ["fp16", "bf16"],
    "zero_stages_with_accumulation": [0, 1, 2, 3],
    "offload_tiers": ["none", "cpu", "nvme"],
    "offload_optimizer_fractions": [0.0, 1.0],
    "zero3_offload_fractions": [0.0, 0.5, 1.0],
    "sequence_parallel": True,
    "recompute": "per-layer",
    "uneven_stages": True,
}
"""It executes what the runtime does, so that the rules of the plan's own stack let it through."""


def _spec(kind: type, fields: dict[str, Any]) -> Any:
    """A spec with ``fields``; the others, which the runtime does not read, get any value."""
    filled = _any_struct(kind) | fields
    return msgspec.convert(filled, kind, dec_hook=lambda wanted, value: wanted(value))


def _any_struct(kind: type) -> dict[str, Any]:
    info: Any = msgspec.inspect.type_info(kind)
    return {field.encode_name: _any_value(field.type) for field in info.fields if field.required}


def _any_value(kind: Any) -> Any:
    if isinstance(kind, msgspec.inspect.StructType):
        return _any_struct(kind.cls)
    if isinstance(kind, msgspec.inspect.LiteralType):
        return kind.values[0]
    plain: dict[Any, Any] = {
        msgspec.inspect.StrType: "test",
        msgspec.inspect.BoolType: False,
        msgspec.inspect.IntType: 1,
        msgspec.inspect.DictType: {},
        msgspec.inspect.VarTupleType: [],
    }
    return plain.get(type(kind), 1.0)


def _layout(changes: dict[str, Any], num_layers: int, global_batch: int, precision: str) -> Layout:
    tensor, stages = changes.get("tensor_parallel", 1), changes.get("pipeline_parallel", 1)
    per_stage = changes.get("layers_per_stage", (num_layers // stages,) * stages)
    count = changes.get("num_microbatches", stages)
    fields = {
        "tensor_mode": "1d" if tensor > 1 else "none",
        "micro_batch": global_batch // count // changes.get("data_parallel", 1),
        "num_microbatches": count,
        "schedule": "1f1b" if stages > 1 else "none",
        "layers_per_stage": per_stage,
        "recompute_layers_per_stage": (0,) * stages,
        "precision": precision,
    }
    return Layout(**{**fields, **changes})


def make_plan(
    *,
    model: dict[str, Any] | None = None,
    hardware: dict[str, Any] | None = None,
    stack: dict[str, Any] | None = None,
    precision: Precision = "fp32",
    global_batch: int = 8,
    devices_per_node: int = 8,
    **layout: Any,
) -> Plan:
    """A sealed plan with the given layout fields; the prediction and evidence are made up."""
    model_spec = _spec(ModelSpec, _MODEL | (model or {}))
    chosen = _layout(layout, model_spec.num_layers, global_batch, precision)
    problem = Problem(
        model=model_spec,
        hardware=_spec(HardwareSpec, _HARDWARE | (hardware or {})),
        stack=_spec(StackSpec, _STACK | (stack or {})),
        num_devices=chosen.num_devices,
        devices_per_node=devices_per_node,
        global_batch=global_batch,
        seq_len=SEQ_LEN,
        precision=precision,
        allow_offload=chosen.offload.tier,
    )
    stage = _spec(StagePrediction, {"peak_bytes": 2**20})
    predicted = _spec(Prediction, {"step_s": 0.01, "stages": [stage] * chosen.pipeline_parallel})
    plan = Plan(
        format_version=1,
        gptplan_version="test",
        problem=problem,
        spec_digests={},
        layout=chosen,
        predicted=predicted,
        evidence=_spec(Evidence, {}),
    )
    return seal(plan)


def compiled(plan: Plan) -> Plan:
    """The plan with blocks compiled, and an update in one pass in bf16."""
    families: Any = ("gpt2", "llama", "qwen2")
    spec = CompiledSpec(families=families, start_s=Seconds(0.0), one_pass=("bf16",), recomputes_pointwise=True)
    stack = msgspec.structs.replace(plan.problem.stack, compiled=spec)
    return seal(
        msgspec.structs.replace(plan, problem=msgspec.structs.replace(plan.problem, stack=stack, compiled=True))
    )


def _rank_main(function: Callable[[int], Any], rank: int, world: int, rendezvous: Path, results: Connection) -> None:
    import torch
    import torch.distributed as dist

    from runtime.patches.host_accelerator import adapt

    warnings.simplefilter("ignore")  # the libraries' own; pytest cannot report them from here

    # Two ranks on two cores: more threads only wait for each other.
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world)}
    faulthandler.enable(_stacks(rendezvous, rank).open("w"))
    try:
        adapt("cpu")
        dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world)
        results.send((True, function(rank)))
        # Its peers may still be connecting to it; ``run_ranks`` stops them all.
        parent = parent_process()
        assert parent is not None
        parent.join()
    except BaseException:
        results.send((False, traceback.format_exc()))
    finally:
        results.close()
        # Without the interpreter's shutdown: a rank whose peer failed would wait for it.
        os._exit(0)


def run_ranks(
    world: int, function: Callable[[int], Any], folder: Path, *, timeout_s: float = RANK_TIMEOUT_S
) -> list[Any]:
    """What ``function(rank)`` returns on each of ``world`` forked ranks of one gloo group, within ``timeout_s``.

    A rank that crashes, such as in a library's native code, is told with its stacks.
    """
    with warnings.catch_warnings(action="ignore"):
        import runtime.engines.grid
        import runtime.engines.plugins  # noqa: F401 - imported once with the booster, before the fork

    rendezvous = Path(tempfile.mkdtemp(dir=folder)) / "rendezvous"
    context = get_context("fork")
    pipes = [context.Pipe(duplex=False) for _ in range(world)]
    processes = [
        context.Process(target=_rank_main, args=(function, rank, world, rendezvous, pipes[rank][1]))
        for rank in range(world)
    ]
    for process, (_, sending) in zip(processes, pipes, strict=True):
        process.start()
        sending.close()
    try:
        answers = [
            _receive(process, receiving, _stacks(rendezvous, rank), timeout_s)
            for rank, (process, (receiving, _)) in enumerate(zip(processes, pipes, strict=True))
        ]
    finally:
        for process in processes:
            process.kill()
            process.join()
    failures = [text for succeeded, text in answers if not succeeded]
    assert not failures, "\n".join(failures)
    return [value for _, value in answers]


def _receive(process: BaseProcess, connection: Connection, stacks: Path, timeout_s: float) -> tuple[bool, Any]:
    if not connection.poll(timeout_s):
        return False, f"no answer in {timeout_s} s"
    try:
        answer: tuple[bool, Any] = connection.recv()
    except EOFError:
        process.join()
        return False, f"{process.name} ended with {process.exitcode}\n{stacks.read_text()}"
    return answer


def _stacks(rendezvous: Path, rank: int) -> Path:
    return rendezvous.with_name(f"stacks-{rank}")


@pytest.fixture
def plan() -> Callable[..., Plan]:
    """:func:`make_plan`."""
    return make_plan


@pytest.fixture
def ranks(tmp_path: Path) -> Callable[[int, Callable[[int], Any]], list[Any]]:
    """``ranks(world, function)`` is :func:`run_ranks` with a folder of this test."""
    return lambda world, function: run_ranks(world, function, tmp_path)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[launched.Run]:
    """``start(plan, **options)`` is a process that runs the plan, away from the checkout."""
    yield from launched.starting(tmp_path)
