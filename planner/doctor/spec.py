"""What a check has measured, as a hardware spec."""

import datetime
from collections.abc import Sequence

from planner.calibration.checked import checked
from planner.calibration.hardware import Origin, spec_name
from planner.doctor.examining import Report
from planner.doctor.groups import as_collective
from planner.handover.doctor import GroupTime
from planner.handover.measurements import Collective
from planner.launch.machine import builtin_for
from planner.plans.plan import Plan
from planner.specs import HardwareSpec
from planner.specs.files import load_spec

CPU = "local-cpu"


def measured_spec(plan: Plan | None, report: Report, name: str) -> tuple[HardwareSpec, list[str]]:
    """The spec of the plan, or of the card without one, with what was measured; and the names of those fields.

    Products count where every rank has measured them, and the network where groups have one rank a node: other groups
    mix both kinds of links.
    """
    base = plan.problem.hardware if plan is not None else load_spec(_card(report), HardwareSpec)
    inside, between = split(report.found.groups, report.per_node)
    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    origin = Origin(spec_name(name), base, today, same_device=True, devices_per_node=base.devices_per_node)
    products = [product for one in report.found.ranks for product in one.products]
    return checked(products, inside, between, origin, report.per_node)


def _card(report: Report) -> str:
    gpus = report.facts[0].gpus
    return (builtin_for(gpus[0].name) if gpus else None) or CPU


def split(groups: Sequence[GroupTime], per_node: int) -> tuple[list[Collective], list[Collective]]:
    """Collectives of groups that stay on their node, and of those that have one rank a node."""
    inside, between = [], []
    for one in groups:
        num_nodes = len({rank // per_node for rank in one.ranks})
        if num_nodes == 1:
            inside.append(as_collective(one))
        elif num_nodes == len(one.ranks):
            between.append(as_collective(one))
    return inside, between
