"""Reading Python configurations and training scripts as syntax trees. The file is never imported or run."""

import ast
import builtins
from collections.abc import Collection, Iterator, Mapping, Sequence

from planner.codes import Config
from planner.lint.constants import Constants, HiddenError
from planner.lint.limits import Budget
from planner.lint.python_defaults import defaults_of, plain
from planner.lint.source import Call, Note, Source, Symbol, Unknown, Value, contradiction, flatten, shortened
from planner.lint.syntax import parse

_BLOCKS = (ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.Match)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
Names = dict[str, Value]


def read_python(
    text: str,
    shown: str,
    known_calls: Mapping[str, Sequence[str]],
    beside: Collection[str] = (),
    given: Mapping[str, str] | None = None,
) -> Source:
    """The settings of a file: its module-level constants, and the calls of ``known_calls`` anywhere in it.

    Args:
        text: the file's content.
        shown: its name.
        known_calls: names of classes with their arguments in order.
        beside: those of them whose calls are no configuration by themselves.
        given: values of names that the user knows.

    Raises:
        PlanError: it is not Python, with line, column and a caret.
    """
    tree = parse(text, shown)
    known = defaults_of(tree) | {name: plain(value) for name, value in (given or {}).items()}
    reader = _Reader(Constants(text, Budget(shown), known), known_calls, beside)
    names = reader.block(tree.body, {}, certain=True)
    reader.functions(names)
    settings = flatten(
        {name: value for name, value in names.items() if name not in reader.imported}, reader.constants.budget
    )
    called: dict[str, tuple[int, int]] = {}
    for node in reader.living(tree):
        if isinstance(node, ast.Name | ast.Attribute):
            place = (node.lineno, node.col_offset + 1)
            called[_last_name(node)] = min(place, called.get(_last_name(node), place))
    return Source(
        shown=shown,
        text=text,
        language="python",
        settings=settings,
        notes=tuple(reader.notes),
        calls=tuple(call for call in reader.calls if call.name not in beside),
        others=tuple(call for call in reader.calls if call.name in beside),
        called=called,
        undefined=reader.undefined,
        assumed=tuple(f"{name} is {known[name]!r}" for name in sorted(reader.constants.used)),
    )


def _last_name(node: ast.Name | ast.Attribute) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr


class _Reader:
    """Walks statements in order, keeping what every name is known to be."""

    def __init__(self, constants: Constants, known_calls: Mapping[str, Sequence[str]], beside: Collection[str]) -> None:
        self.beside = beside
        self.constants = constants
        self.known_calls = known_calls
        self.imported: dict[str, int] = {}
        self.notes: list[Note] = []
        self.calls: list[Call] = []
        self.first: dict[str, Value] = {}
        self.pending: list[ast.FunctionDef | ast.AsyncFunctionDef] = []
        self.undefined: dict[str, tuple[int, int]] = {}
        """Names that a value is made of and that nothing before defines, with line and column."""
        self.dead: set[int] = set()
        """Statements of branches that are not taken."""

    def living(self, tree: ast.Module) -> Iterator[ast.AST]:
        """Every node but those of branches that are not taken."""
        waiting: list[ast.AST] = [tree]
        while waiting:
            node = waiting.pop()
            yield node
            waiting += [inner for inner in ast.iter_child_nodes(node) if id(inner) not in self.dead]

    def functions(self, module: Names) -> None:
        """Read the bodies of functions for calls, once the module's names are known."""
        for function in self.pending:
            arguments = function.args
            parameters = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
            local = self._copied(module)
            for parameter in parameters:
                local[parameter.arg] = self._hidden(parameter, f"it is a parameter of {function.name}()")
            self.block(function.body, local, certain=False)

    def block(self, statements: Sequence[ast.stmt], names: Names, *, certain: bool) -> Names:
        """Run over statements; ``certain`` where they are executed exactly once, at module level."""
        for statement in statements:
            self._statement(statement, names, certain=certain)
        return names

    def _statement(self, node: ast.stmt, names: Names, *, certain: bool) -> None:
        match node:
            case ast.Import() | ast.ImportFrom() | ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                self._definition(node, names)
            case ast.If():
                self._condition(node, names, certain=certain)
            case ast.Assign() | ast.AnnAssign() | ast.AugAssign():
                self._find_calls(node, names)
                self._assignment(node, names, certain=certain)
            case ast.Expr():
                self._find_calls(node, names)
                self._expression(node.value, names, certain=certain)
            case ast.Delete(targets=targets):
                self._hide(targets, names, node, "it is deleted")
            case _:
                self._other(node, names, certain=certain)

    def _definition(self, node: ast.stmt, names: Names) -> None:
        if isinstance(node, ast.Import | ast.ImportFrom):
            self._import(node, names)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            self._function(node, names)
        elif isinstance(node, ast.ClassDef):
            self.pending += [inner for inner in node.body if isinstance(inner, _FUNCTIONS)]

    def _other(self, node: ast.stmt, names: Names, *, certain: bool) -> None:
        if isinstance(node, _BLOCKS):
            self._hidden_block(node, names, certain=certain)
        else:
            self._find_calls(node, names)

    def _import(self, node: ast.Import | ast.ImportFrom, names: Names) -> None:
        for alias in node.names:
            name = (alias.asname or alias.name).partition(".")[0]
            if name == "*":
                where = shortened(getattr(node, "module", "") or ".")
                self._note(node, f"`from {where} import *` may define values that cannot be seen here")
                continue
            self.imported[name] = node.lineno
            names.pop(name, None)

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef, names: Names) -> None:
        self.pending.append(node)
        names.pop(node.name, None)
        for inner in ast.walk(node):
            if isinstance(inner, ast.Global):
                for name in inner.names:
                    names[name] = self._hidden(node, f"{node.name}() sets it when it runs")

    def _condition(self, node: ast.If, names: Names, *, certain: bool) -> None:
        try:
            decided = self.constants.value(node.test, names).content
        except HiddenError:
            decided = Symbol("?")
        if isinstance(decided, bool | int | None):
            self.dead.update(map(id, node.orelse if decided else node.body))
            self.block(node.body if decided else node.orelse, names, certain=certain)
            return
        self._hidden_block(node, names, certain=certain)

    def _hidden_block(self, node: ast.stmt, names: Names, *, certain: bool) -> None:
        """A loop, a branch or a try block: it is searched for calls, and what it assigns is not known."""
        kind = {ast.If: "a branch", ast.For: "a loop", ast.While: "a loop"}.get(type(node), "a block")
        local, assigned = self._copied(names), sorted(self._assigned(node))
        for name in assigned:
            local[name] = self._hidden(node, f"{kind} on line {node.lineno} may set it")
        for field in ("items", "test", "iter"):
            for expression in _expressions(getattr(node, field, None)):
                self._find_calls(expression, local)
        for body in _bodies(node):
            self.block(body, self._copied(local), certain=False)
        if assigned and certain:
            self._note(node, f"{kind} may set {', '.join(assigned[:5])}, which cannot be told without running it")
        names.update({name: local[name] for name in assigned})

    def _copied(self, names: Names) -> Names:
        self.constants.budget.spend(len(names) // 10)
        return dict(names)

    def _assigned(self, node: ast.AST) -> set[str]:
        """Names that a statement may assign, functions and classes inside left out."""
        found: set[str] = set()
        stack: list[ast.AST] = [node]
        while stack:
            inner = stack.pop()
            self.constants.budget.spend()
            if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store | ast.Del):
                found.add(inner.id)
            if isinstance(inner, ast.Subscript | ast.Attribute) and isinstance(inner.ctx, ast.Store | ast.Del):
                found |= {part.id for part in ast.walk(inner) if isinstance(part, ast.Name)}
            if inner is node or not isinstance(inner, (*_FUNCTIONS, ast.ClassDef, ast.Lambda)):
                stack.extend(ast.iter_child_nodes(inner))
        return found

    def _assignment(self, node: ast.Assign | ast.AnnAssign | ast.AugAssign, names: Names, *, certain: bool) -> None:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        expression = node.value
        if expression is None:
            return
        if isinstance(node, ast.AugAssign):
            expression = ast.copy_location(ast.BinOp(left=_as_value(node.target), op=node.op, right=node.value), node)
            expression.end_lineno, expression.end_col_offset = node.end_lineno, node.end_col_offset
        if certain:
            self._undefined(expression, names)
        try:
            value = self.constants.value(expression, names)
            if isinstance(node, ast.AugAssign):
                value = Value(content=value.content, line=node.lineno, column=node.col_offset + 1)
        except HiddenError as error:
            value = self.constants._at(node.value or expression, error.hidden)
            if certain and not error.hidden.name:
                self._note(error.hidden, error.hidden.why)
        for target in targets:
            self._bind(target, value, names, certain=certain and not isinstance(node, ast.AugAssign))

    def _undefined(self, expression: ast.expr, names: Names) -> None:
        for inner in ast.walk(expression):
            self.constants.budget.spend()
            if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Load) and inner.id not in names:
                known = inner.id in self.imported or hasattr(builtins, inner.id)
                if not known and not any(function.name == inner.id for function in self.pending):
                    self.undefined.setdefault(inner.id, (inner.lineno, inner.col_offset + 1))

    def _bind(self, target: ast.expr, value: Value, names: Names, *, certain: bool) -> None:
        match target:
            case ast.Name(id=name):
                if certain:
                    self._check_conflict(name, value, target)
                names[name] = value
                self.imported.pop(name, None)
            case ast.Tuple(elts=parts) | ast.List(elts=parts):
                items = value.content if isinstance(value.content, tuple) and len(value.content) == len(parts) else None
                for index, part in enumerate(parts):
                    content = items[index] if items else Unknown(why="it is unpacked", line=value.line, column=1)
                    place = Value(content=content, line=value.line, column=value.column)
                    self._bind(part, place, names, certain=certain)
            case ast.Subscript(value=ast.Name(id=name), slice=ast.Constant(value=str() as key)) if (
                isinstance(names.get(name, value).content, dict) and name in names
            ):
                table = self._copied(names[name].content)
                table[key] = value
                old = names[name]
                names[name] = Value(content=table, line=old.line, column=old.column)
            case _:
                self._hide([target], names, target, "it is changed in a way that cannot be told")

    def _check_conflict(self, name: str, value: Value, target: ast.expr) -> None:
        earlier = self.first.setdefault(name, value)
        plain = all(isinstance(v.content, int | float | str | tuple | None) for v in (earlier, value))
        if plain and earlier.content != value.content:
            lines = (f"line {v.line}: {shortened(repr(v.content))}" for v in (earlier, value))
            self.notes.append(contradiction(name, (target.lineno, target.col_offset + 1), ", ".join(lines)))

    def _expression(self, node: ast.expr, names: Names, *, certain: bool) -> None:
        if isinstance(node, ast.Constant):
            return
        if certain and not self._is_known(node):
            self._note(node, f"`{self.constants.written(node)}` was not executed")
        for inner in ast.walk(node):
            if isinstance(inner, ast.Name) and isinstance(getattr(names.get(inner.id), "content", None), dict):
                names[inner.id] = self._hidden(node, f"the call on line {node.lineno} may change it")

    def _is_known(self, node: ast.expr) -> bool:
        defined = {"print", *(function.name for function in self.pending)}
        return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in defined

    def _find_calls(self, node: ast.AST, names: Names) -> None:
        for inner in ast.walk(node):
            if isinstance(inner, ast.Call) and isinstance(inner.func, ast.Name | ast.Attribute):
                name = _last_name(inner.func)
                if name in self.known_calls:
                    self._keep_call(name, inner, names)

    def _keep_call(self, name: str, node: ast.Call, names: Names) -> None:
        complete = True
        try:
            arguments = self.constants.arguments(node, self.known_calls[name], names)
        except HiddenError as error:
            hidden = error.hidden
            if name not in self.beside:
                # What hides one of the others is told only where it matters.
                self._note(hidden, f"{hidden.name} cannot be told: {hidden.why}" if hidden.name else hidden.why)
            plain = [keyword for keyword in node.keywords if keyword.arg is not None]
            shorter = ast.copy_location(ast.Call(func=node.func, args=node.args, keywords=plain), node)
            arguments, complete = self.constants.arguments(shorter, self.known_calls[name], names), False
        self.calls.append(
            Call(
                name=name,
                line=node.lineno,
                column=node.col_offset + 1,
                arguments=arguments,
                complete=complete and not any(isinstance(argument, ast.Starred) for argument in node.args),
            )
        )

    def _hide(self, targets: Sequence[ast.expr], names: Names, node: ast.AST, why: str) -> None:
        for target in targets:
            for inner in ast.walk(target):
                if isinstance(inner, ast.Name):
                    names[inner.id] = self._hidden(node, why)

    def _hidden(self, node: ast.AST, why: str) -> Value:
        return Value.hidden(HiddenError(node, why).hidden)

    def _note(self, node: ast.AST | Unknown, message: str) -> None:
        place = node if isinstance(node, Unknown) else HiddenError(node, message).hidden
        self.notes.append(Note(code=Config.HIDDEN, message=message, line=place.line, column=place.column))


def _as_value(target: ast.expr) -> ast.expr:
    return ast.copy_location(ast.Name(id=target.id, ctx=ast.Load()), target) if isinstance(target, ast.Name) else target


def _bodies(node: ast.stmt) -> Iterator[list[ast.stmt]]:
    for field in ("body", "orelse", "finalbody"):
        if body := getattr(node, field, None):
            yield body
    for handler in [*getattr(node, "handlers", ()), *getattr(node, "cases", ())]:
        yield handler.body


def _expressions(field: object) -> list[ast.AST]:
    if isinstance(field, list):
        return [item for item in field if isinstance(item, ast.AST)]
    return [field] if isinstance(field, ast.AST) else []
