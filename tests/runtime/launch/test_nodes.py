"""Several nodes: launchers on one machine, each of them a node with a rank."""

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.launched import TIMEOUT_S, MakePlan, Run, ranks_of, wait_for_steps

pytestmark = pytest.mark.runtime


def losses(path: Path) -> list[float]:
    return [one["loss"] for one in map(json.loads, path.read_text().splitlines()) if one["record"] == "step"]


TWO_NODES = {"data_parallel": 2, "devices_per_node": 1}


@pytest.fixture
def nodes(plan: MakePlan, start: Run, tmp_path: Path) -> Callable[..., list["subprocess.Popen[str]"]]:
    """``nodes(steps=N)``: two launchers on this machine, each of them a node with one rank."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        endpoint = f"127.0.0.1:{free.getsockname()[1]}"

    def both(**options: Any) -> list["subprocess.Popen[str]"]:
        chosen = plan(**TWO_NODES)
        return [start(chosen, node=k, rendezvous=endpoint, **options) for k in (0, 1)]

    return both


def ended(processes: list["subprocess.Popen[str]"]) -> list[tuple[int, str]]:
    """Exit code and messages of launchers, which have 30 s from now."""
    deadline = time.monotonic() + 30
    texts = [one.communicate(timeout=max(1.0, deadline - time.monotonic()))[1] for one in processes]
    return [(one.returncode, text) for one, text in zip(processes, texts, strict=True)]


def test_two_nodes_train_like_one(
    nodes: Callable[..., list["subprocess.Popen[str]"]], plan: MakePlan, start: Run, tmp_path: Path
) -> None:
    launchers = nodes(steps=3)
    for launcher in launchers:
        _, stderr = launcher.communicate(timeout=TIMEOUT_S)
        assert launcher.returncode == 0, stderr
        assert "waiting for node" in stderr
    found = losses(tmp_path / "out" / "metrics.jsonl")
    alone = start(plan(data_parallel=2), steps=3, run_dir=tmp_path / "alone")
    alone.communicate(timeout=TIMEOUT_S)
    assert found == losses(tmp_path / "alone" / "metrics.jsonl")


@pytest.mark.parametrize("victim", ["launcher 0", "launcher 1", "rank 0", "rank 1"])
def test_what_dies_on_one_node_ends_the_other(
    victim: str, nodes: Callable[..., list["subprocess.Popen[str]"]], tmp_path: Path
) -> None:
    launchers = nodes(steps=100_000)
    wait_for_steps(tmp_path)
    what, node = victim.split()
    ranks = sorted(ranks_of(tmp_path), key=node_of)
    os.kill(launchers[int(node)].pid if what == "launcher" else ranks[int(node)], signal.SIGKILL)
    outcomes = ended(launchers)
    assert ranks_of(tmp_path) == []
    code, text = outcomes[1 - int(node)]
    assert code == 1, text
    assert "error[RUN014]: " in text
    told = "was killed by SIGKILL" if what == "rank" else f"the launcher of node {node} has ended"
    assert told in text
    if what == "rank":
        assert f"node {node} ended with exit code 137: " in text
        assert "the last lines of its log:\n" in text or node == "1"
        assert outcomes[int(node)][0] == 137


def test_ctrl_c_on_one_node_ends_all_and_is_no_failure(
    nodes: Callable[..., list["subprocess.Popen[str]"]], tmp_path: Path
) -> None:
    launchers = nodes(steps=100_000)
    wait_for_steps(tmp_path)
    launchers[1].send_signal(signal.SIGINT)
    outcomes = ended(launchers)
    assert ranks_of(tmp_path) == []
    assert [code for code, _ in outcomes] == [130, 130]
    assert "node 1 was ended by SIGINT, and so this one ended\n" in outcomes[0][1]
    assert "error[" not in outcomes[0][1] + outcomes[1][1]


def test_a_signal_to_one_node_saves_and_ends_all_of_them_as_saved(
    nodes: Callable[..., list["subprocess.Popen[str]"]], tmp_path: Path
) -> None:
    launchers = nodes(steps=100_000, settings=("checkpoint.every_steps=100000",))
    wait_for_steps(tmp_path)
    launchers[1].send_signal(signal.SIGUSR1)
    outcomes = ended(launchers)
    assert [code for code, _ in outcomes] == [75, 75], outcomes
    assert "error[" not in outcomes[0][1] + outcomes[1][1]
    assert list((tmp_path / "out" / "checkpoints").glob("step-*/manifest.json"))
    assert ranks_of(tmp_path) == []


def node_of(pid: int) -> bytes:
    """The rank of a worker, which here is its node."""
    variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return next(one for one in variables if one.startswith(b"RANK="))
