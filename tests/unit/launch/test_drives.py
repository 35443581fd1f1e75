"""What holds a folder: the mount table, links, and which file systems are no local drive."""

import os
from pathlib import Path

import pytest

from planner.launch.drives import file_system, is_network

NETWORK = """
    nfs nfs3 nfs4 cifs smb smb3 smbfs 9p afs ceph glusterfs lustre gpfs beegfs pvfs pvfs2 sshfs fuse.sshfs wekafs
    orangefs virtiofs fuse fuse.glusterfs fuse.s3fs fuse.gcsfuse fuse.juicefs fuse.mount-s3 fuse.unlisted
"""
LOCAL = """
    ext4 xfs btrfs zfs f2fs overlay tmpfs ramfs devtmpfs fuseblk fuse.ntfs-3g fuse.exfat fuse.ext2 fuse.fuse2fs
    fuse.fuse-overlayfs squashfs
"""


@pytest.mark.parametrize("kind", NETWORK.split())
def test_network_file_systems(kind: str) -> None:
    assert is_network(kind)


@pytest.mark.parametrize("kind", ["", *LOCAL.split()])
def test_local_file_systems(kind: str) -> None:
    assert not is_network(kind)


def table(folder: Path, *rows: str) -> Path:
    mounts = folder / "mounts"
    mounts.write_text("".join(f"{row} rw 0 0\n" for row in rows), encoding="utf-8")
    return mounts


def test_the_deepest_mount_holds_a_folder(tmp_path: Path) -> None:
    mounts = table(tmp_path, "a / ext4", "b /data xfs", "c /data/net lustre", "broken")
    for folder, kind in (("/data/x", "xfs"), ("/data/net/y", "lustre"), ("/database", "ext4"), ("/", "ext4")):
        assert file_system(Path(folder), mounts) == kind
    assert file_system(Path("/data/net/../x"), mounts) == "xfs"
    assert file_system(Path("/"), tmp_path / "none") == ""


def test_a_drive_below_a_network_file_system_holds_its_folders(tmp_path: Path) -> None:
    mounts = table(tmp_path, "a / ext4", f"server:/b {tmp_path} nfs4", rf"c {tmp_path}/c\040d xfs")
    assert file_system(tmp_path / "x", mounts) == "nfs4"
    assert file_system(tmp_path / "c d" / "e", mounts) == "xfs"


def test_a_later_mount_hides_an_earlier_one_on_the_same_point(tmp_path: Path) -> None:
    assert file_system(Path("/data"), table(tmp_path, "a / ext4", "b /data autofs", "c /data nfs4")) == "nfs4"


def test_names_are_written_with_octal_numbers(tmp_path: Path) -> None:
    mounts = table(tmp_path, "a / ext4", r"b /my\040drive xfs", r"c /tab\011 btrfs", r"d /back\134slash zfs")
    for folder, kind in (("/my drive/x", "xfs"), ("/tab\t", "btrfs"), (r"/back\slash/y", "zfs")):
        assert file_system(Path(folder), mounts) == kind


def test_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk")
    (tmp_path / "up").symlink_to(tmp_path / "disk" / ".." / "link")
    (tmp_path / "round").symlink_to("round")
    mounts = table(tmp_path, "a / ext4", f"b {tmp_path}/disk xfs")
    for name, kind in (("link/x", "xfs"), ("up", "xfs"), ("round/x", "ext4"), ("other", "ext4")):
        assert file_system(tmp_path / name, mounts) == kind


def test_nothing_on_a_network_file_system_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "link").symlink_to("net")
    mounts = table(tmp_path, "a / ext4", f"server:/x {tmp_path}/net nfs4")
    seen: list[str] = []
    real = os.path.islink

    def islink(path: str) -> bool:
        seen.append(path)
        return real(path)

    monkeypatch.setattr(os.path, "islink", islink)
    assert file_system(tmp_path / "net" / "deep", mounts) == "nfs4"
    assert file_system(tmp_path / "link" / "deep", mounts) == "nfs4"
    assert not [path for path in seen if path.startswith(f"{tmp_path}/net")]
