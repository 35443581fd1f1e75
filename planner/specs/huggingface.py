"""Models of the Hugging Face Hub: their ``config.json`` as a model spec, every key of it read, idle or refused."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from planner.diagnostics import Diagnostic, PlanError, usage_error
from planner.specs.huggingface_families import FAMILIES, Family
from planner.specs.model import ModelSpec

CONFIG = "config.json"
MAX_CONFIG_BYTES = 1024**2
BATCH = 256
"""Sequences of a step where a config does not say: those of a few million tokens."""

PRECISIONS = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32"}

IDLE = frozenset(
    [
        *("architectures", "model_type", "torch_dtype", "dtype", "transformers_version", "_name_or_path", "auto_map"),
        *("bos_token_id", "eos_token_id", "pad_token_id", "id2label", "label2id", "task_specific_params"),
        *("initializer_range", "use_cache", "pretraining_tp", "n_ctx", "max_window_layers", "output_past"),
        *("summary_activation", "summary_first_dropout", "summary_proj_to_labels", "summary_type", "summary_use_proj"),
        *("gradient_checkpointing", "_attn_implementation"),
    ]
)
"""Keys that change neither the parts of a model nor their sizes, or that are read beside another one."""


def config_file(path: Path) -> Path | None:
    """The ``config.json`` that a path names or that lies in the folder it names; ``None``: it is none of them."""
    if os.path.isdir(path):  # noqa: PTH112 (a name too long to be one is none)
        return path / CONFIG
    return path if path.suffix == ".json" else None


def read_config(path: Path, shown: str) -> ModelSpec:
    """The model of a ``config.json``.

    Sequences are as long as the model's positions, and at most 8192 tokens; the batch is :data:`BATCH` of them.

    Raises:
        PlanError: it cannot be read, is of another family, or has keys or values that no part stands for.
    """
    fields = _one_form(_read(path, shown))
    shown = str(path)
    kind = fields.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise usage_error(
            f"the model is of type {kind!r}", location=shown, hint=f"gptplan knows {', '.join(sorted(FAMILIES))}"
        )
    family = FAMILIES[kind]
    _refuse(fields, family, shown)
    try:
        spec = {**family.parts({**family.keys, **fields}), **_step(fields, family, path)}
        return msgspec.convert({name: value for name, value in spec.items() if value is not None}, ModelSpec)
    except (msgspec.ValidationError, ValueError, TypeError, KeyError) as error:
        raise usage_error(_in_keys(str(error), fields, family), location=shown, hint=_CORRECT) from error


_ANEW = "copy it again from where the model is from"
_CORRECT = "correct the key, or describe the model in TOML, as the files in specs/models/ do (docs/specs.md)"


def _one_form(fields: dict[str, Any]) -> dict[str, Any]:
    """A config with the keys of transformers 4 where it has those of transformers 5 that say the same."""
    rotary = fields.get("rope_parameters")
    if isinstance(rotary, dict) and not fields.keys() & {"rope_theta", "rope_scaling"}:
        scaling = {key: value for key, value in rotary.items() if key != "rope_theta"}
        base = {"rope_theta": rotary["rope_theta"]} if "rope_theta" in rotary else {}
        fields = {key: value for key, value in fields.items() if key != "rope_parameters"}
        fields |= {"rope_scaling": scaling, **base}
    if fields.get("layer_types") == ["full_attention"] * len(fields.get("layer_types") or ()):
        fields = {key: value for key, value in fields.items() if key != "layer_types"}
    return fields


def _in_keys(message: str, fields: Mapping[str, Any], family: Family) -> str:
    """What is wrong with a spec, in the words of the config that it was read from."""
    message, _, place = message.partition(" - at `$.")
    place = place.rstrip("`")
    key = family.plain.get(place, place)
    for name, own in family.plain.items():
        message = message.replace(f"`{name}`", f"`{own}`")
    if key in fields:
        return f"`{key}` is {fields[key]!r}: {message}"
    return f"the config is not valid: {message}" + (f" - at `{key}`" if key else "")


def _step(fields: Mapping[str, Any], family: Family, path: Path) -> dict[str, Any]:
    longest = next(fields.get(key, family.keys.get(key)) for key in _LENGTHS if key in family.keys)
    name = path.parent.name if path.name == CONFIG else path.stem
    source = f"{CONFIG} of {name}"
    return {
        "name": re.sub(r"[^A-Za-z0-9._-]", "-", name).lstrip("._-")[:64] or "model",
        "title": f"{fields['model_type']} model of {path.name}",
        "seq_len": min(longest, 8192) if isinstance(longest, int) else longest,
        "global_batch": BATCH,
        "precision": PRECISIONS.get(str(fields.get("torch_dtype", fields.get("dtype"))), "bf16"),
        "sources": dict.fromkeys(("num_layers", "hidden_size", "num_heads", "vocab_size", "max_seq_len"), source),
    }


_LENGTHS = ("max_position_embeddings", "n_positions")


def _refuse(fields: Mapping[str, Any], family: Family, shown: str) -> None:
    """Name every key that is missing, unknown, or has a value that is not modelled."""
    hint = "a key that changes neither parts nor sizes can go; another model needs a TOML file (docs/specs.md)"
    needed = [key for key, default in family.keys.items() if default is ...]
    found = [
        (f"`{key}` is missing", "add it, as the model's own config.json has it")
        for key in needed
        if fields.get(key) is None
    ]
    for key, value in fields.items():
        if key in family.fixed and value not in family.fixed[key]:
            known = ", ".join(map(repr, family.fixed[key])) or "nothing"
            found.append((f"`{key}` is {value!r}, of which {known} is modelled", _CORRECT))
        elif key not in (*family.keys, *family.fixed, *family.idle, *IDLE):
            found.append((f"`{key}` is {value!r}, which no part of a model stands for", hint))
    if found:
        raise PlanError(*(Diagnostic(rule="USAGE", message=one, location=shown, hint=way) for one, way in found))


def _read(path: Path, shown: str) -> dict[str, Any]:
    try:
        if path.is_file() and path.stat().st_size > MAX_CONFIG_BYTES:
            raise usage_error("the config is larger than 1 MiB", location=shown)
        fields = json.loads(path.read_bytes())
    except OSError as error:
        hint = f"name a {CONFIG} of the Hugging Face Hub, or a folder with one"
        raise usage_error(f"cannot read the config: {error.strerror}", location=shown, hint=hint) from error
    except (ValueError, RecursionError) as error:
        raise usage_error(f"the config is not JSON: {error}", location=str(path), hint=_ANEW) from error
    if not isinstance(fields, dict):
        raise usage_error("the config is no JSON object", location=str(path), hint=_ANEW)
    return fields
