"""Inside a job a command knows which node it is, from what started it, and refuses counts that cannot be."""

import pytest

from planner.diagnostics import ExitCode, PlanError
from planner.launch import environments
from planner.launch.environments import ENVIRONMENTS, find_place
from planner.launch.nodelist import first_host
from planner.launch.placing import check_alone, place_of

SRUN = {
    "SLURM_JOB_ID": "4321",
    "SLURM_STEP_ID": "2",
    "SLURM_NODEID": "1",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_NODELIST": "rack[1-2]n[07-08]",
}
TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none",
    "GROUP_RANK": "1",
    "GROUP_WORLD_SIZE": "2",
    "LOCAL_WORLD_SIZE": "1",
    "MASTER_ADDR": "10.0.0.1",
    "MASTER_PORT": "29400",
}
MPIRUN = {
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "1",
    "MASTER_ADDR": "host0",
    "MASTER_PORT": "1234",
}
MPIEXEC = {"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALNRANKS": "1", "MASTER_ADDR": "host0"}
KUBEFLOW = {"PET_NODE_RANK": "1", "PET_NNODES": "2", "PET_MASTER_ADDR": "trainer-0", "PET_MASTER_PORT": "29501"}
INDEXED = {"JOB_COMPLETION_INDEX": "1"}
SAGEMAKER = {"SM_HOSTS": '["algo-1", "algo-2"]', "SM_CURRENT_HOST": "algo-2"}
VARIABLES = {"NODE_RANK": "1", "NNODES": "2", "MASTER_ADDR": "host0", "MASTER_PORT": "7000"}


@pytest.mark.parametrize(
    ("environ", "where", "told"),
    [
        (SRUN, "rack1n07:24323", "by SLURM_NODEID and SLURM_STEP_NUM_NODES of srun"),
        (SRUN | TORCHRUN, "10.0.0.1:29401", "by MASTER_ADDR and MASTER_PORT + 1"),
        (SRUN | MPIRUN, "host0:1234", "of mpirun"),
        (SRUN | {"MASTER_ADDR": "other"}, "other:24323", "by MASTER_ADDR and SLURM_JOB_ID"),
        (MPIEXEC, "host0:29500", "of mpiexec"),
        (KUBEFLOW, "trainer-0:29501", "by PET_MASTER_ADDR and PET_MASTER_PORT"),
        (INDEXED, "train-0.pods.ns.svc:29500", "by the name of this pod"),
        (SAGEMAKER, "algo-1:29500", "by SM_HOSTS"),
        (VARIABLES, "host0:7000", "by NODE_RANK and NNODES"),
    ],
    ids=["srun", "torchrun", "mpirun", "srun-address", "mpiexec", "kubeflow", "indexed", "sagemaker", "variables"],
)
def test_a_job_tells_its_nodes_where_they_are(
    environ: dict[str, str], where: str, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("socket.getfqdn", lambda: "train-1.pods.ns.svc")
    assert place_of(2, None, None, environ) == (1, where)
    said = capsys.readouterr().err
    assert said.startswith("node 1 of 2, by ")
    assert told in said


@pytest.mark.parametrize(
    ("environ", "nodes", "message"),
    [
        (SRUN, 4, "4 node(s) are needed, and srun started this on 2"),
        (SRUN, 1, "1 node(s) are needed, and srun started this on 2"),
        (SRUN | {"SLURM_STEP_NUM_TASKS": "16"}, 2, "srun started 16 tasks on 2 node(s)"),
        (TORCHRUN | {"LOCAL_WORLD_SIZE": "8"}, 2, "torchrun started 16 tasks on 2 node(s)"),
        (MPIRUN | {"OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_LOCAL_SIZE": "4"}, 2, "mpirun started 8 tasks on 2"),
        (MPIRUN | {"OMPI_COMM_WORLD_SIZE": "3"}, 2, "2 node(s) are needed, and mpirun started this on 3"),
        (SAGEMAKER, 3, "3 node(s) are needed, and SageMaker started this on 2"),
        (SAGEMAKER | {"SM_HOSTS": "algo-1"}, 2, "SM_HOSTS should be a JSON list of hosts with algo-2, and is `algo-1`"),
        (SRUN | {"SLURM_NODEID": "one"}, 2, "SLURM_NODEID should be a number, and is `one`"),
        ({**MPIRUN, "MASTER_ADDR": ""}, 2, "mpirun does not tell where node 0 is"),
    ],
)
def test_counts_that_cannot_be_are_refused_with_both_numbers(environ: dict[str, str], nodes: int, message: str) -> None:
    with pytest.raises(PlanError) as caught:
        place_of(nodes, None, None, environ)
    assert caught.value.exit_code == ExitCode.USAGE
    assert str(caught.value).startswith(message)
    assert caught.value.diagnostics[0].hint


@pytest.mark.parametrize(
    ("node", "rendezvous", "found", "told"),
    [
        (0, "h:1", (0, "h:1"), "--node-rank says 0, and srun 1"),
        (0, None, (0, "rack1n07:24323"), "--node-rank says 0, and srun 1"),
        (None, "h:1", (1, "h:1"), "they meet at h:1, by --rendezvous"),
        (1, "h:1", (1, "h:1"), ""),
    ],
)
def test_what_was_typed_holds_and_a_contradiction_is_told(
    node: int | None, rendezvous: str | None, found: tuple[int, str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert place_of(2, node, rendezvous, SRUN) == found
    said = capsys.readouterr().err
    assert told in said
    assert bool(said) == bool(told)


def test_outside_of_a_job_nothing_changes(capsys: pytest.CaptureFixture[str]) -> None:
    batch = {"SLURM_JOB_ID": "1", "SLURM_NODEID": "0", "SLURM_NNODES": "2"}
    assert place_of(2, None, None, {}) == (0, None)
    assert place_of(2, None, None, batch) == (0, None)
    assert environments.in_batch_script(batch)
    assert place_of(2, 1, "h:1", {"SLURM_STEP_ID": "0", "SLURM_NODEID": "0", "SLURM_STEP_NUM_NODES": "1"}) == (1, "h:1")
    assert capsys.readouterr().err == ""


def test_what_one_node_does_is_not_done_by_two() -> None:
    check_alone({})
    check_alone({**SRUN, "SLURM_NODEID": "0", "SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_NUM_TASKS": "1"})
    with pytest.raises(PlanError, match=r"1 node\(s\) are needed, and srun started this on 2"):
        check_alone(SRUN)


def test_every_environment_has_its_source() -> None:
    assert all(one.source.startswith("https://") for one in ENVIRONMENTS)
    assert find_place({}) is None


@pytest.mark.parametrize(
    ("nodelist", "first"),
    [("", ""), ("n1", "n1"), ("n[001-003,7],gpu5", "n001"), ("a[1-2]b[3,4]c,d", "a1b3c"), ("x,n[1-2]", "x")],
)
def test_the_first_host_of_a_list_of_slurm(nodelist: str, first: str) -> None:
    assert first_host(nodelist) == first
