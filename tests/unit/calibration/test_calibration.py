"""From measurements to specs: curves, links, sources, files, and constants refitted to runs."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from planner.calibration.constants import CONSTANTS
from planner.calibration.curves import efficiency_curve, fit_link
from planner.calibration.hardware import ADAM_BYTES, Origin, calibrated, spec_name
from planner.calibration.least_squares import minimise
from planner.calibration.refit import LEAST_ROWS, halves, refit
from planner.cli import app as cli
from planner.handover.measurements import (
    AttentionRates,
    Collective,
    CollectiveKind,
    DeviceMemory,
    Measurements,
    Product,
)
from planner.launch.machine import builtin_for
from planner.plans.plan import read_plan
from planner.specs import HardwareSpec, ModelSpec, Precision, StackSpec
from planner.specs.files import builtin_names, load_spec, spec_digest
from planner.specs.toml import to_toml
from planner.specs.units import GIB, MIB
from planner.validation.replay import replay
from planner.validation.tables import read_table

Run = Callable[..., tuple[int, str, str]]
RUNS = Path(__file__).parents[2] / "validation" / "h200_runs.csv"


@pytest.fixture
def gptplan(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as finished:
            cli.main([*map(str, arguments)])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return int(finished.value.code or 0), captured.out, captured.err

    return run


def product(flops: float, rate: float, precision: Precision = "bf16") -> Product:
    edge = round((flops / 2) ** (1 / 3))
    return Product(precision=precision, m=edge, k=edge, n=edge, seconds=2.0 * edge**3 / rate)


def ring(kind: CollectiveKind, size: int, num_bytes: int) -> Collective:
    """On a link of 100 GB/s and 3 us."""
    steps = {"all-reduce": 2, "all-gather": 1, "send": 1}[kind]
    moved = num_bytes if kind == "send" else num_bytes * (size - 1) / size
    hops = 1 if kind == "send" else size - 1
    return Collective(kind=kind, size=size, num_bytes=num_bytes, seconds=steps * (moved / 1e11 + hops * 3e-6))


LINKS = tuple(
    ring(kind, size, num_bytes)
    for size in (2, 4, 8)
    for kind in ("all-reduce", "all-gather", "send")
    if kind != "send" or size == 2
    for num_bytes in (4096, 2**20, 2**27)
)


def measurements(**changes: object) -> Measurements:
    found = Measurements(
        device="cuda",
        device_name="NVIDIA H200",
        torch_version="2.11",
        num_devices=8,
        threads_per_process=4,
        products=(product(1e9, 2e14), product(1e12, 8e14), product(1e12, 4e13, "fp32")),
        memory_bytes_per_s=4e12,
        kernel_launch_s=5e-6,
        gpt2_block_s=2e-3,
        collectives=LINKS,
        device_memory=DeviceMemory(total_bytes=140 * GIB, context_bytes=1000 * MIB, communicator_bytes=700 * MIB),
        host_memory_bytes=1000 * GIB,
        host_copy_bytes_per_s=2e11,
        adam_parameters_per_s=1e10,
        adam="an AdamW",
        pinned_bytes_per_s=5e10,
        pageable_bytes_per_s=2e9,
        disk_free_bytes=10 * GIB,
        disk_read_bytes_per_s=5e9,
        disk_write_bytes_per_s=3e9,
        seconds=90.0,
    )
    return msgspec.structs.replace(found, **changes)


def origin(base: str = "h200-141g", *, same_device: bool = True) -> Origin:
    return Origin("mine", load_spec(base, HardwareSpec), "2026-01-02", same_device, 8)


def test_the_curve_is_the_median_share_in_each_half_decade() -> None:
    points = efficiency_curve(
        [product(1e9, 1e13), product(1.1e9, 3e13), product(1.2e9, 2e13), product(1e12, 9e13)], 1e14
    )
    assert [share for _, share in points] == [0.2, 0.9]
    assert points[0][0] == pytest.approx(1.1e9, rel=0.02)
    assert efficiency_curve([product(1e9, 2e14)], 1e14)[0][1] == 1.0
    with pytest.raises(ValueError, match="no products"):
        efficiency_curve([], 1e14)


def test_a_link_is_found_again_from_its_own_timings() -> None:
    link = fit_link(LINKS)
    assert link.bandwidth_bytes_per_s == pytest.approx(1e11)
    assert link.latency_s == pytest.approx(3e-6)
    assert link.error < 1e-9


def test_a_link_has_no_negative_latency_or_bandwidth() -> None:
    small = [Collective(kind="send", size=2, num_bytes=n, seconds=s) for n, s in ((8, 2e-5), (4096, 1e-5))]
    assert 0 < fit_link(small).bandwidth_bytes_per_s < float("inf")
    steep = [Collective(kind="send", size=2, num_bytes=n, seconds=s) for n, s in ((1000, 1e-6), (10**6, 2e-3))]
    assert 0 < fit_link(steep).latency_s < 1e-6


def test_a_known_card_keeps_its_datasheet_and_gets_measured_shares() -> None:
    spec, base = calibrated(measurements(), origin()), load_spec("h200-141g", HardwareSpec)
    assert spec.peak_flops_per_s == base.peak_flops_per_s
    assert spec.efficiency.matmul[-1][1] == pytest.approx(8e14 / 989e12, abs=1e-3)
    assert spec.memory_bandwidth_bytes_per_s == base.memory_bandwidth_bytes_per_s
    assert spec.efficiency.memory == pytest.approx(4 / 4.8, abs=1e-3)
    assert spec.node_link.bandwidth_bytes_per_s * spec.node_link.efficiency == pytest.approx(1e11, rel=1e-3)
    assert spec.node_link.latency_s == pytest.approx(3e-6)
    assert (spec.memory_bytes, spec.context_bytes, spec.communicator_bytes) == (140 * GIB, 1722 * MIB, 700 * MIB)
    assert spec.host.memory_bandwidth_bytes_per_s == 1e10 * ADAM_BYTES
    assert spec.network == base.network


def test_a_known_card_keeps_what_is_not_measured_of_its_efficiency() -> None:
    spec, base = calibrated(measurements(), origin()), load_spec("h200-141g", HardwareSpec)
    for name in ("attention", "alignment", "unaligned", "odd", "native_attention", "native_attention_head"):
        assert getattr(spec.efficiency, name) == getattr(base.efficiency, name)
    assert spec.calibrated
    assert not base.calibrated


def test_measured_attention_replaces_that_of_the_card() -> None:
    rates = AttentionRates(forward_flops_per_s=4e14, backward_flops_per_s=2e14)
    spec = calibrated(measurements(attention=rates), origin())
    assert spec.efficiency.native_attention == pytest.approx((4e14 / 989e12, 2e14 / 989e12), abs=1e-4)
    assert "400 TFLOP/s forward" in spec.sources["efficiency.native_attention"]


def test_rings_over_two_devices_have_an_efficiency_of_their_own() -> None:
    slow = tuple(
        msgspec.structs.replace(one, seconds=2 * one.seconds) if one.size == 2 and one.kind != "send" else one
        for one in LINKS
    )
    spec = calibrated(measurements(collectives=slow), origin())
    assert spec.node_link.efficiency * 450e9 == pytest.approx(1e11, rel=1e-3)
    assert spec.node_link.pair_efficiency == pytest.approx(5e10 / 450e9, abs=1e-4)
    two = tuple(one for one in LINKS if one.size == 2)
    alone = calibrated(measurements(collectives=two, num_devices=2), origin())
    assert alone.node_link.pair_efficiency == pytest.approx(1e11 / 450e9, abs=1e-4)
    assert alone.node_link.efficiency == load_spec("h200-141g", HardwareSpec).node_link.efficiency
    other = calibrated(measurements(collectives=two, num_devices=2), origin(same_device=False))
    assert other.node_link.pair_efficiency is None
    assert other.node_link.bandwidth_bytes_per_s * other.node_link.efficiency == pytest.approx(1e11, rel=1e-3)


def test_a_card_that_beats_its_datasheet_is_taken_at_its_word() -> None:
    fast = (product(1e12, 1.2e15),)
    spec = calibrated(measurements(products=fast, memory_bytes_per_s=5e12), origin())
    assert spec.peak_flops_per_s["bf16"] == pytest.approx(1.2e15)
    assert (spec.memory_bandwidth_bytes_per_s, spec.efficiency.memory) == (5e12, 1.0)


def test_an_unknown_card_gets_what_was_measured_and_the_network_of_the_base() -> None:
    spec = calibrated(measurements(device_name="Other"), origin("a100-80g", same_device=False))
    assert spec.peak_flops_per_s["bf16"] == pytest.approx(8e14)
    assert spec.peak_flops_per_s["fp32"] == pytest.approx(4e13)
    assert spec.device_names == ("Other",)
    assert spec.efficiency.matmul[-1][1] == 1.0
    assert spec.network == load_spec("a100-80g", HardwareSpec).network


def test_measured_products_and_collectives_leave_no_tiles_and_no_start() -> None:
    spec, base = calibrated(measurements(), origin("a100-80g")), load_spec("a100-80g", HardwareSpec)
    assert base.efficiency.tiles is not None
    assert spec.efficiency.tiles is None
    assert not [key for key in spec.sources if key.startswith("efficiency.tiles")]
    assert base.node_link.start_s > 0
    replaced = spec.node_link != base.node_link
    assert (not spec.node_link.start_s, "node_link.start" not in spec.sources) == (replaced, replaced)


def test_every_source_says_what_was_measured_and_what_was_taken_over() -> None:
    spec = calibrated(measurements(collectives=(), num_devices=1), origin())
    assert spec.sources["efficiency.matmul"].endswith("measured on NVIDIA H200 (one), torch 2.11, 2026-01-02")
    assert spec.sources["network.bandwidth"].startswith("taken from hardware spec h200-141g: ")
    assert spec.sources["node_link.efficiency"].startswith("taken from hardware spec h200-141g: ")
    base = load_spec("h200-141g", HardwareSpec).sources.keys()
    assert base - spec.sources.keys() == {key for key in base if key.startswith("efficiency.tiles")}


@pytest.mark.parametrize("kind", [ModelSpec, HardwareSpec, StackSpec])
def test_every_builtin_spec_is_the_same_after_writing_and_reading(kind: type, tmp_path: Path) -> None:
    for name in builtin_names(kind):
        spec = load_spec(name, kind)
        path = tmp_path / f"{name}.toml"
        path.write_text(to_toml(spec), encoding="utf-8")
        assert spec_digest(load_spec(str(path), kind)) == spec_digest(spec), name


def test_a_plan_records_the_calibrated_spec(gptplan: Run, tmp_path: Path) -> None:
    path, plan_path = tmp_path / "mine.toml", tmp_path / "x.plan"
    path.write_text(to_toml(calibrated(measurements(), origin())), encoding="utf-8")
    code, _, _ = gptplan("solve", "--model", "gpt2", "--gpus", 2, "--gpu", path, "-o", plan_path)
    assert code == 0
    plan = read_plan(plan_path)
    assert plan.problem.hardware.name == "mine"
    assert plan.problem.hardware.title == "NVIDIA H200, calibrated 2026-01-02"
    assert plan.spec_digests["hardware"] == spec_digest(load_spec(str(path), HardwareSpec))


def test_names_of_files_become_names_of_specs() -> None:
    assert spec_name("my node (8x)") == "my-node-8x-"
    assert spec_name("..") == "calibrated"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "{folder}/spec.json"], "a spec file ends in .toml"),
        (["-o", "{folder}/there.toml"], "this file is there already"),
        (["-o", "{folder}/no/spec.toml"], "there is no such folder"),
        (["-o", "{folder}/x.toml", "--devices", "999"], "--devices has to be from 1 to"),
        (["-o", "{folder}/x.toml", "--time-limit", "0"], "--time-limit has to be above 0"),
        (["-o", "{folder}/x.toml", "--disk", "{folder}/no"], "there is no such folder"),
        (["-o", "{folder}/x.toml", "--base", "a100"], "there is no hardware spec named `a100`"),
        (["-o", "{folder}/x.toml", "--stack", "fsdp"], "--stack goes with --from alone"),
        (["-o", "{folder}/x.toml", "--from", "{folder}/no.csv"], "cannot read the table"),
        (["-o", "{folder}/x.toml", "--from", "{folder}/no.csv", "--devices", "1"], "--devices is for measuring"),
    ],
)
def test_bad_input_is_told_before_anything_is_measured(
    arguments: list[str], message: str, gptplan: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")  # no GPU, whatever this machine has
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    (tmp_path / "there.toml").write_text("kept")
    code, out, err = gptplan("calibrate", *(one.format(folder=tmp_path) for one in arguments))
    assert (code, out) == (2, "")
    assert message in err
    assert "hint: " in err
    assert (tmp_path / "there.toml").read_text() == "kept"
    assert not (tmp_path / "x.toml").exists()


def test_without_torch_it_says_what_to_install(gptplan: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, _, err = gptplan("calibrate", "-o", tmp_path / "x.toml")
    assert code == 1
    assert "error[RUN001]: calibrating needs PyTorch" in err
    assert "pip install torch" in err


def test_a_card_without_a_spec_needs_a_base(gptplan: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setattr("planner.calibration.measuring.present_gpus", lambda: ["NVIDIA Unheard Of"])
    code, _, err = gptplan("calibrate", "-o", tmp_path / "x.toml")
    assert code == 2
    assert "no built-in spec is that of NVIDIA Unheard Of" in err
    assert builtin_for("NVIDIA H200") == "h200-141g"


def test_least_squares_find_the_least_within_the_bounds() -> None:
    wanted = np.array([0.3, 1.7, -0.4])
    found = minimise(lambda at: np.concatenate([at - wanted, [at.sum() - wanted.sum()]]), np.array([0.9, 0.1, 0.5]))
    assert found.tolist() == pytest.approx([0.45, 1.0, 0.0], abs=1e-4)


def worse_stack(tmp_path: Path) -> Path:
    """The stack of the runs with a host that is taken for three times as slow."""
    stack = load_spec("colossalai", StackSpec)
    slow = next(one for one in CONSTANTS if one.name == "traffic.layer_host")
    path = tmp_path / "worse.toml"
    path.write_text(to_toml(slow.put(stack, 3.0 * (slow.of(stack) or 0.0))), encoding="utf-8")
    return path


def test_a_refit_is_better_on_rows_it_was_not_fitted_to(gptplan: Run, tmp_path: Path) -> None:
    output = tmp_path / "refitted.toml"
    code, out, _ = gptplan("calibrate", "--from", RUNS, "--stack", worse_stack(tmp_path), "-o", output, "--json")
    document = json.loads(out)
    assert code == 0
    before, after = document["held_out_before"]["mean_abs_pct"], document["held_out_after"]["mean_abs_pct"]
    assert after < 0.8 * before
    constants = {one["name"]: one for one in document["constants"]}
    assert constants["traffic.layer_host"]["after"] < constants["traffic.layer_host"]["before"]
    stack = load_spec(str(output), StackSpec)
    assert stack.name == "refitted"
    assert stack.errors["all"].step_time == pytest.approx(after / 100)
    assert "fitted to" in stack.sources["traffic.layer_host"]


def test_a_refit_that_is_no_better_writes_nothing(gptplan: Run, tmp_path: Path) -> None:
    first = tmp_path / "first.toml"
    assert gptplan("calibrate", "--from", RUNS, "--stack", worse_stack(tmp_path), "-o", first)[0] == 0
    found = refit(RUNS, name="again", date="2026-01-02", stack=load_spec(str(first), StackSpec))
    code, out, err = gptplan("calibrate", "--from", RUNS, "--stack", first, "-o", tmp_path / "again.toml")
    assert code == (0 if found.is_better else 1)
    assert (tmp_path / "again.toml").exists() == found.is_better
    assert ("error[CAL003]" in err) == (not found.is_better)
    assert "rows held out" in out


def test_too_few_rows_are_refused_with_how_many_it_takes(gptplan: Run, tmp_path: Path) -> None:
    lines = RUNS.read_text(encoding="utf-8").splitlines(keepends=True)
    few = tmp_path / "few.csv"
    few.write_text("".join(lines[:5]), encoding="utf-8")
    code, _, err = gptplan("calibrate", "--from", few, "-o", tmp_path / "x.toml")
    assert code == 2
    assert "error[CAL002]: 4 rows" in err
    assert f"a refit needs {LEAST_ROWS} or more" in err


def test_halves_keep_the_rows_of_a_layout_together(tmp_path: Path) -> None:
    with RUNS.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    path = tmp_path / "twice.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows + [row | {"id": f"again-{row['id']}"} for row in rows])
    table = read_table(path)
    cases = [found.case for row in table.rows if (found := replay(row, table.dialect)).case]
    fit, held_out = halves([case for case in cases if case is not None])
    assert abs(len(fit) - len(held_out)) <= 4  # of one layout there are so many rows
    assert not {str(case.layout) + case.problem.model.name for case in fit} & {
        str(case.layout) + case.problem.model.name for case in held_out
    }
