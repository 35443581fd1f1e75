"""Following a script without running it: what its variables hold, which branches it takes, and what it starts.

A branch whose condition cannot be told is taken both ways, each of them a way through the script.
"""

import contextlib
import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from planner.lint.limits import MAX_NESTING
from planner.lint.shell.conditions import COMPARED, assigned, ends, is_test, matters, reads_arguments
from planner.lint.shell.expansion import Bit, Bits, Expander, split
from planner.lint.shell.syntax import Command, Compound, Node, Parser
from planner.lint.shell.words import Hidden, Piece, Variable, Word, Words

MAX_RUNS = 64
"""Words of a loop that it is followed for."""


_IDLE = ("echo", "printf", "read", "true", "false", ":", "[", "[[", "test", "export", "cd")
"""Commands that start nothing and set nothing."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way through a script."""

    launches: list[tuple[int, Bits]]
    """Offset and expanded words of every command."""
    variables: Mapping[str, list[Bits]]
    choices: list[tuple[int, int, int]]
    """Offset of a condition that cannot be told, which branch is taken, and of how many."""


class _EndError(Exception):
    """The script or a function ends here."""


@dataclass(kw_only=True)
class Follower(Expander):
    """Goes through the commands of a script once."""

    text: str
    read_beside: Callable[[str], str | None]
    choices: Sequence[int] = ()
    made: list[tuple[int, int, int]] = field(default_factory=list)
    taken: dict[int, int] = field(default_factory=dict)
    """What was taken where, the first time."""
    launches: list[tuple[int, Bits]] = field(default_factory=list)
    functions: dict[str, Compound] = field(default_factory=dict)
    depth: int = 0

    def way(self, nodes: Sequence[Node]) -> Way:
        """Follow everything."""
        with contextlib.suppress(_EndError):
            self.block(nodes)
        return Way(launches=self.launches, variables=self.variables, choices=self.made)

    def block(self, nodes: Sequence[Node]) -> None:
        """One command after the other."""
        for node in nodes:
            self.budget.spend()
            if isinstance(node, Command):
                self._command(node)
            else:
                self._compound(node)

    def _compound(self, node: Compound) -> None:
        if node.kind == "function":
            self.functions[node.name] = node
        elif node.kind == "if":
            self._if(node)
        elif node.kind == "case":
            self._case(node)
        elif node.kind == "for":
            self._for(node)
        elif node.kind == "while":
            self._while(node)
        elif node.kind in ("and", "or"):
            self._joined(node)
        else:
            self.block(node.body)

    def _choose(self, node: Compound, bodies: Sequence[Sequence[Node]]) -> Sequence[Node]:
        """One of the bodies where nothing says which: one that goes on, and matters."""
        going = [body for body in bodies if not ends(body)] or list(bodies)
        if not any(map(matters, going)) or len(going) == 1:
            return going[0] if len(going) == 1 else ()
        place = node.start if self.elsewhere < 0 else self.elsewhere
        index = len(self.made)
        known = self.taken.get(place)
        if known is not None:
            return going[min(known, len(going) - 1)]
        taken = self.choices[index] if index < len(self.choices) else 0
        self.taken[place] = min(taken, len(going) - 1)
        self.made.append((place, self.taken[place], len(going)))
        return going[self.taken[place]]

    def _if(self, node: Compound) -> None:
        open_bodies: list[Sequence[Node]] = []
        for test, body in node.branches:
            holds = self._holds(test)
            if holds is None:
                open_bodies.append(body)
            elif holds:
                open_bodies.append(body)
                break
        else:
            open_bodies.append(node.body)
        self.block(open_bodies[0] if len(open_bodies) == 1 else self._choose(node, open_bodies))

    def _joined(self, node: Compound) -> None:
        left, right = node.branches[0]
        holds = self._holds(left)
        if holds is None and not is_test(left[0]):
            holds = True
        if holds is None:
            self.block(self._choose(node, [right, []]))
        elif holds == (node.kind == "and"):
            self.block(right)

    def _case(self, node: Compound) -> None:
        subject = self.plain(node.words[0]) if node.words else None
        bodies: list[Sequence[Node]] = []
        for patterns, (_, body) in zip(node.patterns, node.branches, strict=True):
            texts = [self.plain(pattern) for pattern in patterns]
            if subject is not None and any(text is not None and fnmatch.fnmatchcase(subject, text) for text in texts):
                self.block(body)
                return
            if subject is None:
                bodies.append(body)
        if bodies:
            self.block(self._choose(node, bodies))

    def _for(self, node: Compound) -> None:
        values = [one for word in node.words for one in split(self.expand(word))]
        for value in values[:MAX_RUNS] if values else [(Bit("", why=f"{node.name} is given when it runs"),)]:
            self.variables[node.name] = [value]
            self.block(node.body)

    def _while(self, node: Compound) -> None:
        test, body = node.branches[0]
        if self._holds(test) is not False and not reads_arguments(self.text, test):
            self.block(body)
            for name in assigned(body):
                self.variables[name] = [(Bit("", why=f"{name} is set in a loop", place=node.start),)]

    def _command(self, node: Command) -> None:
        for name, adds, value in node.assigned:
            new = [self.expand(word) for word in value] if isinstance(value, list) else [self.expand(value)]
            if isinstance(value, list):
                new = [one for bits in new for one in (split(bits) or [bits])]
            old = self.variables.get(name, []) if adds else []
            if adds and not isinstance(value, list) and old:
                new = [*old[:-1], self.bounded((*old[-1], *new[0]))]
            elif adds:
                new = [*old, *new]
            self.store(name, new)
        if node.words:
            self._run(node, node.words[0].literal or "")

    def _run(self, node: Command, name: str) -> None:
        words = node.words[1:]
        if name in self.functions and self.depth < MAX_NESTING:
            self._call(self.functions[name], words)
        elif name in ("source", ".") and words:
            self._source(node, words[0])
        elif name in ("exit", "return"):
            raise _EndError
        elif name in ("set", "shift", "unset"):
            self._changed(name, words)
        elif name not in _IDLE:
            self._launch(node)

    def _changed(self, name: str, words: Sequence[Word]) -> None:
        """Arguments and variables that a command of the shell sets or takes away."""
        if name == "set" and words and words[0].literal == "--":
            self.store("@", [one for word in words[1:] for one in split(self.expand(word))])
        elif name == "shift" and "@" in self.variables:
            self.variables["@"] = self.variables["@"][1:]
        elif name == "unset":
            for word in words:
                self.variables.pop(word.literal or "", None)

    def _launch(self, node: Command) -> None:
        runs_text = any(word.literal == "-c" for word in node.words)
        bits: list[Bit] = []
        for word in node.words:
            bits += [*self.expand(self._opened(word) if runs_text else word), Bit(" ")]
        place = node.start if self.elsewhere < 0 else self.elsewhere
        self.launches.append((place, self.bounded(tuple(bits))))

    def _opened(self, word: Word) -> Word:
        """A word in single quotes that another shell expands."""
        if len(word.parts) != 1 or not isinstance(word.parts[0], Piece) or "$" not in word.parts[0].text:
            return word
        piece = word.parts[0]
        inner, parts = Words(self.text, piece.start), list[Any]()
        inner.run(parts, piece.start + len(piece.text))
        return Word(tuple(parts), word.start)

    def _call(self, function: Compound, words: Sequence[Word]) -> None:
        outer = self.variables.get("@")
        self.store("@", [one for word in words for one in split(self.expand(word))])
        self.depth += 1
        with contextlib.suppress(_EndError):
            self.block(function.body)
        self.depth -= 1
        self.variables.pop("@")
        if outer is not None:
            self.variables["@"] = outer

    def _source(self, node: Command, word: Word) -> None:
        bits = self.expand(word)
        name = "".join(bit.text for bit in bits if not bit.why).rpartition("/")[2]
        text = self.read_beside(name) if name and self.elsewhere < 0 and not (bits and bits[-1].why) else None
        if text is None:
            return
        here, self.text, self.elsewhere = self.text, text, node.start
        with contextlib.suppress(_EndError):
            self.block(Parser(text).script())
        self.text, self.elsewhere = here, -1

    def _holds(self, nodes: Sequence[Node]) -> bool | None:
        """Whether the last command of a condition succeeds; the others are followed."""
        if not nodes:
            return True
        self.block(nodes[:-1])
        return self._truth(nodes[-1])

    def _truth(self, node: Node) -> bool | None:
        """Of a chain of any length: its operators from the outside in, and back."""
        chain: list[Compound] = []
        while isinstance(node, Compound) and (node.kind in ("and", "or") or (node.kind == "not" and node.body)):
            self.budget.spend()
            chain.append(node)
            node = node.body[0] if node.kind == "not" else node.branches[0][0][0]
        holds = self._single(node)
        for one in reversed(chain):
            if holds is None:
                return None
            if one.kind == "not":
                holds = not holds
            elif holds != (one.kind == "or") and one.branches[0][1]:
                holds = self._truth(one.branches[0][1][0])
        return holds

    def _single(self, node: Node) -> bool | None:
        self.budget.spend()
        if isinstance(node, Command):
            return self._test(node)
        if node.kind == "test":
            hidden = node.words[0].parts[0]
            number = self.number(hidden.text) if isinstance(hidden, Hidden) else None
            return None if number is None else number != "0"
        self.block([node])
        return None

    def _test(self, node: Command) -> bool | None:
        name = node.words[0].literal if node.words else ":"
        if name in ("true", ":", "false"):
            self._command(node)
            return name != "false"
        if not is_test(node):
            self._command(node)
            return None
        words = [word for word in node.words if word.literal not in ("[", "[[", "test", "]", "]]")]
        negated = bool(words) and words[0].literal == "!"
        holds = self._comparison(words[negated:])
        return holds if holds is None or not negated else not holds

    def _comparison(self, words: Sequence[Word]) -> bool | None:
        operation = COMPARED.get(words[1].literal or "") if len(words) == 3 else None  # noqa: PLR2004
        if operation is None:
            return self._not_empty(words)
        left, right = self.plain(words[0]), self.plain(words[2])
        try:
            return None if left is None or right is None else operation(left, right)
        except ValueError:
            return None

    def _not_empty(self, words: Sequence[Word]) -> bool | None:
        """``-z``, ``-n`` and a word alone; what is never assigned is taken as not set, as its default would be."""
        sign = words[0].literal if words else None
        if not words or len(words) > 2 or (len(words) == 2 and sign not in ("-z", "-n")):  # noqa: PLR2004
            return None
        text = self.plain(words[-1])
        if text is None and (len(words) == 1 or any(not isinstance(part, Variable) for part in words[1].parts)):
            return None
        return bool(text) != (len(words) == 2 and sign == "-z")  # noqa: PLR2004
