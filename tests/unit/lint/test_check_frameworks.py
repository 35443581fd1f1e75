"""Files of other frameworks: read by their tables, or named and refused."""

import json
from pathlib import Path

import pytest

from tests.helpers import Run

NEOX = (
    '{\n  "pipe-parallel-size": 4,\n  "model-parallel-size": 2,\n  "num-layers": 44,\n  "hidden-size": 6144,\n'
    '  "num-attention-heads": 64,\n  "seq-length": 2048,\n  "max-position-embeddings": 2048,\n'
    '  "train_micro_batch_size_per_gpu": 4,\n  "gradient_accumulation_steps": 32,\n  "fp16": {"enabled": true},\n'
    '  "zero_optimization": {"stage": 1},\n  "checkpoint-activations": true,\n}\n'
)
TITAN = (
    '[model]\nname = "llama3"\n[training]\nseq_len = 1024\nlocal_batch_size = 2\n[parallelism]\n'
    "data_parallel_shard_degree = -1\ntensor_parallel_degree = 2\npipeline_parallel_degree = 2\n"
)


def test_a_file_of_gpt_neox(check: Run) -> None:
    Path("20B.yml").write_text(NEOX, encoding="utf-8")
    document = check("20B.yml", "--gpus", 96, "--json").document()
    assert document["valid"] is True
    layout = document["layout"]
    assert (layout["tensor_parallel"], layout["pipeline_parallel"], layout["data_parallel"]) == (2, 4, 12)
    assert (layout["micro_batch"], layout["num_microbatches"], layout["zero_stage"]) == (4, 32, 1)


def test_a_file_of_torchtitan(check: Run) -> None:
    Path("a.toml").write_text(TITAN, encoding="utf-8")
    document = check("a.toml", "--gpus", 8, "--model", "gpt2-small", "--json").document()
    assert document["valid"] is True
    assert [document["layout"][name] for name in ("tensor_parallel", "pipeline_parallel", "zero_stage")] == [2, 2, 1]
    assert document["layout"]["sequence_parallel"] is True
    Path("b.toml").write_text(TITAN + 'fsdp_reshard_after_forward = "always"\n', encoding="utf-8")
    assert check("b.toml", "--gpus", 8, "--model", "gpt2-small", "--json").document()["layout"]["zero_stage"] == 3


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("base_model: a\ndatasets: []\nmicro_batch_size: 1\ngradient_accumulation_steps: 2\n", "axolotl"),
        ("model_name_or_path: a\nstage: sft\nfinetuning_type: lora\n", "LLaMA-Factory"),
        ("architectures: [A]\nhidden_size: 8\nnum_attention_heads: 2\n", "Hugging Face transformers"),
    ],
)
def test_files_of_other_programs_are_named_and_refused(check: Run, text: str, name: str) -> None:
    Path("a.yaml").write_text(text, encoding="utf-8")
    outcome = check("a.yaml", "--gpus", 8)
    assert outcome.code == 2
    assert f"this is a file of {name}" in outcome.err


def test_findings_for_github_and_as_sarif(check: Run) -> None:
    Path("a.toml").write_text(
        TITAN.replace("tensor_parallel_degree = 2", "tensor_parallel_degree = 3"), encoding="utf-8"
    )
    outcome = check("a.toml", "--gpus", 8, "--format", "github")
    assert outcome.code == 1
    assert outcome.out.startswith("::error file=a.toml,line=8,title=PAR001::8 GPUs do not divide")
    log = json.loads(check("a.toml", "--gpus", 8, "--format", "sarif").out)
    result, other = [one for one in log["runs"][0]["results"] if one["level"] == "error"]
    # Ranks of tensor parallelism divide the sequence too, which 3 of them cannot.
    assert (log["version"], result["ruleId"], other["ruleId"]) == ("2.1.0", "PAR001", "SP002")
    assert result["locations"][0]["physicalLocation"]["region"] == {"startLine": 8}


def test_arguments_of_a_script_are_their_defaults_or_what_is_given(check: Run) -> None:
    Path("a.py").write_text(
        "parser.add_argument('--tp', type=int, default=2)\n"
        "p = HybridParallelPlugin(tp_size=args.tp, pp_size=args.stages, num_microbatches=4)\n",
        encoding="utf-8",
    )
    model = ("--gpus", 8, "--model", "gpt2-small")
    assert "open[CFG001]: pp_size" in check("a.py", *model).out
    outcome = check("a.py", *model, "--set", "args.stages=2", "--json")
    assert [outcome.document()["layout"][name] for name in ("tensor_parallel", "pipeline_parallel")] == [2, 2]
