"""What gptplan does against silent errors of Colossal-AI, each with a switch that lets the error happen.

The switches are for `gptplan verify --without`, which shows that each error would be found.
"""

from collections.abc import Callable, Iterable

from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from planner.handover.verification import Workaround
from runtime.states.families import ATTENTION


def _use_default_attention() -> None:
    # Transformers' default takes the padding mask that Colossal-AI always makes for all there is to mask.
    ALL_ATTENTION_FUNCTIONS.register(ATTENTION, sdpa_attention_forward)


def _leave_sequence_biases() -> None:
    import runtime.patches.policy

    runtime.patches.policy.mark_partial_biases = lambda model: None


def _leave_depth() -> None:
    from runtime.engines import grid
    from runtime.grid import weights
    from runtime.grid.mesh import Axes, Grid

    summed = weights.copy_axes

    def without_depth(name: str, grid: Grid) -> Axes:
        return tuple(axis for axis in summed(name, grid) if axis != "depth")

    weights.copy_axes = grid.copy_axes = without_depth  # type: ignore[attr-defined]


_SWITCHES: dict[Workaround, Callable[[], None]] = {
    "causal-attention": _use_default_attention,
    "sequence-bias-sum": _leave_sequence_biases,
    "depth-sum": _leave_depth,
}


def switch_off(names: Iterable[Workaround]) -> None:
    """Let the errors of ``names`` happen in this process from now on."""
    for name in names:
        _SWITCHES[name]()
