"""Rows of the first Colossal-AI GPT examples: what a driver tool showed for each GPU."""

from functools import partial
from typing import cast, get_args

from planner.layouts.degrees import grid_batch_parts, grid_edge
from planner.layouts.layout import SHARDS_WEIGHTS, Layout, Offload
from planner.specs import OffloadTier, Precision, StackSpec, TensorMode
from planner.specs.files import load_spec
from planner.specs.units import MIB
from planner.validation import cases
from planner.validation.cases import OUTCOMES, Assumptions, Case, Measured, SkippedRow
from planner.validation.facts import LEGACY_EXAMPLES, KnownFacts, builtin_facts, filled_value
from planner.validation.machines import hardware_of
from planner.validation.tables import Row


def case_of(row: Row, known: KnownFacts | None = None) -> Case:
    """Replayable form of one row, whose blanks are filled by ``known``, the built-in facts unless told.

    Raises:
        SkippedRow: it cannot be replayed, with the reason.
        PlanError: a cell is no number or no known word.
    """
    known, assumed = known or builtin_facts(), Assumptions()
    facts = known.of_row(row, LEGACY_EXAMPLES)
    hardware = hardware_of(row, facts.card_gb, assumed, known, facts.network)
    precision = cases.precision_of(row.text("precision")) or "fp16"
    layout = _layout(row, precision=precision, assumed=assumed)
    fill = partial(filled_value, row, facts, assumed)
    model = cases.model_of(
        _with_batch(row, layout.global_batch),
        vocab=row.needed_count("vocab"),
        num_heads=row.needed_count("heads"),
        dropout=fill("dropout", None, facts.dropout),
        precision=precision,
    )
    stack = load_spec(fill("stack", None, facts.stack), StackSpec)
    problem = cases.problem_of(row, model=model, hardware=hardware, stack=stack, layout=layout)
    per_rank = row.wholes("measured_mib_per_gpu")
    measured = Measured(
        step_s=None,
        memory_bytes={"device": max(per_rank) * float(MIB)} if per_rank else {},
        outcome=row.choice("outcome", OUTCOMES) or "fit",
    )
    return Case(problem=problem, layout=layout, measured=measured, assumptions=tuple(assumed.stated))


def _with_batch(row: Row, global_batch: int) -> Row:
    return Row({**row.cells, "global_batch": str(global_batch)}, row.path, row.line)


def _layout(row: Row, *, precision: Precision, assumed: Assumptions) -> Layout:
    stages, data = row.needed_count("pipeline_parallel"), row.needed_count("data_parallel")
    batch, parts = row.needed_count("batch_size"), row.count("num_microbatches") or 1
    if stages == 1:
        assumed.note("without a pipeline the batch of a table row is that of one data-parallel rank")
    else:
        assumed.note("with a pipeline the batch of a table row is divided into its micro batches")
    if batch % parts:
        raise SkippedRow("the batch does not divide into its micro batches")
    mode = row.choice("tensor_mode", get_args(TensorMode)) or "none"
    tensor, depth = row.needed_count("tensor_parallel"), row.count("tensor_depth") or 1
    least = grid_batch_parts(mode, grid_edge(mode, tensor, depth), depth)
    if batch // parts % least:
        assumed.note(f"{mode}: the printed batch does not divide over the grid, the next one that does is taken")
        batch = parts * least * -(-(batch // parts) // least)
    layers = cases.stage_layers(row.needed_count("layers"), stages, middle=True, assumed=assumed)
    recomputes = row.choice("recompute", ("full", "none")) == "full"
    tier = row.choice("offload_tier", get_args(OffloadTier)) or "none"
    zero_stage = row.whole("zero_stage") or 0
    return Layout(
        tensor_mode=cast(TensorMode, mode),
        tensor_parallel=tensor,
        tensor_depth=depth,
        pipeline_parallel=stages,
        data_parallel=data,
        zero_stage=zero_stage,
        micro_batch=batch // parts,
        num_microbatches=parts,
        schedule="1f1b" if stages > 1 else "none",
        layers_per_stage=layers,
        recompute_layers_per_stage=layers if recomputes else (0,) * stages,
        offload=_offload(tier, zero_stage),
        precision=precision,
    )


def _offload(tier: str, zero_stage: int) -> Offload:
    if tier == "none":
        return Offload()
    parameters = float(zero_stage == SHARDS_WEIGHTS)
    return Offload(optimizer=1.0, parameters=parameters, tier=cast(OffloadTier, tier))
