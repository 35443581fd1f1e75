"""What holds a folder: a drive of this machine, its memory or the network, as the mount table says."""

import os
import re
from collections import deque
from pathlib import Path

MOUNTS = Path("/proc/self/mounts")
MEMORY_FILE_SYSTEMS = ("tmpfs", "ramfs", "devtmpfs")
PATH_MAX = 4096
MAX_LINKS = 40
"""Symbolic links that are followed for one folder, as Linux does."""

_NETWORK = (
    *("nfs", "cifs", "smb", "9p", "afs", "ceph", "glusterfs", "lustre", "gpfs", "beegfs", "pvfs", "orangefs"),
    *("sshfs", "wekafs", "virtiofs", "fuse"),
)
"""How names of network file systems begin. What is in user space mostly is one: sshfs, s3fs, gcsfuse, juicefs."""
_LOCAL = ("fuseblk", "fusectl", "fuse.exfat", "fuse.ext2", "fuse.fuse2fs", "fuse.fuse-overlayfs", "fuse.ntfs-3g")
"""File systems in user space that work on a drive of this machine."""


def is_network(kind: str) -> bool:
    """Whether a file system of this kind keeps its files on other machines."""
    return kind.startswith(_NETWORK) and kind not in _LOCAL


def file_system(folder: Path, mounts: Path = MOUNTS) -> str:
    """The kind of file system that holds ``folder``, as the kernel calls it; empty where it does not say.

    Symbolic links are followed, but nothing on a network file system is looked at, because one that does not answer
    would block. A folder that does not exist is judged by the nearest one above it.
    """
    try:
        table = _mounted(mounts.read_text(encoding="utf-8", errors="surrogateescape"))
    except OSError:
        return ""
    path, left = "", _parts(os.path.normpath(Path.cwd() / folder)[:PATH_MAX])
    remote, links = False, 0
    while left:
        step = f"{path}/{left.popleft()}"
        remote = remote or is_network(_kind_of(step, table))
        if remote or links > MAX_LINKS or not os.path.islink(step):  # noqa: PTH114 - refuses no name
            path = step
            continue
        links += 1
        target = _parts(os.path.normpath(Path(path or "/") / Path(step).readlink()))
        path, left = "", target + left
    return _kind_of(path or "/", table)


def _parts(path: str) -> deque[str]:
    return deque(part for part in path.split("/") if part)


def _mounted(text: str) -> list[tuple[str, str]]:
    """Where each file system is mounted, as a beginning of paths, and its kind.

    Blanks and backslashes in names are octal numbers.
    """
    rows = (line.split(" ") for line in text.splitlines())
    octal = re.compile(r"\\([0-7]{3})")
    points = ((octal.sub(lambda code: chr(int(code[1], 8)), row[1]), row[2]) for row in rows if len(row) > 2)  # noqa: PLR2004
    return [(point.rstrip("/") + "/", kind) for point, kind in points]


def _kind_of(path: str, table: list[tuple[str, str]]) -> str:
    """The kind of what is mounted deepest above a path; a later mount on the same point hides the earlier one."""
    depth, kind = 0, ""
    for point, mounted in table:
        if len(point) >= depth and f"{path}/".startswith(point):
            depth, kind = len(point), mounted
    return kind
