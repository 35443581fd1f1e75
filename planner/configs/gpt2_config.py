"""The model that a script describes with transformers' GPT2Config."""

from typing import Any

from planner.configs.draft import Draft
from planner.configs.model_names import model_of_sizes
from planner.configs.plugin_arguments import GPT2_CONFIG
from planner.configs.source import Call, Source, Unknown
from planner.spec import ModelSpec

MOST = 2**31
_DEFAULTS: dict[str, Any] = {
    "vocab_size": 50257, "n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12, "n_inner": None,
    "resid_pdrop": 0.1, "tie_word_embeddings": True,
}  # fmt: skip
"""transformers 4.51.3, models/gpt2/configuration_gpt2.py."""
_OTHER_NAMES = {
    "hidden_size": "n_embd", "max_position_embeddings": "n_positions", "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}  # fmt: skip
"""The same file, attribute_map."""


def described_model(source: Source, draft: Draft) -> ModelSpec | None:
    """The model of the script's one call of GPT2Config; facts and places of its sizes go into ``draft``.

    Nothing where there is no call, where several differ, or where a size cannot be told.
    """
    calls = [call for call in source.others if call.name == GPT2_CONFIG]
    described = [_sizes(call) for call in calls]
    if not described or described[0] is None or any(sizes != described[0] for sizes in described):
        return None
    sizes = described[0]
    arguments = {_OTHER_NAMES.get(key, key): (key, value) for key, value in calls[0].arguments.items()}
    for fact in ("n_embd", "n_head"):
        key, value = arguments.get(fact, (fact, None))
        if _is_count(sizes[fact]):
            draft.facts[fact] = sizes[fact]
        draft.keys[fact] = key
        if value is not None:
            draft.settings = {**draft.settings, key: value}
    return _spec(sizes, draft)


def _sizes(call: Call) -> dict[str, Any] | None:
    given = {_OTHER_NAMES.get(key, key): value.content for key, value in call.arguments.items()}
    sizes = {key: given.get(key, default) for key, default in _DEFAULTS.items()}
    hidden = any(isinstance(value, Unknown) for value in sizes.values())
    return None if hidden or not call.complete else sizes


def _spec(sizes: dict[str, Any], draft: Draft) -> ModelSpec | None:
    if not _is_possible(sizes):
        return None
    seq_len = draft.known("seq_len") or sizes["n_positions"]
    return model_of_sizes(
        "the model of GPT2Config", "GPT2Config in the file", name=f"gpt2-{sizes['n_layer']}x{sizes['n_embd']}",
        num_layers=sizes["n_layer"], hidden_size=sizes["n_embd"], num_heads=sizes["n_head"],
        ffn_hidden_size=sizes["n_inner"] or 4 * sizes["n_embd"],
        vocab_size=sizes["vocab_size"], max_seq_len=sizes["n_positions"], seq_len=min(seq_len, sizes["n_positions"]),
        dropout=float(sizes["resid_pdrop"]), tied_embeddings=sizes["tie_word_embeddings"],
    )  # fmt: skip


def _is_possible(sizes: dict[str, Any]) -> bool:
    counts = [sizes[name] for name in ("n_layer", "n_embd", "n_head", "vocab_size", "n_positions")]
    counts += [sizes["n_inner"]] if sizes["n_inner"] is not None else []
    share = sizes["resid_pdrop"]
    is_share = type(share) in (int, float) and 0 <= share < 1
    return is_share and type(sizes["tie_word_embeddings"]) is bool and all(map(_is_count, counts))


def _is_count(value: object) -> bool:
    return type(value) is int and 0 < value < MOST
