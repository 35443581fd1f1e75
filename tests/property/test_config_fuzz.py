"""Readers of configurations against input that nobody meant: no crash, no hang, nothing executed.

By default a few hundred inputs a property. `GPTPLAN_FUZZ_EXAMPLES=25000 python -m pytest
tests/property/test_config_fuzz.py` tries 125 000 in all, in about a quarter of an hour.
"""

import contextlib
import difflib
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from planner.diagnostics import Diagnostic, PlanError
from planner.lint.check import check_text, fix_text, read_and_judge
from planner.lint.draft import Asked
from planner.lint.files import decoded, language_of
from planner.specs import HardwareSpec, ModelSpec
from planner.specs.files import load_spec
from tests.property.hostile import doubled, mixtures, repetitions

EXAMPLES = int(os.environ.get("GPTPLAN_FUZZ_EXAMPLES", "150"))
LONGEST_S = 5.0
"""Of processor time, for one input."""
LARGEST_BYTES = 200 * 1024**2
"""Of memory, for one input beside what is loaded."""
LONGEST_MESSAGE = 1000
FUZZ = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*/*"))
TEXTS = [(path.name, path.read_text(encoding="utf-8")) for path in CONFIGS]
NAMES = ("a.py", "a.json", "a.toml", "a.yaml", "a.sh", "a")
ASKED = [
    Asked(gpus=gpus, hardware=load_spec("a100-40g", HardwareSpec), devices_per_node=8, model=model)
    for gpus in (1, 8, 96, 97)
    for model in (None, load_spec("gpt2-small", ModelSpec))
]
FORBIDDEN = (
    "os.system",
    "subprocess.",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "socket.",
    "shutil.",
    "os.remove",
    "os.rename",
    "os.mkdir",
    "urllib.",
    "ctypes.",
)
_watched: dict[str, Any] = {"on": False, "seen": []}


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watched["on"]:
        return
    writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
    if writes or event.startswith(FORBIDDEN) or event == "exec":
        _watched["seen"].append(event)


sys.addaudithook(_watch)


def survive(text: str, name: str, asked: Asked) -> None:
    """Check a text as the command does; only a message for the user may come out."""
    started = time.process_time()
    refused: tuple[Diagnostic, ...] = ()
    _watched.update(on=True, seen=[])
    try:
        read_and_judge(text, name, language_of(text, name), asked)
    except PlanError as error:
        refused = error.diagnostics
    finally:
        _watched["on"] = False
    assert _watched["seen"] == []
    assert all(found.message and len(found.message) < LONGEST_MESSAGE for found in refused)
    assert time.process_time() - started < LONGEST_S


survive(TEXTS[0][1], "a.py", ASKED[0])  # whatever is imported late is imported now, before anything is watched

PIECES = (
    "(",
    ")",
    "[",
    "{",
    "}",
    "'",
    '"',
    "\\",
    "\n",
    "\t",
    "#",
    "=",
    ",",
    ":",
    "0",
    "-1",
    "9" * 30,
    "1e400",
    "None",
    "True",
    "null",
    "auto",
    "**",
    "//",
    "%",
    "$",
    "`",
    "$(",
    "&a ",
    "*a ",
    "\x00",
    "\ufeff",
    "\u2028",
    "é",
    "lambda:",
    "exec('1')",
    "__import__('os').system('true')",
    "for i in x:\n",
    "import os\n",
    "if 1:\n ",
    "--fp16 ",
    "*",
    "!!python/object:x",
)
edits = st.lists(
    st.tuples(
        st.sampled_from(("delete", "insert", "repeat", "swap")),
        st.floats(0, 1),
        st.integers(0, 40),
        st.sampled_from(PIECES),
    ),
    max_size=8,
)


def edited(text: str, changes: list[tuple[str, float, int, str]]) -> str:
    """A text with some of its pieces deleted, repeated or replaced."""
    for kind, where, length, piece in changes:
        at = int(where * len(text))
        cut = text[at : at + length]
        middle = {"delete": "", "insert": piece + cut, "repeat": cut * 3, "swap": piece}[kind]
        text = text[:at] + middle + text[at + length :]
    return text


@FUZZ
@given(st.sampled_from(TEXTS), edits, st.sampled_from(ASKED))
def test_damaged_configurations(example: tuple[str, str], changes: Any, asked: Asked) -> None:
    survive(edited(example[1], changes), example[0], asked)


@FUZZ
@given(st.text(max_size=300), st.sampled_from(NAMES), st.sampled_from(ASKED))
def test_any_text(text: str, name: str, asked: Asked) -> None:
    survive(text, name, asked)


@FUZZ
@given(st.binary(max_size=400), st.sampled_from(NAMES), st.sampled_from(ASKED))
def test_any_bytes(raw: bytes, name: str, asked: Asked) -> None:
    try:
        text = decoded(raw, name)
    except PlanError:
        return
    survive(text, name, asked)


scalars = st.one_of(
    st.integers(),
    st.integers(-2, 100),
    st.floats(),
    st.booleans(),
    st.none(),
    st.text(max_size=8),
    st.sampled_from(
        [
            "1d",
            "2d",
            "2.5d",
            "3d",
            "fp16",
            "bf16",
            "fp32",
            "1f1b",
            "interleaved",
            "zbv",
            "cpu",
            "nvme",
            "ring_attn",
            "split_gather",
            "auto",
            "static",
            "gpt2_small",
            "gpt3",
        ]
    ),
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
KEYS = """
    BATCH_SIZE SEQ_LEN NUM_MICRO_BATCHES HIDDEN_SIZE PIPELINE TENSOR_PARALLEL DEPTH MODE TENSOR_SHAPE parallel zero fp16
    model optimizer gradient_accumulation DATA_PARALLEL tp_size pp_size sp_size zero_stage pp_style num_model_chunks
    num_microbatches microbatch_size precision enable_sequence_parallelism sequence_parallelism_mode cpu_offload
    num_layers_per_stage inner_ring_size placement_policy shard_param_frac offload_optim_frac offload_param_frac stage
    extra_dp_size batch_size seq_len plugin train_batch_size train_micro_batch_size_per_gpu gradient_accumulation_steps
    zero_optimization tensor_parallel bf16 tensor_model_parallel_size pipeline_model_parallel_size num_layers
    hidden_size num_attention_heads micro_batch_size global_batch_size num_query_groups expert_model_parallel_size
"""
keys = st.sampled_from(KEYS.split())
tables = st.dictionaries(keys, values, max_size=10)


def as_python(table: dict[str, Any]) -> str:
    """One assignment for each entry."""
    return "".join(f"{key} = {value!r}\n" for key, value in table.items())


def as_call(table: dict[str, Any]) -> str:
    """The entries as arguments of a plugin."""
    return f"p = HybridParallelPlugin({', '.join(f'{key}={value!r}' for key, value in table.items())})\n"


def as_options(table: dict[str, Any]) -> str:
    """The entries as options of a command line."""
    options = " ".join(f"--{key.replace('_', '-')} {value}" for key, value in table.items())
    return f"run --micro-batch-size 1 {options}\n"


@FUZZ
@given(tables, st.sampled_from((as_python, as_call, as_options)), st.sampled_from(ASKED))
def test_any_values_of_known_keys(table: dict[str, Any], spell: Any, asked: Asked) -> None:
    survive(spell(table), "a.sh" if spell is as_options else "a.py", asked)


OPERATORS = ("+", "-", "*", "/", "//", "%", "**", "<<", "==", "and", "if X else", "<")
expressions = st.recursive(
    st.sampled_from(["1", "0", "2.5", "-3", "'a'", "None", "True", "X", "torch.half", "10**9", "()", "dict()"]),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(OPERATORS), inner).map(lambda parts: f"({parts[0]} {parts[1]} {parts[2]})"),
        st.tuples(st.sampled_from(["int", "float", "min", "tuple", "dict", "open", "eval", "X"]), inner).map(
            lambda parts: f"{parts[0]}({parts[1]})"
        ),
        st.lists(inner, max_size=3).map(lambda items: f"({', '.join(items)},)" if items else "()"),
        inner.map(lambda item: f"dict(a={item}, **{item})"),
    ),
    max_leaves=25,
)


@FUZZ
@given(st.lists(st.tuples(keys, expressions), min_size=1, max_size=6), st.sampled_from(ASKED))
def test_any_expression(assignments: list[tuple[str, str]], asked: Asked) -> None:
    survive("".join(f"{key} = {expression}\n" for key, expression in assignments), "a.py", asked)


@settings(max_examples=max(20, EXAMPLES // 50), deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(TEXTS), edits, st.sampled_from(ASKED))
def test_hints_and_repairs_of_damaged_configurations(example: tuple[str, str], changes: Any, asked: Asked) -> None:
    """What is suggested and written has been judged: a repaired text breaks nothing, or says what is left.

    A text that was mended is another one only where a change is listed, and mending it again changes nothing.
    """
    name, text = example
    text = edited(text, changes)
    try:
        checked = check_text(text, name, asked, compare=False)
    except PlanError:
        return
    language = language_of(text, name)
    source = checked[0].source
    fixed, changes = fix_text(text, name, asked)
    left = [error for one in read_and_judge(fixed, name, language, asked)[1] for error in one.errors]
    before = [error for one in checked for error in one.judged.errors]
    assert len(left) <= len(before)
    assert all(error.message and error.location and error.hint for error in left)
    assert bool(changes) == (fixed != source.text)
    old, new = source.text.splitlines(), fixed.splitlines()
    blocks = difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    assert sum(1 for tag, *_ in blocks if tag != "equal") <= len(changes)
    if not left:
        assert fix_text(fixed, name, asked) == (fixed, [])


def memory_bytes(what: str) -> int:
    """Memory of this process, as Linux counts it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))


def test_hostile_shapes() -> None:
    """Inputs made to cost time or memory, whole with suggestions; which of the repeated ones is drawn by seed."""
    every = list(repetitions())
    chosen = random.Random(EXAMPLES).sample(every, min(len(every), EXAMPLES // 8))
    for name, text in [*doubled(), *chosen, *mixtures(EXAMPLES // 5, seed=EXAMPLES)]:
        survive(text, name, ASKED[3])
        Path("/proc/self/clear_refs").write_text("5")  # sets the peak to what is held now
        started, held = time.process_time(), memory_bytes("VmHWM")
        with contextlib.suppress(PlanError):
            check_text(text, name, ASKED[3], compare=False)
        assert time.process_time() - started < LONGEST_S, (name, text[:60])
        grown = memory_bytes("VmHWM") - held
        assert grown < LARGEST_BYTES, (name, text[:60], grown)
