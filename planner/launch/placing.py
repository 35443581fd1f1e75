"""Which node this is and where the nodes meet: what was typed, else what the job's environment tells."""

import os
from typing import TypeVar

import msgspec

from planner.diagnostics import Diagnostic, render, usage_error
from planner.handover.doctor import DoctorOptions
from planner.handover.work import RunOptions
from planner.launch.environments import Environ, Place, find_place
from planner.outputs import say

Options = TypeVar("Options", bound=RunOptions | DoctorOptions)


def place_of(
    num_nodes: int, node: int | None, rendezvous: str | None, environ: Environ = os.environ
) -> tuple[int, str | None]:
    """Which node this is, and where they meet: what was typed, else what the environment tells; said with its source.

    Args:
        num_nodes: nodes that the plan uses.
        node: ``--node-rank``, if it was typed.
        rendezvous: ``--rendezvous``, if it was typed.
        environ: the variables of this process.

    Raises:
        PlanError: another number of nodes or tasks was started than the plan uses, or a variable cannot be read.
    """
    if node is not None and (rendezvous is not None or num_nodes == 1):
        _tell_contradictions(num_nodes, node, environ)
        return node, rendezvous
    place = find_place(environ)
    if place is None:
        return node or 0, rendezvous
    check_counts(place, num_nodes)
    if num_nodes == 1:
        return 0, rendezvous
    _tell(place, node, rendezvous, num_nodes)
    where = rendezvous or (None if place.endpoint is None else str(place.endpoint))
    return place.node if node is None else node, where


def placed(options: Options, num_nodes: int) -> Options:
    """Options of a plan for ``num_nodes`` nodes that say which node this is and where they meet: :func:`place_of`.

    Raises:
        PlanError: the environment contradicts the plan.
    """
    node, rendezvous = place_of(num_nodes, options.node, options.rendezvous)
    found: Options = msgspec.structs.replace(options, node=node, rendezvous=rendezvous)
    return found


def check_counts(place: Place, num_nodes: int) -> None:
    """Refuse a job with other numbers of nodes and tasks than are needed.

    Raises:
        PlanError: with both numbers.
    """
    if place.tasks is not None and place.num_nodes is not None and place.tasks != place.num_nodes:
        raise usage_error(
            f"{place.environment} started {place.tasks} tasks on {place.num_nodes} node(s), and gptplan takes 1 task a "
            "node, which starts the ranks of its node itself",
            location=place.counted_by,
            hint=f"`{place.one_task} gptplan ...`",
        )
    if place.num_nodes is not None and place.num_nodes != num_nodes:
        raise usage_error(
            f"{num_nodes} node(s) are needed, and {place.environment} started this on {place.num_nodes}",
            location=place.counted_by,
            hint=f"start it on {num_nodes}, or solve again with the `--gpus` of {place.num_nodes} node(s)",
        )


def check_alone(environ: Environ = os.environ) -> None:
    """Refuse to do on every node what one node does.

    Raises:
        PlanError: this was started on several, or several times.
    """
    place = find_place(environ)
    if place is not None:
        check_counts(place, 1)


def _tell(place: Place, node: int | None, rendezvous: str | None, num_nodes: int) -> None:
    if node is not None and node != place.node:
        _warn(f"--node-rank says {node}, and {place.environment} {place.node} ({place.counted_by}): {node} it is")
    own = f"node {place.node if node is None else node} of {num_nodes}"
    by = f"{place.counted_by} of {place.environment}" if node is None else "--node-rank"
    if rendezvous is not None:
        say(f"{own}, by {by}; they meet at {rendezvous}, by --rendezvous")
    elif place.endpoint is None:
        raise usage_error(
            f"{place.environment} does not tell where node 0 is",
            location="--rendezvous",
            hint="on every node: `--rendezvous HOST:PORT`, or MASTER_ADDR in the environment",
        )
    else:
        say(f"{own}, by {by}; they meet at {place.endpoint}, by {place.met_by}")


def _tell_contradictions(num_nodes: int, node: int, environ: Environ) -> None:
    """Everything was typed: the environment is not needed, and what else it says may be a mistake."""
    place = find_place(environ)
    if place is None or place.num_nodes in (None, 1):  # a shell that was started by hand on each node
        return
    if place.num_nodes != num_nodes:
        _warn(f"{num_nodes} node(s) are needed, and {place.environment} started this on {place.num_nodes}")
    elif place.node != node:
        _warn(f"--node-rank says {node}, and {place.environment} {place.node} ({place.counted_by}): {node} it is")


def _warn(message: str) -> None:
    say(render(Diagnostic(rule="RUN015", severity="warning", message=message)))
