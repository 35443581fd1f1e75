"""From a layout to a model, an optimizer and one training step on Colossal-AI."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from colossalai.booster import Booster
from colossalai.booster.plugin import HybridParallelPlugin
from torch import Tensor
from torch.optim import AdamW, Optimizer

from planner.layout import Layout
from planner.plan import Plan
from runtime.adapter import Device
from runtime.model import ATTENTION, DTYPES, ShardPolicy, build_model
from runtime.support import check_supported

FUSED_ON_HOST = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 4)
"""Whether this PyTorch has a fused AdamW for parameters in host memory."""

Batch = dict[str, Tensor]
"""``input_ids`` and ``labels`` of the sequences of one data-parallel rank, one row each."""


@dataclass(frozen=True)
class Position:
    """Where a rank stands; data-parallel outermost, tensor-parallel ranks next to each other."""

    data: int
    stage: int
    tensor: int

    @classmethod
    def of(cls, rank: int, layout: Layout) -> "Position":
        """The position of ``rank`` in ``layout``."""
        rank, tensor = divmod(rank, layout.tensor_parallel)
        data, stage = divmod(rank, layout.pipeline_parallel)
        return cls(data, stage, tensor)


def make_plugin(plan: Plan, device: Device) -> HybridParallelPlugin:
    """The plugin that divides the model as the layout says."""
    layout = plan.layout
    pipeline: dict[str, Any] = {}
    if layout.pipeline_parallel > 1:
        pipeline = {
            "pp_style": "1f1b",
            "num_microbatches": layout.num_microbatches,
            "num_layers_per_stage": list(layout.layers_per_stage),
        }
    return HybridParallelPlugin(
        tp_size=layout.tensor_parallel,
        pp_size=layout.pipeline_parallel,
        zero_stage=layout.zero_stage,
        precision=layout.precision,
        cpu_offload=layout.offload.optimizer == 1.0,
        make_vocab_size_divisible_by=plan.problem.stack.vocab_multiple,
        # Reduction behind backward needs a second stream.
        overlap_communication=device == "cuda",
        custom_policy=ShardPolicy(),
        **pipeline,
    )


class Trainer:
    """A boosted model and its optimizer on this rank."""

    def __init__(
        self,
        plan: Plan,
        device: Device,
        *,
        seed: int,
        learning_rate: float,
        optimizer: type[Optimizer] = AdamW,
        attention: str = ATTENTION,
    ) -> None:
        """Build this rank's part of the model; every rank of the process group must do so.

        Raises:
            PlanError: the runtime cannot execute the plan's layout.
        """
        check_supported(plan)
        self.layout = plan.layout
        self.position = Position.of(dist.get_rank(), self.layout)
        start = sum(self.layout.layers_per_stage[: self.position.stage])
        layers = range(start, start + self.layout.layers_per_stage[self.position.stage])
        share = self.layout.micro_batch * self.layout.num_microbatches
        self.rows = slice(self.position.data * share, (self.position.data + 1) * share)
        """The rows of a global batch that belong to this rank."""
        dtype = DTYPES[self.layout.precision]
        model = build_model(plan.problem.model, seed, layers=layers, dtype=dtype, attention=attention)
        if any(self.layout.recompute_layers_per_stage):
            model.gradient_checkpointing_enable({"use_reentrant": False})
        # Dropout differs where activations differ and agrees on the replicas of tensor parallelism.
        torch.manual_seed(seed + 1 + self.position.data * self.layout.pipeline_parallel + self.position.stage)
        plain_optimizer = optimizer(model.parameters(), lr=learning_rate)  # type: ignore[call-arg]
        self.plugin = make_plugin(plan, device)
        self.booster = Booster(plugin=self.plugin)
        self.model, self.optimizer, *_ = self.booster.boost(model, plain_optimizer)
        if optimizer is AdamW and device == "cuda":
            _fuse(self.optimizer)
        self.device = torch.device(device, torch.cuda.current_device()) if device == "cuda" else torch.device(device)

    def set_learning_rate(self, learning_rate: float) -> None:
        """Use ``learning_rate`` from the next step on."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate

    def step(self, batch: Batch) -> float:
        """One optimizer step on this rank's share of the global batch; the loss of the whole batch."""
        batch = {name: tensor.to(self.device) for name, tensor in batch.items()}
        if self.layout.pipeline_parallel > 1:
            loss = self._pipeline(batch)
        else:
            loss = self._accumulate(batch)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return self._global_mean(loss)

    def _pipeline(self, batch: Batch) -> Tensor | None:
        result = self.booster.execute_pipeline(
            iter([batch]), self.model, lambda outputs, _: outputs["loss"], self.optimizer, return_loss=True
        )
        loss: Tensor | None = result["loss"]
        return loss

    def _accumulate(self, batch: Batch) -> Tensor:
        total = torch.zeros((), device=self.device)
        for index in range(self.layout.num_microbatches):
            rows = slice(index * self.layout.micro_batch, (index + 1) * self.layout.micro_batch)
            is_last = index == self.layout.num_microbatches - 1
            with contextlib.nullcontext() if is_last else self._no_sync():
                loss = self.model(**{name: tensor[rows] for name, tensor in batch.items()})["loss"]
                loss = loss / self.layout.num_microbatches
                self.optimizer.backward(loss)
            total += loss.detach()
        return total

    @contextlib.contextmanager
    def _no_sync(self) -> Iterator[None]:
        # ZeRO-2 keeps only its own part of a gradient, so it reduces every micro batch.
        if self.layout.zero_stage > 1:
            yield
        else:
            with self.booster.no_sync(self.model, self.optimizer):
                yield

    def _global_mean(self, loss: Tensor | None) -> float:
        # Only the last stage has a loss; all data-parallel ranks see equally many tokens.
        is_last_stage = self.position.stage == self.layout.pipeline_parallel - 1
        share = torch.zeros((), dtype=torch.float64, device=self.device)
        if loss is not None and is_last_stage and self.position.tensor == 0:
            share += loss.detach() / self.layout.data_parallel
        dist.all_reduce(share)
        return float(share)


def _fuse(optimizer: Any) -> None:
    # One kernel in place of PyTorch's default on GPUs, whose temporaries take four bytes a parameter,
    # and of its loop over parameters on the host. Set after boosting, where the parameters are.
    on_host = any(parameter.is_cpu for group in optimizer.param_groups for parameter in group["params"])
    if on_host and not FUSED_ON_HOST:
        return
    for group in optimizer.param_groups:
        group["fused"], group["foreach"] = True, False
