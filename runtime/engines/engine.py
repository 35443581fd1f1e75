"""What every way of training has in common: the rows of a rank, a step, the loss of the whole batch."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from colossalai.booster import Booster
from torch import Tensor

from planner.jobs.job import OptimizerSection
from planner.plans.plan import Plan
from runtime.engines.schedules import resize
from runtime.engines.support import check_supported
from runtime.patches.host_accelerator import Device
from runtime.states.model import parameter_shapes
from runtime.states.optimizers import DECAYS, instead_of_update
from runtime.states.placement import Position, holds_loss

Batch = dict[str, Tensor]
"""``input_ids`` and ``labels`` of the sequences of one data-parallel rank, one row each."""


class Wishes(NamedTuple):
    """What ranks have to do together and any one of them may ask for."""

    save: bool = False
    end: bool = False
    """After saving."""


def mixed_seed(*numbers: int) -> int:
    """One seed of several numbers, each of which changes it."""
    return int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:8], "little", signed=True)


class Engine(ABC):
    """A model and its optimizer on this rank, divided as a plan says."""

    model: Any
    optimizer: Any
    booster: Booster
    wishes: Wishes
    """What this rank wishes to happen after the next step."""
    agreed: Wishes
    """What any rank wished before the last step, the same on all of them."""
    own_loss: Tensor | None = None
    """Of the last step: what this rank had of the loss."""
    compiles: bool = False
    """Whether blocks and loss are compiled."""
    num_microbatches: int
    """Of a step on this rank: those of the layout, or fewer while a job's batch grows."""
    rows: slice
    """The rows of a global batch that belong to this rank."""

    def __init__(self, plan: Plan, device: Device) -> None:
        """Find this rank's place.

        Raises:
            PlanError: the runtime cannot execute the plan's layout.
        """
        check_supported(plan)
        self.wishes = self.agreed = Wishes()
        self.layout, self.model_spec = plan.layout, plan.problem.model
        self.position = Position.of(dist.get_rank(), self.layout)
        self._take(self.layout.num_microbatches)
        self.device = torch.device(device, torch.cuda.current_device()) if device == "cuda" else torch.device(device)

    def _take(self, num_microbatches: int) -> None:
        share = self.layout.micro_batch * num_microbatches
        self.num_microbatches = num_microbatches
        self.rows = slice(self.position.data * share, (self.position.data + 1) * share)

    def set_batch(self, global_batch: int) -> None:
        """Take so many sequences from the next step or evaluation on: more or fewer micro batches of the same size."""
        self._take(global_batch // (self.layout.data_parallel * self.layout.micro_batch))
        if self.pipeline_schedule is not None:
            resize(self.pipeline_schedule, self.num_microbatches, self.layout.micro_batch)

    @property
    def pipeline_schedule(self) -> Any:
        """The library's, which has to be told of another batch; ``None`` without a pipeline."""
        return None

    @cached_property
    def shapes(self) -> dict[str, torch.Size]:
        """Whole shapes of the model's parameters by their names in Transformers."""
        return parameter_shapes(self.model_spec)

    def set_learning_rate(self, learning_rate: float) -> None:
        """Use ``learning_rate`` from the next step on."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate

    def set_optimizer(self, settings: OptimizerSection) -> None:
        """Use the moments' decay, epsilon and the weight decay of a job from the next step on."""
        for group in self.optimizer.param_groups:
            group["betas"] = (settings.beta1, settings.beta2)
            group["eps"] = settings.epsilon
            group["weight_decay"] = settings.weight_decay if group.get(DECAYS, True) else 0.0

    def evaluate(self, batch: Batch) -> float:
        """The loss of the whole batch, without dropout; weights and gradients stay as they are."""
        self.model.eval()
        try:
            with torch.no_grad():
                loss = self.forward({name: tensor.to(self.device) for name, tensor in batch.items()})
        finally:
            self.model.train()
        return self._global_mean(loss)

    def seed_step(self, seed: int, step: int) -> None:
        """Have dropout draw what only the seed, the step and this rank's place decide, and nothing that came before.

        So a run that resumes draws what it would have drawn. The replicas of tensor parallelism draw the same.
        """
        self._seed(seed, step, self.position.data, self.position.stage)

    def _seed(self, *numbers: int) -> None:
        # `torch.manual_seed` also looks for every GPU, which takes milliseconds where there is none.
        torch.default_generator.manual_seed(mixed_seed(*numbers))
        if self.device.type == "cuda":
            torch.cuda.manual_seed(mixed_seed(*numbers))

    def settle(self, batch: Batch) -> None:  # noqa: B027 - most engines have nothing to do
        """Do what the libraries do once, at the first step, so that a step after it is one as any later one.

        A run that resumes has to, with any batch of its own: nothing that it holds changes by it.
        """

    def step(self, batch: Batch, keeps: Callable[[float], bool] | None = None) -> float:
        """One optimizer step on this rank's share of the global batch; the loss of the whole batch.

        Where ``keeps`` is given, it is told that loss before the weights are updated, and has to say the same on all
        ranks: whether they are.
        """
        loss = self.accumulate_gradients({name: tensor.to(self.device) for name, tensor in batch.items()})
        self.own_loss = loss
        if keeps is None:
            self.update()
            return self._global_mean(loss)
        mean = self._global_mean(loss)
        if keeps(mean):
            self.update()
        else:
            with instead_of_update(self.optimizer, lambda *_, **__: None):
                self.update()
        return mean

    def update(self) -> None:
        """The optimizer's step, after which no gradients are left."""
        self.optimizer.step()
        self.optimizer.zero_grad()

    def complete_weights(self) -> None:  # noqa: B027 - most engines have nothing to do
        """Have what follows find all weights whole; what writes them outside of a step has to call it before."""

    def agree(self) -> None:
        """Tell all ranks what each wishes, where there is no step that would."""
        self._summed(None)

    @abstractmethod
    def accumulate_gradients(self, batch: Batch) -> Tensor | None:
        """Forward and backward of all micro batches; their mean loss, which only the last stage has."""

    @abstractmethod
    def forward(self, batch: Batch) -> Tensor | None:
        """Forward of all micro batches, without gradients; their mean loss, which only the last stage has."""

    def _mean_of_micro_batches(self, batch: Batch, loss_of: Callable[[Batch], Tensor]) -> Tensor:
        losses = [loss_of(self.micro_batch(batch, index)) for index in range(self.num_microbatches)]
        return torch.stack(losses).mean()

    def micro_batch(self, batch: Batch, index: int) -> Batch:
        """The rows of micro batch ``index``."""
        rows = slice(index * self.layout.micro_batch, (index + 1) * self.layout.micro_batch)
        return {name: tensor[rows] for name, tensor in batch.items()}

    def _global_mean(self, loss: Tensor | None) -> float:
        # Only the stage of the last layer has a loss; all ranks that divide rows or sequences see equally many tokens.
        if loss is None or not holds_loss(self.layout, self.position.stage) or self.position.tensor > 0:
            return self._summed(None)
        return self._summed(loss.detach() / (self.layout.data_parallel * self.layout.sequence_parallel_degree))

    def _summed(self, share: Tensor | None) -> float:
        """The sum of all ranks' shares of the loss, and with it in one message what any rank wishes."""
        numbers = torch.tensor([0.0, *map(float, self.wishes)], dtype=torch.float64, device=self.device)
        if share is not None:
            numbers[0] += share
        dist.all_reduce(numbers)
        loss, *wishes = numbers.tolist()
        self.agreed = Wishes(*(wish > 0 for wish in wishes))
        return float(loss)
