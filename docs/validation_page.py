"""Writes docs/validation.md, its plots and what runs cover: ``python -m docs.validation_page TABLE.csv ...``.

The last is planner/validation/evidence.json, and planner/cost_model/residuals.json what predictions missed by.
``make validate`` runs it on the tables that its variable DATA names.
"""

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from docs.validation_plots import draw
from planner.cost_model.conformal import ENOUGH_TABLES, SCALE_SHARE, UNMEASURED_WIDER, Calibration, Cell
from planner.cost_model.intervals import DEFAULT_CONFIDENCE, DISTANCES, INTERVAL, calibration
from planner.diagnostics import PlanError, render
from planner.specs import HardwareSpec
from planner.specs.files import load_spec
from planner.specs.units import format_gib, format_seconds
from planner.validation import Report, evidence, residuals, validate
from planner.validation.facts import facts_of
from planner.validation.replay import Replay
from planner.validation.report import SetScore, layout_words, memory_pair, percent, time_pair, worst_rows
from planner.validation.score import Pair, error_pct
from planner.views.validation import coverage_rows, error_cells, ranking_rows, skipped

FOLDER = Path(__file__).parent
RUNS = FOLDER.parent / "tests" / "validation"
CALIBRATED = {"h200_calibrated.toml": ("h200_runs.csv", "library_runs.csv")}
"""A spec that `gptplan calibrate` wrote, and the tables of runs on machines of its kind."""
PAGE = FOLDER / "validation.md"
WORST = 5

_HEAD = """\
# Predictions against measured runs

This page is written by `make validate`; do not edit it. `gptplan validate TABLE.csv` prints the same figures.

Every row of a table of measured runs is turned into the problem and the layout that were run, and the cost model
predicts it as it would predict any other. No constant belongs to a row or a set: constants live once for each
training stack and card in `specs/`, each with its source. Errors are 100 (predicted / measured - 1).

Not every figure below is a test on unseen runs. These constants were read off rows of these tables, as their sources
in `specs/` say:

- off vTrain-single: of `megatron-deepspeed` and its two variants the host's and the device's fixed time of a layer and
  what the ranks of an all-reduce wait for each other, of `megatron-2021` the first two; of A100 what products with an
  unpadded vocabulary keep; and that these runs do not recompute and do not pad the vocabulary on one rank;
- off Megatron-H100, its smallest model: the host's time of a layer of `megatron`;
- off BLOOM-prequel, rows with 13824 and 14400 hidden units: what unaligned products keep on the cards;
- off Narayanan2021-T2, the three ZeRO-3 rows of its 174.6B model, not those of its 529.6B one: the share of the links
  that ZeRO-3 reaches in `megatron-deepspeed-2021`;
- off MosaicML, rows on A100 of 40 GB: that nothing hides behind the gathers of `llm-foundry`;
- off Ultrascale-playbook, the rows on 8, 32, 128 and 512 GPUs: of `nanotron` the host's times, the share of products,
  cached blocks of the allocator, and how much of DDP's reductions hides; off all of its rows, what hosts of pipelines
  waited before collectives, the allocator's fragments, how far apart the hosts of a group are, the latency of the
  network, and which rows were made with a revision that polls for its messages or waited, which both models' rows
  tell alike;
- off colossalai-h100: of `colossalai-hf` the host's times of layers, tensors and Gemini, its attention with a mask,
  kept elements, logits, and dropout 0;
- off colossalai-h100 and colossalai-h200-library together: up to how many parameters the buckets of DDP exist twice;
  all other constants were fixed before colossalai-h200-library was measured;
- off colossalai-h200, mostly off the kernels of eight of its steps that were profiled: of `colossalai` the host's
  times, copies and updates on the host, and passes of its kernels over memory, of which `colossalai-hf` has those
  of biases, of the divided loss and of the optimizers; of H100 and H200 attention, the head with an unpadded
  vocabulary, and rings over two cards.

Everything else is a count, a datasheet or a measurement published elsewhere. Among those: all-reduces of two to eight
A100 by size (vTrain's tables of nccl-tests), the one adapter that a ring reaches of Jean Zay's network (BigScience's
benchmark), the order of ranks and the sends of slices of Megatron-LM and DeepSpeed (their sources), and the passes over
logits of LLM Foundry's train metrics (its source).

Products of A100, H100 and H200 are those of public tables of kernels, in which a product is run a few times by itself
(GitHub ai-dynamo/aiconfigurator): `gptplan calibrate --kernels` fits how each card cuts them into tiles, and where long
products are slower than shorter ones how far its clock falls. In a step the clock falls by what products are of a
layer's time. No constant of it is from the runs below; that no clock falls where the tables show none, as on A100, was
settled after two sets of A100 had been seen with a fit that let it fall. Of the two libraries in those tables one
multiplies random numbers and the other weights that nobody set, which is why they differ by up to a fifth in long
products of H100 and H200. Those of random numbers reach 0.71 and 0.69 of the peak there, medians, less than the model
gives a step that is all products.

What the other stacks had wrong in memory was found on BLOOM-prequel, BigScience-1B3, Megatron-golden-mem and MosaicML;
the values are counts in the code of the time and published figures, not fits. Memory of `megatron-deepspeed-2021` was
compared stage by stage with peaks that BigScience logged of a 52B model (TP 4, PP 16; experiments/gpt2-meg-ds-3d of
GitHub bigscience-workshop/bigscience), which are in no table. `colossalai-legacy` has one amount of cached blocks, and
communicators, read off seed-gpt2.

Of tables that are not among these some figures were seen while the model of other clusters was mended: tokens a second
of InternLM's 7B model on 8 to 1,024 A100 (its train_performance.md), and runs of Llama and Aquila 2 in FlagPerf and
FlagScale. No constant was chosen by them.

Readings that disagree with each other are left as they are. seed-11 trains with mixed precision as the other rows do,
and takes less beside its tensors than their communicators alone: the README of its time prints 5287, 4590 and 4901 MiB
for the configurations that seed-03, seed-04 and seed-06 have at 6269, 6167 and 6167, so that the table joins machines
whose communicators differ by more than a gigabyte. mgold-0011 and mgold-0141 equal the runs without fused attention to
the MiB and were recorded before theirs was fused. bs1b3-0016 prints for two-way tensor parallelism what the two-stage
pipeline takes.

A run is predicted to fit if its peak and what the process takes beside it are no more than the card has (with the
fragments of the allocator where optimizer steps need flat buffers): the margin for errors that a plan leaves does not
count here. Readings in GB of nvidia-smi, which counts in MiB, are taken as 1000 MiB: cards of 79.15 GiB are said to
hold 80 of them.
"""
_MEMORY_NOTE = """\
Memory readings are compared with what they count: `allocated` is the peak of live tensors, `reserved` adds what
PyTorch's allocator holds beyond them, `device` is what the driver reports, with context and communicators.
"""
_RANKING_NOTE = """\
Groups are the layouts of one model, card, number of GPUs, batch and precision. Kendall's tau (tau-b, mean over the
groups weighted by their pairs) says how alike measured and predicted step times order them. The regret is how much
slower the layout predicted best is than the best one measured.
"""

_COVERAGE_HEADINGS = (
    *("set", "memory: n", "held", "above", "step time: n", "held", "above"),
    *("fit at 95 % as fit/OOM", "OOM at 95 % as fit/OOM"),
)
_COVERAGE = """\
A stage's probability of fitting and the interval around a step time come from these errors, by split conformal
prediction for hierarchical data (Lee, Barber and Willett, arXiv 2306.06342; `planner/cost_model/conformal.py`). Runs of
one table on one card with one kind of layout are a group, and groups weigh alike. If a new group is drawn as these
were, a new run of it stays within its bound with at least the stated probability, whatever the errors are distributed
like. The errors are `log(measured / predicted)` and are scaled by class: one node or several for the step time, tensors
that PyTorch counted, what its allocator held or what the driver showed for the memory, each by how far a table is from
all the other tables ({distances}). A class is as wide as {share:.0%} of its errors, at least as any nearer one. With
fewer than {tables} tables it is measured together with the next and as wide as most of these tables by themselves, and
where nothing was measured in it {wider:g} times as wide, which is an estimate. The finest reading of a run counts, the
others say how wide theirs are. {memory} groups carry memory, so that `--confidence` can be at most {most:.4f}; {time}
carry step times. About fitting decides the finest reading that a stack's runs have.

{classes}

Below, every set is judged by the others alone: its own errors bear neither on its intervals nor on the scales. `held`
are the rows within their 90 % intervals, of which half of the rest should lie on either side; `above` took more than
the interval says. The last columns say what fits with a probability of 95 %. Where a set holds far fewer than 90 %, the
sets are no draw from one urn, and the guarantee does not reach it: a cluster of V100 whose network is known from one
benchmark, and Colossal-AI with another library's models on another host, faster than predicted. The constants of
`colossalai`, `colossalai-hf` and of half of the playbook's cluster sizes were read off runs that are among these, so
that their errors are smaller than those of runs never seen; so were the share and the width of what was not measured
chosen by what these sets hold.
"""
_CLASS_HEADINGS = (
    "class",
    "memory, tensors: 95 % below",
    "step time, one node: 90 %",
    "step time, several nodes: 90 %",
)


def _coverage_note() -> str:
    memory, time = calibration("memory"), calibration("step_time")
    rows = []
    for step, words in enumerate(DISTANCES):
        bound = f"{math.expm1(memory.bound((0, step), DEFAULT_CONFIDENCE)):+.1%}"
        rows.append([words, bound, *(_interval_cell(time, (column, step)) for column in (0, 1))])
    return _COVERAGE.format(
        distances=", ".join(DISTANCES),
        share=SCALE_SHARE,
        tables=ENOUGH_TABLES,
        wider=UNMEASURED_WIDER,
        memory=memory.count,
        most=memory.most,
        time=time.count,
        classes=table(_CLASS_HEADINGS, rows),
    )


def _interval_cell(found: Calibration, cell: Cell) -> str:
    side = (1.0 + INTERVAL) / 2.0
    low, high = (math.expm1(found.bound(cell, side, upper=upper)) for upper in (False, True))
    return f"{low:+.1%} to {high:+.1%}"


_CALIBRATED_HEADINGS = ("set", "spec", "step time: n", "mean", "worst", "bias", "Kendall's tau")
_CALIBRATED_NOTE = """\
The same runs with the built-in spec of the card and with one that `gptplan calibrate` wrote on such a machine, which
knows nothing of the runs. Everything of the training stack is the same in both.
"""


def page(report: Report, plots: dict[str, str]) -> str:
    """The whole page; ``plots`` maps a set to the file of its plot."""
    parts = [_HEAD, _tables_read(report), "## Errors\n", _errors_table(report), "", _MEMORY_NOTE]
    if ranking := ranking_rows(report):
        headings = ("set", "groups", "Kendall's tau", "mean regret", "largest regret", "groups within 3 %")
        parts += ["## Ranking of layouts\n", _RANKING_NOTE, table(headings, ranking), ""]
    parts += ["## How sure\n", _coverage_note(), table(_COVERAGE_HEADINGS, coverage_rows(report)), ""]
    if lines := _calibrated_lines(report):
        parts += ["## With a calibrated spec\n", _CALIBRATED_NOTE, table(_CALIBRATED_HEADINGS, lines, left=2), ""]
    parts += ["## Sets\n", *(_section(name, one, report, plots) for name, one in report.sets.items() if one.scored)]
    parts += ["## Rows left out\n", _counts(skipped(report.sets)) or "None.", ""]
    parts += [
        "## Assumptions\n",
        "What rows do not state is filled as follows.\n",
        _counts(report.assumptions) or "None.",
    ]
    return "\n".join(parts) + "\n"


def _tables_read(report: Report) -> str:
    lines = "\n".join(f"- `{table.path.name}`: {len(table.rows)} rows" for table in report.tables)
    return f"Tables read:\n\n{lines}\n"


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A Markdown table whose first ``left`` columns are text."""
    marks = ["---"] * left + ["---:"] * (len(headings) - left)
    lines = [headings, marks, *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def _errors_table(report: Report) -> str:
    each = ("mean", "worst", "bias")
    outcomes = ("fit as fit", "fit as OOM", "OOM as fit", "OOM as OOM")
    rows = [
        [
            name,
            str(one.rows),
            str(one.scored),
            *error_cells(one.memory),
            *error_cells(one.step_time),
            *map(str, msgspec.structs.astuple(one.outcome)),
        ]
        for name, one in report.sets.items()
    ]
    return table(("set", "rows", "scored", "memory: n", *each, "step time: n", *each, *outcomes), rows)


def _calibrated_lines(report: Report) -> list[list[str]]:
    lines = []
    for spec, names in CALIBRATED.items():
        paths = [one.path for one in report.tables if one.path.name in names]
        calibrated = validate(paths, hardware=load_spec(str(RUNS / spec), HardwareSpec)).sets if paths else {}
        for name, one in calibrated.items():
            for label, score in (("built in", report.sets[name]), (spec, one)):
                tau = f"{score.ranking.kendall_tau or 0.0:.2f}"
                lines.append([name, label, *error_cells(score.step_time), tau])
    return sorted(lines)


def _section(name: str, one: SetScore, report: Report, plots: dict[str, str]) -> str:
    replays = [replay for replay in report.replays if replay.row.set_name == name]
    parts = [f"### {name}\n", f"{one.scored} of {one.rows} rows."]
    if caveat := facts_of(name).caveat:
        parts.append(f"Care: {caveat}.")
    parts.append("")
    if len(one.memory_by_kind) > 1:
        kinds = [[kind, *error_cells(errors)] for kind, errors in one.memory_by_kind.items()]
        parts += [table(("memory reading", "n", "mean", "worst", "bias"), kinds), ""]
    if name in plots:
        parts += [f"![Predicted against measured, {name}]({plots[name]})", ""]
    for what, pair_of, words in (("memory", memory_pair, format_gib), ("step time", time_pair, format_seconds)):
        if lines := _worst(replays, pair_of, words):
            parts += [f"Worst by {what}:\n", lines, ""]
    if why := facts_of(name).worst:
        parts += [f"Why: {why}.", ""]
    return "\n".join(parts)


def _worst(replays: Sequence[Replay], pair_of: Callable[[Replay], Pair | None], words: Callable[[float], str]) -> str:
    rows = [
        [
            worst.replay.row.id,
            layout_words(worst.replay),
            worst.part,
            words(worst.pair[0]),
            words(worst.pair[1]),
            percent(error_pct(*worst.pair), signed=True),
        ]
        for worst in worst_rows(replays, pair_of, WORST)
    ]
    headings = ("row", "layout", "largest part of the prediction", "measured", "predicted", "error")
    return table(headings, rows, left=3) if rows else ""


def _counts(counts: dict[str, int]) -> str:
    return "\n".join(f"- {count} rows: {text}" for text, count in counts.items())


def main() -> None:
    """Replay the tables; write the page and its plots."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tables", nargs="+", type=Path, help="tables of measured runs")
    try:
        report = validate(parser.parse_args().tables)
    except PlanError as error:
        sys.exit("\n".join(render(diagnostic) for diagnostic in error.diagnostics))
    plots = draw(report, FOLDER)
    evidence.FILE.write_text(evidence.encoded(evidence.covered(report.replays)), encoding="utf-8")
    kept = residuals.FILE.read_text(encoding="utf-8")
    residuals.FILE.write_text(residuals.encoded(residuals.residuals(report.replays)), encoding="utf-8")
    if residuals.FILE.read_text(encoding="utf-8") != kept:
        sys.stdout.write(f"wrote {residuals.FILE.name}, which intervals rest on: run this again\n")
    PAGE.write_text(page(report, plots), encoding="utf-8")
    sys.stdout.write(f"wrote {PAGE.name} and {len(plots)} plots\n")


if __name__ == "__main__":
    main()
