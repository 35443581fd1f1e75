"""Rules that every framework of the tables has, as their degrees and batches mean the same."""

from planner.layouts.degrees import divisors
from planner.lint.config_rule import divides, multiples_around, rules_of
from planner.lint.dialects.tabled.frameworks import FACTS, NANOTRON, NEMO, NEOX, TABLED, TABLES
from planner.rules.rule import listed

_READ = "; ".join(table.source for table in TABLES)
_rule = rules_of(FACTS, *TABLED, source=_READ)

RULES = (
    _rule("PAR001", "degrees do not divide the GPUs", about=("mesh",))(
        message="{num_devices} GPUs do not divide by TP x PP x CP = {group}",
        detail="{tensor_parallel} * {pipeline_parallel} * {context_parallel} = {group}, "
        "{num_devices} % {group} = {rest}",
        hint="choose TP x PP x CP from {valid}",
        why="Data parallelism is what is left of the GPUs, and it has to be a whole number.",
        **divides("tensor_parallel", "pipeline_parallel", "context_parallel"),
    ),
    _rule("PAR002", "data parallelism that is not what is left of the GPUs")(
        message="data parallelism is {given_parallel}, and {data_parallel} ranks are left of {num_devices} GPUs",
        detail="{num_devices} / ({tensor_parallel} * {pipeline_parallel} * {context_parallel}) = {data_parallel}",
        hint="use {data_parallel}, or check with `--gpus {wanted}`",
        values=lambda given_parallel, tensor_parallel, pipeline_parallel, context_parallel: {
            "wanted": given_parallel * tensor_parallel * pipeline_parallel * context_parallel
        },
        why="The product of all degrees is the number of processes.",
        holds=lambda given_parallel, data_parallel, num_devices, tensor_parallel, pipeline_parallel, context_parallel: (
            given_parallel == data_parallel
            or num_devices % (tensor_parallel * pipeline_parallel * context_parallel) != 0
        ),
    ),
    _rule("PAR003", "the global batch is not micro batch x accumulation x DP")(
        message="the global batch is {global_batch}, and micro batch x accumulation x DP is {product}",
        detail="{micro_batch} * {accumulation} * {data_parallel} = {product}",
        hint="use a global batch of {product}",
        values=lambda micro_batch, accumulation, data_parallel: {"product": micro_batch * accumulation * data_parallel},
        repaired=lambda micro_batch, accumulation, data_parallel: micro_batch * accumulation * data_parallel,
        why="The framework asserts it before it builds anything.",
        holds=lambda global_batch, micro_batch, accumulation, data_parallel: (
            global_batch == micro_batch * accumulation * data_parallel
        ),
    ),
    _rule("PAR004", "the global batch does not divide by micro batch x DP")(
        message="the global batch {global_batch} does not divide by micro batch x DP = {group}",
        detail="{micro_batch} * {data_parallel} = {group}, {global_batch} % {group} = {rest}",
        hint="use a global batch of {near}",
        values=lambda micro_batch, data_parallel, global_batch: {
            "group": micro_batch * data_parallel,
            "rest": global_batch % (micro_batch * data_parallel),
            "near": multiples_around(global_batch, micro_batch * data_parallel),
        },
        why="Every data-parallel rank runs the same whole number of micro batches.",
        holds=lambda global_batch, micro_batch, data_parallel, accumulation=None: (
            accumulation is not None or global_batch % (micro_batch * data_parallel) == 0
        ),
    ),
    _rule("PAR005", "processes of the file are not the GPUs", severity="warning")(
        message="the file is for {gpus_told} processes, and {num_devices} GPUs are checked",
        detail="{gpus_told} != {num_devices}",
        hint="check with `--gpus {gpus_told}`",
        why="The check is for another number of GPUs than the file says.",
        holds=lambda gpus_told, num_devices: gpus_told == num_devices,
    ),
    rules_of(FACTS, NEMO, source=_READ)("PAR006", "layers do not divide by the pipeline", about=("degrees",))(
        message="{layers} layers do not divide by {pipeline_parallel} stages",
        detail="{layers} % {pipeline_parallel} = {rest}",
        hint="use {valid} stages",
        values=lambda layers, pipeline_parallel: {
            "rest": layers % pipeline_parallel,
            "valid": listed(divisors(layers)),
        },
        why="Every stage has the same number of layers.",
        holds=lambda pipeline_parallel, layers: layers % pipeline_parallel == 0,
    ),
    rules_of(FACTS, NEOX, NANOTRON, source=_READ)("PAR007", "ZeRO 2 or 3 with a pipeline")(
        message="ZeRO stage {zero_stage} does not go with {pipeline_parallel} stages",
        detail="stage = {zero_stage}",
        hint="use stage 1",
        why="Gradients accumulate over micro batches, so they cannot be scattered after each of them.",
        holds=lambda zero_stage, pipeline_parallel: pipeline_parallel == 1 or zero_stage <= 1,
    ),
)
