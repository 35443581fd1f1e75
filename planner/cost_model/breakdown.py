"""The step time of one layout as named terms."""

import numpy as np

from planner.cost_model import communication
from planner.cost_model.pipeline import pipeline_bubble, stage_times
from planner.cost_model.sources import formula
from planner.cost_model.terms import total
from planner.cost_model.zero_bubble import v_seconds
from planner.layouts.problem import Problem
from planner.layouts.stages import StageColumns


@formula("narayanan2021")
def step_breakdown(problem: Problem, stages: StageColumns) -> dict[str, float]:
    """Named terms of the step time of one layout; they sum to it.

    The terms of a micro batch are those of the slowest stage, times the micro batches; the pipeline
    bubble is the rest of the fill and drain, in a V of the whole schedule as it is played; the tail is that of the
    stage that ends last.
    Raises ``ValueError`` for the stages of several layouts. Units: s.
    """
    if len(np.unique(stages.layout_row)) != 1:
        raise ValueError("stages of exactly one layout are needed")
    times = stage_times(problem, stages)
    per_stage, tails = total(times.microbatch), total(times.tail)
    slowest, last = int(per_stage.argmax()), int(tails.argmax())
    num_microbatches, chunks = int(stages.layouts.num_microbatches[0]), stages.layouts.num_model_chunks[:1]
    breakdown = {name: float(column[slowest]) * num_microbatches for name, column in times.microbatch.items()}
    if stages.layouts.schedule_is("zbv")[0]:
        bubble = v_seconds(problem, stages) - num_microbatches * per_stage[slowest]
    else:
        bubble = pipeline_bubble(per_stage.sum(keepdims=True), per_stage[[slowest]], chunks)
    breakdown["pipeline_bubble"] = float(bubble[0])
    breakdown |= {name: float(column[last]) for name, column in times.tail.items()}
    breakdown["pipeline_messages"] = float(communication.message_wait_seconds(problem, stages)[0])
    tied = communication.tied_embedding_seconds(problem, stages)
    breakdown["tied_embedding_reduction"] = float(tied[0])
    return {name: seconds for name, seconds in breakdown.items() if seconds > 0}
