"""What lies outside the blocks."""

from planner.cost_model.parts.ends import end_tensors
from tests.helpers import changed, tiny_llama, tiny_model


def test_end_tensors_are_a_table_of_learned_positions_or_none() -> None:
    assert end_tensors(tiny_model()) == {
        "token_embedding": (2048,),
        "position_embedding": (128,),
        "final_norm": (16, 16),
        "head": (),
    }
    assert end_tensors(tiny_llama()) == {
        "token_embedding": (2048,),
        "position_embedding": (),
        "final_norm": (16,),
        "head": (2048,),
    }
    assert end_tensors(changed(tiny_llama(), tied_embeddings=True))["head"] == ()
