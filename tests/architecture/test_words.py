"""Texts name no machine, host or ticket that a stranger does not have."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Put together here, so that this file does not contain them.
_HOSTS = ["py" + "pi.org", "python" + "hosted", "download." + "pytorch", "files." + "python", "hugging" + "face.co"]
_PATHS = ["/wo" + "rk/", "/opt/" + "pypi", "file:" + "///"]
# In code a session is a process group of the operating system.
_IN_PAGES = re.compile(r"\bsessions?\b", re.IGNORECASE)
_TRACKER = [r"issue " + r"#?\d", r"\bPR " + r"#\d", r"pull " + "request", "TO" + "DO", "FIX" + "ME"]
FORBIDDEN = re.compile("|".join([*map(re.escape, [*_HOSTS, *_PATHS]), *_TRACKER]), re.IGNORECASE)
FOLDERS = ("planner", "runtime", "specs", "tests", "benchmarks", "docs", "requirements", ".ci")
SUFFIXES = {".py", ".toml", ".md", ".txt", ".csv", ".json", ".plan", ".yaml"}
NAMES = {"Makefile", "LICENSE", "run", ".editorconfig", ".gitignore"}
FILES = [path for path in ROOT.iterdir() if path.is_file() and path.name != ".git"]
FILES += [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file()]


@pytest.mark.parametrize("folder", ["", *FOLDERS])
def test_no_forbidden_word(folder: str) -> None:
    own = [path for path in FILES if (path.parent == ROOT if not folder else path.is_relative_to(ROOT / folder))]
    texts = [path for path in own if path.suffix in SUFFIXES or path.name in NAMES]
    assert texts
    found = [
        f"{path.relative_to(ROOT)}:{number}: {match[0]}"
        for path in texts
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if (match := FORBIDDEN.search(line) or (path.suffix == ".md" and _IN_PAGES.search(line)))
    ]
    assert not found
