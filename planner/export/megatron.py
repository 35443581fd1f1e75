"""A script that starts Megatron-LM with the arguments of a plan."""

from collections.abc import Iterator
from pathlib import Path

from planner.export.arguments import Argument, Dialect, check_stack, refused, script_values
from planner.export.experts import expert_arguments, latent_arguments
from planner.export.options import ExportOptions
from planner.export.rendering import filled
from planner.jobs.reading import read_job
from planner.layouts.division import ends_taken
from planner.layouts.layout import Layout
from planner.plans.plan import Plan

STACKS = ("megatron",)
ENDS = ("--account-for-embedding-in-pipeline-split", "--account-for-loss-in-pipeline-split")
_DIALECT = Dialect(
    rms_norm="RMSNorm",
    epsilon="--norm-epsilon",
    query_groups=("--group-query-attention", "--num-query-groups"),
    rotary=("--position-embedding-type", "rope"),
    rotary_base="--rotary-base",
    tokens_beside_vocabulary=0,
    has_wsd=True,
)


def megatron(plan: Plan, path: Path, options: ExportOptions) -> str:
    """The script of a plan in ``path``.

    Raises:
        PlanError: the plan is for another stack, or Megatron-LM has no arguments for it.
    """
    check_stack(plan, STACKS, "Megatron-LM", "megatron")
    values = script_values(plan, path, read_job(options.job, options.settings), _DIALECT)
    latent = plan.problem.model.attention.latent
    if latent is not None:
        values["model"] += latent_arguments(plan.problem.model, latent)
    values["model"] += expert_arguments(plan)
    return filled("megatron.sh.j2", **values, layout=list(_layout_arguments(plan)))


def _layout_arguments(plan: Plan) -> Iterator[Argument]:
    layout = plan.layout
    reduces = layout.data_parallel * layout.sequence_parallel_degree > 1
    yield "--tensor-model-parallel-size", str(layout.tensor_parallel)
    yield "--pipeline-model-parallel-size", str(layout.pipeline_parallel)
    if layout.sequence_parallel_degree > 1:
        yield "--context-parallel-size", str(layout.sequence_parallel_degree)
    if layout.num_model_chunks > 1:
        yield "--num-virtual-stages-per-pipeline-rank", str(layout.num_model_chunks)
    yield from ((option,) for option, is_taken in zip(ENDS, ends_taken(layout), strict=True) if is_taken)
    if layout.sequence_parallel:
        yield ("--sequence-parallel",)
    if layout.zero_stage:
        yield ("--use-distributed-optimizer",)
        if reduces:
            yield ("--overlap-grad-reduce",)
            yield ("--overlap-param-gather",)
    elif reduces:
        yield ("--overlap-grad-reduce",)
    if layout.precision == "fp16":
        yield ("--accumulate-allreduce-grads-in-fp32",)
    yield from _recompute(layout)


def _recompute(layout: Layout) -> Iterator[Argument]:
    """As many recomputed layers of every virtual stage."""
    recomputed, chunks = layout.recompute_layers_per_stage, layout.num_model_chunks
    if not any(recomputed):
        return
    yield "--recompute-granularity", "full"
    if recomputed == layout.layers_per_stage:
        yield "--recompute-method", "uniform"
        yield "--recompute-num-layers", "1"
        return
    if len(set(recomputed)) > 1 or recomputed[0] % chunks:
        raise refused(
            "the stages of the plan recompute different numbers of layers",
            f"Megatron-LM takes one number for every{' virtual' * (chunks > 1)} stage, and the plan has "
            f"{list(recomputed)}",
            "solve again with `--pin recompute_layers_per_stage=all`, or `=none`",
        )
    yield "--recompute-method", "block"
    yield "--recompute-num-layers", str(recomputed[0] // chunks)
