"""Parameters of a GPT-2-architecture model, whole and per stage and rank."""

import numpy as np

from planner.cost_model.sources import formula
from planner.cost_model.terms import Terms, total
from planner.problem import Problem
from planner.spec import ModelSpec
from planner.stages import Floats, StageColumns, padded_vocab

SHARDS_OPTIMIZER = 1
"""The ZeRO stage from which on master weights and moments are divided over data parallelism."""
SHARDS_GRADIENTS = 2
"""The ZeRO stage from which on the gradients are divided as well."""


@formula("radford2019", "definition")
def model_parameters(model: ModelSpec) -> dict[str, int]:
    """Parameters of the whole unpadded model, by part.

    Per layer: attention ``4 h^2 + 4 h``, feed-forward ``2 h f + f + h``, two norms ``4 h``. Besides:
    token embedding ``v h``, positions ``S h``, final norm ``2 h``, an untied head ``v h``.
    Units: parameters.
    """
    h, f, v = model.hidden_size, model.ffn_hidden_size, model.vocab_size
    return {
        "layers": model.num_layers * (4 * h * h + 4 * h + 2 * h * f + f + h + 4 * h),
        "token_embedding": v * h,
        "position_embedding": model.max_seq_len * h,
        "final_norm": 2 * h,
        "head": 0 if model.tied_embeddings else v * h,
    }


@formula("shoeybi2019", "colossalai0.5.0")
def layer_parameters(model: ModelSpec) -> tuple[int, int]:
    """Parameters of one layer as (sharded, replicated) over a 1D tensor-parallel group.

    Sharded: all matrices and the biases of the column-parallel ones, ``4 h^2 + 2 h f + 3 h + f``.
    Replicated: biases of the row-parallel ones and two norms, ``2 h + 4 h``. Units: parameters.
    """
    h, f = model.hidden_size, model.ffn_hidden_size
    return 4 * h * h + 2 * h * f + 3 * h + f, 6 * h


@formula("shoeybi2019", "colossalai0.5.0")
def stage_parameters(problem: Problem, stages: StageColumns) -> Terms:
    """Parameters that one rank of each stage holds.

    The first stage holds the embeddings, the last the final norm and the head. With tied embeddings
    and more than one stage both hold a copy of the (padded, sharded) token embedding.
    Units: parameters.
    """
    model, tensor = problem.model, stages.layouts.tensor_parallel
    sharded, replicated = layer_parameters(model)
    vocab = padded_vocab(problem, stages.layouts) * model.hidden_size / tensor
    one_copy = model.tied_embeddings & stages.is_first
    return {
        "layers": stages.num_layers * (sharded / tensor + replicated),
        "token_embedding": np.where(stages.is_first, vocab, 0.0),
        "position_embedding": np.where(stages.is_first, float(model.max_seq_len * model.hidden_size), 0.0),
        "final_norm": np.where(stages.is_last, 2.0 * model.hidden_size, 0.0),
        "head": np.where(stages.is_last & ~one_copy, vocab, 0.0),
    }


@formula("rajbhandari2020")
def updated_parameters(problem: Problem, stages: StageColumns) -> Floats:
    """Parameters that the optimizer of one rank updates: all it holds, or under ZeRO its share of them."""
    columns = stages.layouts
    shards = np.where(columns.zero_stage >= SHARDS_OPTIMIZER, columns.data_parallel, 1)
    return total(stage_parameters(problem, stages)) / shards
