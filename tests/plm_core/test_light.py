"""Light commands import neither torch nor timm nor pydantic.

Only two fresh interpreters check it, because they cost time.
"""

import json
import os
import subprocess
import sys

import pytest

from plm_core import __version__
from plm_core.testing.distributions import write_distribution

HEAVY = ("torch", "torchvision", "timm", "transformers", "sklearn", "matplotlib", "diffusers", "pydantic")

# Runs each step and prints as JSON its exit code, its output and the heavy modules that are imported after it.
DRIVER = """
import contextlib, importlib, io, json, sys

def step(words):
    out, code = io.StringIO(), 0
    with contextlib.redirect_stdout(out):
        if words[0] == "import":
            importlib.import_module(words[1])
        else:
            from plm_core.cli import main
            sys.argv = words
            try:
                main()
            except SystemExit as e:
                code = e.code or 0
    return {"code": code, "out": out.getvalue(), "heavy": [m for m in HEAVY if m in sys.modules]}

HEAVY, steps = json.loads(sys.argv[1])
print(json.dumps([step(words.split()) for words in steps]))
"""


def run(steps, path=()):
    """Take the steps in one fresh interpreter and return step -> {code, out, heavy}, and stderr."""
    search = [*map(str, path), os.environ.get("PYTHONPATH")]
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, json.dumps([HEAVY, steps])],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, search))},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(steps, json.loads(done.stdout), strict=True)), done.stderr


LOOKING = {
    "import plm_core": None,
    "import hiera": None,
    "import parc": None,
    "import tome": None,
    "import plm_core.datasets.kinds": None,
    "import plm_core.datasets.splits": None,
    "import plm_core.datasets.captions.loading": None,
    "plm --help": "doctor",
    "plm --version": f"plm-core {__version__}",
    "plm list": "hiera_image_tiny_224",
    "plm list --json": '"hiera_micro_digits"',
    "plm list --pretrained": "hiera_micro_digits.sklearn_digits",
    "plm doctor --quick": "huggingface-hub",
    "plm doctor --quick --json": '"plugins"',
    "import plm_core.testing.fixtures": None,  # pytest imports it wherever plm-core is installed
}


@pytest.fixture(scope="module")
def looked():
    return run(list(LOOKING))[0]


@pytest.mark.parametrize(("step", "shown"), LOOKING.items())
def test_looking_around_is_light(looked, step, shown):
    assert looked[step]["heavy"] == []
    assert looked[step]["code"] == 0
    assert (shown or "") in looked[step]["out"]


@pytest.fixture(scope="module")
def with_heavy_plugin(tmp_path_factory):
    """One plug-in that is fine and one that imports timm and torch, or rather empty stand-ins, which cost nothing."""
    folder = tmp_path_factory.mktemp("heavy")
    for package in ("torch", "timm"):
        (folder / package).mkdir()
        (folder / package / "__init__.py").touch()
    good = "from plm_core.hookspecs import *\n@hookimpl\ndef plm_models():\n    return []\n"
    write_distribution(folder, "aa-good", {"aa_plugin.py": good}, {"aa-good": "aa_plugin"})
    write_distribution(folder, "heavy", {"heavy_plugin.py": f"import timm, torch\n{good}"}, {"heavy": "heavy_plugin"})
    steps, stderr = run(["plm doctor --quick", "plm doctor --quick --json", "plm list"], [folder])
    assert steps["plm doctor --quick"]["heavy"] == ["torch", "timm"]
    return steps, stderr


def test_doctor_reports_a_heavy_plugin(with_heavy_plugin):
    steps, _ = with_heavy_plugin
    assert steps["plm doctor --quick"]["code"] == steps["plm doctor --quick --json"]["code"] == 1
    assert "importing it loads torch and timm: name code by strings instead" in steps["plm doctor --quick"]["out"]
    heavy = {p["name"]: p["heavy"] for p in json.loads(steps["plm doctor --quick --json"]["out"])["plugins"]}
    assert {name for name, loads in heavy.items() if loads} == {"heavy"}
    assert heavy["heavy"] == ["torch", "timm"]
    assert {"plm-core", "hiera", "aa-good"} <= set(heavy)


def test_a_heavy_plugin_is_warned_about_once_and_hurts_nothing(with_heavy_plugin):
    steps, stderr = with_heavy_plugin
    assert stderr.splitlines() == ["plm: plug-in heavy imports torch and timm at start-up"]
    assert steps["plm list"]["code"] == 0
    assert "hiera_micro_digits" in steps["plm list"]["out"]
