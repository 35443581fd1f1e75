"""What `gptplan export` writes for launchers, and what it refuses."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from planner.export.kubernetes import TRAINER_VERSION
from planner.plans.plan import read_plan
from tests.helpers import Run

PLANS = Path(__file__).parents[3] / "plans"
SCHEMAS = Path(__file__).parent / "schemas"
LARGE, SMALL, NVME = (PLANS / f"{name}.plan" for name in ("gpt3-96xa100-40g", "gpt2-tiny-2xlocal-cpu", "gpt2-nvme"))
SHELL = ("slurm", "torchrun", "ssh")


def exported(gptplan: Run, plan: Path, to: str, *options: object) -> str:
    outcome = gptplan("export", plan, "--to", to, *options, "-o", "exported", "--force")
    assert outcome.code == 0, outcome.err
    return Path("exported").read_text()


def bash(*arguments: str, text: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = ["bash", *arguments]
    return subprocess.run(
        command, input=text, text=True, capture_output=True, check=False, env=os.environ | environment, timeout=30
    )


@pytest.mark.parametrize("to", SHELL)
@pytest.mark.parametrize("plan", [LARGE, SMALL, NVME], ids=lambda path: path.stem)
def test_scripts_are_bash_and_start_gptplan_with_the_options_typed(gptplan: Run, plan: Path, to: str) -> None:
    Path("a job.toml").write_text("seed = 3\n")
    options = ("--job", "a job.toml", "--set", "data.paths=['a b', 'c']", "--nvme-path", "/mnt/it's here")
    script = exported(gptplan, plan, to, *options)
    checked = bash("-n", text=script)
    assert checked.returncode == 0, checked.stderr
    # What the array of the command holds is what was typed, whatever a shell makes of such characters.
    beginning = script[: script.index("# In a folder that has a checkpoint")]
    told = "\n".join(
        line for line in beginning.splitlines() if line.startswith(("PLAN=", "JOB=", "NVME_PATH=", "run="))
    )
    words = bash(text=f'GPTPLAN=gptplan RUN_DIR="a b"\n{told}\nprintf "%s\\n" "${{run[@]}}"').stdout.splitlines()
    expected = ["gptplan", "run", str(plan), "--run-dir", "a b", "--job", "a job.toml"]
    expected += ["--nvme-path", "/mnt/it's here"] if plan == NVME else []
    assert words == [*expected, "--set", "data.paths=['a b', 'c']"]


@pytest.mark.parametrize("to", SHELL)
def test_every_variable_says_why_and_where_it_is_from(gptplan: Run, to: str) -> None:
    script = exported(gptplan, LARGE, to)
    set_in = dict(re.findall(r'^export (\w+)="\$\{\w+:-(\w+)\}"$', script, re.MULTILINE))
    guide = {"NCCL_ALGO": "Ring", "NCCL_P2P_LEVEL": "PXB", "NCCL_NET_GDR_LEVEL": "SYS", "NCCL_CROSS_NIC": "1"}
    assert set_in == guide
    before = re.findall(r"((?:^#.*\n)+)export", script, re.MULTILINE)
    assert len(before) == len(guide)
    assert all("Run GPT With Colossal-AI" in comment.replace("\n# ", " ") for comment in before)
    assert "NCCL" not in exported(gptplan, SMALL, to)


def test_slurm_has_one_task_a_node_and_saves_before_its_limit(gptplan: Run) -> None:
    script = exported(gptplan, LARGE, "slurm", "--time-limit", 90)
    told = dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", script, re.MULTILINE))
    assert told["nodes"] == "12"
    assert told["ntasks-per-node"] == "1"
    assert told["gpus-per-node"] == "8"
    assert told["time"] == "01:30:00"
    assert {"requeue", "exclusive"} <= told.keys()
    notice_s = int(told["signal"].removeprefix("USR1@"))
    # A step has to end and a checkpoint to be written in that time.
    assert notice_s > 2 * read_plan(LARGE).predicted.step_s
    assert "gpus-per-node" not in exported(gptplan, SMALL, "slurm")
    # Directives behind the first command would be passed over.
    assert script.rindex("#SBATCH") < script.index("set -uo pipefail")


@pytest.mark.parametrize("to", SHELL)
def test_the_order_of_ranks_is_said(gptplan: Run, to: str) -> None:
    script = exported(gptplan, LARGE, to)
    assert "# rank = (dp x PP + pp) x TP + tp, TP 4, PP 24, DP 1" in script
    assert "# node n has ranks 8 n to 8 n + 7" in script


def test_ssh_refuses_another_number_of_hosts_with_both(gptplan: Run) -> None:
    outcome = gptplan("export", LARGE, "--to", "ssh", "--host", "a", "--host", "b")
    assert outcome.code == 2
    assert "the plan uses 12 nodes, and 2 are named" in outcome.err
    started = bash(text=exported(gptplan, LARGE, "ssh"), HOSTS="a b c")
    assert started.returncode == 2
    assert "the plan uses 12 nodes, and HOSTS names 3" in started.stderr
    assert gptplan("export", SMALL, "--to", "ssh", "--host", "a;rm").code == 2


def validate(document: dict[str, Any], schemas: str) -> None:
    kept = json.loads((SCHEMAS / f"{schemas}.json").read_text())
    jsonschema.Draft202012Validator(kept["kinds"][document["kind"]]).validate(document)


def documents(text: str) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(text) if one is not None]


@pytest.mark.parametrize("plan", [LARGE, SMALL, NVME], ids=lambda path: path.stem)
def test_manifests_keep_the_schemas_of_kubernetes_and_kubeflow(gptplan: Run, plan: Path) -> None:
    Path("job.toml").write_text("seed = 3\n")
    options = ("--job", "job.toml", "--nvme-path", "/mnt/nvme")
    runtime, job = documents(exported(gptplan, plan, "kubernetes", *options))
    for document in (runtime, job):
        validate(document, "kubeflow-trainer")
    assert json.loads((SCHEMAS / "kubeflow-trainer.json").read_text())["version"] == TRAINER_VERSION
    service, indexed = documents(exported(gptplan, plan, "kubernetes", "--workload", "job", *options))
    for document in (service, indexed):
        validate(document, "kubernetes")
    nodes = read_plan(plan).problem.num_nodes
    assert (job["spec"]["trainer"]["numNodes"], indexed["spec"]["completions"]) == (nodes, nodes)
    for pod in (runtime["spec"]["template"]["spec"]["replicatedJobs"][0]["template"], indexed):
        (container,) = pod["spec"]["template"]["spec"]["containers"]
        checked = bash("-n", text=container["args"][0])
        assert checked.returncode == 0, checked.stderr
        names = {mount["name"] for mount in container["volumeMounts"]}
        assert names == {volume["name"] for volume in pod["spec"]["template"]["spec"]["volumes"]}
        problem = read_plan(plan).problem
        expected = None if plan == SMALL else min(problem.devices_per_node, problem.num_devices)
        assert container["resources"].get("limits", {}).get("nvidia.com/gpu") == expected


def test_a_schema_refuses_what_its_version_does_not_have(gptplan: Run) -> None:
    _, job = documents(exported(gptplan, LARGE, "kubernetes"))
    job["spec"]["trainer"]["numNodez"] = 2
    with pytest.raises(jsonschema.ValidationError, match="numNodez"):
        validate(job, "kubeflow-trainer")


def test_a_file_that_is_there_stays_without_force(gptplan: Run) -> None:
    Path("run.sh").write_text("mine\n")
    refused = gptplan("export", SMALL, "--to", "slurm", "-o", "run.sh")
    assert refused.code == 2
    assert Path("run.sh").read_text() == "mine\n"
    assert gptplan("export", SMALL, "--to", "slurm", "-o", "run.sh", "--force").code == 0
    again = gptplan("export", SMALL, "--to", "slurm", "-o", "run.sh")
    assert again.code == 2  # a person may have fitted it to a cluster since
    assert Path("run.sh").read_text().startswith("#!/usr/bin/env bash")


@pytest.mark.parametrize(
    ("plan", "options", "code", "message"),
    [
        (NVME, ("--to", "slurm"), 2, "of a node to NVMe, and no folder is named"),
        (LARGE, ("--to", "megatron"), 1, "`--to megatron` takes plans for Megatron-LM, this one is for colossalai"),
        (LARGE, ("--to", "deepspeed"), 1, "takes plans for Megatron-DeepSpeed, this one is for colossalai"),
        (LARGE, ("--to", "slurm", "--set", "schedule.stepz=1"), 2, "schedule.stepz"),
        (PLANS / "gpt2-2d.plan", ("--to", "python"), 1, "a script without gptplan cannot have this: tensor mode 2d"),
        (PLANS / "gpt2-zero3.plan", ("--to", "python"), 1, "ZeRO stage 3"),
        (LARGE, ("--to", "python", "--set", "optimizer.clip_norm=1"), 1, "optimizer.clip_norm 1"),
        (LARGE, ("--to", "kubernetes", "--claim", "a b"), 2, "is no name that Kubernetes takes"),
        (LARGE, ("--to", "slurm", "--host", "a"), 2, "this is an option of `--to ssh`, and the file is for slurm"),
        (LARGE, ("--to", "swarm"), 2, "Invalid value for '--to': 'swarm' is not one of 'slurm', 'torchrun', "),
        (LARGE, (), 2, "Missing option '--to'. Choose from: slurm, torchrun, "),
    ],
)
def test_what_cannot_be_exported_is_said(
    gptplan: Run, plan: Path, options: tuple[str, ...], code: int, message: str
) -> None:
    outcome = gptplan("export", plan, *options)
    assert outcome.code == code
    assert message in outcome.err
    assert not outcome.out


def test_a_script_has_no_zero_bubble_schedule(gptplan: Run) -> None:
    pins = ("pipeline_parallel=2", "schedule=zbv")
    asked = ("--model", "gpt2-small", "--gpus", 2, *(word for pin in pins for word in ("--pin", pin)), "-o", "v.plan")
    assert gptplan("solve", *asked).code == 0
    outcome = gptplan("export", "v.plan", "--to", "python")
    assert outcome.code == 1
    assert "a script without gptplan cannot have this: schedule zbv" in outcome.err


def test_a_plan_of_another_stack_does_not_run_and_is_told_where_it_does(gptplan: Run) -> None:
    asked = ("--model", "gpt2-small", "--gpus", 2, "--stack", "megatron", "-o", "m.plan")
    assert gptplan("solve", *asked).code == 0
    outcome = gptplan("export", "m.plan", "--to", "slurm")
    assert outcome.code == 1
    assert "--to megatron" in outcome.err


def test_the_training_script_is_python_as_the_house_formats_it(gptplan: Run) -> None:
    for name in ("gpt2-pp1d", "gpt2-zero2", "gpt2-tiny-2xlocal-cpu", "gpt3-pp1d"):
        script = exported(gptplan, PLANS / f"{name}.plan", "python", "--set", "schedule.kind=wsd")
        compile(script, name, "exec")
        assert max(map(len, script.splitlines())) <= 120
        assert not re.search(r"^\s*(import|from) (planner|runtime)\b", script, re.MULTILINE)


@pytest.mark.parametrize("to", [*SHELL, "kubernetes", "python"])
def test_names_of_files_are_nothing_but_names(gptplan: Run, to: str) -> None:
    odd = Path("a\n$(touch here) \"'\\ }.plan")
    odd.write_bytes(SMALL.read_bytes())
    text = exported(gptplan, odd, to, "--run-dir", "b\n- c: $(touch here)")
    if to == "kubernetes":
        assert [one["kind"] for one in documents(text)] == ["TrainingRuntime", "TrainJob"]
    elif to == "python":
        compile(text, "exported", "exec")
    else:
        kept = [line for line in text.splitlines() if not line.startswith("#")]
        before = "\n".join(kept[: next(index for index, line in enumerate(kept) if line.startswith("run="))])
        # Up to the command nothing runs that a name holds.
        bash(text=before, HEAD="a", SLURM_JOB_ID="1", SLURM_JOB_NUM_NODES="1", HOSTS="a")
        assert not Path("here").exists()


def test_a_script_cannot_have_pointwise_recomputation(gptplan: Run, tmp_path: Path) -> None:
    plan = tmp_path / "p.plan"
    asked = ("--model", "gpt2-small", "--gpus", 1, "--gpu", "h200-141g", "--pin", "recompute_pointwise=true")
    assert gptplan("solve", *asked, "-o", plan).code == 0
    outcome = gptplan("export", plan, "--to", "python")
    assert outcome.code == 1
    assert "a script without gptplan cannot have this: pointwise recomputation" in outcome.err
    assert gptplan("solve", *asked, "--no-compile", "-o", plan, "--force").code == 1
