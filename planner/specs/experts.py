"""Experts of a model: feed-forward parts of which a router picks some for each token."""

from typing import Annotated, Literal

from msgspec import Meta

from planner.specs.base import Count, Fraction, Positive, Spec, Width

Router = Literal["softmax", "sigmoid"]
DEFAULT_CONCENTRATION = 16.0
"""Of the loads of experts where nothing says them. The fullest of 64 then has 1.7 times the mean, as under a loss that
balances them (Wang et al. 2024, arXiv 2408.15664, table 2)."""

BIASED_CONCENTRATION = 256.0
"""The same where a bias keeps them alike. An estimate: the fullest of 64 has 1.15 times the mean of a batch; over an
evaluation set it has 1.04 times (the same table)."""


class ExpertsSpec(Spec, frozen=True, kw_only=True):
    """Experts in place of the feed-forward part of a block: gated as it is, each with products of its own.

    No expert has a capacity: every token reaches those that its router picks.
    """

    count: Count
    """Experts of a layer, shared ones not among them."""
    top_k: Count
    """Experts that a token passes, at most as many as there are."""
    ffn_hidden_size: Width
    """Width inside one expert."""
    shared: Annotated[int, Meta(ge=0, le=1_024)] = 0
    """Experts that every token passes, each as wide as one of the others."""
    first_dense_layers: Annotated[int, Meta(ge=0, le=1_024)] = 0
    """The first blocks of the model that have a plain feed-forward part, ``ffn_hidden_size`` of the model wide."""

    # Router
    router: Router = "softmax"
    """What makes probabilities of the router's scores."""
    normalised: bool = True
    """Whether the weights of the experts that a token passes add up to 1."""
    weight_scale: Positive = 1.0
    """Their sum is multiplied by this."""
    groups: Count = 1
    """Groups of experts of which a token's experts are picked in the best ones alone."""
    top_groups: Count = 1
    """How many of the groups those are."""
    selection_bias: bool = False
    """Whether a bias that no gradient trains is added to the scores by which experts are picked."""
    balance_loss: Fraction = 0.0
    """Coefficient of the loss that keeps the loads of experts alike; 0: none."""

    # Load
    fullest: Annotated[float, Meta(ge=1.0, le=131_072.0)] | None = None
    """Tokens of the rank that gets most, over the mean of all ranks, where they are known or forced to be alike;
    ``None``: from the histogram or the distribution."""
    load: Annotated[tuple[Annotated[float, Meta(ge=0.0, le=1e15)], ...], Meta(max_length=131_072)] = ()
    """Measured tokens of each expert in the order in which ranks hold them, in any unit, of the layer where they differ
    most; none: not measured."""
    concentration: Annotated[float, Meta(ge=1.0, le=1e12)] = DEFAULT_CONCENTRATION
    """Without a histogram the loads of the experts of a layer are drawn from a symmetric Dirichlet distribution with
    this concentration for each: the larger, the more alike they are."""

    def __post_init__(self) -> None:
        """Refuse what no router can do."""
        if self.top_k > self.count:
            raise ValueError(f"`experts.top_k` {self.top_k} is more than `experts.count` {self.count}")
        if self.count % self.groups:
            rest = self.count % self.groups
            raise ValueError(
                f"`experts.count` has to divide by `experts.groups`: {self.count} % {self.groups} = {rest}"
            )
        if self.top_groups > self.groups or self.top_groups * (self.count // self.groups) < self.top_k:
            raise ValueError(
                f"`experts.top_groups` {self.top_groups} of {self.groups} groups of {self.count // self.groups} "
                f"experts leave no {self.top_k} to pick"
            )
        if self.load and (len(self.load) != self.count or not sum(self.load)):
            raise ValueError(f"`experts.load` has {len(self.load)} numbers for {self.count} experts, or none above 0")


class LatentSpec(Spec, frozen=True, kw_only=True):
    """Multi-head latent attention: queries, and keys with values, made from narrow hidden states of their own."""

    query_rank: Width
    """Width of the hidden state that queries are made from."""
    kv_rank: Width
    """Width of the hidden state that keys and values are made from."""
    rotary_size: Width
    """Units of a head's queries and keys that are rotated; those of keys are the same for all heads."""
    value_size: Width
    """Width of a head's values."""
