"""What the built wheels say of themselves, by the checks of .ci/check_wheels.py; that also installs each one alone."""

import importlib.util
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def check_wheels():
    spec = importlib.util.spec_from_file_location("check_wheels", ROOT / ".ci" / "check_wheels.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def wheels(check_wheels, tmp_path_factory):
    if shutil.which("uv") is None:
        pytest.skip("uv is not on PATH; it builds the wheels")
    return check_wheels.build_wheels(tmp_path_factory.mktemp("wheels"))


def test_every_package_has_a_wheel(wheels):
    folders = {path.parent.name for path in ROOT.glob("packages/*/pyproject.toml")}
    assert {wheel.name for wheel in wheels} == folders


def test_metadata_of_every_wheel(check_wheels, wheels):
    assert {wheel.name: check_wheels.metadata_problems(wheel) for wheel in wheels} == {
        wheel.name: [] for wheel in wheels
    }


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("plm-core<0.2,>=0.1", None),
        ("plm-core[lm]<0.2,>=0.1; extra == 'lm'", None),
        ("torch>=2.9", None),
        ("hiera[train]; extra == 'all'", None),
        ("plm-core", "lower and upper bound"),
        ("plm-core>=0.1", "lower and upper bound"),
        ("plm_core<0.2; extra == 'lm'", "lower and upper bound"),
        ("plm-core==0.1", "lower and upper bound"),
        ("tome>=0.1; extra == 'fast'", "meet only through the registry"),
        ("PE.Encoder", "meet only through the registry"),
        ("tome @ https://files.example/tome.whl", "names an address"),
    ],
)
def test_requirement_rows(check_wheels, row, complaint):
    problems = check_wheels.requirement_problems("hiera", ["plm-core<0.2,>=0.1", row])
    assert (complaint is None and problems == []) or (len(problems) == 1 and complaint in problems[0])


def test_core_must_be_required_without_an_extra(check_wheels):
    problems = check_wheels.requirement_problems("hiera", ["plm-core<0.2,>=0.1; extra == 'hub'"])
    assert problems == ["does not require plm-core"]
