"""`gptplan check` of what was exported for other frameworks gives the plan's layout back."""

from pathlib import Path

import msgspec
import pytest

from planner.cost_model.parts import block_of
from planner.export.options import ExportOptions, Target
from planner.export.targets import TARGETS
from planner.lint.check import check_text
from planner.lint.draft import Asked
from planner.plans.plan import Plan
from planner.plans.question import Question, build_problem
from planner.solver import solve
from planner.specs.experts import DEFAULT_CONCENTRATION

RECOMPUTE = "recompute_layers_per_stage"
QUESTIONS = {
    "megatron": (
        Question(model="gpt2-xl", gpus=8, gpu="v100-32g"),
        Question(model="gpt3-6.7b", gpus=8, gpu="a100-40g"),  # some layers of every stage
        Question(model="gpt3-13b", gpus=16, gpu="a100-40g"),  # virtual stages
        Question(
            model="gpt3-13b", gpus=16, gpu="a100-40g", pin=("recompute_layers_per_stage=some", "num_model_chunks=5")
        ),
        Question(model="gpt3", gpus=96, gpu="a100-80g"),  # whose best stages would each recompute another number
        Question(model="gpt3", gpus=1024, gpu="h100-80g", precision="bf16"),
        Question(model="gpt2-large", gpus=2, gpu="v100-16g", precision="fp32"),
        Question(model="gpt2-xl", gpus=12, gpu="a100-40g"),  # a node that is not full
        Question(model="llama2-7b", gpus=8, gpu="a100-80g"),
        Question(model="mistral-7b", gpus=8, gpu="h100-80g"),
        Question(model="qwen2.5-7b", gpus=8, gpu="h100-80g"),
        Question(model="llama3-8b", gpus=32, gpu="a100-40g", pin=("tensor_parallel=2", "pipeline_parallel=2")),
        Question(model="gpt3-2.7b", gpus=4, objective="memory"),
        Question(model="mixtral-8x7b", gpus=64, gpu="h100-80g", pin=("expert_parallel=8",)),
        Question(model="qwen3-30b-a3b", gpus=16, gpu="h100-80g", pin=("tensor_parallel=2",)),
        Question(model="deepseek-v3", gpus=1024, gpu="h100-80g"),
    ),
    "megatron-deepspeed": (
        Question(model="gpt2-xl", gpus=8, gpu="v100-32g"),
        Question(model="gpt3-13b", gpus=16, gpu="a100-40g"),
        Question(model="gpt3", gpus=96, gpu="a100-80g", pin=("tensor_parallel=4", "layers_per_stage=even")),
        Question(model="gpt3-6.7b", gpus=8, gpu="a100-40g", pin=("pipeline_parallel=4",), precision="bf16"),
        Question(model="gpt3-6.7b", gpus=2, gpu="a100-80g", allow_offload="cpu"),
        Question(model="gpt3-13b", gpus=2, gpu="a100-40g", allow_offload="nvme", pin=("offload.tier=nvme",)),
        Question(model="gpt3-13b", gpus=4, gpu="a100-40g", allow_offload="cpu", pin=("offload.parameters=1",)),
        Question(model="gpt2-large", gpus=4, gpu="v100-16g", pin=("zero_stage=2",)),
        Question(model="llama2-7b", gpus=8, gpu="a100-80g"),
    ),
    "megatron-deepspeed-bf16": (Question(model="gpt3-13b", gpus=32, gpu="a100-80g", precision="bf16"),),
}
ASKED = [(stack, question) for stack, questions in QUESTIONS.items() for question in questions]


def named(one: tuple[str, Question]) -> str:
    stack, question = one
    return "-".join((stack, question.model, str(question.gpus), *question.pin))


def solved(stack: str, question: Question) -> Plan:
    answer = solve(build_problem(msgspec.structs.replace(question, stack=stack)))
    assert answer.plan is not None
    return answer.plan


@pytest.mark.parametrize("asked", ASKED, ids=map(named, ASKED))
def test_check_gives_the_layout_back(asked: tuple[str, Question]) -> None:
    stack, question = asked
    plan = solved(stack, question)
    target: Target = "deepspeed" if "deepspeed" in stack else "megatron"
    text = TARGETS[target].text_of(plan, Path("a.plan"), ExportOptions(nvme_path=Path("/local/nvme")))
    problem = plan.problem
    told = Asked(gpus=problem.num_devices, hardware=problem.hardware, devices_per_node=problem.devices_per_node)
    (found,) = check_text(text, "a.sh", told, compare=False)
    assert [one.message for one in found.judged.diagnostics if one.severity == "error"] == []
    assert found.judged.layout == plan.layout
    assert found.judged.problem is not None
    assert found.judged.problem.global_batch == problem.global_batch
    assert found.judged.problem.seq_len == problem.seq_len
    assert found.judged.problem.model.num_layers == problem.model.num_layers
    assert not found.open
    if (experts := problem.model.experts) is not None:
        assert found.judged.problem.model.experts == msgspec.structs.replace(
            experts, balance_loss=0.0, concentration=DEFAULT_CONCENTRATION, weight_scale=1.0
        )
        assert block_of(found.judged.problem.model).tensors == block_of(problem.model).tensors
        assert found.predicted is not None
