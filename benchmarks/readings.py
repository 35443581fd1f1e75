"""What the program of a file itself reads in it, to hold against what gptplan reads.

Data files are loaded by PyYAML, tomllib and json. A script runs in bash, and a file of 2022 in Python, inside a folder
that is all they can see (``chroot``, no network, no rights, a few seconds): bash has no command there but a few that
print, and whatever else it would start is written down instead; Python has a stub for every module that it lacks.
"""

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from planner.lint.dialects.megatron import keys
from planner.lint.dialects.megatron.names import is_megatron
from planner.lint.source import Source, Symbol, Unknown, Value

SECONDS = 5
_JUDGED = {
    *(fact.key for fact in keys.FACTS.values()),
    *(*keys.DIALECT.words.values(), *keys.PARTS, *keys.UNMODELLED, *keys.OBSOLETE, *keys.REQUIRED, *keys.ELSEWHERE),
    *("--nnodes", "--nproc-per-node", "--swiglu", "--kv-channels", "--ffn-hidden-size", "--max-position-embeddings"),
    *("--vocab-size", "--deepspeed", "--recompute-num-layers", "--kv-channels", "--window-size", "--squared-relu"),
    *("--num-key-value-heads", "--use-rotary-position-embeddings", "--untie-embeddings-and-output-weights"),
}
"""Options of Megatron-LM that a rule or a prediction depends on."""
COMMANDS = ("bash", "dirname", "basename", "seq", "expr", "cut", "tr", "sed", "grep", "cat", "head", "tail", "wc")
"""What scripts use to compute a value; none of them can write where a script runs."""
_NUMBER = re.compile(r"[+-]?\d{1,18}")
_FLOAT = re.compile(r"[+-]?(\d{1,18}\.\d*|\.\d{1,18}|\d{1,18})([eE][+-]?\d{1,3})?")
_OPTION = re.compile(r"(--[A-Za-z][\w-]*)(?:=(.*))?", re.DOTALL)
_RECORD, _FIELD = b"\x1e", b"\x1f"
_WRITE_DOWN = r"""
command_not_found_handle() { { printf '\036'; printf '%s\037' "$@"; } >&9; return 0; }
export -f command_not_found_handle
"""
_STUBS = """
import importlib.abc, importlib.machinery, json, runpy, sys, types

class Stub(types.ModuleType):
    __path__ = []
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Stub(name)
    def __call__(self, *args, **kwargs):
        return self
    def __mro_entries__(self, bases):
        return ()

class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path, target=None):
        return importlib.machinery.ModuleSpec(name, self, is_package=True)
    def create_module(self, spec):
        return Stub(spec.name)
    def exec_module(self, module):
        pass

def plain(value):
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value if isinstance(value, (bool, int, float, str, type(None))) else {"stub": True}

sys.meta_path.append(Finder())
names = runpy.run_path(sys.argv[1], run_name="config")
print(json.dumps({k: plain(v) for k, v in names.items() if not k.startswith("__")}))
"""


def misread(source: Source, dialect: str, path: Path, jail: Path | None) -> list[str] | None:
    """Every decided value that the file's own program has otherwise; ``None`` where there is nothing to compare."""
    if source.language in ("json", "yaml", "toml"):
        loaded = _loaded(source)
        return None if loaded is None else list(_unlike(source, loaded))
    if jail is None:
        return None
    if source.language == "shell" and dialect == "megatron":
        return _unlike_commands(source, path, jail)
    if source.language == "python" and dialect == "colossalai-config":
        printed = _inside(jail, path, "python3", "/stubs.py")
        return list(_unlike(source, json.loads(printed))) if printed else None
    return None


def _loaded(source: Source) -> Any:
    try:
        if source.language == "json":
            return json.loads(source.text)
        return tomllib.loads(source.text) if source.language == "toml" else yaml.safe_load(source.text)
    except (ValueError, yaml.YAMLError):
        return None


def _unlike(source: Source, loaded: Any) -> Iterator[str]:
    """Keys whose values differ; of a table each entry is a key of its own."""
    for key, value in source.settings.items():
        if isinstance(value.content, dict | Unknown | Symbol):
            continue
        there = _at(loaded, key)
        if "${" in str(there) or (isinstance(there, dict) and there.get("stub")):
            # Other libraries put these in, or they come from a module that is not there.
            continue
        if _plain(value.content) != _plain(there):
            yield f"{key}: {value.content!r} for {there!r}"


def _at(loaded: Any, key: str) -> Any:
    """The value under a dotted key, whose parts may have dots themselves."""
    if not isinstance(loaded, Mapping):
        return loaded if not key else None
    names = {str(name): item for name, item in loaded.items()}
    for name, item in names.items():
        if key == name:
            return item
        if key.startswith(f"{name}."):
            return _at(item, key[len(name) + 1 :])
    return None


def _plain(value: Any) -> Any:
    if isinstance(value, Value):
        return _plain(value.content)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value):
        return float(value)
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return value if isinstance(value, bool | int | float | str | None) else str(value)


def _unlike_commands(source: Source, path: Path, jail: Path) -> list[str] | None:
    """What of each command that bash would start no way through the script has."""
    printed = _inside(jail, path, "bash")
    commands = [_options([w.decode(errors="replace") for w in one.split(_FIELD)]) for one in printed.split(_RECORD)[1:]]
    commands = [one for one in commands if is_megatron(one, shell=True)]
    if not commands:
        return None
    ways = [way for way in (source, *source.ways) if is_megatron(way.settings, shell=True)]
    if source.cut:
        # Some ways are not followed, and the one of a call without arguments may be among them.
        return None
    nearest = [min((_unlike_options(way, one) for way in ways), key=len, default=["no way"]) for one in commands]
    return [" ".join(wrong) for wrong in nearest if wrong]


def _unlike_options(way: Source, command: dict[str, Any]) -> list[str]:
    """Options that matter and that are read otherwise, or not at all."""
    known = {name: value.content for name, value in way.settings.items() if not isinstance(value.content, Unknown)}
    wrong = [f"{n} {content!r} for {command.get(n)!r};" for n, content in known.items() if content != command.get(n)]
    wrong += [f"{name} is not seen;" for name in command if name not in way.settings]
    return [one for one in wrong if one.partition(" ")[0].replace("_", "-") in _JUDGED]


def _options(words: list[str]) -> dict[str, Any]:
    """Options of a command; a word that is a command itself is taken apart."""
    parts: list[str] = []
    for word in words:
        parts += word.replace("\\\n", " ").split() if "--" in word and re.search(r"\s", word) else [word]
    found: dict[str, Any] = {}
    for number, part in enumerate(parts):
        option = _OPTION.fullmatch(part)
        if option is None:
            continue
        value = option[2] if option[2] is not None else parts[number + 1] if number + 1 < len(parts) else "--"
        alone = option[2] is None and value.startswith("-") and not _FLOAT.fullmatch(value)
        found[option[1]] = True if alone or value == "" else _number(value)
    return found


def _number(text: str) -> Any:
    if _NUMBER.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text


def _inside(jail: Path, path: Path, *program: str) -> bytes:
    """What is written to descriptor 9 while a file is run in its folder of the jail."""
    reading, writing = os.pipe()
    printed = "/dev/null" if program[0] == "bash" else "&9"
    shell = (
        f'ulimit -u 200 -v 4000000 -f 100000; cd "/files{path.parent}" || exit; exec 9>&{writing}; '
        f"export PATH=/bin BASH_ENV=/env.sh PYTHONHOME={sys.base_prefix}; "
        f'exec {" ".join(program)} "{path.name}" >{printed} 2>/dev/null'
    )
    command = ["timeout", "-k", "1", str(SECONDS), "unshare", "-n", "-p", "-f", "--kill-child", "chroot"]
    command += ["--userspec=65534:65534", str(jail), "/bin/bash", "-c", shell]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet, pass_fds=(writing,)) as process:
        os.close(writing)
        with os.fdopen(reading, "rb") as file:
            written = file.read(4 * 1024**2)
        process.kill()
    return written


def prepare(jail: Path, folders: list[Path]) -> None:
    """Put bash, Python and the files of a corpus into a folder, as root."""
    for name in ("bin", "dev", "tmp", "files"):
        (jail / name).mkdir(parents=True, exist_ok=True)
    (jail / "env.sh").write_text(_WRITE_DOWN)
    (jail / "stubs.py").write_text(_STUBS)
    os.mknod(jail / "dev" / "null", 0o020666, os.makedev(1, 3))
    (jail / "dev" / "null").chmod(0o666)
    programs = [(name, subprocess.check_output(["which", name], text=True).strip()) for name in COMMANDS]
    for name, program in [*programs, ("python3", os.path.realpath(sys.executable))]:
        subprocess.run(["cp", "-L", program, jail / "bin" / name], check=True)
        needed = re.findall(r"(/\S+)", subprocess.check_output(["ldd", program], text=True))
        subprocess.run(["cp", "-L", "--parents", *needed, jail], check=True)
    library = Path(os.__file__).parent
    (jail / library.parent.relative_to("/")).mkdir(parents=True, exist_ok=True)
    skipped = [f"--exclude={name}" for name in ("site-packages", "test", "idlelib", "ensurepip", "__pycache__")]
    packed = subprocess.run(["tar", "-C", "/", *skipped, "-cf", "-", str(library)[1:]], capture_output=True, check=True)
    subprocess.run(["tar", "-C", jail, "-xf", "-"], input=packed.stdout, check=True)
    (jail / Path(sys.base_prefix).parts[1]).chmod(0o755)
    for folder in folders:
        there = jail / "files" / folder.resolve().relative_to("/")
        there.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-al", folder, there], check=True)


if __name__ == "__main__":
    prepare(Path(sys.argv[1]), [Path(folder) for folder in sys.argv[2:]])
