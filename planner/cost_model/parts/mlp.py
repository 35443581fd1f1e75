"""The feed-forward part: two products with an activation between them, or three where it is gated."""

from planner.cost_model.parts.part import Elements, Made, Part, Product, gradient_sums
from planner.cost_model.sources import formula


@formula("shoeybi2019", "shazeer2020", "colossalai0.5.0")
def mlp(made: Made) -> Part:
    """Products ``h f`` and ``f h``, and one more ``h f`` where it is gated; what is ``f`` wide is divided.

    Plain: the activation's input and output are kept. Gated: as the library counts, both products of the input, the
    activated one and what they multiply to. What the last product reads may be made again.
    """
    return feed_forward(made, made.model.ffn_hidden_size, "ffn")


def feed_forward(made: Made, f: int, name: str) -> Part:
    """The same with another width; its products are called after ``name``."""
    model, library, gated = made.model, made.library, made.model.mlp.gated
    moved = library.gated_elements if gated else library.activation_elements
    inputs = _inputs(made, f, name)
    return Part(
        products=(*inputs, Product(f"{name}_out", f, model.hidden_size, "inner", model.mlp.bias)),
        kept=Elements(split=(library.gated_kept if gated else 2.0) * f),
        forward=Elements(split=moved[0] * f),
        backward=Elements(whole=gradient_sums(made, inputs), split=moved[1] * f),
        working=Elements(split=(library.backward_gated if gated else 2.0) * f),
        remade=Elements(split=float(f)),
    )


def _inputs(made: Made, f: int, name: str) -> tuple[Product, ...]:
    h, bias = made.model.hidden_size, made.model.mlp.bias
    if not made.model.mlp.gated:
        return (Product(f"{name}_in", h, f, "outer", bias),)
    if made.library.fused_gate:
        return (Product(f"{name}_in", h, f, "outer", bias, stacked=2),)
    return (Product(f"{name}_gate", h, f, "outer", bias), Product(f"{name}_in", h, f, "outer", bias))
