"""From what a user typed to the problem that is solved."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from planner.diagnostics import usage_error
from planner.layouts.pins import parse_pin
from planner.layouts.problem import MAX_DEVICES, MAX_GLOBAL_BATCH, Objective, Problem, Reserve
from planner.specs import HardwareSpec, ModelSpec, OffloadTier, Precision, StackSpec, TensorMode
from planner.specs.files import load_spec
from planner.specs.units import Bytes, parse_quantity


@dataclass(frozen=True, kw_only=True)
class Question:
    """The options of ``solve``, as typed; ``None`` takes the default of a spec."""

    model: str
    gpus: int
    gpu: str = "a100-40g"
    stack: str = "colossalai"
    gpus_per_node: int | None = None
    global_batch: int | None = None
    seq_len: int | None = None
    precision: Precision | None = None
    objective: Objective = "step-time"
    mode: TensorMode | None = None
    pin: Iterable[str] = ()
    forbid: Iterable[str] = ()
    allow_offload: OffloadTier = "none"
    reserve: str | None = None


def build_problem(question: Question) -> Problem:
    """Load the specs and fill in their defaults.

    Raises:
        PlanError: a spec, a number, a pin or the reserve is not valid.
    """
    check_count(question.gpus, "--gpus", MAX_DEVICES, "--gpus 96")
    model = load_spec(question.model, ModelSpec)
    hardware = load_spec(question.gpu, HardwareSpec)
    devices_per_node = _given(question.gpus_per_node, hardware.devices_per_node)
    check_count(devices_per_node, "--gpus-per-node", MAX_DEVICES, "--gpus-per-node 8")
    global_batch = _given(question.global_batch, model.global_batch)
    check_count(global_batch, "--global-batch", MAX_GLOBAL_BATCH, "--global-batch 1536")
    seq_len = _given(question.seq_len, model.seq_len)
    check_count(seq_len, "--seq-len", model.max_seq_len, f"--seq-len {model.seq_len}")
    return Problem(
        model=model,
        hardware=hardware,
        stack=load_spec(question.stack, StackSpec),
        num_devices=question.gpus,
        devices_per_node=devices_per_node,
        global_batch=global_batch,
        seq_len=seq_len,
        precision=question.precision or model.precision,
        objective=question.objective,
        allow_offload=question.allow_offload,
        reserve=parse_reserve(question.reserve, hardware) if question.reserve is not None else None,
        pins=_pins(question),
        forbids=_forbids(question.forbid),
    )


def _given(value: int | None, default: int) -> int:
    return default if value is None else value


def check_count(value: int, option: str, most: int, example: str) -> None:
    """Refuse a number outside of 1 to ``most``.

    Raises:
        PlanError: it is.
    """
    if not 1 <= value <= most:
        raise usage_error(
            f"{option} has to be from 1 to {most}, and it is {value}", location=option, hint=f"for example `{example}`"
        )


def _pins(question: Question) -> dict[str, str]:
    pins: dict[str, str] = {}
    typed = [("--pin", text) for text in question.pin]
    if question.mode is not None:
        typed.append(("--mode", f"tensor_mode={question.mode}"))
    for option, text in typed:
        field, value = parse_pin(text, option)
        if pins.get(field, value) != value:
            raise usage_error(
                f"{field} is pinned to {pins[field]} and to {value}", location=option, hint="keep one of them"
            )
        pins[field] = value
    return pins


def _forbids(typed: Iterable[str]) -> dict[str, tuple[str, ...]]:
    forbids: dict[str, tuple[str, ...]] = {}
    for text in typed:
        field, value = parse_pin(text, "--forbid")
        if field == "layers_per_stage":
            raise usage_error(
                "layers_per_stage can be pinned, not forbidden",
                location="--forbid",
                hint="use `--pin layers_per_stage=even`",
            )
        forbids[field] = (*forbids.get(field, ()), value)
    return forbids


def parse_reserve(text: str, hardware: HardwareSpec) -> Reserve:
    """Read ``2GiB`` or ``6%`` of the device's memory.

    Raises:
        PlanError: neither of both, or more than the device has.
    """
    percent = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*%\s*", text)
    try:
        if percent:
            reserve = Reserve(fraction=float(percent[1]) / 100)
        else:
            reserve = Reserve(num_bytes=Bytes(0) if text.strip() == "0" else parse_quantity(text, Bytes))
    except ValueError as error:
        raise usage_error(
            f"`{text}` is no amount of memory: {error}", location="--reserve", hint="use `--reserve 2GiB` or `6%`"
        ) from error
    if reserve.fraction >= 1 or reserve.num_bytes >= hardware.memory_bytes:
        raise usage_error(
            f"a reserve of {text} leaves nothing of {hardware.name}",
            location="--reserve",
            hint="use `--reserve 2GiB` or `6%`",
        )
    return reserve


def plan_name(problem: Problem) -> str:
    """The default file name of a plan: ``gpt3-96xa100-40g.plan``."""
    short = {"gpt3-175b": "gpt3", "gpt2-small": "gpt2"}.get(problem.model.name, problem.model.name)
    return f"{short}-{problem.num_devices}x{problem.hardware.name}.plan"
