"""Plans that somebody edited and signed again: told as what they are, whatever they say.

Whoever changes a plan can compute its digest too, so that a plan is no more trusted than any other file. By default a
few hundred plans; `GPTPLAN_FUZZ_EXAMPLES=20000 python -m pytest tests/property/test_plan_fuzz.py` tries more.
"""

import contextlib
import copy
import io
import json
import os
import random
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from planner.cli import app as cli
from planner.plans.plan import canonical_json, content_digest

EXAMPLES = int(os.environ.get("GPTPLAN_FUZZ_EXAMPLES", "60"))
LONGEST_S = 10.0
PLANS = Path(__file__).parents[2] / "plans"
NAMES = ("gpt2-1d", "gpt2-2p5d", "gpt2-nvme", "gpt3-96xa100-40g", "gpt2-zero3")
HOSTILE = (
    "\x1b[31mred",
    "\x07", "\u202eright to left", "\u2028", "\x9b2J", "a\rb", "<script>alert(1)</script>", "{x.__class__}",
    "{0}", "%s%n", "[red]x[/red]", "[/]", "x" * 5000, "\ud7ff", "", " ", "../../etc/passwd", "\x00",
)  # fmt: skip
NUMBERS = (-1, 0, 1, 2, 3, 7, 2**31, 2**53 + 1, 2**63, 2**64, 10**30, -(2**63) - 1, 0.5, -0.5, 1e308, -1e308, 5e-324)
VALUES = (
    None,
    True,
    False,
    *NUMBERS,
    *HOSTILE,
    *range(-9, 200, 7),
    0.25,
    [],
    {},
    [0],
    [1] * 300,
    [[]],
    {"a": {}},
    [-1, 1e308],
)
KINDS = ("value", "value", "value", "remove", "scale", "repeat", "name")


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


@cache
def document(name: str) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode((PLANS / f"{name}.plan").read_bytes())
    return found


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Everything in a document, its lists and tables too."""
    if path:
        yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from places(child, (*path, key))


@cache
def all_places(name: str) -> list[tuple[Any, ...]]:
    """The places of a plan; of what the solver, the runtime and the views use the most a larger share."""
    every = [path for path in places(document(name)) if path[0] != "digest" and "sources" not in path]
    layout = [path for path in every if path[0] == "layout"]
    return every + layout * (len(every) // (4 * len(layout)))


def edited(name: str, edits: list[tuple[float, str, Any]]) -> bytes:
    """A plan with some of its values replaced, removed, repeated or added, and its digest computed again."""
    changed = copy.deepcopy(document(name))
    for where, kind, value in edits:
        path = all_places(name)[int(where * (len(all_places(name)) - 1))]
        with contextlib.suppress(KeyError, IndexError, TypeError):
            parent: Any = changed
            for key in path[:-1]:
                parent = parent[key]
            _edit(parent, path[-1], kind, value)
    changed["digest"] = content_digest(changed)
    return canonical_json(changed)


def _edit(parent: Any, key: Any, kind: str, value: Any) -> None:
    old = parent[key]
    if kind == "remove":
        del parent[key]
    elif kind == "scale" and isinstance(old, int | float) and not isinstance(old, bool):
        parent[key] = old * 2 + 1
    elif kind == "repeat" and isinstance(old, list):
        parent[key] = old * 2
    elif kind == "name" and isinstance(parent, dict):
        parent[str(value)[:50]] = parent.pop(key)
    else:
        parent[key] = value


def gptplan(*arguments: str) -> Outcome:
    """One command in this process, with what it prints."""
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.TextIOWrapper(io.BytesIO(), "utf-8")
    begun = time.process_time()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as finished:
        cli.main(list(arguments))
    assert time.process_time() - begun < LONGEST_S
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode())
    return Outcome(int(finished.value.code or 0), *texts)


def is_plain(text: str) -> bool:
    """Whether nothing in a text moves the cursor, changes colours or turns the order of what follows."""
    return all(character in "\n" or character.isprintable() for character in text)


@pytest.mark.parametrize("seed", range(EXAMPLES))
def test_edited_and_signed_plans(seed: int) -> None:
    chance = random.Random(seed)
    name = chance.choice(NAMES)
    changes = [(chance.random(), chance.choice(KINDS), chance.choice(VALUES)) for _ in range(chance.randint(1, 3))]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.plan"
        path.write_bytes(edited(name, changes))
        judged = gptplan("check", str(path))
        outcomes = {
            "check": judged,
            "show": gptplan("show", str(path)),
            "show --json": gptplan("show", str(path), "--json"),
            "report": gptplan("report", str(path), "-o", str(Path(folder) / "a.html")),
            "diff": gptplan("diff", str(path), str(PLANS / f"{name}.plan")),
        }
    for command, outcome in outcomes.items():
        assert outcome.code in (0, 1, 2), (command, outcome.err)
        assert is_plain(outcome.out + outcome.err), command
        assert outcome.code == 0 or outcome.out or outcome.err, command
    if outcomes["show --json"].code == 0:
        json.loads(outcomes["show --json"].out)
