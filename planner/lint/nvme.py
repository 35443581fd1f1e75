"""What this machine says of a folder that states are offloaded to."""

import os
import shutil
from functools import cache
from pathlib import Path
from typing import Any

NETWORK_FILE_SYSTEMS = frozenset(
    {
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "lustre",
        "gpfs",
        "beegfs",
        "ceph",
        "glusterfs",
        "fuse.sshfs",
        "9p",
        "fuse.glusterfs",
        "fuse.s3fs",
        "fuse.gcsfuse",
        "afs",
        "wekafs",
        "pvfs2",
        "orangefs",
        "virtiofs",
        "fuse.juicefs",
    }
)
MOUNTS = Path("/proc/self/mounts")


def nvme_facts(path: str) -> dict[str, Any]:
    """Facts about ``nvme_path``: whether it exists, its file system, the free bytes; and whether libaio is here.

    Nothing is written, and a path that does not exist is judged by the nearest folder above it.
    """
    facts: dict[str, Any] = {"nvme_path": path, "libaio": has_libaio()}
    # No resolving by the file system first: a dead network mount would block.
    folder = Path(os.path.normpath(path)) if os.path.isabs(path) else Path.cwd() / path  # noqa: PTH117
    file_system = file_system_of(folder)
    facts |= {"nvme_file_system": file_system, "nvme_local": file_system not in NETWORK_FILE_SYSTEMS}
    if not facts["nvme_local"]:
        return facts
    facts["nvme_exists"] = folder.is_dir()
    if facts["nvme_exists"]:
        facts["nvme_free_bytes"] = shutil.disk_usage(folder).free
    return facts


def file_system_of(folder: Path, mounts: Path = MOUNTS) -> str:
    """The type of the file system that holds ``folder``, as the kernel calls it; ``unknown`` without a mount table."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "unknown"
    best, kind = -1, "unknown"
    for line in lines:
        parts = line.split()
        if len(parts) < 3:  # noqa: PLR2004 - device, folder, type
            continue
        mount = parts[1].replace("\\040", " ")
        inside = mount == "/" or folder == Path(mount) or Path(mount) in folder.parents
        if inside and len(mount) >= best:
            best, kind = len(mount), parts[2]
    return kind


@cache
def has_libaio() -> bool:
    """Whether the library and its header are where the linker and the compiler look. Starts no program."""
    prefixes = (Path("/usr"), Path("/usr/local"), Path("/"))
    header = any((prefix / "include" / "libaio.h").exists() for prefix in prefixes)
    patterns = ("lib/libaio.so*", "lib64/libaio.so*", "lib/*/libaio.so*")
    return header and any(any(prefix.glob(pattern)) for prefix in prefixes for pattern in patterns)
