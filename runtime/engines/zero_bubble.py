"""The zero-bubble V schedule: Colossal-AI's, in the order that the planner timed, with what it gets wrong put right."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from colossalai.accelerator import get_accelerator
from colossalai.pipeline.schedule._utils import model_forward, require_grad, retain_grad
from colossalai.pipeline.schedule.zero_bubble_pp import ZeroBubbleVPipeScheduler
from colossalai.pipeline.weight_grad_store import WeightGradStore
from torch import Tensor

from runtime.engines.zero_bubble_order import Actions, forward_actions, step_actions
from runtime.patches import weight_gradients

Values = dict[str, Tensor]
"""What a chunk hands to the next one, or the gradients of that."""

STATES = "hidden_states"


class ZeroBubbleV(ZeroBubbleVPipeScheduler):  # type: ignore[misc]
    """The library's schedule with these corrections (colossalai 0.5.0: pipeline/schedule/zero_bubble_pp.py).

    - The order may change with the number of micro batches, which grows in some jobs, and is another one where stages
      recompute.
    - Sends are forgotten when a step ends, or before if they are done; the library waits for all there ever were
      (line 905), which gloo does not survive, and which keeps what was sent.
    - Forward alone has an order of its own. The library takes all devices' lists for one, drops the handles of its
      sends, and keeps what backward would need (lines 799-809).
    - The loss is scaled in fp16, as the optimizer divides by that scale later; the library begins backward with
      gradients it would have received (line 551).
    - Gradients find the values they are of by name, and whole numbers get none (lines 540, 684).
    """

    def __init__(self, library: ZeroBubbleVPipeScheduler, *, recomputes: bool) -> None:
        """Instead of ``library``, for as many stages, which recompute or do not, and micro batches."""
        manager = library.stage_manager
        self._step_actions = partial(step_actions, recomputes=recomputes)
        super().__init__(manager, [], library.num_model_chunks, library.num_microbatch)
        self._turns_here = manager.is_last_stage(ignore_chunk=True)
        self.wait_handles: list[Any] = []
        self._begins_here = manager.is_first_stage(ignore_chunk=True)

    def forget_shapes(self) -> None:
        """Describe anew what devices send each other, with the next message of each kind."""
        first, last = self._begins_here, self._turns_here
        self.send_tensor_metadata, self.send_grad_metadata = [not last, not first], [not first, not last]
        self.tensor_metadata_recv, self.grad_metadata_recv = [None, None], [None, None]

    def run_forward_only(
        self,
        model_chunk: Any,
        data_iter: Any,
        criterion: Callable[..., Any],
        return_loss: bool = False,
        return_outputs: bool = False,
    ) -> dict[str, Any]:
        """Forward of all micro batches; the first device gets their mean loss."""
        self.load_batch(data_iter)
        return self._run(forward_actions, model_chunk, criterion, None)

    def run_forward_backward(
        self,
        model_chunk: Any,
        data_iter: Any,
        criterion: Callable[..., Any],
        optimizer: Any = None,
        return_loss: bool = False,
        return_outputs: bool = False,
    ) -> dict[str, Any]:
        """Forward and backward of all micro batches; the first device gets their mean loss."""
        self.load_batch(data_iter)
        return self._run(self._step_actions, model_chunk, criterion, optimizer)

    def _run(
        self,
        actions_of: Callable[[int, int], tuple[Actions, ...]],
        model: Any,
        criterion: Callable[..., Any],
        optimizer: Any,
    ) -> dict[str, Any]:
        actions = actions_of(self.stage_manager.num_stages, self.num_microbatch)[self.stage_manager.stage]
        device = get_accelerator().get_current_device()
        total = torch.zeros((), device=device) if self._begins_here else None
        for action in actions:
            if action.type == "F":
                self._forward(action.chunk, model, criterion, total)
            elif action.type == "B":
                self._backward(action.chunk, optimizer)
            elif action.type == "W":
                weight_gradients.add_products(action.chunk)
            elif action.type in self.communication_map:
                handles = self.communication_map[action.type](action.chunk)
                if action.type.startswith("SEND"):
                    self._keep(handles)
        for handle in self.wait_handles:
            handle.wait()
        self.wait_handles = []
        return {"loss": total, "outputs": None}

    def _keep(self, handles: list[Any]) -> None:
        # A send holds what it sends until somebody has waited for it.
        waiting = []
        for handle in self.wait_handles:
            if handle.is_completed():
                handle.wait()
            else:
                waiting.append(handle)
        self.wait_handles = [*waiting, *handles]

    def _forward(self, chunk: int, model: Any, criterion: Callable[..., Any], total: Tensor | None) -> None:
        micro_batch = self.load_micro_batch(chunk)
        inputs = self._next_input(chunk)
        for value in (inputs or {}).values():
            if value.is_floating_point():
                require_grad(value)
        with self.stage_manager.switch_model_chunk_id(chunk):
            layers = self.stage_manager.stage_indices[chunk]
            outputs: Any = model_forward(model, micro_batch, {**(inputs or {}), "stage_index": layers})
        if total is not None and chunk == 1:
            outputs = criterion(outputs, micro_batch) / self.num_microbatch
            total += outputs.detach()
        else:
            sent = {name: value.detach().clone() for name, value in outputs.items()}
            here = self._turns_here and chunk == 0
            (self.local_send_forward_buffer if here else self.send_forward_buffer[chunk]).append(sent)
            if not self.forward_only:
                # Backward needs its graph, not its numbers.
                outputs[STATES].untyped_storage().resize_(0)
        if not self.forward_only:
            self.input_tensors[chunk].append(inputs)
            self.output_tensors[chunk].append(outputs)

    def _next_input(self, chunk: int) -> Values | None:
        if chunk == 0 and self._begins_here:
            return None
        if chunk == 1 and self._turns_here:
            own: Values = self.local_send_forward_buffer.pop(0)
            return own
        return _received(self.recv_forward_buffer[chunk])

    def _backward(self, chunk: int, optimizer: Any) -> None:
        inputs, outputs = self.input_tensors[chunk].pop(0), self.output_tensors[chunk].pop(0)
        for value in (inputs or {}).values():
            retain_grad(value)
        if chunk == 1 and self._begins_here:
            begin_backward(optimizer, outputs)
        else:
            here = self._turns_here and chunk == 0
            found = self.local_send_backward_buffer.pop(0) if here else _received(self.recv_backward_buffer[chunk])
            optimizer.backward_by_grad([outputs[name] for name in found], list(found.values()))
        WeightGradStore.flush(chunk)
        if inputs is not None:
            gradients = {name: value.grad for name, value in inputs.items() if value.grad is not None}
            here = self._turns_here and chunk == 1
            (self.local_send_backward_buffer if here else self.send_backward_buffer[chunk]).append(gradients)


def begin_backward(optimizer: Any, loss: Tensor) -> None:
    """Backward of a micro batch from its loss, which the optimizer scales."""
    optimizer.backward(loss)


def _received(buffer: list[Any]) -> Values:
    values, handles = buffer.pop(0)
    for handle in handles:
        handle.wait()
    found: Values = values
    return found
