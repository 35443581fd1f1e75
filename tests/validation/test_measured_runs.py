"""Predictions against runs that were measured with this runtime on one and two H200."""

from benchmarks.measured_runs import mean, replay_runs
from benchmarks.residuals import residuals
from planner.spec import StackSpec
from planner.spec_files import load_spec, to_builtins

REPLAYS = replay_runs()


def test_peak_memory_is_within_a_few_percent() -> None:
    errors = [abs(replay.memory_error) for replay in REPLAYS]
    assert len(errors) == 11
    assert mean(errors) < 0.03
    assert max(errors) < 0.08


def test_every_stage_of_a_pipeline_is_within_a_few_percent() -> None:
    pipelines = [replay for replay in REPLAYS if replay.row["pp"] != "1"]
    assert pipelines
    for replay in pipelines:
        measured = [int(text) for text in replay.row["peak_allocated_mib_per_rank"].split()]
        predicted = [stage.peak_bytes / 2**20 for stage in replay.predicted.stages]
        assert all(abs(p / m - 1) < 0.08 for p, m in zip(predicted, measured, strict=True))


def test_every_run_that_fitted_is_predicted_to_fit() -> None:
    for replay in REPLAYS:
        for stage in replay.predicted.stages:
            assert stage.peak_bytes + stage.reserve_bytes <= stage.capacity_bytes


def test_step_time_of_large_models_is_roughly_right() -> None:
    # Nothing is calibrated yet; small models, whose time the host sets, are far off and are left out.
    errors = [abs(replay.time_error) for replay in REPLAYS if replay.is_large]
    assert len(errors) == 7
    assert mean(errors) < 0.15


def test_the_errors_that_the_stack_states_are_those_of_the_runs() -> None:
    stated = to_builtins(load_spec("colossalai", StackSpec).errors)
    assert stated == residuals(REPLAYS)


def test_reserved_memory_is_within_a_few_percent() -> None:
    errors = [
        abs(max(stage.reserved_bytes for stage in replay.predicted.stages) / 2**20 / float(measured) - 1)
        for replay in REPLAYS
        if (measured := replay.row["peak_reserved_mib_max"])
    ]
    assert len(errors) == 11
    assert mean(errors) < 0.05
