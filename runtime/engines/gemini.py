"""Training through GeminiPlugin: ZeRO stage 3, which gathers weights chunk by chunk where they are used."""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from colossalai.booster import Booster
from colossalai.nn.optimizer import CPUAdam, FusedAdam, HybridAdam
from torch import Tensor
from torch.optim import Optimizer

from planner.diagnostics import Diagnostic, ExitCode, PlanError
from planner.plans.plan import Plan
from runtime.engines.engine import Batch, Engine
from runtime.engines.plugins import gemini_plugin
from runtime.patches import rotary
from runtime.patches.experts import route_tokens
from runtime.patches.gemini_shares import count_chunks_once
from runtime.patches.host_accelerator import Device
from runtime.patches.policy import mean_loss
from runtime.patches.router_loss import RouterTally
from runtime.recompute import recompute_blocks
from runtime.states.documents import Documents
from runtime.states.model import DTYPES, blocks_of, build_lazy_model
from runtime.states.optimizers import decay_groups, host_adam
from runtime.states.placement import recomputed_layers

ACCEPTED_OPTIMIZERS = (FusedAdam, CPUAdam, HybridAdam)
"""What Colossal-AI's GeminiOptimizer asserts its optimizer to be, exactly."""


class GeminiEngine(Engine):
    """A model in chunks that the ranks share, and its optimizer."""

    def __init__(
        self,
        plan: Plan,
        device: Device,
        *,
        seed: int,
        learning_rate: float,
        optimizer: Callable[..., Optimizer] = host_adam,
        end_of_document: int | None = None,
    ) -> None:
        """Draw and divide the weights one by one; every rank of the process group must do so.

        The library takes no ``optimizer`` but its own AdamW. With ``end_of_document`` the documents of a sequence,
        which end with that token, are kept apart.

        Raises:
            PlanError: the runtime cannot execute the plan's layout, or the library does not take the optimizer.
        """
        super().__init__(plan, device)
        model = build_lazy_model(plan.problem.model, seed, dtype=DTYPES[self.layout.precision])
        route_tokens(model)
        self._documents = None if end_of_document is None else Documents(end_of_document)
        if self._documents is not None:
            rotary.attend_as_divided(model)
        recompute_blocks(model, recomputed_layers(self.layout, stage=0), documents=self._documents)
        self.seed_step(seed, 0)
        plain_optimizer = optimizer(decay_groups(model), lr=learning_rate)
        if type(plain_optimizer) not in ACCEPTED_OPTIMIZERS:
            accepted = ", ".join(kind.__name__ for kind in ACCEPTED_OPTIMIZERS)
            message = f"rank {dist.get_rank()}: ZeRO stage 3 takes {accepted}, not {type(plain_optimizer).__name__}"
            hint = "leave the optimizer to gptplan, or use HybridAdam of colossalai.nn.optimizer"
            raise PlanError(Diagnostic(rule="RUN013", message=message, hint=hint), exit_code=ExitCode.NEGATIVE)
        count_chunks_once()
        self.booster = Booster(plugin=gemini_plugin(plan))
        self.model, self.optimizer, *_ = self.booster.boost(model, plain_optimizer)
        rotary.keep_wave_lengths(self.model)

    def accumulate_gradients(self, batch: Batch) -> Tensor:
        """Forward and backward of all micro batches; their mean loss."""
        # The library leaves this set when it skips a step whose gradients overflowed, and would
        # add the next ones to them.
        self.model.chunk_manager.accumulating_grads = False
        total = torch.zeros((), device=self.device)
        for index in range(self.num_microbatches):
            loss = self._loss(self.micro_batch(batch, index)) / self.num_microbatches
            self.optimizer.backward(loss)
            total += loss.detach()
        return total

    def _loss(self, rows: Batch) -> Tensor:
        inputs: dict[str, Any] = {"input_ids": rows["input_ids"]}
        if self._documents is not None:
            positions = self._documents.read(rows["input_ids"])
            # Rotations tell distances, and with some scalings depend on the longest one of a batch.
            inputs |= {"position_ids": positions} if self.model_spec.family == "gpt2" else {}
        model = self.model.module
        tally = RouterTally.of(model, {}, self.device)
        outputs = self.model(**inputs, **({} if tally is None else {"output_router_logits": True}))
        loss = mean_loss(outputs["logits"], rows["labels"])
        if tally is None:
            return loss
        for scores, block in zip(outputs["router_logits"], blocks_of(model), strict=True):
            tally = tally.plus(scores, block.block_sparse_moe)
        return loss + tally.loss(model.config)

    def forward(self, batch: Batch) -> Tensor:
        """The mean loss of all micro batches."""
        return self._mean_of_micro_batches(batch, self._loss)
