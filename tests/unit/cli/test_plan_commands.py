"""`diff`, `report` and the refusals of `verify`, in this process."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from planner.launch import machine
from planner.plans.plan import Plan, read_plan, seal, write_plan
from tests.helpers import Run, changed


@pytest.fixture
def plans(gptplan: Run) -> tuple[Path, Path]:
    """Plans of one question, with and without a pipeline."""
    common = ("solve", "--model", "gpt2-small", "--gpus", 8, "--mode", "1d", "--pin", "tensor_parallel=2")
    for stages in (1, 2):
        pin = ("--pin", f"pipeline_parallel={stages}", "-o", f"{stages}.plan")
        assert gptplan(*common, *pin).code == 0
    return Path("1.plan"), Path("2.plan")


def test_diff_says_what_differs_and_which_is_faster(gptplan: Run, plans: tuple[Path, Path]) -> None:
    outcome = gptplan("diff", *plans)
    assert outcome.code == 0
    assert outcome.err == ""
    assert "specs: the same in both" in outcome.out
    (row,) = (line.split() for line in outcome.out.splitlines() if line.startswith("pipeline_parallel"))
    assert row == ["pipeline_parallel", "1", "2"]
    first, second = (read_plan(path).predicted.step_s for path in plans)
    winner = "1.plan" if first < second else "2.plan"
    factor = max(first, second) / min(first, second)
    assert f"{winner} is faster: {factor:.3f} times the tokens a second" in outcome.out
    # What the faster one saves is named, and so is what it costs.
    assert " less in " in outcome.out.split("is faster")[1]
    assert "pipeline bubble" in outcome.out.split("is faster")[1]


def test_diff_in_json_adds_up(gptplan: Run, plans: tuple[Path, Path]) -> None:
    document = json.loads(gptplan("diff", *plans, "--json").out)
    assert set(document) == {"plans", "same", "question", "specs", "layout", "figures", "terms", "faster", "speedup"}
    first, second = map(read_plan, plans)
    assert document["same"] is False
    assert document["plans"] == {"first": first.digest, "second": second.digest}
    assert document["specs"] == []
    fields = {one["field"]: (one["first"], one["second"]) for one in document["layout"]}
    assert fields["pipeline_parallel"] == (1, 2)
    assert fields["schedule"] == ("none", "1f1b")
    assert "tensor_parallel" not in fields
    figures = {figure["name"]: figure for figure in document["figures"]}
    assert figures["step time"]["ratio"] == pytest.approx(second.predicted.step_s / first.predicted.step_s)
    tokens = first.problem.global_batch * first.problem.seq_len
    saved = sum(term["first_s"] - term["second_s"] for term in document["terms"])
    assert saved * tokens / 1e6 == pytest.approx(first.predicted.step_s - second.predicted.step_s)
    sizes = [abs(term["first_s"] - term["second_s"]) for term in document["terms"]]
    assert sizes == sorted(sizes, reverse=True)
    assert document["speedup"] >= 1


def test_a_plan_does_not_differ_from_itself(gptplan: Run, plans: tuple[Path, Path]) -> None:
    document = json.loads(gptplan("diff", plans[0], plans[0], "--json").out)
    assert document["same"] is True
    assert document["layout"] == document["specs"] == document["question"] == document["terms"] == []
    assert document["faster"] == "same"
    assert "equally fast" in gptplan("diff", plans[0], plans[0]).out


def test_diff_of_other_specs_names_their_fields(gptplan: Run, plans: tuple[Path, Path]) -> None:
    assert gptplan("solve", "--model", "gpt2-medium", "--gpus", 8, "--gpu", "a100-80g", "-o", "m.plan").code == 0
    document = json.loads(gptplan("diff", plans[0], "m.plan", "--json").out)
    specs = {one["field"]: (one["first"], one["second"]) for one in document["specs"]}
    assert specs["model.num_layers"] == (12, 24)
    assert specs["hardware.name"] == ("a100-40g", "a100-80g")
    assert not any("sources" in field for field in specs)


class _Page(HTMLParser):
    """What a page refers to, whether its tags are closed, and its text."""

    VOID = ("meta", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def page_of(gptplan: Run, plan: Path) -> tuple[str, _Page]:
    outcome = gptplan("report", plan, "-o", "out/report.html")
    assert (outcome.code, outcome.out, outcome.err) == (0, "page: out/report.html\n", "")
    text = Path("out/report.html").read_text(encoding="utf-8")
    return text, _Page(text)


def test_report_is_one_page_with_everything_in_it(gptplan: Run, plans: tuple[Path, Path]) -> None:
    text, page = page_of(gptplan, plans[1])
    plan = read_plan(plans[1])
    assert page.open == []
    assert not {name for name, _ in page.attributes} & {"src", "href", "srcset", "onload"}
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert "url(" not in text
    assert "://" not in text
    assert "prefers-color-scheme: dark" in text
    for words in (
        "Question",
        "Layout",
        "Memory of each stage",
        "Where the step goes",
        "Proof",
        "Assumed",
        "Not modelled",
        plan.digest,
        "pipeline_parallel = 2",
        f"{plan.predicted.mfu:.1%}",
    ):
        assert words in page.text
    assert all(line in page.text for line in (*plan.predicted.assumptions, *plan.predicted.not_modelled))
    assert page.tags.count("figure") == 3


def test_memory_bars_are_as_long_as_the_memory(gptplan: Run, plans: tuple[Path, Path]) -> None:
    from planner.views.content import Section
    from planner.views.html import page as html
    from planner.views.pictures import memory_bars

    stages = read_plan(plans[1]).predicted.stages
    terms = {name for stage in stages for name, value in stage.breakdown_bytes.items() if value}
    page = _Page(html("memory", "", [Section("bars", [memory_bars(stages)])], made_by="", digest=""))
    styles = [value or "" for name, value in page.attributes if name == "style"]
    widths = [float(share) for style in styles for share in re.findall(r"width:([0-9.]+)%", style)]
    # Terms of no bytes have no part; one bar after the other.
    per_stage = [sum(value > 0 for value in stage.breakdown_bytes.values()) + 1 for stage in stages]
    assert len(widths) == sum(per_stage)
    assert len(terms) >= max(per_stage) - 1
    bars = (sum(widths[: per_stage[0]]), sum(widths[per_stage[0] :]))
    first, second = (bar / (stage.peak_bytes + stage.reserve_bytes) for bar, stage in zip(bars, stages, strict=True))
    whole = stages[0].peak_bytes + stages[0].reserve_bytes
    assert bars[0] == pytest.approx(100 * whole / stages[0].capacity_bytes, rel=1e-3)
    assert first == pytest.approx(second, rel=1e-2)


def test_text_of_a_plan_cannot_become_markup(gptplan: Run, plans: tuple[Path, Path]) -> None:
    plan = read_plan(plans[0])
    hostile = '<script>alert("1")</script>&'
    problem: Any = {"model": {"title": hostile}}
    predicted = {"assumptions": (hostile,), "breakdown_s": {hostile: 1.0}}
    write_plan(seal(changed(plan, problem=problem, predicted=predicted, gptplan_version=hostile)), Path("h.plan"))
    text, page = page_of(gptplan, Path("h.plan"))
    assert "script" not in page.tags
    assert "<script" not in text
    assert hostile in page.text


def test_a_plan_with_pins_that_nobody_can_type_is_refused(gptplan: Run, plans: tuple[Path, Path]) -> None:
    problem: Any = {"pins": {"\x1b[31mred": "\u202e"}}
    write_plan(seal(changed(read_plan(plans[0]), problem=problem)), Path("h.plan"))
    for command in ("show", "check", "report", "verify", "run"):
        outcome = gptplan(command, "h.plan")
        assert outcome.code == 1
        assert outcome.err.startswith("error[PLAN003]: the plan contradicts itself")
        assert "\\x1b[31mred" in outcome.err
        assert outcome.out == ""


def test_report_names_the_page_after_the_plan(gptplan: Run, plans: tuple[Path, Path]) -> None:
    assert gptplan("report", plans[0]).out == "page: 1.html\n"
    assert Path("1.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("report", "1.plan", "-o", "1.plan"), "the page would replace the plan"),
        (("report", "1.plan", "-o", "."), "this is a folder"),
        (("report", "none.plan"), "cannot read the plan"),
        (("report", "1.plan", "-o", "1.plan/x.html"), "cannot write the page"),
        (("diff", "1.plan", "none.plan"), "cannot read the plan"),
        (("diff", "1.plan", "bad.plan"), "this is not a whole plan file"),
        (("verify", "none.plan"), "cannot read the plan"),
        (("verify", "1.plan", "--steps", "0"), "--steps takes 1 to 1000, not 0"),
        (("verify", "1.plan", "--max-processes", "0"), "--max-processes takes 1 to 1024, not 0"),
        (("verify", "1.plan", "--without", "causal"), "there is no workaround causal"),
        (("verify", "1.plan", "--max-processes", "2"), "4 are the fewest that keep its kinds of parallelism"),
    ],
)
def test_bad_input_is_said_in_one_message(
    arguments: tuple[str, ...], message: str, gptplan: Run, plans: tuple[Path, Path]
) -> None:
    Path("bad.plan").write_text('{"format_version": 1')
    outcome = gptplan(*arguments)
    assert outcome.code == 2
    assert outcome.out == ""
    assert message in outcome.err
    assert outcome.err.count("error[") == 1
    assert read_plan(plans[0])


def edited(path: Path) -> Plan:
    plan = read_plan(path)
    path.write_text(path.read_text().replace('"data_parallel": 4', '"data_parallel": 2'))
    return plan


@pytest.mark.parametrize("command", ["diff", "report", "verify"])
def test_an_edited_plan_is_refused(command: str, gptplan: Run, plans: tuple[Path, Path]) -> None:
    edited(plans[0])
    outcome = gptplan(command, plans[0], *((plans[1],) if command == "diff" else ()))
    assert outcome.code == 1
    assert "error[PLAN002]" in outcome.err


def test_verify_starts_nothing_without_the_runtime(
    gptplan: Run, plans: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "RUNTIME_PACKAGES", ("torch", "no_such_package_anywhere"))
    outcome = gptplan("verify", plans[0])
    assert outcome.code == 1
    assert "error[RUN001]" in outcome.err


def test_verify_is_for_plans_that_run(gptplan: Run) -> None:
    assert gptplan("solve", "--model", "gpt2-small", "--gpus", 8, "--stack", "megatron", "-o", "m.plan").code == 0
    outcome = gptplan("verify", "m.plan")
    assert outcome.code == 1
    assert "error[RUN004]" in outcome.err


def test_verify_on_gpus_needs_gpus(gptplan: Run, plans: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "present_gpus", list)
    outcome = gptplan("verify", plans[1], "--on-gpus")
    assert outcome.code == 1
    assert "no GPU was found" in outcome.err
