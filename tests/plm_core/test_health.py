"""What `plm doctor`, `check_model` and `plm info` say of the code that plug-ins name and the weights that they ship."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import plm_core
from plm_core import weights
from plm_core.hookspecs import Model
from plm_core.registry import registry
from plm_core.testing import check_model
from plm_core.tools.health import code_faults, weights_faults
from plm_core.utils.references import shipped_file

PLUGIN = """
from plm_core.hookspecs import *

@hookimpl
def plm_models():
    return [
        Model(
            name="demo_net", family="demo", builder="demo_health.model:Net", params=2_498,
            config={"img_size": 16, "patch_size": 8, "embed_dim": 8, "depth": 1, "num_heads": 2},
            input=Input(size=(3, 16, 16), fixed=True), num_classes=2, classifier="head", out_indices=(0,),
            pretrained=(Pretrained(tag="t", license="MIT", file="demo_health:weights/demo.safetensors"),),
        )
    ]

@hookimpl
def plm_weight_layouts():
    return [WeightLayout(name="theirs", models=("demo_health.model:Net",), rules="demo_health.model:rules")]

@hookimpl
def plm_block_adapters():
    return [
        BlockAdapter(
            name="demo", models=("demo_health.model:Net",), view="plm_core.adapters.timm:vision_transformer",
            example=("demo_net", {}),
        )
    ]

@hookimpl
def plm_transforms():
    return [Transform(name="idle", apply="demo_health.model:idle", remove="demo_health.model:idle")]
"""
MODEL = """
from timm.models import VisionTransformer
from plm_core.layouts import Rule

class Net(VisionTransformer):
    pass

def rules(model):
    return [Rule("head.*", "classifier.*"), Rule("*", "encoder.*")]

def idle(model):
    return model

class Strict(Net):
    def __init__(self, img_size=(16, 16), plan=([1], 2), sides=None, **options):
        if type(img_size) is not tuple or type(plan[0]) is not list:
            raise TypeError(f"img_size {img_size!r}, plan {plan!r}")
        super().__init__(img_size=img_size, **options)
        self.sides = sides

def fails(model):
    return model.no_such_thing

def text(model):
    return "head"

def pairs(model):
    return [Rule("*", "*"), ("head.*", "classifier.*")]

def nothing(model):
    pass

A_TEXT = "text"
"""
FILE, CARD = "demo_health:weights/demo.safetensors", "---\nlicense: mit\n---\n\n# demo\n"


@pytest.fixture
def demo(plm_registry):
    """Return a function that installs the demo with changes of its plug-in, and ships weights and a card with it."""

    def install(*changes):
        source = PLUGIN
        for old, new in changes:
            assert old in source
            source = source.replace(old, new)
        modules = {"demo_health/__init__.py": "", "demo_health/model.py": MODEL, "demo_health/plugin.py": source}
        plm_registry({"name": "demo", "modules": modules, "entry_points": {"demo": "demo_health.plugin"}})
        file = shipped_file(FILE)
        file.parent.mkdir()
        weights.save(plm_core.create_model("demo_net"), file)
        file.with_suffix(".md").write_text(CARD)
        return registry().get(Model, "demo_net"), file

    return install


def faults_of(spec):
    return list(weights_faults(spec, spec.pretrained[0]))


def test_a_good_package_has_no_faults(demo, plm):
    spec, _ = demo()
    assert list(code_faults("demo")) == []
    assert faults_of(spec) == []
    check_model("demo_net")
    found = plm("doctor", "--json")  # with hiera's and tome's own
    assert (found.code, json.loads(found.out)["problems"], found.err) == (0, [], "")


# --- shipped weights --------------------------------------------------------------------------------------------


def without(state):
    state.pop("norm.bias")


def wider(state):
    state["norm.bias"] = torch.zeros(9)


def not_a_number(state):
    state["norm.bias"][3] = float("nan")


def infinite(state):
    state["norm.bias"][3] = -float("inf")


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (without, "do not load: weights do not fit demo_net (layout 'native', 19 tensors fit); missing: norm.bias"),
        (wider, "wrong shape: norm.bias is [9] in the source and [8] in the model"),
        (not_a_number, "weights demo_net.t have values in norm.bias that are not finite"),
        (infinite, "weights demo_net.t have values in norm.bias that are not finite"),
    ],
)
def test_broken_tensors(demo, plm, change, fault):
    spec, file = demo()
    state = load_file(file)
    change(state)
    save_file(state, file)
    [line] = faults_of(spec)
    assert line.startswith("weights demo_net.t ")
    assert fault in line
    with pytest.raises(AssertionError, match=r"^weights demo_net\.t "):
        check_model("demo_net")


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda content: content[: len(content) // 2], "file not fully covered"),
        (lambda content: b"", "header too small"),
        (lambda content: b"hello" * 100, "header too large"),
    ],
    ids=["cut", "empty", "text"],
)
def test_broken_files(demo, damage, fault):
    spec, file = demo()
    file.write_bytes(damage(file.read_bytes()))
    [line] = faults_of(spec)
    assert line.startswith("weights demo_net.t do not load: cannot get ")
    assert fault in line


def test_a_layout_that_does_not_exist(demo):
    spec, _ = demo(('license="MIT", file', 'license="MIT", layout="nope", file'))
    [line] = faults_of(spec)
    assert line.startswith("weights demo_net.t do not load: no weight layout 'nope'; there are: native, theirs")


def test_the_doctor_loads_weights_and_reads_cards(demo, plm):
    _, file = demo()
    state = load_file(file)
    not_a_number(state)
    save_file(state, file)
    file.with_suffix(".md").unlink()
    card = f"model card 'demo.md' beside the file '{FILE}' of model demo_net.t is missing"
    values = "weights demo_net.t have values in norm.bias that are not finite"
    found = plm("doctor", "--json")
    assert found.code == 1
    assert json.loads(found.out)["problems"] == [f"{line}; report it to the authors of demo" for line in (card, values)]
    quick = plm("doctor", "--quick", "--json")
    assert json.loads(quick.out)["problems"] == [f"{card}; report it to the authors of demo"]


@pytest.mark.parametrize("card", ["# demo\n\nLicense: MIT\n", CARD.replace("mit", "apache-2.0"), "---\nlicense: mit\n"])
def test_a_card_names_the_license_of_the_weights(demo, card):
    spec, file = demo()
    file.with_suffix(".md").write_text(card)
    [line] = faults_of(spec)
    assert line.endswith("in its front matter; 'license: mit' is expected, as declared")


# --- code -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        (
            'models=("demo_health.model:Net",), rules',
            'models=("demo_health.model:Nett",), rules',
            "weight layout 'theirs' of demo: WeightLayout.models: module 'demo_health.model' has no attribute 'Nett'; "
            "did you mean 'Net'?",
        ),
        (
            'models=("demo_health.model:Net",), rules',
            'models=("demo_health.model:rules",), rules',
            "weight layout 'theirs' of demo: WeightLayout.models: 'demo_health.model:rules' is no class of models",
        ),
        (
            "demo_health.model:rules",
            "demo_health.model:A_TEXT",
            "weight layout 'theirs' of demo: WeightLayout.rules: 'demo_health.model:A_TEXT' is a str, which cannot be "
            "called",
        ),
        (
            'models=("demo_health.model:Net",), view',
            'models=("demo_health.modle:Net",), view',
            "block adapter 'demo' of demo: BlockAdapter.models: 'demo_health.modle:Net': package 'demo_health' has no "
            "module 'demo_health.modle'",
        ),
        (
            'example=("demo_net", {})',
            'example=("demo_nett", {})',
            "block adapter 'demo' of demo: BlockAdapter.example 'demo_nett' cannot be built: no model 'demo_nett'; did",
        ),
        (
            'example=("demo_net", {})',
            'example=("test_resnet", {})',
            "block adapter 'demo' of demo: BlockAdapter.example 'test_resnet' is no Net",
        ),
        (
            'apply="demo_health.model:idle"',
            'apply="demo_health.model:idel"',
            "transform 'idle' of demo: Transform.apply: module 'demo_health.model' has no attribute 'idel'; did you",
        ),
        (
            'builder="demo_health.model:Net"',
            'builder="demo_health.model:net"',
            "model 'demo_net' of demo: Model.builder: module 'demo_health.model' has no attribute 'net'; did you mean",
        ),
    ],
)
def test_code_that_does_not_exist(plm_registry, old, new, fault):
    assert old in PLUGIN
    source = PLUGIN.replace(old, new)
    modules = {"demo_health/__init__.py": "", "demo_health/model.py": MODEL, "demo_health/plugin.py": source}
    plm_registry({"name": "demo", "modules": modules, "entry_points": {"demo": "demo_health.plugin"}})
    assert fault in "; ".join(code_faults())
    assert fault in "; ".join(code_faults("demo"))
    with pytest.raises(AssertionError) as caught:
        check_model("demo_net")
    assert fault in str(caught.value)


def test_code_that_needs_a_library_which_is_not_installed_is_no_fault(plm_registry):
    source = PLUGIN.replace('models=("demo_health.model:Net",), rules', 'models=("no_such_library:Net",), rules')
    modules = {"demo_health/__init__.py": "", "demo_health/model.py": MODEL, "demo_health/plugin.py": source}
    plm_registry({"name": "demo", "modules": modules, "entry_points": {"demo": "demo_health.plugin"}})
    assert list(code_faults("demo")) == []


# --- plm info ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (
            '"num_heads": 2}',
            '"num_head": 2}',
            "model demo_net cannot be created: TypeError: VisionTransformer.__init__() got an unexpected keyword",
        ),
        ('demo_health.model:Net", params', 'demo_health.modle:Net", params', "has no module 'demo_health.modle'"),
        ('demo_health.model:Net", params', 'demo_health.broken:Net", params', "ImportError: cannot import name 'Gone'"),
        (
            "demo_health.model:rules",
            "demo_health.model:nothing",
            "weight layout 'theirs': demo_health.model:nothing returns a NoneType; a sequence of Rule is expected",
        ),
        ("demo_health.model:rules", "demo_health.model:text", "text returns a str; a sequence of Rule is expected"),
        ("demo_health.model:rules", "demo_health.model:pairs", "returns a tuple as number 1; a Rule is expected"),
        (
            "demo_health.model:rules",
            "demo_health.model:fails",
            "weight layout 'theirs': demo_health.model:fails fails on Net: AttributeError: 'Net' object has no",
        ),
        (
            "plm_core.adapters.timm:vision_transformer",
            "demo_health.model:nothing",
            "transform tome: block adapter 'demo': demo_health.model:nothing returns a NoneType; a ModelView is",
        ),
        (
            'apply="demo_health.model:idle"',
            'apply="demo_health.model:fails"',
            "transform idle: AttributeError: 'Net' object has no attribute 'no_such_thing'",
        ),
    ],
)
def test_info_names_what_fails_and_exits_with_1(plm, plm_registry, old, new, problem):
    assert old in PLUGIN
    modules = {
        "demo_health/__init__.py": "",
        "demo_health/model.py": MODEL,
        "demo_health/broken.py": "from timm.models import Gone",
        "demo_health/plugin.py": PLUGIN.replace(old, new),
    }
    plm_registry({"name": "demo", "modules": modules, "entry_points": {"demo": "demo_health.plugin"}})
    shown = plm("info", "demo_net")
    facts = dict(shown.rows)
    assert (shown.code, facts["family"]) == (1, "demo")
    assert problem in facts["problem"]
    assert "Traceback" not in shown.out + shown.err
    found = plm("info", "demo_net", "--json")
    assert found.code == 1
    assert any(problem in line for line in json.loads(found.out)["problems"])


def test_lists_of_a_model_folder_are_tuples_again_unless_they_are_declared_as_lists(plm_registry, tmp_path):
    source = PLUGIN.replace('model:Net", params', 'model:Strict", params').replace(
        '"img_size": 16,', '"img_size": (16, 16), "plan": [[1], 2],'
    )
    modules = {"demo_health/__init__.py": "", "demo_health/model.py": MODEL, "demo_health/plugin.py": source}
    plm_registry({"name": "demo", "modules": modules, "entry_points": {"demo": "demo_health.plugin"}})
    model = plm_core.create_model("demo_net", img_size=(24, 16), plan=[[3], 2], sides=((1, 2), 3))
    weights.save_pretrained(model, tmp_path, license="MIT")
    assert json.loads((tmp_path / "config.json").read_text())["model_args"]["img_size"] == [24, 16]
    again = plm_core.create_model(tmp_path, pretrained=True)
    assert again.patch_embed.img_size == (24, 16)
    assert again.sides == ((1, 2), 3)
