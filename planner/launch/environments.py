"""Inside a job: which node this is, of how many, and where they meet, as what started the process tells it.

One table, :data:`ENVIRONMENTS`, has every environment that is known, with its source. Inner ones come first: torchrun
under srun sets its own variables and inherits those of srun. What a user types comes before all of them.
"""

import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec

from planner.diagnostics import usage_error
from planner.launch.links import Endpoint
from planner.launch.nodelist import first_host

PORT = 29500
"""Where nothing else is said: what PyTorch's own launcher takes."""
JOB_PORTS = range(20_000, 30_000)
"""Below the ports that Linux hands out by itself (ip(7), ``ip_local_port_range``)."""

Environ = Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Environment:
    """One way in which processes are started on several nodes, and what it tells them."""

    name: str
    source: str
    """Where its variables are described."""
    has: tuple[str, ...]
    """Variables that are all there in it."""
    node: str
    """The variable with the number of this node, where each has one task."""
    num_nodes: str = ""
    """That with the number of nodes; empty where it does not tell."""
    by_task: bool = False
    """Whether both count tasks and not nodes."""
    tasks_here: str = ""
    """That with the number of tasks that were started on this node."""
    tasks: str = ""
    """Or that with the number of all tasks."""
    one_task: str = ""
    """What to type so that one task is started on a node."""
    host: Callable[[Environ], tuple[str, str]] = lambda environ: ("", "")
    """Host of node 0 and the variable that tells, where MASTER_ADDR does not."""
    port: Callable[[Environ], tuple[int, str]] | None = None
    """A port of it and where that is from, where MASTER_PORT does not tell or is taken."""
    takes_port: bool = False
    """Whether it listens at MASTER_PORT itself."""


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where in a job this process is."""

    environment: str
    node: int
    num_nodes: int | None
    """``None`` where the environment does not tell."""
    endpoint: Endpoint | None
    """Where the nodes meet; ``None`` where the environment does not tell."""
    counted_by: str
    """The variables with node and number of nodes."""
    met_by: str = ""
    """Those with the endpoint."""
    tasks: int | None = None
    """Tasks that were started on all nodes."""
    one_task: str = ""


def _torchrun_port(environ: Environ) -> tuple[int, str]:
    return _number(environ, "MASTER_PORT") + 1, "MASTER_PORT + 1"


def _slurm_host(environ: Environ) -> tuple[str, str]:
    return first_host(environ.get("SLURM_STEP_NODELIST", "")), "SLURM_STEP_NODELIST"


def _slurm_port(environ: Environ) -> tuple[int, str]:
    """A port that two jobs on one node hardly share."""
    number = _number(environ, "SLURM_JOB_ID") + _number(environ, "SLURM_STEP_ID")
    return JOB_PORTS[number % len(JOB_PORTS)], "SLURM_JOB_ID and SLURM_STEP_ID"


def _pod_host(environ: Environ) -> tuple[str, str]:
    """The name of pod 0 of an Indexed Job: pods are called JOB-INDEX, under the subdomain of a headless service."""
    name, _, domain = socket.getfqdn().partition(".")
    stem, dash, index = name.rpartition("-")
    if not dash or index != environ["JOB_COMPLETION_INDEX"]:
        return "", ""
    return ".".join(filter(None, (f"{stem}-0", domain))), "the name of this pod"


ENVIRONMENTS = (
    Environment(
        name="torchrun",
        source="https://docs.pytorch.org/docs/stable/elastic/run.html#environment-variables",
        has=("TORCHELASTIC_RUN_ID", "GROUP_RANK"),
        node="GROUP_RANK",
        num_nodes="GROUP_WORLD_SIZE",
        tasks_here="LOCAL_WORLD_SIZE",
        one_task="torchrun --nproc-per-node 1",
        port=_torchrun_port,
        takes_port=True,
    ),
    Environment(
        name="mpirun",
        source="https://docs.open-mpi.org/en/v5.0.x/tuning-apps/environment-var.html",
        has=("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
        node="OMPI_COMM_WORLD_RANK",
        num_nodes="OMPI_COMM_WORLD_SIZE",
        by_task=True,
        tasks_here="OMPI_COMM_WORLD_LOCAL_SIZE",
        one_task="mpirun --map-by ppr:1:node --bind-to none",
    ),
    Environment(
        name="mpiexec",
        source="https://github.com/pmodels/mpich/blob/main/doc/wiki/how_to/Using_the_Hydra_Process_Manager.md",
        has=("PMI_RANK", "PMI_SIZE", "MPI_LOCALNRANKS"),
        node="PMI_RANK",
        num_nodes="PMI_SIZE",
        by_task=True,
        tasks_here="MPI_LOCALNRANKS",
        one_task="mpiexec -ppn 1 -bind-to none",
    ),
    Environment(
        name="Kubeflow Trainer",
        source="https://www.kubeflow.org/docs/components/trainer/user-guides/pytorch/",
        has=("PET_NODE_RANK", "PET_NNODES"),
        node="PET_NODE_RANK",
        num_nodes="PET_NNODES",
        host=lambda environ: (environ.get("PET_MASTER_ADDR", ""), "PET_MASTER_ADDR"),
        port=lambda environ: (_number(environ, "PET_MASTER_PORT", PORT), "PET_MASTER_PORT"),
    ),
    Environment(
        name="Kubernetes Indexed Job",
        source="https://kubernetes.io/docs/concepts/workloads/controllers/job/#completion-mode",
        has=("JOB_COMPLETION_INDEX",),
        node="JOB_COMPLETION_INDEX",
        host=_pod_host,
    ),
    Environment(
        name="srun",
        source="https://slurm.schedmd.com/srun.html#SECTION_OUTPUT-ENVIRONMENT-VARIABLES",
        has=("SLURM_STEP_ID", "SLURM_NODEID"),
        node="SLURM_NODEID",
        num_nodes="SLURM_STEP_NUM_NODES",
        tasks="SLURM_STEP_NUM_TASKS",
        one_task="srun --ntasks-per-node=1",
        host=_slurm_host,
        port=_slurm_port,
    ),
    Environment(
        name="variables",
        source="https://lightning.ai/docs/pytorch/stable/clouds/cluster_intermediate_1.html",
        has=("NODE_RANK", "MASTER_ADDR"),
        node="NODE_RANK",
        num_nodes="NNODES",
    ),
)
"""From the innermost to the outermost; SageMaker, which counts by names, is read by :func:`_sagemaker`."""
SAGEMAKER_SOURCE = "https://github.com/aws/sagemaker-training-toolkit/blob/master/ENVIRONMENT_VARIABLES.md"


def find_place(environ: Environ) -> Place | None:
    """Where in a job this process is; ``None`` outside of one.

    Raises:
        PlanError: a variable has something else than a number.
    """
    for one in ENVIRONMENTS:
        if all(environ.get(name) for name in one.has):
            return _read(one, environ)
    return _sagemaker(environ)


def _read(one: Environment, environ: Environ) -> Place:
    num_nodes, tasks = _counts(one, environ)
    endpoint, met_by = _endpoint(one, environ)
    counted = (one.node,) if num_nodes is None else (one.node, one.num_nodes)
    return Place(
        environment=one.name,
        node=_number(environ, one.node),
        num_nodes=num_nodes,
        endpoint=endpoint,
        counted_by=" and ".join(counted),
        met_by=met_by,
        tasks=tasks,
        one_task=one.one_task,
    )


def _counts(one: Environment, environ: Environ) -> tuple[int | None, int | None]:
    """Nodes and tasks; ``None`` where the environment does not tell."""
    if not environ.get(one.num_nodes):
        return None, None
    count = _number(environ, one.num_nodes)
    here = _number(environ, one.tasks_here, 1) if one.tasks_here else 1
    if one.by_task:
        return max(1, count // max(1, here)), count
    return count, _number(environ, one.tasks, count) if one.tasks else count * here


def _endpoint(one: Environment, environ: Environ) -> tuple[Endpoint | None, str]:
    host, host_by = environ.get("MASTER_ADDR", ""), "MASTER_ADDR"
    if not host:
        host, host_by = one.host(environ)
    if not host:
        return None, ""
    if environ.get("MASTER_PORT") and not one.takes_port:
        port, port_by = _number(environ, "MASTER_PORT"), "MASTER_PORT"
    else:
        port, port_by = one.port(environ) if one.port else (PORT, "")
    return Endpoint(host, port), " and ".join(filter(None, (host_by, port_by)))


def _sagemaker(environ: Environ) -> Place | None:
    """SageMaker's training toolkit names the hosts of a job, in the same order on each."""
    if not environ.get("SM_HOSTS") or not environ.get("SM_CURRENT_HOST"):
        return None
    name = environ["SM_CURRENT_HOST"]
    try:
        hosts = msgspec.json.decode(environ["SM_HOSTS"], type=list[str])
        node = hosts.index(name)
    except (msgspec.MsgspecError, ValueError) as error:
        raise _unreadable("SM_HOSTS", environ["SM_HOSTS"], f"a JSON list of hosts with {name}") from error
    host = environ.get("MASTER_ADDR") or hosts[0]
    return Place(
        environment="SageMaker",
        node=node,
        num_nodes=len(hosts),
        endpoint=Endpoint(host, _number(environ, "MASTER_PORT", PORT)),
        counted_by="SM_CURRENT_HOST and SM_HOSTS",
        met_by="MASTER_ADDR" if environ.get("MASTER_ADDR") else "SM_HOSTS",
    )


def _number(environ: Environ, name: str, default: int | None = None) -> int:
    text = environ.get(name, "")
    if not text and default is not None:
        return default
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise _unreadable(name, text, "a number")
    return int(text)


def _unreadable(name: str, text: str, wanted: str) -> Exception:
    return usage_error(
        f"{name} should be {wanted}, and is `{text}`",
        location=name,
        hint="unset it, or say `--node-rank` and `--rendezvous` on every node",
    )


def in_batch_script(environ: Environ) -> bool:
    """Whether this is a batch script of Slurm itself, which runs on the first node alone."""
    return bool(environ.get("SLURM_JOB_ID")) and not environ.get("SLURM_STEP_ID")
