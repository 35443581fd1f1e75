"""Evaluating Python expressions as constants: arithmetic, names, tuples and dict calls, within fixed limits.

Nothing is looked up outside the given names and nothing is called except the few functions below, which are
applied to plain numbers.
"""

import ast
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn

from planner.lint.limits import MAX_LENGTH, MAX_NESTING, Budget
from planner.lint.source import Symbol, Unknown, Value, shortened
from planner.lint.syntax import Lines

MAX_INTEGER = 2**63
MAX_EXPONENT = 64

_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.In: lambda left, right: left in right,
    ast.NotIn: lambda left, right: left not in right,
}
_ROUNDED = (math.sqrt, math.ceil, math.floor)
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{function.__name__: function for function in (int, float, min, max, abs, round, *_ROUNDED)},
    **{f"math.{function.__name__}": function for function in _ROUNDED},
}
"""Functions of plain numbers; a name that the file defines itself is not taken for one of them."""
_TEXT_METHODS: dict[str, Callable[..., Any]] = {
    method: getattr(str, method) for method in ("startswith", "endswith", "lower", "upper")
}


class HiddenError(Exception):
    """An expression that is no constant; ``hidden`` stands for it."""

    def __init__(self, node: ast.AST | None, why: str, hidden: Unknown | None = None) -> None:
        """Hidden where ``node`` stands, unless something that it is made of is hidden elsewhere."""
        super().__init__(why)
        line, column = getattr(node, "lineno", 1), getattr(node, "col_offset", 0) + 1
        self.hidden = hidden or Unknown(why=why, line=line, column=column)


def _made_of(hidden: Unknown, name: str) -> HiddenError:
    """What is made from a hidden name: it is hidden where the name is."""
    return HiddenError(None, hidden.why, replace(hidden, name=hidden.name or name))


class Constants:
    """An evaluator with one budget for a whole file."""

    def __init__(self, text: str, budget: Budget, known: Mapping[str, Any] | None = None) -> None:
        """Prepare the positions of ``text``; ``known`` are values of names that only running it would tell."""
        self.known = known or {}
        self.used: set[str] = set()
        self.budget = budget
        self.lines = Lines(text)
        self.text = text

    def value(self, node: ast.expr, names: Mapping[str, Value], depth: int = 0) -> Value:
        """Evaluate ``node``; names keep the place of their definition.

        Raises:
            HiddenError: it is no constant, or larger than the limits.
        """
        self.budget.spend()
        if depth > MAX_NESTING:
            raise HiddenError(node, "the expression is too large to evaluate")
        name = ast.unparse(node) if self.known and isinstance(node, ast.Name | ast.Attribute) else ""
        if name in self.known:
            self.used.add(name)
            return replace(self._at(node, self.known[name]), end=-1)
        if isinstance(node, ast.Name) and node.id in names:
            found = names[node.id]
            if isinstance(found.content, Unknown):
                raise _made_of(found.content, node.id)
            return found
        return self._at(node, self._content(node, names, depth + 1))

    def written(self, node: ast.AST) -> str:
        """The text of a node, on one short line."""
        start, end = self.lines.span(node)
        return shortened(self.text[start:end])

    def _at(self, node: ast.expr, content: Any) -> Value:
        start, end = self.lines.span(node)
        return Value(content=content, line=node.lineno, column=node.col_offset + 1, start=start, end=end)

    def plain(self, node: ast.expr, names: Mapping[str, Value], depth: int) -> Any:
        """The content of an expression, with nested tables as plain dicts refused."""
        return self.value(node, names, depth).content

    def _content(self, node: ast.expr, names: Mapping[str, Value], depth: int) -> Any:  # noqa: C901, PLR0911, PLR0912
        match node:
            case ast.Constant(value=bool() | None as constant):
                return constant
            case ast.Constant(value=int() | float() | str() as constant):
                return _bounded(node, constant)
            case ast.Name(id=name):
                return Symbol(name)
            case ast.Attribute():
                return self._attribute(node)
            case ast.Tuple(elts=items) | ast.List(elts=items):
                return self._sized(node, tuple(self.plain(item, names, depth) for item in items))
            case ast.Dict():
                return self._table(node, names, depth)
            case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=inner):
                number = self._number(inner, names, depth)
                return -number if isinstance(sign, ast.USub) else +number
            case ast.UnaryOp(op=ast.Not(), operand=inner):
                return not self._decided(inner, names, depth)
            case ast.BinOp():
                return self._arithmetic(node, names, depth)
            case ast.IfExp(test=test, body=body, orelse=orelse):
                return self.plain(body if self._decided(test, names, depth) else orelse, names, depth)
            case ast.BoolOp(op=kind, values=parts):
                wanted = [self._decided(part, names, depth) for part in parts]
                return all(wanted) if isinstance(kind, ast.And) else any(wanted)
            case ast.Compare(left=left, ops=[comparison], comparators=[right]):
                return self._comparison(node, comparison, (left, right), (names, depth))
            case ast.Call():
                return self._call(node, names, depth)
            case ast.JoinedStr(values=parts):
                return _bounded(node, "".join(self._text_of(part, names, depth) for part in parts))
            case ast.Subscript(value=table, slice=index):
                return self._item(node, self.plain(table, names, depth), self.plain(index, names, depth))
        raise HiddenError(node, f"`{self.written(node)}` is not a constant")

    def _sized(self, node: ast.AST, content: tuple[Any, ...]) -> tuple[Any, ...]:
        """The same, unless it has too many entries in all, each as often as it occurs."""
        count, waiting = 0, [content]
        while waiting:
            item: Any = waiting.pop()
            count += 1
            if count > MAX_LENGTH:
                raise HiddenError(node, "the value is too large to be meant")
            if isinstance(item, dict):
                waiting += [value.content for value in item.values()]
            elif isinstance(item, tuple):
                waiting += item
        self.budget.spend(count)
        return content

    def _attribute(self, node: ast.Attribute) -> Symbol:
        parts = [node.attr]
        inner: ast.expr = node.value
        while isinstance(inner, ast.Attribute) and len(parts) < MAX_NESTING:
            parts.append(inner.attr)
            inner = inner.value
        if not isinstance(inner, ast.Name):
            raise HiddenError(node, f"`{self.written(node)}` is not a constant")
        return Symbol(".".join([inner.id, *reversed(parts)]))

    def _table(self, node: ast.Dict, names: Mapping[str, Value], depth: int) -> dict[str, Value]:
        table: dict[str, Value] = {}
        for key, item in zip(node.keys, node.values, strict=True):
            if key is None:
                table |= self._merged(item, names, depth)
                continue
            name = self.plain(key, names, depth)
            if not isinstance(name, str):
                raise HiddenError(key, f"`{self.written(key)}` is no text key")
            table[str(name)] = self._entry(item, names, depth)
        return table

    def _text_of(self, node: ast.expr, names: Mapping[str, Value], depth: int) -> str:
        """A part of a formatted text; formats are not applied, as no value of a layout comes from one."""
        content = self.plain(node.value if isinstance(node, ast.FormattedValue) else node, names, depth)
        if not isinstance(content, int | float | str | None) or isinstance(content, Symbol):
            raise HiddenError(node, f"`{self.written(node)}` is not known before the file runs")
        return str(content)[:MAX_LENGTH]

    def _item(self, node: ast.Subscript, content: Any, key: Any) -> Any:
        """One entry of a table or of a tuple."""
        found = content.get(key) if isinstance(content, dict) and isinstance(key, str) else None
        if isinstance(found, Value):
            if isinstance(found.content, Unknown):
                raise _made_of(found.content, self.written(node))
            return found.content
        if isinstance(content, tuple) and isinstance(key, int) and -len(content) <= key < len(content):
            return content[key]
        raise HiddenError(node, f"`{self.written(node)}` is not a constant")

    def _entry(self, node: ast.expr, names: Mapping[str, Value], depth: int) -> Value:
        """A value of a table; one that is hidden does not hide its neighbours."""
        try:
            return self.value(node, names, depth)
        except HiddenError as error:
            return self._at(node, error.hidden)

    def _merged(self, node: ast.expr, names: Mapping[str, Value], depth: int) -> dict[str, Value]:
        content = self.plain(node, names, depth)
        if not isinstance(content, dict):
            raise HiddenError(node, f"`**{self.written(node)}` is no table that can be told")
        self.budget.spend(len(content))
        return content

    def arguments(self, node: ast.Call, order: Sequence[str], names: Mapping[str, Value]) -> dict[str, Value]:
        """The arguments of a call by name; those before the names are in ``order``."""
        table: dict[str, Value] = {}
        for name, argument in zip(order, node.args, strict=False):
            if isinstance(argument, ast.Starred):
                break
            table[name] = self._entry(argument, names, 0)
        return table | self.keywords(node, names)

    def keywords(self, node: ast.Call, names: Mapping[str, Value], depth: int = 0) -> dict[str, Value]:
        """The keyword arguments of a call."""
        table: dict[str, Value] = {}
        for keyword in node.keywords:
            if keyword.arg is None:
                table |= self._merged(keyword.value, names, depth)
            else:
                table[keyword.arg] = self._entry(keyword.value, names, depth)
        return table

    def _call(self, node: ast.Call, names: Mapping[str, Value], depth: int) -> Any:
        name = ast.unparse(node.func) if isinstance(node.func, ast.Name | ast.Attribute) else ""
        if isinstance(node.func, ast.Attribute) and name not in _FUNCTIONS:
            return self._method(node, node.func, names, depth)
        if name in names or any(isinstance(argument, ast.Starred) for argument in node.args):
            self._refuse_call(node)
        if name == "dict":
            merged = [self._merged(argument, names, depth) for argument in node.args]
            return {
                key: value for table in [*merged, self.keywords(node, names, depth)] for key, value in table.items()
            }
        if name in _FUNCTIONS and node.args and not node.keywords:
            return self._computed(node, _FUNCTIONS[name], *(self._number(each, names, depth) for each in node.args))
        if name in ("tuple", "list") and len(node.args) == 1 and not node.keywords:
            content = self.plain(node.args[0], names, depth)
            if isinstance(content, tuple):
                return content
        if name[:1].isupper() and not node.args:
            return Symbol(name)
        return self._refuse_call(node)

    def _method(self, node: ast.Call, method: ast.Attribute, names: Mapping[str, Value], depth: int) -> Any:
        """A method of a text that scripts choose branches by."""
        if method.attr not in _TEXT_METHODS or len(node.args) > 1 or node.keywords:
            self._refuse_call(node)
        operands = [self.plain(each, names, depth) for each in (method.value, *node.args)]
        if not all(map(_is_text, operands)):
            self._refuse_call(node)
        return self._computed(node, _TEXT_METHODS[method.attr], *operands)

    def _refuse_call(self, node: ast.Call) -> NoReturn:
        raise HiddenError(node, f"`{self.written(node)}` would have to be called, and nothing is executed")

    def _computed(self, node: ast.expr, operation: Callable[..., Any], *operands: Any) -> Any:
        try:
            return _bounded(node, operation(*operands))
        except (ArithmeticError, TypeError, ValueError) as error:
            raise HiddenError(node, f"`{self.written(node)}` fails: {error}") from error

    def _number(self, node: ast.expr, names: Mapping[str, Value], depth: int) -> Any:
        content = self.plain(node, names, depth)
        if isinstance(content, int | float):
            return content
        raise HiddenError(node, f"`{self.written(node)}` is no number that can be told{_imported(content)}")

    def _decided(self, node: ast.expr, names: Mapping[str, Value], depth: int) -> bool:
        content = self.plain(node, names, depth)
        if isinstance(content, Symbol):
            raise HiddenError(node, f"`{self.written(node)}` is not known before the file runs")
        return bool(content)

    def _comparison(self, node: ast.Compare, comparison: ast.cmpop, sides: Any, scope: Any) -> Any:
        left, right = (self.plain(side, *scope) for side in sides)
        operation = _COMPARISONS.get(type(comparison))
        member = isinstance(comparison, ast.In | ast.NotIn)
        if member != isinstance(right, tuple) or operation is None or not all(map(_is_plain, (left, right))):
            raise HiddenError(node, f"`{self.written(node)}` is not known before the file runs")
        return self._computed(node, operation, left, right)

    def _arithmetic(self, node: ast.BinOp, names: Mapping[str, Value], depth: int) -> Any:
        left, right = self.plain(node.left, names, depth), self.plain(node.right, names, depth)
        operation = _ARITHMETIC.get(type(node.op))
        joined = isinstance(node.op, ast.Add) and (
            (isinstance(left, tuple) and isinstance(right, tuple)) or (_is_text(left) and _is_text(right))
        )
        numbers = isinstance(left, int | float) and isinstance(right, int | float)
        if operation is None or not (joined or numbers):
            raise HiddenError(node, f"`{self.written(node)}` is not a constant{_imported(left) or _imported(right)}")
        if isinstance(node.op, ast.Pow) and (abs(right) > MAX_EXPONENT or abs(left) > MAX_INTEGER):
            raise HiddenError(node, f"`{self.written(node)}` is too large a power")
        return self._computed(node, operation, left, right)


def _is_plain(content: Any) -> bool:
    """Whether a value is known as it is: a number, a text, nothing, or a tuple of these."""
    if isinstance(content, tuple):
        return all(isinstance(item, int | float | str | None) and not isinstance(item, Symbol) for item in content)
    return isinstance(content, int | float | str | None) and not isinstance(content, Symbol)


def _is_text(content: Any) -> bool:
    return isinstance(content, str) and not isinstance(content, Symbol)


def _imported(content: Any) -> str:
    return f": `{shortened(content)}` is imported or not defined" if isinstance(content, Symbol) else ""


def _bounded(node: ast.AST, content: Any) -> Any:
    too_long = isinstance(content, str | tuple) and len(content) > MAX_LENGTH
    too_large = isinstance(content, int) and abs(content) > MAX_INTEGER
    no_number = isinstance(content, float) and not math.isfinite(content)
    if too_long or too_large or no_number or isinstance(content, complex):
        raise HiddenError(node, "the value is too large to be meant")
    return content
