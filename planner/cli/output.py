"""How commands print data."""

import sys
from typing import Any

import msgspec


def print_json(document: Any) -> None:
    """Write one JSON document to stdout."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n")
