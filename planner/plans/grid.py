"""A grid of questions, from what a user varies."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import msgspec

from planner.diagnostics import Diagnostic, PlanError, usage_error
from planner.layouts.problem import Problem
from planner.plans.question import Question, build_problem
from planner.specs import HardwareSpec, OffloadTier, Precision
from planner.specs.files import did_you_mean
from planner.specs.networks import parse_network
from planner.specs.units import BytesPerSecond, parse_quantity

MAX_POINTS = 10_000
"""Grids beyond this are taken for a typing error."""


def _number(text: str) -> int:
    if not text.isdecimal():
        raise ValueError("it is no whole number")
    return int(text)


def _probability(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError("it is no probability between 0 and 1") from None


def _one_of(words: Sequence[str]) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in words:
            raise ValueError(f"use one of {', '.join(words)}")
        return text

    return read


def _bandwidth(text: str) -> BytesPerSecond:
    rate: BytesPerSecond = parse_quantity(text, BytesPerSecond)
    return rate


def _network(text: str) -> str:
    parse_network(text)
    return text


READERS: dict[str, Callable[[str], Any]] = {
    "gpus": _number,
    "gpu": str,
    "model": str,
    "global_batch": _number,
    "seq_len": _number,
    "precision": _one_of(get_args(Precision)),
    "stack": str,
    "reserve": str,
    "confidence": _probability,
    "allow_offload": _one_of(get_args(OffloadTier)),
    "node_link": _bandwidth,
    "network": _network,
}
"""What can be varied: options of ``solve``, and the bandwidth of the link inside a node."""
LINKS = ("node_link",)


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One ``--vary``: a key and its values, as typed and as read."""

    key: str
    values: tuple[tuple[str, Any], ...]


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One question of the grid."""

    varied: dict[str, str]
    problem: Problem


def parse_axes(typed: Iterable[str]) -> list[Axis]:
    """Read every ``key=value,value``.

    Raises:
        PlanError: nothing varied, an unknown key, one that is given twice, or a value it cannot have.
    """
    axes = [_parse_axis(text) for text in typed]
    keys = [axis.key for axis in axes]
    if not axes:
        raise _usage("a sweep varies something", "for example `--vary gpus=64,96,128`")
    for key in keys:
        if keys.count(key) > 1:
            raise _usage(f"`{key}` is varied twice", f"put all values into one `--vary {key}=...`")
    return axes


def _parse_axis(text: str) -> Axis:
    key, equals, values = (part.strip() for part in text.partition("="))
    if not equals:
        raise _usage(f"`{text}` is not key=value,value", "write it like `--vary gpus=64,96,128`")
    if key not in READERS:
        raise _usage(f"`{key}` cannot be varied", did_you_mean(key, READERS) or f"use one of {', '.join(READERS)}")
    words = list(dict.fromkeys(value.strip() for value in values.split(",")))
    return Axis(key=key, values=tuple((word, _read(key, word)) for word in words))


def _read(key: str, word: str) -> Any:
    if not word:
        raise _usage(f"a value of {key} is empty", f"write it like `--vary {_EXAMPLES[key]}`")
    try:
        return READERS[key](word)
    except ValueError as error:
        raise _usage(f"`{word}` is no value of {key}: {error}", f"write it like `--vary {_EXAMPLES[key]}`") from error


_EXAMPLES = {
    "gpus": "gpus=64,96,128",
    "gpu": "gpu=a100-40g,a100-80g",
    "model": "model=gpt3-6.7b,gpt3-13b",
    "global_batch": "global_batch=768,1536",
    "seq_len": "seq_len=1024,2048",
    "precision": "precision=fp16,bf16",
    "stack": "stack=colossalai,megatron",
    "reserve": "reserve=2GiB,6%",
    "confidence": "confidence=0.9,0.95",
    "allow_offload": "allow_offload=none,cpu",
    "node_link": "node_link=300GB/s,600GB/s",
    "network": "network=4x200Gbit/s,8x200Gbit/s",
}


def _usage(message: str, hint: str) -> Exception:
    return usage_error(message, location="--vary", hint=hint)


def grid(options: dict[str, Any], axes: Sequence[Axis]) -> list[Point]:
    """Every combination of the varied values; the last axis changes fastest.

    Args:
        options: fields of :class:`planner.plans.question.Question` that the user gave.
        axes: what varies.

    Raises:
        PlanError: an option is both given and varied, a needed one is neither, or a question is not valid.
    """
    _check_options(options, axes)
    size = 1
    for axis in axes:
        size *= len(axis.values)
    if size > MAX_POINTS:
        raise _usage(f"the grid has {size:,} points, and {MAX_POINTS:,} is the most", "vary less")
    keys = [axis.key for axis in axes]
    return [_point(options, keys, values) for values in itertools.product(*(axis.values for axis in axes))]


def _check_options(options: dict[str, Any], axes: Sequence[Axis]) -> None:
    varied = {axis.key for axis in axes}
    for key in ("model", "gpus"):
        if key not in options and key not in varied:
            raise usage_error(f"no {key} is given", location=f"--{key}", hint=f"use `--{key}` or `--vary {key}=...`")
    for key in sorted(varied & set(options)):
        raise usage_error(f"{_option(key)} is given and varied", location=_option(key), hint="keep one of them")


def _point(options: dict[str, Any], keys: Sequence[str], values: Sequence[tuple[str, Any]]) -> Point:
    read = {key: value for key, (_, value) in zip(keys, values, strict=True)}
    typed = {key: word for key, (word, _) in zip(keys, values, strict=True)}
    known = set(Question.__struct_fields__)
    try:
        problem = build_problem(Question(**(options | {key: value for key, value in read.items() if key in known})))
    except PlanError as error:
        raise PlanError(*(_as_varied(one, typed) for one in error.diagnostics), exit_code=error.exit_code) from error
    for link in LINKS:
        if link in read:
            hardware = _with_bandwidth(problem.hardware, link, read[link])
            problem = msgspec.structs.replace(problem, hardware=hardware)
    return Point(varied=typed, problem=problem)


def _as_varied(diagnostic: Diagnostic, typed: Mapping[str, str]) -> Diagnostic:
    """What is said of an option, said of the ``--vary`` that has its value where that was typed."""
    key = next((key for key in typed if diagnostic.location == _option(key)), None)
    if key is None:
        return diagnostic
    return msgspec.structs.replace(
        diagnostic,
        message=diagnostic.message.replace(_option(key), key),
        location=f"--vary {key}={typed[key]}",
        hint=f"write it like `--vary {_EXAMPLES[key]}`",
    )


def _option(key: str) -> str:
    return "--" + key.replace("_", "-")


def _with_bandwidth(hardware: HardwareSpec, link: str, bandwidth: BytesPerSecond) -> HardwareSpec:
    changed = msgspec.structs.replace(getattr(hardware, link), bandwidth_bytes_per_s=bandwidth)
    return msgspec.structs.replace(hardware, **{link: changed})
