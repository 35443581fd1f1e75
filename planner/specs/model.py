"""A model, and the training step that its authors used."""

from planner.specs.base import Count, Fraction, Name, Precision, Spec


class ModelSpec(Spec, frozen=True, kw_only=True):
    """A GPT-2-architecture model and the training step its authors used."""

    name: Name
    """What plans and commands call it."""
    title: str
    """For people: the model and where it is from."""

    # Architecture
    num_layers: Count
    """Transformer blocks."""
    hidden_size: Count
    """Width of the residual stream, ``h``."""
    num_heads: Count
    """Attention heads of a layer, which divide the hidden size."""
    ffn_hidden_size: Count
    """Width inside the feed-forward part, ``f``; usually ``4 h``."""
    vocab_size: Count
    """Tokens of the vocabulary, not padded."""
    max_seq_len: Count
    """Rows of the position table."""
    tied_embeddings: bool
    """Whether the loss head reuses the token embedding."""
    dropout: Fraction
    """Probability with which activations and scores are dropped."""

    # Training step
    seq_len: Count
    """Tokens of one training sequence, unless ``--seq-len`` says otherwise."""
    global_batch: Count
    """Sequences of one optimizer step, unless ``--global-batch`` says otherwise."""
    precision: Precision
    """Of weights and activations, unless ``--precision`` says otherwise."""

    sources: dict[str, str]
    """Where each number is from, by its key."""

    def __post_init__(self) -> None:
        """Refuse shapes that are no transformer."""
        if self.hidden_size % self.num_heads:
            rest = f"{self.hidden_size} % {self.num_heads} = {self.hidden_size % self.num_heads}"
            raise ValueError(f"`hidden_size` has to divide by `num_heads`: {rest}")
        if self.seq_len > self.max_seq_len:
            raise ValueError(f"`seq_len` {self.seq_len} is longer than `max_seq_len` {self.max_seq_len}")
