"""What launch scripts make of their branches, functions, arrays and arguments, read and never run."""

from pathlib import Path

import pytest

from planner.lint.check import read_and_judge
from planner.lint.draft import Asked
from planner.specs import HardwareSpec
from planner.specs.files import load_spec

SIZES = "--num-layers 12 --hidden-size 768 --num-attention-heads 12 --seq-length 1024 --max-position-embeddings 1024"
RUN = f"torchrun pretrain_gpt.py {SIZES} --micro-batch-size 1 --tensor-model-parallel-size"
A100 = load_spec("a100-40g", HardwareSpec)


def degrees(script: str, name: str = "a.sh", **given: str) -> list[object]:
    """Tensor parallelism of every way through a script; the word for it where it is open."""
    asked = Asked(gpus=8, hardware=A100, devices_per_node=8, given=given)
    return [str(one.draft.fields["tensor_parallel"]) for one in read_and_judge(script, name, "shell", asked)[1]]


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (f"TP=2\nTP=4\n{RUN} $TP\n", ["4"]),
        (f"TP=${{1:-2}}\n{RUN} ${{TP}}\n", ["2"]),
        (f"SIZE=big\nif [ $SIZE = big ]; then TP=4; else TP=2; fi\n{RUN} $TP\n", ["4"]),
        (f"SIZE=small\nif [[ $SIZE == b* ]]; then\n TP=4\nelif true; then\n TP=2\nfi\n{RUN} $TP\n", ["2"]),
        (f"case 13b in\n 7b) TP=1;;\n 13b|14b) TP=4 ;;\n *) TP=8;;\nesac\n{RUN} $TP\n", ["4"]),
        (f"if [ -f x ]; then TP=4; else TP=2; fi\n{RUN} $TP\n", ["4", "2"]),
        (f"if [ -f x ]; then echo usage; exit 1; fi\n{RUN} 2\n", ["2"]),
        (f"NODES=2\n(( NODES > 1 )) && TP=4 || TP=2\n{RUN} $TP\n", ["4"]),
        (f"run() {{ {RUN} $1; }}\nrun 4\n", ["4"]),
        (f"set -- a 4\n{RUN} $2\n", ["4"]),
        (f"ARGS=(--sequence-parallel --tensor-model-parallel-size 4)\n{RUN.rpartition(' ')[0]} ${{ARGS[@]}}\n", ["4"]),
        (f'ARGS="\\\n  --tensor-model-parallel-size 4 \\\n"\nsrun bash -c "{RUN.rpartition(" ")[0]} $ARGS"\n', ["4"]),
        (f"T=2\nTP=$((T * 4 / 2))\n{RUN} $TP\n", ["4"]),
        (f"cat <<EOF > x\n--tensor-model-parallel-size 8\nEOF\n{RUN} 2\n", ["2"]),
        (f"while [ $# -gt 0 ]; do case $1 in --tp) TP=$2; shift;; esac; shift; done\n{RUN} ${{TP:-2}}\n", ["2"]),
        (f"for TP in 2 4; do\n {RUN} $TP\ndone\n", ["2", "4"]),
        (f"{RUN} $TP\n", ["not known"]),
    ],
)
def test_branches_are_followed(script: str, expected: list[object]) -> None:
    assert degrees(script) == expected


def test_a_value_that_is_given_fills_what_is_open() -> None:
    assert degrees(f"{RUN} $TP\n", TP="4") == ["4"]


def test_a_file_beside_the_script_is_read(tmp_path: Path) -> None:
    (tmp_path / "sizes.sh").write_text("TP=4\n", encoding="utf-8")
    assert degrees(f"source $(dirname $0)/sizes.sh\n{RUN} $TP\n", str(tmp_path / "a.sh")) == ["4"]
    assert degrees(f"source ./sizes.sh\n{RUN} $TP\n", str(tmp_path / "a.sh")) == ["4"]


def test_an_option_made_of_a_variable_and_zero_of_deepspeed() -> None:
    asked = Asked(gpus=8, hardware=A100, devices_per_node=8)
    script = f"DTYPE=bf16\nZ=2\n{RUN} 1 --${{DTYPE}} --deepspeed --zero-stage $Z\n"
    (judged,) = read_and_judge(script, "a.sh", "shell", asked)[1]
    assert (judged.draft.fields["precision"], judged.draft.fields["zero_stage"]) == ("bf16", 2)


@pytest.mark.parametrize(
    ("options", "recomputed"),
    [
        ("--recompute-granularity full --recompute-method uniform --recompute-num-layers 2", (6, 6)),
        ("--recompute-granularity full --recompute-method block --recompute-num-layers 2", (2, 2)),
        ("--recompute-granularity full --recompute-method block --recompute-num-layers 9", (6, 6)),
        (
            "--recompute-granularity full --recompute-method block --recompute-num-layers 1 "
            "--num-virtual-stages-per-pipeline-rank 3",
            (3, 3),
        ),
    ],
)
def test_blocks_of_recomputed_layers_are_those_of_every_virtual_stage(
    options: str, recomputed: tuple[int, int]
) -> None:
    asked = Asked(gpus=8, hardware=A100, devices_per_node=8)
    (judged,) = read_and_judge(f"{RUN} 1 --pipeline-model-parallel-size 2 {options}\n", "a.sh", "shell", asked)[1]
    assert judged.layout is not None
    assert judged.layout.recompute_layers_per_stage == recomputed


@pytest.mark.parametrize(
    ("before", "options", "offload"),
    [
        ("", "--cpu-optimizer", (1.0, 0.0, "cpu")),
        ("", "--cpu-optimizer --remote-device cpu", (1.0, 1.0, "cpu")),
        ('{"zero_optimization": {"offload_optimizer": {"device": "nvme"}}}', "", (1.0, 0.0, "nvme")),
        ('{"zero_optimization": {"stage": 3}}', "", (0.0, 0.0, "none")),
        ('{"zero_optimization": {"offload_optimizer": {"device": $WHERE}}}', "", (0.0, 0.0, "none")),
    ],
)
def test_offload_of_deepspeed_is_in_arguments_or_a_configuration_that_the_script_writes(
    before: str, options: str, offload: tuple[float, float, str]
) -> None:
    asked = Asked(gpus=8, hardware=A100, devices_per_node=8)
    script = f"cat >ds.json <<'EOF'\n{before}\nEOF\n{RUN} 1 --deepspeed --zero-stage 3 {options}\n"
    (judged,) = read_and_judge(script, "a.sh", "shell", asked)[1]
    assert judged.layout is not None
    found = judged.layout.offload
    assert (found.optimizer, found.parameters, found.tier) == offload
    assert judged.problem is not None
    assert judged.problem.stack.name == "megatron-deepspeed"


@pytest.mark.parametrize(
    ("option", "meant"),
    [
        ("--tensor-modell-parallel-size 2", "--tensor-model-parallel-size"),
        ("--globalbatch-size 8", "--global-batch-size"),
        ("--global_batch_size 8", "--global-batch-size"),
    ],
)
def test_misspelt_options_are_errors(option: str, meant: str) -> None:
    asked = Asked(gpus=8, hardware=A100, devices_per_node=8)
    (judged,) = read_and_judge(f"{RUN} 1 {option}\n", "a.sh", "shell", asked)[1]
    assert [error.hint for error in judged.errors] == [f"did you mean `{meant}`?"]


def test_the_beginning_of_an_option_is_taken_as_argparse_does() -> None:
    assert degrees(RUN.rpartition(" ")[0] + " --tensor-model-parallel 4\n") == ["4"]


def test_an_option_that_begins_another_one_is_itself() -> None:
    asked = Asked(gpus=8, hardware=A100, devices_per_node=8)
    (judged,) = read_and_judge(f"{RUN} 1 --optimizer adam\n", "a.sh", "shell", asked)[1]
    assert judged.errors == []
