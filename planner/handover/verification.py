"""What comparing a layout with one process found, in the form that `verify` prints."""

from typing import Literal

import msgspec

Workaround = Literal[
    "causal-attention",
    "sequence-bias-sum",
    "depth-sum",
    "llama-policy",
    "expert-gradients",
    "expert-average",
    "router-gradients",
    "weight-gradients",
    "zero-bubble-scale",
]
WORKAROUNDS: dict[Workaround, str] = {
    "causal-attention": "attention that sees no later token whatever mask the library makes or leaves out",
    "sequence-bias-sum": "gradients of row-parallel biases summed over the ranks that share a sequence",
    "depth-sum": "gradients summed over the depth of a 2.5D grid",
    "llama-policy": "the library's policy of Llama for Mistral and Qwen2, for split sequences and padded vocabularies",
    "expert-gradients": "gradients of experts averaged over all their copies, also those that got no tokens",
    "expert-average": "gradients of experts averaged over their copies alone, where there is no ZeRO",
    "router-gradients": "gradients of the loss that balances experts sent back to the routers of earlier stages",
    "weight-gradients": "gradients of weights that a zero-bubble schedule puts off, of all micro batches",
    "zero-bubble-scale": "the loss of a zero-bubble schedule scaled in fp16, as the update divides by that scale",
}
"""What the runtime does against errors of Colossal-AI."""


class Tolerance(msgspec.Struct, frozen=True, kw_only=True):
    """Largest relative differences that rounding explains."""

    loss: float
    gradient: float
    replicas: float
    routing: float
    """Of tokens whose experts are others, of all."""


TOLERANCES: dict[str, Tolerance] = {
    "fp32": Tolerance(loss=1e-5, gradient=1e-4, replicas=1e-5, routing=1e-3),
    "bf16": Tolerance(loss=4e-3, gradient=5e-2, replicas=1e-2, routing=5e-2),
    "fp16": Tolerance(loss=1e-3, gradient=2e-2, replicas=2e-3, routing=1e-2),
}
"""By precision. fp32 keeps 24 bits and sums in another order; bf16 keeps 8, 0.4 %, and fp16 11, of every activation."""


class GradientDifference(msgspec.Struct, frozen=True, kw_only=True):
    """How far a gradient is from that of one process, and who has it."""

    value: float | None
    """Norm of the difference over the norm of the right gradient; ``None`` if it is no number."""
    parameter: str
    rank: int
    stage: int


class ReplicaDifference(msgspec.Struct, frozen=True, kw_only=True):
    """How far the gradients are apart that several ranks have of the same parameter."""

    value: float | None
    """Norm of the difference over the norm of the first rank's gradient; ``None`` if it is no number."""
    parameter: str
    ranks: tuple[int, int]


class StepComparison(msgspec.Struct, frozen=True, kw_only=True):
    """One optimizer step by the layout and by one process."""

    step: int
    """Counted from 1."""
    loss: float
    reference_loss: float
    loss_difference: float | None
    """Relative to the loss of one process."""
    gradient: GradientDifference
    """The largest of all parameters and ranks."""
    replicas: ReplicaDifference | None
    """The largest of all parameters; ``None`` if no parameter is on several ranks."""
    routing: float | None = None
    """Tokens that the layout's scores would have sent to other experts than those of one process, of all that every
    layer sent; ``None`` without experts. They are sent where one process sends them."""


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """A layout beside one process over a few steps."""

    tolerance: Tolerance
    steps: tuple[StepComparison, ...]
    num_parameters: int
    """Parameter tensors of the model, all of which are compared in every step."""
    missing: tuple[str, ...]
    """Parameters of which no rank has a gradient."""

    @property
    def holds(self) -> bool:
        """Whether everything is within the tolerance."""
        return not self.missing and all(self._agrees(step) for step in self.steps)

    def _agrees(self, step: StepComparison) -> bool:
        limits = self.tolerance
        found = [(step.loss_difference, limits.loss), (step.gradient.value, limits.gradient)]
        if step.replicas is not None:
            found.append((step.replicas.value, limits.replicas))
        if step.routing is not None:
            found.append((step.routing, limits.routing))
        return all(value is not None and value <= limit for value, limit in found)
