"""Which framework a file configures."""

from collections.abc import Mapping

from planner.lint.dialects.colossalai_2022 import reader as old_colossalai
from planner.lint.dialects.deepspeed import reader as deepspeed
from planner.lint.dialects.megatron import reader as megatron
from planner.lint.dialects.plugins.names import DDP, GEMINI, HYBRID, LOW_LEVEL_ZERO
from planner.lint.dialects.plugins.reader import read_plugin
from planner.lint.draft import Asked, Draft
from planner.lint.files import PLUGINS
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
    if source.calls:
        return [
            read_plugin(source, call.name, call.arguments, asked, whole_call=call.complete) for call in source.calls
        ]
    if tables := _plugin_tables(source):
        return [read_plugin(source, name, arguments, asked) for name, arguments in tables]
    top = {key for key in source.settings if "." not in key or key.startswith("-")}
    if source.language == "shell" or (megatron.is_megatron(source.settings) and not top & {*deepspeed.MARKS}):
        if megatron.is_megatron(source.settings):
            return [megatron.read_megatron(source, asked)]
    elif top & {*deepspeed.MARKS}:
        return [deepspeed.read_deepspeed(source, asked)]
    elif top & {*old_colossalai.MARKS}:
        return [old_colossalai.read_old_config(source, asked)]
    elif name := _named_by_arguments(top):
        return [read_plugin(source, name, dict(source.settings), asked)]
    raise unreadable(
        "CFG008",
        "no parallel configuration was found in this file",
        source.shown,
        hint="gptplan reads Colossal-AI configurations and plugins, Megatron-LM arguments and DeepSpeed JSON",
    )


def is_configuration(source: Source) -> bool:
    """Whether a file of a folder is worth checking."""
    top = {key for key in source.settings if "." not in key or key.startswith("-")}
    marks = {*old_colossalai.MARKS, *deepspeed.MARKS}
    named = megatron.is_megatron(source.settings) or _named_by_arguments(top) is not None
    return bool(source.calls or _plugin_tables(source) or top & marks or named)


def _plugin_tables(source: Source) -> list[tuple[str, Mapping[str, Value]]]:
    """Tables that name their plugin, as their key or in a ``type`` or ``plugin`` entry."""
    found: list[tuple[str, Mapping[str, Value]]] = []
    for key, value in source.settings.items():
        if not isinstance(value.content, dict):
            continue
        last = key.rpartition(".")[2]
        inner = value.content.get("type") or value.content.get("name")
        named = last if last in PLUGINS else str(inner.content).rpartition(".")[2] if inner else ""
        if named in PLUGINS:
            found.append((named, {k: v for k, v in value.content.items() if k not in ("type", "name")}))
    if found:
        return found
    plugin = source.settings.get("plugin")
    if plugin is not None and str(plugin.content).rpartition(".")[2] in PLUGINS:
        top = {key: value for key, value in source.settings.items() if "." not in key and key != "plugin"}
        return [(str(plugin.content).rpartition(".")[2], top)]
    return []


def _named_by_arguments(top: set[str]) -> str | None:
    return next((name for name, marks in _MARKS.items() if top & marks), None)
