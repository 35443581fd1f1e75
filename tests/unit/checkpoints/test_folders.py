"""Folders of checkpoints: which are whole, what a crash between any two names leaves, and what is kept."""

import os
import shutil
from pathlib import Path

import pytest

from planner.checkpoints.folders import (
    begin,
    checkpoints_in,
    find_checkpoint,
    kept_steps,
    publish,
    recover,
    retain,
    step_name,
    step_of,
)
from planner.diagnostics import PlanError


def whole(folder: Path, step: int, content: str = "") -> Path:
    path = folder / step_name(step)
    path.mkdir(parents=True)
    (path / "manifest.json").write_text(content)
    return path


def written(folder: Path, step: int, content: str) -> Path:
    part = begin(folder, step)
    (part / "manifest.json").write_text(content)
    return part


def test_names_hold_the_step_and_sort_by_it() -> None:
    assert step_name(1000) == "step-00001000"
    assert step_of(Path("a/step-00001000")) == 1000
    assert step_of(Path("step-123456789")) == 123456789
    assert [step_of(Path(name)) for name in ("step-1000", "step-00001000.part", "other", "step-0000100x")] == [None] * 4


def test_only_a_folder_with_a_manifest_is_whole(tmp_path: Path) -> None:
    two, one = whole(tmp_path, 20), whole(tmp_path, 3)
    (tmp_path / "step-00000030").mkdir()
    begin(tmp_path, 40)
    (tmp_path / "step-00000050").touch()
    assert checkpoints_in(tmp_path) == [one, two]
    assert checkpoints_in(tmp_path / "missing") == []


def test_a_checkpoint_its_folder_and_its_run_name_the_same(tmp_path: Path) -> None:
    whole(tmp_path / "checkpoints", 10)
    newest = whole(tmp_path / "checkpoints", 20)
    assert find_checkpoint(tmp_path) == find_checkpoint(tmp_path / "checkpoints") == find_checkpoint(newest) == newest


@pytest.mark.parametrize(
    ("name", "message", "detail"),
    [
        ("missing", "there is no such folder", ""),
        ("empty", "there is no complete checkpoint in this folder", ""),
        ("begun", "there is no complete checkpoint", "there is step-00000010.part, which was not finished"),
    ],
)
def test_none_is_said(name: str, message: str, detail: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    begin(tmp_path / "begun" / "checkpoints", 10)
    with pytest.raises(PlanError, match=message) as caught:
        find_checkpoint(tmp_path / name)
    assert caught.value.diagnostics[0].rule == "CKP001"
    assert caught.value.diagnostics[0].detail == detail


def test_a_checkpoint_appears_whole_and_replaces_that_of_its_step(tmp_path: Path) -> None:
    part = written(tmp_path, 10, "first")
    assert checkpoints_in(tmp_path) == []
    final = publish(part)
    assert (final / "manifest.json").read_text() == "first"
    publish(written(tmp_path, 10, "second"))
    assert (final / "manifest.json").read_text() == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000010"]


@pytest.mark.parametrize("crash_at", range(5))
def test_a_crash_at_any_moment_leaves_the_old_or_the_new_one(
    crash_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every call that changes names is one after which the machine may stop."""
    publish(written(tmp_path, 10, "old"))
    part = written(tmp_path, 10, "new")
    calls = 0

    class Crash(BaseException):
        pass

    def counted(change: object) -> object:
        def call(*arguments: object, **settings: object) -> object:
            nonlocal calls
            if calls == crash_at:
                raise Crash
            calls += 1
            return change(*arguments, **settings)  # type: ignore[operator]

        return call

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", counted(Path.rename))
        patched.setattr(shutil, "rmtree", counted(shutil.rmtree))
        patched.setattr(os, "fsync", counted(os.fsync))
        with pytest.raises(Crash):
            publish(part)
    for _ in range(2):  # before and after putting things right
        (found,) = checkpoints_in(tmp_path)
        assert (found / "manifest.json").read_text() in {"old", "new"}
        assert find_checkpoint(tmp_path) == found
        recover(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000010"]


def test_what_a_crash_left_goes_when_the_next_begins(tmp_path: Path) -> None:
    kept = whole(tmp_path, 10)
    (begin(tmp_path, 20) / "model-00000.safetensors").touch()
    whole(tmp_path, 5).rename(tmp_path / "step-00000005.gone")
    (tmp_path / "notes.part").mkdir()  # somebody else's
    part = begin(tmp_path, 30)
    assert list(part.iterdir()) == []
    assert sorted(tmp_path.iterdir()) == [tmp_path / "notes.part", kept, part]


@pytest.mark.parametrize(
    ("keep", "every", "expected"),
    [(2, 0, {40, 50}), (1, 0, {50}), (1, 20, {20, 40, 50}), (9, 0, {10, 20, 30, 40, 50}), (0, 0, {50})],
)
def test_the_last_ones_and_every_nth_are_kept(keep: int, every: int, expected: set[int]) -> None:
    assert kept_steps([30, 10, 20, 50, 40], keep=keep, keep_every=every) == expected


def test_what_leaves_loses_its_name_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (10, 20, 30):
        whole(tmp_path, step)
    seen: list[tuple[str, list[str]]] = []
    remove = shutil.rmtree

    def spied(path: Path, **settings: object) -> None:
        seen.append((path.name, [one.name for one in checkpoints_in(tmp_path)]))
        remove(path)

    monkeypatch.setattr(shutil, "rmtree", spied)
    retain(tmp_path, keep=1)
    assert seen == [
        ("step-00000010.gone", ["step-00000020", "step-00000030"]),
        ("step-00000020.gone", ["step-00000030"]),
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000030"]
