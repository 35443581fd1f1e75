"""Errors of the input: one JSON document where one is asked for, and what to type instead."""

import itertools
import subprocess
import sys
from pathlib import Path

import pytest

from docs.verification_page import PAGE
from planner.layouts.pins import PINNABLE, parse_pin
from planner.plans.question import Question, build_problem
from planner.solver import solve
from tests.helpers import Run

ROOT = Path(__file__).parents[3]
PLAN = ROOT / "plans" / "gpt2-tiny-2xlocal-cpu.plan"


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        (("show", "none.plan"), "cannot read the plan"),
        (("solve", "--model", "gpt3", "--gpus", "many"), "--gpus"),
        (("solve", "--model", "gpt3", "--gpus", 8, "--tensor", 1), "--tensor"),
        (("solve", "--gpus", 8), "--model"),
        (("sweep", "--vary", "gpus"), ""),
        (("solve", "--model", "gpt3", "--gpus", 0), "--gpus has to be"),
        (("nothing",), "nothing"),
        (("explain", "XX999"), "XX999"),
        (("check", "none.py", "--gpus", 8), "cannot read"),
        (("validate", "none.csv"), "cannot read the table"),
    ],
    ids=lambda one: " ".join(map(str, one)) if isinstance(one, tuple) else "",
)
def test_an_input_error_is_one_json_document_too(gptplan: Run, typed: tuple[object, ...], says: str) -> None:
    outcome = gptplan(*typed, "--json")
    assert outcome.code == 2
    document = outcome.document()
    assert says in document["error"]["message"]
    assert {"rule", "severity", "location", "hint", "values", "detail"} <= document["error"].keys()
    assert document["others"] == []
    assert document["error"]["message"] in outcome.err


def test_an_answer_that_cannot_be_written_is_in_the_same_document(gptplan: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    outcome = gptplan("solve", "--model", "gpt2-tiny", "--gpus", 1, "-o", tmp_path / "file" / "a.plan", "--json")
    assert outcome.code == 2
    assert outcome.document()["plan"]["layout"]["data_parallel"] == 1
    assert "cannot write the plan" in outcome.document()["error"]["message"]


@pytest.mark.parametrize(
    ("option", "typed", "meant"),
    [
        ("--gpu", "H100", "`h100-80g`?"),
        ("--gpu", "a100", "`a100-40g` or `a100-80g`?"),
        ("--model", "GPT3-13B", "`gpt3-13b`?"),
        ("--stack", "colossal", "`colossalai`"),
    ],
)
def test_part_of_a_name_is_enough_to_be_told_it(gptplan: Run, option: str, typed: str, meant: str) -> None:
    options = {"--model": "gpt2-tiny", "--gpus": "1"} | {option: typed}
    outcome = gptplan("solve", *(word for pair in options.items() for word in pair))
    assert outcome.code == 2
    assert "did you mean " in outcome.err
    assert meant in outcome.err


def test_nodes_that_do_not_divide_the_gpus_are_refused(gptplan: Run) -> None:
    outcome = gptplan("solve", "--model", "gpt2-tiny", "--gpus", 16, "--gpus-per-node", 3)
    assert outcome.code == 2
    assert "16 % 3 = 1" in outcome.err
    assert "use `--gpus-per-node 2` or `4`, or `--gpus 15` or `18`" in outcome.err


def test_plans_of_different_models_are_not_ranked(gptplan: Run) -> None:
    paths = [ROOT / "plans" / f"{name}.plan" for name in ("gpt2-1d", "gpt3-pp2d")]
    outcome = gptplan("diff", *paths)
    assert outcome.code == 0
    assert "neither is faster: they answer different questions" in outcome.out
    assert "num_layers 12 and 96" in outcome.out
    document = gptplan("diff", *paths, "--json").document()
    assert (document["faster"], document["speedup"]) == ("none", None)


def test_stacks_and_pins_are_listed(gptplan: Run) -> None:
    assert {"colossalai", "megatron", "fsdp"} <= {one["name"] for one in gptplan("stacks", "--json").document()}
    assert "megatron-deepspeed" in gptplan("stacks").out
    fields = gptplan("explain", "layout", "--json").document()
    assert {one["field"] for one in fields} == {*PINNABLE}
    for one in fields:
        assert parse_pin(one["example"], "--pin")[0] == one["field"]
        assert one["meaning"] in gptplan("explain", one["field"]).out


EARLY = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
when = sys.argv.pop(1)
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == when:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
from planner.cli.__main__ import main
main()
"""


@pytest.mark.parametrize("module", ["planner.cli.app", "msgspec", "typer", "numpy", "ortools"])
def test_ctrl_c_during_an_import_is_one_line(module: str, tmp_path: Path) -> None:
    typed = ["solve", "--model", "gpt2-tiny", "--gpus", "1", "-o", str(tmp_path / "a.plan")]
    command = [sys.executable, "-c", EARLY, module, *typed]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert (result.returncode, len(result.stderr.splitlines())) == (130, 1), result.stderr
    assert result.stderr.startswith("interrupted")
    assert result.stdout == ""


def test_commands_on_the_page_of_verified_layouts_give_what_is_shown() -> None:
    page = PAGE.read_text(encoding="utf-8")
    shown = page.split("$ gptplan solve ")[1:]
    assert len(shown) == 3
    for text in shown:
        words = text.splitlines()[0].split()
        pins = tuple(value for option, value in itertools.pairwise(words) if option == "--pin")
        one = {option: value for option, value in itertools.pairwise(words) if option.startswith("--")}
        asked = Question(
            model=one["--model"],
            gpus=int(one["--gpus"]),
            pin=pins,
            allow_offload=one.get("--allow-offload", "none"),  # type: ignore[arg-type]
            mode=one.get("--mode"),  # type: ignore[arg-type]
        )
        plan = solve(build_problem(asked)).plan
        assert plan is not None
        assert f"ZeRO stage {plan.layout.zero_stage}," in text
        assert f"sequence parallel {'yes' if plan.layout.sequence_parallel else 'no'}," in text
