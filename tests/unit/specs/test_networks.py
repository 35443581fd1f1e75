"""A node's network in words."""

import pytest

from planner.diagnostics import PlanError
from planner.plans.question import Question, build_problem
from planner.specs import HardwareSpec
from planner.specs.files import load_spec
from planner.specs.networks import network_in, network_text, parse_network, with_network
from planner.views.plan import conventions
from tests.helpers import tiny_hardware


@pytest.mark.parametrize(
    ("text", "expected"), [("8 x 200 Gbit/s", (8, 25e9)), ("1x100Gbit/s", (1, 12.5e9)), (" 4 * 25 GB/s ", (4, 25e9))]
)
def test_adapters_and_the_rate_of_each(text: str, expected: tuple[int, float]) -> None:
    assert parse_network(text) == expected


@pytest.mark.parametrize("text", ["", "fast", "100 Gbit/s", "0 x 100 Gbit/s", "65 x 100 Gbit/s", "x 100 Gbit/s"])
def test_what_does_not_say_the_adapters_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="does not say how many adapters a node has"):
        parse_network(text)


@pytest.mark.parametrize("text", ["8 x 200", "8 x 200 Gbit", "8 x 200 GiB", "8 x -1 GB/s"])
def test_a_rate_needs_its_unit(text: str) -> None:
    with pytest.raises(ValueError, match="a node's network is written like `8 x 200 Gbit/s`"):
        parse_network(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4 * 100Gb RoCE", (4, 12.5e9)),
        ("NVLink; 1 x InfiniBand EDR 100 Gb/s", (1, 12.5e9)),
        ("8x200Gbps HDR", (8, 25e9)),
        ("2 x 25 GB/s", (2, 25e9)),
    ],
)
def test_tables_write_the_kind_of_network_around_it(text: str, expected: tuple[int, float]) -> None:
    assert network_in(text) == expected


@pytest.mark.parametrize("text", ["100 Gbps", "8 x V100, 100 Gb/s", "NVLink; 400 Gb/s RDMA per GPU", "4x Omni-Path"])
def test_tables_may_tell_no_adapters(text: str) -> None:
    with pytest.raises(ValueError, match=r"a node.s network|write it like"):
        network_in(text)


def test_words_read_back() -> None:
    card = load_spec("a100-40g", HardwareSpec)
    stated = with_network(card, *parse_network("2 x 100 Gbit/s")).network
    assert parse_network(network_text(stated)) == (2, 12.5e9)
    assert (stated.efficiency, stated.latency_s) == (card.network.efficiency, card.network.latency_s)


def test_what_one_collective_reaches_of_other_adapters_is_not_known() -> None:
    measured = tiny_hardware(network={"ring_bytes_per_s": 1e8})
    assert measured.network.ring_bytes_per_s == 1e8
    assert with_network(measured, *parse_network("2 x 100 Gbit/s")).network.ring_bytes_per_s is None


def test_a_question_states_the_network_and_is_told_it() -> None:
    asked = build_problem(Question(model="gpt3-6.7b", gpus=16, network="1 x 100 Gbit/s"))
    assert asked.hardware.network.nics_per_node == 1
    assert "between nodes 1 x 100 Gbit/s a node" in dict(conventions(asked))["network"]
    with pytest.raises(PlanError, match="`100 Gbit/s` is no network") as raised:
        build_problem(Question(model="gpt3-6.7b", gpus=16, network="100 Gbit/s"))
    assert raised.value.diagnostics[0].location == "--network"
