"""Texts that a script passes to commands in here-documents."""

import json
import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

_BEGINS = re.compile(r"<<-?[ \t]*(['\"]?)(\w+)\1")


def here_documents(text: str) -> Iterator[str]:
    """The here-documents of a script, each without the line that ends it; found in time that grows with the text."""
    lines = text.splitlines()
    places: dict[str, list[int]] = defaultdict(list)
    for index, line in enumerate(lines):
        places[line.strip()].append(index)
    index = 0
    while index < len(lines):
        begins = _BEGINS.search(lines[index])
        ends = places.get(begins[2], []) if begins is not None else []
        following = bisect_right(ends, index)
        if following < len(ends):
            yield "\n".join(lines[index + 1 : ends[following]])
            index = ends[following]
        index += 1


def here_tables(text: str) -> Iterator[dict[str, Any]]:
    """Those of the here-documents that are objects of JSON; one with variables of the script is none."""
    for document in here_documents(text):
        try:
            found = json.loads(document)
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict):
            yield found
