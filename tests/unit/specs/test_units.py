"""Quantities: every unit reads, and what has none is refused with the units that fit."""

import pytest

from planner.specs.units import (
    EXAMPLES,
    GIB,
    MIB,
    TIB,
    UNIT_SCALES,
    Bytes,
    BytesPerSecond,
    FlopsPerSecond,
    Seconds,
    format_bytes,
    format_gap,
    format_gib,
    format_rate,
    format_seconds,
    parse_quantity,
    quantity_text,
)


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        ("0 B", Bytes, 0),
        ("80 GiB", Bytes, 80 * GIB),
        ("80GiB", Bytes, 80 * GIB),
        ("  1.5 TiB ", Bytes, 3 * TIB // 2),
        ("24 MiB", Bytes, 24 * MIB),
        ("15.36 TB", Bytes, 15_360_000_000_000),
        ("1e3 kB", Bytes, 1_000_000),
        ("2 us", Seconds, 2e-6),
        ("0.5 ms", Seconds, 5e-4),
        ("3 s", Seconds, 3.0),
        ("70 ns", Seconds, 7e-8),
        ("300 GB/s", BytesPerSecond, 3e11),
        ("1 GiB/s", BytesPerSecond, float(GIB)),
        ("200 Gbit/s", BytesPerSecond, 2.5e10),
        ("8 bit/s", BytesPerSecond, 1.0),
        ("312 TFLOP/s", FlopsPerSecond, 3.12e14),
        ("1.5 PFLOP/s", FlopsPerSecond, 1.5e15),
        ("2 FLOP/s", FlopsPerSecond, 2.0),
    ],
)
def test_quantity_is_in_base_units(text: str, kind: type, expected: float) -> None:
    value = parse_quantity(text, kind)
    assert value == pytest.approx(expected, rel=1e-12)
    assert type(value) is kind


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("80", Bytes),
        ("80 GB/s", Bytes),
        ("80 gib", Bytes),
        ("-1 GiB", Bytes),
        ("", Bytes),
        ("1.5.2 GiB", Bytes),
        ("nan GiB", Bytes),
        ("2 GiB extra", Bytes),
        ("2 minutes", Seconds),
        ("300 GB", BytesPerSecond),
        ("200 Gb/s", BytesPerSecond),
        ("312 TFLOPS", FlopsPerSecond),
    ],
)
def test_bad_quantity_names_the_units_and_an_example(text: str, kind: type) -> None:
    with pytest.raises(ValueError, match="is not a quantity in one of") as raised:
        parse_quantity(text, kind)
    message = str(raised.value)
    assert f"`{text}`" in message
    assert EXAMPLES[kind] in message


@pytest.mark.parametrize("kind", UNIT_SCALES)
def test_example_of_each_kind_parses(kind: type) -> None:
    assert parse_quantity(EXAMPLES[kind], kind) > 0


@pytest.mark.parametrize(
    ("num_bytes", "expected"),
    [(0, "0 B"), (1023, "1023 B"), (24 * MIB, "24.00 MiB"), (GIB * 3 // 2, "1.50 GiB"), (2 * TIB, "2.00 TiB")],
)
def test_bytes_are_shown_in_binary_units(num_bytes: int, expected: str) -> None:
    assert format_bytes(num_bytes) == expected


@pytest.mark.parametrize(
    ("num_bytes", "expected"),
    [
        *((2048 * GIB, "2048.00 GiB"), (512 * MIB, "0.50 GiB"), (103 * MIB, "0.10 GiB"), (0, "0.00 GiB")),
        *((102 * MIB, "102.00 MiB"), (-5 * MIB, "-5.00 MiB"), (MIB // 4, "0.25 MiB")),
    ],
)
def test_gib_stay_gib_unless_they_would_say_nothing(num_bytes: int, expected: str) -> None:
    assert format_gib(num_bytes) == expected


@pytest.mark.parametrize(
    ("duration_s", "expected"),
    [
        (20.1, "20.1 s"),
        (3.42e-3, "3.42 ms"),
        (12e-6, "12.0 us"),
        (5e-8, "50 ns"),
        (123.0, "123 s"),
        (1331.0, "1,331 s"),
        (0.9997, "1.00 s"),
        (-0.9994, "-999 ms"),
    ],
)
def test_seconds_have_three_digits(duration_s: float, expected: str) -> None:
    assert format_seconds(duration_s) == expected


@pytest.mark.parametrize(("share", "expected"), [(0.0, "0.00%"), (1e-9, "0.01%"), (0.00011, "0.02%"), (0.5, "50.00%")])
def test_a_gap_is_rounded_up(share: float, expected: str) -> None:
    assert format_gap(share) == expected


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [(1.4e14, "FLOP/s", "140 TFLOP/s"), (3e11, "B/s", "300 GB/s"), (2.5, "B/s", "2.50 B/s")],
)
def test_rate_has_three_digits(value: float, unit: str, expected: str) -> None:
    assert format_rate(value, unit) == expected


@pytest.mark.parametrize("text", ["80 GiB", "24 MiB", "7 B", "2 us", "1500 us", "450 GB/s", "989 TFLOP/s", "3 B/s"])
def test_a_quantity_is_written_as_it_is_read(text: str) -> None:
    kind = next(kind for kind, scales in UNIT_SCALES.items() if text.split()[1] in scales)
    assert quantity_text(parse_quantity(text, kind)) == text


def test_what_is_no_quantity_is_not_written() -> None:
    with pytest.raises(TypeError, match="complex has no form in a spec file"):
        quantity_text(1j)
