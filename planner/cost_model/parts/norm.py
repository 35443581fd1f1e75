"""A norm and the addition to the residual stream that follows what it is the input of."""

from planner.cost_model.parts.part import Elements, Made, Part
from planner.cost_model.sources import formula
from planner.specs import ModelSpec


@formula("radford2019", "zhang2019", "colossalai0.5.0")
def norm(made: Made) -> Part:
    """A weight, and for LayerNorm a bias; its input and its output are kept, whole, and what the library adds.

    The output may be made again of the input.
    """
    model, library = made.model, made.library
    h = model.hidden_size
    forward, backward = (library.norm_elements[at] + library.residual_elements[at] for at in (0, 1))
    return Part(
        vectors=norm_vectors(model),
        kept=Elements(whole=norm_kept(made) * h),
        forward=Elements(whole=forward * h),
        backward=Elements(whole=backward * h),
        working=Elements(whole=2.0 * h),
        remade=Elements(whole=float(h)),
    )


def norm_kept(made: Made) -> float:
    """Kept of a norm for backward, per hidden unit."""
    return 2.0 + (made.library.norm_kept_full if made.full else made.library.norm_kept)


def norm_vectors(model: ModelSpec) -> tuple[int, ...]:
    """Parameters of the tensors of one norm."""
    h = model.hidden_size
    return (h, h) if model.norm.kind == "layernorm" else (h,)
