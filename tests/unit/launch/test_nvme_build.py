"""Building tensornvme: what is missing is named in one line, and a build leaves the user's home as it is."""

import importlib.util
import os
import stat
import sys
from pathlib import Path

import pytest

from planner.launch import nvme_build

COMPILER = """#!/bin/sh
case "$1" in
    -print-file-name=*) echo "{folder}/${{1#-print-file-name=}}" ;;
    *) grep -q "{headers}" ;;
esac
"""
PIP = """#!/bin/sh
echo "$@" > {folder}/arguments
env > {folder}/environment
touch "$HOME/.bashrc"
echo building
echo "{last}"
exit {code}
"""


def executable(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without tensornvme, whose compiler and tools are in this folder and find what is put there."""
    for tool in ("cmake", "make"):
        executable(tmp_path / tool, "#!/bin/sh\n")
    executable(tmp_path / "c++", COMPILER.format(folder=tmp_path, headers="lib"))
    monkeypatch.setenv("PATH", str(tmp_path) + os.pathsep + "/usr/bin" + os.pathsep + "/bin")
    monkeypatch.delenv("LIBRARY_PATH", raising=False)
    monkeypatch.setenv("CXX", str(tmp_path / "c++"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path


def with_pip(machine: Path, monkeypatch: pytest.MonkeyPatch, last: str = "", code: int = 0) -> None:
    for library in ("liburing.a", "libaio.so"):
        (machine / library).touch()
    monkeypatch.setattr(
        sys, "executable", str(executable(machine / "python", PIP.format(folder=machine, last=last, code=code)))
    )


def test_what_is_installed_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(nvme_build, "_install", None)
    assert nvme_build.main() == 0


def test_missing_libraries_are_named_in_one_line(machine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    executable(machine / "c++", COMPILER.format(folder=machine, headers="libaio"))
    (machine / "libaio.so").touch()
    assert nvme_build.main() == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        "note: tensornvme, for offload to NVMe, was not installed: there is no liburing.h, no liburing.a; "
        "`apt install cmake g++ make libaio-dev liburing-dev` has them"
    )


def test_a_build_gets_the_library_and_another_home(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_pip(machine, monkeypatch)
    assert nvme_build.main() == 0
    arguments = (machine / "arguments").read_text().split()
    assert arguments[:2] == ["-m", "pip"]
    assert arguments[-3:] == ["--no-build-isolation", "--no-deps", "tensornvme==0.1.0"]
    environment = dict(line.split("=", 1) for line in (machine / "environment").read_text().splitlines() if "=" in line)
    assert environment["LIBRARY_PATH"] == str(machine)
    assert list((machine / "home").iterdir()) == []
    assert not Path(environment["HOME"]).exists()


def test_a_build_that_fails_says_why_in_one_line(
    machine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with_pip(machine, monkeypatch, last="error: no network", code=1)
    assert nvme_build.main() == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("was not installed: pip failed: error: no network")


def test_the_checks_of_a_change_install_the_same_packages() -> None:
    script = (Path(__file__).parents[3] / ".ci" / "run").read_text(encoding="utf-8")
    assert nvme_build.PACKAGES in script
