"""What is installed: exactly two packages, the specs and the type markers."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EVIDENCE = "planner/validation/evidence.json"
TEMPLATES = {str(path.relative_to(ROOT)) for path in (ROOT / "planner").rglob("*.j2")}
RESIDUALS = "planner/cost_model/residuals.json"


def build(source: Path, target: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)]
    subprocess.run(command, cwd=source, capture_output=True, text=True, check=True)
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names of the files in the wheel that is built from the checkout."""
    return names(build(ROOT, "wheel", tmp_path_factory.mktemp("wheel")))


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_top_level_is_planner_and_runtime(wheel: set[str]) -> None:
    top = {name.partition("/")[0] for name in wheel}
    assert {name for name in top if not name.endswith(".dist-info")} == {"planner", "runtime"}


def test_every_module_spec_table_of_facts_template_and_marker_is_in(wheel: set[str]) -> None:
    modules = {
        str(path.relative_to(ROOT)) for package in ("planner", "runtime") for path in (ROOT / package).rglob("*.py")
    }
    specs = {f"planner/specs/builtin/{path.relative_to(ROOT / 'specs')}" for path in (ROOT / "specs").rglob("*.toml")}
    assert specs
    data = {*TEMPLATES, EVIDENCE, RESIDUALS, "planner/validation/facts.toml", "planner/py.typed", "runtime/py.typed"}
    assert modules | specs | data <= wheel


def test_nothing_else_is_in(wheel: set[str]) -> None:
    other = {name for name in wheel if not name.endswith((".py", ".toml", "py.typed")) and ".dist-info/" not in name}
    assert other == {*TEMPLATES, EVIDENCE, RESIDUALS}


def test_the_licence_is_in(wheel: set[str]) -> None:
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in wheel)


def test_the_source_package_builds_the_same_wheel(wheel: set[str], tmp_path: Path) -> None:
    source = build(ROOT, "sdist", tmp_path / "sdist")
    (tmp_path / "source").mkdir()
    subprocess.run(["tar", "--extract", "--file", source, "--directory", tmp_path / "source"], check=True)
    (unpacked,) = (tmp_path / "source").iterdir()
    assert names(build(unpacked, "wheel", tmp_path / "wheel")) == wheel


def test_an_installed_planner_finds_its_specs(tmp_path: Path) -> None:
    built = build(ROOT, "wheel", tmp_path / "wheel")
    with zipfile.ZipFile(built) as archive:
        archive.extractall(tmp_path / "site")
    code = "from planner.specs.files import specs_root; print(specs_root())"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "site", capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == str(tmp_path / "site" / "planner" / "specs" / "builtin")
