"""Habits of public repositories that were misread once."""

import pytest

from planner.lint.check import Checked, check_text
from planner.lint.draft import Asked
from planner.lint.files import read_source
from planner.lint.reading import NOT_ALL_WAYS
from planner.specs import HardwareSpec, ModelSpec
from planner.specs.files import load_spec

SIZES = "--num-layers 24 --hidden-size 1024 --num-attention-heads 16 --micro-batch-size 1 --train-iters 10"
CAST = "torchrun pretrain_gpt.py --tensor-model-parallel-size 2"


def checked(name: str, text: str, gpus: int = 8) -> list[Checked]:
    asked = Asked(gpus=gpus, hardware=load_spec("h100-80g", HardwareSpec), devices_per_node=8)
    return check_text(text, name, asked, compare=False)


def rules(found: list[Checked], severity: str = "error") -> set[str]:
    return {str(one.rule) for each in found for one in each.judged.diagnostics if one.severity == severity}


def test_what_two_arguments_lead_to_together_is_open() -> None:
    script = f"""if [ "$1" = yes ]; then A=--tp-comm-overlap; fi
if [ "$2" = yes ]; then B=--sequence-parallel; fi
{CAST} {SIZES} $A $B
"""
    found = checked("a.sh", script)
    assert "MEG021" not in rules(found)
    assert "MEG021" in rules(found, "open")


def test_what_one_argument_leads_to_is_an_error() -> None:
    script = f"""if [ "$1" = fp16 ]; then A=--fp16; else A=; fi
{CAST} {SIZES} --bf16 $A
"""
    assert rules(checked("a.sh", script)) == {"MEG007"}


def test_a_script_with_more_ways_than_are_followed_says_so() -> None:
    branches = "\n".join(f'if [ "${n}" = x ]; then A{n}=--seed-{n}; fi' for n in range(1, 8))
    script = f"{branches}\n{CAST} {SIZES} $A1 $A2 $A3 $A4 $A5 $A6 $A7\n"
    assert NOT_ALL_WAYS in checked("a.sh", script)[0].judged.draft.assumptions


MANY = "\n".join(f'if [ "${n}" = x ]; then A{n}=--seed-{n}; fi' for n in range(1, 8))
"""More ways than are followed."""
OPTIONS = "$A1 $A2 $A3 $A4 $A5 $A6 $A7"


def test_where_not_all_ways_are_followed_one_branch_may_be_an_error() -> None:
    script = f"""if [ $8 = 7B ]; then HEADS=16; elif [ $8 = 13B ]; then HEADS=24; else HEADS=32; fi
{MANY}
{CAST} --num-layers 24 --hidden-size 1024 --num-attention-heads $HEADS --micro-batch-size 1 --train-iters 10 {OPTIONS}
"""
    assert rules(checked("a.sh", script)) == {"MEG010"}


def test_where_not_all_ways_are_followed_two_branches_together_are_open() -> None:
    script = f"""if [ $8 = yes ]; then B=--tp-comm-overlap; fi
if [ $9 = yes ]; then C=--sequence-parallel; fi
{MANY}
{CAST} {SIZES} $B $C {OPTIONS}
"""
    found = checked("a.sh", script)
    assert rules(found) == set()
    assert "MEG021" in rules(found, "open")


def test_sizes_of_a_checkpoint_are_open() -> None:
    script = (
        "torchrun evaluate.py --num-layers -1 --hidden-size -1 --num-attention-heads -1 --micro-batch-size 1 "
        "--tensor-model-parallel-size 1"
    )
    found = checked("a.sh", script)
    assert found[0].valid
    assert found[0].open


def test_one_size_of_minus_one_is_an_error() -> None:
    assert rules(checked("a.sh", f"{CAST} {SIZES.replace('24', '-1')}")) == {"CFG002"}


def test_another_program_with_underscores_is_not_megatron() -> None:
    with pytest.raises(Exception, match="no parallel configuration"):
        checked("a.sh", "python train.py --tensor_model_parallel_size 3 --micro_batch_size 1 --num_layers 2")


def test_a_program_with_variables_of_such_names_is_no_plugin() -> None:
    with pytest.raises(Exception, match="no parallel configuration"):
        checked("a.py", "tp_size, pp_size = 2, 2\nexecutor = 1\nplugins = []\nrecipe = None\nexp_name = 'a'\n")


def test_branches_that_are_not_taken_call_nothing() -> None:
    script = """plan = "gemini"
if plan.startswith("zero"):
    plugin = LowLevelZeroPlugin(stage=3)
elif plan in ("gemini", "static"):
    plugin = GeminiPlugin()
"""
    assert [one.judged.draft.dialect.name for one in checked("a.py", script)] == ["GeminiPlugin"]


def test_the_plugin_with_experts_takes_stage_two_for_one() -> None:
    call = "plugin = MoeHybridParallelPlugin(tp_size=1, pp_size=2, ep_size=2, microbatch_size=1, zero_stage=2)"
    found = checked("a.py", call)
    assert found[0].valid
    assert found[0].judged.draft.fields["zero_stage"] == 1
    assert rules(found, "warning") == {"MOE005", "MOE006"}
    # Without it there is none, which its experts do not go with.
    assert rules(checked("a.py", call.replace("zero_stage", "zero_stgae"))) == {"CFG004", "MOE002"}
    overlapped = checked("a.py", call.replace("zero_stage=2", "overlap_communication=True"))
    assert overlapped[0].judged.draft.fields["zero_stage"] == 1


def test_the_plugin_with_experts_is_a_layout_of_a_model_that_has_some() -> None:
    call = (
        "plugin = MoeHybridParallelPlugin(tp_size=1, pp_size=1, ep_size=8, zero_stage=1, precision='bf16')\n"
        "batch_size = 1\nmodel = 'mixtral-8x7b'\n"
    )
    (found,) = checked("a.py", call)
    assert found.judged.layout is not None
    assert found.judged.layout.expert_parallel == 8
    assert found.predicted is not None


def test_interpolations_of_the_same_file() -> None:
    text = (
        "trainer:\n  devices: 8\nmodel:\n  tensor_model_parallel_size: 2\n  pipeline_model_parallel_size: 1\n"
        "  micro_batch_size: 1\n  hidden_size: 512\n  ffn_hidden_size: ${multiply:4, ${.hidden_size}}\n"
        "  encoder_seq_length: 2048\n  max_position_embeddings: ${.encoder_seq_length}\n  num_layers: 2\n"
        "  num_attention_heads: 8\n"
    )
    model = checked("a.yaml", text)[0].judged.draft.model
    assert model is not None
    assert (model.ffn_hidden_size, model.max_seq_len) == (2048, 2048)


def test_names_that_nothing_defines() -> None:
    text = "BATCH_SIZ = 8\nSEQ_LEN = 1024\nTENSOR_SHAPE = (BATCH_SIZE, SEQ_LEN, 768)\nparallel = dict(pipeline=1)\n"
    assert "CFG004" in rules(checked("a.py", text))


@pytest.mark.parametrize(
    ("key", "micro_batch", "count"),
    [
        ("[parallelism]\npipeline_parallel_degree = 2\npipeline_parallel_microbatch_size = 2", 2, 4),
        ("[experimental]\npipeline_parallel_degree = 2\npipeline_parallel_microbatches = 8", 1, 8),
    ],
)
def test_both_generations_of_torchtitan(key: str, micro_batch: int, count: int) -> None:
    batch = "local_batch_size" if "parallelism" in key else "batch_size"
    text = f'[model]\nname = "llama3"\n[training]\nseq_len = 2048\n{batch} = 8\n{key}\n'
    fields = checked("a.toml", text)[0].judged.draft.fields
    assert (fields["pipeline_parallel"], fields["micro_batch"], fields["num_microbatches"]) == (2, micro_batch, count)


LLAMA_405B = load_spec("llama3-405b", ModelSpec)


def layers_of(name: str, text: str) -> tuple[str, int, tuple[int, ...] | None]:
    asked = Asked(gpus=1024, hardware=load_spec("h100-80g", HardwareSpec), devices_per_node=8, model=LLAMA_405B)
    fields = check_text(text, name, asked, compare=False)[0].judged.draft.fields
    return fields["schedule"], fields["num_model_chunks"], fields.get("layers_per_stage")


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("", ("1f1b", 1, (7, *(8,) * 14, 7))),
        (
            'pipeline_parallel_schedule = "Interleaved1F1B"\npipeline_parallel_layers_per_stage = 1',
            ("interleaved", 8, (7, *(8,) * 14, 7)),
        ),
        # Without a number of layers: two chunks a stage.
        ('pipeline_parallel_schedule = "Interleaved1F1B"', ("interleaved", 2, (7, *(8,) * 14, 7))),
        # 126 without any: the first 14 of 16 stages take one of those that are left over.
        (
            "pipeline_parallel_first_stage_less_layers = 0\npipeline_parallel_last_stage_less_layers = 0",
            ("1f1b", 1, (*(8,) * 14, 7, 7)),
        ),
    ],
)
def test_torchtitan_counts_the_ends_of_a_pipeline_as_layers(keys: str, expected: object) -> None:
    text = (
        '[model]\nname = "llama3"\n[training]\nseq_len = 8192\nlocal_batch_size = 16\n[parallelism]\n'
        f"pipeline_parallel_degree = 16\ntensor_parallel_degree = 8\n{keys}\n"
    )
    assert layers_of("a.toml", text) == expected


@pytest.mark.parametrize(
    ("options", "layers"),
    [
        ("--account-for-embedding-in-pipeline-split --account-for-loss-in-pipeline-split", (7, *(8,) * 14, 7)),
        ("--account-for-embedding-in-pipeline-split", None),
    ],
)
def test_megatron_counts_the_ends_of_a_pipeline_as_layers(options: str, layers: object) -> None:
    """127 layers do not divide by 16, which is a rule of its own."""
    text = (
        "torchrun pretrain_gpt.py --num-layers 126 --hidden-size 16384 --num-attention-heads 128 --seq-length 8192 "
        "--max-position-embeddings 8192 --micro-batch-size 1 --tensor-model-parallel-size 8 "
        f"--pipeline-model-parallel-size 16 --num-virtual-stages-per-pipeline-rank 8 {options}\n"
    )
    assert layers_of("a.sh", text) == ("interleaved", 8, layers)


LLAMA = (
    "--swiglu --group-query-attention --num-query-groups 4 --normalization RMSNorm --position-embedding-type rope "
    "--disable-bias-linear --untie-embeddings-and-output-weights --kv-channels 128 --vocab-size 32000 --seq-length 2048"
)


def test_megatron_models_with_llamas_parts_are_predicted() -> None:
    (found,) = checked("a.sh", f"{CAST} {SIZES} {LLAMA}\n")
    model = found.judged.draft.model
    assert model is not None
    assert (model.kv_heads, model.head_size, model.ffn_hidden_size) == (4, 128, 2688)
    assert model.family == "llama"
    assert not model.tied_embeddings
    assert found.predicted is not None


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("--position-embedding-type mrope", "gptplan's models have no positions of type mrope"),
        ("--normalization $NORM", "--normalization cannot be told"),
        ("--window-size 128,128", "gptplan's windows of attention are the last tokens"),
        ("--fp8-format hybrid", "gptplan's models have no products in fp8"),
    ],
)
def test_megatron_models_that_no_spec_describes_are_not_predicted(options: str, reason: str) -> None:
    (found,) = checked("a.sh", f"{CAST} {SIZES} {options}\n")
    assert found.valid
    assert found.no_prediction == reason


def test_query_groups_count_with_grouped_attention_only() -> None:
    (found,) = checked("a.sh", f"{CAST} {SIZES} --num-query-groups 3\n")
    assert found.valid
    assert found.judged.draft.model.kv_heads == 16  # type: ignore[union-attr]


def test_the_type_of_fp16_may_be_bfloat16() -> None:
    text = (
        "pipe_parallel_size: 1\nmodel_parallel_size: 1\ntrain_micro_batch_size_per_gpu: 1\n"
        "fp16:\n  enabled: true\n  type: bfloat16\n"
    )
    assert checked("a.yml", text)[0].judged.draft.fields["precision"] == "bf16"


@pytest.mark.parametrize(
    "program",
    [
        "def main(tp: int = typer.Option(2)):\n    plugin = HybridParallelPlugin(tp_size=tp, pp_size=1)\n",
        "@dataclass\nclass Args:\n    tp: int = 2\nargs = tyro.cli(Args)\n"
        "plugin = HybridParallelPlugin(tp_size=args.tp, pp_size=1)\n",
        "@dataclass\nclass Config:\n    tp: int = field(default=2)\ncfg = Config()\n"
        "plugin = HybridParallelPlugin(tp_size=cfg.tp, pp_size=1)\n",
    ],
)
def test_defaults_of_typer_and_dataclasses(program: str) -> None:
    draft = checked("a.py", program)[0].judged.draft
    assert draft.fields["tensor_parallel"] == 2
    assert any("tp is 2" in line for line in draft.assumptions)


def test_accelerate_divides_sequences_in_one_of_two_ways() -> None:
    text = """compute_environment: LOCAL_MACHINE
distributed_type: DEEPSPEED
num_processes: 4
deepspeed_config: {zero_stage: 3}
parallelism_config:
  parallelism_config_dp_shard_size: 2
  parallelism_config_cp_size: 1
  parallelism_config_sp_size: 2
"""
    (found,) = checked("a.yaml", text, gpus=4)
    assert found.valid
    assert found.judged.facts["context_parallel"] == 2


def test_merged_tables_of_yaml_yield_to_keys_beside_them() -> None:
    text = """base: &base {--num-layers: 4, --micro-batch-size: 2, --tensor-model-parallel-size: 2}
MODEL_ARGS:
  <<: *base
  --tensor-model-parallel-size: 4
"""
    settings = read_source(text, "a.yaml").settings
    assert settings["MODEL_ARGS.--num-layers"].content == 4
    assert settings["MODEL_ARGS.--tensor-model-parallel-size"].content == 4


def test_quotes_of_a_default_are_none_of_it() -> None:
    source = read_source('torchrun --nnodes ${N:-"2"} --tensor-model-parallel-size "${T:-"4"}"', "a.sh")
    assert [value.content for value in source.settings.values()] == [2, 4]


def test_layers_that_deepspeed_divides_unevenly_are_valid() -> None:
    found = checked("a.sh", f"deepspeed pretrain_gpt.py {SIZES} --pipeline-model-parallel-size 16 --deepspeed", 16)
    assert "MEG015" not in rules(found)
    found = checked("a.sh", f"torchrun pretrain_gpt.py {SIZES} --pipeline-model-parallel-size 16", 16)
    assert "MEG015" in rules(found)


def test_a_finding_about_a_call_names_its_line() -> None:
    script = """from colossalai.booster.plugin import GeminiPlugin
from torch.optim import Adam
plugin = GeminiPlugin()
optimizer = Adam(model.parameters())
"""
    (found,) = checked("a.py", script)
    (error,) = found.judged.errors
    assert (error.rule, error.location) == ("GEM006", "a.py:4: Adam")


@pytest.mark.parametrize(("model", "broken"), [("gpt2-small", True), ("llama2-7b", False)])
def test_rules_about_gpt2_leave_other_models_alone(model: str, broken: bool) -> None:
    text = """from colossalai.booster.plugin import HybridParallelPlugin
plugin = HybridParallelPlugin(
    tp_size=1, pp_size=1, sp_size=2, enable_sequence_parallelism=True, sequence_parallelism_mode="all_to_all"
)
"""
    asked = Asked(
        gpus=8, hardware=load_spec("h100-80g", HardwareSpec), devices_per_node=8, model=load_spec(model, ModelSpec)
    )
    found = check_text(text, "a.py", asked, compare=False)
    assert ("HPP018" in rules(found)) == broken
