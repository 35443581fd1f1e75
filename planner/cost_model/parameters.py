"""Parameters of a model, whole and per stage and rank."""

from typing import NamedTuple

import numpy as np

from planner.cost_model.chunks import pieces
from planner.cost_model.expert_shares import expert_mesh, expert_parameters
from planner.cost_model.parts import block_of, end_tensors, without_experts
from planner.cost_model.shares import shares
from planner.cost_model.sources import formula
from planner.cost_model.terms import Terms, total
from planner.layouts.layout import SHARDS_OPTIMIZER, SHARDS_WEIGHTS
from planner.layouts.problem import Problem
from planner.layouts.stages import Floats, StageColumns, once_per_places, once_per_stages, padded_vocab
from planner.specs import ModelSpec


@formula("radford2019", "definition")
def model_parameters(model: ModelSpec) -> dict[str, int]:
    """Parameters of the whole unpadded model, by part.

    Per layer those of its parts, of GPT-2 attention ``4 h^2 + 4 h``, feed-forward ``2 h f + f + h`` and two norms
    ``4 h``. Besides: token embedding, learned positions, final norm, an untied head.
    Units: parameters.
    """
    ends = {name: sum(tensors) for name, tensors in end_tensors(model).items()}
    dense = model.dense_layers and model.dense_layers * sum(block_of(without_experts(model)).tensors)
    return {"layers": (model.num_layers - model.dense_layers) * sum(block_of(model).tensors) + dense, **ends}


@formula("shazeer2017", "jiang2024")
def active_parameters(model: ModelSpec) -> int:
    """Parameters that one token passes: all but those of experts that its router does not pick. Units: parameters."""
    routed = block_of(model).routed
    idle = 0 if routed is None else (routed.count - routed.top_k) * routed.parameters
    return sum(model_parameters(model).values()) - (model.num_layers - model.dense_layers) * idle


class LayerParameters(NamedTuple):
    """Parameters of one layer by how tensor parallelism treats them."""

    matrices: int
    column_vectors: int
    """Biases of the products whose output 1D divides."""
    row_vectors: int
    """Biases of the other products, two norms, and matrices that 1D copies: routers, products of latent attention."""


@formula("shoeybi2019", "colossalai0.5.0")
def layer_parameters(model: ModelSpec) -> LayerParameters:
    """Parameters of one whole layer, of GPT-2 ``4 h^2 + 2 h f``, ``3 h + f`` and ``2 h + 4 h``; without experts.

    Units: parameters.
    """
    own = block_of(model)
    return LayerParameters(own.matrices, own.biases("outer"), own.biases("inner") + own.vectors + own.copied)


@formula("shoeybi2019", "colossalai0.5.0", "xu2021", "wang2021", "bian2021")
@once_per_stages
def stage_parameters(problem: Problem, stages: StageColumns) -> Terms:
    """Parameters that one rank of each stage holds: its shares, :func:`planner.cost_model.shares.shares`.

    The first stage holds the embeddings, the last the final norm and the head. With tied embeddings
    and more than one stage both hold a copy of the (padded, divided) token embedding. Experts are a part of their
    own, :func:`planner.cost_model.expert_shares.expert_parameters`, which fewer ranks copy.
    Units: parameters.
    """
    model, part, layer = problem.model, shares(stages.layouts), layer_parameters(problem.model)
    ends = model_parameters(model)
    vocab = padded_vocab(problem, stages.layouts) * model.hidden_size * part.matrix
    one_copy = model.tied_embeddings & stages.is_first
    positions = float(ends["position_embedding"]) * part.row_vector
    per_layer = (
        layer.matrices * part.matrix + layer.column_vectors * part.column_vector + layer.row_vectors * part.row_vector
    )
    layers: Floats = stages.num_layers * per_layer
    experts: Terms = {}
    if model.experts is not None:
        layers = layers + _more_of_dense_layers(model, stages)
        experts = {"experts": expert_parameters(problem, stages)}
    return {
        "layers": layers,
        **experts,
        "token_embedding": np.where(stages.is_first, vocab, 0.0),
        "position_embedding": np.where(stages.is_first, positions, 0.0),
        "final_norm": np.where(stages.is_last, float(ends["final_norm"]) * part.row_vector, 0.0),
        "head": np.where(stages.is_last & ~one_copy, vocab, 0.0),
    }


def copied_parameters(problem: Problem, stages: StageColumns) -> Floats:
    """Parameters of each stage that all its data-parallel ranks hold: without experts, which fewer do."""
    held = stage_parameters(problem, stages)
    return total({name: column for name, column in held.items() if name != "experts"})


def _more_of_dense_layers(model: ModelSpec, stages: StageColumns) -> Floats:
    """What the first blocks, which have no experts, hold more than others without theirs; they are on one stage."""
    part, own, dense = shares(stages.layouts), layer_parameters(model), layer_parameters(without_experts(model))
    matrices, vectors = float(dense.matrices - own.matrices), float(dense.row_vectors - own.row_vectors)
    more = matrices * part.matrix + vectors * part.row_vector
    return np.where(stages.is_first, np.minimum(stages.num_layers, model.dense_layers) * more, 0.0)


@formula("rajbhandari2020", "colossalai0.5.0")
@once_per_places
def weight_shards(problem: Problem, stages: StageColumns) -> Floats:
    """Ranks that share one copy of a stage's weights: the data-parallel degree under ZeRO 3, else 1.

    A model that is smaller than one piece is not sharded under ZeRO 3 either.
    """
    columns = stages.layouts
    sharded = (columns.zero_stage >= SHARDS_WEIGHTS) & pieces(problem).is_sharded
    return np.where(sharded, columns.replicas, 1).astype(np.float64)


@formula("rajbhandari2020", "colossalai0.5.0")
@once_per_stages
def updated_parameters(problem: Problem, stages: StageColumns) -> Floats:
    """Parameters that the optimizer of one rank updates: all it holds, or under ZeRO its share of them.

    Under ZeRO 3 the unused ends of the pieces count: they have states as well. Below it states of experts are divided
    by the ranks that hold the same ones.
    """
    columns = stages.layouts
    shards = np.where(columns.zero_stage >= SHARDS_OPTIMIZER, columns.replicas, 1)
    in_pieces = columns.zero_stage >= SHARDS_WEIGHTS
    shards = np.where(in_pieces, weight_shards(problem, stages), shards)
    padding = np.where(in_pieces, pieces(problem).padding, 1.0)
    held = stage_parameters(problem, stages)
    if problem.model.experts is None:
        return total(held) * padding / shards
    copies = np.where(columns.zero_stage >= SHARDS_OPTIMIZER, expert_mesh(problem, columns).copies, 1)
    copies = np.where(in_pieces, shards, copies)
    return (total(held) - held["experts"]) * padding / shards + held["experts"] * padding / copies
