"""Attention: queries, keys and values, rotations, the output product."""

from planner.cost_model.parts.part import Elements, Made, Part, Product
from planner.cost_model.sources import formula


@formula("shoeybi2019", "ainslie2023", "su2021", "colossalai0.5.0")
def attention(made: Made) -> Part:
    """Products ``h (q + 2 k)`` and ``q h``; queries, keys, values and output are kept, all divided by heads.

    Keys and values of grouped queries are ``k`` wide; a library may repeat them to the width of the queries before
    it keeps them. Learned positions are added before the first block and move nothing here.
    """
    model, library = made.model, made.library
    own, q, k = model.attention, model.query_size, model.kv_size
    keys = q if library.repeated_keys else k
    rotated, copied = (q + k) * (model.positions.kind == "rotary"), q + 2 * k
    normed = (q + k) * own.qk_norm
    moved = (
        library.rotary_elements[at] * rotated
        + library.layout_elements[at] * copied
        + library.norm_elements[at] * normed
        + 2 * (k + q) * (library.repeated_keys and k < q)
        for at in (0, 1)
    )
    forward, backward = moved
    return Part(
        products=(*_inputs(made), Product("attention_output", q, model.hidden_size, "inner", own.output_bias)),
        vectors=(model.head_size, model.head_size) * own.qk_norm,
        kept=Elements(split=2.0 * q + 2.0 * keys + 2.0 * normed),
        forward=Elements(split=forward),
        backward=Elements(split=backward),
        working=Elements(split=library.backward_attention * (2 * q + 2 * keys)),
    )


def _inputs(made: Made) -> tuple[Product, ...]:
    model, bias = made.model, made.model.attention.qkv_bias
    h, q, k = model.hidden_size, model.query_size, model.kv_size
    if not made.library.fused_qkv:
        widths = {"queries": q, "keys": k, "values": k}
        return tuple(Product(name, h, width, "outer", bias) for name, width in widths.items())
    if q == k:
        return (Product("qkv", h, q, "outer", bias, stacked=3),)
    return (Product("qkv", h, q + 2 * k, "outer", bias),)
