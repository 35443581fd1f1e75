"""``gptplan`` and ``python -m planner.cli``: Ctrl-C ends it with one line from its first moment to its last."""

import signal
import sys

from planner.cli.interrupting import end_at_once


def main() -> None:
    """Run a command and exit."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # or somebody asked to ignore it
        signal.signal(signal.SIGINT, end_at_once)
    try:
        from planner.cli.app import run

        code = run()
    except KeyboardInterrupt:
        end_at_once()
    sys.exit(code)


if __name__ == "__main__":
    main()
