"""Models with experts in Megatron-LM's arguments: their parts, and the ranks that divide them."""

import re
from typing import Any

import msgspec

from planner.lint.draft import UNDECIDED
from planner.lint.reading import Keys, Reading
from planner.specs import AttentionSpec, ExpertsSpec, LatentSpec, MlpSpec, ModelSpec, NormSpec, PositionSpec

_FREQUENCY = re.compile(r"\(?\[0\]\*(\d+)\s*\+\s*\[1\]\*(\d+)\)?")
"""Blocks without experts and blocks with some, as ``([0]*3+[1]*58)``."""


def read_experts(keys: Keys, reading: Reading) -> None:
    """Parts of the model of the arguments where it has experts, and their degree.

    Arguments that say another model than one with a gated feed-forward part, RMSNorm, rotations and no bias leave it
    as it is, so that nothing is predicted.
    """
    if not keys.given("--num-experts") or reading.model is None:
        return
    if reading.model.experts is None and reading.asked.model is None:
        reading.model = _with_experts(keys, reading.model)
    if reading.model.experts is None:
        return
    (degree,) = keys.read("expert_parallel")
    reading.fields["expert_parallel"] = degree
    divided = keys.count(
        "--expert-tensor-parallel-size", default=reading.fields["tensor_parallel"], name="expert_tensor_parallel"
    )
    if divided != 1:
        reading.no_formula("gptplan's experts of Megatron-LM are whole: --expert-tensor-parallel-size 1")


def _with_experts(keys: Keys, model: ModelSpec) -> ModelSpec:
    """The model with its parts, or as it was where they are not known."""
    rotary = keys.word("--position-embedding-type") == "rope" or keys.on("--use-rotary-position-embeddings")
    plain = keys.word("--normalization") == "RMSNorm" and keys.on("--swiglu") and keys.on("--disable-bias-linear")
    experts, attention = _experts(keys, model), _attention(keys, model)
    if not (rotary and plain) or experts is None or attention is None:
        return model
    try:
        return msgspec.structs.replace(
            model,
            dropout=float(keys.number("--hidden-dropout", default=0.1) or 0.0),
            experts=experts,
            attention=attention,
            positions=PositionSpec(kind="rotary"),
            mlp=MlpSpec(gated=True, activation="silu", bias=False),
            norm=NormSpec(kind="rmsnorm"),
        )
    except ValueError:  # sizes that contradict each other
        return model


def _experts(keys: Keys, model: ModelSpec) -> ExpertsSpec | None:
    count, top_k = keys.count("--num-experts"), keys.count("--moe-router-topk", default=2)
    width = keys.count("--moe-ffn-hidden-size", default=model.ffn_hidden_size)
    shared = keys.count("--moe-shared-expert-intermediate-size", default=0, least=0)
    groups = keys.count("--moe-router-num-groups", default=1), keys.count("--moe-router-group-topk", default=1)
    dense = _dense_layers(keys, model.num_layers)
    if UNDECIDED in (count, top_k, width, shared, *groups) or dense is None or shared % width:
        return None
    sigmoid = keys.word("--moe-router-score-function") == "sigmoid"
    try:
        return ExpertsSpec(
            count=count,
            top_k=top_k,
            ffn_hidden_size=width,
            shared=shared // width,
            first_dense_layers=dense,
            router="sigmoid" if sigmoid else "softmax",
            normalised=sigmoid or not keys.on("--moe-router-pre-softmax"),
            groups=groups[0],
            top_groups=groups[1],
            selection_bias=keys.on("--moe-router-enable-expert-bias"),
        )
    except ValueError:  # more experts for a token than there are
        return None


def _dense_layers(keys: Keys, layers: int) -> int | None:
    """The first blocks without experts; ``None`` where others are without, or it is not known which."""
    stated: Any = keys.raw("--moe-layer-freq")
    if stated is None or str(stated) == "1":
        return 0
    found = _FREQUENCY.fullmatch(str(stated).replace(" ", ""))
    dense, others = map(int, found.groups()) if found else (0, 0)
    return dense if found and dense + others == layers else None


def _attention(keys: Keys, model: ModelSpec) -> AttentionSpec | None:
    groups = keys.count("--num-query-groups", default=model.num_heads)
    size = keys.count("--kv-channels", default=model.hidden_size // model.num_heads)
    bias = keys.on("--add-qkv-bias")
    if UNDECIDED in (groups, size) or keys.on("--window-size"):
        return None
    if not keys.on("--multi-latent-attention"):
        own = None if size * model.num_heads == model.hidden_size else size
        normed = keys.on("--qk-layernorm")
        return AttentionSpec(kv_heads=groups, head_size=own, qkv_bias=bias, output_bias=False, qk_norm=normed)
    sizes = {
        "query_rank": keys.count("--q-lora-rank"),
        "kv_rank": keys.count("--kv-lora-rank", default=32),
        "rotary_size": keys.count("--qk-pos-emb-head-dim", default=64),
        "value_size": keys.count("--v-head-dim", default=128),
    }
    plain_size = keys.count("--qk-head-dim", default=128)
    if {UNDECIDED, None} & {*sizes.values(), plain_size}:
        return None
    latent = LatentSpec(**sizes)
    size = plain_size + latent.rotary_size
    return AttentionSpec(kv_heads=model.num_heads, head_size=size, qkv_bias=bias, output_bias=False, latent=latent)
