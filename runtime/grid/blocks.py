"""GPT-2 on a grid: the modules of one pipeline stage, with the parameter names of Transformers."""

from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers.activations import ACT2FN

from planner.specs import ModelSpec
from runtime.grid.functions import ShardedCrossEntropy, ShardedLayerNorm
from runtime.grid.mesh import Mesh
from runtime.grid.operations import Operations, operations
from runtime.states.families import ACTIVATIONS
from runtime.states.model import causal_attention

MakeParameter = Callable[[str], nn.Parameter]
"""Gives this rank's part of the parameter with a name."""


class _Norm(nn.Module):
    def __init__(self, name: str, epsilon: float, mesh: Mesh, make: MakeParameter) -> None:
        super().__init__()
        self.weight, self.bias = make(f"{name}.weight"), make(f"{name}.bias")
        self._group, self._epsilon = mesh.group(mesh.grid.outer.hidden), epsilon

    def forward(self, states: Tensor) -> Tensor:
        normal: Tensor = ShardedLayerNorm.apply(  # type: ignore[no-untyped-call]
            states, self.weight, self.bias, self._epsilon, self._group
        )
        return normal


class _Linear(nn.Module):
    def __init__(self, name: str, ops: Operations, make: MakeParameter, *, inner: bool) -> None:
        super().__init__()
        self.weight, self.bias = make(f"{name}.weight"), make(f"{name}.bias")
        self._ops, self._inner = ops, inner
        ops.prepare(self.weight)

    def forward(self, states: Tensor) -> Tensor:
        return self._ops.linear(states, self.weight, inner=self._inner) + self.bias


class _Attention(nn.Module):
    def __init__(self, name: str, spec: ModelSpec, ops: Operations, make: MakeParameter) -> None:
        super().__init__()
        self.c_attn = _Linear(f"{name}.c_attn", ops, make, inner=False)
        self.c_proj = _Linear(f"{name}.c_proj", ops, make, inner=True)
        self._head_size, self._dropout = spec.hidden_size // spec.num_heads, spec.dropout

    def forward(self, states: Tensor) -> Tensor:
        # A rank holds whole heads, each with its query, key and value side by side.
        query, key, value = self.c_attn(states).unflatten(-1, (-1, 3, self._head_size)).permute(3, 0, 2, 1, 4)
        dropout = self._dropout if self.training else 0.0
        output, _ = causal_attention(self, query, key, value, None, dropout=dropout)
        return functional.dropout(self.c_proj(output.flatten(2)), self._dropout, self.training)


class _MLP(nn.Module):
    def __init__(self, name: str, spec: ModelSpec, ops: Operations, make: MakeParameter) -> None:
        super().__init__()
        self.c_fc = _Linear(f"{name}.c_fc", ops, make, inner=False)
        self.c_proj = _Linear(f"{name}.c_proj", ops, make, inner=True)
        self._dropout = spec.dropout
        self._activate = ACT2FN[ACTIVATIONS[spec.mlp.activation]]

    def forward(self, states: Tensor) -> Tensor:
        states = self.c_proj(self._activate(self.c_fc(states)))
        return functional.dropout(states, self._dropout, self.training)


class _Block(nn.Module):
    def __init__(self, name: str, spec: ModelSpec, mesh: Mesh, ops: Operations, make: MakeParameter) -> None:
        super().__init__()
        epsilon = spec.norm.epsilon
        self.ln_1, self.ln_2 = (_Norm(f"{name}.{norm}", epsilon, mesh, make) for norm in ("ln_1", "ln_2"))
        self.attn = _Attention(f"{name}.attn", spec, ops, make)
        self.mlp = _MLP(f"{name}.mlp", spec, ops, make)

    def forward(self, states: Tensor) -> Tensor:
        states = states + self.attn(self.ln_1(states))
        return states + self.mlp(self.ln_2(states))


class _Embedding(nn.Module):
    def __init__(self, name: str, make: MakeParameter) -> None:
        super().__init__()
        self.weight = make(f"{name}.weight")


class _Transformer(nn.Module):
    """What Transformers calls ``transformer``, as far as a stage has it."""

    def __init__(
        self, spec: ModelSpec, mesh: Mesh, layers: Sequence[int], ops: Operations, make: MakeParameter
    ) -> None:
        super().__init__()
        if layers[0] == 0:
            self.wte, self.wpe = _Embedding("transformer.wte", make), _Embedding("transformer.wpe", make)
        self.h = nn.ModuleDict({str(i): _Block(f"transformer.h.{i}", spec, mesh, ops, make) for i in layers})
        if layers[-1] == spec.num_layers - 1:
            self.ln_f = _Norm("transformer.ln_f", spec.norm.epsilon, mesh, make)


class GridGPT(nn.Module):
    """One pipeline stage of GPT-2, divided over a grid.

    A micro batch goes in whole on every rank; the grid divides it. ``recomputed`` are the layers whose
    activations backward computes again.
    """

    def __init__(
        self,
        spec: ModelSpec,
        mesh: Mesh,
        layers: Sequence[int],
        make: MakeParameter,
        *,
        recomputed: Collection[int] = (),
    ) -> None:
        super().__init__()
        self._spec, self._mesh, self._recomputed = spec, mesh, recomputed
        self._ops = operations(mesh)
        self._is_first, self._is_last = layers[0] == 0, layers[-1] == spec.num_layers - 1
        self._vocabulary_group = mesh.group(mesh.grid.inner.hidden)
        self.transformer = _Transformer(spec, mesh, layers, self._ops, make)
        if not self._is_last:
            return
        if spec.tied_embeddings and self._is_first:
            self.lm_head = self.transformer.wte
        else:
            self.lm_head = _Embedding("lm_head", make)
        self._ops.prepare(self.lm_head.weight)

    def forward(
        self, input_ids: Tensor, labels: Tensor | None = None, hidden_states: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Hidden states between stages; at the end the loss of the rank's own tokens, or logits.

        The loss is divided by the tokens of the whole micro batch: the losses of all ranks that
        hold different sequences add up to its mean.
        """
        states = self.embed(input_ids) if hidden_states is None else hidden_states
        for layer, block in self.transformer.h.items():
            if int(layer) in self._recomputed and torch.is_grad_enabled():
                states = checkpoint(block, states, use_reentrant=False)
            else:
                states = block(states)
        if not self._is_last:
            return {"hidden_states": states}
        logits = self._ops.head(self.transformer.ln_f(states), self.lm_head.weight)
        return {"logits": logits} if labels is None else {"loss": self._loss(logits, labels)}

    def embed(self, tokens: Tensor) -> Tensor:
        """Token and position embeddings of the rank's share of a micro batch ``[batch, sequence]``."""
        tokens = self._mesh.part(tokens, self._ops.rows_before_embedding)
        weight = self._ops.gather_vocabulary(self.transformer.wte.weight)
        column = tokens - self._first_of(self._mesh.grid.vocabulary[0], len(weight))
        elsewhere = (column < 0) | (column >= len(weight))
        states = functional.embedding(column.masked_fill(elsewhere, 0), weight)
        states = self._ops.scatter_rows(states.masked_fill(elsewhere[..., None], 0.0))
        states = states + self.transformer.wpe.weight[: tokens.shape[1]]
        return functional.dropout(states, self._spec.dropout, self.training)

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        own = self._mesh.part(labels, self._mesh.grid.inner.batch).flatten()
        logits = logits.flatten(0, 1)
        first = self._first_of(self._mesh.grid.inner.hidden, logits.shape[1])
        losses: Tensor = ShardedCrossEntropy.apply(  # type: ignore[no-untyped-call]
            logits, own, first, self._spec.vocab_size, self._vocabulary_group
        )
        return losses.sum() / labels.numel()

    def _first_of(self, axis: str, rows: int) -> int:
        """First token of this rank's part of the vocabulary, of which each has ``rows``."""
        return self._mesh.coordinates[axis] * rows
