"""A manifest for Kubernetes: for Kubeflow Trainer, or an Indexed Job that needs no operator."""

import re
from pathlib import Path
from typing import Any

from planner.diagnostics import usage_error
from planner.export.launching import launch_values
from planner.export.options import ExportOptions
from planner.export.rendering import filled
from planner.plans.plan import Plan

TRAINER_VERSION = "v2.3.0"
"""Of Kubeflow Trainer: the release whose schema the manifests were checked against."""
LONGEST_NAME = 40
"""Of a resource; names of pods begin with it and have 63 characters at most."""
_FIRST_POD = "-node-0-0"
"""What a TrainJob calls the pod of node 0 behind its own name."""


def kubernetes(plan: Plan, path: Path, options: ExportOptions) -> str:
    """The manifest of a plan in ``path``.

    Raises:
        PlanError: gptplan does not run the plan, or the options contradict it.
    """
    for option, name in (("--claim", options.claim), ("--image", options.image)):
        if not re.fullmatch(r"[A-Za-z0-9][\w./:@-]*", name):
            raise usage_error(f"`{name}` is no name that Kubernetes takes", location=option, hint="see `--help`")
    resource = _name(path.stem)
    launch = launch_values(plan, path, options)
    values = {
        **launch,
        "resource": resource,
        "image": options.image,
        "claim": options.claim,
        "run_dir": str(options.run_dir or Path("runs") / resource),
        "variables": _variables(options.workload, resource, nodes=launch["nodes"]),
        **({"subdomain": resource} if options.workload == "job" else {}),
    }
    values["script"] = filled("container.sh.j2", **values).rstrip()
    return filled(
        "kubernetes.yaml.j2",
        **values,
        workload=options.workload,
        trainer_version=TRAINER_VERSION,
        policy=filled("policy.yaml.j2", **values).rstrip(),
        pod=filled("pod.yaml.j2", **values).rstrip(),
    )


def _name(stem: str) -> str:
    """A name of a resource that Kubernetes takes, like that of the plan."""
    plain = re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-")[:LONGEST_NAME].strip("-")
    return plain if plain[:1].isalpha() else f"gptplan-{plain}".strip("-")[:LONGEST_NAME].strip("-")


def _variables(workload: str, resource: str, *, nodes: int) -> list[dict[str, Any]]:
    """Which node a pod is, and where the first one is found."""
    if nodes == 1:
        return []
    index = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    first = f"{resource}{_FIRST_POD}" if workload == "trainjob" else f"{resource}-0"
    return [{"name": "NODE", "field": index}, {"name": "HEAD", "value": f"{first}.{resource}"}]
