"""Training steps of a layout whose tensor mode is 2D, 2.5D or 3D."""

import torch
import torch.distributed as dist
from colossalai.amp.naive_amp.mixed_precision_optimizer import MixedPrecisionOptimizer
from colossalai.interface import OptimizerWrapper
from colossalai.pipeline.schedule import OneForwardOneBackwardSchedule
from colossalai.pipeline.stage_manager import PipelineStageManager
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from planner.layouts.layout import columns_of
from planner.layouts.stages import padded_vocab
from planner.plans.plan import Plan
from runtime.engines.engine import Batch, Engine
from runtime.engines.reducing import sum_over
from runtime.engines.schedules import forward_only
from runtime.grid.blocks import GridGPT
from runtime.grid.mesh import Axes, Mesh
from runtime.grid.weights import Shards, all_copy_axes, copy_axes
from runtime.patches.host_accelerator import Device
from runtime.states.model import DTYPES, initial_parameters
from runtime.states.optimizers import decay_groups, fuse_adamw
from runtime.states.placement import held_layers, recomputed_layers

_TIED = {"lm_head.weight": "transformer.wte.weight"}


class GridEngine(Engine):
    """This rank's part of a GPT-2 on a grid, and its optimizer."""

    def __init__(
        self, plan: Plan, device: Device, *, seed: int, learning_rate: float, optimizer: type[Optimizer] = AdamW
    ) -> None:
        """Build this rank's part of the model; every rank of the process group must do so.

        Raises:
            PlanError: the runtime cannot execute the plan's layout.
        """
        super().__init__(plan, device)
        self.mesh = Mesh(self.layout)
        vocab_rows = int(padded_vocab(plan.problem, columns_of(self.layout))[0])
        self.shards = Shards(self.mesh, self.model_spec, vocab_rows)
        self.model = self._build_model(seed)
        self.seed_step(seed, 0)
        self.optimizer = self._build_optimizer(optimizer, learning_rate)
        self.schedule = self._build_schedule()
        self._copied = self._copies()
        self._ends = self.mesh.ends() if self.layout.pipeline_parallel > 1 and self.model_spec.tied_embeddings else None

    def _build_model(self, seed: int) -> GridGPT:
        stage, dtype = self.position.stage, DTYPES[self.layout.precision]
        layers, draw = held_layers(self.layout, stage), initial_parameters(self.model_spec, seed)

        def make(name: str) -> nn.Parameter:
            whole = draw(self._whole_name(name))
            return nn.Parameter(self.shards.cut(name, whole).to(self.device, dtype))

        recomputed = recomputed_layers(self.layout, stage)
        return GridGPT(self.model_spec, self.mesh, layers, make, recomputed=recomputed).train()

    def _build_optimizer(self, optimizer: type[Optimizer], learning_rate: float) -> OptimizerWrapper:
        plain = optimizer(decay_groups(self.model), lr=learning_rate)  # type: ignore[call-arg]
        wrapped = OptimizerWrapper(plain)
        if self.layout.precision != "fp32":
            wrapped = MixedPrecisionOptimizer(plain, precision=self.layout.precision)
        if optimizer is AdamW and self.device.type == "cuda":
            fuse_adamw(wrapped)
        return wrapped

    @property
    def pipeline_schedule(self) -> OneForwardOneBackwardSchedule | None:
        """That of the legacy package's stages."""
        return self.schedule

    def _build_schedule(self) -> OneForwardOneBackwardSchedule | None:
        if self.layout.pipeline_parallel == 1:
            return None
        stages = PipelineStageManager(self.mesh.process_groups, pipeline_axis=1)
        return OneForwardOneBackwardSchedule(stages, num_microbatches=self.layout.num_microbatches)

    def _copies(self) -> list[tuple[Axes, list[nn.Parameter]]]:
        """Parameters by the axes whose ranks hold copies of them, each with the gradient of its own rows."""
        found: dict[Axes, list[nn.Parameter]] = {axes: [] for axes in all_copy_axes(self.mesh.grid)}
        for axes in found:
            self.mesh.group(*axes)  # takes every rank, whatever its stage holds
        for name, parameter in self.model.named_parameters():
            found[copy_axes(name, self.mesh.grid)].append(parameter)
        return [(axes, parameters) for axes, parameters in found.items() if self.mesh.size(axes) > 1]

    def seed_step(self, seed: int, step: int) -> None:
        """Every rank holds another part of every activation, so every rank draws other dropout."""
        self._seed(seed, step, dist.get_rank())

    def accumulate_gradients(self, batch: Batch) -> Tensor | None:
        """Forward and backward of all micro batches; every parameter then has the gradient of the global batch.

        The loss, which only the last stage has, is this rank's share of that of the global batch.
        """
        loss = self._accumulate(batch) if self.schedule is None else self._pipeline(batch)
        self._reduce_gradients()
        return loss

    def _loss_of(self, outputs: dict[str, Tensor], _: object = None) -> Tensor:
        # Gradients are summed over data parallelism, so its mean is taken here.
        return outputs["loss"] / self.layout.data_parallel

    def _pipeline(self, batch: Batch) -> Tensor | None:
        assert self.schedule is not None
        result = self.schedule.forward_backward_step(
            self.model, iter([batch]), self._loss_of, self.optimizer, return_loss=True
        )
        loss: Tensor | None = result["loss"]
        return loss

    def _accumulate(self, batch: Batch) -> Tensor:
        total = torch.zeros((), device=self.device)
        for index in range(self.num_microbatches):
            loss = self._loss_of(self.model(**self.micro_batch(batch, index))) / self.num_microbatches
            self.optimizer.backward(loss)
            total += loss.detach()
        return total

    def forward(self, batch: Batch) -> Tensor | None:
        """This rank's share of the mean loss of the global batch, which only the last stage has."""
        if self.schedule is not None:
            with forward_only(self.schedule):
                return self._pipeline(batch)
        return self._mean_of_micro_batches(batch, lambda rows: self._loss_of(self.model(**rows)))

    def _reduce_gradients(self) -> None:
        """Sum gradients over the copies of a parameter, in the working precision."""
        for axes, parameters in self._copied:
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            sum_over(self.mesh.group(*axes), gradients)
        if self._ends is not None:
            weight = self.model.transformer.wte.weight if self.position.stage == 0 else self.model.lm_head.weight
            dist.all_reduce(weight.grad, group=self._ends)

    def _global_mean(self, loss: Tensor | None) -> float:
        # Only the last stage has a loss; ranks that divide nothing but the vocabulary have the same one.
        if loss is None or self.position.stage < self.layout.pipeline_parallel - 1:
            return self._summed(None)
        return self._summed(loss.detach() / self.mesh.grid.edge)

    def full_parameters(self) -> dict[str, Tensor]:
        """The parameters of this rank's stage as in the unsharded model; every rank has to ask."""
        return self._whole({name: parameter.detach() for name, parameter in self.model.named_parameters()})

    def full_gradients(self) -> dict[str, Tensor]:
        """Their gradients after :meth:`accumulate_gradients` and where an update begins; every rank has to ask.

        For an update in mixed precision they have gone to the float32 copies of the parameters.
        """
        copies: dict[nn.Parameter, Tensor] = getattr(self.optimizer, "working_to_master_map", {})
        gradients = {
            name: copies[parameter].grad if parameter.grad is None and parameter in copies else parameter.grad
            for name, parameter in self.model.named_parameters()
        }
        return self._whole({name: gradient for name, gradient in gradients.items() if gradient is not None})

    def _whole(self, parts: dict[str, Tensor]) -> dict[str, Tensor]:
        return {self._whole_name(name): whole for name, whole in self.shards.whole(parts).items()}

    def _whole_name(self, name: str) -> str:
        return _TIED.get(name, name) if self.model_spec.tied_embeddings else name
