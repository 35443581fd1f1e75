"""Attention: queries, keys and values, rotations, the output product."""

from planner.cost_model.parts.part import Elements, Made, Part, Product, gradient_sums
from planner.cost_model.sources import formula


@formula("shoeybi2019", "ainslie2023", "su2021", "colossalai0.5.0")
def attention(made: Made) -> Part:
    """Products ``h (q + 2 k)`` and ``q h``; queries, keys, values and output are kept, all divided by heads.

    Keys and values of grouped queries are ``k`` wide; a library may repeat them to the width of the queries before
    it keeps them. One whose kernel reads contiguous heads copies queries, the output and, unless repeating did that
    already, keys and values. It keeps the output as the kernel left it beside the copy that the next product reads,
    and copies the gradients of queries, keys and values; those of their biases are sums that read them once.
    One that rotates queries where they stand, in one tensor with keys and values, keeps all of it beside the keys and
    values that it copied out. Keys and values may be repeated again in backward. Learned positions are added before
    the first block and move nothing here.
    """
    model, library = made.model, made.library
    own, q, k = model.attention, model.query_size, model.kv_size
    repeats = library.repeated_keys and k < q
    keys = q if library.repeated_keys else k
    rotated, inputs = (q + k) * (model.positions.kind == "rotary"), _inputs(made)
    copied, output = (q + 2 * k, q + 2 * k), q
    if library.contiguous_attention:
        copied, output = (2 * q + 2 * k * (not repeats), q + 2 * k), 2 * q
    stacked = 2 * k * (library.queries_in_stack and k == q)
    normed = (q + k) * own.qk_norm
    moved = (
        library.rotary_elements[at] * rotated
        + library.layout_elements[at] * copied[at]
        + library.norm_elements[at] * normed
        + library.repeat_elements[at] * (k + q) * repeats
        for at in (0, 1)
    )
    forward, backward = moved
    return Part(
        products=(*inputs, Product("attention_output", q, model.hidden_size, "inner", own.output_bias)),
        vectors=(model.head_size, model.head_size) * own.qk_norm,
        kept=Elements(split=float(q + output + 2 * keys + stacked + 2 * normed)),
        forward=Elements(split=forward),
        backward=Elements(whole=gradient_sums(made, inputs), split=backward + (q + 2 * k) * own.qkv_bias),
        working=Elements(split=library.backward_attention * (2 * q + 2 * keys)),
        remade=Elements(split=float(2 * (keys - k))),
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
