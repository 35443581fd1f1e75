"""Offloading to NVMe, whichever framework does it: what this machine says of the folder, and the rules about it."""

import os
import shutil
from functools import cache
from pathlib import Path

from planner.cost_model.parameters import model_parameters
from planner.launch.drives import file_system, is_network
from planner.lint.config_rule import rules_of
from planner.lint.draft import Fact
from planner.lint.reading import Keys, Reading
from planner.specs.units import format_gib

OLD, DEEPSPEED = "colossalai-config", "deepspeed"
"""Dialects that offload to NVMe."""
INSTALL_LIBAIO = "apt update && apt install libaio-dev"
_README = "ColossalAI-Examples, language/gpt, README: nvme"

NVME_FACTS = {
    "has_nvme_path": Fact(bool, "whether a folder is named"),
    "libaio": Fact(bool, "whether the library and its header are on this machine"),
    "nvme_bytes_per_parameter": Fact(str, "what is offloaded of each parameter"),
    "nvme_device": Fact(str, "where states go", "nvme_path"),
    "nvme_exists": Fact(bool, "whether the folder is there"),
    "nvme_file_system": Fact(str, "kind of the file system that holds the folder"),
    "nvme_free": Fact(str, "the room there in words"),
    "nvme_free_bytes": Fact(int, "the room there"),
    "nvme_local": Fact(bool, "whether the folder is on a drive of this machine"),
    "nvme_missing": Fact(str, "the room that is missing in words"),
    "nvme_need": Fact(str, "what a node needs in words"),
    "nvme_need_bytes": Fact(int, "what a node needs"),
    "nvme_nodes": Fact(int, "nodes that share the states"),
    "nvme_parameters": Fact(str, "parameters of the model in words"),
    "nvme_path": Fact(str, "the folder that states are offloaded to"),
}
"""What the dialects tell where states go to NVMe."""


def read_nvme(keys: Keys, *tables: str) -> None:
    """Facts of the folder that one of some tables with device ``nvme`` names, where there is one."""
    reading = keys.reading
    tables = tuple(table for table in tables if keys.raw(f"{table}.device") == "nvme")
    if not tables:
        return
    reading.keys |= {"nvme_path": f"{tables[0]}.nvme_path", "nvme_device": f"{tables[0]}.device"}
    paths = [keys.raw(f"{table}.nvme_path") for table in tables]
    path = next((path for path in paths if isinstance(path, str)), None)
    reading.tell(nvme_device="nvme", has_nvme_path=path is not None)
    if path is not None:
        _tell_of_folder(reading, path)
        _tell_of_need(reading)


def _tell_of_folder(reading: Reading, path: str) -> None:
    """Nothing is written, and nothing on a network file system is looked at."""
    folder = Path(os.path.normpath(path)) if os.path.isabs(path) else Path.cwd() / path  # noqa: PTH117
    kind = file_system(folder)
    reading.tell(nvme_path=path, libaio=has_libaio(), nvme_file_system=kind, nvme_local=not is_network(kind))
    if reading.facts["nvme_local"]:
        reading.tell(nvme_exists=folder.is_dir())
        reading.tell(nvme_free_bytes=shutil.disk_usage(folder).free if folder.is_dir() else None)


def _tell_of_need(reading: Reading) -> None:
    """What the states of a node take: 12 bytes of optimizer a parameter, 2 of weights, each as far as it leaves."""
    free = reading.facts.get("nvme_free_bytes")
    if reading.model is None or free is None:
        return
    nodes = -(-reading.asked.gpus // reading.asked.devices_per_node)
    parameters = sum(model_parameters(reading.model).values())
    per_parameter = 12 * reading.known("offload.optimizer", 0.0) + 2 * reading.known("offload.parameters", 0.0)
    need = round(per_parameter * parameters / nodes)
    reading.tell(
        nvme_need_bytes=need,
        nvme_need=format_gib(need),
        nvme_free=format_gib(free),
        nvme_nodes=nodes,
        nvme_missing=format_gib(max(0, need - free)),
        nvme_parameters=f"{parameters:,}",
        nvme_bytes_per_parameter=f"{per_parameter:g}",
    )


@cache
def has_libaio() -> bool:
    """Whether the library and its header are where the linker and the compiler look. Starts no program."""
    prefixes = (Path("/usr"), Path("/usr/local"), Path("/"))
    header = any((prefix / "include" / "libaio.h").exists() for prefix in prefixes)
    patterns = ("lib/libaio.so*", "lib64/libaio.so*", "lib/*/libaio.so*")
    return header and any(any(prefix.glob(pattern)) for prefix in prefixes for pattern in patterns)


_rule = rules_of(NVME_FACTS, OLD, DEEPSPEED, source=_README)

RULES = (
    _rule("NVM001", "nvme_path on a network file system")(
        needs=("nvme_path", "nvme_file_system"),
        message="nvme_path {nvme_path} is on {nvme_file_system}, which is no local file system",
        detail="mounted as {nvme_file_system} on this machine",
        hint="use a folder on a local NVMe drive of every node",
        why="Every rank reads and writes all of its states in every step; a network drive turns seconds into hours.",
        holds=lambda nvme_local: nvme_local,
    ),
    _rule("NVM002", "no room for the states on nvme_path")(
        message="the states need {nvme_need} a node, and nvme_path {nvme_path} has {nvme_free} free",
        detail="{nvme_bytes_per_parameter} bytes of each of {nvme_parameters} parameters, over {nvme_nodes} nodes",
        hint="free {nvme_missing}, name a larger drive, or use more nodes",
        why="A full drive ends the run at the first step.",
        source="optimizer: fp32 master weights and two moments, 12 bytes a parameter; offloaded weights 2 bytes",
        holds=lambda nvme_path, nvme_free_bytes, nvme_need_bytes: nvme_free_bytes >= nvme_need_bytes,
    ),
    _rule("NVM003", "libaio is not installed", severity="warning")(
        message="offloading to NVMe needs libaio, and this machine does not have it",
        detail="neither the library libaio nor its header libaio.h was found",
        hint=f"run `{INSTALL_LIBAIO}` on every node",
        why="Asynchronous reads and writes go through libaio, and its extension is built against the header.",
        holds=lambda nvme_path, libaio: libaio,
    ),
    _rule("NVM004", "nvme_path does not exist", severity="warning")(
        message="nvme_path {nvme_path} does not exist on this machine",
        detail="it has to be a folder of a local file system on every node",
        hint="create it on every node, or name another folder",
        why="The states are written to files in this folder.",
        holds=lambda nvme_path, nvme_exists: nvme_exists,
    ),
    _rule("NVM005", "offload to NVMe without a path")(
        message="states go to NVMe, and there is no nvme_path",
        detail="device = nvme",
        hint="add nvme_path with a folder of a local file system, or use device cpu",
        repaired=lambda: "cpu",
        why="The states have to be written somewhere, and only the owner of the machine knows where.",
        source="DeepSpeed 0.16.5 at 38327e0 (February 2025): deepspeed/runtime/zero/offload_config.py and "
        "partition_parameters.py, _validate_remote_device",
        holds=lambda nvme_device, has_nvme_path: has_nvme_path,
    ),
)
