"""What is written somewhere is complete or absent, and nothing of anybody else's is lost."""

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from planner.diagnostics import ExitCode, PlanError
from planner.outputs import check_output, write_output

ROOT = Path(__file__).parents[2]


def by_us(content: bytes) -> bool:
    return content.startswith(b"ours")


def write(path: Path, content: bytes = b"ours, new", *, force: bool = False) -> None:
    write_output(content, path, what="plan", ours=by_us, force=force)


def refusal(start: Callable[[], None]) -> str:
    with pytest.raises(PlanError) as caught:
        start()
    (found,) = caught.value.diagnostics
    assert caught.value.exit_code == ExitCode.USAGE
    assert found.hint
    assert found.location
    return found.message


@pytest.fixture
def umask() -> Iterator[Callable[[int], int]]:
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_new_file_with_its_folders(tmp_path: Path) -> None:
    write(tmp_path / "a" / "b.plan")
    assert (tmp_path / "a" / "b.plan").read_bytes() == b"ours, new"
    assert names(tmp_path / "a") == {"b.plan"}


def test_our_own_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "x.plan"
    path.write_bytes(b"ours, old")
    write(path)
    assert path.read_bytes() == b"ours, new"


def test_a_file_of_somebody_else_stays(tmp_path: Path) -> None:
    path = tmp_path / "mynotes.txt"
    path.write_bytes(b"notes")
    for start in (lambda: write(path), lambda: check_output(path, what="plan", ours=by_us)):
        assert "there is a file already" in refusal(start)
    assert path.read_bytes() == b"notes"
    write(path, force=True)
    assert path.read_bytes() == b"ours, new"


def test_links_are_followed_and_stay(tmp_path: Path) -> None:
    target, link, second = tmp_path / "there" / "x.plan", tmp_path / "link", tmp_path / "second"
    target.parent.mkdir()
    link.symlink_to(target)
    second.symlink_to("link")
    write(second)
    assert second.is_symlink()
    assert link.is_symlink()
    assert target.read_bytes() == b"ours, new"
    target.write_bytes(b"notes")
    refusal(lambda: write(second))
    assert target.read_bytes() == b"notes"


def test_a_link_in_a_circle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    refusal(lambda: write(tmp_path / "a"))
    assert (tmp_path / "a").is_symlink()


@pytest.mark.parametrize(("mask", "mode"), [(0o077, 0o600), (0o022, 0o644), (0o007, 0o660)])
def test_the_umask_is_honoured(mask: int, mode: int, umask: Callable[[int], int], tmp_path: Path) -> None:
    umask(mask)
    write(tmp_path / "x.plan")
    assert stat.S_IMODE((tmp_path / "x.plan").stat().st_mode) == mode


def test_permissions_of_a_replaced_file_stay(umask: Callable[[int], int], tmp_path: Path) -> None:
    path = tmp_path / "x.plan"
    path.write_bytes(b"ours")
    path.chmod(0o640)
    write(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize("force", [False, True])
def test_what_is_no_file_is_refused(force: bool, tmp_path: Path) -> None:
    fifo, folder, bound = tmp_path / "fifo", tmp_path / "folder", tmp_path / "socket"
    os.mkfifo(fifo)
    folder.mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(bound))
        for path, kind in ((fifo, "a named pipe"), (folder, "a folder"), (bound, "a socket")):
            assert refusal(partial(write, path, force=force)).endswith(f"this is {kind}")
            assert not path.is_file()


def test_a_device_that_keeps_nothing_is_written_through() -> None:
    before = Path("/dev/null").stat()
    write(Path("/dev/null"))
    after = Path("/dev/null").stat()
    assert (after.st_mode, after.st_rdev, after.st_ino) == (before.st_mode, before.st_rdev, before.st_ino)


def test_a_full_device_is_told() -> None:
    assert refusal(lambda: write(Path("/dev/full"))) == "cannot write the plan: No space left on device"


@pytest.mark.parametrize("path", ["-", "/dev/stdout", "/proc/self/fd/1"])
@pytest.mark.parametrize("piped", [True, False])
def test_standard_output_by_any_name(path: str, piped: bool, tmp_path: Path) -> None:
    imports = "from pathlib import Path; from planner.outputs import write_output; "
    code = f"{imports}write_output(b'x', Path({path!r}), what='plan'); print('y')"
    kept = tmp_path / "kept"
    with kept.open("wb") as file:
        stdout = subprocess.PIPE if piped else file
        result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=stdout, check=True)
    assert (result.stdout if piped else kept.read_bytes()) == b"xy\n"


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.plan"
    path.write_bytes(b"ours, old")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert refusal(lambda: write(path)) == "cannot write the plan: No space left on device"
    assert path.read_bytes() == b"ours, old"
    assert names(tmp_path) == {"x.plan"}


def test_a_folder_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert refusal(lambda: write(tmp_path / "file" / "x.plan")) == "cannot write the plan: Not a directory"
