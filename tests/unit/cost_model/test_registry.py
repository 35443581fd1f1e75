"""Every registered formula cites a known source and has a test that names it."""

import ast
from pathlib import Path

import pytest

from planner import cost_model  # registers the formulas
from planner.cost_model.sources import FORMULAS, SOURCES

HERE = Path(__file__).parent
MODULES = sorted({name.split(".")[0] for name in FORMULAS})


def names_of_tests(module: str) -> list[str]:
    """Names of the tests of one module of formulas."""
    tree = ast.parse((HERE / f"test_{module}.py").read_text())
    return [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]


def test_the_formulas_are_registered() -> None:
    assert cost_model.predict is not None
    assert len(FORMULAS) >= 40


@pytest.mark.parametrize("module", MODULES)
def test_every_formula_has_a_test_that_starts_with_its_name(module: str) -> None:
    formulas = [name.split(".")[1] for name in FORMULAS if name.startswith(f"{module}.")]
    missing = [name for name in formulas if not any(t.startswith(f"test_{name}_") for t in names_of_tests(module))]
    assert missing == []


@pytest.mark.parametrize(("formula", "source_ids"), sorted(FORMULAS.items()))
def test_every_formula_cites_known_sources(formula: str, source_ids: tuple[str, ...]) -> None:
    assert source_ids, f"{formula} cites nothing"
    assert set(source_ids) <= SOURCES.keys()


def test_every_source_is_cited() -> None:
    assert SOURCES.keys() - {source_id for ids in FORMULAS.values() for source_id in ids} == set()
