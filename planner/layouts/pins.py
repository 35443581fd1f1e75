"""What a user pins or forbids: reading ``field=value`` and testing layouts against it."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from planner.diagnostics import PlanError, usage_error
from planner.layouts.layout import (
    FIELDS,
    FREE_RECOMPUTE,
    LISTED_RECOMPUTE,
    NO_RECOMPUTE,
    RECOMPUTE,
    Field,
    Layout,
    LayoutColumns,
    columns_of,
)
from planner.specs import StackSpec
from planner.specs.files import did_you_mean

LAYERS = "layers_per_stage"
LISTS = (LAYERS, RECOMPUTE)
"""Fields that a list may pin, with a number for each stage."""
_COUNTS, _WORDS, _SHARES = (
    [field.name for field in FIELDS.values() if (bool(field.values), field.is_share) == kind]
    for kind in ((False, False), (True, False), (False, True))
)
PINNABLE = (*_COUNTS, *_WORDS, *_SHARES, LAYERS)
"""Layout fields that a user pins and forbids."""

MEANINGS = {
    "tensor_mode": "how the tensors of a layer are divided",
    "tensor_parallel": "ranks that divide every layer",
    "tensor_depth": "depth of a 2.5D grid; 1 in every other mode",
    "pipeline_parallel": "stages that divide the layers",
    "data_parallel": "copies of the model that divide the batch",
    "zero_stage": "what data-parallel ranks divide: 1 the optimizer's states, 2 gradients too, 3 weights too",
    "sequence_parallel": "whether tensor-parallel ranks divide the sequence between their products",
    "sequence_parallel_degree": "ranks that divide every sequence and exchange heads, or pass keys and values around",
    "expert_parallel": "ranks that divide the experts of every layer among them",
    "micro_batch": "sequences that one data-parallel rank pushes through the model at once",
    "num_microbatches": "micro batches of one step on each data-parallel rank",
    "schedule": "order of micro batches in the pipeline, with zbv in a V of two chunks; none without one",
    "num_model_chunks": "parts of a stage that an interleaved schedule takes in turn; 2 under zbv",
    "recompute_pointwise": "whether compiled blocks make outputs of norms and activation functions again in backward",
    "recompute_layers_per_stage": "layers of each stage that backward computes again, instead of keeping activations",
    "offload.optimizer": "share of the optimizer's states that leaves the device",
    "offload.parameters": "share of the weights that leaves the device",
    "offload.tier": "where offloaded states go",
    LAYERS: "layers of each stage",
}
"""What each field that can be pinned says."""

EVEN = "even"
RECOMPUTED = "12,12,6,0"
"""A list of recomputed layers, as an example."""
MAX_DIGITS = 9
MAX_SHOWN = 60


def parse_pin(text: str, option: str) -> tuple[str, str]:
    """Split ``tensor_parallel=4`` and check field and value; a list may stand in the brackets that JSON has.

    Raises:
        PlanError: no ``=``, no such field, or a value the field cannot have.
    """
    field, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not value:
        raise usage_error(
            f"`{text}` is not field=value", location=option, hint=f"write it like `{option} tensor_parallel=4`"
        )
    if field not in PINNABLE:
        raise usage_error(
            f"a layout has no field `{field}` to pin",
            location=option,
            hint=did_you_mean(field, PINNABLE) or f"use one of {', '.join(PINNABLE)}",
        )
    if field in LISTS and value[0] + value[-1] == "[]":
        value = value[1:-1].strip()
    _check_value(field, value, option)
    return field, value


def _check_value(field: str, value: str, option: str) -> None:
    if not _is_value(field, value):
        raise _bad_value(field, value, option)


def _is_value(field: str, value: str) -> bool:
    if field == LAYERS:
        return value == EVEN or _is_list(value)
    known = FIELDS[field]
    if known.words:
        return value in known.words or (field == RECOMPUTE and _is_list(value, least=0))
    return _is_share(value) if known.is_share else _is_count(value)


def _wanted(field: str) -> str:
    if field == LAYERS:
        return f"`{EVEN}` or a list such as 24,24,24,24"
    known = FIELDS[field]
    if known.words:
        return f"one of {', '.join(known.words)}{f', or a list such as {RECOMPUTED}' * (field == RECOMPUTE)}"
    return "a share from 0 to 1" if known.is_share else f"a whole number from 1 to {10**MAX_DIGITS - 1}"


def _bad_value(field: str, value: str, option: str) -> PlanError:
    shown = value if len(value) <= MAX_SHOWN else value[:MAX_SHOWN] + "..."
    return usage_error(f"`{shown}` is no value of {field}", location=option, hint=f"use {_wanted(field)}")


def _is_count(text: str, least: int = 1) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS and int(text) >= least


def _is_share(text: str) -> bool:
    try:
        return 0 <= float(text) <= 1
    except ValueError:
        return False


def _is_list(value: str, least: int = 1) -> bool:
    return all(_is_count(part.strip(), least) for part in value.split(","))


def pinned_devices(pinned: Mapping[str, str]) -> int:
    """What TP x SP x PP x DP is a multiple of, by the pinned ones of the four and pinned lists per stage."""
    stages = listed_stages(pinned.get(LAYERS, EVEN)) or len(listed_recompute(pinned) or (1,))
    degrees = {"tensor_parallel": 1, "sequence_parallel_degree": 1, "pipeline_parallel": stages, "data_parallel": 1}
    return math.prod(int(pinned.get(degree, default)) for degree, default in degrees.items())


def asked_layers(pinned: Mapping[str, str], stack: StackSpec) -> str | None:
    """The layers per stage that a pin says, or even ones where the stack has no others; ``None``: free."""
    return pinned.get(LAYERS) or (None if stack.uneven_stages or stack.ends_as_layers else EVEN)


def pinned_layers(value: str, num_layers: int, num_stages: int) -> tuple[int, ...] | None:
    """The layers per stage that ``even`` or a list asks for; ``None`` if these stages cannot have them."""
    if value == EVEN:
        return None if num_layers % num_stages else (num_layers // num_stages,) * num_stages
    layers = _counts(value)
    possible = len(layers) == num_stages and sum(layers) == num_layers and min(layers) >= 1
    return layers if possible else None


def listed_stages(layers_per_stage: str) -> int | None:
    """For how many stages a pinned list of layers is; ``None`` for ``even``, which is for any number."""
    return None if layers_per_stage == EVEN else len(layers_per_stage.split(","))


def listed_recompute(pinned: Mapping[str, str]) -> tuple[int, ...] | None:
    """The recomputed layers of each stage where a pin lists them; ``None`` where it is a word, or there is none."""
    value = pinned.get(RECOMPUTE)
    return None if value is None or value in FIELDS[RECOMPUTE].words else _counts(value)


def layers_to_recompute(listed: tuple[int, ...]) -> int:
    """The fewest layers of a model whose stages recompute what a pin lists; each stage has one."""
    return sum(max(count, 1) for count in listed)


def _counts(value: str) -> tuple[int, ...]:
    return tuple(int(part) for part in value.split(","))


def listed_number(recomputed: tuple[int, ...]) -> int:
    """The number that columns have for a list of recomputed layers."""
    return LISTED_RECOMPUTE if any(recomputed) else NO_RECOMPUTE


def may_match(columns: LayoutColumns, field: str, value: str) -> NDArray[np.bool_]:
    """Where a layout's ``field`` has ``value``, or is still free to have it."""
    matching = matches(columns, field, value)
    unknown = np.isin(columns.recompute, (FREE_RECOMPUTE, LISTED_RECOMPUTE))
    return matching | unknown if field == RECOMPUTE else matching


def matches(columns: LayoutColumns, field: str, value: str) -> NDArray[np.bool_]:
    """Where a layout's ``field`` has ``value``, as far as columns tell.

    Of ``layers_per_stage`` they tell nothing. Of a list of recomputed layers they tell how many stages it is for, and
    whether it has one: :func:`keeps` compares the lists of a whole layout.
    """
    if field == LAYERS:
        return np.ones(len(columns), dtype=bool)
    recomputed = listed_recompute({field: value})
    if recomputed is not None:
        as_many = columns.pipeline_parallel == len(recomputed)
        return np.asarray(as_many & ((columns.recompute != NO_RECOMPUTE) == any(recomputed)))
    column, wanted = column_value(field, value)
    return np.asarray(getattr(columns, column) == wanted)


def keeps(layout: Layout, field: str, value: str) -> bool:
    """Whether a whole layout has a pinned value, lists per stage too."""
    recomputed = listed_recompute({field: value})
    if recomputed is not None:
        return recomputed == layout.recompute_layers_per_stage
    return layers_match(layout, value) if field == LAYERS else bool(matches(columns_of(layout), field, value)[0])


def column_value(field: str, value: str) -> tuple[str, float]:
    """Name and number of a pinned field in :class:`planner.layouts.layout.LayoutColumns`; not of lists per stage."""
    known = FIELDS[field]
    if known.words:
        return known.column, known.words.index(value)
    return known.column, float(value) if known.is_share else int(value)


def said(layout: Layout, field: str) -> str:
    """A field of a layout as a pin would say it; not of recomputed layers that no word describes."""
    if field == LAYERS:
        return listed(layout.layers_per_stage)
    known = FIELDS[field]
    number = getattr(columns_of(layout), known.column)[0]
    return known.words[number] if known.words else str(known.value(number))


def listed(layers: tuple[int, ...]) -> str:
    """A list per stage as a pin says it."""
    return ",".join(map(str, layers))


def layers_match(layout: Layout, value: str) -> bool:
    """Whether a layout has the layers per stage that ``even`` or a list asks for."""
    wanted = pinned_layers(value, sum(layout.layers_per_stage), layout.pipeline_parallel)
    return wanted == layout.layers_per_stage


class Pinnable(NamedTuple):
    """A field that can be pinned, for those who read of it."""

    field: str
    values: str
    meaning: str
    example: str
    """``field=value``."""
    forbids: bool
    """Whether its values can be forbidden too."""


def pinnable() -> list[Pinnable]:
    """Every field that can be pinned, in the order of a layout."""
    fields = [_pinnable(field) for field in FIELDS.values()]
    layers = Pinnable(LAYERS, f"{EVEN}, or a list such as 24,24,24,24", MEANINGS[LAYERS], f"{LAYERS}={EVEN}", False)
    return [*fields, layers]


def _pinnable(field: Field) -> Pinnable:
    if field.words:
        values, example = ", ".join(field.words), field.words[-1]
        values += f", or a list such as {RECOMPUTED}" * (field.name == RECOMPUTE)
    elif field.is_share:
        values, example = "a share from 0 to 1", "0.5"
    else:
        values, example = "a whole number from 1", "4"
    return Pinnable(field.name, values, MEANINGS[field.name], f"{field.name}={example}", True)
