"""Options as their structs declare them: ranges and their refusals, and structs as a worker's argument."""

import os
from pathlib import Path
from typing import Annotated, get_args

import msgspec
import pytest

from planner.cli.calibrate import Calibrate
from planner.diagnostics import ExitCode, PlanError
from planner.handover.options import Option, Range, check_ranges, declared, decode, encode
from planner.handover.work import CalibrationWork, RunOptions, VerifyOptions


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One option of each kind."""

    count: Annotated[int, Option("How many.", range=Range(most=8, example="4"))] = 1
    rate: Annotated[float | None, Option(range=Range(least=0, above=True, example="3e-4"))] = None
    words: Annotated[tuple[str, ...], Option(names=("-w", "--word"))] = ()


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        (Sample(count=0), "--count has to be from 1 to 8, and it is 0", "for example `--count 4`"),
        (Sample(count=9), "--count has to be from 1 to 8, and it is 9", "for example `--count 4`"),
        (Sample(rate=0.0), "--rate has to be above 0, and it is 0", "use `--rate 3e-4`"),
        (Sample(rate=float("nan")), "--rate has to be above 0, and it is nan", "use `--rate 3e-4`"),
        (Sample(rate=float("inf")), "--rate has to be above 0, and it is inf", "use `--rate 3e-4`"),
        (RunOptions(steps=0), "--steps has to be from 1 to 1000000000, and it is 0", "for example `--steps 50`"),
        (RunOptions(seed=-1), "--seed has to be from 0 to 4294967295, and it is -1", "for example `--seed 0`"),
        (
            RunOptions(learning_rate=-1.5),
            "--learning-rate has to be above 0 and at most 1000, and it is -1.5",
            "for example `--learning-rate 3e-4`",
        ),
        (VerifyOptions(steps=1001), "--steps takes 1 to 1000, not 1001", "for example `--steps 3`"),
    ],
)
def test_a_number_out_of_range_is_named_with_what_to_type(options: msgspec.Struct, message: str, hint: str) -> None:
    with pytest.raises(PlanError) as caught:
        check_ranges(options)
    (found,) = caught.value.diagnostics
    assert (found.message, found.hint, found.location) == (message, hint, message.partition(" ")[0])
    assert caught.value.exit_code == ExitCode.USAGE


@pytest.mark.parametrize("options", [Sample(), Sample(count=8, rate=1e-9), RunOptions(), VerifyOptions()])
def test_numbers_in_range_and_missing_ones_pass(options: msgspec.Struct) -> None:
    check_ranges(options)


@pytest.mark.parametrize("options", [RunOptions, VerifyOptions, Calibrate])
def test_every_number_is_judged_before_a_worker_gets_it(options: type[msgspec.Struct]) -> None:
    numbers = [one for one in declared(options) if {int, float} & {one.type, *get_args(one.type)}]
    assert numbers
    for one in numbers:
        wanted = one.option.range
        assert wanted is not None, one.field
        assert wanted.most <= 2**32, one.field
        for value in (wanted.least - 1, wanted.most + 1, float("nan")):
            with pytest.raises(PlanError):
                wanted.check(one.names[-1], value)


def test_names_are_those_of_the_fields_unless_others_are_given() -> None:
    assert [one.names for one in declared(Sample)] == [("--count",), ("--rate",), ("-w", "--word")]
    assert [one.default for one in declared(Sample)] == [1, None, ()]


@pytest.mark.parametrize(
    "told",
    [
        RunOptions(data=Path(os.fsdecode(b"no \xff UTF-8"))),
        RunOptions(steps=3, data=Path("some text"), learning_rate=1e-05, rendezvous="node0:29500"),
        VerifyOptions(without=("depth-sum",), output=Path("out")),
        CalibrationWork(device="cpu", time_limit_s=2.5, folder=Path("/tmp"), free_bytes=10**12),
    ],
)
def test_a_worker_reads_what_it_was_told(told: msgspec.Struct) -> None:
    assert decode(encode(told), type(told)) == told
