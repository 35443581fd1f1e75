"""`gptplan check` on hand-written configurations, as a user calls it."""

import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from planner.lint.check import MEMORY_ERROR
from planner.validation import validate
from tests.helpers import Run

CONFIGS = Path(__file__).parents[2] / "configs"
VALID = {
    "gpt2_vanilla.py": 2,
    "gpt2_1d.py": 2,
    "gpt2_2d.py": 4,
    "gpt2_2p5d.py": 8,
    "gpt2_3d.py": 8,
    "gpt2_pp.py": 2,
    "gpt2_pp1d.py": 8,
    "gpt2_zero2.py": 1,
    "gpt2_zero3.py": 1,
    "gpt2_nvme.py": 1,
    "gpt3_pp1d_min.py": 96,
    "gpt3_pp1d.py": 128,
    "gpt3_pp2d.py": 96,
    "gpt3_pp2p5d.py": 96,
    "gpt3_zero3.py": 96,
    "gpt3_zero3_min.py": 64,
    "hybrid_plugin.py": 8,
    "hybrid_plugin.toml": 8,
    "low_level_zero.yaml": 8,
    "gemini.json": 8,
    "megatron.sh": 16,
    "deepspeed.json": 8,
}
"""Files of tests/configs/valid and the GPUs they are for."""
BROKEN = {
    "square.py": (96, {"TP011"}),
    "cube.py": (72, {"TP012"}),
    "deep_square.py": (24, {"TP013"}),
    "whole_micro_batches.py": (8, {"OLD001"}),
    "shape_not_halved.py": (96, {"OLD002"}),
    "mode.py": (8, {"CFG002"}),
    "batch_of_2d.py": (4, {"TP023"}),
    "fp16_and_zero.py": (1, {"OLD005"}),
    "conflict.py": (8, {"CFG003", "OLD008"}),
    "pipeline_without_micro_batches.py": (2, {"OLD003"}),
    "plugins.py": (
        8,
        {
            "CFG004",
            "HPP004",
            "HPP005",
            "HPP008",
            "HPP009",
            "HPP010",
            "HPP011",
            "GEM001",
            "GEM002",
            "GEM003",
            "GEM005",
            "GEM006",
            "LLZ001",
            "LLZ006",
        },
    ),
    "megatron.sh": (
        16,
        {"MEG001", "MEG002", "MEG004", "MEG006", "MEG007", "MEG008", "MEG009", "SEQ001", "TP001", "TP003"},
    ),
    "deepspeed.json": (8, {"DSP001", "DSP002", "DSP006", "NVM005"}),
}
"""Files of tests/configs/broken, the GPUs they are for, and the errors that each has."""
OPEN = ("imported_value.py", "loop.py", "hostile.py")
"""Files of tests/configs/broken of which only running them would tell a degree."""


def errors(document: Any) -> set[str]:
    return {found["rule"] for found in document["diagnostics"] if found["severity"] == "error"}


def write(text: str | bytes, name: str = "config.py") -> Path:
    path = Path(name)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_every_example_is_tested() -> None:
    assert {path.name for path in (CONFIGS / "valid").iterdir()} == set(VALID)
    assert {path.name for path in (CONFIGS / "broken").iterdir()} == {*BROKEN, *OPEN, "data_parallel_by_hand.py"}


@pytest.mark.parametrize(("name", "gpus"), VALID.items(), ids=list(VALID))
def test_valid_examples(check: Run, name: str, gpus: int) -> None:
    outcome = check(CONFIGS / "valid" / name, "--gpus", gpus, "--gpu", "a100-80g", "--json")
    document = outcome.document()
    assert set(document) == {"valid", "fits", "diagnostics", "layout", "predicted"}
    assert document["valid"] is True
    assert errors(document) <= {"MEM001", "MEM002", "MEM003"}
    assert outcome.code == (1 if errors(document) else 0)
    assert document["fits"] == (document["predicted"] is not None and not errors(document))
    if document["layout"]:
        layout = document["layout"]
        assert layout["tensor_parallel"] * layout["pipeline_parallel"] * layout["data_parallel"] == gpus


@pytest.mark.parametrize(("name", "expected"), BROKEN.items(), ids=list(BROKEN))
def test_broken_examples(check: Run, name: str, expected: tuple[int, set[str]]) -> None:
    gpus, rules = expected
    outcome = check(CONFIGS / "broken" / name, "--gpus", gpus, "--json")
    assert outcome.code == 1
    assert outcome.document()["valid"] is False
    assert errors(outcome.document()) == rules
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("name", OPEN)
def test_what_only_running_would_tell_is_open_and_not_broken(check: Run, name: str) -> None:
    outcome = check(CONFIGS / "broken" / name, "--gpus", 4)
    assert outcome.code == 0
    assert "open[CFG001]" in outcome.out
    assert "valid as far as it can be read; 1 value is open" in outcome.out
    assert check(CONFIGS / "broken" / name, "--gpus", 4, "--strict").code == 1


def test_data_parallelism_by_hand_is_a_warning(check: Run) -> None:
    outcome = check(CONFIGS / "broken" / "data_parallel_by_hand.py", "--gpus", 8, "--json")
    found = {one["rule"]: one["severity"] for one in outcome.document()["diagnostics"]}
    assert (outcome.document()["valid"], found["OLD004"]) == (True, "warning")


def test_a_violation_is_shown_with_its_line_numbers_and_nearest_values(check: Run) -> None:
    path = CONFIGS / "broken" / "square.py"
    outcome = check(path, "--gpus", 96)
    assert outcome.code == 1
    assert outcome.out.startswith(
        "error[TP011]: TENSOR_PARALLEL 6 is not a square, as mode 2d needs\n"
        f"  --> {path}:8: TENSOR_PARALLEL = 6\n"
        "  TENSOR_PARALLEL = 6, DEPTH = 1\n"
        "hint: use TENSOR_PARALLEL = 4 or 9; with 96 GPUs only 4 leaves a whole DP\n"
    )


def test_a_valid_configuration_is_compared_with_the_best(check: Run) -> None:
    asked = (CONFIGS / "valid" / "hybrid_plugin.toml", "--gpus", 8, "--gpu", "a100-80g")
    out = check(*asked).out
    assert "valid and fits; 1." in out
    assert "x slower than the best: TP 1 x PP 1 x DP 8" in out
    for words in ("2 (set automatically)", "+-0.", "step ", "MFU"):
        assert words in out
    (note,) = check(*asked, "--json").document()["diagnostics"]
    assert (note["rule"], note["severity"]) == ("CFG010", "note")
    assert note["values"]["slower"] > 1
    assert note["values"]["best_layout"]["data_parallel"] == 8


def test_what_does_not_fit_says_by_how_much(check: Run) -> None:
    outcome = check(CONFIGS / "valid" / "gpt3_pp1d.py", "--gpus", 128, "--gpu", "v100-32g")
    assert outcome.code == 1
    assert "error[MEM001]" in outcome.out
    assert "valid, and does not fit" in outcome.out


def test_the_error_bar_is_that_of_the_measured_runs() -> None:
    report = validate([CONFIGS.parent / "validation" / "h200_runs.csv"])
    largest = report.sets["colossalai-h200"].memory_by_kind["allocated"].max_abs_pct
    assert largest is not None
    assert largest / 100 <= MEMORY_ERROR <= 2 * largest / 100


def test_an_unknown_model_leaves_what_does_not_depend_on_it(check: Run) -> None:
    path = write(
        "BATCH_SIZE = 4\nSEQ_LEN = 1024\nmodel = dict(type=my_model)\n"
        "parallel = dict(pipeline=1, tensor=dict(size=5, mode='2d'))\n"
    )
    document = check(path, "--gpus", 10, "--json").document()
    assert {"TP011"} <= errors(document)
    assert document["layout"] is None
    path = write("BATCH_SIZE = 4\nmodel = dict(type=my_model)\nparallel = dict(pipeline=1)\n")
    outcome = check(path, "--gpus", 4)
    assert "no prediction: not known: the model (name it with --model)" in outcome.out
    assert check(path, "--gpus", 4, "--model", "gpt2", "--json").document()["fits"] is True


def test_nothing_is_executed(check: Run) -> None:
    shutil.copy(CONFIGS / "broken" / "hostile.py", "hostile.py")
    outcome = check("hostile.py", "--gpus", 4)
    assert outcome.code == 0
    assert "would have to be called, and nothing is executed" in outcome.out
    assert "hostile.py:9:19" in outcome.out
    assert not Path("executed").exists()


def test_a_syntax_error_is_shown_with_line_and_caret(check: Run) -> None:
    outcome = check(write("BATCH_SIZE = 1\nSEQ_LEN = = 1024\n", "syntax.py"), "--gpus", 4)
    assert outcome.code == 2
    assert outcome.out == ""
    assert "syntax.py:2:11\n  SEQ_LEN = = 1024\n            ^\n" in outcome.err


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (b"", "a.py", "the file is empty"),
        (b" \n\t", "a.json", "the file is empty"),
        (bytes(range(256)), "a.py", "this is no text file"),
        (b"A = 1\0", "a.py", "null characters"),
        (b"A = 1\n" * 2_000_000, "a.py", "too large"),
        (b"a = [" * 5000, "a.py", "nests too deeply"),
        (b"[" * 5000, "a.json", "nests too deeply"),
        (b'{"a": 1,}', "a.json", "this is not JSON"),
        (b"[1, 2]", "a.json", "this is not a JSON object"),
        (b"a = = 1", "a.toml", "this is not TOML"),
        (b"a: [1", "a.yaml", "this is not YAML"),
        (b"a: &a [*a]", "a.yaml", "nests too deeply"),
        (b"a: " + b"[" * 5000, "a.yaml", "nests too deeply"),
        (b"import os\nprint(1)\n", "a.py", "no parallel configuration was found"),
        (b"echo hello\n", "a.sh", "no parallel configuration was found"),
    ],
)
def test_bad_input_is_refused_with_one_message(check: Run, content: bytes, name: str, message: str) -> None:
    started = time.process_time()
    outcome = check(write(content, name), "--gpus", 8)
    assert time.process_time() - started < 5
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("error[") == 1


def test_an_alias_bomb_ends_quickly(check: Run) -> None:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    started = time.process_time()
    outcome = check(write("\n".join(lines), "bomb.yaml"), "--gpus", 8)
    assert outcome.code == 2
    assert "too large" in outcome.err
    assert time.process_time() - started < 5


@pytest.mark.parametrize("expression", ["9**9**9", "2**10**6", "'a' * 10**9", "(1,) * 10**9", "1e308 * 10", "1 / 0"])
def test_expressions_that_would_take_forever_are_named(check: Run, expression: str) -> None:
    path = write(f"BATCH_SIZE = {expression}\nmodel = dict(type=gpt2_small)\nparallel = dict(pipeline=1)\n")
    outcome = check(path, "--gpus", 8)
    assert outcome.code == 0
    assert "open[CFG001]: BATCH_SIZE cannot be told" in outcome.out
    assert "config.py:1:" in outcome.out


def test_links_pipes_and_missing_files(check: Run) -> None:
    Path("link.py").symlink_to(CONFIGS / "valid" / "gpt2_1d.py")
    assert check("link.py", "--gpus", 2).code == 0
    Path("loop.py").symlink_to("loop.py")
    os.mkfifo("pipe.py")
    for name, message in (("loop.py", "cannot read"), ("pipe.py", "no ordinary file"), ("none.py", "cannot read")):
        outcome = check(name, "--gpus", 2)
        assert (outcome.code, message in outcome.err) == (2, True)


def test_a_folder_is_checked_with_one_line_a_file(check: Run) -> None:
    folder = Path("configs")
    (folder / "more").mkdir(parents=True)
    shutil.copy(CONFIGS / "valid" / "gpt2_1d.py", folder)
    shutil.copy(CONFIGS / "broken" / "square.py", folder / "more")
    (folder / "notes.py").write_text("print(1)\n", encoding="utf-8")
    (folder / "broken.json").write_text("{", encoding="utf-8")
    outcome = check(folder, "--gpus", 96)
    assert outcome.code == 1
    lines = outcome.out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "configs/broken.json",
        "configs/gpt2_1d.py",
        "configs/more/square.py",
    ]
    assert "CFG006" in lines[0]
    assert "valid and fits" in lines[1]
    assert "not valid: TP011 line 8" in lines[2]
    documents = check(folder, "--gpus", 96, "--json").document()["files"]
    assert [document["valid"] for document in documents] == [False, True, False]


def test_a_folder_without_configurations(check: Run) -> None:
    Path("empty").mkdir()
    outcome = check("empty", "--gpus", 8)
    assert outcome.code == 2
    assert "there is no configuration in this folder" in outcome.err


def test_gpus_are_asked_for(check: Run) -> None:
    outcome = check(CONFIGS / "valid" / "gpt2_1d.py")
    assert outcome.code == 2
    assert "--gpus 8" in outcome.err


@pytest.mark.parametrize(
    ("name", "gpus", "changed"),
    [
        ("square.py", 96, {8: "TENSOR_PARALLEL = 4"}),
        ("whole_micro_batches.py", 8, {5: "BATCH_SIZE = 8"}),
        ("shape_not_halved.py", 96, {10: "TENSOR_SHAPE = (1, 2048, 6144)"}),
        (
            "mode.py",
            8,
            {14: "parallel = dict(pipeline=1, tensor=dict(size=TENSOR_PARALLEL, mode='2.5d', depth=DEPTH))"},
        ),
        ("fp16_and_zero.py", 1, {19: None}),
    ],
)
def test_fix_touches_only_the_offending_values(
    check: Run, name: str, gpus: int, changed: dict[int, str | None]
) -> None:
    shutil.copy(CONFIGS / "broken" / name, name)
    before = Path(name).read_text(encoding="utf-8")
    assert check(name, "--gpus", gpus, "--fix", "-o", "fixed.py").code == 0
    assert Path(name).read_text(encoding="utf-8") == before
    expected = [changed.get(n, line) for n, line in enumerate(before.splitlines(), start=1)]
    fixed = Path("fixed.py").read_text(encoding="utf-8").splitlines()
    assert fixed == [line for line in expected if line is not None]
    assert check("fixed.py", "--gpus", gpus).code == 0


def test_fix_of_other_languages_stays_in_them(check: Run) -> None:
    for name, gpus in (("megatron.sh", 16), ("deepspeed.json", 8)):
        shutil.copy(CONFIGS / "valid" / name, name)
        text = Path(name).read_text(encoding="utf-8")
        wrong = text.replace("TP=4", "TP=5") if name == "megatron.sh" else text.replace("64", "60")
        Path(name).write_text(wrong, encoding="utf-8")
        assert check(name, "--gpus", gpus).code == 1
        assert check(name, "--gpus", gpus, "--fix").code == 0
        stem, suffix = name.split(".")
        assert Path(f"{stem}.fixed.{suffix}").read_text(encoding="utf-8") == text


def test_fix_that_finds_nothing_writes_nothing(check: Run) -> None:
    shutil.copy(CONFIGS / "broken" / "plugins.py", "a.py")
    assert check("a.py", "--gpus", 8, "--fix").code == 1
    assert not Path("a.fixed.py").exists()
    assert "nothing to fix" in check(CONFIGS / "valid" / "gpt2_1d.py", "--gpus", 2, "--fix").out
