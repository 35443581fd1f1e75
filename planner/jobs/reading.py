"""From a file and settings to a job, with everything that is wrong named at once."""

import textwrap
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_origin

import msgspec

from planner.checkpoints.folders import run_of
from planner.diagnostics import Diagnostic, PlanError, usage_error
from planner.handover.work import JOB_FILE
from planner.inputs import read_input
from planner.jobs.job import DATA_VARIABLE, Job, Section
from planner.specs.files import did_you_mean
from planner.specs.kinds import kind_words

MAX_JOB_BYTES = 2**20


class Key(NamedTuple):
    """One key of a job."""

    section: str
    """Empty for a key above all sections."""
    name: str
    type: Any
    words: str
    """What it may hold."""
    default: Any
    description: str

    @property
    def path(self) -> str:
        """Such as ``schedule.steps``."""
        return f"{self.section}.{self.name}" if self.section else self.name


def sections() -> dict[str, type[Section]]:
    """Section to its struct; the keys above all sections are those of the job itself, under ``""``."""
    found = {field.name: field.type for field in msgspec.structs.fields(Job) if _is_section(field.type)}
    return {"": Job, **found}


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Section)


def keys() -> dict[str, Key]:
    """Every key of a job by its path, in the order of its declaration."""
    return {key.path: key for section, struct in sections().items() for key in _keys(section, struct)}


def _keys(section: str, struct: type[Section]) -> Iterator[Key]:
    info: Any = msgspec.inspect.type_info(struct)
    for field, shown in zip(msgspec.structs.fields(struct), info.fields, strict=True):
        if _is_section(field.type):
            continue
        description = shown.type.extra_json_schema["description"]
        yield Key(section, field.name, field.type, kind_words(shown.type), field.default, description)


def read_job(
    path: Path | None,
    settings: Iterable[str] = (),
    environ: Mapping[str, str] | None = None,
    given: Mapping[str, Any] | None = None,
) -> Job:
    """The job in ``path``, or one of defaults, with ``settings`` over it, and what is ``given`` by key over those.

    Args:
        path: a TOML file.
        settings: such as ``schedule.steps=100``, as ``--set`` takes them.
        environ: has ``DATA``, the default of what to learn from.
        given: values by their keys, as ``schedule.steps``.

    Raises:
        PlanError: with a finding for each key that is unknown, missing or not what it should be.
    """
    fields = {} if path is None else read_fields(path)
    findings = list(_unknown(fields, str(path)))
    known = {one: value for one, value in fields.items() if one in sections() or one in keys()}
    for setting in settings:
        findings += _apply(setting, known)
    for name, value in (given or {}).items():
        _put(keys()[name], value, known)
    findings += _wrong(known, str(path) if path is not None else "--set")
    if findings:
        raise PlanError(*findings)
    job = msgspec.convert(known, Job)
    default = (environ or {}).get(DATA_VARIABLE)
    if not job.data.paths and default:
        job = msgspec.structs.replace(job, data=msgspec.structs.replace(job.data, paths=(default,)))
    return job


def read_fields(path: Path) -> dict[str, Any]:
    """The tables of a job file as they are.

    Raises:
        PlanError: it cannot be read, or is no TOML.
    """
    hint = "`gptplan job > job.toml` writes one"
    content = read_input(path, what="job", most_bytes=MAX_JOB_BYTES, hint=hint)
    try:
        return tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise usage_error(f"the job is not TOML: {error}", location=str(path), hint=hint) from error


def is_job(text: str) -> bool:
    """Whether a file is a job: TOML with a section, or a learning rate, that only jobs have."""
    try:
        fields = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError):
        return False
    own = {name: value for name, value in fields.items() if name in sections() and isinstance(value, dict)}
    # DeepSpeed's configurations have an [optimizer] too, of other keys.
    return bool(own.keys() - {"optimizer"}) or "learning_rate" in own.get("optimizer", {})


def _unknown(fields: Mapping[str, Any], where: str) -> Iterator[Diagnostic]:
    """Findings about sections and keys that no job has."""
    structs = sections()
    for name, value in fields.items():
        if name in structs and isinstance(value, dict):
            yield from (_unknown_key(f"{name}.{key}", where) for key in value if f"{name}.{key}" not in keys())
        elif name not in keys() and name not in structs:
            yield _unknown_key(name, where)


def _unknown_key(path: str, where: str) -> Diagnostic:
    known = keys()
    last = path.rpartition(".")[2]
    elsewhere = [key.path for key in known.values() if key.name == last]
    names = [*known, *(f"[{name}]" for name in sections() if name)]
    hint = f"did you mean `{elsewhere[0]}`?" if elsewhere else did_you_mean(path, names)
    section = [key.name for key in known.values() if key.section == path.partition(".")[0]]
    if not hint:
        hint = (
            f"its keys are {', '.join(section)}" if section else f"sections are {', '.join(filter(None, sections()))}"
        )
    return _finding(f"unknown key `{path}`", f"{where}: {path}" if where != path else where, hint)


def _finding(message: str, location: str, hint: str) -> Diagnostic:
    return Diagnostic(rule="USAGE", message=message, location=location, hint=hint)


def _apply(setting: str, fields: dict[str, Any]) -> list[Diagnostic]:
    """Set a key in ``fields``, or say why that cannot be."""
    path, sign, text = setting.partition("=")
    path = path.strip()
    where = f"--set {setting}"
    if not sign:
        return [_finding(f"`{setting}` sets nothing", where, "for example `--set schedule.steps=100`")]
    key = keys().get(path)
    if key is None:
        return [_unknown_key(path, "--set")]
    value = _value(text, key.type)
    if (message := _problem(value, key)) is not None:
        return [_finding(message, where, f"`{key.path}` is {key.words}")]
    _put(key, value, fields)
    return []


def _put(key: Key, value: Any, fields: dict[str, Any]) -> None:
    if key.section and not isinstance(fields.get(key.section), dict):
        fields[key.section] = {}
    (fields[key.section] if key.section else fields)[key.name] = value


def _value(text: str, kind: Any) -> Any:
    """What was typed, as a value of TOML where it is one; a list may be one value without brackets."""
    plain = get_args(kind)[0]
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    if plain is str and not isinstance(value, str):
        return text
    if get_origin(plain) is tuple and not isinstance(value, list):
        return [text if get_args(plain)[0] is str and not isinstance(value, str) else value]
    return value


def _wrong(fields: Mapping[str, Any], where: str) -> Iterator[Diagnostic]:
    """Findings about values."""
    for name in sections():
        if name and not isinstance(fields.get(name, {}), dict):
            yield _finding(f"`{name}` has to be a section", f"{where}: {name}", f"write `[{name}]` over its keys")
    for key in keys().values():
        table = fields.get(key.section, {}) if key.section else fields
        if isinstance(table, dict) and key.name in table:
            message = _problem(table[key.name], key)
            if message is not None:
                yield _finding(message, f"{where}: {key.path}", f"`{key.path}` is {key.words}")


def _problem(value: Any, key: Key) -> str | None:
    try:
        msgspec.convert(value, key.type)
        msgspec.json.encode(value)
    except msgspec.ValidationError as error:
        return f"`{key.path}` cannot be {value!r:.60}: {error}"
    except UnicodeEncodeError:
        return f"`{key.path}` cannot be {value!r:.60}: it is no UTF-8"
    return None


def text_of(job: Job, *, commented: bool = False) -> str:
    """The job as TOML with every key; a key without a value, and with ``commented`` its meaning, is a comment."""
    lines = ["# What a run learns: `gptplan run FILE.plan --job THIS_FILE`. docs/job.md has the same."] * commented
    for section, struct in sections().items():
        if section:
            lines += ["", *_comment((struct.__doc__ or "").partition("\n")[0])[: None if commented else 0]]
            lines += [f"[{section}]"]
        values = getattr(job, section) if section else job
        for key in _keys(section, struct):
            if commented:
                lines += _comment(f"{key.description} ({key.words})")
            value = getattr(values, key.name)
            lines.append(f"# {key.name} =" if value is None else f"{key.name} = {_toml(value)}")
    return "\n".join(lines).lstrip("\n") + "\n"


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, 116)]


def _toml(value: Any) -> str:
    """A value as TOML, of which JSON's texts, numbers and lists are a part."""
    return msgspec.json.encode(value).decode()


def tokenizer_beside(checkpoint: Path) -> Path | None:
    """What the job in the folder of a checkpoint's run has as tokenizer; ``None``: there is no job.

    Raises:
        PlanError: the job cannot be read.
    """
    run = run_of(checkpoint.resolve())
    job = None if run is None else run / JOB_FILE
    return Path(read_job(job).tokenizer.path) if job is not None and job.is_file() else None
