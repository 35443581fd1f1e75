"""What is known of sets beyond their tables, and what rows say of themselves."""

import pytest

from planner.specs import StackSpec
from planner.specs.files import builtin_names
from planner.validation import published
from planner.validation.facts import builtin_facts, facts_of
from tests.unit.validation.validation_rows import PUBLISHED, row


@pytest.mark.parametrize("name", builtin_facts().tables)
def test_every_set_of_facts_reads_and_names_stacks_that_exist(name: str) -> None:
    facts = facts_of(name)
    assert {facts.stack, facts.bf16_stack, facts.zero3_stack} <= {None, *builtin_names(StackSpec)}
    assert facts.why.keys() <= set(facts.__struct_fields__)


def test_a_set_like_another_has_its_facts_and_reasons_where_it_states_none() -> None:
    base, like = facts_of("vTrain"), facts_of("vTrain-single")
    assert (like.stack, like.vocab, like.recompute) == (base.stack, base.vocab, "none")
    assert like.why == base.why | {"recompute": like.why["recompute"]}
    assert facts_of("a set of nobody") == facts_of("any-set")


def test_runs_under_other_conditions_have_facts_of_their_own() -> None:
    known = builtin_facts()

    def waits(zero_stage: str = "1", **cells: str) -> tuple[float, float, bool]:
        given = {"set": "Ultrascale-playbook", "gpus_per_node": "8", "micro_batch": "1", "global_batch": "256"} | cells
        facts = known.of_row(row(PUBLISHED, zero_stage=zero_stage, **given))
        return facts.message_host_s, facts.collective_rank_host_s, facts.ends_at_share

    plain, checked, polled = (0.0, 0.0, True), (0.0, 0.2e-3, True), (0.2, 0.2e-3, False)
    assert waits(n_gpus="512", pp="1") == waits("0", n_gpus="8", pp="4", tp="2", dp="1") == plain
    assert waits(n_gpus="8", pp="4", tp="2", dp="1") == polled
    assert waits(n_gpus="64", pp="4", tp="8", dp="2") == checked
    assert waits(n_gpus="64", pp="1", tp="8", dp="8", global_batch="4096") == checked
    assert waits(n_gpus="64", pp="1", tp="8", dp="8", micro_batch="16") == checked
    assert waits(n_gpus="64", pp="1", tp="8", dp="8") == waits(n_gpus="128", pp="1", dp="16", micro_batch="16") == plain
    assert waits(n_gpus="512", pp="2", tp="8", dp="32") == polled
    assert waits(n_gpus="64", pp="2", tp="32", dp="1") == polled
    assert waits(n_gpus="256", pp="2", tp="2", dp="64") == polled
    assert waits("0", n_gpus="256", pp="2", tp="2", dp="64") == checked
    assert waits(n_gpus="256", pp="2", tp="1", dp="128") == waits(n_gpus="128", pp="2", tp="1", dp="64") == checked


def test_a_row_states_its_own_facts_which_are_no_assumptions() -> None:
    own = PUBLISHED | {"stack": "fsdp", "dropout": "0.0", "stage_read": "last", "blocking_launches": "no"}
    case = published.case_of(row(own))
    assert (case.problem.stack.name, case.problem.model.dropout, case.measured.stage) == ("fsdp", 0.0, "last")
    assert not case.problem.stack.traffic.blocking_launches
    assert not any("stack" in words or "dropout" in words for words in case.assumptions)


def test_a_network_may_be_written_out() -> None:
    network = published.case_of(row(PUBLISHED, interconnect="2 x 100 Gbit/s")).problem.hardware.network
    assert (network.nics_per_node, network.bandwidth_bytes_per_s) == (2, 12.5e9)
