"""What holds for all tests."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def _no_width() -> Iterator[None]:
    """Output is as wide as it is behind a pipe, whatever the terminal or the runner of these tests sets."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("COLUMNS", raising=False)
        yield
