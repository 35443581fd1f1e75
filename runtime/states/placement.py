"""Where a rank stands and which layers it holds."""

from dataclasses import dataclass

from planner.layouts.layout import Layout
from planner.layouts.zero_bubble import CHUNKS, slot_of, stage_of


@dataclass(frozen=True)
class Position:
    """Where a rank stands; data-parallel outermost, ranks that divide sequences by all-to-all next to each other.

    Of the ranks of data parallelism those that divide experts are inside of a pipeline stage.
    """

    data: int
    stage: int
    tensor: int
    sequence: int = 0
    expert: int = 0
    """Which share of the experts it has."""

    @classmethod
    def of(cls, rank: int, layout: Layout) -> "Position":
        """The position of ``rank`` in ``layout``."""
        rank, sequence = divmod(rank, layout.sequence_parallel_degree)
        rank, tensor = divmod(rank, layout.tensor_parallel)
        rank, expert = divmod(rank, layout.expert_parallel)
        copies, stage = divmod(rank, layout.pipeline_parallel)
        return cls(copies * layout.expert_parallel + expert, stage, tensor, sequence, expert)


def holds_loss(layout: Layout, stage: int) -> bool:
    """Whether a pipeline stage has the loss: the last one, or the first of a V."""
    slots = layout.pipeline_parallel
    return stage == (stage_of(CHUNKS * slots - 1, slots) if layout.schedule == "zbv" else slots - 1)


def held_layers(layout: Layout, stage: int) -> tuple[int, ...]:
    """The layers of pipeline stage ``stage``, rising: one run of them, or one for each of its model chunks.

    Chunk ``c`` of stage ``s`` is run number ``c * pipeline_parallel + s`` of equally many layers; under a V it is that
    of a slot.
    """
    own = layout.layers_per_stage[stage]
    if layout.num_model_chunks == 1:
        start = sum(layout.layers_per_stage[:stage])
        return tuple(range(start, start + own))
    size = own // layout.num_model_chunks
    runs = [_run(layout, stage, chunk) for chunk in range(layout.num_model_chunks)]
    return tuple(layer for run in runs for layer in range(run * size, (run + 1) * size))


def _run(layout: Layout, stage: int, chunk: int) -> int:
    if layout.schedule == "zbv":
        return slot_of(stage, chunk, layout.pipeline_parallel)
    return chunk * layout.pipeline_parallel + stage


def held_experts(layout: Layout, count: int, share: int) -> range:
    """Of ``count`` experts of every layer those of a rank with this ``share`` of them."""
    own = count // layout.expert_parallel
    return range(share * own, (share + 1) * own)


def recomputed_layers(layout: Layout, stage: int) -> tuple[int, ...]:
    """The layers of a stage that recompute: the first ones, whose activations wait longest for backward."""
    return held_layers(layout, stage)[: layout.recompute_layers_per_stage[stage]]
