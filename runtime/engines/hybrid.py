"""Training through HybridParallelPlugin: everything but ZeRO stage 3."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from colossalai.booster import Booster
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import AdamW, Optimizer

from planner.layouts.compilation import in_one_pass, is_compiled, reduces_itself, shards_itself
from planner.layouts.layout import columns_of
from planner.plans.plan import Plan
from runtime.compiled import can_compile, compile_regions, leave_out_collectives, without_ddp
from runtime.engines.engine import Batch, Engine, mixed_seed
from runtime.engines.plugins import ExpertPlugin, hybrid_plugin
from runtime.engines.schedules import forward_only
from runtime.engines.sharding import Sharding, reduce_behind_backward, share_without_barrier
from runtime.patches import rotary
from runtime.patches.host_accelerator import Device
from runtime.patches.policy import ReplicatedDropout
from runtime.patches.weight_gradients import defer_products
from runtime.recompute import recompute_blocks
from runtime.states.documents import Documents
from runtime.states.mixed_adamw import MixedAdamW, update_in_one_pass
from runtime.states.model import DTYPES, blocks_of, build_model
from runtime.states.optimizers import decay_groups, fuse_adamw
from runtime.states.placement import held_experts, held_layers, recomputed_layers


class HybridEngine(Engine):
    """A boosted model and its optimizer on this rank."""

    _sharding: Sharding | None = None
    attention: str | None = None
    """What Transformers calls the attention to use instead of the family's own."""

    def __init__(
        self,
        plan: Plan,
        device: Device,
        *,
        seed: int,
        learning_rate: float,
        optimizer: Callable[..., Optimizer] | None = None,
        end_of_document: int | None = None,
    ) -> None:
        """Build this rank's part of the model; every rank of the process group must do so.

        With ``end_of_document`` the documents of a sequence, which end with that token, are kept apart.

        Raises:
            PlanError: the runtime cannot execute the plan's layout.
        """
        super().__init__(plan, device)
        self._replicated: ReplicatedDropout | None = None
        self.compiles = is_compiled(plan.problem, plan.layout) and can_compile(self.device)
        documents = None if end_of_document is None else Documents(end_of_document)
        model = self._build(plan, seed, documents)
        columns = columns_of(plan.layout)
        shards = self.compiles and bool(shards_itself(plan.problem, columns)[0])
        at_once = self.compiles and optimizer is None
        at_once = at_once and bool(in_one_pass(plan.problem, columns)[0])
        make = optimizer or (MixedAdamW if at_once else AdamW)
        plain_optimizer = make(decay_groups(model), lr=learning_rate)
        self.plugin = hybrid_plugin(plan, device)
        self.booster = Booster(plugin=self.plugin)
        alone = self.compiles and plan.layout.data_parallel == plan.layout.sequence_parallel_degree == 1
        self._reduces = self.compiles and bool(reduces_itself(plan.problem, columns)[0])
        self._boost(model, plain_optimizer, wrapped=not alone and not self._reduces)
        if at_once and not shards:
            update_in_one_pass(self.optimizer)
        elif type(plain_optimizer) is AdamW and device == "cuda":
            fuse_adamw(self.optimizer)
        if shards:
            self._sharding = Sharding(
                self.model, self.optimizer, lambda: self.num_microbatches, stage=plan.layout.zero_stage
            )
        elif self._reduces:
            reduce_behind_backward(self.model, lambda: self.num_microbatches)
        if self.compiles and plan.layout.pipeline_parallel > 1:
            share_without_barrier(self.model)

    def _boost(self, model: Any, optimizer: Optimizer, *, wrapped: bool) -> None:
        """Have the library divide and wrap both, by DDP too if they are ``wrapped``, and put right what it leaves."""
        with contextlib.nullcontext() if wrapped else without_ddp():
            self.model, self.optimizer, *_ = self.booster.boost(model, optimizer)
        if not wrapped:
            self.model.use_ddp = False
        rotary.keep_wave_lengths(self.model)
        if self.layout.schedule == "zbv":
            defer_products(blocks_of(self.model.unwrap()))
        if self.compiles:
            leave_out_collectives(self.model)

    def _build(self, plan: Plan, seed: int, documents: Documents | None) -> Any:
        layout, stage = self.layout, self.position.stage
        held: dict[str, Any] = {"layers": held_layers(layout, stage), "dtype": DTYPES[layout.precision]}
        if (routed := plan.problem.model.experts) is not None:
            held["experts"] = held_experts(layout, routed.count, self.position.expert)
        model = build_model(plan.problem.model, seed, attention=self.attention, **held)
        if self.compiles:
            defers = layout.schedule == "zbv"
            compile_regions(model, recomputes_pointwise=layout.recompute_pointwise, defers=defers)
        recomputed = recomputed_layers(layout, stage)
        # W looks for weights where checkpoints that keep a graph put copies of them.
        without_graph = layout.sequence_parallel or layout.schedule == "zbv"
        recompute_blocks(model, recomputed, without_graph=without_graph, documents=documents)
        if layout.sequence_parallel and hasattr(model.base_model, "drop"):
            # Embedded, a sequence is still whole on every rank; in the blocks each rank has a slice.
            self._replicated = model.base_model.drop = ReplicatedDropout(plan.problem.model.dropout)
        self.seed_step(seed, 0)
        return model

    def seed_step(self, seed: int, step: int) -> None:
        """Dropout differs where activations differ, and agrees on the replicas of tensor parallelism."""
        place = (seed, step, self.position.data, self.position.stage)
        slice_of_sequence = self.position.tensor if self.layout.sequence_parallel else self.position.sequence
        self._seed(*place, slice_of_sequence)
        if self._replicated is not None:
            self._replicated.seed(mixed_seed(*place))

    def complete_weights(self) -> None:
        """Wait for weights that are still being gathered."""
        if self._sharding is not None:
            self._sharding.complete_weights()

    @property
    def pipeline_schedule(self) -> Any:
        """That of the plugin."""
        return self.plugin.scheduler

    def settle(self, batch: Batch) -> None:
        """Let torch's DDP lay out its buckets anew, as it does after the first backward.

        Sums over three and more ranks are rounded by their place in a bucket.
        """
        if isinstance(self.model.module, DistributedDataParallel):
            self.accumulate_gradients({name: tensor.to(self.device) for name, tensor in batch.items()})
            self.optimizer.zero_grad()

    def accumulate_gradients(self, batch: Batch) -> Tensor | None:
        """Forward and backward of all micro batches; their mean loss, which only the last stage has."""
        return self._pipeline(batch) if self.layout.pipeline_parallel > 1 else self._accumulate(batch)

    def _pipeline(self, batch: Batch) -> Tensor | None:
        result = self.booster.execute_pipeline(
            iter([batch]), self.model, lambda outputs, _: outputs["loss"], self.optimizer, return_loss=True
        )
        loss: Tensor | None = result["loss"]
        return loss

    def forward(self, batch: Batch) -> Tensor | None:
        """The mean loss of all micro batches, which only the last stage has."""
        if self.layout.pipeline_parallel > 1:
            # The library would reduce gradients, of which there are none.
            with self.model.no_sync(), forward_only(self.plugin.scheduler):
                return self._pipeline(batch)
        return self._mean_of_micro_batches(batch, lambda rows: self.model(**rows)["loss"])

    def _accumulate(self, batch: Batch) -> Tensor:
        total = torch.zeros((), device=self.device)
        for index in range(self.num_microbatches):
            is_last = index == self.num_microbatches - 1
            with contextlib.nullcontext() if is_last else self._no_sync():
                loss = self.model(**self.micro_batch(batch, index))["loss"] / self.num_microbatches
                self.optimizer.backward(loss)
            total += loss.detach()
        if self._reduces or (isinstance(self.plugin, ExpertPlugin) and not self.layout.zero_stage):
            self.model.sync_dp_grads()  # torch's DDP does it elsewhere
        return total

    @contextlib.contextmanager
    def _no_sync(self) -> Iterator[None]:
        # ZeRO-2 keeps only its own part of a gradient, so it reduces every micro batch.
        if self.layout.zero_stage > 1:
            with self._no_sequence_sync():
                yield
        else:
            with self.booster.no_sync(self.model, self.optimizer):
                yield

    @contextlib.contextmanager
    def _no_sequence_sync(self) -> Iterator[None]:
        # The library would sum the accumulated gradient over the sequence again after every micro
        # batch; once, after the last, is right.
        self.optimizer._sync_sp_grads = lambda: None
        try:
            yield
        finally:
            del self.optimizer._sync_sp_grads
