"""ZeRO stages 1 and 2 with fewer passes over memory, and communication behind backward and forward.

The library's optimizer (colossalai 0.5.0: zero/low_level/low_level_optim.py) stays for what it set up: which part of
every parameter a rank updates, in float32. What it does in a step is done here. Its own copies gradients into buckets,
divides them there, takes the norm of all of them in float64, casts a part to float32, updates, casts the weights and
gathers them, and the host waits for the device after backward and for every norm.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from colossalai.shardformer.layer.utils import SeqParallelUtils
from torch import Tensor

from runtime.engines.gathering import Gathering, uses_of
from runtime.engines.reduction import Reduction, Scattering, ScatteringAll
from runtime.states.mixed_adamw import MixedAdamW, hold_halves


class Sharding:
    """Takes the place of the steps of a boosted optimizer under ZeRO stage 1 or 2."""

    def __init__(self, model: Any, optimizer: Any, num_microbatches: Callable[[], int], *, stage: int) -> None:
        """Replace what ``optimizer`` does in backward and in a step, which has ``num_microbatches`` of the former."""
        self._model, self._optimizer, self._plain = model, optimizer, optimizer.optim
        self._num_microbatches, self._passes = num_microbatches, 0
        working_of: dict[Tensor, Tensor] = {
            master: optimizer.master_to_working_param[id(master)]
            for group in self._plain.param_groups
            for master in group["params"]
        }
        wholes: dict[Tensor, Tensor] = optimizer._working_param_to_padded_working_param
        parameters = list(working_of.values())
        for one in parameters:
            assert one.data_ptr() == wholes[one].data_ptr(), "a weight lies in what is gathered"
        store = optimizer.pid_to_bucket_store[id(parameters[0])]
        self._parts = {one: wholes[one].chunk(store.world_size)[store.local_rank] for one in parameters}
        self._working = self._in_halves(working_of) if isinstance(self._plain, MixedAdamW) else working_of
        for handle in optimizer.grad_handles:
            handle.remove()
        optimizer.grad_handles.clear()
        kind = Scattering if stage == 1 else ScatteringAll
        in_pipeline = model.stage_manager is not None
        self._of_slices = [] if in_pipeline else [one for one in parameters if _of_slice(one)]
        late = late_gradients(model) if in_pipeline else ()
        self._reduction = kind(parameters, store.torch_pg, num_microbatches, late)
        self._gathering = Gathering(uses_of(model, parameters), wholes, store.torch_pg)
        self._scaling = optimizer.mixed_precision_mixin
        self._scaling.check_local_overflow = lambda: overflow(self._reduction.shards.values())
        for name in ("backward", "backward_by_grad", "sync_dp_grads", "step", "zero_grad"):
            setattr(optimizer, name, getattr(self, name))

    def _in_halves(self, working_of: dict[Tensor, Tensor]) -> dict[Tensor, Tensor]:
        """Have the update hold the lower halves of its weights; parameters by those."""
        halves = hold_halves(self._plain, {master: self._parts[one] for master, one in working_of.items()})
        found = dict(zip(halves, working_of.values(), strict=True))
        self._optimizer.master_to_working_param = {id(rest): working for rest, working in found.items()}
        self._optimizer.working_to_master_param = {id(working): rest for rest, working in found.items()}
        self._optimizer._master_param_groups_of_current_rank.clear()
        return found

    def backward(self, loss: Tensor, inputs: Any = None, retain_graph: bool = False) -> None:
        """Add to the gradients; those of the last micro batch are reduced meanwhile."""
        scaled = self._scaling.pre_backward(loss)
        scaled.backward(inputs=inputs, retain_graph=retain_graph)
        self._after_backward()

    def backward_by_grad(self, tensor: Any, grad: Any, inputs: Any = None, retain_graph: bool = False) -> None:
        """The same from a gradient that another stage sent."""
        scaled = self._scaling.pre_backward_by_grad(tensor, grad)
        torch.autograd.backward(tensor, scaled, inputs=inputs, retain_graph=retain_graph)
        self._after_backward()

    def _after_backward(self) -> None:
        if self._model.stage_manager is not None:
            return  # the plugin asks for the rest, after what it adds to gradients itself
        self._passes += 1
        if self._passes == self._num_microbatches():
            self._reduction.finish()
        elif self._reduction.every_microbatch:
            self._reduction.start()

    def sync_dp_grads(self) -> None:
        """Reduce what is left after the last micro batch of a pipeline."""
        self._reduction.finish()

    def step(self, closure: Any = None) -> None:
        """Update this rank's part of every weight, and begin to gather the others; nothing where gradients overflow."""
        self._reduction.wait()
        if self._of_slices:
            self._model.sync_sp_grads([self._reduction.shards[one] for one in self._of_slices])
        if self._scaling.should_skip_step():
            self.zero_grad()
            return
        scale, shards = 1.0 / self._scaling.get_grad_div_scale(), self._reduction.shards
        if isinstance(self._plain, MixedAdamW):
            for rest, working in self._working.items():
                rest.grad = shards[working]
            self._plain.step()
        else:
            gradients = [shards[working].to(master.dtype) for master, working in self._working.items()]
            torch._foreach_mul_(gradients, scale)
            for master, gradient in zip(self._working, gradients, strict=True):
                master.grad = gradient
            gradients.clear()
            self._plain.step()
            torch._foreach_copy_([self._parts[one] for one in self._working.values()], list(self._working))
        for updated in self._working:
            updated.grad = None
        self._gathering.start()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        self._reduction.reset()
        self._passes = 0
        for working in self._working.values():
            working.grad = None

    def complete_weights(self) -> None:
        """Have what follows find all weights whole, and not be overwritten by what is still being gathered."""
        self._gathering.complete()


def overflow(gradients: Iterable[Tensor]) -> bool:
    """Whether a gradient in fp16 is no number, told by one pass over all of them."""
    norms = torch._foreach_norm(list(gradients), 2, dtype=torch.float32)
    return not bool(torch.stack(norms).isfinite().all())


def reduce_behind_backward(model: Any, num_microbatches: Callable[[], int]) -> None:
    """Reduce gradients without ZeRO behind the last backward, where the library does after it, or by DDP's buckets."""
    parameters = [one for one in model.module.parameters() if one.requires_grad]
    reduction = Reduction(parameters, model.dp_group, num_microbatches, late_gradients(model))

    def rest() -> None:
        reduction.finish()
        reduction.reset()

    model.sync_dp_grads = rest


def share_without_barrier(model: Any) -> None:
    """Sum the gradients of weights that two stages share, with nobody else waiting for them.

    The library has all ranks wait for each other after it (booster/plugin/hybrid_parallel_plugin.py:131-136), and so
    the hosts for the devices.
    """

    def share() -> None:
        for stages, group in zip(model.shared_params, model.shared_param_process_groups, strict=True):
            if model.stage_manager.stage in stages:
                dist.all_reduce(stages[model.stage_manager.stage].grad, group=group)

    model.sync_shared_params = share


def late_gradients(model: Any) -> list[Tensor]:
    """Parameters to whose gradients the library adds after the last backward.

    Those that two stages share, and those of which ranks that divide sequences have parts.
    """
    shared = [one for stages in model.shared_params for one in stages.values()]
    return shared + [one for one in model.module.parameters() if _of_slice(one)]


def _of_slice(parameter: Tensor) -> bool:
    """Whether a rank's gradient is that of its slice of the sequence alone."""
    return SeqParallelUtils.is_sp_partial_derived_param(parameter)
