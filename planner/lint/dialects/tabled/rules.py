"""Rules that every framework of the tables has, as their degrees and batches mean the same."""

from planner.layouts.degrees import divisors
from planner.lint.config_rule import divides, multiples_around, rules_of
from planner.lint.dialects.tabled.frameworks import FACTS, NANOTRON, NEMO, NEOX, TABLED, TABLES, TORCHTITAN
from planner.rules.rule import listed

_READ = "; ".join(table.source for table in TABLES)
_NEOX = next(table.source for table in TABLES if table.dialect.name == NEOX)
_rule = rules_of(FACTS, *TABLED, source=_READ)
_TITAN = "torchtitan (b5bcd76c): torchtitan/distributed/pipeline_parallel.py"
_staged = rules_of(FACTS, TORCHTITAN, source=_TITAN)
_sized = rules_of(FACTS, NEOX, NANOTRON, NEMO, source=_READ)

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
    rules_of(FACTS, NEOX, source=_NEOX)("PAR007", "ZeRO 2 or 3 with a pipeline")(
        message="ZeRO stage {zero_stage} does not go with {pipeline_parallel} stages",
        detail="stage = {zero_stage}",
        hint="use stage 1, or pipe_parallel_size 0, which builds no pipeline",
        repaired=lambda: 1,
        why="Gradients accumulate over micro batches, so they cannot be scattered after each of them. For DeepSpeed's "
        "engine one stage is a pipeline as well.",
        source="DeepSpeed 0.16.5 at 38327e0 (February 2025): deepspeed/runtime/pipe/engine.py, PipelineEngine; "
        f"{_NEOX}, is_pipe_parallel",
        holds=lambda zero_stage, pipeline_parallel, staged: not staged or zero_stage <= 1,
    ),
    _sized("PAR008", "hidden size does not divide by the heads")(
        fact="num_heads",
        message="hidden size {hidden_size} does not divide by {num_heads} attention heads",
        detail="{hidden_size} % {num_heads} = {rest}",
        hint="use a divisor of {hidden_size}",
        values=lambda hidden_size, num_heads: {"rest": hidden_size % num_heads},
        why="Every head has the same width.",
        holds=lambda hidden_size, num_heads: hidden_size % num_heads == 0,
    ),
    _sized("PAR009", "heads do not divide by tensor parallelism")(
        fact="tensor_parallel",
        message="{num_heads} attention heads do not divide by tensor parallelism {tensor_parallel}",
        detail="{num_heads} % {tensor_parallel} = {rest}",
        hint="use one of {valid}",
        values=lambda num_heads, tensor_parallel: {
            "rest": num_heads % tensor_parallel,
            "valid": listed(divisors(num_heads)),
        },
        why="Each rank computes whole heads.",
        holds=lambda num_heads, tensor_parallel: num_heads % tensor_parallel == 0,
    ),
    rules_of(FACTS, NEOX, NANOTRON, source=_READ)("PAR010", "heads of keys and values do not divide")(
        message="{kv_heads} heads of keys and values do not divide {num_heads} heads, or {tensor_parallel} ranks them",
        detail="{num_heads} % {kv_heads} and {kv_heads} % {tensor_parallel} have to be 0",
        hint="use a multiple of {tensor_parallel} that divides {num_heads}",
        why="Each group of queries shares a head of keys and values, and each rank has whole groups.",
        holds=lambda kv_heads, num_heads, tensor_parallel: (
            num_heads % kv_heads == 0 and kv_heads % tensor_parallel == 0
        ),
    ),
    _sized("PAR011", "a key without a default")(
        message="{missing_key} is not given, and it has no default",
        detail="{missing_key} is missing",
        hint="add {missing_key}",
        why="The framework stops where it builds its configuration.",
        holds=lambda missing_key: False,
    ),
    rules_of(FACTS, NEOX, source=_NEOX)("PAR012", "two precisions")(
        message="precision is {precision}, and a switch of DeepSpeed says {other_precision}",
        detail="{precision} != {other_precision}",
        hint="keep one of them",
        why="GPT-NeoX asserts that they agree.",
        holds=lambda precision, other_precision: precision == other_precision,
    ),
    rules_of(FACTS, NEOX, source=_NEOX)("PAR013", "fewer positions than tokens")(
        message="the model has {max_seq_len} positions, and a sequence has {seq_len} tokens",
        detail="{max_seq_len} < {seq_len}",
        hint="use {seq_len} positions",
        repaired=lambda seq_len: seq_len,
        why="Every token needs a position.",
        holds=lambda max_seq_len, seq_len: max_seq_len >= seq_len,
    ),
    rules_of(FACTS, TORCHTITAN, source=_READ)("PAR014", "a local batch is not a whole number of micro batches")(
        message="the local batch {local_batch} does not divide by {batch_unit} for the pipeline",
        detail="{local_batch} % {batch_unit} = {rest}",
        hint="use a local batch of {near}",
        values=lambda local_batch, batch_unit: {
            "rest": local_batch % batch_unit,
            "near": multiples_around(local_batch, batch_unit),
        },
        why="Every turn of the pipeline has the same number of sequences.",
        source="torchtitan: torchtitan/distributed/pipeline_parallel.py, build_pipeline_schedule",
        holds=lambda local_batch, batch_unit: local_batch % batch_unit == 0,
    ),
    _staged("PAR015", "chunks of layers do not divide over the pipeline")(
        fact="chunk_layers",
        message="{chunk_layers} layers a chunk make {virtual_stages} chunks, which {pipeline_parallel} stages cannot "
        "share under their schedule",
        detail="{virtual_stages} / {pipeline_parallel} has to be {wanted}",
        hint="use a number of layers with which it is, or leave it out",
        values=lambda one_chunk: {"wanted": "1" if one_chunk else "a whole number from 2"},
        why="Every stage has the same number of chunks: one under 1F1B, two or more under a schedule that takes turns.",
        source=f"{_TITAN}, _get_pipeline_metadata",
        holds=lambda chunk_layers, virtual_stages, pipeline_parallel, one_chunk: (
            virtual_stages == pipeline_parallel
            if one_chunk
            else virtual_stages % pipeline_parallel == 0 and virtual_stages > pipeline_parallel
        ),
    ),
    _staged("PAR016", "an end of the pipeline counts as more layers than it has")(
        fact="less_layers",
        message="an end of the pipeline counts as {less_layers} layers, and a chunk has {layers_each}",
        detail="{less_layers} > {layers_each}",
        hint="use at most {layers_each} for pipeline_parallel_first_stage_less_layers and "
        "pipeline_parallel_last_stage_less_layers, or fewer stages",
        why="The first chunk holds the embedding and the last one the head, and what is left of their layers.",
        source=f"{_TITAN}, _generate_llm_fqn_per_model_part",
        holds=lambda less_layers, layers_each: 0 < layers_each >= less_layers,
    ),
)
