"""`gptplan check` and plans: configurations frozen as plans, plans that are checked, folders with both."""

from pathlib import Path

import msgspec
import pytest

from planner.layouts.layout import Layout
from planner.plans.plan import read_plan
from tests.helpers import Run
from tests.unit.lint.test_check_config import CONFIGS, write


def test_a_folder_may_hold_plans(check: Run, gptplan: Run) -> None:
    Path("plans").mkdir()
    assert gptplan("solve", "--model", "gpt2-small", "--gpus", 2, "-o", "plans/a.plan").code == 0
    text = Path("plans/a.plan").read_text(encoding="utf-8")
    Path("plans/b.plan").write_text(text.replace('"num_devices": 2', '"num_devices": 3'), encoding="utf-8")
    Path("plans/c.py").write_text("parallel = dict(pipeline=1)\n", encoding="utf-8")
    outcome = check("plans", "--gpus", 8)
    lines = outcome.out.splitlines()
    assert outcome.code == 1
    assert lines[0].startswith("plans/a.plan: valid and fits: ")
    assert lines[1].startswith("plans/b.plan: PLAN002: ")
    assert lines[2].startswith("plans/c.py: valid")
    files = check("plans", "--gpus", 8, "--json").document()["files"]
    assert [(one["file"], one["valid"]) for one in files] == [
        ("plans/a.plan", True),
        ("plans/b.plan", False),
        ("plans/c.py", True),
    ]


def test_as_plan_is_a_plan_that_says_it_was_written_by_hand(check: Run, gptplan: Run) -> None:
    path = CONFIGS / "valid" / "gpt2_pp1d.py"
    outcome = check(path, "--gpus", 8, "--as-plan")
    assert outcome.code == 0
    assert outcome.out.rstrip().endswith("plan: plans/gpt2_pp1d.plan")
    plan = read_plan(Path("plans/gpt2_pp1d.plan"))
    assert (plan.layout.tensor_parallel, plan.layout.pipeline_parallel, plan.layout.data_parallel) == (2, 2, 2)
    assert plan.evidence.status == "by-hand"
    assert plan.evidence.objective == plan.predicted.step_s >= plan.evidence.bound > 0
    assert plan.problem.pins == {}
    assert check("plans/gpt2_pp1d.plan").code == 0
    assert "written by hand, not chosen; at most" in gptplan("show", "plans/gpt2_pp1d.plan").out
    assert check(path, "--gpus", 8, "--as-plan").code == 0


def test_neither_command_replaces_a_plan_of_the_other(check: Run, gptplan: Run) -> None:
    frozen = (CONFIGS / "valid" / "gpt2_pp1d.py", "--gpus", 8, "--as-plan", "-o", "a.plan")
    found = ("solve", "--model", "gpt2-tiny", "--gpu", "local-cpu", "--gpus", 1, "-o", "a.plan")
    assert check(*frozen).code == 0
    before = Path("a.plan").read_bytes()
    refused = gptplan(*found)
    assert (refused.code, "there is a file already" in refused.err) == (2, True)
    assert Path("a.plan").read_bytes() == before
    assert gptplan(*found, "--force").code == 0
    before = Path("a.plan").read_bytes()
    assert check(*frozen).code == 2
    assert Path("a.plan").read_bytes() == before


@pytest.mark.parametrize(
    ("name", "options"), [("megatron.sh", ("--gpus", 16)), ("deepspeed.json", ("--gpus", 8, "--model", "gpt3-1.3b"))]
)
def test_as_plan_of_another_framework_is_for_the_stack_that_runs(
    check: Run, name: str, options: tuple[object, ...]
) -> None:
    asked = (CONFIGS / "valid" / name, *options, "--gpu", "a100-80g")
    layout = check(*asked, "--json").document()["layout"]
    assert check(*asked, "--as-plan", "-o", "a.plan").out.endswith("plan: a.plan, for stack colossalai 0.5.0\n")
    plan = read_plan(Path("a.plan"))
    assert plan.problem.stack.name == "colossalai"
    assert plan.layout == msgspec.convert(layout, Layout)
    assert plan.evidence.objective == plan.predicted.step_s >= plan.evidence.bound > 0
    assert check("a.plan").code == 0


def test_as_plan_says_what_the_stack_does_not_execute(check: Run) -> None:
    path = write(
        "--num-layers 24 --hidden-size 1024 --num-attention-heads 16 --seq-length 1024 --micro-batch-size 1 "
        "--pipeline-model-parallel-size 4 --global-batch-size 2",
        "a.sh",
    )
    outcome = check(path, "--gpus", 4, "--as-plan", "-o", "a.plan")
    assert outcome.code == 1
    assert "cannot become a plan: stack colossalai, which runs plans, does not execute it" in outcome.err
    assert "PP004: num_microbatches 2 cannot fill 4 pipeline stages" in outcome.err
    document = check(CONFIGS / "broken" / "square.py", "--gpus", 96, "--as-plan", "--json").document()
    assert (document["valid"], document["plan_file"]) == (False, None)
    assert not Path("a.plan").exists()


def test_as_plan_refuses_what_cannot_run(check: Run) -> None:
    refused = check(CONFIGS / "broken" / "square.py", "--gpus", 96, "--as-plan")
    assert refused.code == 1
    two = write("a = HybridParallelPlugin(tp_size=1, pp_size=1)\nb = GeminiPlugin()\n")
    assert check(two, "--gpus", 2, "--model", "gpt2", "--as-plan").code == 2
    assert not Path("plans").exists()


def test_plans_are_still_checked(check: Run, gptplan: Run) -> None:
    assert gptplan("solve", "--model", "gpt2-small", "--gpus", 2, "-o", "a.plan").code == 0
    assert check("a.plan").code == 0
    Path("a.plan").rename("a.json")
    assert check("a.json").code == 0
