"""Checkpoints of a run as folders: names, which are whole, which are kept, and how one appears and goes.

``step-00001000`` is whole. ``step-00001000.part`` is being written, ``.old`` waits for the new one of its step, and
``.gone`` is being removed: a crash at any moment leaves folders of these names and never half of a whole one.
"""

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from planner.checkpoints.manifest import MANIFEST, Manifest, damaged
from planner.diagnostics import usage_error

NONE_THERE = "CKP001"
CHECKPOINTS = "checkpoints"
"""The folder in that of a run."""
PART, OLD, GONE = ".part", ".old", ".gone"
_NAME = re.compile(r"step-(\d{8,})")
_READ_BYTES = 2**22


def step_name(step: int) -> str:
    """Name of the checkpoint after ``step`` steps."""
    return f"step-{step:08d}"


def step_of(folder: Path) -> int | None:
    """The step of a folder that has the name of a whole checkpoint."""
    match = _NAME.fullmatch(folder.name)
    return None if match is None else int(match[1])


def checkpoints_in(folder: Path) -> list[Path]:
    """Whole checkpoints in a folder, by their steps."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if _is_named(path) and (path / MANIFEST).is_file()]
    return sorted(found, key=lambda path: step_of(path.with_suffix("")) or 0)


def later_than(folder: Path, step: int) -> list[Path]:
    """Whole checkpoints in a folder after more than ``step`` steps, by their steps."""
    return [path for path in checkpoints_in(folder) if (step_of(path.with_suffix("")) or 0) > step]


def _is_named(path: Path) -> bool:
    """Whether it is a checkpoint by its name, or was one until a crash came before that of its step anew."""
    final = path.with_suffix("")
    return step_of(path) is not None or (path.suffix == OLD and step_of(final) is not None and not final.exists())


def run_of(checkpoint: Path) -> Path | None:
    """The folder of the run that wrote a checkpoint; ``None`` where it lies elsewhere."""
    return checkpoint.parent.parent if checkpoint.parent.name == CHECKPOINTS else None


def find_checkpoint(path: Path) -> Path:
    """The checkpoint that somebody means: that folder, or the newest of that run or folder of checkpoints.

    Raises:
        PlanError: there is none.
    """
    if (path / MANIFEST).is_file():
        return path
    found = [*checkpoints_in(path / CHECKPOINTS), *checkpoints_in(path)]
    if found:
        return found[-1]
    begun = sorted(one.name for place in (path, path / CHECKPOINTS) for one in place.glob(f"step-*{PART}"))
    detail = f"there is {', '.join(begun)}, which was not finished" if begun else ""
    message = "there is no complete checkpoint in this folder" if path.is_dir() else "there is no such folder"
    hint = "name the folder of a run, or one of its `checkpoints/step-...`"
    raise usage_error(message, rule=NONE_THERE, location=str(path), hint=hint, detail=detail)


def begin(folder: Path, step: int) -> Path:
    """An empty folder to write the checkpoint of ``step`` into, beside where it will be."""
    recover(folder)
    part = folder / (step_name(step) + PART)
    part.mkdir(parents=True)
    return part


def recover(folder: Path) -> None:
    """Put back what a crash left between two names, and remove what was never or no longer whole."""
    if not folder.is_dir():
        return
    for path in list(folder.iterdir()):
        final = path.with_suffix("")
        if step_of(final) is None or path.suffix not in {PART, OLD, GONE}:
            continue
        if path.suffix == OLD and not final.exists():
            path.rename(final)
        else:
            shutil.rmtree(path)


def publish(part: Path) -> Path:
    """Give a written folder its name; what had it before goes only then."""
    synchronize(part)
    final, old = part.with_suffix(""), part.with_suffix(OLD)
    if final.exists():
        final.rename(old)
    part.rename(final)
    synchronize(final.parent)
    shutil.rmtree(old, ignore_errors=True)
    return final


def synchronize(folder: Path) -> None:
    """Have the names in a folder reach the drive."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def kept_steps(steps: Iterable[int], *, keep: int, keep_every: int = 0) -> set[int]:
    """The last ``keep`` of ``steps``, and those that ``keep_every`` divides; 0: none of these."""
    ordered = sorted(set(steps))
    every = {step for step in ordered if keep_every and step % keep_every == 0}
    return every | set(ordered[-max(keep, 1) :])


def retain(folder: Path, *, keep: int, keep_every: int = 0) -> list[Path]:
    """Remove the checkpoints that are not kept; each loses its name first, so that none is ever half there."""
    present = {step_of(path) or 0: path for path in checkpoints_in(folder) if path.suffix != OLD}
    leaving = [present[step] for step in sorted(present.keys() - kept_steps(present, keep=keep, keep_every=keep_every))]
    for path in leaving:
        gone = path.with_name(path.name + GONE)
        path.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)
    return leaving


def check_files(folder: Path, manifest: Manifest, contents_of: Sequence[str] | None = None) -> None:
    """Refuse a checkpoint with a file that is missing or changed.

    All sizes are compared; the contents of the files ``contents_of``, or of all without it.

    Raises:
        PlanError: a file is not what the manifest says.
    """
    for name, file in manifest.files.items():
        path = folder / name
        size = None
        with contextlib.suppress(OSError):
            size = path.stat().st_size
        if size != file.num_bytes:
            found = "is missing" if size is None else f"has {size} bytes"
            raise damaged(path, f"a file of the checkpoint {found}, and was written with {file.num_bytes} bytes")
    for name in manifest.files if contents_of is None else contents_of:
        check_content(folder / name, manifest.files[name].sha256)


def check_content(path: Path, sha256: str, original: Path | None = None) -> None:
    """Refuse a file with other content; where it is a copy, by the name of its ``original``.

    Raises:
        PlanError: it cannot be read, or its digest is another.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(_READ_BYTES):
                digest.update(block)
    except OSError as error:
        raise damaged(path, f"a file of the checkpoint cannot be read: {error.strerror}") from error
    if digest.hexdigest() != sha256:
        raise damaged(
            original or path, f"a file of the checkpoint was changed: its SHA-256 is {digest.hexdigest()}, not {sha256}"
        )
