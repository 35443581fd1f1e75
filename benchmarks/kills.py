"""What is left of a run after one of its processes was killed: `python -m benchmarks.kills --kills 200`.

Each time a plan for two processes of this machine is started, on one node or as two nodes of one process each. In one
of four parts of the run, some time after its beginning, one process is killed, or its launcher asked to end. Thirty
seconds later no process of the run may be left, nor a file outside its folder; a launcher that survives names what
died and takes no exit code of a defect. Prints a line a kill, writes docs/kills.md, and exits with 1 if anything was
otherwise.

Kill number N of a seed is always the same, and results are kept in --records, so that 200 kills can be made in pieces:
with --seconds this ends after so long, and goes on where it ended when it is called again.
"""

import argparse
import collections
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import msgspec

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "kills.md"
LEFT_AFTER_S = 30.0
START_TIMEOUT_S = 120.0
"""How long a busy machine may take to reach a part of a run."""
PARTS = {"start-up": 4.0, "rendezvous": 0.5, "training": 2.0, "ending": 1.0}
"""Parts of a run, and how long after the beginning of each a process is killed at most, in seconds."""
WEIGHTS = (45, 20, 20, 15)
"""How often each part is drawn: reaching another one than the start takes some 15 s of a core."""
VICTIMS = {1: ("launcher 0", "rank 0", "rank 1"), 2: ("launcher 0", "launcher 1", "rank 0", "rank 1")}
"""By number of nodes."""
OF_LAUNCHERS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
OF_RANKS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM)
LONG, SHORT = 100_000, 2
"""Steps of a run that is killed before, or at, its end."""
BUG = 3
POLL_S = 0.1
CACHE = "torchinductor_"
"""What PyTorch leaves among temporary files, for the next process."""
INTRODUCTION = """# Kills

Written by `{command}`. Each time a run of two processes was started,
on one node or as two nodes on one machine, and one of its processes got a signal at a random moment of one part of the
run. Launcher N is that of node N; with two nodes, rank N is on node N. Counted are processes that are there 30 seconds
later, and files outside the folder of the run but for PyTorch's cache. The last column has exit code and message of
every launcher that was not killed by SIGKILL itself, and how often. A launcher that is ended before it has started
anything ends without a message. Nodes that have not met yet know nothing of each other: who waits for a launcher that
was killed before ends when its `--rendezvous-timeout` is over; time counts from when it waits.

"""
HEAD = """| nodes | killed | signal | when | kills | left after 30 s | all gone, slowest | survivors |
|---|---|---|---|---|---|---|---|
"""


class Kill(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt."""

    nodes: int
    victim: str
    """``launcher N`` of node N, or ``rank N``."""
    number: int
    """The signal."""
    part: str
    delay_s: float
    """After the beginning of the part."""

    def __str__(self) -> str:
        """In words."""
        name = signal.Signals(self.number).name
        return f"{name} to {self.victim} of {self.nodes} node(s), {self.delay_s:.1f} s into {self.part}"


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it."""

    kill: Kill
    was_there: bool
    """Whether the victim had not ended before."""
    left: list[str]
    """Processes after 30 seconds, and files that are in no folder of a run."""
    seconds: float
    """Until no process was left."""
    survivors: list[tuple[int, str]]
    """Exit code and message of each launcher that was not killed."""

    @property
    def mistakes(self) -> list[str]:
        """What should not have been."""
        found = [f"left: {', '.join(self.left)}"] * bool(self.left)
        for code, message in self.survivors:
            if code == BUG or (code > 0 and not message):
                found.append(f"exit code {code}: {message}")
        name = signal.Signals(self.kill.number).name
        if self.was_there and self.kill.victim.startswith("rank"):
            codes = [code for code, _ in self.survivors]
            if 128 + self.kill.number not in codes or not any(name in message for _, message in self.survivors):
                found.append(f"{name} is not named")
        return found


def main() -> int:
    """Kill, look, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no more after so long")
    parser.add_argument("--note", default="", help="for the page: what was otherwise in these kills")
    parser.add_argument("--records", type=Path, default=Path("runs/kills.jsonl"))
    options = parser.parse_args()
    found = list(_records(options.records))
    deadline = time.monotonic() + options.seconds
    options.records.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="kills-") as folder, ThreadPoolExecutor(options.jobs) as pool:
        plans = {nodes: _plan(Path(folder), nodes) for nodes in (1, 2)}

        def attempt(count: int) -> Found | None:
            return (
                None
                if time.monotonic() > deadline
                else _killed(plans, _drawn(random.Random(f"{options.seed} {count}")))
            )

        for one in pool.map(attempt, range(len(found), options.kills)):
            if one is not None:
                found.append(one)
                print(f"{len(found)}/{options.kills} {one.kill}: {_words(one)}", flush=True)
                with options.records.open("ab") as file:
                    file.write(msgspec.json.encode(one) + b"\n")
    PAGE.write_text(_page(found, options.seed, options.note), encoding="utf-8")
    return int(any(one.mistakes for one in found))


def _records(path: Path) -> Iterator[Found]:
    if path.exists():
        yield from (msgspec.json.decode(line, type=Found) for line in path.read_bytes().splitlines())


def _drawn(chance: random.Random) -> Kill:
    nodes = chance.choice((1, 2))
    victim, part = chance.choice(VICTIMS[nodes]), chance.choices(list(PARTS), WEIGHTS)[0]
    number = chance.choice(OF_LAUNCHERS if victim.startswith("launcher") else OF_RANKS)
    return Kill(nodes=nodes, victim=victim, number=number, part=part, delay_s=chance.uniform(0, PARTS[part]))


def _plan(folder: Path, nodes: int) -> Path:
    path = folder / f"{nodes}-nodes.plan"
    asked = ["--model", "gpt2-tiny", "--gpu", "local-cpu", "--gpus", "2", "--pin", "data_parallel=2"]
    per_node = ["--gpus-per-node", str(2 // nodes)]
    command = [sys.executable, "-m", "planner.cli", "solve", *asked, *per_node, "-o", str(path)]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return path


class _Running:
    """The processes of one run."""

    def __init__(self, plan: Path, kill: Kill, folder: Path) -> None:
        """Start a launcher for each node."""
        self.folder, self.mark = folder, f"KILLS={folder}"
        (folder / "tmp").mkdir()
        with socket.create_server(("127.0.0.1", 0)) as free:
            endpoint = f"127.0.0.1:{free.getsockname()[1]}"
        steps = SHORT if kill.part == "ending" else LONG
        self.launchers = [self._started(plan, kill.nodes, node, endpoint, steps) for node in range(kill.nodes)]

    def _started(self, plan: Path, nodes: int, node: int, endpoint: str, steps: int) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "planner.cli", "run", str(plan), "--steps", str(steps)]
        command += ["--run-dir", str(self.folder / "run")]
        if nodes > 1:
            # Who waits for a launcher that was killed before they met has nothing but a limit of its own.
            command += ["--node-rank", str(node), "--rendezvous", endpoint, "--rendezvous-timeout", "10"]
        env = os.environ | {"KILLS": str(self.folder), "TMPDIR": str(self.folder / "tmp")}
        with self.said(node).open("wb") as stderr:
            return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=stderr)

    def said(self, node: int) -> Path:
        """What the launcher of a node and its ranks write to stderr."""
        return self.folder / f"node{node}.stderr"

    def processes(self) -> list[int]:
        """All that were started with the mark, by whomever."""
        pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
        return [pid for pid in pids if self.mark.encode() in _environment(pid)]

    def victim(self, name: str) -> int | None:
        """The process of that name, if it is there."""
        what, number = name.split()
        if what == "launcher":
            return self.launchers[int(number)].pid if self.launchers[int(number)].poll() is None else None
        return next((pid for pid in self.processes() if f"RANK={number}".encode() in _environment(pid)), None)

    def has_begun(self, part: str, victim: str) -> bool:
        """Whether the run has come to a part of it, in which the victim is there."""
        if part == "start-up":
            return self.victim(victim) is not None
        if part == "rendezvous" and len(self.launchers) > 1 and victim.startswith("launcher"):
            return "waiting for" in self.said(int(victim.split()[1])).read_text(errors="replace")
        if part == "rendezvous":
            ranks = [self.victim(f"rank {number}") for number in (0, 1)]
            return all(rank is not None and _has_connected(rank) for rank in ranks)
        done = 1 if part == "training" else SHORT
        with suppress(OSError):
            return (self.folder / "run" / "metrics.jsonl").read_bytes().count(b'"record": "step"') >= done
        return False

    def wait(self, until: Callable[[], bool], timeout_s: float) -> float:
        """Wait, at most so long; how long it took."""
        begun = time.monotonic()
        while time.monotonic() - begun < timeout_s and not until():
            time.sleep(POLL_S)
        return time.monotonic() - begun

    def has_ended(self) -> bool:
        """Whether no process is left."""
        return self.launchers_have_ended() and not self.processes()

    def launchers_have_started(self) -> bool:
        """Whether every launcher has said something, or ended without; a busy machine lets one start for a while."""
        started = (one.poll() is not None or self.said(node).stat().st_size for node, one in enumerate(self.launchers))
        return all(started)

    def launchers_have_ended(self) -> bool:
        """Whether no launcher is left; cheap."""
        return not any(launcher.poll() is None for launcher in self.launchers)


def _killed(plans: dict[int, Path], kill: Kill) -> Found:
    """Start the plan, kill, and see what is left."""
    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        run = _Running(plans[kill.nodes], kill, Path(name))
        run.wait(lambda: run.has_begun(kill.part, kill.victim) or run.launchers_have_ended(), START_TIMEOUT_S)
        time.sleep(kill.delay_s)
        victim = run.victim(kill.victim)
        if victim is not None:
            with suppress(ProcessLookupError):
                os.kill(victim, kill.number)
        run.wait(run.launchers_have_started, START_TIMEOUT_S)
        seconds = run.wait(run.has_ended, LEFT_AFTER_S)
        left = [_command_of(pid) for pid in run.processes()]
        left += [path.name for path in (run.folder / "tmp").iterdir() if not path.name.startswith(CACHE)]
        for pid in run.processes():
            os.kill(pid, signal.SIGKILL)
        survivors = [
            (launcher.wait(), _last_words(run.said(node).read_text(errors="replace")))
            for node, launcher in enumerate(run.launchers)
            if not (kill.victim == f"launcher {node}" and kill.number == signal.SIGKILL and victim is not None)
        ]
        return Found(kill=kill, was_there=victim is not None, left=left, seconds=seconds, survivors=survivors)


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _command_of(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()[:80]
    return "a process"


def _has_connected(pid: int) -> bool:
    """Whether a rank has opened connections beside the socket that it may have inherited."""
    with suppress(OSError):
        return sum(os.readlink(path).startswith("socket:") for path in Path(f"/proc/{pid}/fd").iterdir()) > 1  # noqa: PTH115
    return False


def _last_words(text: str) -> str:
    """The message with which a launcher ended; without what differs from run to run."""
    beginnings = ("error", "ended by", "interrupted", "asked to end")
    lines = [line for line in text.splitlines() if line.startswith(beginnings)]
    message = re.sub(
        r"; \d+ of \d+ steps are done, .*", "; N steps are done, metrics and logs are in FOLDER", "".join(lines[-1:])
    )
    message = re.sub(r"`gptplan run \S+ --resume \S+`", "`gptplan run PLAN --resume FOLDER`", message)
    return _plain(re.sub(r"127\.0\.0\.1:\d+", "HOST:PORT", message))


def _plain(message: str) -> str:
    return re.sub(r"logs in /\S+", "logs in FOLDER", message)


def _words(one: Found) -> str:
    ends = ", ".join(f"{code} {message}" for code, message in one.survivors)
    mistakes = "".join(f"; MISTAKE: {mistake}" for mistake in one.mistakes)
    return f"all gone after {one.seconds:.1f} s; {ends}{mistakes}"


def _page(found: Sequence[Found], seed: int, note: str) -> str:
    rows: dict[tuple[int, str, str, str], list[Found]] = collections.defaultdict(list)
    for one in found:
        kill = one.kill
        part = kill.part if one.was_there else "had ended before"
        rows[kill.nodes, kill.victim, signal.Signals(kill.number).name, part].append(one)
    order = [*PARTS, "had ended before"]
    places = sorted(rows, key=lambda place: (*place[:3], order.index(place[3])))
    lines = [_row(place, rows[place]) for place in places]
    times = sorted(one.seconds for one in found)
    left, mistakes = sum(len(one.left) for one in found), sum(bool(one.mistakes) for one in found)
    command = f"python -m benchmarks.kills --kills {len(found)} --seed {seed}"
    counts = f"{len(found)} kills: {left} processes or files left, {mistakes} that ended otherwise than they should."
    paragraph = f"{textwrap.fill(note, 120)}\n\n" * bool(note)
    slowest = f"after {times[len(times) // 2]:.1f} s in half of them, and after {times[-1]:.1f} s in the slowest"
    return f"{INTRODUCTION.format(command=command)}{counts} All was gone\n{slowest}.\n\n{paragraph}{HEAD}" + "".join(
        f"{line}\n" for line in lines
    )


def _row(place: tuple[int, str, str, str], rows: Sequence[Found]) -> str:
    ends = collections.Counter(f"{code} {_plain(message)}".strip() for row in rows for code, message in row.survivors)
    said = "<br>".join(f"{times} x {text}" for text, times in sorted(ends.items())).replace("|", "\\|")
    left, slowest = sum(len(row.left) for row in rows), max(row.seconds for row in rows)
    return f"| {' | '.join(map(str, place))} | {len(rows)} | {left} | {slowest:.1f} s | {said or '-'} |"


if __name__ == "__main__":
    sys.exit(main())
