"""What a worker is told: its options, and the names of what it finds in its environment."""

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from planner.handover.options import Option, Range
from planner.handover.verification import WORKAROUNDS, Workaround

STACK = "colossalai"
"""The stack spec of what the runtime executes."""

PLAN_FILE = "plan"
"""In the folder of a run: the plan."""
JOB_FILE = "job.toml"
"""In the folder of a run: its job, with every key."""
SOURCES_FILE = "sources.json"
"""In the folder of a run: the files of tokens that the workers map."""
REWIND_FILE = "rewind.json"
"""In the folder of a run: left by rank 0 for the launcher, which steps are to be passed over."""
METRICS_FILE = "metrics.jsonl"
"""In the folder of a run: a header, one record a step, a summary; written by rank 0."""
TENSORBOARD_FOLDER = "tensorboard"
"""In the folder of a run: events for TensorBoard."""
WANDB_FOLDER = "wandb"
"""In the folder of a run: what Weights & Biases itself keeps there."""
REPORT_FILE = "report.html"
"""In the folder of a run: the page that `gptplan report` makes of it."""

MOMENT_BYTES = 8
"""On a drive: two float32 moments of each parameter."""
NVME_FOLDER = "GPTPLAN_NVME_FOLDER"
"""Environment variable: where the workers keep moments of the optimizer while they run."""
OUT_OF_MEMORY_FILE = "GPTPLAN_OUT_OF_MEMORY_FILE"
"""Environment variable: the file that a worker fills when it runs out of device memory."""
FAILURE_FILE = "GPTPLAN_FAILURE_FILE"
"""Environment variable: the file in which the first worker that fails leaves its exit code and message."""

STORE = "GPTPLAN_STORE"
"""Environment variable: where the ranks meet, ``file:PATH`` on one node and ``tcp:HOST:PORT`` on several. Where it is
not set, PyTorch's own variables say so."""
LISTENER = "GPTPLAN_LISTENER"
"""Environment variable of rank 0 on several nodes: the descriptor of the socket that listens there."""

NEWEST = "newest"
"""Stands for the newest checkpoint where ``--resume`` names none."""

_OUTPUT = ("-o", "--output")
MOST_NODES = 100_000
MOST_STEPS = 10**9
SEEDS = Range(least=0, most=2**32 - 1, example="0")
"""What every generator of random numbers takes, and one more for each rank."""


JobFile = Annotated[Path | None, Option("What to learn. [default: every key at its default]", metavar="JOB.toml")]
Settings = Annotated[
    tuple[str, ...],
    Option(
        "A key of the job, as section.key=value, over that of the file; repeatable.", ("--set",), metavar="KEY=VALUE"
    ),
]


NodeRank = Annotated[
    int | None,
    Option(
        "Which node this is, when the plan needs several. [default: what the job tells, else 0]",
        ("--node-rank",),
        range=Range(least=0, most=MOST_NODES - 1, example="0"),
    ),
]
Rendezvous = Annotated[
    str | None, Option("HOST:PORT of node 0, when the plan needs several nodes. [default: what the job tells]")
]
RendezvousTimeout = Annotated[
    float, Option("Seconds to wait for the other nodes.", range=Range(least=1, most=86_400, example="600"))
]


class Beginning(msgspec.Struct, frozen=True, kw_only=True):
    """What the weights of a run begin with, if not with drawn ones, and what was before it."""

    resume: Path | None = None
    init_from: Path | None = None
    pass_over: tuple[int, ...] = ()
    """Steps, counted from 1, whose batches nothing is learned from."""
    restarts: int = 0
    """How often the launcher has started the ranks again."""
    reason: str = ""
    """Why it did the last time."""
    down_since_s: float | None = None
    """Unix time of the end of the ranks that made the last step."""
    began_s: float | None = None
    """Unix time at which the launcher began this start."""
    until_s: float | None = None
    """Unix time after which the run saves and ends."""


class RunOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What `gptplan run` may be told beside the plan; every worker is told the same."""

    job: JobFile = None
    settings: Settings = ()
    steps: Annotated[
        int | None, Option("schedule.steps of the job. [default: 50]", range=Range(most=MOST_STEPS, example="50"))
    ] = None
    data: Annotated[
        Path | None,
        Option("data.paths of the job: one path. [default: DATA, else the source text of Python's standard library]"),
    ] = None
    tokenizer: Annotated[
        Path | None, Option("tokenizer.path of the job. [default: bytes, each of which is a token]")
    ] = None
    run_dir: Annotated[
        Path | None, Option("The folder of this run, new or empty. [default: a new one in --output]", metavar="FOLDER")
    ] = None
    output: Annotated[
        Path | None, Option("Folder in which each run gets a new one, named PLAN/TIME. [default: runs]", _OUTPUT)
    ] = None
    seed: Annotated[int | None, Option("seed of the job. [default: 0]", range=SEEDS)] = None
    learning_rate: Annotated[
        float | None,
        Option(
            "optimizer.learning_rate of the job. [default: 3e-4]",
            range=Range(least=0, above=True, most=1000, example="3e-4"),
        ),
    ] = None
    warmup_steps: Annotated[
        int | None,
        Option("schedule.warmup_steps of the job. [default: 10]", range=Range(least=0, most=MOST_STEPS, example="10")),
    ] = None
    resume: Annotated[
        Path | None,
        Option(
            "Go on from a checkpoint, or the newest of a run or of a folder of runs; without a name, of this plan's.",
            metavar="[CHECKPOINT]",
        ),
    ] = None
    init_from: Annotated[
        Path | None,
        Option("Begin with the weights in a folder of Transformers', as `export-weights` writes.", metavar="FOLDER"),
    ] = None
    nvme_path: Annotated[Path | None, Option("Folder on a local NVMe drive, for a plan that offloads to one.")] = None
    record: Annotated[
        Path | None, Option("CSV table to append this run to, for `gptplan validate`.", metavar="TABLE")
    ] = None
    node: NodeRank = None
    rendezvous: Rendezvous = None
    rendezvous_timeout: RendezvousTimeout = 300.0

    @property
    def node_rank(self) -> int:
        """Which node this is."""
        return self.node or 0


_BOUNDED = "{option} takes {least} to {most}, not {value}"


class VerifyOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What `gptplan verify` may be told beside the plan; every worker is told the same."""

    steps: Annotated[int, Option("Optimizer steps.", range=Range(most=1000, example="3", refusal=_BOUNDED))] = 3
    max_processes: Annotated[
        int,
        Option(
            "Processes to start at most; a larger layout is shrunk.",
            range=Range(most=1024, example="8", refusal=_BOUNDED),
        ),
    ] = 8
    on_gpus: Annotated[bool, Option("Use this machine's GPUs, as ZeRO stage 3 needs. [default: CPU cores]")] = False
    own_precision: Annotated[
        bool, Option("In the precision of the plan. [default: fp32, or bf16 where ZeRO is used]")
    ] = False
    nvme_path: Annotated[Path | None, Option("Folder for a plan that offloads to NVMe. [default: a temporary one]")] = (
        None
    )
    seed: Annotated[int, Option("Seed of weights and data.", range=SEEDS)] = 7
    output: Annotated[Path, Option("Folder for logs of failures.", _OUTPUT)] = Path("runs")
    without: Annotated[
        tuple[Workaround, ...],
        Option(
            f"Switch a workaround off, to see its error found; repeatable: {', '.join(WORKAROUNDS)}.",
            known=WORKAROUNDS.keys,
            reads=str,
        ),
    ] = ()


class SampleOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What `gptplan sample` may be told beside the checkpoint."""

    prompt: Annotated[str, Option("What the text begins with. [default: a line break]", metavar="TEXT")] = "\n"
    tokens: Annotated[int, Option("Tokens to write.", range=Range(most=10**6, example="100"))] = 100
    temperature: Annotated[
        float,
        Option("How freely to choose; 0: always the likeliest token.", range=Range(least=0, most=100, example="1")),
    ] = 1.0
    tokenizer: Annotated[
        Path | None,
        Option("A tokenizer.json, or a folder with one; `bytes`: every byte is a token. [default: the run's]"),
    ] = None
    seed: Annotated[int, Option("Seed of the choices.", range=SEEDS)] = 0


class CalibrationWork(msgspec.Struct, frozen=True, kw_only=True):
    """What the ranks of a calibration measure, and where."""

    device: Literal["cuda", "cpu"]
    time_limit_s: float
    """How long the measurements may take."""
    folder: Path
    """On the drive that is measured."""
    free_bytes: int
    """On that drive."""
