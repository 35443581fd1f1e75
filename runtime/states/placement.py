"""Where a rank stands and which layers it holds."""

from dataclasses import dataclass

from planner.layouts.layout import Layout


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


def slot_layers(layout: Layout) -> tuple[int, ...]:
    """Layers of each slot of a V."""
    halves = [own // 2 for own in layout.layers_per_stage]
    return (*halves, *reversed([own - half for own, half in zip(layout.layers_per_stage, halves, strict=True)]))


def holds_loss(layout: Layout, stage: int) -> bool:
    """Whether a pipeline stage has the last layer, the head and the loss: the last one, or the first of a V."""
    return stage == (0 if layout.schedule == "zbv" else layout.pipeline_parallel - 1)


def held_layers(layout: Layout, stage: int) -> tuple[int, ...]:
    """The layers of pipeline stage ``stage``, rising: one run of them, or one for each of its model chunks.

    Chunk ``c`` of stage ``s`` is run number ``c * pipeline_parallel + s`` of equally many layers.
    """
    if layout.schedule == "zbv":
        sizes = slot_layers(layout)
        slots = (stage, 2 * layout.pipeline_parallel - 1 - stage)
        return tuple(layer for slot in slots for layer in range(sum(sizes[:slot]), sum(sizes[: slot + 1])))
    own = layout.layers_per_stage[stage]
    if layout.num_model_chunks == 1:
        start = sum(layout.layers_per_stage[:stage])
        return tuple(range(start, start + own))
    size = own // layout.num_model_chunks
    starts = [(chunk * layout.pipeline_parallel + stage) * size for chunk in range(layout.num_model_chunks)]
    return tuple(layer for start in starts for layer in range(start, start + size))


def held_experts(layout: Layout, count: int, share: int) -> range:
    """Of ``count`` experts of every layer those of a rank with this ``share`` of them."""
    own = count // layout.expert_parallel
    return range(share * own, (share + 1) * own)


def recomputed_layers(layout: Layout, stage: int) -> tuple[int, ...]:
    """The layers of a stage that recompute: the first ones, whose activations wait longest for backward."""
    return held_layers(layout, stage)[: layout.recompute_layers_per_stage[stage]]
