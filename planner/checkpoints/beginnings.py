"""Weights that a run begins with, held against the plan's model before any rank starts: without PyTorch."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from planner.checkpoints.exporting import CONFIG, SINGLE_FILE, weights_in
from planner.checkpoints.manifest import OTHER_MODEL
from planner.diagnostics import Diagnostic, PlanError
from planner.specs import ModelSpec
from planner.specs.huggingface import read_config

LENGTH_BYTES = 8
"""Of the number before a header, which is little-endian (safetensors' README, format)."""
MOST_HEADER_BYTES = 100_000_000
"""What safetensors itself reads of a header."""

SIZES = ("num_layers", "hidden_size", "num_heads", "ffn_hidden_size", "vocab_size")
_TABLE = ("vocab_size", "hidden_size")
"""What the two sizes of a token embedding are."""
_EXPERTS = "experts.count"
_LAYER = re.compile(r"(?:^|\.)(?:h|layers)\.([0-9]+)\.")
_EXPERT = re.compile(r"\.experts\.([0-9]+)\.")
_EMBEDDING = re.compile(r"(?:^|\.)(?:wte|embed_tokens)\.weight$")


def check_weights(folder: Path, model: ModelSpec) -> None:
    """Refuse a folder without weights, or with those of another model by its `config.json` or, without, its tensors.

    What neither shows is compared by the ranks, tensor by tensor.

    Raises:
        PlanError: there are none, or the sizes differ.
    """
    named = weights_in(folder)
    files = {folder / SINGLE_FILE} if named is None else {*named.values()}
    there = _of_config(folder) or _of_tensors(files)
    wrong = [
        f"{name}: {size} in {there.source}, {wanted} in the plan"
        for name, wanted in _sizes(model).items()
        if (size := there.sizes.get(name, wanted)) != wanted
    ]
    if wrong:
        message = f"the weights are of another model than {model.name}, the plan's: {len(wrong)} sizes differ"
        location, detail = f"--init-from {folder}", "\n".join(wrong)
        hint = f"name a folder with weights of {model.name}, or solve again for the model of these"
        found = Diagnostic(rule=OTHER_MODEL, message=message, location=location, detail=detail, hint=hint)
        raise PlanError(found)


class _Found(NamedTuple):
    """Sizes of a model by their names in a spec, as far as they are known, and what they were read from."""

    sizes: Mapping[str, int]
    source: str


def _sizes(model: ModelSpec) -> dict[str, int]:
    sizes = {name: getattr(model, name) for name in SIZES} | {"kv_heads": model.kv_heads}
    if model.positions.kind == "learned":
        sizes["max_seq_len"] = model.max_seq_len
    return sizes | {_EXPERTS: 0 if model.experts is None else model.experts.count}


def _of_config(folder: Path) -> _Found | None:
    """The sizes that `config.json` says; ``None``: there is none, or none that gptplan reads."""
    try:
        return _Found(_sizes(read_config(folder / CONFIG, str(folder))), CONFIG)
    except PlanError:
        return None


def _of_tensors(files: Iterable[Path]) -> _Found:
    """The sizes that names and shapes of tensors tell: layers, experts, and rows and width of the token embedding."""
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        shapes |= _shapes(file)
    layers, experts = (_count(pattern, shapes) for pattern in (_LAYER, _EXPERT))
    tables = [shape for name, shape in shapes.items() if _EMBEDDING.search(name) and len(shape) == len(_TABLE)]
    sizes = dict(zip(_TABLE, tables[0], strict=True)) if tables else {}
    return _Found(sizes | ({"num_layers": layers, _EXPERTS: experts} if layers else {}), "its tensors")


def _count(pattern: re.Pattern[str], names: Iterable[str]) -> int:
    """How many different numbers a pattern finds in names."""
    return len({match[1] for name in names if (match := pattern.search(name))})


class _Tensor(msgspec.Struct):
    shape: tuple[int, ...] = ()


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """The shapes in the header of a file in safetensors' format; none of a file that the ranks will refuse."""
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(LENGTH_BYTES), "little")
            header = opened.read(length) if length <= MOST_HEADER_BYTES else b""
        tensors = msgspec.json.decode(header, type=dict[str, _Tensor])
    except (OSError, msgspec.MsgspecError):
        return {}
    return {name: tensor.shape for name, tensor in tensors.items()}
