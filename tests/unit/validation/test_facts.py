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


def test_runs_on_many_nodes_may_have_facts_of_their_own() -> None:
    known = builtin_facts()
    few, many = (known.of_row(row(PUBLISHED, set="Ultrascale-playbook", n_gpus=gpus)) for gpus in ("256", "512"))
    assert (few.message_host_s, few.ends_at_share) == (0.0, True)
    assert (many.message_host_s, many.ends_at_share, many.stack) == (0.26, False, few.stack)


def test_a_row_states_its_own_facts_which_are_no_assumptions() -> None:
    own = PUBLISHED | {"stack": "fsdp", "dropout": "0.0", "stage_read": "last", "blocking_launches": "no"}
    case = published.case_of(row(own))
    assert (case.problem.stack.name, case.problem.model.dropout, case.measured.stage) == ("fsdp", 0.0, "last")
    assert not case.problem.stack.traffic.blocking_launches
    assert not any("stack" in words or "dropout" in words for words in case.assumptions)


def test_a_network_may_be_written_out() -> None:
    network = published.case_of(row(PUBLISHED, interconnect="2 x 100 Gbit/s")).problem.hardware.network
    assert (network.nics_per_node, network.bandwidth_bytes_per_s) == (2, 12.5e9)
