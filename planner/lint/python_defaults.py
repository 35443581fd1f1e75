"""What a program is given unless its caller says otherwise: defaults of argparse, Typer and dataclasses."""

import ast
import contextlib
from collections.abc import Iterator
from typing import Any

HOLDERS = ("args", "opt", "arguments")
"""Names under which programs keep what argparse reads."""


def plain(text: str) -> Any:
    """A value as a user types it: a number, true or false, or a text."""
    with contextlib.suppress(ValueError, SyntaxError, RecursionError):
        value = ast.literal_eval(text[:100])
        return value if isinstance(value, bool | int | float | str) else text
    return {"true": True, "false": False}.get(text.lower(), text)


def defaults_of(tree: ast.Module) -> dict[str, Any]:
    """Name as the program spells it, such as ``args.tp``, to its default."""
    nodes = list(ast.walk(tree))
    fields = {node.name: dict(_fields(node)) for node in nodes if isinstance(node, ast.ClassDef) and _is_data(node)}
    assigned = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    found: dict[str, Any] = {}
    for node in nodes:
        if isinstance(node, ast.Call):
            found |= {f"{holder}.{name}": default for name, default in _argument(node) for holder in HOLDERS}
        elif isinstance(node, ast.FunctionDef):
            found |= {name: default for name, default in _options(node) if name not in assigned}
        elif (
            isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and isinstance(node.targets[0], ast.Name)
        ):
            made = [one.id for one in ast.walk(node.value) if isinstance(one, ast.Name) and one.id in fields]
            found |= {f"{node.targets[0].id}.{name}": value for one in made for name, value in fields[one].items()}
    return found


def _argument(node: ast.Call) -> Iterator[tuple[str, Any]]:
    """The default that ``add_argument()`` is given."""
    if not isinstance(node.func, ast.Attribute) or node.func.attr != "add_argument":
        return
    options = [one.value for one in node.args if isinstance(one, ast.Constant) and isinstance(one.value, str)]
    words = {one.arg: one.value.value for one in node.keywords if isinstance(one.value, ast.Constant)}
    named = next((option for option in options if option.startswith("--")), "")
    default = words.get("default", False if words.get("action") == "store_true" else None)
    if named and isinstance(default, bool | int | float | str):
        yield str(words.get("dest") or named.lstrip("-").replace("-", "_")), default


def _options(node: ast.FunctionDef) -> Iterator[tuple[str, Any]]:
    """Parameters whose default is ``typer.Option(value)``."""
    parameters = [*node.args.posonlyargs, *node.args.args]
    pairs = [*zip(parameters[::-1], node.args.defaults[::-1], strict=False)]
    pairs += [(one, value) for one, value in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True) if value]
    for parameter, default in pairs:
        named = getattr(default, "func", None)
        if isinstance(default, ast.Call) and getattr(named, "attr", getattr(named, "id", "")) == "Option":
            value = default.args[0] if default.args else None
            if isinstance(value, ast.Constant) and isinstance(value.value, bool | int | float | str):
                yield parameter.arg, value.value


def _is_data(node: ast.ClassDef) -> bool:
    return any("dataclass" in ast.unparse(decorator)[:100] for decorator in node.decorator_list)


def _fields(node: ast.ClassDef) -> Iterator[tuple[str, Any]]:
    """Fields of a dataclass that have a constant."""
    for inner in node.body:
        if isinstance(inner, ast.AnnAssign) and isinstance(inner.target, ast.Name):
            value = inner.value
            if isinstance(value, ast.Call):
                value = next((word.value for word in value.keywords if word.arg == "default"), None)
            if isinstance(value, ast.Constant) and isinstance(value.value, bool | int | float | str):
                yield inner.target.id, value.value
