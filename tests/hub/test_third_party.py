"""A package from outside: the one in tests/third_party that CONTRIBUTING quotes, alone and beside a broken one."""

import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import timm
import torch

import plm_core
from plm_core.hookspecs import Model
from plm_core.testing import check_model, write_distribution

ROOT = Path(__file__).parents[2]
ACME = ROOT / "tests" / "third_party" / "acme-models"
CONTRIBUTING = (ROOT / ".github" / "CONTRIBUTING.md").read_text()
# The text before a code block, its language and its content.
CODE_BLOCK = re.compile(r"(.*?)^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

BROKEN = {
    "name": "acme-broken",
    "version": "1.0",
    "entry_points": {"acme-broken": "acme_broken"},
    "modules": {"acme_broken.py": "import a_module_that_nobody_has"},
}


def as_distribution():
    """Return acme-models as keywords for `write_distribution`."""
    project = tomllib.loads((ACME / "pyproject.toml").read_text())["project"]
    source = ACME / "src"
    return {
        "name": project["name"],
        "version": project["version"],
        "requires": project["dependencies"],
        "entry_points": project["entry-points"]["plm"],
        "modules": {str(path.relative_to(source)): path.read_text() for path in source.rglob("*.py")},
    }


@pytest.fixture(scope="module")
def acme_folder(tmp_path_factory):
    """Install acme-models and return its folder. Where there is no uv to build it, write the same files."""
    folder = tmp_path_factory.mktemp("distribution")  # plm_registry forgets modules that come from such a folder
    if shutil.which("uv") is None:
        return write_distribution(folder, **as_distribution())
    project = tmp_path_factory.mktemp("outside") / "acme-models"
    shutil.copytree(ACME, project)
    subprocess.run(["uv", "pip", "install", "--quiet", "--no-deps", "--target", folder, project], check=True)
    return folder


@pytest.fixture
def acme(acme_folder, monkeypatch):
    """Put the installed acme-models on this process's path."""
    monkeypatch.syspath_prepend(acme_folder)


# --- in this process --------------------------------------------------------------------------------------------


def test_it_passes_its_own_tests_beside_a_broken_plugin(acme, plm_registry, tmp_path, plm):
    registry = plm_registry(BROKEN)
    healthy = {status.name: status.healthy for status in registry.statuses}
    assert healthy["acme"]
    assert not healthy["acme-broken"]
    assert timm.create_model("acme_vit_micro").num_classes == 10
    assert "hiera_micro_digits" in registry.all(Model)
    tests = runpy.run_path(str(ACME / "tests" / "test_acme_models.py"))
    tests["test_model"]()
    tests["test_gated_model"]()
    tests["test_weights_of_the_authors_load"]()
    tests["test_transform_is_undone"]()
    tests["test_recipe_leaves_a_model_folder"](tmp_path)
    assert "acme-turns\tacme-models\timages\tacme_vit_micro" in plm("train", "--list").out
    words = ["--set", "smoothing=0.5", "--max-steps", 1, "--out", tmp_path / "again"]
    assert plm("train", "acme-turns", tmp_path / "shapes", *words).code == 0
    assert json.loads((tmp_path / "again" / "training.json").read_text())["config"]["smoothing"] == 0.5
    assert plm("predict", tmp_path / "again", tmp_path / "shapes").code == 0


def test_the_conformance_check_finds_a_wrong_declaration(plm_registry):
    wrong = as_distribution()
    wrong["modules"]["acme_models/plugin.py"] = wrong["modules"]["acme_models/plugin.py"].replace("77_146", "77_147")
    plm_registry(wrong)
    with pytest.raises(AssertionError, match="has 77146 parameters, 77147 are declared"):
        check_model("acme_vit_micro")


@pytest.mark.parametrize("name", ["acme_gated_micro", "hiera_micro_digits", "vit_tiny_patch16_224"])
def test_its_transform_works_on_other_models_and_is_undone(acme, plm_registry, name):
    plm_registry()
    model = plm_core.create_model(name).eval()
    x = torch.rand(1, *model.pretrained_cfg["input_size"])
    with torch.no_grad():
        before = model.forward_features(x)
        plm_core.apply(model, "acme_mean")
        assert not torch.equal(model.forward_features(x), before)
        plm_core.remove(model)
        assert torch.equal(model.forward_features(x), before)


def test_transforms_of_others_reach_into_its_own_model(acme, plm_registry):
    plm_registry()
    model = plm_core.create_model("acme_gated_micro").eval()
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        before = model(x)
        plm_core.apply(model, "tome", r=4)
        assert not torch.equal(model(x), before)
        plm_core.remove(model)
        assert torch.equal(model(x), before)


# --- on the command line ----------------------------------------------------------------------------------------


def plm_process(arguments, *folders):
    """Run ``plm`` in a process of its own, with more folders of installed packages."""
    script = "import sys; from plm_core.cli import main; sys.argv[0] = 'plm'; main()"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, folders))}
    return subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, env=environment)


def test_command_line_lists_the_good_one_and_reports_the_broken_one(acme_folder, tmp_path):
    folders = acme_folder, write_distribution(tmp_path, **BROKEN)
    listed = plm_process(["list"], *folders)
    assert listed.returncode == 0
    assert "acme_vit_micro\tacme-models\t77k" in listed.stdout
    assert "hiera_micro_digits" in listed.stdout
    assert "acme-broken" in listed.stderr  # warned about, once, in one line
    assert len(listed.stderr.splitlines()) == 1
    doctor = plm_process(["doctor", "--quick"], *folders)
    assert doctor.returncode == 1
    assert "a_module_that_nobody_has" in doctor.stdout
    assert "PLM_DISABLE_PLUGINS=acme-broken" in doctor.stdout


def test_command_line_prints_what_contributing_shows(acme_folder):
    shown = "".join(code for _, language, code in CODE_BLOCK.findall(CONTRIBUTING) if language == "console")
    assert shown.startswith("$ plm ")
    for part in shown.removeprefix("$ ").split("\n$ "):
        command, _, output = part.partition("\n")
        result = plm_process(shlex.split(command)[1:], acme_folder)
        assert result.stdout.split() == output.split(), f"'{command}' prints:\n{result.stdout}{result.stderr}"


# --- in CONTRIBUTING -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def quotes():
    """Return every TOML and Python block of CONTRIBUTING with the text before it."""
    blocks = CODE_BLOCK.findall(CONTRIBUTING)
    return [(before, code) for before, language, code in blocks if language in ("toml", "python")]


@pytest.fixture(scope="module")
def files():
    """Return the files of acme-models by their paths, as text."""
    paths = [ACME / "pyproject.toml", *ACME.rglob("*.py")]
    return {str(path.relative_to(ACME)): path.read_text() for path in paths}


def test_contributing_quotes_the_files_to_the_letter(quotes, files):
    for before, code in quotes:
        names = [name for name, text in files.items() if f"\n{code}" in f"\n{text}"]
        assert len(names) == 1, f"CONTRIBUTING quotes this, which is in {names or 'no file'} of acme-models:\n{code}"
        assert f"`{names[0]}`" in before, f"CONTRIBUTING quotes {names[0]} without naming it"


def test_contributing_leaves_nothing_out(quotes, files):
    for name, text in files.items():
        for _, code in quotes:
            text = text.replace(code, "")
        assert not text.strip(), f"CONTRIBUTING does not quote this part of {name}:\n{text.strip()}"
