"""What files in the wild do, and what is said of it: launch scripts, imports, formatted texts, trainers."""

from typing import Any

import pytest

from planner.diagnostics import PlanError
from planner.lint.check import read_and_judge
from planner.lint.draft import Asked
from planner.lint.files import language_of
from planner.specs import HardwareSpec, ModelSpec
from planner.specs.files import load_spec

HEAD = """\
import os
from colossalai.amp import AMP_TYPE
from titans.model.gpt import gpt2_small
from model import unknown_things
"""
OLD = HEAD + "BATCH_SIZE = 8\nSEQ_LEN = 1024\nmodel = dict(type=gpt2_small)\nfp16 = dict(mode=AMP_TYPE.NAIVE)\n"
SHAPE = "--num-layers 24 --hidden-size 1024 --num-attention-heads 16 --seq-length 1024 --max-position-embeddings 1024"
DEEPSPEED = '{"train_micro_batch_size_per_gpu": 1, %s}'


def judged(name: str, text: str, gpus: int = 8, model: str | None = None) -> Any:
    """The first configuration of a text."""
    asked = Asked(
        gpus=gpus,
        hardware=load_spec("a100-80g", HardwareSpec),
        devices_per_node=8,
        model=load_spec(model, ModelSpec) if model else None,
    )
    return read_and_judge(text, name, language_of(text, name), asked)[1][0]


def found(name: str, text: str, gpus: int = 8, model: str | None = None) -> dict[str, str]:
    """Rule to severity."""
    return {diagnostic.rule: diagnostic.severity for diagnostic in judged(name, text, gpus, model).diagnostics}


@pytest.mark.parametrize(
    ("lines", "fields"),
    [
        (
            "parallel = dict(pipeline=2, tensor=dict(size=2, mode='1d'))\nNUM_MICRO_BATCHES = parallel['pipeline']",
            {"num_microbatches": 2},
        ),
        (
            "import math\nTP = 4\nparallel = dict(pipeline=1, tensor=dict(size=int(math.sqrt(TP)) * 2, mode='2d'))",
            {"tensor_parallel": 4, "tensor_mode": "2d"},
        ),
        (
            "MODE = '2d'\nLOG = f'./{MODE}_{BATCH_SIZE}/'\nparallel = dict(pipeline=1, tensor=dict(size=4, mode=MODE))",
            {"tensor_mode": "2d"},
        ),
        (
            "SIZES = (1, 4)\nparallel = {**{'pipeline': 1}, 'tensor': dict(size=SIZES[-1], mode='1d')}",
            {"tensor_parallel": 4},
        ),
        (
            "NUM_MICRO_BATCHES = 1\nparallel = dict(pipeline=dict(size=2), tensor=dict(size=1, mode=None))",
            {"pipeline_parallel": 2, "num_microbatches": 1, "micro_batch": 8},
        ),
    ],
)
def test_what_can_be_told_is_told(lines: str, fields: dict[str, Any]) -> None:
    draft = judged("a.py", OLD + lines + "\n").draft
    assert {name: draft.fields[name] for name in fields} == fields
    assert not [one for one in judged("a.py", OLD + lines + "\n").diagnostics if one.severity == "error"]


def test_fewer_micro_batches_than_stages_run_on_the_old_engine_and_on_megatron() -> None:
    text = OLD + "NUM_MICRO_BATCHES = 1\nparallel = dict(pipeline=2)\n"
    assert found("a.py", text) == {"PP004": "warning"}
    line = f"{SHAPE} --pipeline-model-parallel-size 4 --micro-batch-size 1 --global-batch-size 2 --bf16"
    assert found("a.sh", line) == {}


def test_a_hidden_value_is_named_once_where_it_is_hidden() -> None:
    text = (
        OLD
        + "TENSOR_PARALLEL = int(os.environ['TP'])\nparallel = dict(pipeline=1, tensor=dict(size=TENSOR_PARALLEL))\n"
    )
    (only,) = (one for one in judged("a.py", text).diagnostics if one.rule == "CFG001")
    assert only.message.startswith("TENSOR_PARALLEL cannot be told: `os.environ['TP']`")
    assert only.location == "a.py:9:23"


def test_a_constant_of_another_meaning_is_no_unused_one() -> None:
    text = OLD + "DEPTH = 32\nTESSERACT_DEPTH = 2\n"
    used = "parallel = dict(pipeline=1, tensor=dict(size=8, depth={}, mode='2.5d'))\n"
    assert "OLD008" not in found("a.py", text + used.format("TESSERACT_DEPTH"))
    assert found("a.py", text + used.format("2"))["OLD008"] == "error"


def test_depth_divides_the_batch_for_gptplan_alone() -> None:
    text = OLD.replace("= 8", "= 2") + "parallel = dict(pipeline=1, tensor=dict(size=8, depth=2, mode='2.5d'))\n"
    assert found("a.py", text) == {"TP023": "warning"}
    assert found("a.py", text.replace("= 2\n", "= 1\n", 1)) == {"TP023": "error"}


def test_without_a_batch_the_least_one_of_the_grid_is_taken() -> None:
    text = "parallel = dict(pipeline=1, tensor=dict(size=8, mode='3d'))\n"
    draft = judged("a.py", text, model="gpt2").draft
    assert draft.fields["micro_batch"] == 4
    assert draft.assumptions == ("the file has no BATCH_SIZE: 4 sequences a micro batch is taken",)


def test_arguments_of_a_plugin_by_place_and_unpacked() -> None:
    assert found("a.py", "p = HybridParallelPlugin(3, 2, num_microbatches=4)\n")["HPP005"] == "error"
    known = "common = dict(pp_size=1, precision='fp32', zero_stage=1)\np = HybridParallelPlugin(tp_size=1, **common)\n"
    assert found("a.py", known) == {"HPP011": "error"}
    assert found("a.py", "p = HybridParallelPlugin(tp_size=2, **arguments())\n") == {"CFG001": "warning"}


def test_none_is_the_default_of_an_argument() -> None:
    text = "p = HybridParallelPlugin(tp_size=2, pp_size=2, sp_size=None, num_microbatches=None, microbatch_size={})\n"
    assert found("a.py", text.format("1")) == {}
    assert found("a.py", text.format("None")) == {"HPP009": "error"}


def test_what_a_script_makes_of_model_and_optimizer_is_no_finding() -> None:
    text = (
        "p = GeminiPlugin(precision='bf16')\nmodel = GPT2LMHeadModel(GPT2Config())\n"
        "optimizer = HybridAdam(model.parameters(), lr=1e-4)\nbooster = Booster(plugin=p)\n"
    )
    assert not [one for one in judged("a.py", text).diagnostics if one.severity == "error"]
    assert found("a.py", text.replace("HybridAdam", "SGD"))["GEM006"] == "error"


def test_what_only_gpt2_cannot_do_is_not_held_against_other_models() -> None:
    text = (
        "p = HybridParallelPlugin(tp_size=2, pp_size=1, sp_size=2, enable_sequence_parallelism=True, "
        "sequence_parallelism_mode='all_to_all')\n"
    )
    assert found("a.py", text) == {}
    assert found("a.py", "model = 'gpt2'\n" + text) == {"HPP018": "error"}


@pytest.mark.parametrize(
    "argument", ["enable_flash_attention=args.x", "enable_fused_normalization=torch.cuda.is_available()"]
)
def test_options_that_change_no_layout_may_be_hidden(argument: str) -> None:
    assert found("a.py", f"p = GeminiPlugin(precision='bf16', {argument})\n") == {}
    assert found("a.py", "p = LowLevelZeroPlugin(cpu_offload=args.x)\n") == {"CFG001": "open"}


def test_a_wrapper_that_parses_its_own_options_is_read_past() -> None:
    script = (
        'while [ $# -gt 0 ]; do\n  case "$1" in\n    --tensor-model-parallel-size)\n      TP=$2; shift ;;\n'
        '    -h|--help)\n      echo "usage: --micro-batch-size N --num-layers N"; exit ;;\n  esac\ndone\n'
        'if [ -z "$1" ]; then DATA="--tokenizer-type A"; else DATA="--tokenizer-type B"; fi\n'
        f"python pretrain_gpt.py {SHAPE} --tensor-model-parallel-size 2 --micro-batch-size 2 --bf16 \\\n"
        '    $(cat more.txt) "${DATA[@]}"\n'
    )
    one = judged("a.sh", script)
    assert one.diagnostics == ()
    assert (one.draft.fields["tensor_parallel"], one.draft.fields["micro_batch"]) == (2, 2)


def test_options_in_arrays_and_defaults_of_variables() -> None:
    script = (
        "export CUDA_DEVICE_MAX_CONNECTIONS=1\nTP=${TP:-4}\nNODES=2\nWORLD=$((8*$NODES))\nMODEL=(\n"
        + SHAPE.replace(" --", "\n  --")
        + "\n  --attention-backend auto # flash, fused or local\n)\nPARALLEL=(--sequence-parallel --bf16)\n"
        "torchrun --nproc_per_node 8 --nnodes $NODES pretrain_gpt.py ${MODEL[@]} ${PARALLEL[@]} "
        "--tensor-model-parallel-size $TP --micro-batch-size 1 --global-batch-size $((WORLD * 4))\n"
    )
    one = judged("a.sh", script, gpus=16)
    assert one.diagnostics == ()
    assert one.draft.fields["tensor_parallel"] == 4
    assert one.draft.facts["global_batch"] == 64
    assert one.draft.fields["sequence_parallel"] is True


def test_a_value_given_at_the_call_is_named() -> None:
    one = judged("a.sh", f"{SHAPE} --tensor-model-parallel-size $1 --micro-batch-size 1")
    assert [d.message for d in one.diagnostics] == [
        "--tensor-model-parallel-size cannot be told: `$1` is only given when the script is called"
    ]


def test_unknown_options_of_megatron_are_not_refused() -> None:
    assert found("a.sh", f"{SHAPE} --micro-batch-size 1 --num-experts 8 --moe-router-topk 2 --my-own-option 3") == {}


def test_sequence_parallelism_is_off_without_tensor_parallelism() -> None:
    one = judged("a.sh", f"{SHAPE} --micro-batch-size 1 --sequence-parallel")
    assert [d.rule for d in one.diagnostics] == ["MEG018"]
    assert one.layout.sequence_parallel is False


def test_expert_tensor_parallelism_is_that_of_the_others_unless_given() -> None:
    line = f"{SHAPE} --micro-batch-size 1 --num-experts 8 --expert-model-parallel-size 8 --tensor-model-parallel-size 2"
    assert found("a.sh", line)["MEG006"] == "error"
    assert "MEG006" not in found("a.sh", f"{line} --expert-tensor-parallel-size 1")


def test_what_a_trainer_fills_in_is_one_warning() -> None:
    text = (
        '{"train_batch_size": "auto", "train_micro_batch_size_per_gpu": "auto", "bf16": {"enabled": "auto"}, '
        '"zero_optimization": {"stage": 2, "reduce_bucket_size": "auto"}}'
    )
    (only,) = judged("a.json", text).diagnostics
    assert only.severity == "warning"
    assert only.message == (
        "bf16.enabled, train_batch_size, train_micro_batch_size_per_gpu are auto, so the trainer decides"
    )


def test_deepspeed_files_may_have_comments_as_hjson_does() -> None:
    text = (
        '{\n  // of one GPU\n  "train_micro_batch_size_per_gpu": 3, # three\n  /* half */ "bf16": {"enabled": true},\n}'
    )
    assert found("a.json", text) == {}
    with pytest.raises(PlanError, match="not JSON"):
        judged("a.json", '{\n  // no\n  "tp_size": 2\n}\n')


@pytest.mark.parametrize(
    ("section", "severity", "hint"),
    [
        ('"zero_optimization": {"stge": 2}', "error", "did you mean `stage`?"),
        (
            '"zero_optimization": {"stage": 3, "offload_param": {"device": "cpu", "max_cpu": 3}}',
            "error",
            "`max_in_cpu`",
        ),
        ('"zero_optimisation": {"stage": 2}', "error", "did you mean `zero_optimization`?"),
    ],
)
def test_keys_that_deepspeed_does_not_know(section: str, severity: str, hint: str) -> None:
    (only,) = (one for one in judged("a.json", DEEPSPEED % section).diagnostics if one.rule == "CFG004")
    assert only.severity == severity
    assert hint in only.hint
    assert found("a.json", DEEPSPEED % '"my_own_section": {"a": 1}, "bf16": {"enabled": true}') == {}


def test_older_spellings_of_deepspeed() -> None:
    assert judged("a.json", DEEPSPEED % '"zero_optimization": true').draft.fields["zero_stage"] == 1
    text = DEEPSPEED % '"zero_optimization": {"stage": 3, "cpu_offload": true, "cpu_offload_params": true}'
    fields = judged("a.json", text).draft.fields
    assert (fields["offload.optimizer"], fields["offload.parameters"], fields["offload.tier"]) == (1.0, 1.0, "cpu")


def test_what_gptplan_does_not_execute_is_said_of_valid_files_only() -> None:
    text = (
        DEEPSPEED % '"bf16": {"enabled": true}, "zero_optimization": {"stage": %d, "offload_param": {"device": "cpu"}}'
    )
    assert found("a.json", text % 2)["DSP005"] == "warning"
    assert set(found("a.json", text % 3).values()) == {"warning"}
