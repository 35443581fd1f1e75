"""What one rank holds of a parameter's states, to be read and written as flat float32."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW

from planner.checkpoints.manifest import WEIGHTS, Kind
from planner.diagnostics import Diagnostic, ExitCode, PlanError
from runtime.checkpoints.parts import Part

REFUSED = "CKP004"


@dataclass(frozen=True, eq=False)
class Held:
    """A range of a parameter that this rank updates.

    The rank's tensor is ``part``, flattened; its elements ``start`` to ``stop`` are those that the optimizer of this
    rank updates, and has moments of.
    """

    name: str
    """The Hugging Face name."""
    part: Part
    start: int
    stop: int
    updated: Tensor
    """What the innermost optimizer updates: its key in the state of that optimizer."""
    weights: Callable[[], Tensor]
    """The flat float32 elements that are updated, padding at the end not cut."""
    optimizer: Any
    """The innermost one."""
    working: Tensor | None = None
    """The tensor of the forward pass where it is another, which gets all of ``part`` in its own precision."""
    take: Callable[[Tensor], None] | None = None
    """Takes all of ``part`` in float32, where what is updated and what computes are halves of the weights."""
    is_copy: bool = False
    """Whether the parameter is that of another stage, which saves it: a tied head's."""

    def __len__(self) -> int:
        """Elements that are updated."""
        return self.stop - self.start

    def read(self, kind: Kind) -> Tensor:
        """The elements of one kind, where they are; a copy of what is on a drive."""
        if kind == WEIGHTS:
            return self.weights().detach().flatten()[: len(self)]
        moment: Tensor = self.optimizer.state[self.updated][kind]
        if moment.untyped_storage().nbytes() == 0:
            drive = self.optimizer.offloader
            drive.sync_read(moment)
            found = moment.flatten()[: len(self)].clone()
            drive.sync_write(moment)
            return found
        return moment.flatten()[: len(self)]

    def write_weights(self, own: Tensor, *, first: int = 0) -> None:
        """Take elements of the part, flat, from ``first`` on: into what is updated, rounded into what computes.

        Where something else computes than is updated, they have to be all of the part.
        """
        if self.take is not None:
            self.take(own)
            return
        target = self.weights().detach().view(-1)
        target[: len(self)].copy_(own[self.start - first : self.stop - first])
        target[len(self) :].zero_()
        if self.working is not None:
            self.working.detach().copy_(own.view(self.working.shape))

    def write_moments(self, moments: dict[Kind, Tensor], optimizer_step: int) -> None:
        """Take both moments of the elements that are updated, flat, as after ``optimizer_step`` updates."""
        like = self.weights().detach()
        state: dict[str, Any] = {"step": self._step(optimizer_step, like.device)}
        for kind, moment in moments.items():
            state[kind] = torch.zeros_like(like, dtype=torch.float32)
            state[kind].view(-1)[: len(self)].copy_(moment)
        self.optimizer.state[self.updated] = state
        self._keep_on_drive(state, list(moments))

    def _step(self, optimizer_step: int, device: torch.device) -> Any:
        if not isinstance(self.optimizer, AdamW):
            return optimizer_step  # Colossal-AI's count in whole numbers
        group = self.optimizer.param_groups[0]
        on_device = group.get("fused") or group.get("capturable")
        return torch.tensor(float(optimizer_step), device=device if on_device else "cpu")

    def _keep_on_drive(self, state: dict[str, Any], kinds: list[Kind]) -> None:
        # As the library does after the first update of a parameter.
        drive = getattr(self.optimizer, "offloader", None)
        if drive is None:
            return
        on_drive = state[kinds[0]].is_cpu
        self.optimizer.is_on_nvme[self.updated] = on_drive
        if on_drive:
            self.optimizer.offloaded_numel += state[kinds[0]].numel()
            for kind in kinds:
                drive.sync_write(state[kind])


def innermost(optimizer: Any) -> Any:
    """The optimizer that updates, behind what wraps it.

    Raises:
        PlanError: its states are not those of AdamW.
    """
    from colossalai.nn.optimizer import CPUAdam

    plain = optimizer.optim
    if isinstance(plain, AdamW | CPUAdam):  # HybridAdam is one, too
        return plain
    raise refusal(f"the states of {type(plain).__name__} are not those of AdamW, which checkpoints hold")


def refusal(message: str) -> PlanError:
    """Why the states of this engine cannot be saved."""
    hint = "train without checkpoints, or report this layout: every layout that gptplan runs should be saved"
    return PlanError(Diagnostic(rule=REFUSED, message=message, hint=hint), exit_code=ExitCode.NEGATIVE)
