"""Specs that somebody edited, and names of files that nobody expects: each is answered, or refused by what is wrong.

By default a few; `GPTPLAN_FUZZ_EXAMPLES=5000 python -m pytest tests/property/test_spec_fuzz.py` tries more. Times are
those of the processor, which do not hang on what else the machine does.
"""

import copy
import json
import os
import random
import resource
import time
import tomllib
import warnings
from pathlib import Path
from typing import Any

import pytest
import tomlkit

from planner.specs.files import specs_root
from tests.property.test_plan_fuzz import HOSTILE, NUMBERS, Outcome, gptplan, is_plain, places

EXAMPLES = int(os.environ.get("GPTPLAN_FUZZ_EXAMPLES", "40"))
LONGEST_S = 60.0
MOST_KIB = 2 * 1024**2
KINDS = {"--model": ("models", "gpt2-small"), "--gpu": ("hardware", "h100-80g"), "--stack": ("stacks", "colossalai")}
BOUNDS = (
    1,
    1024,
    131_072,
    1_048_576,
    16_777_216,
    1e-9,
    1e4,
    1e24,
    "1 PiB",
    "1048576 GiB",
    "1e3 B/s",
    "1e6 TB/s",
    "0 s",
)
QUANTITIES = (
    "3600 s",
    "1e6 FLOP/s",
    "1e9 TFLOP/s",
    "0 B/s",
    "-1 GB/s",
    "1e400 B",
    "nan s",
    "1 GiB",
    "5e-324 s",
    "9 GB",
)
VALUES: tuple[Any, ...] = (
    *BOUNDS,
    *QUANTITIES,
    *NUMBERS,
    *HOSTILE,
    True,
    False,
    [],
    {},
    [0],
    [1] * 300,
    [[]],
    {"a": {}},
    float("nan"),
)


def edited(kind: str, chance: random.Random) -> str:
    """A built-in spec with some of its values replaced, removed, renamed or repeated."""
    folder, name = KINDS[kind]
    fields: Any = tomllib.loads((specs_root() / folder / f"{name}.toml").read_text(encoding="utf-8"))
    for _ in range(chance.randint(1, 3)):
        path = chance.choice([path for path in places(fields) if path[0] != "sources"])
        parent = fields
        for key in path[:-1]:
            parent = parent[key]
        old, how = parent[path[-1]], chance.choice(("value", "value", "value", "scale", "remove", "name", "repeat"))
        if how == "scale" and isinstance(old, int | float):
            parent[path[-1]] = old * chance.choice((2, 3, 16, 1000))
        elif how == "remove":
            del parent[path[-1]]
        elif how == "name" and isinstance(parent, dict):
            parent[str(chance.choice(HOSTILE))[:50]] = parent.pop(path[-1])
        elif how == "repeat" and isinstance(old, list):
            parent[path[-1]] = old * chance.choice((2, 40))
        else:
            parent[path[-1]] = copy.deepcopy(chance.choice(VALUES))
    try:
        return tomlkit.dumps(fields)
    except (ValueError, TypeError, UnicodeError):
        return repr(fields)


def judged(outcome: Outcome, begun_s: float) -> None:
    """That a command has answered or refused, without harm and in its bounds."""
    assert time.process_time() - begun_s < LONGEST_S
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < MOST_KIB
    assert outcome.code in (0, 1, 2), outcome.err
    assert is_plain(outcome.out + outcome.err)
    assert "Warning" not in outcome.err


@pytest.mark.parametrize("seed", range(EXAMPLES))
def test_edited_specs(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    kind = chance.choice(list(KINDS))
    spec = tmp_path / "odd.toml"
    spec.write_bytes(edited(kind, chance).encode("utf-8", "surrogatepass"))
    named = {"--model": "gpt2-small", "--gpu": "h100-80g", "--stack": "colossalai"} | {kind: str(spec)}
    options = [word for pair in named.items() for word in pair]
    begun_s = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gpus = chance.choice(("1", "8", "16"))
        outcome = gptplan("solve", *options, "--gpus", gpus, "-o", str(tmp_path / "a.plan"), "--json")
    judged(outcome, begun_s)
    json.loads(outcome.out)


def odd_paths(folder: Path) -> list[str]:
    """Names that are no ordinary files, or whose bytes a terminal would obey."""
    os.mkfifo(folder / "pipe")
    names = ["a b", "a\nb", "\x1b[31mred", "\u202egnp", "jos\udce9", "x" * 300, "-", "--", "-x", "", " ", "."]
    whole = [str(folder / name) for name in names if name not in ("-", "--", "-x", "")]
    (folder / "a b").write_bytes(b"\x00\xff")
    return [*names, *whole, str(folder), str(folder / "pipe"), "/dev/null", "/dev/zero", "/dev/full", "/dev/stdin/x"]


COMMANDS: tuple[tuple[str, ...], ...] = (
    ("show", "PATH", "--json"),
    ("check", "PATH", "--gpus", "8"),
    ("diff", "PATH", "PATH"),
    ("report", "PATH", "-o", "a.html"),
    ("validate", "PATH"),
    ("verify", "PATH"),
    ("run", "PATH"),
    ("solve", "--model", "PATH", "--gpus", "1"),
    ("solve", "--model", "gpt2-tiny", "--gpus", "1", "--gpu", "PATH"),
    ("solve", "--model", "gpt2-tiny", "--gpus", "1", "--stack", "PATH", "--json"),
    ("sweep", "--model", "gpt2-tiny", "--vary", "gpus=1", "--out", "PATH/none/there", "--jobs", "1"),
    ("calibrate", "--from", "PATH", "-o", "a.toml"),
    ("calibrate", "-o", "PATH"),
    ("explain", "PATH"),
)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_odd_names_of_files(command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No name makes a command hang, fail or print what a terminal obeys."""
    monkeypatch.chdir(tmp_path)
    for path in odd_paths(tmp_path):
        begun_s = time.process_time()
        outcome = gptplan(*(word.replace("PATH", path) for word in command))
        judged(outcome, begun_s)
        assert outcome.code in (1, 2), (path, outcome)
