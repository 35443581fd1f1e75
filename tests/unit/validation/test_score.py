"""Scores against values worked out by hand."""

import math

import pytest

from planner.validation.score import Limits, errors, kendall_tau, outcomes, ranking, top1_regret_pct


def test_errors_of_pairs() -> None:
    found = errors([(100.0, 110.0), (200.0, 190.0), (50.0, 50.0)])
    assert found.n == 3
    assert found.mean_abs_pct == pytest.approx((10 + 5 + 0) / 3)
    assert found.max_abs_pct == pytest.approx(10)
    assert found.bias_pct == pytest.approx((10 - 5 + 0) / 3)


def test_no_pair_has_no_error() -> None:
    found = errors([])
    assert (found.n, found.mean_abs_pct, found.max_abs_pct, found.bias_pct) == (0, None, None, None)


def test_outcomes_are_counted() -> None:
    found = outcomes([("fit", "fit"), ("fit", "fit"), ("fit", "oom"), ("oom", "oom")])
    assert (found.fit_as_fit, found.fit_as_oom, found.oom_as_fit, found.oom_as_oom) == (2, 1, 0, 1)


@pytest.mark.parametrize(
    ("pairs", "tau"),
    [
        ([(1, 10), (2, 20), (3, 30)], 1.0),
        ([(1, 30), (2, 20), (3, 10)], -1.0),
        # Pairs (1,2) and (1,3) concordant, (2,3) discordant: (2 - 1) / 3.
        ([(1, 1), (2, 3), (3, 2)], 1 / 3),
        # 5 of 6 pairs concordant, 1 discordant.
        ([(1, 1), (2, 2), (3, 4), (4, 3)], 4 / 6),
        # One tie in the first value: 2 concordant of 3 pairs, 2 untied in the first and 3 in the second.
        ([(1, 1), (1, 2), (2, 3)], 2 / math.sqrt(2 * 3)),
        # A tie in both values counts for neither.
        ([(1, 1), (1, 1), (2, 2)], 1.0),
    ],
)
def test_kendall_tau_b(pairs: list[tuple[float, float]], tau: float) -> None:
    assert kendall_tau(pairs) == pytest.approx(tau)


@pytest.mark.parametrize("pairs", [[(1.0, 1.0)], [(1.0, 1.0), (1.0, 2.0)], [(1.0, 2.0), (2.0, 2.0)]])
def test_no_order_has_no_tau(pairs: list[tuple[float, float]]) -> None:
    assert kendall_tau(pairs) is None


def test_regret_is_what_the_predicted_best_costs() -> None:
    assert top1_regret_pct([(10, 5), (12, 4), (11, 6)]) == pytest.approx(20)
    assert top1_regret_pct([(10, 3), (12, 4)]) == 0


def test_ranking_weighs_groups_by_their_pairs() -> None:
    found = ranking(
        {
            "ordered": [(1.0, 1.0), (2.0, 2.0), (3.0, 3.0)],  # 3 pairs, tau 1, regret 0
            "reversed": [(1.0, 2.0), (2.0, 1.0)],  # 1 pair, tau -1, regret 100
            "alone": [(1.0, 1.0)],
        }
    )
    assert found.groups == 2
    assert found.kendall_tau == pytest.approx((3 * 1 + 1 * -1) / 4)
    assert found.top1_regret_pct == pytest.approx(50)
    assert found.top1_regret_max_pct == pytest.approx(100)
    assert found.top1_within_3_pct == pytest.approx(50)


def test_no_group_has_no_ranking() -> None:
    found = ranking({"alone": [(1.0, 1.0)]})
    assert (found.groups, found.kendall_tau, found.top1_regret_pct) == (0, None, None)


def test_limits_are_off_by_default() -> None:
    assert Limits() == (None, None)
