"""``gptplan`` and ``python -m planner.cli``: Ctrl-C ends it with one line from its first moment to its last."""

import os
import signal
import sys
from types import FrameType
from typing import NoReturn


def main() -> None:
    """Run a command and exit."""
    heeds = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # or somebody asked to ignore it
    if heeds:
        signal.signal(signal.SIGINT, _end)
    from planner.cli.app import run

    try:
        if heeds:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        code = run()
        if heeds:
            signal.signal(signal.SIGINT, _end)
    except KeyboardInterrupt:
        _end()
    sys.exit(code)


def _end(number: int = signal.SIGINT, frame: FrameType | None = None) -> NoReturn:
    """End at once: what is half imported can neither be used nor taken down in order."""
    os.write(2, b"interrupted\n")
    os._exit(130)


if __name__ == "__main__":
    main()
