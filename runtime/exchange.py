"""What ranks tell each other beside tensors: JSON of a declared type, never pickles.

PyTorch's ``all_gather_object`` and its kin unpickle what arrives, and who can send to a rank could run code in it. All
that ranks of gptplan exchange goes through this module, which only ever makes values of the type that is asked for.
"""

import json
import os
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import torch
import torch.distributed as dist
from torch import Tensor

from planner.diagnostics import Diagnostic, ExitCode, PlanError

UNEXPECTED = "RUN016"
Value = TypeVar("Value")
Group = dist.ProcessGroup | None
"""``None``: all ranks."""


def of_everyone(value: Value, kind: Any, group: Group = None) -> list[Value]:
    """What each rank of ``group`` has, in their order, on all of them; ``kind`` is its type.

    Raises:
        PlanError: what arrived is no ``kind``.
    """
    own, lengths = _with_lengths(encode(value), group)
    everyone = [torch.empty_like(own) for _ in lengths]
    dist.all_gather(everyone, own, group=group)
    return [decode(_bytes(one, length), kind) for one, length in zip(everyone, lengths, strict=True)]


def at_first(value: Value, kind: Any, group: Group = None) -> list[Value]:
    """What each rank has, in their order, on rank 0, and nothing on the others; ``kind`` is its type.

    Raises:
        PlanError: what arrived is no ``kind``.
    """
    return [decode(one, kind) for one in bytes_at_first(encode(value), group)]


def bytes_at_first(data: bytes, group: Group = None) -> list[bytes]:
    """Like :func:`at_first`, of what is bytes already."""
    own, lengths = _with_lengths(data, group)
    if dist.get_rank() != 0:
        dist.gather(own, dst=0, group=group)
        return []
    everyone = [torch.empty_like(own) for _ in lengths]
    dist.gather(own, everyone, dst=0, group=group)
    return [_bytes(one, length) for one, length in zip(everyone, lengths, strict=True)]


def from_first(value: Value | None, kind: Any, group: Group = None) -> Value:
    """What rank 0 has, on all ranks; what the others give is not looked at.

    Raises:
        PlanError: what arrived is no ``kind``.
    """
    is_first, device = dist.get_rank() == 0, _device(group)
    data = encode(value) if is_first else b""
    length = torch.tensor([len(data)], device=device)
    dist.broadcast(length, src=0, group=group)
    message = _tensor(data, device) if is_first else torch.empty(int(length), dtype=torch.uint8, device=device)
    dist.broadcast(message, src=0, group=group)
    answer: Value = decode(_bytes(message, len(message)), kind)
    return answer


def encode(value: object) -> bytes:
    """``value`` as JSON; numbers that are none, and names of files that are no UTF-8, are kept."""
    return json.dumps(msgspec.to_builtins(value, enc_hook=_plain)).encode()


def _plain(value: Any) -> Any:
    """A number of NumPy, or a path, as JSON has it."""
    return value.item() if hasattr(value, "item") else os.fspath(value)


def decode(data: bytes, kind: Any) -> Any:
    """The inverse of :func:`encode`; ``kind`` is the type of what was encoded.

    Raises:
        PlanError: ``data`` is no JSON of that type.
    """
    try:
        return msgspec.convert(json.loads(data), kind, dec_hook=_path)
    except (ValueError, RecursionError) as error:
        raise unexpected(f"{len(data)} bytes are no {getattr(kind, '__name__', kind)}: {error}") from None


def unexpected(detail: str) -> PlanError:
    """What arrived is not what a rank of this run sends."""
    rank = dist.get_rank() if dist.is_initialized() else 0
    found = Diagnostic(
        rule=UNEXPECTED,
        message=f"rank {rank} refuses a message: no rank of this run sends it",
        detail=detail,
        hint="let nobody else reach the ports of the nodes, and run the same gptplan on all of them: docs/security.md",
    )
    return PlanError(found, exit_code=ExitCode.NEGATIVE)


def _path(kind: type, value: object) -> object:
    if kind is not Path or not isinstance(value, str):
        raise ValueError(f"expected {kind.__name__}, got {type(value).__name__}")
    return Path(value)


def _with_lengths(data: bytes, group: Group) -> tuple[Tensor, list[int]]:
    """``data``, filled up to the longest of the group, and how long that of each rank is."""
    device = _device(group)
    own = torch.tensor([len(data)], device=device)
    lengths = [torch.empty_like(own) for _ in range(dist.get_world_size(group))]
    dist.all_gather(lengths, own, group=group)
    counts = [int(one) for one in lengths]
    return _tensor(data.ljust(max(counts)), device), counts


def _device(group: Group) -> torch.device:
    """Where the group's backend communicates from."""
    on_host = dist.get_backend(group) != dist.Backend.NCCL
    return torch.device("cpu") if on_host else torch.device("cuda", torch.cuda.current_device())


def _tensor(data: bytes, device: torch.device) -> Tensor:
    return torch.frombuffer(bytearray(data or b" "), dtype=torch.uint8)[: len(data)].to(device)


def _bytes(tensor: Tensor, length: int) -> bytes:
    return tensor[:length].cpu().numpy().tobytes()
