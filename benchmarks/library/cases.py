"""What :mod:`benchmarks.library.run` trains: one layout of one model."""

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Plugin = Literal["HybridParallelPlugin", "GeminiPlugin", "LowLevelZeroPlugin"]


class LibraryCase(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model of the GPT-2 architecture and how Colossal-AI is asked to train it."""

    name: str
    layers: int
    hidden: int
    heads: int
    seq_len: int
    vocab: int = 50257
    plugin: Plugin = "HybridParallelPlugin"
    tp: int = 1
    pp: int = 1
    dp: int = 1
    zero: int = 0
    schedule: Literal["1f1b", "interleaved"] = "1f1b"
    chunks: int = 1
    micro_batch: int
    batch: int = 0
    """Sequences of a data-parallel rank a step; 0: one micro batch."""
    recompute: bool = False
    flash: bool = True
    sequence_parallel: bool = False
    precision: Literal["bf16", "fp16"] = "bf16"
    fused_adam: bool = True
    """HybridAdam of Colossal-AI; otherwise torch's AdamW."""
    optimizer_fraction: float = 0.0
    """Gemini's ``offload_optim_frac``."""
    parameter_fraction: float = 0.0
    """Gemini's ``offload_param_frac``."""
    steps: int = 8

    @property
    def devices(self) -> int:
        """TP x PP x DP."""
        return self.tp * self.pp * self.dp

    @property
    def rank_batch(self) -> int:
        """Sequences of a data-parallel rank a step."""
        return self.batch or self.micro_batch


class _Cases(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    case: Annotated[tuple[LibraryCase, ...], Meta(min_length=1)]


def read_cases(path: Path) -> tuple[LibraryCase, ...]:
    """The cases of a TOML file of ``[[case]]`` tables, one or more; OSError or msgspec.DecodeError if it is none."""
    return msgspec.toml.decode(path.read_bytes(), type=_Cases).case
