"""A share of Gemini's states is that share of its chunks, however many parameters are in one."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

pytestmark = pytest.mark.runtime

PER_CHUNK = 12


@dataclass(eq=False)
class Chunk:
    """What the placement asks a chunk of Colossal-AI for."""

    chunk_mem: int = 100
    keep_gathered: bool = False
    tensors: list[Tensor] = field(default_factory=lambda: [torch.zeros(1) for _ in range(PER_CHUNK)])

    def get_tensors(self) -> list[Tensor]:
        return self.tensors


class Chunks:
    """What it asks the manager of chunks for."""

    def __init__(self, chunks: list[Chunk]) -> None:
        self.owner = {id(tensor): chunk for chunk in chunks for tensor in chunk.tensors}

    def get_chunk(self, tensor: Tensor) -> Chunk:
        return self.owner[id(tensor)]


@pytest.fixture
def placed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Any, list[str]]]:
    """``placed(chunks, **shares)``: the policy, and the kind of device of each chunk."""
    with warnings.catch_warnings(action="ignore"):
        from colossalai.zero.gemini import placement_policy

        from runtime.patches.gemini_shares import count_chunks_once

    class Accelerator:
        def get_current_device(self) -> torch.device:
            return torch.device("meta")

    policy_type = placement_policy.StaticPlacementPolicy
    monkeypatch.setattr(policy_type, "setup_grads_device", policy_type.setup_grads_device)
    monkeypatch.setattr("runtime.patches.gemini_shares.get_accelerator", Accelerator)
    count_chunks_once()

    def place(chunks: list[Chunk], **shares: float) -> tuple[Any, list[str]]:
        policy = policy_type(Chunks(chunks), **shares)
        devices: dict[Tensor, torch.device] = {}
        policy.setup_grads_device([tensor for chunk in chunks for tensor in chunk.tensors], devices)
        kinds = [{devices[tensor].type for tensor in chunk.tensors} for chunk in chunks]
        assert all(len(kind) == 1 for kind in kinds)
        return policy, [kind.pop() for kind in kinds]

    return place


@pytest.mark.parametrize(("share", "offloaded"), [(0.0, 0), (0.1, 1), (0.5, 5), (0.9, 9), (1.0, 10)])
def test_a_share_of_the_optimizer_is_that_share_of_the_chunks(
    share: float, offloaded: int, placed: Callable[..., tuple[Any, list[str]]]
) -> None:
    _, kinds = placed([Chunk() for _ in range(10)], offload_optim_frac=share)
    assert kinds == ["cpu"] * offloaded + ["meta"] * (10 - offloaded)


def test_gathered_chunks_stay_on_the_device(placed: Callable[..., tuple[Any, list[str]]]) -> None:
    _, kinds = placed([Chunk(keep_gathered=True), Chunk()], offload_optim_frac=1.0)
    assert kinds == ["meta", "cpu"]


def test_a_share_of_the_parameters_is_that_share_of_the_chunks(placed: Callable[..., tuple[Any, list[str]]]) -> None:
    policy, _ = placed([Chunk() for _ in range(10)], offload_optim_frac=1.0, offload_param_frac=0.4)
    assert policy.keep_cuda_chunk_mem == pytest.approx(600)
    assert policy.keep_gathered_chunk_mem == 0
