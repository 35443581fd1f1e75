"""Pictures of a page: colours that are told apart on light and dark paper, what is labelled, what has a legend."""

import itertools
import re
from pathlib import Path

import msgspec
import numpy as np
import pytest

from planner.plans.plan import read_plan
from planner.views.html import page
from planner.views.pictures import COLOURS, HATCHED, memory_bars, pipeline, time_bar
from planner.views.report import report

ROOT = Path(__file__).parents[3]
TERMS = 14
"""Terms of memory in the plans that have most of them."""
TO_LUMINANCE = np.array([0.2126729, 0.7151522, 0.0721750])
TO_XYZ = np.array([[0.4124564, 0.3575761, 0.1804375], TO_LUMINANCE, [0.0193339, 0.1191920, 0.9503041]])
"""IEC 61966-2-1, from linear sRGB; white is D65."""
LEAST_APART = 35.0
"""CIE Lab distance; 2.3 is what an eye just tells apart side by side."""
LEAST_CONTRAST = 3.0
"""WCAG 2.1, success criterion 1.4.11: of graphics against what is beside them."""


def linear(colour: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    shares = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    return np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)


def lab(colour: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    xyz = TO_XYZ @ linear(colour) / (TO_XYZ @ np.ones(3))
    x, y, z = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def contrast(first: str, second: str) -> float:
    lighter, darker = sorted((float(TO_LUMINANCE @ linear(one)) for one in (first, second)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def papers() -> list[str]:
    template = (ROOT / "planner" / "views" / "templates" / "page.html.j2").read_text(encoding="utf-8")
    return re.findall(r"--paper: (#[0-9a-f]{6})", template)


def test_arithmetic_of_colours() -> None:
    assert lab("#ffffff") == pytest.approx([100, 0, 0], abs=0.01)
    assert lab("#ff0000") == pytest.approx([53.24, 80.09, 67.20], abs=0.02)
    assert contrast("#ffffff", "#000000") == pytest.approx(21)


def test_any_two_colours_are_told_apart() -> None:
    assert len(COLOURS) >= TERMS
    nearest = min(
        itertools.combinations(COLOURS, 2), key=lambda pair: float(np.linalg.norm(lab(pair[0]) - lab(pair[1])))
    )
    assert np.linalg.norm(lab(nearest[0]) - lab(nearest[1])) >= LEAST_APART, nearest


@pytest.mark.parametrize("paper", papers())
def test_colours_stand_out_from_light_and_dark_paper(paper: str) -> None:
    assert len(papers()) == 2
    assert {colour: contrast(colour, paper) for colour in COLOURS if contrast(colour, paper) < LEAST_CONTRAST} == {}


def test_every_term_of_memory_has_a_colour_of_its_own_in_the_legend() -> None:
    counts = []
    for path in (ROOT / "plans").glob("*.plan"):
        stages = read_plan(path).predicted.stages
        terms = {name for stage in stages for name, value in stage.breakdown_bytes.items() if value}
        bars = memory_bars(stages)
        legend = {name: colour for colour, name in bars.legend}
        assert {name.replace("_", " ") for name in terms} | {"reserve"} == legend.keys()
        assert len(set(legend.values())) == len(legend)
        assert legend["reserve"] == HATCHED
        used = {part.colour for bar in bars.bars for part in bar.parts}
        assert used == set(legend.values())
        counts.append(len(terms))
    assert max(counts) <= TERMS


def test_the_capacity_has_a_line_with_words_where_it_is() -> None:
    stages = read_plan(ROOT / "plans" / "gpt3-96xa100-40g.plan").predicted.stages
    mark = memory_bars(stages).mark
    assert mark is not None
    assert (mark.share, mark.words) == (1.0, "capacity 39.39 GiB")
    over = (msgspec.structs.replace(stages[0], peak_bytes=2 * stages[0].capacity_bytes - stages[0].reserve_bytes),)
    mark = memory_bars(over).mark
    assert mark is not None
    assert mark.share == pytest.approx(0.5)
    assert sum(part.share for part in memory_bars(over).bars[0].parts) < 1


def test_recomputation_is_in_words_and_as_a_share() -> None:
    plan = read_plan(ROOT / "plans" / "gpt3-96xa100-40g.plan")
    tiles = pipeline(plan.layout)
    assert tiles.tiles[4].lines == ("stage 4", "4 layers", "3 recomputed")
    assert [tile.share for tile in tiles.tiles[:10]] == [*(0.5,) * 4, *(0.75,) * 5, 1.0]
    ((_, words),) = tiles.legend
    assert "recomputed" in words


def test_the_bar_of_the_step_is_whole() -> None:
    bars = time_bar(read_plan(ROOT / "plans" / "gpt3-96xa100-40g.plan").predicted)
    assert sum(part.share for part in bars.bars[0].parts) == pytest.approx(1)
    assert len({colour for colour, _ in bars.legend}) == len(bars.legend)


def test_the_page_has_no_lengths_that_a_narrow_screen_cannot_show() -> None:
    text = report(read_plan(ROOT / "plans" / "gpt3-96xa100-40g.plan"))
    assert "<svg" not in text
    body = text[text.index("<body>") :]
    assert set(re.findall(r"(?:width|left|right):[^;\"]*?(px|rem|em|%)", body)) == {"%"}
    assert "capacity 39.39 GiB</span>" in body
    assert page("t", "", [], made_by="", digest="").count("<figure") == 0
