"""Writes docs/speed.md, measured speed: ``python -m docs.speed_page OWN.csv BY_HAND.csv AGAINST_PYTORCH.csv``."""

import csv
import sys
from collections.abc import Sequence
from pathlib import Path

from planner.cost_model.flops import model_flops_per_step
from planner.specs.units import GIB, MIB, format_seconds
from planner.validation.replay import Replay
from planner.validation.report import layout_words, validate

PAGE = Path(__file__).parent / "speed.md"
PEERS = Path(__file__).parent.parent / "benchmarks" / "against_pytorch.csv"
"""What `python -m benchmarks.against_pytorch --record` appends to."""
LEAST_HIDDEN = 2048
"""Hidden size from which a model is on the page: GPT-3 1.3B."""

_Model = tuple[int, int, int]
"""Layers, hidden size and number of GPUs."""

_HEAD = """\
# Measured speed of large models

This page is written by `make docs` from the rows of `tests/validation/h200_runs.csv`; do not edit it. Every row is a
run of `gptplan run` in fresh processes: GPT blocks of gptplan on Colossal-AI 0.5.0, torch 2.11, on one or two NVIDIA
H200 SXM of one host, sequences of 2,048 tokens, 8,192 of llama3-8b, bf16, the optimizer step included. The step time
is the median of the steps after the third, the memory what PyTorch allocated at most on the fullest GPU. Blocks, loss
and update are compiled in the rows from 34 on; in rows 34 and 35 by an earlier version, whose update took 71 and 86 ms
where that of rows 39 and 40 takes 47 and 57.

Of the collectives of a step 9.5 of 15.4 ms run beside computation in row 44 (ZeRO 1), 5.1 of 13.2 in row 45 (DP 2) and
51.6 of 102 in row 46 (TP 2), by a trace of two steps in a row, which `gptplan run` makes and sums up in its closing
table.

TFLOP/s count the model's own operations per GPU, 6 for each weight and token and the whole attention matrix; recomputed
ones do not count. The share is that of 989 TFLOP/s, the dense bf16 peak on the data sheets of both H200 and H100. The
two have the same peak; an H200 has 141 GB at 4.8 TB/s where an H100 has 80 GB at 3.35 TB/s, so that layouts of more
than 80 GB below do not fit on an H100, and no figure here is one of an H100. Four H100 were not to be had, nor more
than two H200: layouts of four GPUs and more were not measured.

"""


_BY_HAND = """
## Colossal-AI by hand

The same kind of machine and the same versions, without gptplan: Hugging Face's GPT-2 blocks in Colossal-AI's plugins,
as `python -m benchmarks.library.run` trains them (`tests/validation/library_runs.csv`). The batches are not the same; a
larger one spreads the optimizer step over more tokens.

"""
_FASTEST = """
The fastest of each:

| model | GPUs | by hand: tokens/s | gptplan: tokens/s | times as fast |
| --- | ---: | ---: | ---: | ---: |
"""


_PEER = """
## Beside plain PyTorch

The same model, batch and dropout on one card: `gptplan run`, with blocks, loss and update compiled, and a plain GPT in
PyTorch (`benchmarks/peer.py`: `torch.compile` of the whole model, PyTorch's attention kernels, fused AdamW, autocast to
bf16), one after the other in the same process tree, on the same card. `python -m benchmarks.against_pytorch PLAN`
compares both on any card. The predictions are of before the runs; the kernels of dropout were counted anew since.

| model | sequences | step | predicted | peer | times as fast | memory | predicted | peer | |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |
"""


def page(own: Path, by_hand: Path, peers: Path) -> str:
    """The whole page: runs of gptplan, of Colossal-AI without it, and beside plain PyTorch."""
    ours, theirs = _large(own), _large(by_hand)
    tables = _table(ours) + _BY_HAND + _table(theirs) + _FASTEST + _fastest(ours, theirs)
    with peers.open(encoding="utf-8", newline="") as file:
        return _HEAD + tables + _PEER + "".join(map(_beside_peer, csv.DictReader(file)))


def _beside_peer(row: dict[str, str]) -> str:
    own, predicted, peer = (float(row[f"{name}step_s"]) for name in ("", "predicted_", "peer_"))
    memory = [f"{float(row[f'{name}peak_bytes']) / GIB:.1f} GiB" for name in ("", "predicted_", "peer_")]
    batch = f"{row['sequences']} x {int(row['seq_len']):,}"
    steps = f"{format_seconds(own)} | {format_seconds(predicted)} | {format_seconds(peer)} | {peer / own:.3f}"
    return f"| {row['model']} | {batch} | {steps} | {' | '.join(memory)} | {row['note']} |\n"


def _large(table: Path) -> list[Replay]:
    return sorted((one for one in validate([table]).replays if _is_large(one)), key=_order)


def _fastest(ours: Sequence[Replay], theirs: Sequence[Replay]) -> str:
    by_hand, own = _best(theirs), _best(ours)
    names = {_key(one): one.row.text("model") for one in ours}
    lines = [
        f"| {names[key]} | {key[2]} | {by_hand[key]:,.0f} | {own[key]:,.0f} | {own[key] / by_hand[key]:.2f} |"
        for key in sorted(by_hand.keys() & own.keys())
    ]
    return "\n".join(lines) + "\n"


def _best(runs: Sequence[Replay]) -> dict[_Model, float]:
    """The most tokens a second of each model and number of GPUs."""
    best: dict[_Model, float] = {}
    for one in runs:
        best[_key(one)] = max(best.get(_key(one), 0.0), _tokens_per_s(one))
    return best


def _key(one: Replay) -> _Model:
    assert one.case
    problem = one.case.problem
    return problem.model.num_layers, problem.model.hidden_size, problem.num_devices


def _tokens_per_s(one: Replay) -> float:
    assert one.case
    problem = one.case.problem
    return problem.global_batch * problem.seq_len / (one.case.measured.step_s or float("inf"))


def _table(runs: Sequence[Replay]) -> str:
    lines = [
        "| row | model | GPUs | layout | sequences | step | tokens/s | TFLOP/s per GPU | share of the peak | memory |",
        "| --- | --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    return "\n".join([*lines, *map(_line, runs)]) + "\n"


def _is_large(one: Replay) -> bool:
    return bool(one.case and one.case.measured.step_s and one.case.problem.model.hidden_size >= LEAST_HIDDEN)


def _order(one: Replay) -> tuple[int, int, float]:
    assert one.case
    problem = one.case.problem
    rate = (one.case.measured.step_s or 0.0) / problem.global_batch
    return problem.model.hidden_size, problem.num_devices, rate


def _line(one: Replay) -> str:
    assert one.case
    problem, step_s = one.case.problem, one.case.measured.step_s or 0.0
    rate = model_flops_per_step(problem) / step_s / problem.num_devices
    peak = problem.hardware.peak_flops_per_s[problem.precision]
    memory = one.case.measured.memory_bytes["allocated"] / MIB / 1024
    speed = f"{format_seconds(step_s)} | {_tokens_per_s(one):,.0f} | {rate / 1e12:.0f} | {rate / peak:.1%}"
    run = f"{one.row.id} | {one.row.text('model')} | {problem.num_devices} | {layout_words(one)}"
    return f"| {run} | {problem.global_batch} | {speed} | {memory:.1f} GiB |"


if __name__ == "__main__":
    PAGE.write_text(page(*map(Path, sys.argv[1:4])), encoding="utf-8")
