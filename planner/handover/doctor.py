"""What `gptplan doctor` may be told, what its ranks measure, and what they found."""

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from planner.handover.measurements import CollectiveKind, Product
from planner.handover.options import Option
from planner.handover.work import JobFile, NodeRank, Rendezvous, RendezvousTimeout, Settings
from planner.specs import Precision

Axis = Literal["tensor", "sequence", "pipeline", "data", "node", "network"]
"""Whose groups: those of a layout; without a plan all devices of each node, and the same device of all nodes."""


CPU = "CPU"
"""How a rank without a GPU calls its device."""


class DoctorOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What `gptplan doctor` may be told beside the plan."""

    job: JobFile = None
    settings: Settings = ()
    run_dir: Annotated[
        Path | None, Option("The folder that the run will have. [default: one in runs/]", metavar="FOLDER")
    ] = None
    nvme_path: Annotated[Path | None, Option("Folder on a local NVMe drive, for a plan that offloads to one.")] = None
    login_node: Annotated[
        bool, Option("Check what needs neither devices nor other nodes: plan, job, data, tokenizer and free disk.")
    ] = False
    node: NodeRank = None
    rendezvous: Rendezvous = None
    rendezvous_timeout: RendezvousTimeout = 300.0

    @property
    def node_rank(self) -> int:
        """Which node this is."""
        return self.node or 0


class RankGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Ranks that communicate; all groups of one ``turn`` of an axis do so at the same time."""

    axis: Axis
    ranks: tuple[int, ...]
    turn: int = 0


class DoctorWork(msgspec.Struct, frozen=True, kw_only=True):
    """What the ranks of a check measure."""

    device: Literal["cuda", "cpu"]
    precision: Precision
    shapes: tuple[tuple[int, int, int], ...]
    """Products ``[m, k] x [k, n]``, by rising FLOP."""
    groups: tuple[RankGroup, ...]
    products_s: float
    """How long the products may take."""
    groups_s: float
    """How long the collectives may take."""
    patience_s: float
    """How much longer than another a rank may take for its products before it counts as stuck."""


class RankFound(msgspec.Struct, frozen=True, kw_only=True):
    """What one rank says of itself and its device."""

    rank: int
    device_name: str
    products: tuple[Product, ...]
    versions: dict[str, str]
    """Of PyTorch and what it brings."""


class GroupTime(msgspec.Struct, frozen=True, kw_only=True):
    """One collective of one group, as long as its slowest rank takes; ``num_bytes`` is the whole tensor."""

    axis: Axis
    ranks: tuple[int, ...]
    kind: CollectiveKind
    num_bytes: int
    seconds: float


class DoctorFound(msgspec.Struct, frozen=True, kw_only=True):
    """What the ranks of a check found, as far as they have come."""

    ranks: tuple[RankFound, ...] = ()
    """Those that gave an answer."""
    groups: tuple[GroupTime, ...] = ()
    networks: dict[int, str] = {}
    """What the communication library chose, by rank."""
    phase: str = ""
    """What they were at; empty where they came to the end."""
