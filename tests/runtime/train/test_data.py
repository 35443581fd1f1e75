"""Samples to batches."""

import numpy as np
import pytest
import torch

from planner.data.samples import Samples, Source
from planner.data.streams import Segment, Stream
from planner.diagnostics import PlanError
from planner.jobs.batches import constant_batches
from runtime.train.data import Batches

pytestmark = pytest.mark.runtime


def batches(vocab_size: int = 1000) -> Batches:
    tokens = np.arange(101, dtype=np.uint16)
    samples = Samples([Source("a", Stream([Segment(tokens, 0, 101)]))], seq_len=10, seed=0)
    return Batches(samples, constant_batches(4), vocab_size=vocab_size)


def test_labels_are_the_next_tokens() -> None:
    batch = batches().batch(0, slice(0, 4))
    assert batch["input_ids"].shape == (4, 10)
    assert batch["input_ids"].dtype == torch.int64
    assert torch.equal(batch["labels"], batch["input_ids"] + 1)


def test_ranks_share_one_global_batch() -> None:
    whole = batches().batch(3, slice(0, 4))["input_ids"]
    parts = [batches().batch(3, slice(2 * rank, 2 * rank + 2))["input_ids"] for rank in range(2)]
    assert torch.equal(torch.cat(parts), whole)


def test_a_token_beyond_the_vocabulary_is_named_with_its_place() -> None:
    assert len(batches(101).batch(0, slice(0, 4))["labels"]) == 4
    last = next(step for step in range(3) if batches().batch(step, slice(0, 4))["labels"].max() == 100)
    with pytest.raises(PlanError, match=f"token 100 of step {last + 1} is beyond the model's vocabulary") as refusal:
        batches(100).batch(last, slice(0, 4))
    assert refusal.value.diagnostics[0].location == "a, token 100"
