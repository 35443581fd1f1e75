"""Writes docs/plans.md from the plans in plans/: ``python -m docs.plans_page``."""

from pathlib import Path

from planner.layouts.layout import Layout
from planner.layouts.words import OFFLOAD, PIPELINE, RECOMPUTE, SEQUENCE, TENSOR
from planner.plans.plan import Plan, read_plan
from planner.specs.units import GIB, format_seconds
from plans.make import Asked, asked, command, path_of

PAGE = Path(__file__).with_name("plans.md")

_HEAD = """\
# Plans that come with gptplan

`gptplan run` executes them, and `gptplan verify` compares their layouts with one process; [what that
found](verification.md) is on a page of its own. The questions that they answer are in `plans/questions.toml`; what a
question does not pin, gptplan chose. `make plans` solves all of them again and writes this page; do not edit it.

The batch is that of one data-parallel rank. Step and memory are predictions; the memory is what the fullest GPU has
allocated at its peak, to which `gptplan show` adds the reserve.
"""

_ROWS = """\
## The rows of two tables

Colossal-AI's GPT examples of 2022 had these layouts, on A100-80G for GPT-2 small and A100-40G for GPT-3 175B. TP, PP,
DP, ZeRO, offload, GPUs and batch are those of the row and of its config, unless a remark says otherwise.
"""

_COLUMNS = (
    "| plan | {} | GPUs | batch | TP | PP | DP | ZeRO | offload | chosen by gptplan | step | memory |\n"
    "| --- | --- | ---: | ---: | --- | ---: | ---: | ---: | --- | --- | ---: | ---: |"
)


def plans_page() -> str:
    """The whole page."""
    known = asked()
    rows = {name: one for name, one in known.items() if one.row}
    others = [name for name in known if name not in rows]
    remarks = [f"- `{name}`: {one.note}." for name, one in rows.items() if one.note]
    commands = [command(name, one.question) for name, one in known.items()]
    parts = [
        _HEAD,
        _ROWS,
        _COLUMNS.format("row"),
        *(_line(name, rows[name]) for name in rows),
        "",
        *remarks,
        "",
        "## Others\n",
        _COLUMNS.format("model"),
        *(_line(name, known[name]) for name in others),
        "",
        "## The commands that make them\n",
        "```",
        *commands,
        "```",
    ]
    return "\n".join(parts) + "\n"


def _line(name: str, one: Asked) -> str:
    plan = read_plan(path_of(name))
    layout = plan.layout
    cells = [
        f"[`{name}`](../plans/{name}.plan)",
        one.row or plan.problem.model.name,
        str(layout.num_devices),
        str(layout.micro_batch * layout.num_microbatches),
        _tensor(layout),
        str(layout.pipeline_parallel),
        str(layout.data_parallel),
        str(layout.zero_stage),
        OFFLOAD.words(layout),
        _chosen(layout),
        format_seconds(plan.predicted.step_s),
        _memory(plan),
    ]
    return f"| {' | '.join(cells)} |"


def _tensor(layout: Layout) -> str:
    return "1" if layout.tensor_mode == "none" else TENSOR.words(layout)


def _chosen(layout: Layout) -> str:
    schedule = "" if layout.schedule == "none" else PIPELINE.notes(layout)
    words = (f"{layout.num_microbatches} x {layout.micro_batch}", schedule, SEQUENCE.short(layout))
    return ", ".join([*filter(None, words), f"{RECOMPUTE.words(layout)} recomputed"])


def _memory(plan: Plan) -> str:
    return f"{max(stage.peak_bytes for stage in plan.predicted.stages) / GIB:.1f} GiB"


def main() -> None:
    """Write the page."""
    PAGE.write_text(plans_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
