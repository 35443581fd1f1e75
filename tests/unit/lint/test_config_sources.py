"""Reading configurations: what is told, where it stands, and what is left unknown, in every language."""

from typing import Any

import pytest

from planner.lint.editing import removed
from planner.lint.files import read_source
from planner.lint.model_names import model_named
from planner.lint.source import Source, Symbol, Unknown


def content(source: Source, key: str) -> Any:
    return source.settings[key].content


PYTHON = """\
from titans.model.gpt import gpt2_small
import torch

A = 2 * 48
B, C = 4, (A // 3, -1)
D = A if B > 3 else 0
E = int(7.9) + max(1, 2) + abs(-3)
TABLE = dict(x=A, **{'y': 2.5})
TABLE['z'] = B
model = dict(type=gpt2_small, dtype=torch.half, shard=Strategy())
"""


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("A", 96),
        ("B", 4),
        ("C", (32, -1)),
        ("D", 96),
        ("E", 12),
        ("TABLE.x", 96),
        ("TABLE.y", 2.5),
        ("TABLE.z", 4),
        ("model.type", Symbol("gpt2_small")),
        ("model.dtype", Symbol("torch.half")),
        ("model.shard", Symbol("Strategy")),
    ],
)
def test_python_constants(key: str, value: Any) -> None:
    assert content(read_source(PYTHON, "a.py"), key) == value


def test_a_name_keeps_the_place_of_its_definition() -> None:
    source = read_source(PYTHON, "a.py")
    value = source.settings["TABLE.x"]
    assert (value.line, value.column) == (4, 5)
    assert source.written(value) == "2 * 48"
    assert source.with_text(value, "4") == PYTHON.replace("2 * 48", "4")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("X = open('f')", "would have to be called"),
        ("X = [i for i in (1, 2)]", "is not a constant"),
        ("X = Y + 1", "`Y` is imported or not defined"),
        ("X = 2 ** 100", "too large a power"),
        ("X = 10 ** 60", "too large"),
        ("X = 1 // 0", "fails"),
        ("for X in (1, 2): pass", "a loop on line 1 may set it"),
        ("if flag:\n    X = 1", "a branch on line 1 may set it"),
        ("try:\n    X = 1\nexcept E: pass", "a block on line 1 may set it"),
        ("X = 1\ndel X", "it is deleted"),
        ("X = dict(a=1)\nX.update(a=2)", "the call on line 2 may change it"),
        ("X = 1\ndef f():\n    global X\n    X = 2", "f() sets it when it runs"),
    ],
)
def test_python_that_cannot_be_told(text: str, why: str) -> None:
    value = content(read_source(text, "a.py"), "X")
    assert isinstance(value, Unknown)
    assert why in value.why


def test_a_branch_that_can_be_decided_is_taken() -> None:
    assert content(read_source("N = 4\nif N > 2:\n    X = 1\nelse:\n    X = 2\n", "a.py"), "X") == 1


def test_plugin_calls_are_found_anywhere() -> None:
    body = "        q = T * 2\n        return Booster(GeminiPlugin(tp_size=q, x=p))\n"
    text = f"T = 2\nclass R:\n    def run(self, p):\n{body}"
    (call,) = read_source(text, "a.py").calls
    assert (call.name, call.line) == ("GeminiPlugin", 5)
    assert call.arguments["tp_size"].content == 4
    assert isinstance(call.arguments["x"].content, Unknown)


def test_positions_hold_beyond_ascii_and_carriage_returns() -> None:
    text = "NAME = 'é𝛼'; TP = 6\r\nPP = 2\r\n"
    source = read_source(text, "a.py")
    assert source.written(source.settings["TP"]) == "6"
    assert source.with_text(source.settings["PP"], "4") == text.replace("PP = 2", "PP = 4")


@pytest.mark.parametrize(
    ("name", "text", "key", "value", "written"),
    [
        ("a.json", '{"a": {"b": [1, 2.5e1, null]}}', "a.b", (1, 25.0, None), "[1, 2.5e1, null]"),
        ("a.json", '{\n\t"a": -12\n}', "a", -12, "-12"),
        ("a.toml", "[t]\nkey = 'x # y' # z\n", "t.key", "x # y", None),
        ("a.toml", "[t]\nkey = 12 # z\n", "t.key", 12, "12"),
        ("a.yaml", "a:\n  b: 1e-5 # c\n", "a.b", 1e-5, "1e-5"),
        ("a.yaml", "a: &x 3\nb: *x\n", "b", 3, "3"),
        ("a.sh", "N=4\nrun --size=$N --other ${N} --flag\n", "--size", 4, "4"),
        ("a.sh", "run --size $((2 * 3)) \\\n  --next 'x'\n", "--size", 6, None),
        ("a.sh", "run --flag --next x\n", "--flag", True, None),
        ("a.sh", "A='\n --size 8\n --lr 1e-4'\n", "--size", 8, "8"),
        ("a.sh", "A=(--size 8 # eight\n --lr .5)\n", "--lr", 0.5, ".5"),
    ],
)
def test_other_languages(name: str, text: str, key: str, value: Any, written: str | None) -> None:
    source = read_source(text, name)
    found = source.settings[key]
    assert found.content == value
    if written is not None:
        assert text[found.start : found.end].strip("'") == written
    assert source.settings[key].line == 1 + text[: found.start].count("\n") or found.end < 0 or "$" in text


@pytest.mark.parametrize("value", ["$(nproc)", "`nproc`", "$UNSET", "$((X + 1))"])
def test_shell_values_that_would_have_to_be_run(value: str) -> None:
    assert isinstance(content(read_source(f"run --size {value}\n", "a.sh"), "--size"), Unknown)


@pytest.mark.parametrize(
    ("name", "text", "severity"),
    [
        ("a.py", "K = 1\nK = 2\n", "error"),
        ("a.json", '{"K": 1, "K": 2}', "error"),
        ("a.yaml", "K: 1\nK: 2\n", "error"),
        ("a.sh", "run --k 1 --k 2\n", "warning"),
    ],
)
def test_conflicting_definitions_are_noted(name: str, text: str, severity: str) -> None:
    (note,) = read_source(text, name).notes
    assert (note.code, note.severity) == ("CFG003", severity)
    same = text.replace("2", "1")
    assert read_source(same, name).notes == ()


@pytest.mark.parametrize(
    ("text", "name", "key", "left"),
    [
        ("p = dict(a=1, b=2)\n", "a.py", "p.a", "p = dict(b=2)\n"),
        ("p = dict(a=1, b=2)\n", "a.py", "p.b", "p = dict(a=1)\n"),
        ("x = 1\ny = 2  # why\nz = 3\n", "a.py", "y", "x = 1\nz = 3\n"),
        ("run --fp16 --bf16\n", "a.sh", "--fp16", "run --bf16\n"),
        ("run --a 1 --b 2\n", "a.sh", "--a", "run --b 2\n"),
    ],
)
def test_removal(text: str, name: str, key: str, left: str) -> None:
    source = read_source(text, name)
    assert removed(source, source.settings[key], key) == left


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("gpt2_small", (12, 768, 12)),
        ("titans.model.gpt.gpt2_large", (36, 1536, 12)),
        ("gpt2", (12, 768, 12)),
        ("GPT3_pipeline_1D", (96, 12288, 96)),
        ("GPT2_small_pipeline_hybrid", (12, 768, 12)),
        ("gpt2_8B", (72, 3072, 24)),
        ("gpt3-1.3b", (24, 2048, 16)),
        ("openai/gpt2-xl", (48, 1600, 25)),
    ],
)
def test_model_names(name: str, shape: tuple[int, int, int]) -> None:
    model = model_named(name)
    assert model is not None
    assert (model.num_layers, model.hidden_size, model.num_heads) == shape
    assert model.ffn_hidden_size == 4 * model.hidden_size


def test_unknown_models_are_none() -> None:
    assert model_named("llama_7b") is None
