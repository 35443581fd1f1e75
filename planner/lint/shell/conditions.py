"""Conditions of a script, and what is in its branches."""

import fnmatch
from collections.abc import Callable, Iterator, Sequence

from planner.lint.shell.syntax import Command, Compound, Node
from planner.lint.shell.words import Variable

COMPARED: dict[str, Callable[[str, str], bool]] = {
    "=": fnmatch.fnmatchcase,
    "==": fnmatch.fnmatchcase,
    "!=": lambda left, right: not fnmatch.fnmatchcase(left, right),
    "-eq": lambda left, right: int(left) == int(right),
    "-ne": lambda left, right: int(left) != int(right),
    "-lt": lambda left, right: int(left) < int(right),
    "-le": lambda left, right: int(left) <= int(right),
    "-gt": lambda left, right: int(left) > int(right),
    "-ge": lambda left, right: int(left) >= int(right),
}


def is_test(node: Node) -> bool:
    """Whether a command only compares, so that nothing but its result can be open."""
    return isinstance(node, Compound) or (
        bool(node.words) and (node.words[0].literal in ("[", "[[", "test") or node.words[-1].literal in ("]", "]]"))
    )


def _inside(node: Node) -> Iterator[Node]:
    """A command and all that are in it."""
    waiting = [node]
    while waiting:
        inner = waiting.pop()
        yield inner
        if isinstance(inner, Compound):
            waiting += inner.body
            for test, body in inner.branches:
                waiting += [*test, *body]


def assigned(nodes: Sequence[Node]) -> set[str]:
    """Variables that commands, or those in them, set."""
    inner = [command for node in nodes for command in _inside(node)]
    names = {name for command in inner if isinstance(command, Command) for name, _, _ in command.assigned}
    return names | {node.name for node in inner if isinstance(node, Compound) and node.kind == "for"}


def matters(nodes: Sequence[Node]) -> bool:
    """Whether commands can change what is read: by assignments, options, files or functions."""
    idle = ("echo", "printf", "mkdir", "rm", "cd", "[", "[[", "test", ":", "true", "sleep", "exit", "cp", "mv", "wget")
    return any(
        bool(one.assigned) or (bool(one.words) and one.words[0].literal not in idle)
        for node in nodes
        for one in _inside(node)
        if isinstance(one, Command)
    )


def ends(nodes: Sequence[Node]) -> bool:
    """Whether commands end the script or the function."""
    last = nodes[-1] if nodes else None
    return isinstance(last, Command) and bool(last.words) and last.words[0].literal in ("exit", "return")


def reads_arguments(text: str, nodes: Sequence[Node]) -> bool:
    """Whether a loop goes over the arguments of the script, which are none unless it is said."""
    commands = [one for node in nodes for one in _inside(node) if isinstance(one, Command)]
    names = {part.name for one in commands for word in one.words for part in word.parts if isinstance(part, Variable)}
    return bool(names & {"#", "@", "*", "1"}) or any(
        one.words and one.words[0].literal == "getopts" for one in commands
    )
