"""What another rank sends is never unpickled: not by pipelines, not by collectives of objects."""

import json
import os
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.distributed as dist

from planner.diagnostics import PlanError
from runtime.exchange import at_first, bytes_at_first, decode, encode, from_first, of_everyone
from runtime.patches.pickles import read_metadata, refuse_pickles, write_metadata

pytestmark = pytest.mark.runtime


class Hostile:
    """Makes a folder where it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


class Told(NamedTuple):
    loss: float
    path: Path | None
    files: dict[str, tuple[int, ...]]


def metadata_of(values: Any) -> Any:
    with warnings.catch_warnings(action="ignore"):
        from colossalai.pipeline.p2p import create_send_metadata
    return create_send_metadata(values, strict=False)


@pytest.mark.parametrize(
    "values",
    [
        torch.zeros(2, 3),
        {"hidden_states": torch.zeros(2, 3, dtype=torch.bfloat16, requires_grad=True), "past": None, "aux": 0.5},
        (torch.zeros(1), [torch.zeros(()), {"mask": torch.ones(4, dtype=torch.bool)}], ()),
    ],
)
def test_metadata_of_a_pipeline_comes_back(values: Any) -> None:
    metadata = metadata_of(values)
    assert read_metadata(write_metadata(metadata)) == metadata


@pytest.mark.parametrize(
    "message",
    [
        [["set", [0]], [], [], []],
        [["dict", ["a"], [0, 0]], [], [0], [None]],
        [0, [[[2], "load", False]], [], []],
        [0, [[[2], "float32", False]], [0], [1]],
        ["list", 1],
        {},
    ],
)
def test_other_metadata_is_refused(message: object) -> None:
    with pytest.raises(PlanError) as refused:
        read_metadata(json.dumps(message).encode())
    assert refused.value.diagnostics[0].rule == "RUN016"


def pipeline(data: torch.Tensor) -> None:
    """Rank 0 expects metadata, rank 1 sends what it likes."""
    from colossalai.pipeline import p2p

    if dist.get_rank() == 1:
        dist.send(torch.tensor([len(data)]), 0)
        dist.send(data, 0)
    else:
        p2p._send_recv_serialization_object(None, None, 1, None, dist.group.WORLD, torch.device("cpu"), False)


def collective(data: torch.Tensor) -> None:
    """Both ask for a collective of objects."""
    dist.all_gather_object([None, None], "own")


def exchange(data: torch.Tensor) -> None:
    """Rank 0 expects texts, rank 1 sends what it likes."""
    if dist.get_rank() == 0:
        of_everyone("x" * (len(data) - 2), str)
    else:
        dist.all_gather([torch.zeros(1, dtype=torch.int64) for _ in range(2)], torch.tensor([len(data)]))
        dist.all_gather([torch.zeros_like(data) for _ in range(2)], data)


def test_pickles_of_another_rank_are_refused(
    tmp_path: Path, ranks: Callable[[int, Callable[[int], Any]], list[Any]]
) -> None:
    made = tmp_path / "made"
    data = torch.frombuffer(bytearray(pickle.dumps(Hostile(made))), dtype=torch.uint8)

    def refused(rank: int) -> list[str]:
        refuse_pickles()
        found = []
        for work in (pipeline, collective, exchange):
            try:
                work(data)
            except PlanError as error:
                found.append(f"{work.__name__}: {error.diagnostics[0].rule}")
        return found

    first, other = ranks(2, refused)
    assert first == ["pipeline: RUN016", "collective: RUN016", "exchange: RUN016"]
    assert other == ["collective: RUN016"]
    assert not made.exists()
    pickle.loads(data.numpy().tobytes())
    assert made.exists()  # so it would have been


def test_ranks_tell_each_other_plain_values(ranks: Callable[[int, Callable[[int], Any]], list[Any]]) -> None:
    def told(rank: int) -> list[Any]:
        own = Told(float("inf"), Path(os.fsdecode(b"runs/\xff")), {"a" * 50 * rank: (1, 2)}) if rank else None
        return [
            of_everyone(own, Told | None),
            at_first(rank, int),
            bytes_at_first(b"x" * rank),
            from_first("first" if rank == 0 else None, str),
        ]

    everyone = [None, Told(float("inf"), Path(os.fsdecode(b"runs/\xff")), {"a" * 50: (1, 2)})]
    assert ranks(2, told) == [[everyone, [0, 1], [b"", b"x"], "first"], [everyone, [], [], "first"]]


def test_numbers_of_numpy_and_paths_are_told_as_they_are() -> None:
    told = (np.int64(3), np.float64(0.5), Path("some/file"))
    assert decode(encode(told), tuple[int, float, Path]) == (3, 0.5, Path("some/file"))
