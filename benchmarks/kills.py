"""What is left of a run after one of its processes was killed: `python -m benchmarks.kills --kills 200`.

Each time a plan for two processes of this machine is started, on one node or as two nodes of one process each, and
after a random time one of its processes gets SIGKILL, or its launcher a signal that asks it to end. Thirty seconds
later no process of the run may be left. Prints a table of what was killed in which part of the run, and exits with 1
if anything was left.
"""

import argparse
import collections
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
LEFT_AFTER_S = 30.0
LONGEST_S = 14.0
"""How far into a run a process is killed: it starts for some seconds, and then trains until it is ended."""
VICTIMS = ("launcher", "rank 0", "rank 1")
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True, kw_only=True)
class Kill:
    """One attempt."""

    nodes: int
    victim: str
    number: signal.Signals
    after_s: float


@dataclass(frozen=True, kw_only=True)
class Found:
    """What came of it."""

    phase: str
    """``start`` before the first step, ``steps`` after it, ``gone`` where the victim was not there yet or any more."""
    left: int
    """Processes after 30 seconds."""
    seconds: float
    """Until none was left."""


def main() -> int:
    """Kill, look, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    table: dict[tuple[str, ...], list[Found]] = collections.defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        plans = {nodes: _plan(Path(folder), nodes) for nodes in (1, 2)}
        for count in range(1, options.kills + 1):
            kill = _drawn(chance)
            found = _killed(plans[kill.nodes], kill)
            table[f"{kill.nodes}", kill.victim, kill.number.name, found.phase].append(found)
            print(f"{count}/{options.kills} {kill} -> {found}", file=sys.stderr, flush=True)
    print("| nodes | victim | signal | when | kills | left after 30 s | slowest end |\n|---|---|---|---|---|---|---|")
    for place, rows in sorted(table.items()):
        cells = *place, str(len(rows)), str(sum(row.left for row in rows)), f"{max(row.seconds for row in rows):.1f} s"
        print(f"| {' | '.join(cells)} |")
    return int(any(row.left for rows in table.values() for row in rows))


def _drawn(chance: random.Random) -> Kill:
    victim = chance.choice(VICTIMS)
    number = chance.choice(SIGNALS) if victim == "launcher" else signal.SIGKILL
    return Kill(nodes=chance.choice((1, 2)), victim=victim, number=number, after_s=chance.uniform(0, LONGEST_S))


def _plan(folder: Path, nodes: int) -> Path:
    path = folder / f"{nodes}-nodes.plan"
    asked = ["--model", "gpt2-tiny", "--gpu", "local-cpu", "--gpus", "2", "--pin", "data_parallel=2"]
    per_node = ["--gpus-per-node", str(2 // nodes)]
    command = [sys.executable, "-m", "planner.cli", "solve", *asked, *per_node, "-o", str(path)]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return path


def _killed(plan: Path, kill: Kill) -> Found:
    """Start the plan, kill, and see what is left."""
    with tempfile.TemporaryDirectory(prefix="kills-") as folder, socket.create_server(("127.0.0.1", 0)) as free:
        endpoint = f"127.0.0.1:{free.getsockname()[1]}"
        free.close()
        mark = f"KILLS={folder}"
        launchers = [_started(plan, Path(folder), kill.nodes, node, endpoint) for node in range(kill.nodes)]
        time.sleep(kill.after_s)
        began = any("step" in path.read_text() for path in Path(folder).rglob("*.jsonl"))
        ranks = {_variable(pid, "RANK"): pid for pid in _of(mark) if _variable(pid, "RANK")}
        victim = launchers[0].pid if kill.victim == "launcher" else ranks.get(kill.victim.split()[1])
        if victim is None:
            for launcher in launchers:
                launcher.terminate()
        else:
            os.kill(victim, kill.number)
        seconds = _seconds_until_gone(mark, launchers)
        left = _of(mark)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        for launcher in launchers:
            launcher.wait()
        phase = "gone" if victim is None else "steps" if began else "start"
        return Found(phase=phase, left=len(left), seconds=seconds)


def _started(plan: Path, folder: Path, nodes: int, node: int, endpoint: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "planner.cli", "run", str(plan), "--steps", "100000"]
    command += ["-o", str(folder / f"runs{node}")]
    if nodes > 1:
        # Who waits for a launcher that was killed before they met has nothing but a limit of its own.
        command += ["--node-rank", str(node), "--rendezvous", endpoint, "--rendezvous-timeout", "20"]
    env = os.environ | {"KILLS": str(folder)}
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _seconds_until_gone(mark: str, launchers: list["subprocess.Popen[bytes]"]) -> float:
    begun = time.monotonic()
    while time.monotonic() - begun < LEFT_AFTER_S:
        for launcher in launchers:
            launcher.poll()
        if not _of(mark):
            break
        time.sleep(0.1)
    return time.monotonic() - begun


def _of(mark: str) -> list[int]:
    """Processes that were started with this variable, by whomever."""
    pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    return [pid for pid in pids if mark.encode() in _environment(pid)]


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _variable(pid: int, name: str) -> str:
    start = f"{name}=".encode()
    return next((one.removeprefix(start).decode() for one in _environment(pid) if one.startswith(start)), "")


if __name__ == "__main__":
    sys.exit(main())
