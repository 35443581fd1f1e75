"""A model, and the training step that its authors used."""

from planner.specs.base import Count, Fraction, Name, Precision, Spec


class ModelSpec(Spec, frozen=True, kw_only=True):
    """A GPT-2-architecture model and the training step its authors used."""

    name: Name
    title: str
    num_layers: Count
    hidden_size: Count
    num_heads: Count
    ffn_hidden_size: Count
    vocab_size: Count
    max_seq_len: Count
    """Rows of the position table."""
    tied_embeddings: bool
    """Whether the loss head reuses the token embedding."""
    dropout: Fraction
    seq_len: Count
    """Tokens of one training sequence, unless ``--seq-len`` says otherwise."""
    global_batch: Count
    """Sequences of one optimizer step, unless ``--global-batch`` says otherwise."""
    precision: Precision
    sources: dict[str, str]
    """Where each number comes from: field name to citation."""

    def __post_init__(self) -> None:
        """Refuse shapes that are no transformer."""
        if self.hidden_size % self.num_heads:
            rest = f"{self.hidden_size} % {self.num_heads} = {self.hidden_size % self.num_heads}"
            raise ValueError(f"`hidden_size` has to divide by `num_heads`: {rest}")
        if self.seq_len > self.max_seq_len:
            raise ValueError(f"`seq_len` {self.seq_len} is longer than `max_seq_len` {self.max_seq_len}")
