"""Writing one checkpoint: all ranks their files, then the first one what makes them a checkpoint."""

import errno
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch.distributed as dist
from torch import Tensor

from planner.checkpoints.folders import begin, publish, retain
from planner.checkpoints.manifest import INDEX, MANIFEST, Facts, Kind, Manifest, TensorFile, encode, index
from planner.diagnostics import Diagnostic
from planner.specs import ModelSpec
from runtime.checkpoints.routes import Route, Stage, assemble
from runtime.checkpoints.tensor_file import TensorWriter
from runtime.exchange import at_first, from_first
from runtime.states.model import saved_config

FULL_DRIVE, NOT_WRITTEN = "RUN011", "CKP005"
Read = Callable[[str, Kind], Tensor]
"""This rank's range of a parameter, flat."""


class Keeping(NamedTuple):
    """Which checkpoints stay when a new one is whole."""

    last: int = 2
    """How many of the last."""
    every: int = 0
    """Of which steps' multiples all; 0: of none."""


class Written(NamedTuple):
    """What became of it, the same on every rank."""

    folder: Path
    num_bytes: int = 0
    failure: Diagnostic | None = None
    """Why there is no such checkpoint."""


class _Share(NamedTuple):
    """What one rank wrote."""

    written: dict[str, TensorFile]
    """Its files, by their names."""
    failure: Diagnostic | None


class Writer:
    """Writes checkpoints into a folder; all of it may run beside training, on groups that nothing else uses."""

    def __init__(self, folder: Path, stage: Stage, found: Sequence[Route], keeping: Keeping) -> None:
        """Every rank of the process group has to make one."""
        self._folder, self._stage, self._routes, self._keeping = folder, stage, found, keeping
        self.everyone = dist.new_group(backend="gloo")
        self._is_first = dist.get_rank() == 0

    def write(self, facts: Facts, kinds: Sequence[Kind], read: Read) -> Written:
        """Write the tensors of ``kinds``; every rank has to call it. A failure of one rank is told to all."""
        begun = self._from_first(lambda: self._begin(facts.step))
        if begun.failure is not None:
            return begun
        files = _RankFiles(begun.folder)
        for kind in kinds:
            own = [route for route in self._routes if route.owner == dist.get_rank()]
            with files.of(kind, {route.name: route.shape for route in own}):
                for route in self._routes:
                    tensor = assemble(route, lambda name=route.name, kind=kind: read(name, kind), self._stage.group)  # type: ignore[misc]
                    if tensor is not None:
                        files.add(route.name, tensor)
        everyone = at_first(_Share(files.written, files.failure), _Share, self.everyone)
        return self._from_first(lambda: self._complete(begun.folder, facts, everyone))

    def _from_first(self, work: Callable[[], Written]) -> Written:
        """What the first rank does, told to all."""
        return from_first(work() if self._is_first else None, Written, self.everyone)

    def _begin(self, step: int) -> Written:
        try:
            return Written(begin(self._folder, step))
        except OSError as error:
            return Written(self._folder, failure=_explain(error, self._folder))

    def _complete(self, part: Path, facts: Facts, everyone: Sequence["_Share"]) -> Written:
        failure = next((failed for _, failed in everyone if failed is not None), None)
        manifest = Manifest(facts=facts, files={name: file for files, _ in everyone for name, file in files.items()})
        if failure is None:
            try:
                for name, content in _documents(manifest, facts.model):
                    _write_durably(part / name, content)
                final = publish(part)
                retain(self._folder, keep=self._keeping.last, keep_every=self._keeping.every)
                return Written(final, manifest.num_bytes)
            except OSError as error:
                failure = _explain(error, part)
        shutil.rmtree(part, ignore_errors=True)
        return Written(self._folder, failure=failure)


def _documents(manifest: Manifest, model: ModelSpec) -> list[tuple[str, bytes]]:
    """What is beside the tensors; the manifest is the last, and Transformers reads the others."""
    return [("config.json", saved_config(model).encode()), (INDEX, index(manifest)), (MANIFEST, encode(manifest))]


def _write_durably(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


class _RankFiles:
    """The files of one rank. After a failure it takes tensors and writes none, so that no rank waits in vain."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: TensorWriter | None = None
        self.written: dict[str, TensorFile] = {}
        self.failure: Diagnostic | None = None

    def of(self, kind: Kind, shapes: dict[str, tuple[int, ...]]) -> "_RankFiles":
        """Go on with the file of a kind, if this rank writes any tensor."""
        self._path = self._folder / f"{kind}-{dist.get_rank():05d}.safetensors"
        self._trying(lambda: self._begin(kind, shapes) if shapes else None)
        return self

    def __enter__(self) -> None:
        """Nothing more."""

    def __exit__(self, *_: object) -> None:
        """Have what was written reach the drive."""
        self._trying(self._finish)
        if self._open is not None:
            self._open.close()
            self._open = None

    def add(self, name: str, tensor: Tensor) -> None:
        """The next tensor of the file."""
        self._trying(lambda: self._open.add(name, tensor) if self._open is not None else None)

    def _begin(self, kind: Kind, shapes: dict[str, tuple[int, ...]]) -> None:
        self._open = TensorWriter(self._path, kind, shapes)

    def _finish(self) -> None:
        if self._open is not None:
            self.written[self._path.name] = self._open.finish()

    def _trying(self, work: Callable[[], None]) -> None:
        if self.failure is None:
            try:
                work()
            except OSError as error:
                self.failure = _explain(error, self._path)


def _explain(error: OSError, place: Path) -> Diagnostic:
    is_full = error.errno in {errno.ENOSPC, errno.EDQUOT}
    return Diagnostic(
        rule=FULL_DRIVE if is_full else NOT_WRITTEN,
        message=f"rank {dist.get_rank()} could not write the checkpoint: {error.strerror}",
        location=str(place),
        hint="make room, or keep fewer checkpoints" if is_full else "",
        detail="checkpoints that were complete are still there",
    )
