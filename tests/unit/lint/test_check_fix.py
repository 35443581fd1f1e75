"""`check --fix`: what is added, renamed, taken out or changed, and that nothing else is touched."""

import difflib
import shutil
from pathlib import Path

import pytest

from tests.helpers import Run
from tests.unit.lint.test_check_config import BROKEN, CONFIGS

PIPE_SCRIPT = """\
from colossalai.booster.plugin import HybridParallelPlugin

batch_size = 8
model = "gpt2-small"
plugin = HybridParallelPlugin(
    tp_size=2,
    pp_size=2,  # two stages
)
"""
OLD = "BATCH_SIZE = 8\nSEQ_LEN = 1024\nmodel = dict(type=gpt2_small)\nfp16 = dict(mode=AMP_TYPE.NAIVE)\n"
MEGATRON = "torchrun pretrain_gpt.py --num-layers 12 --hidden-size 768 --num-attention-heads 12 --seq-length 1024"
ADDED = {
    "old.py": (OLD + "parallel = dict(pipeline=2)\n", ["BATCH_SIZE = 8", "NUM_MICRO_BATCHES = 2"]),
    "mode.py": (
        OLD + "parallel = dict(pipeline=1, tensor=dict(size=2))\n",
        ["parallel = dict(pipeline=1, tensor=dict(size=2, mode='1d'))"],
    ),
    "literal.py": (
        OLD + "parallel = {'pipeline': 1, 'tensor': {'size': 2}}\n",
        ["parallel = {'pipeline': 1, 'tensor': {'size': 2, 'mode': '1d'}}"],
    ),
    "script.py": (PIPE_SCRIPT, ["    pp_size=2,  # two stages", "    num_microbatches=2,", ")"]),
    "line.py": (
        "model = 'gpt2'\nplugin = HybridParallelPlugin(tp_size=2)\n",
        ["plugin = HybridParallelPlugin(tp_size=2, pp_size=1)"],
    ),
    "plugin.toml": (
        'model = "gpt2-small"\nbatch_size = 8\n\n[HybridParallelPlugin]\ntp_size = 1\npp_size = 2  # stages\n',
        ["pp_size = 2  # stages", "num_microbatches = 2"],
    ),
    "plugin.yaml": (
        "model: gpt2-small\nHybridParallelPlugin:\n  tp_size: 1\n  pp_size: 2\n  zero_stage: 1\n",
        ["  pp_size: 2", "  num_microbatches: 2", "  zero_stage: 1"],
    ),
    "plugin.json": (
        '{\n  "model": "gpt2-small",\n  "HybridParallelPlugin": {\n    "tp_size": 1,\n    "pp_size": 2\n  }\n}\n',
        ['    "pp_size": 2,', '    "num_microbatches": 2', "  }"],
    ),
    "short.json": (
        '{"plugin": "HybridParallelPlugin", "pp_size": 2, "tp_size": 1}\n',
        ['{"plugin": "HybridParallelPlugin", "pp_size": 2, "num_microbatches": 2, "tp_size": 1}'],
    ),
    "ds.json": (
        '{\n  "zero_optimization": {"stage": 1}\n}\n',
        ['  "zero_optimization": {"stage": 1},', '  "train_micro_batch_size_per_gpu": 1', "}"],
    ),
    "train.sh": (
        MEGATRON + " \\\n  --micro-batch-size 1 --overlap-param-gather \\\n  --overlap-grad-reduce --bf16\n",
        ["  --micro-batch-size 1 --overlap-param-gather --use-distributed-optimizer \\"],
    ),
    "recompute.sh": (
        MEGATRON + " --micro-batch-size 1 --recompute-granularity full --bf16\n",
        [MEGATRON + " --micro-batch-size 1 --recompute-granularity full --recompute-method uniform --bf16"],
    ),
}
"""File name to its text and lines that stand together once the missing keys are there."""


def fixed(check: Run, name: str, text: str, gpus: int = 8) -> str:
    """The text that ``--fix`` writes, which has to be valid."""
    Path(name).write_bytes(text.encode())
    outcome = check(name, "--gpus", gpus, "--fix", "--force", "-o", f"fixed.{name}")
    assert outcome.code == 0, outcome.out
    written = Path(f"fixed.{name}").read_bytes().decode()
    again = check(f"fixed.{name}", "--gpus", gpus, "--json").document()
    assert again["valid"] is True
    return written


@pytest.mark.parametrize("name", ADDED)
def test_a_missing_key_is_added_where_it_belongs(check: Run, name: str) -> None:
    text, expected = ADDED[name]
    written = fixed(check, name, text).splitlines()
    at = written.index(expected[0])
    assert written[at : at + len(expected)] == expected
    kept = [line.rstrip(",") for line in text.splitlines()]
    changed = [line for line in difflib.ndiff(kept, [line.rstrip(",") for line in written]) if line[0] in "-+"]
    assert len(changed) <= 2


@pytest.mark.parametrize("name", ["old.py", "script.py", "plugin.toml", "plugin.yaml", "plugin.json", "train.sh"])
def test_line_ends_and_byte_order_mark_are_kept(check: Run, name: str) -> None:
    text, _ = ADDED[name]
    plain = fixed(check, name, text)
    windows = fixed(check, name, "\ufeff" + text.replace("\n", "\r\n"))
    assert windows == "\ufeff" + plain.replace("\n", "\r\n")


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        (
            "a.py",
            "p = HybridParallelPlugin(tp_size=1, pp_size=2, num_microbatch=4)\n",
            "p = HybridParallelPlugin(tp_size=1, pp_size=2, num_microbatches=4)\n",
        ),
        (
            "a.json",
            '{"HybridParallelPlugin": {"tp_size": 1, "pp_size": 2, "num_microbatch": 4}}',
            '{"HybridParallelPlugin": {"tp_size": 1, "pp_size": 2, "num_microbatches": 4}}',
        ),
        (
            "a.py",
            "p = GeminiPlugin(tp_size=1, colour=3, precision='bf16')\n",
            "p = GeminiPlugin(tp_size=1, precision='bf16')\n",
        ),
        (
            "a.py",
            OLD + "zero = dict(level=1)\nparallel = dict(pipeline=1)\n",
            OLD.replace("fp16 = dict(mode=AMP_TYPE.NAIVE)\n", "")
            + "zero = dict(level=1)\nparallel = dict(pipeline=1)\n",
        ),
        (
            "b.json",
            '{\n  "BATCH_SIZE": 8,\n  "zero": {"level": 1}, "fp16": {"mode": "naive"}\n}\n',
            '{\n  "BATCH_SIZE": 8,\n  "zero": {"level": 1}\n}\n',
        ),
        ("a.sh", MEGATRON + " --micro-batch-size 1 --fp16 --bf16\n", MEGATRON + " --micro-batch-size 1 --bf16\n"),
        (
            "a.py",
            OLD.replace("NAIVE", "TORCH") + "NUM_MICRO_BATCHES = 2\nparallel = dict(pipeline=2)\n",
            OLD + "NUM_MICRO_BATCHES = 2\nparallel = dict(pipeline=2)\n",
        ),
        (
            "a.py",
            "p = HybridParallelPlugin(1, 2, pp_style='zbv', num_model_chunks=2, num_microbatches=4)\n",
            "p = HybridParallelPlugin(1, 2, pp_style='1f1b', num_model_chunks=1, num_microbatches=4)\n",
        ),
        (
            "a.py",
            "p = HybridParallelPlugin(tp_size=1, pp_size=2, num_microbatches=None)\n",
            "p = HybridParallelPlugin(tp_size=1, pp_size=2, num_microbatches=2)\n",
        ),
        (
            "a.py",
            OLD + "parallel = dict(pipeline=1, tensor=dict(size='4', mode='2D'))\n",
            OLD + "parallel = dict(pipeline=1, tensor=dict(size=4, mode='2d'))\n",
        ),
    ],
)
def test_only_the_offending_setting_is_renamed_or_taken_out(check: Run, name: str, text: str, wanted: str) -> None:
    assert fixed(check, name, text) == wanted


@pytest.mark.parametrize("name", BROKEN)
def test_every_broken_example_is_mended_or_says_why_not(check: Run, name: str) -> None:
    shutil.copy(CONFIGS / "broken" / name, name)
    gpus = BROKEN[name][0]
    outcome = check(name, "--gpus", gpus, "--fix", "--force", "-o", f"fixed.{name}")
    if outcome.code == 0:
        assert check(f"fixed.{name}", "--gpus", gpus, "--json").document()["valid"] is True
        return
    assert name == "plugins.py"
    assert "nothing was written: these findings need values that only you know" in outcome.out
    assert "error[" in outcome.out
    assert not Path(f"fixed.{name}").exists()


def test_a_value_that_depends_on_another_follows_it(check: Run) -> None:
    text = (
        "BATCH_SIZE = 96\nSEQ_LEN = 2048\nHIDDEN_SIZE = 12288\nNUM_MICRO_BATCHES = 48\nTENSOR_PARALLEL = 6\n"
        "TENSOR_SHAPE = (BATCH_SIZE // NUM_MICRO_BATCHES, SEQ_LEN, HIDDEN_SIZE)\nmodel = dict(type=gpt3)\n"
        "parallel = dict(pipeline=24, tensor=dict(size=TENSOR_PARALLEL, mode='2d'))\n"
    )
    Path("a.py").write_text(text, encoding="utf-8")
    hints = {d["rule"]: d["hint"] for d in check("a.py", "--gpus", 96, "--json").document()["diagnostics"]}
    assert hints["TP011"] == "use TENSOR_PARALLEL = 4 or 9; with 96 GPUs only 4 leaves a whole DP"
    wanted = text.replace("= 6", "= 4").replace("(BATCH_SIZE // NUM_MICRO_BATCHES, SEQ_LEN, HIDDEN_SIZE)", "{}")
    assert fixed(check, "a.py", text, gpus=96) == wanted.format("(1, 2048, 6144)")


@pytest.mark.parametrize(
    ("changes", "hint"),
    [
        (
            {"TENSOR_PARALLEL = 4": "TENSOR_PARALLEL = 5", "PIPELINE = 8": "PIPELINE = 7"},
            "use TENSOR_PARALLEL = 6 and PIPELINE = 8",
        ),
        ({"TENSOR_PARALLEL = 4": "TENSOR_PARALLEL = 5"}, "use TENSOR_PARALLEL = 4 or 6"),
    ],
)
def test_degrees_that_do_not_divide_the_gpus(check: Run, changes: dict[str, str], hint: str) -> None:
    text = (
        "BATCH_SIZE = 64\nNUM_MICRO_BATCHES = 64\nPIPELINE = 8\nTENSOR_PARALLEL = 4\nmodel = dict(type=gpt3)\n"
        "parallel = dict(pipeline=PIPELINE, tensor=dict(size=TENSOR_PARALLEL, mode='1d'))\n"
    )
    for old, new in changes.items():
        text = text.replace(old, new)
    Path("a.py").write_text(text, encoding="utf-8")
    hints = {d["rule"]: d["hint"] for d in check("a.py", "--gpus", 96, "--json").document()["diagnostics"]}
    assert hints["DEV001"] == hint
