"""Builds tensornvme for this Python, where its libraries are: ``python -m planner.launch.nvme_build``.

A plain `pip install` of it looks for liburing.a in /usr/lib alone, and edits ~/.bashrc.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

COMMAND = "python -m planner.launch.nvme_build"
PACKAGES = "libaio-dev liburing-dev"
"""Debian's names of what tensornvme is built with."""

_REQUIREMENT = "tensornvme==0.1.0"
_TOOLS = ("cmake", "make")
_HEADERS = ("libaio.h", "liburing.h")
_STATIC = "liburing.a"


def main() -> int:
    """Install tensornvme if it is not there and can be built; 1 and a note if it cannot."""
    if importlib.util.find_spec("tensornvme") is not None:
        return 0
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    missing = list(_missing(compiler))
    if missing or compiler is None:
        return _note(f"there is no {', no '.join(missing)}; `apt install cmake g++ make {PACKAGES}` has them")
    done = _install(compiler)
    if done.returncode:
        return _note(f"pip failed: {(done.stdout.strip().splitlines() or [''])[-1]}")
    return 0


def _missing(compiler: str | None) -> Iterator[str]:
    yield from (tool for tool in _TOOLS if shutil.which(tool) is None)
    if compiler is None:
        yield "C++ compiler"
        return
    yield from (header for header in _HEADERS if not _has_header(compiler, header))
    yield from (library for library in (_STATIC, "libaio.so") if _library(compiler, library) is None)


def _has_header(compiler: str, header: str) -> bool:
    source = f"#include <{header}>\n"
    done = subprocess.run([compiler, "-x", "c++", "-E", "-"], input=source.encode(), capture_output=True, check=False)
    return done.returncode == 0


def _library(compiler: str, name: str) -> Path | None:
    """Where the compiler finds a library; it repeats the name of one that it does not find."""
    answer = subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=False)
    found = Path(answer.stdout.strip())
    return found if found.is_absolute() and found.is_file() else None


def _install(compiler: str) -> "subprocess.CompletedProcess[str]":
    static = _library(compiler, _STATIC)
    folders = [str(static.parent)] if static is not None else []
    home = Path.home()
    with tempfile.TemporaryDirectory(prefix="gptplan-") as elsewhere:
        # Its build adds a line to ~/.bashrc; pip keeps its own settings and cache.
        changed = {
            "HOME": elsewhere,
            "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME", str(home / ".cache")),
            "XDG_CONFIG_HOME": os.environ.get("XDG_CONFIG_HOME", str(home / ".config")),
            "LIBRARY_PATH": os.pathsep.join([*folders, *filter(None, [os.environ.get("LIBRARY_PATH")])]),
        }
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install"]
        return subprocess.run(
            [*pip, "--quiet", "--no-build-isolation", "--no-deps", _REQUIREMENT],
            env=os.environ | changed,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )


def _note(reason: str) -> int:
    sys.stderr.write(f"note: tensornvme, for offload to NVMe, was not installed: {reason}" + "\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
