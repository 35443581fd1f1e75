"""Findings for other programs: annotations of GitHub's checks, and SARIF 2.1.0."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from planner import __version__
from planner.diagnostics import Diagnostic

_GITHUB = {"error": "error", "warning": "warning"}
_SARIF = {"error": "error", "warning": "warning"}
_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def line_of(path: Path, finding: Diagnostic) -> int:
    """The line of a file that a finding is about; the first where it is about all of it."""
    rest = finding.location.removeprefix(str(path)).lstrip(":").split(":")[0]
    return int(rest) if rest.isdecimal() else 1


def github(path: Path, findings: Iterable[Diagnostic]) -> Iterator[str]:
    """One workflow command for each finding, which GitHub shows at its line."""
    for one in findings:
        text = " ".join(part for part in (one.message, one.detail and f"({one.detail})", one.hint) if part)
        kind = _GITHUB.get(one.severity, "notice")
        place = f"file={_escaped(str(path), ':,')},line={line_of(path, one)},title={_escaped(str(one.rule), ':,')}"
        yield f"::{kind} {place}::{_escaped(text)}"


def _escaped(text: str, more: str = "") -> str:
    """A text as workflow commands take it."""
    return "".join(f"%{ord(one):02X}" if one in "%\r\n" + more else one for one in text)


def sarif(files: Iterable[tuple[Path, Iterable[Diagnostic]]]) -> dict[str, Any]:
    """One SARIF log of all findings."""
    results = [_result(path, one) for path, findings in files for one in findings]
    rules = sorted({result["ruleId"] for result in results})
    driver = {"name": "gptplan", "version": __version__, "rules": [{"id": rule} for rule in rules]}
    return {"$schema": _SCHEMA, "version": "2.1.0", "runs": [{"tool": {"driver": driver}, "results": results}]}


def _result(path: Path, one: Diagnostic) -> dict[str, Any]:
    text = "\n".join(part for part in (one.message, one.detail, f"hint: {one.hint}" if one.hint else "") if part)
    region = {"startLine": line_of(path, one)}
    place = {"physicalLocation": {"artifactLocation": {"uri": path.as_posix()}, "region": region}}
    level = _SARIF.get(one.severity, "note")
    return {"ruleId": str(one.rule), "level": level, "message": {"text": text}, "locations": [place]}
