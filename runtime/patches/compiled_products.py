"""Gradients of weights put off where a block is compiled with its products, which can leave nothing to a store.

A product hands out its input in forward, and in backward the gradient of its output, as that of a probe: a tensor of
the output's shape that nothing reads. Both are results of the compiled region, which it does not write to again. They
go to the store of Colossal-AI when backward of the block is done.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from colossalai.pipeline.weight_grad_store import WeightGradStore
from colossalai.shardformer.layer.utils import execute_conv1d_w_pass, execute_w_pass
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

LIBRARY = "colossalai.shardformer.layer"
"""Where its layers are, which talk to other ranks."""
_DEFERRING = "deferring"
"""Attribute of a block: what :func:`let_defer` put there."""


class CompiledLinear(nn.Linear):
    """PyTorch's product."""

    make_gradient = staticmethod(partial(execute_w_pass, wgrad_gemm_func=torch.matmul))
    probe: Tensor | None = None
    inputs: Tensor | None = None

    def forward(self, states: Tensor) -> Tensor:
        """``[..., inputs]`` to ``[..., outputs]``."""
        return _product(self, states, self.weight)


class CompiledConv1D(Conv1D):  # type: ignore[misc]
    """That of GPT-2, whose weight is ``[inputs, outputs]``."""

    make_gradient = staticmethod(partial(execute_conv1d_w_pass, wgrad_gemm_func=torch.matmul))
    probe: Tensor | None = None
    inputs: Tensor | None = None

    def forward(self, states: Tensor) -> Tensor:
        """``[..., inputs]`` to ``[..., outputs]``."""
        return _product(self, states, self.weight.t())


KINDS: dict[type, type] = {nn.Linear: CompiledLinear, Conv1D: CompiledConv1D}


class _Product(torch.autograd.Function):
    """A product whose backward leaves out its weight."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, probe: Tensor) -> Tensor:
        """``[..., inputs]`` and ``[outputs, inputs]`` to ``[..., outputs]``, of which shape ``probe`` is."""
        ctx.save_for_backward(weight)
        ctx.has_bias = bias is not None
        return functional.linear(states, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, Tensor | None, Tensor]:
        """Of the input, of no weight, of the bias and, for the probe, of the output."""
        (weight,) = ctx.saved_tensors
        return gradient @ weight, None, gradient.flatten(0, -2).sum(0) if ctx.has_bias else None, gradient


def _product(module: Any, states: Tensor, weight: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        return functional.linear(states, weight, module.bias)
    module.inputs = states.detach()
    product: Tensor = _Product.apply(states, weight, module.bias, module.probe)  # type: ignore[no-untyped-call]
    return product


class _Probes(torch.autograd.Function):
    """Probes of a block, by whose gradients it leaves products to the store."""

    @staticmethod
    def forward(ctx: Any, _: Tensor, shape: torch.Size, zero: Tensor, products: list[Any], inputs: list[Tensor]) -> Any:
        """One for each product of states ``[*shape, ...]``; ``inputs`` is filled later."""
        ctx.set_materialize_grads(False)
        ctx.products, ctx.inputs = products, inputs
        return tuple(zero.expand(*shape, _outputs(product)) for product in products)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, ...]:
        """Leave each product's input and gradient to W."""
        for product, inputs, gradient in zip(ctx.products, ctx.inputs, gradients, strict=True):
            WeightGradStore.put(
                inputs.flatten(0, -2), gradient.contiguous().flatten(0, -2), product.weight, product.make_gradient
            )
        del ctx.inputs
        return (None,) * 5


def _outputs(product: Any) -> int:
    return int(product.nf if isinstance(product, Conv1D) else product.out_features)


class Deferring:
    """Forward of a compiled block, whose backward leaves ``products`` to the store and makes all other gradients."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        """Around ``forward``, which is compiled."""
        self.forward, self.products = forward, list[Any]()
        self._zero: Tensor | None = None
        self._leaf = torch.zeros((), requires_grad=True)

    def __call__(self, *inputs: Any, **settings: Any) -> Any:
        """What forward returns; its first input is the states, ``[..., hidden]``."""
        if not self.products or not torch.is_grad_enabled():
            return self.forward(*inputs, **settings)
        states: Tensor = inputs[0] if inputs else settings["hidden_states"]
        if self._zero is None:
            self._zero = states.new_zeros(1)
        kept: list[Tensor] = []
        probes: Any = _Probes.apply(self._leaf, states.shape[:-1], self._zero, self.products, kept)  # type: ignore[no-untyped-call]
        for product, probe in zip(self.products, probes, strict=True):
            product.probe = probe
        outputs = self.forward(*inputs, **settings)
        for product in self.products:
            kept.append(product.inputs)
            product.inputs = product.probe = None
        return outputs


def let_defer(block: Any) -> None:
    """Have a compiled block be able to leave products to the store; before anything else wraps its forward."""
    block.forward = Deferring(block.forward)
    setattr(block, _DEFERRING, block.forward)


def defer_all(block: nn.Module) -> bool:
    """Have a compiled block leave all its products to the store; false, and nothing done, if some are the library's."""
    deferring: Deferring | None = getattr(block, _DEFERRING, None)
    modules = list(block.modules())
    if deferring is None or any(type(module).__module__.startswith(LIBRARY) for module in modules):
        return False
    deferring.products = [module for module in modules if type(module) in KINDS]
    for module in deferring.products:
        module.__class__ = KINDS[type(module)]
    return True
