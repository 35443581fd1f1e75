"""Bounds from groups of errors, by hand."""

import math

import pytest

from planner.cost_model.conformal import LEAST_SCALE, UNMEASURED_WIDER, Calibration, Group, calibrated

NEAR, FAR = (0, 0), (0, 1)


def group(table: str, *errors: float, cell: tuple[int, int] = NEAR) -> Group:
    return Group(table, "", cell, errors)


def test_bound_is_a_quantile_in_which_groups_weigh_alike_and_one_was_never_seen() -> None:
    # Weights: 1/4 for each of three groups, the last two errors of one an eighth each, and 1/4 at infinity.
    found = Calibration((group("a", 0.01), group("b", 0.03), group("c", 0.02, 0.05)), {NEAR: 1.0})
    assert found.most == 0.75
    assert [found.bound(NEAR, share) for share in (0.25, 0.375, 0.625, 0.75)] == [0.01, 0.02, 0.03, 0.05]
    assert found.bound(NEAR, 0.76) == math.inf
    assert found.bound(NEAR, 0.25, upper=False) == 0.03
    assert [found.probability(NEAR, error) for error in (0.0, 0.01, 0.04, 1.0)] == [0.0, 0.25, 0.625, 0.75]


def test_a_wider_class_has_wider_bounds_in_proportion_to_its_scale() -> None:
    near = [group(table, 0.01, -0.01) for table in "abc"]
    far = [group(table, 0.04, -0.04, cell=FAR) for table in "def"]
    found = calibrated([*near, *far], columns=1, steps=2)
    assert found.scales == {NEAR: 0.01, FAR: 0.04}
    assert found.bound(FAR, 0.8) == pytest.approx(4 * found.bound(NEAR, 0.8))


def test_a_class_of_few_tables_has_the_scale_of_the_next_wider_one_and_none_is_narrower_than_a_nearer_one() -> None:
    far = [group(table, 0.04, cell=FAR) for table in "abc"]
    assert calibrated([group("d", 0.001), *far], columns=1, steps=2).scales[NEAR] == 0.04
    near = [group(table, 0.09) for table in "abc"]
    assert calibrated([*near, *far], columns=1, steps=2).scales == {NEAR: 0.09, FAR: 0.09}
    assert calibrated([], columns=1, steps=1).scales == {NEAR: LEAST_SCALE}


def test_a_class_of_few_tables_is_as_wide_as_most_tables_and_wider_where_nothing_was_measured() -> None:
    runs = [group("a", *[0.01] * 9), group("b", *[0.01] * 9), group("c", 0.08)]
    assert calibrated(runs, columns=1, steps=1).scales[NEAR] == 0.08  # Groups weigh alike, so that c is a third.
    many = [*runs, *(Group("a", kind, NEAR, (0.01,)) for kind in range(9))]
    found = calibrated(many, columns=1, steps=2).scales
    assert found[NEAR] == 0.01
    assert found[FAR] == pytest.approx(UNMEASURED_WIDER * 0.08)


def test_further_readings_of_the_same_runs_bear_on_scales_alone() -> None:
    runs = [group(table, 0.01) for table in "abc"]
    again = [Group(table, "", (1, 0), (0.05,), again=True) for table in "abc"]
    found = calibrated([*runs, *again], columns=2, steps=1)
    assert found.scales == {NEAR: 0.01, (1, 0): 0.05}
    assert found.most == calibrated(runs, columns=1, steps=1).most == 0.75
    assert found.bound((1, 0), 0.75) == pytest.approx(0.05)


def test_the_share_of_the_next_errors_within_a_bound_is_at_least_the_asked_one() -> None:
    """Exchangeable groups: leaving each of them out in turn covers as many as were asked for."""
    groups = [group(str(number), 0.01 * number, 0.01 * number + 0.005) for number in range(20)]
    held = 0
    for left_out in groups:
        rest = tuple(one for one in groups if one is not left_out)
        bound = Calibration(rest, {NEAR: 1.0}).bound(NEAR, 0.9)
        held += sum(error <= bound for error in left_out.errors)
    assert held / 40 >= 0.9
