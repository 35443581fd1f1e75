"""`gptplan doctor` finds what is off on nodes with faults that were planted, all of one start at the same time."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from planner.cli.app import run
from tests.runtime import far
from tests.runtime.launched import ROOT, TIMEOUT_S
from tests.runtime.namespaces import Nodes, joined, unavailable

pytestmark = pytest.mark.runtime
on_nodes = pytest.mark.skipif(bool(unavailable()), reason=unavailable() or "-")

SKEWED = """
import os, time
if "LOCAL_RANK" in os.environ:  # a rank whose work takes five times as long
    counter = time.perf_counter
    time.perf_counter = lambda: 5 * counter()
else:  # a launcher whose clock is ahead
    clock = time.time
    time.time = lambda: clock() + 90
"""
DRIVER = """#!/bin/sh
case "$1" in
*driver*) echo '{name}, 40960, {used}, {driver}' ;;
*) echo '{name}, 40960' ;;
esac
"""
A100, H100 = "NVIDIA A100-SXM4-40GB", "NVIDIA H100 80GB HBM3"


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with joined(4) as found:
        yield found


def solved(path: Path, gpu: str, gpus: int, per_node: int) -> Path:
    question = ["--model", "gpt2-tiny", "--gpu", gpu, "--gpus", str(gpus), "--gpus-per-node", str(per_node)]
    assert run(["solve", *question, "--pin", f"data_parallel={gpus}", "-o", str(path)]) == 0
    return path


class Doctors:
    """A check on several nodes, each started by hand."""

    def __init__(self, nodes: Nodes, plan: Path, folder: Path, addresses: Sequence[str] = ()) -> None:
        self.nodes, self.plan, self.folder = nodes, plan, folder
        self.addresses = addresses or [nodes.address(node) for node in range(len(nodes.names))]
        self.started: list[subprocess.Popen[str]] = []

    def start(
        self, node: int, *options: str, path: Sequence[Path] = (), hide: Path | None = None, named: str = ""
    ) -> None:
        """Start the one of a node, with Python's path and the shell's extended and a folder hidden.

        The node knows itself as the address ``named``, where that is not its own.
        """
        python_path = os.pathsep.join(map(str, [*path, ROOT]))
        shell = os.pathsep.join([*map(str, path), os.environ["PATH"]])
        hosts = self.folder / f"hosts{node}"
        hosts.write_text(f"127.0.0.1 localhost\n{named or self.addresses[node]} {socket.gethostname()}\n")
        hidden = f"mount --bind {hosts} /etc/hosts && "
        hidden += f"mount -t tmpfs none {hide} && " if hide is not None else ""
        where = f"{self.addresses[0]}:29600"
        command = [sys.executable, "-m", "planner.cli", "doctor", str(self.plan), "--node-rank", str(node)]
        command += ["--rendezvous", where, "--json", *options]
        (self.folder / f"node{node}").mkdir()
        self.started.append(
            subprocess.Popen(
                [*self.nodes.within(node), "sh", "-c", f'{hidden}exec "$@"', "sh", *command],
                cwd=self.folder / f"node{node}",
                env=os.environ | {"PYTHONPATH": python_path, "PATH": shell},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )

    def answer(self) -> dict[str, Any]:
        """That of node 0; all have ended."""
        outputs = [one.communicate(timeout=2 * TIMEOUT_S) for one in self.started]
        assert self.started[0].returncode == 1, outputs
        assert {one.returncode for one in self.started[1:]} == {0}, outputs
        found: dict[str, Any] = json.loads(outputs[0][0])
        assert not found["healthy"]
        return found


def messages(found: dict[str, Any], rule: str) -> list[str]:
    return [f"{one['location']}: {one['message']}" for one in found["findings"] if one["rule"] == rule]


@on_nodes
def test_faults_of_a_measured_pair_are_found_in_one_check(nodes: Nodes, tmp_path: Path) -> None:
    plan = solved(tmp_path / "two.plan", "local-cpu", 2, 1)
    bad, shared, data = tmp_path / "bad", tmp_path / "shared", tmp_path / "data"
    for folder in (bad, shared, data, bad / "torch-2.9.1.dist-info"):
        folder.mkdir()
    (bad / "torch-2.9.1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.9.1\n")
    (bad / "sitecustomize.py").write_text(SKEWED)
    (data / "text.txt").write_text("to be or not to be\n" * 10_000)
    (tmp_path / "node1-data").mkdir()
    options = ["--run-dir", str(shared / "run"), "--set", f"data.paths={data}"]
    with nodes.apart(0.02) as addresses:
        nodes.limit(1, "100mbit", far.DEVICE)
        doctors = Doctors(nodes, plan, tmp_path, addresses)
        doctors.start(0, *options, "--write", str(tmp_path / "measured.toml"))
        doctors.start(1, *options, path=[bad], hide=shared, named="127.0.1.1")
        found = doctors.answer()
    (version,) = messages(found, "DOC001")
    assert "torch is 2.9.1, and " in version
    (clock,) = messages(found, "DOC002")
    assert clock.startswith(("node 1: its clock is 90.", "node 1: its clock is 89."))
    (unseen,) = messages(found, "DOC003")
    assert unseen.startswith(f"node 1: it does not see {shared} of node 0")
    (slow,) = messages(found, "DOC005")
    assert slow.startswith("node 1, device 0: it multiplies matrices at ")
    (link,) = messages(found, "DOC006")
    assert link.startswith("ranks 0, 1 on node 0, 1: its data-parallel group reaches ")
    (group,) = found["groups"]
    assert 0.1 < group["latency_s"] < 0.3  # 20 ms through the cable, by a clock five times as fast
    (named,) = messages(found, "DOC011")
    assert named.startswith("node 1 ")
    assert "is 127.0.1.1, where no other node reaches it" in named
    assert found["seconds"] < 120
    assert "network" in found["spec_fields"]
    assert run(["hardware", "--json"]) == 0
    assert solved(tmp_path / "again.plan", str(tmp_path / "measured.toml"), 2, 1).exists()


@on_nodes
def test_nodes_that_cannot_run_a_plan_are_named_before_anything_is_measured(nodes: Nodes, tmp_path: Path) -> None:
    plan = solved(tmp_path / "four.plan", "a100-40g", 4, 1)
    cards = [
        (A100, 500, "570.10"),
        (A100, 500, "535.9"),
        ("NVIDIA H100 80GB HBM3", 0, "570.10"),
        (A100, 39_000, "570.10"),
    ]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "text.txt").write_text("to be or not to be\n" * 10_000)
    doctors = Doctors(nodes, plan, tmp_path)
    subprocess.run([*nodes.within(1), "ip", "route", "add", "unreachable", nodes.address(2)], check=True)
    for node, (name, used, driver) in enumerate(cards):
        tool = tmp_path / f"bin{node}" / "nvidia-smi"
        tool.parent.mkdir()
        tool.write_text(DRIVER.format(name=name, used=used, driver=driver))
        tool.chmod(0o755)
        hide = tmp_path / "data" if node == 3 else None
        doctors.start(node, "--set", f"data.paths={tmp_path / 'data'}", path=[tool.parent], hide=hide)
    began_s = time.monotonic()
    found = doctors.answer()
    assert time.monotonic() - began_s < 60
    differ = messages(found, "DOC001")
    assert any("the driver is 535.9, and 570.10 on node 0" in one for one in differ)
    assert any("nodes of different kinds are not planned for yet" in one for one in differ)
    assert any(one.startswith("node 2") and "made for" in one for one in messages(found, "RUN003"))
    assert any(one.startswith("node 1: it does not reach node 2") for one in messages(found, "DOC004"))
    assert any(one.startswith("node 3") and "has other files" in one for one in messages(found, "DOC003"))
    assert any("38.09 GiB of 40.00 GiB are in use" in one for one in messages(found, "DOC007"))
    assert found["ranks"] == []


def test_a_stuck_device_is_named_and_holds_up_nobody(tmp_path: Path) -> None:
    plan = solved(tmp_path / "one.plan", "local-cpu", 2, 2)
    command = [sys.executable, "-m", "planner.cli", "doctor", str(plan), "--json"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as doctor:
        assert doctor.stderr is not None
        assert "matrix products" in doctor.stderr.readline()
        os.kill(rank_of(doctor.pid, 1), signal.SIGSTOP)
        output, errors = doctor.communicate(timeout=2 * TIMEOUT_S)
    assert doctor.returncode == 1, errors
    (stuck,) = messages(json.loads(output), "DOC005")
    assert stuck == (
        "node 0, device 1: it did not come to an end with a matrix product: it is stuck, or its process is"
    )


def rank_of(launcher: int, rank: int) -> int:
    """The process of a rank, as soon as there is one."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
        for child in children:
            if f"\0RANK={rank}\0".encode() in Path(f"/proc/{child}/environ").read_bytes():
                return int(child)
        time.sleep(0.02)
    raise AssertionError("the ranks were not started")


def test_a_login_node_tells_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    large = ROOT / "plans" / "gpt3-96xa100-40g.plan"
    missing = ["--set", "data.paths=nowhere", "--set", "tokenizer.path=tokenizer.json"]
    assert run(["doctor", str(large), "--login-node", "--json", *missing]) == 1
    found = json.loads(capsys.readouterr().out)
    assert any("a checkpoint takes 1.91 TiB" in one for one in messages(found, "RUN011"))
    assert any("nowhere" in one for one in messages(found, "RUN006"))
    assert any("tokenizer.json" in one for one in messages(found, "RUN006"))


def test_a_spec_of_somebody_else_is_kept_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, spec = solved(tmp_path / "two.plan", "local-cpu", 2, 2), tmp_path / "own.toml"
    spec.write_text("mine\n")
    assert run(["doctor", str(plan), "--write", str(spec)]) == 2
    printed = capsys.readouterr().err
    assert "there is a file already" in printed
    assert "matrix products" not in printed
    assert spec.read_text() == "mine\n"


def test_a_node_that_does_not_come_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = solved(tmp_path / "two.plan", "local-cpu", 2, 1)
    assert run(["doctor", str(plan), "--rendezvous", "127.0.0.1:29601", "--rendezvous-timeout", "1"]) == 1
    assert "node 1 did not come to 127.0.0.1:29601 within 1 s" in capsys.readouterr().err
