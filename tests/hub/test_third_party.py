"""A package from outside, made of the very code in CONTRIBUTING, beside one that is broken."""

import re
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

CONTRIBUTING = Path(__file__).parents[2] / ".github" / "CONTRIBUTING.md"


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", CONTRIBUTING.read_text(), re.MULTILINE | re.DOTALL)


def the_package():
    project = tomllib.loads(blocks("toml")[0])["project"]
    plugin = next(block for block in blocks("python") if "plm_models" in block)
    return {
        "name": project["name"],
        "version": project["version"],
        "requires": project["dependencies"],
        "entry_points": project["entry-points"]["plm"],
        "modules": {"acme_models/__init__.py": "", "acme_models/plugin.py": plugin},
    }


BROKEN = {
    "name": "acme-broken",
    "version": "1.0",
    "entry_points": {"acme-broken": "acme_broken"},
    "modules": {"acme_broken.py": "import a_module_that_nobody_has"},
}


def test_model_of_contributing_passes_its_own_test(plm_registry):
    hub = plm_registry(the_package(), BROKEN)
    status = {s.name: s for s in hub.statuses}
    assert status["acme"].healthy
    assert not status["acme-broken"].healthy
    assert timm.create_model("acme_vit_micro").num_classes == 10
    assert "hiera_micro_digits" in hub.all(Model)
    check = next(block for block in blocks("python") if "check_model" in block)
    namespace = {}
    exec(check, namespace)
    namespace["test_acme_vit_micro"]()


def test_check_model_finds_what_is_wrong(plm_registry):
    package = the_package()
    source = package["modules"]["acme_models/plugin.py"]
    package["modules"]["acme_models/plugin.py"] = source.replace("67_258", "67_259")
    plm_registry(package)
    with pytest.raises(AssertionError, match="has 67258 parameters, 67259 are declared"):
        check_model("acme_vit_micro")


@pytest.mark.parametrize("name", ["hiera_micro_digits", "vit_tiny_patch16_224"])
def test_transform_of_contributing_works_and_is_undone(plm_registry, name):
    package = the_package()
    declares, does = (next(b for b in blocks("python") if word in b) for word in ("plm_transforms", "run_block("))
    package["modules"] |= {"acme_models/plugin.py": declares, "acme_models/transform.py": does}
    plm_registry(package)
    model = plm_core.create_model(name).eval()
    x = torch.rand(1, *model.pretrained_cfg["input_size"])
    with torch.no_grad():
        before = model.forward_features(x)
        plm_core.apply(model, "acme")
        assert not torch.equal(model.forward_features(x), before)
        plm_core.remove(model)
        assert torch.equal(model.forward_features(x), before)


def test_command_line_lists_the_good_one_and_reports_the_broken_one(tmp_path):
    write_distribution(tmp_path / "good", **the_package())
    write_distribution(tmp_path / "bad", **BROKEN)
    script = "import sys; from plm_core.cli import main; sys.argv[0] = 'plm'; main()"

    def plm(*arguments):
        path = f"import sys; sys.path[:0] = [{str(tmp_path / 'good')!r}, {str(tmp_path / 'bad')!r}]; "
        return subprocess.run([sys.executable, "-c", path + script, *arguments], capture_output=True, text=True)

    listed = plm("list")
    assert listed.returncode == 0
    assert "acme_vit_micro\tacme-models\t67k" in listed.stdout
    assert "hiera_micro_digits" in listed.stdout
    assert "acme-broken" in listed.stderr  # warned about, once, in one line
    assert len(listed.stderr.splitlines()) == 1
    doctor = plm("doctor")
    assert doctor.returncode == 1
    assert "a_module_that_nobody_has" in doctor.stdout
    assert "PLM_DISABLE_PLUGINS=acme-broken" in doctor.stdout
