"""Writing specs as the TOML files that :mod:`planner.specs.files` reads.

TOML Kit lays out a list on one line, as people write a curve's points; tomli-w, which ``msgspec.toml`` takes, would
give each number of a point a line of its own.
"""

import msgspec
import tomlkit

from planner.specs.units import quantity_text


def to_toml(spec: msgspec.Struct) -> str:
    """The spec as TOML with a unit on every quantity; fields at their default are left out.

    Rates and durations keep six digits. Raises ``TypeError`` for a value that no spec has.
    """
    return tomlkit.dumps(msgspec.to_builtins(spec, enc_hook=quantity_text))
