"""How much of an error is not knowing how a run was made: rows whose times are those of a condition nobody told."""

from pathlib import Path

import pytest

from benchmarks.conditions import conditions, judged, report, spread
from planner.validation.facts import builtin_facts
from planner.validation.replay import replay
from planner.validation.tables import PUBLISHED as DIALECT
from planner.validation.tables import Row, Table
from tests.unit.validation.validation_rows import PUBLISHED

SET = "Ultrascale-playbook"
LLAMA = PUBLISHED | {
    **{"set": SET, "model": "Llama-like 1.34B", "layers": "16", "hidden": "2048", "heads": "32", "kv_heads": "32"},
    **{"ffn_hidden": "8192", "vocab": "131072", "seq_len": "4096", "gpu": "H100", "n_gpus": "64", "tp": "2", "pp": "4"},
    **{"dp": "8", "micro_batch": "1", "precision": "bf16", "recompute": "none", "flash_attention": "", "note": ""},
    **{"measured_mem_gib": "8.6", "mem_kind": "max reserved", "sequence_parallel": ""},
}


def one(number: int, seconds: float, **cells: str) -> Row:
    return Row(LLAMA | {"measured_step_s": str(seconds)} | cells, Path("t.csv"), number)


def test_conditions_are_the_set_s_own_and_each_that_it_names() -> None:
    polls, waits = set(), set()
    for known in conditions(builtin_facts(), SET):
        facts = known.of_row(one(1, 1.0))
        polls.add(facts.message_host_s)
        waits.add(facts.collective_rank_host_s)
    assert (polls, waits) == ({0.0, 0.2}, {0.0, 0.2e-3})


def test_a_run_under_a_condition_that_its_facts_do_not_tell_is_near_that_condition() -> None:
    known = list(conditions(builtin_facts(), SET))
    predicted = [replay(one(1, 1.0), DIALECT, known=each).predicted for each in known]
    assert all(predicted)
    slowest = max(each.step_s for each in predicted if each)
    rows = judged(Table(Path("t.csv"), DIALECT, tuple(LLAMA), (one(1, slowest), one(2, slowest / 3))), SET)
    told, nearest = ([getattr(each, name).predicted.step_s for each in rows] for name in ("told", "nearest"))
    assert nearest[0] == pytest.approx(slowest, rel=1e-4)
    assert max(told) < slowest / 2
    assert report([rows[0].nearest]).startswith("step time 0.0 %, memory")
    assert report([rows[0].nearest]).endswith("nothing to rank")
    assert spread([rows[0].told]) == "no two rows that differ in their ZeRO stage alone"
