"""A file in safetensors' format, written tensor by tensor: the library's own writer wants all of them at once."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from planner.checkpoints.manifest import Kind, Manifest, TensorFile
from runtime.checkpoints.parts import Part, Shape

_ELEMENT_BYTES = 4
_ALIGNMENT = 8


class TensorWriter:
    """Writes float32 tensors of known names and shapes, in that order, and digests them on the way.

    The format is eight bytes with the length of a JSON header, the header, and the bare tensors
    (https://github.com/huggingface/safetensors, "Format").
    """

    def __init__(self, path: Path, kind: Kind, shapes: Mapping[str, Shape]) -> None:
        """Begin the file; it must not exist."""
        self._kind, self._shapes, self._waiting = kind, dict(shapes), iter(shapes)
        self._file, self._digest, self._num_bytes = path.open("xb"), hashlib.sha256(), 0
        header = json.dumps({"__metadata__": {"format": "pt"}, **dict(_entries(shapes))}).encode()
        header += b" " * (-len(header) % _ALIGNMENT)
        self._write(len(header).to_bytes(8, "little"))
        self._write(header)

    def close(self) -> None:
        """Close the file, whole or not."""
        self._file.close()

    def add(self, name: str, tensor: Tensor) -> None:
        """The next tensor."""
        if name != next(self._waiting) or tuple(tensor.shape) != tuple(self._shapes[name]):
            raise ValueError(f"{name} of shape {tuple(tensor.shape)} is not what comes next")
        self._write(tensor.contiguous().numpy().data.cast("B") if tensor.numel() else b"")

    def finish(self) -> TensorFile:
        """What the manifest says of the file, once it is on the drive."""
        if missing := next(self._waiting, None):
            raise ValueError(f"{missing} was not written")
        self._file.flush()
        os.fsync(self._file.fileno())
        return TensorFile(
            kind=self._kind, num_bytes=self._num_bytes, sha256=self._digest.hexdigest(), tensors=self._shapes
        )

    def _write(self, content: bytes | memoryview) -> None:
        self._file.write(content)
        self._digest.update(content)
        self._num_bytes += len(content)


def _entries(shapes: Mapping[str, Shape]) -> Iterator[tuple[str, object]]:
    offset = 0
    for name, shape in shapes.items():
        size = _ELEMENT_BYTES
        for length in shape:
            size *= length
        yield name, {"dtype": "F32", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size


class TensorReader:
    """Parts of the tensors of a checkpoint, from files that are mapped and not read whole."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        """Nothing is opened before it is asked for."""
        self._folder, self._manifest = folder, manifest
        self._files: dict[Kind, dict[str, str]] = {}
        self._opened: dict[str, safe_open] = {}

    def part(self, kind: Kind, name: str, part: Part, start: int = 0, stop: int | None = None) -> Tensor:
        """Elements ``start`` to ``stop`` of a part of a tensor, flat."""
        if kind not in self._files:
            self._files[kind] = self._manifest.names(kind)
        file = self._files[kind][name]
        if file not in self._opened:
            self._opened[file] = safe_open(self._folder / file, framework="pt")
        opened: Any = self._opened[file]
        return part.cut(opened.get_slice(name), start, stop)
