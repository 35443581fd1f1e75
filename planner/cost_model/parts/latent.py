"""Latent attention: queries, and keys with values, made from narrow hidden states of their own."""

from planner.cost_model.parts.part import Elements, Made, Part, Product
from planner.cost_model.sources import formula


@formula("deepseek2024v2", "deepseek2024v3")
def latent_attention(made: Made) -> Part:
    """Down to ``r_q`` and ``r_k + d_r`` units and up to all heads: ``h r_q``, ``r_q q``, ``h (r_k + d_r)``, ``r_k n``.

    ``q`` is the width of the queries of all heads, ``n`` that of the keys that are not rotated and the values, ``d_r``
    the rotated units that all heads share. The products down are copied by tensor parallelism, those up divided by
    heads. Both narrow states are normed, and kept before and after that; queries, keys, values and output are kept.
    Rotations move the rotated units of queries and of one key; keys are put together from both of their parts.
    """
    model, library = made.model, made.library
    own, h, q, out = model.attention.latent, model.hidden_size, model.query_size, model.value_size
    assert own is not None
    turned = model.num_heads * own.rotary_size
    plain = q - turned
    norm = own.query_rank + own.kv_rank
    rotated, joined = turned + own.rotary_size, q + turned
    forward, backward = (library.rotary_elements[at] * rotated + library.layout_elements[at] * joined for at in (0, 1))
    return Part(
        products=(
            Product("query_down", h, own.query_rank, "neither"),
            Product("query_up", own.query_rank, q, "outer"),
            Product("kv_down", h, own.kv_rank + own.rotary_size, "neither"),
            Product("kv_up", own.kv_rank, plain + out, "outer"),
            Product("attention_output", out, h, "inner"),
        ),
        vectors=(own.query_rank, own.kv_rank),
        kept=Elements(whole=2.0 * norm + own.rotary_size, split=float(2 * q + 2 * out)),
        forward=Elements(whole=library.norm_elements[0] * norm, split=forward + 2.0 * joined),
        backward=Elements(whole=library.norm_elements[1] * norm, split=backward + 2.0 * joined),
        working=Elements(split=library.backward_attention * (2 * q + 2 * out)),
    )
