"""Rules of offloading to NVMe, whichever framework does it."""

from planner.lint.config_rule import ConfigRule

NVME = ("colossalai-config", "deepspeed")
INSTALL_LIBAIO = "apt update && apt install libaio-dev"
_README = "ColossalAI-Examples, language/gpt, README: nvme"

RULES = (
    ConfigRule(
        id="NVM001",
        dialects=NVME,
        title="nvme_path on a network file system",
        field="nvme_path",
        fact="nvme_path",
        needs=("nvme_path", "nvme_file_system"),
        message="nvme_path {nvme_path} is on {nvme_file_system}, which is no local file system",
        detail="mounted as {nvme_file_system} on this machine",
        hint="use a folder on a local NVMe drive of every node",
        why="Every rank reads and writes all of its states in every step; a network drive turns seconds into hours.",
        source=_README,
        holds=lambda f: f["nvme_local"],
    ),
    ConfigRule(
        id="NVM002",
        dialects=NVME,
        title="no room for the states on nvme_path",
        field="nvme_path",
        fact="nvme_path",
        needs=("nvme_path", "nvme_free_bytes", "nvme_need_bytes"),
        message="the states need {nvme_need} a node, and nvme_path {nvme_path} has {nvme_free} free",
        detail="{nvme_bytes_per_parameter} bytes of each of {nvme_parameters} parameters, over {nvme_nodes} nodes",
        hint="free {nvme_missing}, name a larger drive, or use more nodes",
        why="A full drive ends the run at the first step.",
        source="optimizer: fp32 master weights and two moments, 12 bytes a parameter; offloaded weights 2 bytes",
        holds=lambda f: f["nvme_free_bytes"] >= f["nvme_need_bytes"],
    ),
    ConfigRule(
        id="NVM003",
        dialects=NVME,
        title="libaio is not installed",
        field="nvme_path",
        fact="nvme_path",
        needs=("nvme_path", "libaio"),
        message="offloading to NVMe needs libaio, and this machine does not have it",
        detail="neither the library libaio nor its header libaio.h was found",
        hint=f"run `{INSTALL_LIBAIO}` on every node",
        why="Asynchronous reads and writes go through libaio, and its extension is built against the header.",
        source=_README,
        holds=lambda f: f["libaio"],
        severity="warning",
    ),
    ConfigRule(
        id="NVM004",
        dialects=NVME,
        title="nvme_path does not exist",
        field="nvme_path",
        fact="nvme_path",
        needs=("nvme_path", "nvme_exists"),
        message="nvme_path {nvme_path} does not exist on this machine",
        detail="it has to be a folder of a local file system on every node",
        hint="create it on every node, or name another folder",
        why="The states are written to files in this folder.",
        source=_README,
        holds=lambda f: f["nvme_exists"],
        severity="warning",
    ),
    ConfigRule(
        id="NVM005",
        dialects=NVME,
        title="offload to NVMe without a path",
        field="nvme_path",
        fact="nvme_device",
        needs=("nvme_device", "has_nvme_path"),
        message="states go to NVMe, and there is no nvme_path",
        detail="device = nvme",
        hint="add nvme_path with a folder of a local file system, or use device cpu",
        repaired=lambda f: "cpu",
        why="The states have to be written somewhere, and only the owner of the machine knows where.",
        source="DeepSpeed 0.16.5 at 38327e0 (February 2025): deepspeed/runtime/zero/offload_config.py and "
        "partition_parameters.py, _validate_remote_device",
        holds=lambda f: f["has_nvme_path"],
    ),
)
