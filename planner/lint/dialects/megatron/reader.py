"""Megatron-LM's arguments: a shell script, one command line, or the same names in a data file."""

import re
from typing import Any

from planner.lint.dialects.megatron.option_rules import MEGATRON, OBSOLETE
from planner.lint.draft import OWN_RULES, UNDECIDED, Asked, Draft, Keys
from planner.lint.model_names import model_of_sizes
from planner.lint.source import Source, Value
from planner.specs import ModelSpec

MARKS = (
    "--tensor-model-parallel-size",
    "--pipeline-model-parallel-size",
    "--micro-batch-size",
    "--num-layers",
    "--num-attention-heads",
    "--use-distributed-optimizer",
    "--context-parallel-size",
)
"""Options by which such a file is recognised."""
_RESTATED = frozenset(
    (
        "DEV001",
        "BAT001",
        "ZER001",
        "ZER003",
        "TP002",
        "SP001",
        "PP001",
        "PP002",
        "PP003",
        "PP004",
        "PP005",
        "PP006",
        "PP010",
        "PP011",
    )
)
"""Layout rules that Megatron-LM's own rules say, or that it does not have."""
_FIRST, _LAST = "--decoder-first-pipeline-num-layers", "--decoder-last-pipeline-num-layers"
_LAYOUT = "--pipeline-model-parallel-layout"
_SHAPE = ("num_layers", "hidden_size", "num_heads")
_WORDS = {
    "tensor_parallel": "--tensor-model-parallel-size",
    "pipeline_parallel": "--pipeline-model-parallel-size",
    "micro_batch": "--micro-batch-size",
    "num_microbatches": "--global-batch-size",
    "seq_len": "--seq-length",
    "sequence_parallel": "--sequence-parallel",
    "num_model_chunks": "--num-virtual-stages-per-pipeline-rank",
    "zero_stage": "--use-distributed-optimizer",
    "recompute_layers_per_stage": "--recompute-granularity",
    "schedule": "--num-virtual-stages-per-pipeline-rank",
    "precision": "--bf16",
}


def dashed(settings: Any) -> dict[str, Value]:
    """Settings under the names of the command line, whether written with dashes or as in a data file."""
    found: dict[str, Value] = {}
    for key, value in settings.items():
        found.setdefault(dashed_name(key), value)
    return found


def dashed_name(key: str) -> str:
    """A key as the command line has it: ``model.num_layers`` and ``--num_layers`` are ``--num-layers``."""
    last = key.rpartition(".")[2] if not key.startswith("-") else key
    return "--" + last.lstrip("-").replace("_", "-")


def read_megatron(source: Source, asked: Asked) -> Draft:
    """The layout of the arguments, and the facts of Megatron's own checks."""
    draft = Draft(
        dialect=MEGATRON,
        framework="Megatron-LM arguments",
        stack="megatron",
        words=_WORDS,
        own_rules=(*OWN_RULES, "TP005"),
        restated=_RESTATED,
    )
    draft.settings = dashed(source.settings)
    keys = Keys(source, draft.settings, draft)
    _mesh(keys, draft)
    _model(keys, draft, asked)
    _schedule(keys, draft)
    _states(keys, draft)
    _batch(keys, draft, asked)
    _facts(keys, draft, asked)
    return draft


def _mesh(keys: Keys, draft: Draft) -> None:
    degree = keys.count("--tensor-model-parallel-size", "--model-parallel-size", default=1, name="tensor_parallel")
    stages = keys.count("--pipeline-model-parallel-size", default=1, name="pipeline_parallel")
    context = keys.count("--context-parallel-size", default=1, name="context_parallel")
    draft.fields |= {
        "tensor_parallel": degree,
        "pipeline_parallel": stages,
        "context_parallel": context,
        "tensor_depth": 1,
        "tensor_mode": UNDECIDED if degree is UNDECIDED else "1d" if degree > 1 else "none",
        # Without tensor parallelism the arguments switch it off.
        "sequence_parallel": keys.flag("--sequence-parallel", name="sequence_parallel") and degree != 1,
        "offload.optimizer": 0.0,
        "offload.parameters": 0.0,
        "offload.tier": "none",
    }
    if context != 1:
        draft.unmodelled.append("gptplan has no context parallelism")


def _model(keys: Keys, draft: Draft, asked: Asked) -> None:
    shape = {
        "num_layers": keys.count("--num-layers", name="num_layers"),
        "hidden_size": keys.count("--hidden-size", name="hidden_size"),
        "num_heads": keys.count("--num-attention-heads", name="num_heads"),
    }
    draft.facts |= {name: value for name, value in shape.items() if value not in (None, UNDECIDED)}
    seq_len = keys.count("--seq-length", "--encoder-seq-length", default=asked.seq_len, name="seq_len")
    draft.fields["seq_len"] = seq_len
    ffn = keys.count("--ffn-hidden-size", name="ffn_hidden_size")
    positions = keys.count("--max-position-embeddings", name="max_seq_len")
    vocab = keys.count("--vocab-size", name="vocab_size")
    draft.model = asked.model
    if asked.model is None and all(name in draft.facts for name in _SHAPE) and UNDECIDED not in (ffn, positions, vocab):
        draft.model = _own_model(keys, draft, (ffn, positions, vocab))
    for option, reason in (
        ("--swiglu", "gated feed-forward layers"),
        ("--num-experts", "experts"),
        ("--group-query-attention", "grouped query attention"),
        ("--num-query-groups", "grouped query attention"),
        ("--multi-latent-attention", "latent attention"),
    ):
        if keys.has(option) and f"gptplan's models have no {reason}" not in draft.unmodelled:
            draft.unmodelled.append(f"gptplan's models have no {reason}")


def _own_model(keys: Keys, draft: Draft, sizes: tuple[Any, Any, Any]) -> ModelSpec | None:
    """A model spec from the arguments, with the defaults of Megatron's pretrain_gpt.py."""
    ffn, positions, vocab = sizes
    layers, hidden, heads = (draft.facts[name] for name in _SHAPE)
    seq_len = draft.known("seq_len", None) or positions or 1024
    if vocab is None:
        draft.assumptions.append("the file has no vocabulary size: GPT-2's 50257 is taken")
    return model_of_sizes(
        "the model of the arguments",
        "the arguments of the file",
        name=f"megatron-{layers}x{hidden}",
        num_layers=layers,
        hidden_size=hidden,
        num_heads=heads,
        ffn_hidden_size=ffn or _default_ffn(keys, hidden),
        vocab_size=vocab or 50257,
        max_seq_len=max(positions or seq_len, 1),
        dropout=0.1,
        seq_len=min(seq_len, positions or seq_len),
        tied_embeddings=not keys.has("--untie-embeddings-and-output-weights"),
    )


def _default_ffn(keys: Keys, hidden: int) -> int:
    return max(64, int(4 * hidden * 2 / 3 / 64) * 64) if keys.has("--swiglu") else 4 * hidden


def _schedule(keys: Keys, draft: Draft) -> None:
    """Virtual stages from the one option that sets them; what a second one says is left to its rule."""
    fields, facts = draft.fields, draft.facts
    stages = fields["pipeline_parallel"]
    per_virtual = keys.count("--num-layers-per-virtual-pipeline-stage", name="virtual_stage")
    count = keys.count("--num-virtual-stages-per-pipeline-rank", name="virtual_count")
    given = [name for name, value in (("virtual_stage", per_virtual), ("virtual_count", count)) if value is not None]
    layers = _split_layers(keys, draft)
    chunks: Any = 1
    if given:
        key = draft.keys[given[0]]
        value = per_virtual if given[0] == "virtual_stage" else count
        draft.keys["num_model_chunks"] = draft.keys["schedule"] = draft.keys["virtual_stage"] = key
        chunks = value
        if given[0] == "virtual_stage":
            known = value is not UNDECIDED and layers is not None and stages is not UNDECIDED
            chunks = max(1, layers // stages // value) if known and layers else UNDECIDED
        if value is not UNDECIDED:
            facts |= {"virtual_stage": value, "virtual_key": key}
    others = [draft.keys[name] for name in given[1:]] + ([_LAYOUT] if given and keys.has(_LAYOUT) else [])
    if others:
        facts["second_virtual"] = draft.keys["second_virtual"] = others[0]
        draft.keys["second_virtual"] = others[0]
    undecided = UNDECIDED in (stages, chunks)
    fields["num_model_chunks"] = UNDECIDED if undecided else chunks if stages > 1 else 1
    fields["schedule"] = UNDECIDED if undecided else "none" if stages == 1 else "interleaved" if chunks > 1 else "1f1b"
    facts |= {"overlap_p2p": not keys.has("--no-overlap-p2p-communication")}
    facts |= {} if undecided else {"virtual_size": chunks}


def _split_layers(keys: Keys, draft: Draft) -> int | None:
    """Layers that are divided evenly over the stages; nothing where the stages may differ."""
    layers = draft.facts.get("num_layers", draft.model.num_layers if draft.model else None)
    stages = draft.fields["pipeline_parallel"]
    if layers is None or keys.has(_LAYOUT):
        return None
    if keys.has(_FIRST, _LAST):
        _uneven(keys, draft, layers, stages)
        return None
    extra = [
        o for o in ("--account-for-embedding-in-pipeline-split", "--account-for-loss-in-pipeline-split") if keys.has(o)
    ]
    if extra:
        draft.unmodelled.append("gptplan's Megatron-LM stages have the same number of layers")
    draft.facts |= {"split_layers": layers + len(extra)} | ({"counted": " with embedding or loss"} if extra else {})
    return int(layers + len(extra))


def _uneven(keys: Keys, draft: Draft, layers: int, stages: Any) -> None:
    draft.unmodelled.append("gptplan's Megatron-LM stages have the same number of layers")
    given = {option: keys.count(option) for option in (_FIRST, _LAST) if keys.has(option)}
    if UNDECIDED in given.values() or stages is UNDECIDED:
        return
    option, value = next(iter(given.items()))
    draft.facts |= {
        "uneven": value,
        "uneven_key": option,
        "middle_layers": layers - sum(given.values()),
        "middle_stages": stages - len(given),
    }
    draft.keys["uneven"] = option


def _states(keys: Keys, draft: Draft) -> None:
    half, brain = keys.flag("--fp16", name="fp16"), keys.flag("--bf16", name="bf16")
    granularity = keys.choice("--recompute-granularity", choices=("full", "selective"), name="recompute_granularity")
    draft.keys["recompute_layers_per_stage"] = "--recompute-granularity"
    draft.fields |= {
        "precision": "bf16" if brain is True else "fp16" if half is True else "fp32",
        "zero_stage": 1 if keys.has("--use-distributed-optimizer") else 0,
        "recompute": keys.has("--checkpoint-activations") or granularity == "full",
    }
    draft.keys["zero_stage"] = "--use-distributed-optimizer"
    if granularity == "selective":
        draft.unmodelled.append("gptplan recomputes whole layers, not attention alone")
    draft.facts |= {
        "fp16": half is True,
        "bf16": brain is True,
        **({"recompute_granularity": granularity} if granularity not in (None, UNDECIDED) else {}),
    }


def _batch(keys: Keys, draft: Draft, asked: Asked) -> None:
    fields = draft.fields
    micro = keys.count("--micro-batch-size", default=1, name="micro_batch")
    total = keys.count("--global-batch-size", default=asked.global_batch, name="global_batch")
    mesh = [fields[name] for name in ("tensor_parallel", "pipeline_parallel", "context_parallel")]
    fields |= {"micro_batch": micro, "num_microbatches": UNDECIDED}
    draft.keys["num_microbatches"] = "--global-batch-size"
    if UNDECIDED in (micro, total, *mesh):
        return
    ranks = max(1, asked.gpus // (mesh[0] * mesh[1] * mesh[2]))
    if total is None:
        total = micro * ranks
        draft.assumptions.append(f"the file has no --global-batch-size: {total}, one micro batch a rank, is taken")
    fields["num_microbatches"] = max(1, total // (micro * ranks))
    draft.facts |= {
        "global_batch": total,
        "micro_batch": micro,
        "data_parallel": ranks,
        "num_microbatches": fields["num_microbatches"],
    }


def _facts(keys: Keys, draft: Draft, asked: Asked) -> None:
    fields = draft.fields
    found = {
        "num_devices": asked.gpus,
        "num_query_groups": keys.count("--num-query-groups", name="num_query_groups"),
        "expert_parallel": keys.count("--expert-model-parallel-size", name="expert_parallel"),
        "expert_tensor_parallel": keys.count(
            "--expert-tensor-parallel-size", default=fields["tensor_parallel"], name="expert_tensor_parallel"
        ),
        "num_experts": keys.count("--num-experts", name="num_experts"),
        "has_experts": keys.has("--num-experts"),
        "vp_group": keys.count(
            "--microbatch-group-size-per-virtual-pipeline-stage", default=fields["pipeline_parallel"]
        ),
        "sequence_parallel": keys.has("--sequence-parallel"),
        **{name: fields[name] for name in ("tensor_parallel", "pipeline_parallel", "context_parallel", "seq_len")},
    }
    draft.facts |= {name: value for name, value in found.items() if value is not None and value is not UNDECIDED}
    _options(keys, draft)
    nodes, processes = keys.settings.get("--nnodes"), keys.settings.get("--nproc-per-node")
    per_node = processes.content if processes else None
    count = nodes.content if nodes else 1
    if type(per_node) is int and type(count) is int and 0 < per_node * count < 10**7:
        draft.facts["launched"] = per_node * count
        draft.keys["launched"] = "--nproc-per-node"


def _options(keys: Keys, draft: Draft) -> None:
    """Which options are given, for the rules that one needs or excludes another."""
    given = frozenset(key for key, value in keys.settings.items() if value.content is not False)
    draft.facts |= {"options": given} | {key: True for key in given if key not in draft.facts}
    draft.keys |= {key: key for key in given}
    half = [option for option in ("--fp16-lm-cross-entropy", "--fp32-residual-connection") if option in given]
    selective = [option for option in ("--recompute-method", "--recompute-num-layers") if option in given]
    for name, options in (("half_option", half), ("selective_with", selective)):
        if options:
            draft.facts[name] = draft.keys[name] = options[0]
    obsolete = [option for option in OBSOLETE if option in given]
    draft.keys["options"] = obsolete[0] if obsolete else ""
    if re.search(r"\btorchrun\b|torch\.distributed", keys.source.text):
        found = keys.source.variables.get("CUDA_DEVICE_MAX_CONNECTIONS")
        draft.facts["max_connections"] = str(found.content) if found else ""
        draft.facts["own_sharding"] = bool(given & {"--use-torch-fsdp2", "--use-megatron-fsdp"})


def is_megatron(settings: Any) -> bool:
    """Whether some keys are options of Megatron-LM."""
    return any(re.fullmatch("--?" + mark.lstrip("-"), key) for key in dashed(settings) for mark in MARKS)
