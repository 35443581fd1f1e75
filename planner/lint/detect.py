"""Which framework a file configures."""

from collections.abc import Mapping
from dataclasses import replace

from planner.codes import Config
from planner.lint.dialects.colossalai_2022 import keys as old_colossalai
from planner.lint.dialects.colossalai_2022.reader import read_old_config
from planner.lint.dialects.deepspeed import keys as deepspeed
from planner.lint.dialects.deepspeed.reader import read_deepspeed
from planner.lint.dialects.megatron.names import is_megatron
from planner.lint.dialects.megatron.reader import read_megatron
from planner.lint.dialects.plugins.keys import (
    ARGUMENTS,
    CONTEXT,
    DDP,
    GEMINI,
    HYBRID,
    LOW_LEVEL_ZERO,
    MOE_HYBRID,
    MOE_ONLY,
)
from planner.lint.dialects.plugins.reader import read_plugin
from planner.lint.dialects.tabled.frameworks import TABLES
from planner.lint.dialects.tabled.reader import foreign_name, read_table, table_of
from planner.lint.draft import Asked, Draft
from planner.lint.limits import MAX_CONFIGURATIONS, refused
from planner.lint.source import Call, Source, Value, unreadable

KNOWN = ", ".join(
    [
        "Colossal-AI configurations and plugins",
        "Megatron-LM and Megatron-DeepSpeed arguments",
        "DeepSpeed JSON",
        *(table.dialect.framework.removesuffix(" configuration") for table in TABLES),
    ]
)
"""What is read, in words."""
_MARKS = {
    GEMINI: {"placement_policy", "shard_param_frac", "offload_optim_frac", "offload_param_frac", "chunk_config_dict"},
    HYBRID: {"tp_size", "pp_size", "zero_stage", "pp_style", "num_microbatches", "microbatch_size", "sp_size"},
    LOW_LEVEL_ZERO: {"stage", "reduce_bucket_size_in_m", "master_weights", "extra_dp_size", "cast_inputs"},
    DDP: {"bucket_cap_mb", "broadcast_buffers", "find_unused_parameters", "gradient_as_bucket_view"},
}
"""Arguments by which a table without a name is recognised, in this order: two of them, or one that nothing else has."""
MAX_OTHER_NAMES = 2
"""Names that a Python file may have beside the arguments of a plugin without a name."""
_OWN = {"placement_policy", "shard_param_frac", "offload_optim_frac", "pp_style", "reduce_bucket_size_in_m", "pp_size"}


def drafts_of(source: Source, asked: Asked) -> list[Draft]:
    """The configurations of a file: one, or one for each plugin that a script makes, each way through a script.

    Raises:
        PlanError: none is recognised.
    """
    tables = _plugin_tables(source)
    if max(len(source.calls), len(tables)) > MAX_CONFIGURATIONS:
        raise refused("configurations", source.shown)
    if source.calls:
        return [_called(source, call, asked) for call in source.calls]
    if tables:
        return [read_plugin(source, *table, asked) for table in tables]
    ways = [way for way in (source, *source.ways) if is_megatron(way.settings, shell=True)]
    if source.language == "shell" and ways:
        return [read_megatron(way, asked) for way in ways]
    return [_whole_file(source, asked)]


def _called(source: Source, call: Call, asked: Asked) -> Draft:
    """A plugin that a script makes; the one with experts is read as what it extends.

    It takes stage 2 for 1, and 0 too where communication is to overlap.
    """
    if call.name != MOE_HYBRID:
        return read_plugin(source, call.name, call.arguments, asked, whole_call=call.complete)
    known = {key: value for key, value in call.arguments.items() if key not in MOE_ONLY}
    overlaps = "overlap_communication" in known and known["overlap_communication"].content is True
    if "zero_stage" in known and (known["zero_stage"].content == 2 or overlaps):  # noqa: PLR2004 - a stage of ZeRO
        known["zero_stage"] = replace(known["zero_stage"], content=1)
    elif overlaps:
        known["zero_stage"] = replace(known["overlap_communication"], content=1)
    return read_plugin(source, HYBRID, known, asked, whole_call=call.complete, of_experts=call.arguments)


def _whole_file(source: Source, asked: Asked) -> Draft:
    if (draft := _data_file(source, asked)) is not None:
        return draft
    other = foreign_name(source)
    raise unreadable(
        Config.NOTHING_FOUND,
        f"this is a file of {other}, which gptplan does not judge"
        if other
        else "no parallel configuration was found in this file",
        source.shown,
        hint=f"gptplan reads {KNOWN}",
    )


def _data_file(source: Source, asked: Asked) -> Draft | None:
    """The one configuration that the keys of a whole file make; nothing where there is too little to tell whose."""
    top = {key for key in source.settings if "." not in key or key.startswith("-")}
    if source.language == "shell":
        return None
    if (table := table_of(source)) is not None:
        return read_table(table, source, asked)
    data = source.language != "python"
    name = next((name for name, marks in _MARKS.items() if top & marks & _OWN or len(top & marks) > 1), None)
    if name is not None and not data and len(top - {*ARGUMENTS[name]} - CONTEXT) > MAX_OTHER_NAMES:
        # A program that has variables of such names is none.
        name = None
    batched = data and "train_batch_size" in top and len(top & {*deepspeed.MORE_MARKS}) > 1
    for ours, read in (
        (bool(top & {*deepspeed.MARKS}) or batched, read_deepspeed),
        (data and is_megatron(source.settings, shell=False), read_megatron),
        (bool(top & {*old_colossalai.OWN}) or len(top & {*old_colossalai.MARKS}) > 1, read_old_config),
        (name is not None, lambda source, asked: read_plugin(source, name or "", source.settings, asked)),
    ):
        if ours and not foreign_name(source):
            return read(source, asked)
    return None


def _plugin_tables(source: Source) -> list[tuple[str, Mapping[str, Value]]]:
    """Tables that name their plugin, as their key or in a ``type`` or ``plugin`` entry."""
    found: list[tuple[str, Mapping[str, Value]]] = []
    for key, value in source.settings.items():
        if not isinstance(value.content, dict):
            continue
        last = key.rpartition(".")[2]
        inner = value.content.get("type") or value.content.get("name")
        named = last if last in ARGUMENTS else str(inner.content).rpartition(".")[2] if inner else ""
        if named in ARGUMENTS:
            found.append((named, {k: v for k, v in value.content.items() if k not in ("type", "name")}))
    if found:
        return found
    plugin = source.settings.get("plugin")
    if plugin is not None and str(plugin.content).rpartition(".")[2] in ARGUMENTS:
        top = {key: value for key, value in source.settings.items() if "." not in key and key != "plugin"}
        return [(str(plugin.content).rpartition(".")[2], top)]
    return []
