"""What ranks write to stderr is passed on, and its end is kept to be told to the other nodes."""

import sys
from pathlib import Path

import pytest

from planner.launch.logs import KEPT_BYTES, MOST_LINES, kept_stderr, last_lines
from planner.launch.ranks import Command, run_ranks

TALKS = "import sys; [print('line', n, file=sys.stderr) for n in range(20_000)]; print(file=sys.stderr); sys.exit(4)"


def test_all_of_it_is_passed_on_and_the_end_is_kept(capfd: pytest.CaptureFixture[str]) -> None:
    command = Command(argv=(sys.executable, "-c", TALKS), env={})
    with kept_stderr() as stderr:
        assert stderr is not None
        ended = run_ranks([command], stderr=stderr)
        assert ended.codes == (4,)
    assert stderr.last_lines() == [f"line {number}" for number in range(20_000 - MOST_LINES, 20_000)]
    assert capfd.readouterr().err.count("line ") == 20_000


def test_the_log_that_a_message_names_comes_first(tmp_path: Path) -> None:
    log = tmp_path / "rank1.log"
    log.write_text("x" * 3 * KEPT_BYTES + "\nTraceback\n\nValueError: no\n")
    said = f"error[RUN008]: rank 1 failed with ValueError\n  --> {log}\n  no"
    assert last_lines(said, None)[-2:] == ["Traceback", "ValueError: no"]
    assert all(len(line) <= 400 for line in last_lines(said, None))
    assert last_lines("error[RUN008]: rank 1 was killed by SIGKILL", None) == []
