"""Gradients of weights apart from those of activations, as zero-bubble schedules run them.

Under such a schedule a product of a block makes the gradient of its input in B, and leaves that of its weight to a
store of Colossal-AI, from which W takes it. Everything else makes all its gradients in B: norms, biases, the
embedding, and the loss head, whose store would have to keep the gradients of logits.
"""

from collections.abc import Iterable
from typing import Any

import torch
from colossalai.pipeline.weight_grad_store import WeightGradStore
from colossalai.shardformer.layer import GPT2FusedLinearConv1D_Row, Linear1D_Row
from colossalai.shardformer.layer._operation import (
    linear_with_grad_accum,
    matmul_with_grad_comm,
    reduce_forward,
    reducescatter_forward_gather_backward,
)
from colossalai.shardformer.layer.linear import LinearWithGradAccum
from colossalai.shardformer.layer.qkv_fused_linear import GPT2FusedLinearConv
from colossalai.shardformer.layer.utils import execute_conv1d_w_pass, execute_conv1d_w_pass_grad_accum
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from runtime.patches.compiled_products import defer_all

_UNDIVIDED = (LinearWithGradAccum, GPT2FusedLinearConv)
"""What policies of the library put in the place of products that nothing divides."""


class DeferredLinear(nn.Linear):
    """PyTorch's product; nothing divides it."""

    def forward(self, states: Tensor) -> Tensor:
        """``[..., inputs]`` to ``[..., outputs]``."""
        product: Tensor = linear_with_grad_accum(states, self.weight, self.bias, False, True)
        return product


class DeferredConv1D(Conv1D):  # type: ignore[misc]
    """That of GPT-2, whose weight is ``[inputs, outputs]``; nothing divides it."""

    def forward(self, states: Tensor) -> Tensor:
        """``[..., inputs]`` to ``[..., outputs]``."""
        product: Tensor = matmul_with_grad_comm(states, self.weight, self.bias, False, True)
        return product


class DeferredRow(Linear1D_Row):  # type: ignore[misc]
    """Row-parallel; the library defers it under sequence parallelism alone (shardformer/layer/linear.py:578-588)."""

    def forward(self, states: Tensor) -> Tensor:
        """``[..., inputs / degree]`` to ``[..., outputs]``, or under sequence parallelism a slice of those."""
        if self.seq_parallel_mode == "split_gather":
            product: Tensor = super().forward(states)
            return product
        product = reduce_forward(linear_with_grad_accum(states, self.weight, None, False, True), self.process_group)
        return product if self.bias is None else product + self.bias


class DeferredConv1DRow(GPT2FusedLinearConv1D_Row):  # type: ignore[misc]
    """That of GPT-2; the library never defers it (colossalai 0.5.0: shardformer/layer/qkv_fused_linear.py:617-627)."""

    def forward(self, states: Tensor) -> Tensor:
        """``[..., inputs / degree]`` to ``[..., outputs]``, or under sequence parallelism a slice of those."""
        product = matmul_with_grad_comm(states, self.weight, None, False, True)
        if self.seq_parallel_mode == "split_gather":
            product = reducescatter_forward_gather_backward(product, self.process_group, 1)
        else:
            product = reduce_forward(product, self.process_group)
        return product if self.bias is None else product + self.bias


_DEFERRED: dict[type, type] = {
    nn.Linear: DeferredLinear,
    Conv1D: DeferredConv1D,
    Linear1D_Row: DeferredRow,
    GPT2FusedLinearConv1D_Row: DeferredConv1DRow,
}


def leave_undivided(policy: dict[Any, Any]) -> None:
    """Take the library's own layers for products that nothing divides out of a policy.

    They compare a count of layers with all ranks when they are made, and wait forever where devices hold unequally
    many (colossalai 0.5.0: shardformer/layer/linear.py:93); those for GPT-2 raise (shardformer/policies/gpt2.py:147).
    """
    for description in policy.values():
        description.sub_module_replacement = [
            replacement
            for replacement in description.sub_module_replacement or []
            if replacement.target_module not in _UNDIVIDED
        ]


def defer_products(blocks: Iterable[nn.Module]) -> None:
    """Have all products of ``blocks`` leave the gradients of their weights to W; to be called after boosting."""
    for block in blocks:
        if defer_all(block):
            continue
        module: Any
        for module in block.modules():
            if type(module) in _DEFERRED:
                module.__class__ = _DEFERRED[type(module)]
            if hasattr(module, "use_zbv"):
                module.use_zbv = True


@torch.no_grad()
def add_products(chunk: int = 0) -> None:
    """Run W: add the products that the oldest B of a chunk has left to the gradients of their weights.

    The library makes a product and drops it, but for that of the first micro batch, unless a kernel of apex is there
    (colossalai 0.5.0: pipeline/weight_grad_store.py:30,37).
    """
    for inputs, gradients, holder, product in WeightGradStore.weight_grad_queue[chunk].get_nowait():
        weight = holder[1] if isinstance(holder, tuple) else holder
        transposed = product.func in (execute_conv1d_w_pass, execute_conv1d_w_pass_grad_accum)
        left, right = (inputs, gradients) if transposed else (gradients, inputs)
        if weight.grad is None:
            weight.grad = left.t() @ right
        else:
            weight.grad.addmm_(left.t(), right)
