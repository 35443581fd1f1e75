"""What lies outside the blocks: token embedding, positions, final norm and loss head."""

from planner.cost_model.parts.norm import norm_vectors
from planner.cost_model.sources import formula
from planner.specs import ModelSpec


@formula("radford2019", "su2021", "definition")
def end_tensors(model: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Parameters of each tensor outside the blocks, by part, of the unpadded model.

    Token embedding ``v h``, learned positions ``S h``, the final norm, an untied head ``v h``. Rotations have none.
    """
    embedding = model.vocab_size * model.hidden_size
    learned = model.positions.kind == "learned"
    return {
        "token_embedding": (embedding,),
        "position_embedding": (model.max_seq_len * model.hidden_size,) if learned else (),
        "final_norm": norm_vectors(model),
        "head": () if model.tied_embeddings else (embedding,),
    }
