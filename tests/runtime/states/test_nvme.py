"""Moments on an NVMe drive: the same training as AdamW, and refusals before a run that could not work."""

import importlib.util
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from planner.diagnostics import ExitCode, PlanError
from planner.launch import nvme
from planner.launch.nvme import check_nvme, moment_bytes
from planner.layouts.layout import Offload
from planner.plans.plan import Plan

MakePlan = Callable[..., Plan]
NVME = Offload(optimizer=1.0, tier="nvme")
OFFLOADED: dict[str, Any] = {"precision": "bf16", "data_parallel": 2, "zero_stage": 1, "offload": NVME}

needs_tensornvme = pytest.mark.skipif(
    importlib.util.find_spec("tensornvme") is None, reason="needs the package tensornvme"
)


@pytest.fixture
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with the libraries, whatever this one has."""
    monkeypatch.setattr(nvme, "_opens", lambda library: True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)


def refusals(plan: Plan, folder: Path | None, node_rank: int = 0) -> list[Any]:
    with pytest.raises(PlanError) as caught:
        check_nvme(plan, folder, node_rank)
    assert caught.value.exit_code == ExitCode.NEGATIVE
    assert all(found.rule == "RUN005" and found.hint for found in caught.value.diagnostics)
    return list(caught.value.diagnostics)


@pytest.mark.usefixtures("_installed")
def test_a_folder_on_a_drive_passes(plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvme, "file_system", lambda folder: "ext4")
    check_nvme(plan(**OFFLOADED), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("_installed")
def test_a_folder_has_to_be_named_and_there(plan: MakePlan, tmp_path: Path) -> None:
    (found,) = refusals(plan(**OFFLOADED), None)
    assert "no folder on such a drive is named" in found.message
    assert "--nvme-path" in found.hint
    (found,) = refusals(plan(**OFFLOADED), tmp_path / "missing")
    assert found.message == "there is no such folder"
    assert found.location == f"--nvme-path {tmp_path / 'missing'}"


@pytest.mark.usefixtures("_installed")
@pytest.mark.parametrize(
    ("kind", "message"),
    [("nfs4", "on a network file system (nfs4)"), ("fuse.sshfs", "network"), ("tmpfs", "in memory (tmpfs)")],
)
def test_a_folder_has_to_be_on_a_local_drive(
    kind: str, message: str, plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvme, "file_system", lambda folder: kind)
    (found,) = refusals(plan(**OFFLOADED), tmp_path)
    assert message in found.message


@pytest.mark.usefixtures("_installed")
def test_a_full_drive_is_refused_with_the_numbers(
    plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvme, "file_system", lambda folder: "ext4")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1024))
    (found,) = refusals(plan(**OFFLOADED), tmp_path)
    # Embeddings 320 x 32 and 64 x 32; a layer 4 h^2 + 2 h f + 9 h + f of h 32, f 64; the norm 2 h.
    parameters = 320 * 32 + 64 * 32 + 4 * (4 * 32**2 + 2 * 32 * 64 + 9 * 32 + 64) + 64
    assert moment_bytes(plan(**OFFLOADED)) == 8 * parameters
    assert found.message == "the optimizer's moments take 363.50 KiB on this drive, and 1.00 KiB is free"


def test_each_node_holds_the_moments_of_its_ranks(plan: MakePlan) -> None:
    fields = {**OFFLOADED, "data_parallel": 3}
    whole = moment_bytes(plan(global_batch=9, **fields))
    nodes = [moment_bytes(plan(global_batch=9, devices_per_node=2, **fields), node) for node in (0, 1)]
    assert sum(nodes) == pytest.approx(whole, abs=1)
    assert nodes[0] == pytest.approx(2 * nodes[1], abs=2)


def test_missing_libraries_are_named(plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvme, "file_system", lambda folder: "ext4")
    monkeypatch.setattr(nvme, "_opens", lambda library: False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    libaio, tensornvme = refusals(plan(**OFFLOADED), tmp_path)
    assert libaio.hint == "`apt update && apt install libaio-dev`"
    assert tensornvme.hint == "`apt install libaio-dev liburing-dev`, then `python -m planner.launch.nvme_build`"


ROUNDING = 2.0**-12
"""Two kernels of AdamW differ in the last digit of a master weight on some processors, and then a bf16 weight on the
edge of two numbers, of 8 bits each, falls on either. That moved a loss by 2**-13 of it; the losses fall by a tenth."""


def trained(plan: Plan, folder: Path | None) -> tuple[list[float], int, int]:
    """Losses, bytes of moments in memory, and size of this rank's file of moments."""
    from torch.optim import AdamW

    from runtime.engines.choice import make_engine
    from tests.runtime.training import LEARNING_RATES, SEED, own_batches

    engine = make_engine(plan, seed=SEED, learning_rate=LEARNING_RATES[AdamW], nvme_folder=folder)

    def size() -> int:
        return 0 if folder is None else os.fstat(engine.optimizer.optim.offloader.descriptor).st_size

    before = size()
    assert folder is None or list(folder.iterdir()) == []  # nothing that could stay
    losses = [engine.step(batch) for batch in own_batches(engine, plan)]
    assert size() == before  # what was reserved is enough
    states = engine.optimizer.optim.state.values()
    return losses, sum(state["exp_avg"].untyped_storage().nbytes() for state in states), before


@needs_tensornvme
@pytest.mark.runtime
@pytest.mark.parametrize("layout", [{}, {"data_parallel": 1, "pipeline_parallel": 2}], ids=["dp2", "pp2"])
def test_moments_on_a_drive_train_like_adamw(
    layout: dict[str, Any], plan: MakePlan, ranks: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "moments"
    folder.mkdir()
    fields = OFFLOADED | layout
    on_host = plan(**fields | {"offload": Offload(optimizer=1.0, tier="cpu")})
    expected = ranks(2, lambda rank: trained(on_host, None))
    chosen = plan(**fields)
    found = ranks(2, lambda rank: trained(chosen, folder))
    for (losses, in_memory, _), (wanted, of_adamw, _) in zip(found, expected, strict=True):
        assert losses == pytest.approx(wanted, rel=ROUNDING)
        assert of_adamw > 0
        assert in_memory == 0
    # Beside the moments there is room for twice the largest parameter: half of 320 x 32, or all.
    slack = 2 * 8 * 320 * 32 // chosen.layout.data_parallel
    assert sum(size for *_, size in found) == moment_bytes(chosen) + 2 * slack


@needs_tensornvme
@pytest.mark.runtime
def test_a_drive_that_is_full_after_all_ends_the_run(
    plan: MakePlan, ranks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    def refused(rank: int) -> str:
        monkeypatch.setattr(os, "posix_fallocate", full)
        with pytest.raises(PlanError) as caught:
            trained(plan(**OFFLOADED), tmp_path)
        return caught.value.diagnostics[0].message

    messages = ranks(2, refused)
    assert all(f"rank {rank} cannot reserve 261.75 KiB" in message for rank, message in enumerate(messages))


@needs_tensornvme
@pytest.mark.runtime
def test_what_was_read_is_there_after_waiting(ranks: Any, tmp_path: Path) -> None:
    def callbacks_after_waiting(rank: int) -> list[int]:
        import torch
        from tensornvme import DiskOffloader

        from runtime.states.nvme import MomentFile

        def wait_once(offloader: Any) -> int:
            moment, done = torch.arange(1000.0), []
            offloader.sync_write(moment)
            offloader.async_read(moment, lambda: done.append(1))
            offloader.sync_read_events()
            assert moment.tolist() == list(range(1000)) or not done
            return len(done)

        for name in ("ours", "theirs"):
            (tmp_path / name).mkdir()
        return [wait_once(MomentFile(tmp_path / "ours")), wait_once(DiskOffloader(str(tmp_path / "theirs")))]

    # The second is tensornvme's own, whose wait for reads waits for writes.
    assert ranks(1, callbacks_after_waiting) == [[1, 0]]
