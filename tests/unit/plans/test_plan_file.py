"""The plan file: what is written is read back, and everything else is refused in its own words."""

import os
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import pytest

from planner.diagnostics import ExitCode, PlanError
from planner.plans import plan as plan_module
from planner.plans.plan import Plan, canonical_json, read_plan, seal, write_plan
from planner.solver import solve
from planner.specs.files import from_builtins, spec_digest, to_builtins
from tests.helpers import problem, slow_hardware


@pytest.fixture(scope="module")
def plan() -> Plan:
    found = solve(problem(hardware=slow_hardware(), pins={"pipeline_parallel": "2"})).plan
    assert found is not None
    return found


@pytest.fixture
def path(plan: Plan, tmp_path: Path) -> Path:
    write_plan(plan, tmp_path / "a.plan")
    return tmp_path / "a.plan"


def refusal(path: Path) -> PlanError:
    with pytest.raises(PlanError) as raised:
        read_plan(path)
    (diagnostic,) = raised.value.diagnostics
    assert diagnostic.location == str(path)
    assert diagnostic.hint
    return raised.value


def message(error: PlanError) -> str:
    return error.diagnostics[0].message


def edit(path: Path, **fields: Any) -> None:
    changed = msgspec.json.decode(path.read_bytes()) | fields
    path.write_bytes(canonical_json({name: value for name, value in changed.items() if value is not None}))


def reseal(path: Path, **fields: Any) -> None:
    """Edit and give it the digest of the new content, as only a different gptplan would."""
    edit(path, **fields)
    content = msgspec.json.decode(path.read_bytes())
    edit(path, digest=plan_module.content_digest(content))


def test_round_trip(plan: Plan, path: Path) -> None:
    assert read_plan(path) == plan


def test_builtins_round_trip(plan: Plan) -> None:
    assert from_builtins(to_builtins(plan), Plan) == plan


def test_writing_again_gives_the_same_bytes(plan: Plan, path: Path) -> None:
    first = path.read_bytes()
    write_plan(read_plan(path), path)
    assert path.read_bytes() == first == canonical_json(plan)


def test_canonical_json_is_sorted_indented_and_ends_in_one_newline() -> None:
    assert canonical_json({"b": 1, "a": [1.0]}) == b'{\n  "a": [\n    1.0\n  ],\n  "b": 1\n}\n'


def test_a_plan_has_no_time_host_or_path_in_it(plan: Plan) -> None:
    text = canonical_json(plan).decode()
    assert str(Path.cwd()) not in text
    assert os.uname().nodename not in msgspec.json.decode(text)
    assert "solve_s" not in text


def test_seal_fills_in_the_digests(plan: Plan) -> None:
    bare = msgspec.structs.replace(plan, digest="", spec_digests={})
    assert seal(bare) == plan
    assert plan.digest.startswith("sha256:")
    assert plan.spec_digests == {
        "model": spec_digest(plan.problem.model),
        "hardware": spec_digest(plan.problem.hardware),
        "stack": spec_digest(plan.problem.stack),
    }


def test_white_space_does_not_matter(plan: Plan, path: Path) -> None:
    path.write_bytes(msgspec.json.encode(msgspec.json.decode(path.read_bytes())))
    assert read_plan(path) == plan


def test_an_edited_plan_is_refused(path: Path) -> None:
    edit(path, gptplan_version="99")
    error = refusal(path)
    assert (error.exit_code, error.diagnostics[0].rule) == (ExitCode.NEGATIVE, "PLAN002")
    assert message(error) == "the plan was changed after gptplan wrote it"


@pytest.mark.parametrize("digest", [None, "", "sha256:0", 5])
def test_a_plan_without_its_digest_is_refused(path: Path, digest: Any) -> None:
    edit(path, digest=digest)
    assert refusal(path).diagnostics[0].rule == "PLAN002"


@pytest.mark.parametrize("version", [0, 2, "1", [1], 10**30])
def test_an_unknown_format_is_refused(path: Path, version: Any) -> None:
    edit(path, format_version=version)
    error = refusal(path)
    assert (error.exit_code, error.diagnostics[0].rule) == (ExitCode.NEGATIVE, "PLAN001")
    assert "this gptplan reads format 1" in message(error)


@pytest.mark.parametrize("version", [1.0, True])
def test_a_format_that_only_equals_one_is_refused(path: Path, version: Any) -> None:
    edit(path, format_version=version)
    assert refusal(path).exit_code == ExitCode.NEGATIVE


@pytest.mark.parametrize(("field", "value"), [("layout", {}), ("layout", None), ("predicted", 5), ("problem", [])])
def test_a_sealed_plan_with_other_fields_is_refused(path: Path, field: str, value: Any) -> None:
    reseal(path, **{field: value})
    error = refusal(path)
    assert (error.exit_code, error.diagnostics[0].rule) == (ExitCode.NEGATIVE, "PLAN003")
    assert message(error) == "the plan does not have the fields of its format"


@pytest.mark.parametrize("keep", [1, 100, -2])
def test_a_truncated_plan_is_bad_input(path: Path, keep: int) -> None:
    path.write_bytes(path.read_bytes()[:keep])
    error = refusal(path)
    assert error.exit_code == ExitCode.USAGE
    assert message(error).startswith("this is not a whole plan file: ")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"model = 1",
        b"\x00\xff\x80binary",
        b'{"format_version": NaN}',
        b"[" * 100_000,
        b'{"format_version": 1, "layout": "\\ud800", "digest": ""}',
    ],
    ids=["empty", "not JSON", "binary", "NaN", "deep", "lone surrogate"],
)
def test_what_is_not_json_is_bad_input(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    error = refusal(path)
    assert error.exit_code == ExitCode.USAGE
    assert message(error).startswith("this is not a whole plan file: ")


@pytest.mark.parametrize("content", [b"[]", b"{}", b"5", b'"plan"', b"null", b'{"model": 1}'])
def test_other_json_is_bad_input(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    error = refusal(path)
    assert error.exit_code == ExitCode.USAGE
    assert message(error) == "this JSON file is not a gptplan plan"


def test_a_folder_is_bad_input(tmp_path: Path) -> None:
    error = refusal(tmp_path)
    assert (error.exit_code, message(error)) == (ExitCode.USAGE, "cannot read the plan: Is a directory")


def test_a_missing_file_is_bad_input(tmp_path: Path) -> None:
    error = refusal(tmp_path / "none.plan")
    assert (error.exit_code, message(error)) == (ExitCode.USAGE, "cannot read the plan: No such file or directory")


def test_a_huge_file_is_bad_input(path: Path) -> None:
    os.truncate(path, 64 * 1024**2 + 1)
    error = refusal(path)
    assert (error.exit_code, message(error)) == (ExitCode.USAGE, "the plan file is larger than 64 MiB")


def test_a_new_folder_is_made(plan: Plan, tmp_path: Path) -> None:
    write_plan(plan, tmp_path / "new" / "deep" / "a.plan")
    assert read_plan(tmp_path / "new" / "deep" / "a.plan") == plan


def test_a_plan_is_readable_by_others(path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_failed_write_leaves_the_old_plan_and_nothing_else(
    plan: Plan, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path.read_bytes()

    class FullDisk:
        def __init__(self, handle: int, _mode: str) -> None:
            os.close(handle)

        def __enter__(self) -> "FullDisk":
            return self

        def __exit__(self, *_: object) -> None:
            return None

        def write(self, _: bytes) -> NoReturn:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fdopen", FullDisk)
    with pytest.raises(PlanError) as raised:
        write_plan(plan, path)
    assert raised.value.exit_code == ExitCode.USAGE
    assert message(raised.value) == "cannot write the plan: No space left on device"
    assert path.read_bytes() == before
    assert [child.name for child in path.parent.iterdir()] == ["a.plan"]


def test_an_interrupted_write_leaves_nothing(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fchmod", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_plan(plan, tmp_path / "a.plan")
    assert list(tmp_path.iterdir()) == []


def test_a_plan_below_a_file_cannot_be_written(plan: Plan, path: Path) -> None:
    with pytest.raises(PlanError) as raised:
        write_plan(plan, path / "b.plan")
    assert message(raised.value).startswith("cannot write the plan: ")


def test_a_plan_in_the_place_of_a_folder_cannot_be_written(plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "a.plan").mkdir()
    with pytest.raises(PlanError):
        write_plan(plan, tmp_path / "a.plan")
    assert [child.name for child in tmp_path.iterdir()] == ["a.plan"]
