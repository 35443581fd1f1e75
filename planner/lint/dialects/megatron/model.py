"""The model that Megatron-LM's arguments describe, by its parts.

Read in Megatron-LM at d98e8a6: megatron/training/arguments.py, validate_args and _add_network_size_args, and
argument_utils.py, core_transformer_config_from_args; in Megatron-DeepSpeed at 4efb479: megatron/arguments.py.
"""

import re
from typing import Any

from planner.lint.dialects.megatron.keys import NO_TRAINING, OF_EXPERTS, UNMODELLED
from planner.lint.draft import UNDECIDED
from planner.lint.model_names import model_of_sizes
from planner.lint.reading import Keys, Reading
from planner.specs import ModelSpec
from planner.specs.model import AttentionSpec, MlpSpec, NormSpec, Positions, PositionSpec

_POSITIONS: dict[Any, Positions] = {"learned_absolute": "learned", "rope": "rotary", "none": "rotary"}
"""``--position-embedding-type``; a model without positions is costed as one that rotates."""
_LAST_TOKENS = re.compile(r"\(?(\d{1,7}),\s*0\)?")
"""``--window-size``: tokens before a token, and none behind it."""
_GPT2_VOCABULARY = 50257
_DROPOUT = 0.1
"""Of attention and of what is added to the residual stream, unless it is given."""


def read_model(keys: Keys, reading: Reading) -> int | None:
    """The number of layers, where it is known; and the model in ``reading``."""
    layers = keys.count("--num-layers", name="num_layers")
    hidden, heads = keys.read("hidden_size", "num_heads")
    reading.fields["seq_len"] = keys.count(
        "--seq-length", "--encoder-seq-length", default=reading.asked.seq_len, name="seq_len"
    )
    ffn = keys.count("--ffn-hidden-size", name="ffn_hidden_size")
    positions = keys.count("--max-position-embeddings", name="max_seq_len")
    vocab = keys.count("--vocab-size", name="vocab_size", least=0) or None
    known = not {None, UNDECIDED} & {layers, hidden, heads} and UNDECIDED not in (ffn, positions, vocab)
    if keys.has("--use-checkpoint-args") and not known:
        reading.assumptions.append("--use-checkpoint-args: sizes of the model come from a checkpoint")
    if reading.model is None and known:
        reading.model = _own_model(keys, reading, (layers, hidden, heads), (ffn, positions, vocab))
    if layers in (None, UNDECIDED):
        return reading.model.num_layers if reading.model else None
    return int(layers)


def read_unmodelled(keys: Keys, reading: Reading) -> None:
    """What nothing is predicted of: parts without formulas, and commands that do not train."""
    has_experts = reading.model is not None and reading.model.experts is not None
    for option, reason in UNMODELLED.items():
        if keys.on(option) and not (has_experts and option in OF_EXPERTS):
            reading.no_formula(f"gptplan's models have no {reason}")
    if keys.has(*NO_TRAINING):
        reading.no_formula("the command does not train")


def _own_model(keys: Keys, reading: Reading, shape: tuple[int, int, int], sizes: tuple[Any, ...]) -> ModelSpec | None:
    """A model spec from the arguments, with the defaults of Megatron's pretrain_gpt.py."""
    layers, hidden, heads = shape
    ffn, positions, vocab = sizes
    seq_len = reading.known("seq_len", None) or positions or 1024
    mlp = _feed_forward(keys)
    gated = max(64, int(4 * hidden * 2 / 3 / 64) * 64)
    if vocab is None:
        reading.assumptions.append(f"the file has no vocabulary size: GPT-2's {_GPT2_VOCABULARY} is taken")
    return model_of_sizes(
        "the model of the arguments",
        "the arguments of the file",
        name=f"megatron-{layers}x{hidden}",
        num_layers=layers,
        hidden_size=hidden,
        num_heads=heads,
        ffn_hidden_size=ffn or (gated if keys.on("--swiglu") else 4 * hidden),
        vocab_size=vocab or _GPT2_VOCABULARY,
        max_seq_len=max(positions or seq_len, 1),
        dropout=max(_told(keys, option, _DROPOUT) for option in ("--attention-dropout", "--hidden-dropout")),
        seq_len=min(seq_len, positions or seq_len),
        tied_embeddings=not keys.on("--untie-embeddings-and-output-weights"),
        attention=_attention(keys, hidden, heads),
        positions=_positions(keys),
        mlp=mlp,
        norm=NormSpec(kind="rmsnorm" if str(_told(keys, "--normalization", "")).lower() == "rmsnorm" else "layernorm"),
    )


def _told(keys: Keys, option: str, default: Any) -> Any:
    """A value that no rule is about: where it is of another kind or cannot be told, nothing is predicted."""
    value = keys.plain(option) if keys.has(option) else default
    number = isinstance(default, int | float | None)
    if value is None and default is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool) if number else isinstance(value, str):
        return value
    keys.reading.no_formula(f"{option} cannot be told")
    return default


def _attention(keys: Keys, hidden: int, heads: int) -> AttentionSpec:
    """Groups of queries, width of a head, biases and windows."""
    groups = _told(keys, "--num-query-groups", 1) if keys.on("--group-query-attention") else None
    groups = _told(keys, "--num-key-value-heads", groups)
    width = _told(keys, "--kv-channels", None)
    window = _LAST_TOKENS.fullmatch(str(_told(keys, "--window-size", "")))
    if keys.on("--window-size") and window is None:
        keys.reading.no_formula("gptplan's windows of attention are the last tokens")
    bias = not keys.on("--disable-bias-linear")
    return AttentionSpec(
        kv_heads=None if groups in (None, heads) else int(groups),
        head_size=None if width is None or width * heads == hidden else int(width),
        qkv_bias=bias or keys.on("--add-qkv-bias"),
        output_bias=bias,
        qk_norm=keys.on("--qk-layernorm"),
        sliding_window=int(window[1]) + 1 if window else None,
    )


def _positions(keys: Keys) -> PositionSpec:
    kind = _told(keys, "--position-embedding-type", "learned_absolute")
    if kind not in _POSITIONS:
        keys.reading.no_formula(f"gptplan's models have no positions of type {kind}")
    rotary = keys.on("--use-rotary-position-embeddings")
    return PositionSpec(kind="rotary" if rotary else _POSITIONS.get(kind, "learned"))


def _feed_forward(keys: Keys) -> MlpSpec:
    gated, bias = keys.on("--swiglu", "--quick-geglu"), not keys.on("--disable-bias-linear")
    if keys.on("--swiglu"):
        return MlpSpec(gated=True, activation="silu", bias=bias)
    return MlpSpec(gated=gated, activation="relu" if keys.on("--squared-relu") else "gelu-tanh", bias=bias)
