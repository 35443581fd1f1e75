"""What is said of the machine that is measured."""

from planner.calibration.measuring import busy_words


def test_a_busy_machine_is_said() -> None:
    assert busy_words(1.0, 2) == busy_words(0.4, 1) == ""
    assert "3.1 at a time on 2 cores" in busy_words(3.1, 2)
