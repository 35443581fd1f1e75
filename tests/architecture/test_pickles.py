"""Nothing that others may write to is unpickled, in any place of the program."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = [path for folder in ("planner", "runtime") for path in (ROOT / folder).rglob("*.py")]
UNPICKLING = {
    "all_gather_object",
    "broadcast_object_list",
    "gather_object",
    "scatter_object_list",
    "send_object_list",
    "recv_object_list",
    "Unpickler",
    "read_pickle",
}
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "socketserver"}
# Processes of these talk in pickles through a socket with a password, not through pipes that only they have.
SOCKETS = {"multiprocessing.managers", "multiprocessing.connection"}


def faults(text: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Import(names=names):
                yield from (one.name for one in names if one.name in SOCKETS or one.name.split(".")[0] in MODULES)
            case ast.ImportFrom(module=str(module)) if module in SOCKETS or module.split(".")[0] in MODULES:
                yield module
            case ast.Attribute(attr=name) | ast.Name(id=name) if name in UNPICKLING:
                yield name
            case ast.Call(func=ast.Attribute(value=ast.Name(id="torch"), attr="load"), keywords=keywords):
                if not any(one.arg == "weights_only" and ast.unparse(one.value) == "True" for one in keywords):
                    yield "torch.load"
            case ast.keyword(arg="allow_pickle", value=value) if ast.unparse(value) != "False":
                yield "allow_pickle"


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from pickle import loads",
        "from multiprocessing.connection import Listener",
        "dist.all_gather_object(found, own)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
    ],
)
def test_faults_are_seen(text: str) -> None:
    assert list(faults(text))


def test_nothing_is_unpickled() -> None:
    assert len(FILES) > 100
    assert not [f"{path.relative_to(ROOT)}: {one}" for path in FILES for one in faults(path.read_text("utf-8"))]
