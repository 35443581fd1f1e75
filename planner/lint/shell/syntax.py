"""Shell text as commands. What is not closed ends with the text; nothing is refused.

The grammar is that of POSIX shells with bash's arrays and tests, as far as launch scripts use it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from planner.lint.limits import MAX_NESTING
from planner.lint.shell.words import Hidden, Piece, Word, Words

_NAME = re.compile(r"[A-Za-z_]\w*")
_BLANK = re.compile(r"(?:[ \t\r]|\\\r?\n)*")
_ASSIGNED = re.compile(r"([A-Za-z_]\w*(?:\[[^\]=]*\])?)(\+?)=")
_HEREDOC = re.compile(r"<<-?[ \t]*(['\"]?)([\w.-]+)\1")
_FUNCTION = re.compile(r"(?:function[ \t]+)?([A-Za-z_][\w:-]*)[ \t]*\([ \t]*\)|function[ \t]+([A-Za-z_][\w:-]*)")
_RESERVED = re.compile(
    r"(if|elif|else|then|fi|for|while|until|do|done|case|esac|in|\{|\}|!|\(\(|\()(?=[\s;&|(){}!$\"']|$)"
)
_DECLARING = ("export", "declare", "local", "readonly", "typeset")


@dataclass
class Command:
    """Assignments and words of one simple command."""

    start: int
    assigned: list[tuple[str, bool, Word | list[Word]]] = field(default_factory=list)
    """Name, whether it is added to what is there, and the value; a list for an array."""
    words: list[Word] = field(default_factory=list)


@dataclass
class Compound:
    """``kind`` is if, for, while, case, function, block, and, or, test; branches are conditions with bodies."""

    kind: str
    start: int
    branches: list[tuple[list["Node"], list["Node"]]] = field(default_factory=list)
    body: list["Node"] = field(default_factory=list)
    name: str = ""
    words: list[Word] = field(default_factory=list)
    patterns: list[list[Word]] = field(default_factory=list)


Node = Command | Compound


class Parser(Words):
    """One pass over a text."""

    def __init__(self, text: str) -> None:
        """Start at the beginning."""
        super().__init__(text)
        self.begun: list[str] = []
        """Marks that end the here-documents which follow this line."""
        self.documents: list[str] = []
        """Texts of those that are passed over."""

    def script(self) -> list[Node]:
        """Every command of the text; a word that closes nothing is passed over."""
        nodes: list[Node] = []
        while self.at < len(self.text):
            before = self.at
            nodes += self._list(frozenset())
            if self.at == before:
                self.at += 1
        return nodes

    def _blank(self) -> None:
        found = _BLANK.match(self.text, self.at)
        self.at = found.end() if found else self.at
        if self.text.startswith("#", self.at):
            stop = self.text.find("\n", self.at)
            self.at = len(self.text) if stop < 0 else stop

    def _lines(self) -> None:
        """Pass over blanks, ends of lines with the here-documents that begin there, and separators."""
        while True:
            self._blank()
            if self.text.startswith("\n", self.at):
                self.at += 1
                self._skip_documents()
            elif self.text[self.at : self.at + 1] in (";", "&") and self.text[self.at : self.at + 2] != ";;":
                self.at += 1
            else:
                return

    def _skip_documents(self) -> None:
        for mark in self.begun:
            found = re.compile(rf"^[ \t]*{re.escape(mark)}[ \t\r]*$", re.MULTILINE).search(self.text, self.at)
            self.documents.append(self.text[self.at : found.start() if found else len(self.text)])
            self.at = found.end() if found else len(self.text)
        self.begun.clear()

    def _reserved(self) -> str:
        found = _RESERVED.match(self.text, self.at)
        return found[1] if found else ""

    def _list(self, stops: frozenset[str]) -> list[Node]:
        """Commands up to one of some reserved words, which is not taken, or to a bracket that closes."""
        nodes: list[Node] = []
        self.depth += 1
        while self.depth <= MAX_NESTING:
            self._lines()
            before = self.at
            if self.at >= len(self.text) or self._reserved() in stops or self.text.startswith((")", ";;"), self.at):
                break
            node = self._chain()
            if node is not None:
                nodes.append(node)
            elif self.at == before:
                if stops:
                    break
                self.at += 1
        self.depth -= 1
        return nodes

    def _chain(self) -> Node | None:
        """Commands joined by ``&&`` and ``||``; of a pipeline each command stands for itself."""
        left = self._command()
        while left is not None:
            self._blank()
            joint = self.text[self.at : self.at + 2]
            if joint in ("&&", "||"):
                self.at += 2
                self._past_line_ends()
                right = self._command()
                kind = "and" if joint == "&&" else "or"
                left = Compound(kind, left.start, branches=[([left], [right] if right else [])])
            elif self.text.startswith("|", self.at):
                self.at += 1
                self._past_line_ends()
                right = self._command()
                left = Compound("block", left.start, body=[left, *([right] if right else [])])
            else:
                break
        return left

    def _past_line_ends(self) -> None:
        self._blank()
        while self.text.startswith("\n", self.at):
            self.at += 1
            self._skip_documents()
            self._blank()

    def _command(self) -> Node | None:
        self._blank()
        start, word = self.at, self._reserved()
        if word == "!":
            self.at += 1
            inner = self._command()
            return Compound("not", start, body=[inner] if inner else [])
        if word == "((":
            return self._arithmetic_command()
        makers = {"if": self._if, "for": self._for, "while": self._while, "until": self._while, "case": self._case}
        if word in makers:
            self.at += len(word)
            node: Node = makers[word](start)
        elif word in ("{", "("):
            self.at += 1
            node = Compound("block", start, body=self._list(frozenset("}") if word == "{" else frozenset()))
            self.at += self.text.startswith(("}", ")"), self.at)
        elif found := _FUNCTION.match(self.text, self.at):
            self.at = found.end()
            self._lines()
            inner = self._command()
            return Compound("function", start, name=found[1] or found[2], body=[inner] if inner else [])
        else:
            return self._simple(start)
        self._redirections()
        return node

    def _arithmetic_command(self) -> Node:
        start = self.at
        end = self.closing(self.at + 2, "(", ")")
        inner = self.text[self.at + 2 : end]
        self.at = min(len(self.text), end + 2)
        return Compound("test", start, words=[Word((Hidden(inner, start + 2, arithmetic=True),), start)])

    def _take(self, word: str) -> bool:
        self._lines()
        if self._reserved() != word:
            return False
        self.at += len(word)
        return True

    def _if(self, start: int) -> Node:
        node = Compound("if", start)
        ends = frozenset(("elif", "else", "fi"))
        while True:
            test = self._list(frozenset(("then",)))
            self._take("then")
            node.branches.append((test, self._list(ends)))
            if not self._take("elif"):
                break
        if self._take("else"):
            node.body = self._list(frozenset(("fi",)))
        self._take("fi")
        return node

    def _for(self, start: int) -> Node:
        node = Compound("for", start)
        self._blank()
        found = _NAME.match(self.text, self.at)
        if found:
            node.name, self.at = found[0], found.end()
        if self._take("in"):
            node.words = list(self._words())
        elif self._reserved() == "((":
            self._arithmetic_command()
            node.words = [Word((Hidden("", start),), start)]
        node.body = self._do()
        return node

    def _do(self) -> list[Node]:
        self._take("do")
        body = self._list(frozenset(("done",)))
        self._take("done")
        return body

    def _while(self, start: int) -> Node:
        test = self._list(frozenset(("do",)))
        return Compound("while", start, branches=[(test, self._do())])

    def _case(self, start: int) -> Node:
        node = Compound("case", start)
        self._blank()
        subject = self.word()
        node.words = [subject] if subject else []
        self._take("in")
        while True:
            self._lines()
            if self.at >= len(self.text) or self._reserved() == "esac":
                break
            self.at += self.text.startswith("(", self.at)
            before, patterns = self.at, []
            while (pattern := self.word()) is not None:
                patterns.append(pattern)
                self._blank()
                if not self.text.startswith("|", self.at):
                    break
                self.at += 1
                self._blank()
            self.at += self.text.startswith(")", self.at)
            node.patterns.append(patterns)
            node.branches.append(([], self._list(frozenset(("esac",)))))
            found = re.compile(r";;&?|;&").match(self.text, self.at)
            self.at = found.end() if found else self.at
            if self.at == before:
                break
        self._take("esac")
        return node

    def _words(self) -> Iterator[Word]:
        while True:
            self._blank()
            word = self.word()
            if word is None:
                return
            yield word

    def _redirections(self) -> None:
        """Pass over what goes to and comes from files; a here-document begins on the next line."""
        while True:
            self._blank()
            here = None if self.text.startswith("<<<", self.at) else _HEREDOC.match(self.text, self.at)
            if here:
                self.begun.append(here[2])
                self.at = here.end()
                continue
            found = re.compile(r"\d*(?:&>>?|[<>]{1,3}[&|]?)").match(self.text, self.at)
            if not found:
                return
            self.at = found.end()
            self._blank()
            if not self.text.startswith("\n", self.at):
                self.word()

    def _simple(self, start: int) -> Node | None:
        command = Command(start)
        while self.at < len(self.text):
            self._blank()
            if self.text[self.at : self.at + 1] in ("<", ">") or re.compile(r"\d?&?>").match(self.text, self.at):
                self._redirections()
                continue
            word = self.word()
            if word is None:
                break
            self._add(command, word)
        return command if command.words or command.assigned else None

    def _add(self, command: Command, word: Word) -> None:
        first = word.parts[0]
        found = _ASSIGNED.match(first.text) if isinstance(first, Piece) and not first.quoted else None
        declared = bool(command.words) and command.words[0].literal in _DECLARING
        if not found or not isinstance(first, Piece) or (command.words and not declared):
            command.words.append(word)
            return
        if self.text.startswith("(", self.at) and found.end() == len(first.text) and len(word.parts) == 1:
            self.at += 1
            command.assigned.append((found[1], bool(found[2]), list(self._array())))
            return
        rest = Piece(first.text[found.end() :], first.start + found.end())
        parts = (*((rest,) if rest.text else ()), *word.parts[1:])
        command.assigned.append((found[1], bool(found[2]), Word(parts, rest.start)))

    def _array(self) -> Iterator[Word]:
        while True:
            self._lines()
            word = self.word()
            if word is None:
                break
            yield word
        self.at += self.text.startswith(")", self.at)
