"""A model by its parts, and the training step that its authors used."""

from typing import Literal

from planner.specs.base import Batch, Fraction, Layers, Name, Positive, Precision, Spec, Width
from planner.specs.experts import ExpertsSpec, LatentSpec

Positions = Literal["learned", "rotary"]
RotaryScaling = Literal["none", "linear", "dynamic", "yarn", "llama3"]
Activation = Literal["gelu", "gelu-tanh", "silu", "relu"]
Norm = Literal["layernorm", "rmsnorm"]
Family = Literal["gpt2", "llama", "mistral", "qwen2", "mixtral", "qwen3_moe", "deepseek_v3"]


class AttentionSpec(Spec, frozen=True, kw_only=True):
    """The attention of a block; without a key it is GPT-2's."""

    kv_heads: Width | None = None
    """Heads of keys and values, which divide the heads; ``None``: as many as heads."""
    head_size: Width | None = None
    """Width of a head; ``None``: the hidden size over the heads."""
    qkv_bias: bool = True
    """Whether the products of queries, keys and values add a bias."""
    output_bias: bool = True
    """Whether the output product adds a bias."""
    qk_norm: bool = False
    """Whether queries and keys are normalised head by head."""
    sliding_window: Width | None = None
    """Tokens that a token attends to at most, itself among them; ``None``: all before it."""
    latent: LatentSpec | None = None
    """Latent attention, whose size of a head is that of queries and keys; ``None``: products of the hidden state."""


class PositionSpec(Spec, frozen=True, kw_only=True):
    """How a model knows the order of tokens; without a key by a learned table, as GPT-2."""

    kind: Positions = "learned"
    """``learned``: a table with a row a position. ``rotary``: queries and keys are rotated."""
    base: Positive = 10_000.0
    """Base of the rotary wave lengths."""
    scaling: RotaryScaling = "none"
    """How wave lengths are stretched for sequences longer than those of pretraining."""
    factor: Positive = 1.0
    """By how much they are stretched."""
    low_frequency_factor: Positive = 1.0
    """Of ``llama3``: longer waves than the original length over this are stretched whole."""
    high_frequency_factor: Positive = 4.0
    """Of ``llama3``: shorter waves than the original length over this are not stretched."""
    original_max_seq_len: Width | None = None
    """Longest sequence before stretching; ``None``: the longest of the model."""


class MlpSpec(Spec, frozen=True, kw_only=True):
    """The feed-forward part of a block; without a key it is GPT-2's."""

    gated: bool = False
    """Whether a second product of the input is multiplied into the activated first one."""
    activation: Activation = "gelu-tanh"
    """Function between the products."""
    bias: bool = True
    """Whether its products add biases."""


class NormSpec(Spec, frozen=True, kw_only=True):
    """The norms before attention, before the feed-forward part and before the loss head."""

    kind: Norm = "layernorm"
    """``layernorm`` has a weight and a bias, ``rmsnorm`` a weight."""
    epsilon: Positive = 1e-5
    """Added to the variance."""


class ModelSpec(Spec, frozen=True, kw_only=True):
    """A decoder-only transformer by its parts, and the training step its authors used."""

    name: Name
    """What plans and commands call it."""
    title: str
    """For people: the model and where it is from."""

    # Architecture
    num_layers: Layers
    """Transformer blocks."""
    hidden_size: Width
    """Width of the residual stream, ``h``."""
    num_heads: Width
    """Attention heads of a layer, which divide the hidden size unless the size of a head is given."""
    ffn_hidden_size: Width
    """Width inside the feed-forward part, ``f``; usually ``4 h``, or ``8/3 h`` where it is gated."""
    vocab_size: Width
    """Tokens of the vocabulary, not padded."""
    max_seq_len: Width
    """Longest sequence: rows of a learned position table, or what rotary positions were trained for."""
    tied_embeddings: bool
    """Whether the loss head reuses the token embedding."""
    dropout: Fraction
    """Probability with which activations and scores are dropped."""

    # Training step
    seq_len: Width
    """Tokens of one training sequence, unless ``--seq-len`` says otherwise."""
    global_batch: Batch
    """Sequences of one optimizer step, unless ``--global-batch`` says otherwise."""
    precision: Precision
    """Of weights and activations, unless ``--precision`` says otherwise."""

    # Parts of a block
    attention: AttentionSpec = AttentionSpec()
    """Heads of keys and values, biases, windows."""
    positions: PositionSpec = PositionSpec()
    """A learned table or rotations."""
    mlp: MlpSpec = MlpSpec()
    """Plain or gated."""
    experts: ExpertsSpec | None = None
    """Experts in place of the feed-forward part; ``None``: it has none."""
    norm: NormSpec = NormSpec()
    """Which norm."""

    sources: dict[str, str]
    """Where each number is from, by its key."""

    def __post_init__(self) -> None:
        """Refuse shapes that are no transformer."""
        if self.attention.head_size is None:
            _divides(self.hidden_size, self.num_heads, "`hidden_size` has to divide by `num_heads`")
        _divides(self.num_heads, self.kv_heads, "`num_heads` has to divide by `attention.kv_heads`")
        if self.positions.kind == "rotary":
            _divides(self.head_size, 2, "rotary positions rotate pairs: the size of a head has to divide by 2")
        if self.seq_len > self.max_seq_len:
            raise ValueError(f"`seq_len` {self.seq_len} is longer than `max_seq_len` {self.max_seq_len}")
        if self.experts is not None and self.experts.first_dense_layers >= self.num_layers:
            first = self.experts.first_dense_layers
            raise ValueError(f"`experts.first_dense_layers` {first} leave none of {self.num_layers} layers to experts")
        if (latent := self.attention.latent) is not None:
            _check_latent(self, latent)

    def __hash__(self) -> int:
        """Of what tells models apart; the table of sources has none."""
        return hash((self.name, self.num_layers, self.hidden_size, self.ffn_hidden_size, self.vocab_size))

    @property
    def kv_heads(self) -> int:
        """Heads of keys and of values."""
        return self.attention.kv_heads or self.num_heads

    @property
    def head_size(self) -> int:
        """Width of one head."""
        return self.attention.head_size or self.hidden_size // self.num_heads

    @property
    def query_size(self) -> int:
        """Width of the queries of all heads."""
        return self.num_heads * self.head_size

    @property
    def kv_size(self) -> int:
        """Width of the keys of all heads, and of the values."""
        return self.kv_heads * self.head_size

    @property
    def value_size(self) -> int:
        """Width of the values of all heads of queries, and of what attention gives to its output product."""
        latent = self.attention.latent
        return self.query_size if latent is None else self.num_heads * latent.value_size

    @property
    def dense_layers(self) -> int:
        """The first blocks that have a plain feed-forward part where the others have experts."""
        return 0 if self.experts is None else self.experts.first_dense_layers

    @property
    def family(self) -> Family | None:
        """The family of Hugging Face models with these parts, which have a class of their own there; ``None``: none."""
        if self.experts is not None or self.attention.latent is not None:
            return _expert_family(self)
        parts = (
            self.positions.kind,
            self.norm.kind,
            self.mlp.gated,
            self.mlp.bias,
            self.attention.output_bias,
            self.attention.qk_norm,
        )
        if parts == ("learned", "layernorm", False, True, True, False):
            own = self.attention.qkv_bias and self.kv_heads == self.num_heads and not self.attention.sliding_window
            return "gpt2" if own and self.attention.head_size is None else None
        if parts != ("rotary", "rmsnorm", True, False, False, False):
            return None
        if self.attention.qkv_bias:
            return "qwen2"
        return "mistral" if self.attention.sliding_window else "llama"


def _check_latent(model: ModelSpec, latent: LatentSpec) -> None:
    if model.kv_heads != model.num_heads:
        raise ValueError(f"latent attention has keys of its own for each of {model.num_heads} heads")
    if latent.rotary_size % 2 or latent.rotary_size > model.head_size:
        raise ValueError(f"`latent.rotary_size` {latent.rotary_size} is odd, or more than a head's {model.head_size}")


def _expert_family(model: ModelSpec) -> Family | None:
    experts, own = model.experts, model.attention
    base = (model.positions.kind, model.norm.kind, model.mlp.gated, model.mlp.bias, own.qkv_bias, own.output_bias)
    if experts is None or base != ("rotary", "rmsnorm", True, False, False, False):
        return None
    if own.latent is not None:
        deepseek = experts.router == "sigmoid" and experts.selection_bias and experts.shared > 0 and not own.qk_norm
        return "deepseek_v3" if deepseek and not own.sliding_window else None
    if experts.shared or experts.first_dense_layers or experts.groups > 1 or experts.router != "softmax":
        return None
    if experts.selection_bias or experts.weight_scale != 1:
        return None
    if own.qk_norm:
        return "qwen3_moe"
    return "mixtral" if experts.normalised else None


def _divides(whole: int, part: int, rule: str) -> None:
    if whole % part:
        raise ValueError(f"{rule}: {whole} % {part} = {whole % part}")
