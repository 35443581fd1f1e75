"""No rank unpickles what another one sends.

In front of tensors whose shapes are new, pipelines of Colossal-AI 0.5.0 send what those are as a pickle
(``colossalai/pipeline/p2p.py``); here it is JSON. PyTorch's collectives of objects, which unpickle as well, are
refused: nothing that gptplan runs needs them, and what it says itself goes through :mod:`runtime.exchange`.
"""

from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor
from torch.distributed import distributed_c10d
from torch.utils._pytree import tree_flatten, tree_unflatten

from runtime.exchange import decode, encode, unexpected

Plain = int | float | str | bool | None
_LEAF = 0
"""In an outline, where a tensor or a plain value stands."""


class _Tensor(NamedTuple):
    """A tensor that follows."""

    shape: tuple[int, ...]
    dtype: str
    requires_grad: bool


class _Metadata(NamedTuple):
    """``P2PMetadata`` of Colossal-AI."""

    outline: Any
    """What holds the values: ``["dict", keys, outlines]``, ``["list", outlines]``, ``["tuple", outlines]`` or 0."""
    tensors: tuple[_Tensor, ...]
    plain_places: list[int]
    """Which of the values are no tensors."""
    plain: list[Plain]


def refuse_pickles() -> None:
    """Refuse PyTorch's collectives of objects in this process; calling it again changes nothing."""
    distributed_c10d._object_to_tensor = _refuse
    distributed_c10d._tensor_to_object = _refuse


def send_plain_metadata() -> None:
    """Have pipelines of Colossal-AI say in JSON what they send; calling it again changes nothing."""
    from colossalai.pipeline import p2p

    p2p.c10d = _Distributed()
    p2p._cuda_safe_tensor_to_object = lambda tensor, size: read_metadata(tensor.numpy().tobytes()[: int(size)])


class _Distributed:
    """``torch.distributed.distributed_c10d`` for pipelines, which call it to make a message of their metadata."""

    def __getattr__(self, name: str) -> Any:
        return getattr(distributed_c10d, name)

    def _object_to_tensor(self, metadata: Any, device: torch.device, group: object = None) -> tuple[Tensor, Tensor]:
        data = torch.frombuffer(bytearray(write_metadata(metadata)), dtype=torch.uint8)
        return data.to(device), torch.tensor([len(data)], device=device)


def write_metadata(metadata: Any) -> bytes:
    """A ``P2PMetadata`` as JSON.

    Raises:
        TypeError: it is something else, or of values that are no tensors, numbers, texts, dicts, lists and tuples.
    """
    spec, tensors, places, plain = metadata
    if not all(isinstance(one, Plain) for one in plain):
        raise TypeError(f"a pipeline sends {[type(one).__name__ for one in plain]} beside its tensors")
    values = tree_unflatten([_LEAF] * spec.num_leaves, spec)
    described = tuple(
        _Tensor(tuple(one.shape), str(one.dtype).removeprefix("torch."), one.requires_grad) for one in tensors
    )
    return encode(_Metadata(_outline(values), described, places, plain))


def read_metadata(data: bytes) -> Any:
    """The inverse of :func:`write_metadata`.

    Raises:
        PlanError: ``data`` is not what a pipeline says of its tensors.
    """
    from colossalai.pipeline.p2p import P2PMetadata, TensorMetadata

    found: _Metadata = decode(data, _Metadata)
    _, spec = tree_flatten(_values(found.outline))
    tensors = [TensorMetadata(torch.Size(one.shape), _dtype(one.dtype), one.requires_grad) for one in found.tensors]
    if spec.num_leaves != len(tensors) + len(found.plain) or len(found.plain) != len(found.plain_places):
        raise unexpected(f"{len(tensors)} tensors and {len(found.plain)} values in {spec.num_leaves} places")
    return P2PMetadata(spec, tensors, found.plain_places, found.plain)


def _outline(values: Any) -> Any:
    if type(values) is dict:
        if not all(type(key) is str for key in values):
            raise TypeError("a pipeline sends a dict whose keys are no texts")
        return ["dict", list(values), [_outline(one) for one in values.values()]]
    if type(values) in (list, tuple):
        return [type(values).__name__, [_outline(one) for one in values]]
    if type(values) is int:
        return _LEAF
    raise TypeError(f"a pipeline sends a {type(values).__name__} of tensors")


def _values(outline: Any) -> Any:
    match outline:
        case 0:
            return _LEAF
        case ["dict", list(keys), list(inside)] if len(keys) == len(inside):
            return dict(zip(map(str, keys), map(_values, inside), strict=True))
        case ["list", list(inside)]:
            return [_values(one) for one in inside]
        case ["tuple", list(inside)]:
            return tuple(_values(one) for one in inside)
    raise unexpected("the outline of what a pipeline sends is not one")


def _dtype(name: str) -> torch.dtype:
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise unexpected("a pipeline sends tensors of an unknown type")
    return found


def _refuse(*values: object, **settings: object) -> NoReturn:
    raise unexpected("a collective of objects, which PyTorch would unpickle")
