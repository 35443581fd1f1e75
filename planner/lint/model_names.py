"""Which model a name in a configuration means, or the sizes that it writes out."""

import re
from typing import Any

import msgspec

from planner.specs import ModelSpec
from planner.specs.files import ALIASES, builtin_names, load_spec

TITANS: dict[str, tuple[str, dict[str, int]]] = {
    "gpt2_small": ("gpt2-small", {}),
    "gpt2_medium": ("gpt2-medium", {"num_heads": 8}),
    "gpt2_large": ("gpt2-large", {"hidden_size": 1536, "num_heads": 12}),
    "gpt2_xl": ("gpt2-xl", {"num_heads": 16}),
    "gpt2_exlarge": ("gpt2-xl", {"num_heads": 32}),
    "gpt2_2b": ("gpt2-xl", {"num_layers": 40, "hidden_size": 2048, "num_heads": 16}),
    "gpt2_3b": ("gpt2-xl", {"num_layers": 48, "hidden_size": 2304, "num_heads": 16}),
    "gpt2_4b": ("gpt2-xl", {"num_layers": 64, "hidden_size": 2304, "num_heads": 16}),
    "gpt2_6b": ("gpt2-xl", {"num_layers": 30, "hidden_size": 4096, "num_heads": 16}),
    "gpt2_8b": ("gpt2-xl", {"num_layers": 72, "hidden_size": 3072, "num_heads": 24}),
    "gpt3": ("gpt3-175b", {}),
}
"""Names of titans/model/gpt/gpt.py, which the old examples import: the built-in spec and what differs from it."""


def model_named(name: str) -> ModelSpec | None:
    """The model of a built-in name, of a name of the old examples such as ``GPT3_pipeline_1D``, or nothing."""
    whole = name.rpartition("/")[2].lower()
    plain = (
        whole
        if whole.replace("_", "-") in (known := {*builtin_names(ModelSpec), *ALIASES})
        else whole.rpartition(".")[2]
    )
    if plain.replace("_", "-") in known and plain not in TITANS:
        return load_spec(plain.replace("_", "-"), ModelSpec)
    plain = re.sub(r"_?(pipeline|hybrid|vanilla|1d|2d|2p5d|3d|lm|fused)(?=_|$)", "", plain)
    if plain not in TITANS:
        return None
    base, different = TITANS[plain]
    spec = load_spec(base, ModelSpec)
    if not different:
        return spec
    hidden = different.get("hidden_size", spec.hidden_size)
    return msgspec.structs.replace(
        spec,
        name=f"titans-{plain.replace('_', '-')}",
        title=f"{plain} of titans",
        ffn_hidden_size=4 * hidden,
        sources=dict.fromkeys(different, "titans/model/gpt/gpt.py"),
        **different,
    )


def model_of_sizes(title: str, source: str, **sizes: Any) -> ModelSpec | None:
    """A model of a configuration's own; nothing where its sizes make no transformer.

    ``sizes`` are the fields of :class:`ModelSpec` that the file tells or that its framework takes for granted.
    """
    try:
        return ModelSpec(title=title, global_batch=1, precision="bf16", sources={"num_layers": source}, **sizes)
    except (ValueError, msgspec.ValidationError):
        return None
