"""Tokens to batches, and what of a text is used."""

from pathlib import Path

import numpy as np
import pytest
import torch

from planner.diagnostics import PlanError
from planner.handover.texts import Tokenizer
from runtime.train import data
from runtime.train.data import PackedBatches, read_tokens

pytestmark = pytest.mark.runtime


def test_no_more_tokens_are_read_than_needed(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 1000)
    found = read_tokens(tmp_path, Tokenizer(), 10)
    assert (len(found.used), found.available) == (10, 1000)
    assert not found.note(10)
    assert not read_tokens(tmp_path, Tokenizer(), 2000).note(2000)


def test_what_is_left_out_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"x" * 1000)
    monkeypatch.setattr(data, "MAX_TOKENS", 100)
    found = read_tokens(tmp_path, Tokenizer(), 101)
    assert len(found.used) == 100
    assert found.note(101).startswith("note: the first 100 of about 1,000 tokens are used, again and again; ")


def test_the_standard_library_is_the_default() -> None:
    tokens = read_tokens(None, Tokenizer(), 5000).used
    assert len(tokens) == 5000
    assert "import" in bytes(tokens.tolist()).decode(errors="replace")


def batches(seed: int = 0, num_tokens: int = 101) -> PackedBatches:
    tokens = np.arange(num_tokens, dtype=np.int32)
    return PackedBatches(tokens, seq_len=10, global_batch=4, seed=seed)


def test_labels_are_the_next_tokens() -> None:
    batch = batches().batch(0, slice(0, 4))
    assert batch["input_ids"].shape == (4, 10)
    assert torch.equal(batch["labels"], batch["input_ids"] + 1)


def test_ranks_share_one_global_batch() -> None:
    whole = batches().batch(3, slice(0, 4))["input_ids"]
    parts = [batches().batch(3, slice(2 * rank, 2 * rank + 2))["input_ids"] for rank in range(2)]
    assert torch.equal(torch.cat(parts), whole)


def test_an_epoch_has_every_sequence_once_in_an_order_of_the_seed() -> None:
    def epoch(packed: PackedBatches) -> list[int]:
        rows = torch.cat([packed.batch(step, slice(0, 4))["input_ids"] for step in range(5)])
        return (rows[:, 0] // 10).tolist()

    first = epoch(batches())
    assert sorted(first[:10]) == sorted(first[10:]) == list(range(10))
    assert first[:10] != first[10:]
    assert epoch(batches()) == first
    assert epoch(batches(seed=1)) != first


def test_text_shorter_than_a_sequence_is_refused() -> None:
    with pytest.raises(PlanError, match="10 tokens, one sequence needs 11"):
        batches(num_tokens=10)
