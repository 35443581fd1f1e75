"""The trainer that a user would write instead: a plain GPT in PyTorch, compiled whole, for one process.

``python -m benchmarks.peer WORK`` trains what the JSON of :class:`Work` says and prints a line of JSON.
"""

import contextlib
import sys
import time
from typing import Any

import msgspec
import torch
from torch import Tensor, nn
from torch.nn import functional


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """What to train, and for how long."""

    num_layers: int
    hidden_size: int
    num_heads: int
    ffn_hidden_size: int
    vocab_size: int
    seq_len: int
    dropout: float
    global_batch: int
    micro_batch: int
    steps: int
    device: str


class Trained(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it."""

    losses: list[float]
    steps_s: list[float]
    peak_bytes: int


class Block(nn.Module):
    """Attention and feed-forward, each after a norm and added to what came in."""

    def __init__(self, work: Work) -> None:
        """Four products with biases."""
        super().__init__()
        width = work.hidden_size
        self.heads, self.dropout = work.num_heads, work.dropout
        self.before_attention, self.before_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, work.ffn_hidden_size), nn.Linear(work.ffn_hidden_size, width)

    def forward(self, states: Tensor) -> Tensor:
        """``[rows, sequence, width]`` to the same."""
        rows, length, width = states.shape
        whole = self.qkv(self.before_attention(states)).view(rows, length, 3, self.heads, width // self.heads)
        query, key, value = whole.permute(2, 0, 3, 1, 4)
        chosen = self.dropout if self.training else 0.0
        seen = functional.scaled_dot_product_attention(query, key, value, dropout_p=chosen, is_causal=True)
        seen = self.out(seen.transpose(1, 2).reshape(rows, length, width))
        states = states + functional.dropout(seen, self.dropout, self.training)
        hidden = functional.gelu(self.up(self.before_mlp(states)), approximate="tanh")
        return states + functional.dropout(self.down(hidden), self.dropout, self.training)


class Gpt(nn.Module):
    """Embeddings, blocks, a norm and a tied head; the loss of next tokens."""

    def __init__(self, work: Work) -> None:
        """The vocabulary is padded to a multiple of 64, as users of such trainers do."""
        super().__init__()
        width, vocabulary = work.hidden_size, -(-work.vocab_size // 64) * 64
        self.dropout = work.dropout
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(work.seq_len, width)
        self.blocks = nn.ModuleList(Block(work) for _ in range(work.num_layers))
        self.norm = nn.LayerNorm(width)
        self.apply(_begin)

    def forward(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy of ``labels``, ``[rows, sequence]``."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        states = functional.dropout(self.tokens(tokens) + self.positions(places), self.dropout, self.training)
        for block in self.blocks:
            states = block(states)
        logits = functional.linear(self.norm(states), self.tokens.weight)
        return functional.cross_entropy(logits.flatten(0, 1), labels.flatten())


def _begin(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


def train(work: Work) -> Trained:
    """Steps of AdamW under bf16 autocast, on random tokens."""
    torch.manual_seed(0)
    is_cuda = work.device == "cuda"
    torch.set_float32_matmul_precision("high")
    with torch.device(work.device):
        model = Gpt(work)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=is_cuda)
    compiled: Any = torch.compile(model)
    tokens = torch.randint(0, work.vocab_size, (work.global_batch, work.seq_len + 1), device=work.device)
    count = work.global_batch // work.micro_batch
    losses, steps_s = [], []
    for _ in range(work.steps):
        start = time.perf_counter()
        total = torch.zeros((), device=work.device)
        for rows in torch.split(tokens, work.micro_batch):
            with torch.autocast(work.device, dtype=torch.bfloat16):
                loss = compiled(rows[:, :-1], rows[:, 1:]) / count
            loss.backward()
            total += loss.detach()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(total.item())
        steps_s.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated() if is_cuda else 0
    return Trained(losses=losses, steps_s=steps_s, peak_bytes=peak)


def main() -> None:
    """Train what the first argument says."""
    work = msgspec.json.decode(sys.argv[1], type=Work)
    trained: Trained | None = None
    with contextlib.suppress(torch.OutOfMemoryError):
        trained = train(work)
    print(msgspec.json.encode(trained).decode(), flush=True)


if __name__ == "__main__":
    main()
