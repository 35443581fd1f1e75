"""Exported scripts start two nodes of this machine: under SSH, torchrun and a Slurm of this machine's own."""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from planner.diagnostics import ExitCode
from planner.export.options import ExportOptions, Target
from planner.export.targets import TARGETS
from planner.plans.plan import write_plan
from tests.runtime.launched import ROOT, records
from tests.runtime.training import MakePlan

pytestmark = pytest.mark.runtime

TIMEOUT_S = 150
STEPS = 300
# A node refuses a job's credential that is of the second in which it took the last one back, and the job fails.
CREDENTIAL_S = 2
SETTINGS = ("checkpoint.every_steps=100000", f"data.cache={ROOT / '.pytest_cache' / 'tokens'}")
# What runs a command line as `ssh -o OPTION HOST COMMAND` does, on this machine.
SSH = '#!/bin/bash\nwhile [[ $1 == -o ]]; do shift 2; done\nexec bash -c "$2"\n'
Start = Callable[..., "subprocess.Popen[str]"]


def program(folder: Path, name: str, text: str) -> None:
    path = folder / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def folder(plan: MakePlan, tmp_path: Path) -> Path:
    """A folder with a plan for two nodes of one core, and programs that scripts find."""
    write_plan(plan(data_parallel=2, devices_per_node=1), tmp_path / "two.plan")
    python = f"#!/bin/bash\nPYTHONPATH={ROOT} exec {sys.executable} -m"
    program(tmp_path, "gptplan", f'{python} planner.cli "$@"\n')
    program(tmp_path, "torchrun", f'{python} torch.distributed.run "$@"\n')
    program(tmp_path, "ssh", SSH)
    return tmp_path


def export(folder: Path, plan: MakePlan, to: Target, steps: int) -> Path:
    options = ExportOptions(settings=(*SETTINGS, f"schedule.steps={steps}"), run_dir=Path("run"))
    script = folder / f"{to}.sh"
    script.write_text(TARGETS[to].text_of(plan(data_parallel=2, devices_per_node=1), Path("two.plan"), options))
    return script


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    """``start("script", NAME="value")`` is the script of that name, which ends with the test."""
    started: list[subprocess.Popen[str]] = []

    def run(script: Path, **variables: str) -> "subprocess.Popen[str]":
        path = os.pathsep.join((str(folder / "bin"), os.environ["PATH"]))
        environment = os.environ | {"PATH": path, "HEAD": "127.0.0.1", "OMP_NUM_THREADS": "1"} | variables
        process = subprocess.Popen(
            ["bash", str(script)],
            cwd=folder,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate(timeout=TIMEOUT_S)


def wait_until(what: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + TIMEOUT_S
    while not (found := what()):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return found


def test_hosts_over_ssh_save_when_the_script_is_ended_and_go_on(folder: Path, plan: MakePlan, start: Start) -> None:
    script, told = export(folder, plan, "ssh", STEPS), {"HOSTS": "alpha beta", "PORT": free_port()}
    first = start(script, **told)
    wait_until(lambda: len(records(folder / "run")) > 2 or first.poll() is not None)
    first.send_signal(signal.SIGTERM)
    printed, _ = first.communicate(timeout=TIMEOUT_S)
    assert first.returncode == ExitCode.SAVED, printed
    done = len(records(folder / "run"))
    assert done < STEPS
    second = start(script, **told)
    printed, _ = second.communicate(timeout=TIMEOUT_S)
    assert second.returncode == 0, printed
    assert f"step-{done:08}" in printed
    assert [one["step"] for one in records(folder / "run")] == list(range(1, STEPS + 1))


def test_torchrun_starts_one_launcher_a_node(folder: Path, plan: MakePlan, start: Start) -> None:
    script, port = export(folder, plan, "torchrun", 2), free_port()
    nodes = [start(script, NODE_RANK=str(node), PORT=port) for node in range(2)]
    printed = [node.communicate(timeout=TIMEOUT_S)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], printed
    assert [one["step"] for one in records(folder / "run")] == [1, 2]


SLURM = """
ClusterName=test
SlurmctldHost=localhost
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
SlurmctldPort={ports[0]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
SchedulerParameters=sched_interval=1,bf_interval=1
SlurmdParameters=config_overrides
NodeName=n0 NodeHostname=localhost Port={ports[1]} CPUs=2 RealMemory=1000
NodeName=n1 NodeHostname=localhost Port={ports[2]} CPUs=2 RealMemory=1000
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
DAEMONS = ("slurmctld", "slurmd", "sbatch")
NO_SLURM = [name for name in DAEMONS if shutil.which(name) is None]


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """``slurm("squeue")`` asks a Slurm with two nodes, whose daemons are those of the distribution's packages."""
    folder = tmp_path / "slurm"
    for name in ("state", "spool-n0", "spool-n1"):
        (folder / name).mkdir(parents=True)
    conf = folder / "slurm.conf"
    conf.write_text(SLURM.format(user=getpass.getuser(), folder=folder, ports=[free_port() for _ in range(3)]))
    monkeypatch.setenv("SLURM_CONF", str(conf))
    commands = [("slurmctld", "-D", "-c"), ("slurmd", "-D", "-N", "n0"), ("slurmd", "-D", "-N", "n1")]
    daemons = [
        subprocess.Popen([*command, "-f", str(conf)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for command in commands
    ]

    def ask(*command: str) -> str:
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
        return done.stdout + done.stderr

    yield ask
    ask("scancel", "--full", "--user", getpass.getuser())
    wait_until(lambda: not ask("squeue", "--noheader"))
    for daemon in daemons:
        daemon.terminate()
        daemon.wait(TIMEOUT_S)


@pytest.mark.skipif(bool(NO_SLURM), reason=f"not installed: {', '.join(NO_SLURM)}; apt install slurmctld slurmd")
def test_slurm_runs_it_on_two_nodes_and_puts_it_back_once_saved(
    folder: Path, plan: MakePlan, slurm: Callable[..., str]
) -> None:
    script, program_path = export(folder, plan, "slurm", STEPS), folder / "bin" / "gptplan"
    wait_until(lambda: "2 idle" in slurm("sinfo", "--noheader", "--format=%D %t"))
    variables = f"ALL,HEAD=127.0.0.1,PORT={free_port()},GPTPLAN={program_path},OMP_NUM_THREADS=1"
    job = slurm("sbatch", "--parsable", f"--export={variables}", str(script)).strip()
    run, log = folder / "run" / f"slurm-{job}", folder / f"two-{job}.log"
    wait_until(lambda: len(records(run)) > 2)
    slurm("scancel", "--signal=USR1", job)  # as Slurm itself does before the time limit
    wait_until(lambda: slurm("squeue", "--noheader", "--format=%T", "--job", job).strip() == "PENDING")
    done = len(records(run))
    assert 2 < done < STEPS

    def goes_on() -> bool:
        """Whether it is no longer waiting, as told: instead of some two minutes later, once it may be told."""
        slurm("scontrol", "update", f"JobId={job}", "StartTime=now")
        return slurm("squeue", "--noheader", "--format=%T", "--job", job).strip() != "PENDING"

    wait_until(lambda: "2 idle" in slurm("sinfo", "--noheader", "--format=%D %t"))
    time.sleep(CREDENTIAL_S)
    wait_until(goes_on)
    wait_until(lambda: records(run, "summary") or not slurm("squeue", "--noheader", "--job", job))
    assert [one["step"] for one in records(run)] == list(range(1, STEPS + 1))
    assert f"step-{done:08}" in log.read_text()
