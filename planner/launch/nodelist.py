"""Lists of hosts as Slurm writes them: ``n[001-003,7],gpu5``."""

import re

_RANGES = re.compile(r"\[([^\[\],-]*)[^\[\]]*\]")


def first_host(nodelist: str) -> str:
    """The first host of a list; empty for an empty list.

    That is node 0 of a step: Slurm numbers nodes in the order of the list (scontrol(1), ``show hostnames``). A name
    may have several ranges, as in ``rack[1-2]n[1-4]``.
    """
    # A comma within brackets ends no name.
    first = re.match(r"(?:[^,\[\]]|\[[^\[\]]*\])*", nodelist.strip())
    return _RANGES.sub(r"\1", first[0]) if first else ""
