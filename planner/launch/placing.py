"""Which node this is and where the nodes meet: what was typed, else what the job's environment tells."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

import msgspec

from planner.diagnostics import Diagnostic, PlanError, render, usage_error
from planner.handover.doctor import DoctorOptions
from planner.handover.work import RunOptions
from planner.launch.environments import Environ, Place, find_place, in_batch_script
from planner.launch.links import MOST_LINE_BYTES, Endpoint
from planner.launch.meeting import Run, excuse, resolved
from planner.outputs import say

NUM_PORTS = 2**16
EXCUSE_S = 10.0
INTERRUPTED_EXCUSE_S = 2.0
"""How long a node that cannot run, or was interrupted, tries to tell the others."""
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


def meeting_of(
    num_nodes: int, digest: str, options: RunOptions | DoctorOptions, devices: str = ""
) -> tuple[Endpoint, Run] | None:
    """Where so many nodes meet, and which of them this is; ``None`` where one is enough.

    Raises:
        PlanError: ``options`` does not say where, or in no form known.
    """
    if num_nodes == 1:
        return None
    if options.rendezvous is None:
        hint = "on every node: `--rendezvous HOST:PORT` of node 0, and `--node-rank` 0, 1, ..."
        if in_batch_script(os.environ):
            hint = "in a batch script of Slurm: `srun --ntasks-per-node=1 gptplan ...`, which tells every node"
        raise usage_error(
            f"the plan uses {num_nodes} nodes and does not know where they meet", location="--rendezvous", hint=hint
        )
    run = Run(digest=digest, num_nodes=num_nodes, node=options.node_rank, devices=devices)
    return _endpoint(options.rendezvous), run


@contextmanager
def excusing(num_nodes: int, digest: str, options: RunOptions | DoctorOptions) -> Iterator[Callable[[], None]]:
    """Tell the other nodes why this one ends, if it does before what this gives is called, which says that they met."""
    over = False

    def is_over() -> None:
        nonlocal over
        over = True

    try:
        yield is_over
    except BaseException as error:
        if not over and num_nodes > 1 and options.rendezvous is not None:
            _excuse(num_nodes, digest, options, error)
        raise


def _excuse(num_nodes: int, digest: str, options: RunOptions | DoctorOptions, error: BaseException) -> None:
    with suppress(PlanError):
        endpoint, run = meeting_of(num_nodes, digest, options) or (None, None)
        if endpoint is not None and run is not None:
            why, timeout_s = str(error) or type(error).__name__, EXCUSE_S
            if isinstance(error, PlanError):
                why = "; ".join(f"{one.message} ({one.location})".removesuffix(" ()") for one in error.diagnostics)
            elif isinstance(error, KeyboardInterrupt):
                why, timeout_s = "it was interrupted", INTERRUPTED_EXCUSE_S
            resolved(endpoint)
            say(f"telling the other nodes why this one cannot run, for {timeout_s:.0f} s at most")
            excuse(endpoint, run, why[: MOST_LINE_BYTES // 8], timeout_s=timeout_s)


def _endpoint(text: str) -> Endpoint:
    host, _, port = text.rpartition(":")
    is_port = port.isascii() and port.isdecimal() and 0 < int(port) < NUM_PORTS
    if not is_port or not re.fullmatch(r"[\w.-]+|[0-9a-fA-F:]+|\[[0-9a-fA-F:]+\]", host):
        raise usage_error(
            f"`{text}` is no host and port", location="--rendezvous", hint="for example `--rendezvous node0:29500`"
        )
    return Endpoint(host.strip("[]"), int(port))
