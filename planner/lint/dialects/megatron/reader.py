"""Megatron-LM's arguments: a shell script, one command line, or the same names in a data file."""

import re
from dataclasses import replace
from typing import Any

from planner.lint.dialects.megatron.experts import read_experts
from planner.lint.dialects.megatron.keys import (
    DIALECT,
    ELSEWHERE,
    FROM_CHECKPOINT,
    JUDGED_OPTIONS,
    LAUNCHER,
    LEAST_MISSPELT,
    LIKE_OTHERS,
    MARKS,
    OBSOLETE,
    OWN,
    PARTS,
    REQUIRED,
    TRAINS,
    UNMODELLED,
)
from planner.lint.dialects.megatron.model import read_model, read_unmodelled
from planner.lint.dialects.megatron.names import dashed
from planner.lint.dialects.megatron.states import DEEPSPEED, read_states
from planner.lint.draft import UNDECIDED, Asked, Draft
from planner.lint.reading import Keys, Reading, Unknowns, refuse_unknown
from planner.lint.source import Source, Unknown, Value

_FIRST, _LAST = "--decoder-first-pipeline-num-layers", "--decoder-last-pipeline-num-layers"
_COUNTED = ("--account-for-embedding-in-pipeline-split", "--account-for-loss-in-pipeline-split")
_LAYOUT = "--pipeline-model-parallel-layout"
_PER_STAGE, _PER_RANK = "--num-layers-per-virtual-pipeline-stage", "--num-virtual-stages-per-pipeline-rank"
_EVEN = "gptplan's Megatron-LM stages have the same number of layers"


_KNOWN = {
    *(fact.key or name for name, fact in DIALECT.facts.items()),
    *(*MARKS, *OWN, *DIALECT.words.values(), *OBSOLETE, *UNMODELLED, *PARTS, *LIKE_OTHERS, *REQUIRED),
}


def _misspelt(source: Source, reading: Reading) -> None:
    """Options of a command that are nearly called like one that is judged; argparse takes what begins one."""
    if source.language != "shell":
        _misspelt_data(reading)
        return
    known = {option for option in _KNOWN if option.startswith("--") and len(option) >= LEAST_MISSPELT}
    # A script with options of the first versions may misspell another of them.
    today = known if OBSOLETE.keys() & source.settings.keys() else known - {*OBSOLETE}
    settings = dict(reading.settings)
    others: dict[str, Value] = {}
    for key, value in source.settings.items():
        begun = [option for option in known if option.startswith(key)]
        if len(begun) == 1 and len(key) >= LEAST_MISSPELT:
            settings.setdefault(begun[0], value)
        elif len(key) >= LEAST_MISSPELT and key not in LAUNCHER:
            others[key] = value
    reading.settings = settings
    # The command line takes dashes alone, where a data file takes either.
    underscored = {key: others.pop(key) for key in [*others] if "_" in key and key.replace("_", "-") in known}
    refuse_unknown(Keys(reading, underscored), "", known, Unknowns("Megatron-LM has no option {name}", 0.8))
    others = {key: value for key, value in others.items() if key not in OBSOLETE}
    refuse_unknown(Keys(reading, others), "", today, Unknowns("Megatron-LM has no option {name}", 0.9, far=False))


def _misspelt_data(reading: Reading) -> None:
    """Keys of a data file that are nearly called like an option that marks such a file and that it lacks."""
    lacking = {*MARKS, "--global-batch-size", "--sequence-parallel", "--hidden-size"}
    lacking -= reading.settings.keys()
    plain = {key: value for key, value in reading.settings.items() if isinstance(value.content, int)}
    unread = Unknowns("Megatron-LM has no option {name}", 0.9, far=False)
    refuse_unknown(Keys(reading, plain), "", lacking, unread)


def _from_checkpoint(reading: Reading) -> None:
    """Leave open what is -1: all sizes of a command, or a degree of a data file, which a checkpoint brings."""
    settings, shell = reading.settings, reading.source.language == "shell"
    less = {key: value for key, value in settings.items() if value.content == -1}
    keys = FROM_CHECKPOINT if {*FROM_CHECKPOINT[:3]} <= less.keys() else () if shell else (*MARKS[:2], *FROM_CHECKPOINT)
    hidden = {
        key: replace(value, content=Unknown(why="a checkpoint brings it", line=value.line, column=value.column))
        for key, value in less.items()
        if key in keys
    }
    reading.settings = {**settings, **hidden}


def read_megatron(source: Source, asked: Asked) -> Draft:
    """The layout of the arguments, and the facts of Megatron's own checks."""
    reading = Reading(DIALECT, source, asked)
    reading.settings = dashed(source.settings)
    _misspelt(source, reading)
    _from_checkpoint(reading)
    keys = Keys(reading)
    _mesh(keys, reading)
    layers = read_model(keys, reading)
    read_experts(keys, reading)
    read_unmodelled(keys, reading)
    _schedule(keys, reading, layers)
    read_states(keys, reading)
    _sequences(reading)
    _batch(keys, reading)
    _facts(keys, reading)
    _options(keys, reading)
    _launcher(keys, reading)
    return reading.draft()


def _mesh(keys: Keys, reading: Reading) -> None:
    degree = keys.count("--tensor-model-parallel-size", "--model-parallel-size", default=1, name="tensor_parallel")
    stages, context = keys.read("pipeline_parallel", "context_parallel")
    if keys.on("--ds-sequence-parallel-size"):
        context = keys.count("--ds-sequence-parallel-size", name="context_parallel", least=1)
        reading.tell(ds_sequence_parallel=True)
    if keys.on("--no-pipeline-parallel"):
        stages = 1
    reading.tell(pipeline_parallel=stages, context_parallel=context)
    reading.mesh(degree, stages, context)
    # Without tensor parallelism the arguments switch it off.
    divided = keys.flag("--sequence-parallel", name="sequence_parallel") is True and degree != 1
    reading.fields["sequence_parallel"] = divided


def _sequences(reading: Reading) -> None:
    """Ranks of a sequence, of which there is a formula where Megatron-LM itself passes keys and values around."""
    context = reading.fields["context_parallel"]
    if context != 1 and (
        context is UNDECIDED or reading.dialect.stack != DIALECT.stack or "ds_sequence_parallel" in reading.facts
    ):
        reading.no_formula("gptplan has a formula for context parallelism of Megatron-LM alone")
    elif context != 1:
        reading.divide_sequences()


def _schedule(keys: Keys, reading: Reading, layers: int | None) -> None:
    """Virtual stages from the one option that sets them; what a second one says is left to its rule."""
    stages = reading.fields["pipeline_parallel"]
    values = {option: keys.count(option) for option in (_PER_STAGE, _PER_RANK)}
    given = [option for option, value in values.items() if value is not None]
    split = _split_layers(keys, reading, layers)
    chunks: Any = 1
    if given:
        option = given[0]
        chunks = value = values[option]
        reading.keys |= dict.fromkeys(("num_model_chunks", "schedule", "virtual_stage"), option)
        if option == _PER_STAGE:
            known = value is not UNDECIDED and split is not None and stages is not UNDECIDED
            chunks = max(1, split // stages // value) if known and split else UNDECIDED
        reading.tell(virtual_stage=value, virtual_key=None if value is UNDECIDED else option)
    others = given[1:] + ([_LAYOUT] if given and keys.on(_LAYOUT) else [])
    if others:
        reading.tell(second_virtual=others[0])
        reading.keys["second_virtual"] = others[0]
    reading.schedule(stages, chunks)
    known = UNDECIDED not in (stages, chunks)
    reading.tell(overlap_p2p=not keys.on("--no-overlap-p2p-communication"), virtual_size=chunks if known else None)


def _split_layers(keys: Keys, reading: Reading, layers: int | None) -> int | None:
    """Layers that are divided evenly over the stages; nothing where the stages may differ."""
    if layers is None or keys.on(_LAYOUT):
        return None
    stages = reading.fields["pipeline_parallel"]
    uneven = stages is not UNDECIDED and layers % stages != 0 and keys.on(*DEEPSPEED)
    if keys.on("--pp-partition-method") or uneven:
        # DeepSpeed divides by what a regular expression finds, layers by default, or by parameters, evenly or not.
        reading.no_formula(_EVEN)
        return None
    if keys.on(_FIRST, _LAST):
        _uneven(keys, reading, layers)
        return None
    ends = [int(keys.on(option)) for option in _COUNTED]
    extra = sum(ends)
    if extra:
        _count_ends(reading, layers, ends)
    reading.tell(split_layers=layers + extra, counted=" with embedding or loss" if extra else None)
    return layers + extra


def _count_ends(reading: Reading, layers: int, ends: list[int]) -> None:
    """Stages of which the first and the last hold a layer fewer, where embedding and loss count as one each."""
    stages = reading.fields["pipeline_parallel"]
    if stages in (1, UNDECIDED) or (layers + sum(ends)) % stages:
        return
    share = (layers + sum(ends)) // stages
    if share - max(ends) < 1:
        reading.no_formula("gptplan has no stages without a layer")
        return
    middle = (share,) * (stages - 2)
    reading.fields["layers_per_stage"] = (share - ends[0], *middle, share - ends[1])


def _uneven(keys: Keys, reading: Reading, layers: int) -> None:
    reading.no_formula(_EVEN)
    stages = reading.fields["pipeline_parallel"]
    given = {option: keys.count(option) for option in (_FIRST, _LAST) if keys.on(option)}
    if UNDECIDED in given.values() or stages is UNDECIDED:
        return
    option, value = next(iter(given.items()))
    left = {"middle_layers": layers - sum(given.values()), "middle_stages": stages - len(given)}
    reading.tell(uneven=value, uneven_key=option, **left)
    reading.keys["uneven"] = option


def _batch(keys: Keys, reading: Reading) -> None:
    fields, asked = reading.fields, reading.asked
    micro = keys.count("--micro-batch-size", default=1, name="micro_batch")
    total = keys.count("--global-batch-size", default=asked.global_batch, name="global_batch")
    fields |= {"micro_batch": micro, "num_microbatches": UNDECIDED}
    reading.keys["num_microbatches"] = "--global-batch-size"
    if UNDECIDED in (micro, total) or (total is None and keys.has("--step-batch-size-schedule")):
        return
    ranks = reading.ranks()
    if ranks is None:
        reading.tell(global_batch=total, micro_batch=micro)
        return
    if total is None:
        total = micro * ranks
        reading.assumptions.append(f"the file has no --global-batch-size: {total}, one micro batch a rank, is taken")
    fields["num_microbatches"] = count = max(1, total // (micro * ranks))
    reading.tell(global_batch=total, micro_batch=micro, data_parallel=ranks, num_microbatches=count)


def _facts(keys: Keys, reading: Reading) -> None:
    fields = reading.fields
    degree, stages = fields["tensor_parallel"], fields["pipeline_parallel"]
    keys.read("expert_parallel", "ds_expert_parallel", "num_experts")
    if keys.on("--group-query-attention"):
        # Without it the number of groups is not passed on.
        keys.read("num_query_groups")
    reading.tell(
        num_devices=reading.asked.gpus,
        expert_tensor_parallel=keys.count(
            "--expert-tensor-parallel-size", default=degree, name="expert_tensor_parallel"
        ),
        # A command without sizes, or with a model by another name, has its experts from there.
        has_experts=keys.given("--num-experts", "--num-moe-experts")
        or (None if keys.has(*ELSEWHERE) or not _is_command(keys) else False),
        vp_group=keys.count("--microbatch-group-size-per-virtual-pipeline-stage", default=stages),
        sequence_parallel=keys.on("--sequence-parallel"),
        tensor_parallel=degree,
        seq_len=fields["seq_len"],
    )


def _is_command(keys: Keys) -> bool:
    """Whether the options are a command's, in a script or written out, with the sizes of a model."""
    return keys.given("--num-layers") and any(key.endswith("--num-layers") for key in keys.source.settings)


def _options(keys: Keys, reading: Reading) -> None:
    """Which options are given, for the rules that one needs or excludes another."""
    given = frozenset(key for key, value in keys.settings.items() if value.content not in (False, None))
    reading.tell(options=given, **{option: True for option in JUDGED_OPTIONS if option in given})
    reading.keys |= {key: key for key in given}
    for name, options in (
        ("half_option", ("--fp16-lm-cross-entropy", "--fp32-residual-connection")),
        ("selective_with", ("--recompute-method", "--recompute-num-layers")),
    ):
        first = next((option for option in options if option in given), None)
        if first is not None:
            reading.tell(**{name: first})
            reading.keys[name] = first
    missing = [option for option, others in REQUIRED.items() if not given & {option, *others}]
    whole = keys.source.language == "shell" and {"--hidden-size", "--num-attention-heads"} <= given
    if whole and missing and given & {*TRAINS}:
        reading.tell(missing_option=missing[0])
    reading.keys["options"] = next((option for option in OBSOLETE if option in given), "")


def _launcher(keys: Keys, reading: Reading) -> None:
    """What the script says to torchrun."""
    if re.search(r"\btorchrun\b|torch\.distributed", keys.source.text):
        found = keys.source.variables.get("CUDA_DEVICE_MAX_CONNECTIONS")
        found = found or keys.settings.get("--CUDA-DEVICE-MAX-CONNECTIONS")
        sharded = bool(reading.facts["options"] & {"--use-torch-fsdp2", "--use-megatron-fsdp"})
        reading.tell(max_connections=str(found.content) if found else "", own_sharding=sharded)
    nodes, processes = keys.settings.get("--nnodes"), keys.settings.get("--nproc-per-node")
    per_node = processes.content if processes else None
    count = nodes.content if nodes else 1
    if type(per_node) is int and type(count) is int and 0 < per_node * count < 10**7:
        reading.tell(launched=per_node * count)
        reading.keys["launched"] = "--nproc-per-node"
