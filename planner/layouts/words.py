"""What people read of a layout: one declaration of names and words, from which tables, lists and lines are made."""

from collections.abc import Callable
from dataclasses import dataclass

from planner.layouts.layout import Layout

Words = Callable[[Layout], str]


def _nothing(_: Layout) -> str:
    return ""


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One thing to know of a layout."""

    name: str
    fields: tuple[str, ...]
    """The fields of :class:`Layout` that it words."""
    value: Words
    notes: Words = _nothing
    """What stands in parentheses behind the value."""
    short: Words
    """In a line about the layout; empty where there is nothing to say."""
    columns: tuple[tuple[str, Words], ...] = ()
    """Headings and cells in a list of layouts."""
    otherwise: Words = _nothing
    """What is in no column: said in a list of layouts where it is not as in the first."""

    def words(self, layout: Layout, *notes: str) -> str:
        """The value, with ``notes`` behind its own."""
        behind = ", ".join(filter(None, (self.notes(layout), *notes)))
        return f"{self.value(layout)} ({behind})" if behind else self.value(layout)

    def field(self, layout: Layout) -> tuple[str, str]:
        """Its name and its words."""
        return self.name, self.words(layout)


def _plain(field: str) -> Words:
    return lambda layout: str(getattr(layout, field))


def _degree(letters: str, field: str, notes: Words) -> Words:
    def short(layout: Layout) -> str:
        behind = notes(layout)
        return f"{letters} {getattr(layout, field)}" + (f" ({behind})" if behind else "")

    return short


def _tensor_notes(layout: Layout) -> str:
    depth = layout.tensor_depth
    return f"{layout.tensor_mode}, depth {depth}" if depth > 1 else layout.tensor_mode


def _schedule_notes(layout: Layout) -> str:
    chunks = layout.num_model_chunks
    return f"{layout.schedule}, {chunks} chunks a stage" if chunks > 1 else layout.schedule


def _batches(layout: Layout) -> str:
    return f"{layout.num_microbatches} of {layout.micro_batch}"


def _recomputed(layout: Layout, *, some: str = "{} of {} layers") -> str:
    recomputed, layers = sum(layout.recompute_layers_per_stage), sum(layout.layers_per_stage)
    return {0: "none", layers: "all"}.get(recomputed, some.format(recomputed, layers))


def _divides(layout: Layout) -> bool:
    return layout.sequence_parallel_degree > 1


def _sequence_ranks(layout: Layout) -> str:
    return f"{layout.sequence_parallel_degree} ranks of its own" if _divides(layout) else ""


def _sp(layout: Layout) -> str:
    return f"SP {layout.sequence_parallel_degree} (own ranks)" if _divides(layout) else ""


def _experts(layout: Layout) -> str:
    return f"EP {layout.expert_parallel}" if layout.expert_parallel > 1 else ""


def _offloaded(layout: Layout) -> str:
    return "" if layout.offload.tier == "none" else layout.offload.words


TENSOR = Fact(
    name="tensor parallel",
    fields=("tensor_parallel", "tensor_mode", "tensor_depth"),
    value=_plain("tensor_parallel"),
    notes=_tensor_notes,
    short=_degree("TP", "tensor_parallel", lambda x: _tensor_notes(x) if x.tensor_parallel > 1 else ""),
    columns=(("mode", _plain("tensor_mode")), ("TP", _plain("tensor_parallel"))),
    otherwise=lambda layout: f"depth {layout.tensor_depth}",
)
PIPELINE = Fact(
    name="pipeline parallel",
    fields=("pipeline_parallel", "schedule", "num_model_chunks"),
    value=_plain("pipeline_parallel"),
    notes=_schedule_notes,
    short=_degree("PP", "pipeline_parallel", lambda x: _schedule_notes(x) if x.num_model_chunks > 1 else ""),
    columns=(("PP", _plain("pipeline_parallel")),),
    otherwise=lambda layout: f"schedule {_schedule_notes(layout)}",
)
DATA = Fact(
    name="data parallel",
    fields=("data_parallel", "expert_parallel"),
    value=_plain("data_parallel"),
    notes=_experts,
    short=_degree("DP", "data_parallel", _experts),
    columns=(("DP", _plain("data_parallel")),),
    otherwise=lambda layout: _experts(layout) or "EP 1",
)
ZERO = Fact(
    name="ZeRO stage",
    fields=("zero_stage",),
    value=_plain("zero_stage"),
    short=_degree("ZeRO", "zero_stage", _nothing),
    columns=(("ZeRO", _plain("zero_stage")),),
)
SEQUENCE = Fact(
    name="sequence parallel",
    fields=("sequence_parallel", "sequence_parallel_degree"),
    value=lambda layout: _sequence_ranks(layout) or ("yes" if layout.sequence_parallel else "no"),
    notes=lambda layout: "and in the TP group" if _sequence_ranks(layout) and layout.sequence_parallel else "",
    short=lambda layout: ", ".join(filter(None, ("sequence parallel" * layout.sequence_parallel, _sp(layout)))),
    otherwise=lambda layout: ", ".join(
        filter(None, (f"{'with' if layout.sequence_parallel else 'without'} sequence parallelism", _sp(layout)))
    ),
)
BATCHES = Fact(
    name="micro batches",
    fields=("num_microbatches", "micro_batch"),
    value=_batches,
    short=lambda x: f"{x.num_microbatches} micro batch{'es' * (x.num_microbatches > 1)} of {x.micro_batch}",
    columns=(("micro batches", _batches),),
)
RECOMPUTE = Fact(
    name="recompute",
    fields=("recompute_layers_per_stage", "layers_per_stage", "recompute_pointwise"),
    value=lambda layout: f"{sum(layout.recompute_layers_per_stage)} of {sum(layout.layers_per_stage)} layers",
    notes=lambda layout: "but norms and activations of all" * layout.recompute_pointwise,
    short=lambda layout: f"recompute {_recomputed(layout)}{' and pointwise' * layout.recompute_pointwise}",
    columns=(("recompute", lambda layout: _recomputed(layout, some="{}") + " +" * layout.recompute_pointwise),),
    otherwise=lambda layout: f"{sum(layout.layers_per_stage)} layers",
)
OFFLOAD = Fact(
    name="offload",
    fields=("offload",),
    value=lambda layout: layout.offload.words,
    short=_offloaded,
    otherwise=lambda layout: _offloaded(layout) or "no offload",
)
PRECISION = Fact(
    name="precision",
    fields=("precision",),
    value=_plain("precision"),
    # The question says it: layouts that answer one question have it alike.
    short=_nothing,
    otherwise=_plain("precision"),
)
FACTS = (TENSOR, PIPELINE, DATA, ZERO, SEQUENCE, BATCHES, RECOMPUTE, OFFLOAD, PRECISION)
"""Every field of a layout is in one of these, in the order of a table of one layout."""


def in_one_line(layout: Layout) -> str:
    """``TP 8 (1d) x PP 12 x DP 1, ZeRO 0, 1536 micro batches of 1, recompute all``, and what else makes it.

    The precision is not said, which belongs to the question.
    """
    degrees = " x ".join(fact.short(layout) for fact in (TENSOR, PIPELINE, DATA))
    others = (fact.short(layout) for fact in (ZERO, BATCHES, RECOMPUTE, SEQUENCE, OFFLOAD))
    return ", ".join([degrees, *filter(None, others)])


def differences(first: Layout, other: Layout) -> list[str]:
    """What ``other`` has otherwise that is in no column of a list of layouts."""
    return [fact.otherwise(other) for fact in FACTS if fact.otherwise(other) != fact.otherwise(first)]
