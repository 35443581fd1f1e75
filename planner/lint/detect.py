"""Which framework a file configures."""

from collections.abc import Mapping

from planner.codes import Config
from planner.lint.dialects.colossalai_2022 import keys as old_colossalai
from planner.lint.dialects.colossalai_2022.reader import read_old_config
from planner.lint.dialects.deepspeed import keys as deepspeed
from planner.lint.dialects.deepspeed.reader import read_deepspeed
from planner.lint.dialects.megatron.reader import is_megatron, read_megatron
from planner.lint.dialects.plugins.keys import ARGUMENTS, DDP, GEMINI, HYBRID, LOW_LEVEL_ZERO
from planner.lint.dialects.plugins.reader import read_plugin
from planner.lint.draft import Asked, Draft
from planner.lint.limits import MAX_CONFIGURATIONS, refused
from planner.lint.source import Source, Value, unreadable

_MARKS = {
    GEMINI: {"placement_policy", "shard_param_frac", "offload_optim_frac", "offload_param_frac", "chunk_config_dict"},
    HYBRID: {"tp_size", "pp_size", "zero_stage", "pp_style", "num_microbatches", "microbatch_size", "sp_size"},
    LOW_LEVEL_ZERO: {"stage", "reduce_bucket_size_in_m", "master_weights", "extra_dp_size", "cast_inputs"},
    DDP: {"bucket_cap_mb", "broadcast_buffers", "find_unused_parameters", "gradient_as_bucket_view"},
}
"""Arguments by which a table without a name is recognised, in this order."""


def drafts_of(source: Source, asked: Asked) -> list[Draft]:
    """The configurations of a file: one, or one for each plugin that a script makes.

    Raises:
        PlanError: none is recognised.
    """
    tables = _plugin_tables(source)
    if max(len(source.calls), len(tables)) > MAX_CONFIGURATIONS:
        raise refused("configurations", source.shown)
    if source.calls:
        return [
            read_plugin(source, call.name, call.arguments, asked, whole_call=call.complete) for call in source.calls
        ]
    return [read_plugin(source, *table, asked) for table in tables] or [_whole_file(source, asked)]


def _whole_file(source: Source, asked: Asked) -> Draft:
    top = {key for key in source.settings if "." not in key or key.startswith("-")}
    if is_megatron(source.settings) and (source.language == "shell" or not top & {*deepspeed.MARKS}):
        return read_megatron(source, asked)
    if source.language != "shell":
        if top & {*deepspeed.MARKS}:
            return read_deepspeed(source, asked)
        if top & {*old_colossalai.MARKS}:
            return read_old_config(source, asked)
        if name := next((name for name, marks in _MARKS.items() if top & marks), None):
            return read_plugin(source, name, source.settings, asked)
    raise unreadable(
        Config.NOTHING_FOUND,
        "no parallel configuration was found in this file",
        source.shown,
        hint="gptplan reads Colossal-AI configurations and plugins, Megatron-LM arguments and DeepSpeed JSON",
    )


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
