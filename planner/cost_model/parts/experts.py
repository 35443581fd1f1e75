"""Experts in place of the feed-forward part: a router, products of which a token passes a few, and shared ones."""

from planner.cost_model.parts.mlp import feed_forward
from planner.cost_model.parts.part import Elements, Made, Part, Product, Routed
from planner.cost_model.sources import formula
from planner.specs import ExpertsSpec


@formula("shazeer2017", "fedus2022", "colossalai0.5.0")
def experts(made: Made) -> Part:
    """A router ``h E``, ``E`` experts of the feed-forward's products, and shared ones as one part that is as wide.

    The router is copied by tensor parallelism; its probabilities, ``E`` numbers of 4 bytes a token, are kept. They are
    read and written by the softmax, the choice and the weights of the chosen, some three times each way. What a token
    and expert of it keep is :class:`planner.cost_model.parts.part.Routed`.
    """
    spec = made.model.experts
    assert spec is not None
    scores = 2.0 * spec.count
    router = Part(
        products=(Product("router", made.model.hidden_size, spec.count, "neither"),),
        kept=Elements(whole=scores),
        forward=Elements(whole=3.0 * scores),
        backward=Elements(whole=3.0 * scores),
        routed=routed(made, spec),
    )
    if not spec.shared:
        return router
    shared = feed_forward(made, spec.shared * spec.ffn_hidden_size, "shared")
    return Part(
        products=(*router.products, *shared.products),
        kept=router.kept.plus(shared.kept),
        forward=router.forward.plus(shared.forward),
        backward=router.backward.plus(shared.backward),
        working=shared.working,
        routed=router.routed,
    )


def routed(made: Made, spec: ExpertsSpec) -> Routed:
    """The products of one expert, and what its element-wise kernels move and keep of one token."""
    one = feed_forward(made, spec.ffn_hidden_size, "expert")
    moved = (one.forward.split, one.backward.split)
    return Routed(spec.count, spec.top_k, one.products, one.kept.split, *moved, one.working.split)
