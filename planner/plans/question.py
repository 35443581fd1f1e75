"""What a user asks: the options of a question, declared once, and the problem that they make.

Start-up needs the options alone, so that what loads NumPy is imported where it is used.
"""

import re
from collections.abc import Iterable
from functools import partial
from typing import Annotated

import msgspec

from planner.diagnostics import usage_error
from planner.handover.options import Option, Range
from planner.handover.work import STACK
from planner.layouts.problem import MAX_DEVICES, MAX_GLOBAL_BATCH, Objective, Problem, Reserve
from planner.specs import HardwareSpec, ModelSpec, OffloadTier, Precision, StackSpec, TensorMode
from planner.specs.files import known_names, load_spec
from planner.specs.networks import EXAMPLE as NETWORK_EXAMPLE
from planner.specs.networks import parse_network, with_network
from planner.specs.units import Bytes, parse_quantity

GPUS = Range(most=MAX_DEVICES, example="96")
GPUS_PER_NODE = Range(most=MAX_DEVICES, example="8")
GLOBAL_BATCH = Range(most=MAX_GLOBAL_BATCH, example="1536")

MODEL_NAMES = partial(known_names, ModelSpec)
GPU_NAMES = partial(known_names, HardwareSpec)
STACK_NAMES = partial(known_names, StackSpec)

# Options of more than one command.
Gpu = Annotated[str, Option("Built-in card (see `gptplan hardware`) or a TOML file.", known=GPU_NAMES)]
GpusPerNode = Annotated[int | None, Option("GPUs of one node. [default: the card's]", range=GPUS_PER_NODE)]
GlobalBatch = Annotated[int | None, Option("Sequences a step. [default: the model's]", range=GLOBAL_BATCH)]
SeqLen = Annotated[int | None, Option("Tokens a sequence. [default: the model's]")]
WantedPrecision = Annotated[Precision | None, Option("[default: the model's]")]
Minimised = Annotated[Objective, Option("What to minimise.")]
Mode = Annotated[TensorMode | None, Option("Tensor mode. [default: any]")]
Pins = Annotated[tuple[str, ...], Option("Fix a layout field, as field=value; repeatable.")]
Forbids = Annotated[tuple[str, ...], Option("Rule a value out, as field=value; repeatable.")]
ReserveText = Annotated[str | None, Option("Memory to leave free: 2GiB or 6%. [default: context, NCCL, fragments]")]
Network = Annotated[
    str | None,
    Option("A node's network: its adapters and the rate of each, such as `1 x 100 Gbit/s`. [default: the card's]"),
]
CONFIDENCE = Range(least=0, most=1, above=True, wanted="a probability between 0 and 1", example="0.95")
Confidence = Annotated[
    float | None,
    Option("Least probability that every stage fits. [default: 0.95; with --reserve none]", range=CONFIDENCE),
]

NoCompile = Annotated[bool, Option("Run blocks and loss as they are, not compiled by PyTorch.")]


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What `gptplan solve` may be told of the question; ``None`` takes the default of a spec."""

    model: Annotated[
        str,
        Option(
            "Built-in model (see `gptplan models`), a TOML file, or a config.json or its folder.", known=MODEL_NAMES
        ),
    ]
    gpus: Annotated[int, Option("How many GPUs; TP x PP x DP is exactly this.", range=GPUS)]
    gpu: Gpu = "a100-40g"
    stack: Annotated[
        str, Option("Training framework: built-in (see `gptplan stacks`) or a TOML file.", known=STACK_NAMES)
    ] = STACK
    gpus_per_node: GpusPerNode = None
    network: Network = None
    global_batch: GlobalBatch = None
    seq_len: SeqLen = None
    precision: WantedPrecision = None
    objective: Minimised = "step-time"
    mode: Mode = None
    pin: Pins = ()
    forbid: Forbids = ()
    allow_offload: Annotated[OffloadTier, Option("How far optimizer states may move.")] = "none"
    reserve: ReserveText = None
    confidence: Confidence = None
    no_compile: NoCompile = False


def build_problem(question: Question) -> Problem:
    """Load the specs and fill in their defaults.

    Raises:
        PlanError: a spec, a number, a pin or the reserve is not valid.
    """
    from planner.layouts.compilation import compiles
    from planner.layouts.contradictions import check_listed_recompute

    GPUS.check("--gpus", question.gpus)
    model = load_spec(question.model, ModelSpec)
    hardware = load_spec(question.gpu, HardwareSpec)
    if question.network is not None:
        hardware = on_network(hardware, question.network)
    devices_per_node = _given(question.gpus_per_node, hardware.devices_per_node)
    GPUS_PER_NODE.check("--gpus-per-node", devices_per_node)
    if question.gpus_per_node is not None:
        _check_whole_nodes(question.gpus, devices_per_node)
    global_batch = _given(question.global_batch, model.global_batch)
    GLOBAL_BATCH.check("--global-batch", global_batch)
    seq_len = _given(question.seq_len, model.seq_len)
    Range(most=model.max_seq_len, example=str(model.seq_len)).check("--seq-len", seq_len)
    stack = load_spec(question.stack, StackSpec)
    pins, forbids = _pins(question), _forbids(question.forbid)
    check_listed_recompute(pins, forbids, model)
    return Problem(
        model=model,
        hardware=hardware,
        stack=stack,
        num_devices=question.gpus,
        devices_per_node=devices_per_node,
        global_batch=global_batch,
        seq_len=seq_len,
        precision=question.precision or model.precision,
        objective=question.objective,
        allow_offload=question.allow_offload,
        reserve=parse_reserve(question.reserve, hardware) if question.reserve is not None else None,
        confidence=parse_confidence(question.confidence),
        compiled=not question.no_compile and hardware.device == "cuda" and compiles(stack, model),
        pins=pins,
        forbids=forbids,
    )


def _check_whole_nodes(gpus: int, per_node: int) -> None:
    """Refuse nodes of a size that somebody named and of which the last one is not full."""
    rest = gpus % per_node
    if gpus <= per_node or not rest:
        return
    below = max(size for size in range(1, per_node) if gpus % size == 0)
    above = next(size for size in range(per_node + 1, gpus + 1) if gpus % size == 0)
    raise usage_error(
        f"{gpus} GPUs are no whole number of nodes with {per_node}: {gpus} % {per_node} = {rest}",
        location="--gpus-per-node",
        hint=f"use `--gpus-per-node {below}` or `{above}`, or `--gpus {gpus - rest}` or `{gpus - rest + per_node}`",
    )


def _given(value: int | None, default: int) -> int:
    return default if value is None else value


def _pins(question: Question) -> dict[str, str]:
    from planner.layouts.pins import parse_pin

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
    from planner.layouts.pins import listed_recompute, parse_pin

    forbids: dict[str, tuple[str, ...]] = {}
    for text in typed:
        field, value = parse_pin(text, "--forbid")
        if field == "layers_per_stage":
            raise usage_error(
                "layers_per_stage can be pinned, not forbidden",
                location="--forbid",
                hint="use `--pin layers_per_stage=even`",
            )
        if listed_recompute({field: value}) is not None:
            raise usage_error(
                "a list of recompute_layers_per_stage can be pinned, not forbidden",
                location="--forbid",
                hint=f"forbid a word, `--forbid {field}=all`, or use `--pin {field}={value}`",
            )
        forbids[field] = (*forbids.get(field, ()), value)
    return forbids


def on_network(hardware: HardwareSpec, text: str) -> HardwareSpec:
    """The card in nodes with the network that a user states.

    Raises:
        PlanError: the text is no network.
    """
    try:
        nics, bandwidth = parse_network(text)
    except ValueError as error:
        raise usage_error(
            f"`{text}` is no network: {error}", location="--network", hint=f'use `--network "{NETWORK_EXAMPLE}"`'
        ) from error
    stated = with_network(hardware, nics, bandwidth)
    return msgspec.structs.replace(stated, network=msgspec.structs.replace(stated.network, kind="as stated"))


def parse_confidence(value: float | None) -> float | None:
    """A probability below 1.

    Raises:
        PlanError: it is not.
    """
    if value is not None and not 0 < value < 1:
        raise usage_error(
            f"--confidence has to be {CONFIDENCE.wanted}, and it is {value:g}",
            location="--confidence",
            hint=f"use `--confidence {CONFIDENCE.example}`",
        )
    return value


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
