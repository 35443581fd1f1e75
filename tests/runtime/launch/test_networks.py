"""Several nodes with addresses of their own: they train like one, and end as they should when a link or a node goes."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from planner.plans.plan import write_plan
from tests.runtime import far
from tests.runtime.launch.test_nodes import ended, losses
from tests.runtime.launched import ROOT, TIMEOUT_S, MakePlan, Run, wait_for_steps
from tests.runtime.namespaces import Nodes, joined, unavailable

pytestmark = [pytest.mark.runtime, pytest.mark.skipif(bool(unavailable()), reason=unavailable() or "-")]

PORT = 29500


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with joined(4) as found:
        yield found


def started(
    nodes: Nodes, count: int, start: Run, plan: object, at: str = "", **options: object
) -> list["subprocess.Popen[str]"]:
    where = f"{at or nodes.address(0)}:{PORT}"
    return [start(plan, within=nodes.within(k), node=k, rendezvous=where, **options) for k in range(count)]


def nothing_is_left(nodes: Nodes) -> bool:
    deadline = time.monotonic() + 5
    while any(nodes.processes(node) for node in range(len(nodes.names))) and time.monotonic() < deadline:
        time.sleep(0.2)
    return not any(nodes.processes(node) for node in range(len(nodes.names)))


def test_nodes_train_like_one(nodes: Nodes, plan: MakePlan, start: Run, tmp_path: Path) -> None:
    layout = {"data_parallel": 2, "tensor_parallel": 2, "tensor_mode": "1d"}
    alone = start(plan(**layout), steps=3, run_dir=tmp_path / "alone")
    alone.communicate(timeout=TIMEOUT_S)
    with nodes.apart(0.02) as addresses:
        for num_nodes, at in ((2, addresses[0]), (4, nodes.address(0))):
            for node in range(num_nodes):
                nodes.limit(node, "1gbit", far.DEVICE if at in addresses else "eth0")
            folder = tmp_path / f"on {num_nodes}"
            chosen = plan(**layout, devices_per_node=4 // num_nodes)
            launchers = started(nodes, num_nodes, start, chosen, at, steps=3, run_dir=folder)
            for launcher in launchers:
                _, stderr = launcher.communicate(timeout=TIMEOUT_S)
                assert launcher.returncode == 0, stderr
            assert losses(folder / "metrics.jsonl") == losses(tmp_path / "alone" / "metrics.jsonl")
    assert nothing_is_left(nodes)


def test_nodes_meet_where_torchrun_says(nodes: Nodes, plan: MakePlan, start: Run, tmp_path: Path) -> None:
    path = tmp_path / "small.plan"
    write_plan(plan(data_parallel=2, devices_per_node=1), path)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    launchers = []
    for node in (0, 1):
        torchrun = ["-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", f"--node-rank={node}"]
        torchrun += [
            f"--master-addr={nodes.address(0)}",
            f"--master-port={PORT}",
            "-m",
            "planner.cli",
            "run",
            str(path),
        ]
        torchrun += ["--steps", "3", "--run-dir", "out", "--set", f"data.cache={ROOT / '.pytest_cache' / 'tokens'}"]
        command = [*nodes.within(node), sys.executable, *torchrun]
        launchers.append(
            subprocess.Popen(command, cwd=tmp_path, env=environment, text=True, stderr=subprocess.PIPE, stdout=2)
        )
    texts = [one.communicate(timeout=TIMEOUT_S)[1] for one in launchers]
    assert [one.returncode for one in launchers] == [0, 0], texts
    for node, text in enumerate(texts):
        told = f"node {node} of 2, by GROUP_RANK and GROUP_WORLD_SIZE of torchrun; they meet at {nodes.address(0)}:"
        assert f"{told}{PORT + 1}, by MASTER_ADDR and MASTER_PORT + 1" in text
    alone = start(plan(data_parallel=2), steps=3, run_dir=tmp_path / "alone")
    alone.communicate(timeout=TIMEOUT_S)
    assert losses(tmp_path / "out" / "metrics.jsonl") == losses(tmp_path / "alone" / "metrics.jsonl")


@pytest.mark.skipif(not shutil.which("mpirun"), reason="there is no mpirun")
def test_nodes_are_those_of_mpirun(nodes: Nodes, plan: MakePlan, tmp_path: Path) -> None:
    path, agent = tmp_path / "small.plan", tmp_path / "agent"
    write_plan(plan(data_parallel=2, devices_per_node=1), path)
    names = "".join(f"    {nodes.address(node)}) name={nodes.names[node]};;\n" for node in (0, 1))
    agent.write_text(f'#!/bin/sh\ncase $1 in\n{names}esac\nshift\nexec ip netns exec "$name" sh -c "$*"\n')
    agent.chmod(0o755)
    command = [*nodes.within(0), "mpirun", "--allow-run-as-root", "-np", "2", "--bind-to", "none"]
    command += ["--host", f"{nodes.address(0)}:1,{nodes.address(1)}:1", "--mca", "plm_rsh_agent", str(agent)]
    command += ["-x", f"MASTER_ADDR={nodes.address(0)}", "-x", f"PYTHONPATH={ROOT}", "-x", "PATH"]
    command += [sys.executable, "-m", "planner.cli", "run", str(path), "--steps", "3", "--run-dir", "out"]
    command += ["--set", f"data.cache={ROOT / '.pytest_cache' / 'tokens'}"]
    done = subprocess.run(command, cwd=tmp_path, text=True, capture_output=True, check=False, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stderr
    for node in (0, 1):
        assert f"node {node} of 2, by OMPI_COMM_WORLD_RANK and OMPI_COMM_WORLD_SIZE of mpirun" in done.stderr
    assert len(losses(tmp_path / "out" / "metrics.jsonl")) == 3
    assert nothing_is_left(nodes)


def test_a_late_node_and_a_link_that_is_gone_for_5_s_change_nothing(
    nodes: Nodes, plan: MakePlan, start: Run, tmp_path: Path
) -> None:
    chosen, where = plan(data_parallel=2, devices_per_node=1), f"{nodes.address(0)}:{PORT}"
    first = start(chosen, within=nodes.within(0), node=0, rendezvous=where, steps=60)
    time.sleep(6)
    second = start(chosen, within=nodes.within(1), node=1, rendezvous=where, steps=60)
    wait_for_steps(tmp_path)
    nodes.cut(1)
    time.sleep(5)
    nodes.mend(1)
    for launcher in (first, second):
        _, stderr = launcher.communicate(timeout=TIMEOUT_S)
        assert launcher.returncode == 0, stderr
    assert len(losses(tmp_path / "out" / "metrics.jsonl")) == 60
    assert nothing_is_left(nodes)


def test_a_link_that_is_cut_for_good_ends_the_run_on_both_sides(
    nodes: Nodes, plan: MakePlan, start: Run, tmp_path: Path
) -> None:
    launchers = started(nodes, 2, start, plan(data_parallel=2, devices_per_node=1), steps=100_000)
    wait_for_steps(tmp_path)
    nodes.cut(1)
    outcomes = ended(launchers)
    nodes.mend(1)
    for node, (code, text) in enumerate(outcomes):
        assert code == 1
        assert f"error[RUN014]: nothing was heard of node {1 - node} for 20 s\n" in text
    assert nothing_is_left(nodes)


def test_a_port_in_use_is_named(nodes: Nodes, plan: MakePlan, start: Run) -> None:
    code = f"import socket, time; s = socket.create_server(('{nodes.address(0)}', {PORT})); print('on', flush=True); "
    command = [*nodes.within(0), sys.executable, "-c", code + "time.sleep(60)"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        other.stdout.readline()
        launchers = started(nodes, 2, start, plan(data_parallel=2, devices_per_node=1), rendezvous_timeout=15)
        code_of_0, text = ended(launchers[:1])[0]
        other.terminate()
    assert code_of_0 == 1
    assert f"error[RUN010]: {nodes.address(0)}:{PORT} is in use\n" in text
    assert ended(launchers[1:])[0][0] == 1
    assert nothing_is_left(nodes)
