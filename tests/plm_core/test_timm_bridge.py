"""Our models in timm's registry, whatever is imported first, and what plm_core.models adds to timm's functions."""

import json
import os
import subprocess
import sys
import threading
import types
from importlib.machinery import ModuleSpec

import pytest
import timm
import torch
from PIL import Image
from timm.models._registry import _deprecated_models, _model_entrypoints
from torch import nn

import plm_core
from plm_core import (
    DuplicateName,
    InputError,
    MissingDependency,
    NotSupported,
    PluginError,
    UnknownName,
    WeightsError,
    timm_bridge,
    weights,
)
from plm_core.cli import main
from plm_core.hookspecs import Model
from plm_core.hub import INDEX_FILE
from plm_core.registry import Registry, registry, registry_or_call, using
from plm_core.timm_bridge import entrypoints, finder
from plm_core.timm_bridge.finder import TimmFinder
from plm_core.utils import licenses

MICRO, TINY = "hiera_micro_digits", "hiera_image_tiny_224"
OURS = set(registry().all(Model))

# --- orders of import, in fresh interpreters --------------------------------------------------------------------


def fresh(script):
    """Run a script in a fresh interpreter, where a second registration of a name is an error; return its JSON."""
    head = "import importlib, json, sys, warnings\nwarnings.filterwarnings('error', message='Overwriting')\n"
    done = subprocess.run(
        [sys.executable, "-c", head + script], env=os.environ, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_timm_first_then_reloads():
    state = fresh(f"""
import timm
state = {{"before": timm.is_model({MICRO!r})}}
import plm_core
from plm_core.timm_bridge import finder
state["after"] = timm.is_model({MICRO!r})

def finders():
    return [type(f).__name__ for f in sys.meta_path].count("TimmFinder")

for _ in range(3):
    importlib.reload(finder).install()
importlib.reload(plm_core)
state["finders after reloads"] = finders()
importlib.reload(timm)
importlib.reload(timm)
state["after timm's reload"] = timm.is_model({MICRO!r})

for name in [name for name in sys.modules if name.partition(".")[0] == "timm"]:
    del sys.modules[name]
import timm
state["in a new copy of timm"] = timm.is_model({MICRO!r})
state["stock models in it"] = timm.is_model("resnet18")
print(json.dumps(state))
""")
    assert state == {
        "before": False,
        "after": True,
        "finders after reloads": 1,
        "after timm's reload": True,
        "in a new copy of timm": True,
        "stock models in it": True,
    }


def test_hiera_first_and_lazily():
    state = fresh(f"""
import hiera
state = {{"imported by hiera": [m for m in ("timm", "torch", "hiera.model") if m in sys.modules]}}
from timm.models import create_model, list_models
state["listed"] = {MICRO!r} in list_models("hiera*")
state["model code after registration"] = "hiera.model" in sys.modules
model = create_model({MICRO!r}, pretrained=True)
state["module"] = type(model).__module__
print(json.dumps(state))
""")
    assert state == {
        "imported by hiera": [],
        "listed": True,
        "model code after registration": False,
        "module": "hiera.model",
    }


def test_plm_core_imported_by_another_thread_while_timm_is_half_imported():
    state = fresh(f"""
import threading
half, whole = threading.Event(), threading.Event()

class Meddler:
    def find_spec(self, name, path=None, target=None):
        if name == "timm.models.vision_transformer":
            spec = importlib.machinery.PathFinder.find_spec(name, path)
            execute = spec.loader.exec_module
            spec.loader.exec_module = lambda module: (half.set(), whole.wait(60), execute(module))
            return spec

sys.meta_path.insert(0, Meddler())
thread = threading.Thread(target=__import__, args=("timm",))
thread.start()
half.wait(60)
import hiera
state = {{"early": not hasattr(sys.modules["timm"], "create_model")}}
whole.set()
import timm  # waits for the thread
state["known"] = timm.is_model({MICRO!r})
state["spec"] = type(timm.__spec__).__name__
print(json.dumps(state))
""")
    assert state == {"early": True, "known": True, "spec": "ModuleSpec"}


# --- registration -----------------------------------------------------------------------------------------------


def plugin(source, name="demo", **modules):
    module = f"{name.replace('.', '_')}_plugin"
    head = "from plm_core.hookspecs import *\n@hookimpl\ndef plm_models():\n    return "
    sources = {f"{module}.py": head + source} | {f"{key}.py": value for key, value in modules.items()}
    return {"name": name, "modules": sources, "entry_points": {name: module}}


def declared(name, **fields):
    more = "".join(f", {key}={value}" for key, value in fields.items())
    return f"Model(name={name!r}, family='demo', builder='demo_models:Demo', params=14{more})"


DEMO_MODEL = """
from torch import nn

class Demo(nn.Module):
    def __init__(self, num_classes=2, in_chans=3):
        super().__init__()
        self.num_classes, self.num_features = num_classes, 3
        self.stem = nn.Conv2d(in_chans, 3, 1)
        self.fc = nn.Linear(3, num_classes)

    def forward(self, x):
        return self.fc(self.stem(x).mean((2, 3)))
"""


def stock():
    return {name for name, function in _model_entrypoints.items() if not hasattr(function, "plm_model")}


def test_register_is_idempotent(recwarn):
    before = dict(_model_entrypoints)
    timm_bridge.register()
    timm_bridge.install()
    assert _model_entrypoints == before
    assert not [w for w in recwarn if "Overwriting" in str(w.message)]


def test_register_waits_for_a_half_imported_timm(monkeypatch):
    monkeypatch.setattr(entrypoints, "registry_or_call", lambda _: pytest.fail("asked for the models too early"))
    monkeypatch.setattr(timm.models.__spec__, "_initializing", True)
    timm_bridge.register()
    monkeypatch.delitem(sys.modules, "timm.models")
    timm_bridge.register()


def test_timm_imported_by_a_plugin_is_registered_once_the_registry_is_loaded(monkeypatch, plm_registry):
    plm_registry(environ={"PLM_PLUGINS": ""})  # takes our models out of timm
    during = []
    monkeypatch.setattr(Registry, "_load", watch_registration(Registry._load, during))
    with using(None):  # as in a process that has not asked for the registry yet
        registry()
    assert set(during) == {False}
    assert timm.is_model(MICRO)


def watch_registration(load, during):
    def watched(self, entry_point):
        load(self, entry_point)
        timm_bridge.register()  # what an import of timm at this point does
        during.append(timm.is_model(MICRO))

    return watched


@pytest.mark.parametrize(("name", "watched"), [("json", False), ("timm.layers", False), ("timm.models", True)])
def test_the_import_of_timm_is_watched_until_it_is_over(monkeypatch, name, watched):
    registered = []
    monkeypatch.setattr(finder, "register", lambda: registered.append(1))
    spec = ModuleSpec("timm", None)
    monkeypatch.setitem(sys.modules, "timm", types.SimpleNamespace(__spec__=spec))
    assert TimmFinder().find_spec(name, None) is None
    assert type(spec) is ModuleSpec  # nothing is being imported
    spec._initializing = True
    assert TimmFinder().find_spec(name, None) is None
    spec.cached = "another attribute"
    assert not registered
    spec._initializing = False
    assert registered == [1] * watched
    assert type(spec) is ModuleSpec


def test_two_threads_that_register_at_once_do_not_wait_for_the_load_of_one_another(monkeypatch):
    """A thread that imports timm must not wait for one that loads the registry, which may wait for timm."""
    loading, go_on = threading.Event(), threading.Event()

    def load(self, source):
        loading.set()
        assert go_on.wait(60)

    monkeypatch.setattr(Registry, "_load", load)
    with using(None):
        loader = threading.Thread(target=registry)
        loader.start()
        loading.wait(60)
        called = []
        assert registry_or_call(lambda: called.append(1)) is None
        assert not called
        go_on.set()
        loader.join(60)
        assert called == [1]


def test_names_read_from_the_source_are_those_that_timm_registers():
    assert timm_bridge.timm_names() == stock()
    assert set(_deprecated_models) <= timm_bridge.timm_names()
    assert len(stock()) > 1000


def test_no_name_of_ours_is_timms():
    assert len(OURS) >= 7
    assert not OURS & timm_bridge.timm_names()
    assert set(timm.list_models()) >= OURS


def test_lists_by_wildcard_tag_and_module():
    tags = {f"{name}.{p.tag}" for name, e in registry().all(Model).items() for p in e.declaration.pretrained}
    assert set(timm.list_models("hiera_image_*")) == {name for name in OURS if name.startswith("hiera_image_")}
    assert {name for name in timm.list_models(pretrained=True) if name.partition(".")[0] in OURS} == tags
    assert timm.list_models("hiera_micro_dig*", include_tags=True) == [f"{MICRO}.sklearn_digits"]
    assert set(timm.list_models(module="plm_hiera")) == {
        n for n, e in registry().all(Model).items() if e.distribution == "hiera"
    }
    assert not OURS & set(timm.list_models(module="hiera"))
    assert timm.models.is_model_pretrained(MICRO)
    assert plm_core.list_models("hiera_micro_dig*") == [MICRO]
    assert plm_core.list_models("hiera_micro_dig*", pretrained=True) == [f"{MICRO}.sklearn_digits"]
    assert set(plm_core.list_models()) == set(timm.list_models())


def test_default_tag_is_the_first_declared():
    for name, entry in registry().all(Model).items():
        cfg = timm.get_pretrained_cfg(name)
        if not entry.declaration.pretrained:
            assert not cfg.has_weights
            continue
        assert cfg.tag == entry.declaration.pretrained[0].tag
        assert cfg.hf_hub_id is None or cfg.hf_hub_filename.endswith(("model.safetensors", INDEX_FILE))


def test_throw_away_model(plm_registry):
    plm_registry(
        plugin(f"[{declared('demo_net', classifier=repr('fc'), first_conv=repr('stem'))}]", demo_models=DEMO_MODEL)
    )
    assert timm.create_model("demo_net", num_classes=5)(torch.rand(2, 3, 8, 8)).shape == (2, 5)
    assert "demo_net" not in timm.list_models(pretrained=True)
    assert timm.get_pretrained_cfg("demo_net").input_size == (3, 224, 224)


def test_registry_fixture_takes_models_out_again(plm_registry):
    plm_registry(plugin(f"[{declared('demo_net')}]"))
    assert timm.is_model("demo_net")
    assert timm.is_model(MICRO)
    own = {name for name, entry in registry().all(Model).items() if entry.distribution == "plm-core"}
    plm_registry(environ={"PLM_PLUGINS": ""})
    assert not timm.is_model("demo_net")
    assert OURS & set(timm.list_models()) == own


def test_a_dot_in_a_distribution_name_does_not_lead_into_a_module_of_timms(plm_registry):
    plm_registry(plugin(f"[{declared('demo_net')}]", name="zope.resnet"))
    assert timm.list_models("demo_net", module="plm_zope_resnet") == ["demo_net"]
    assert not timm.list_models("demo_net", module="resnet")


# deprecated names are timm's too
CLASHING = ["resnet18", "hiera_tiny_224", "swin_base_patch4_window7_224_in22k"]


def test_a_name_of_timms_is_kept_out_and_reported(plm_registry, caplog, capsys, monkeypatch):
    before = {name: _model_entrypoints[name] for name in CLASHING}
    plugin_registry = plm_registry(plugin(f"[{', '.join(map(declared, [*CLASHING, 'demo_net']))}]"))
    timm_bridge.register()
    plm_core.create_model("test_resnet")
    assert {name: _model_entrypoints[name] for name in CLASHING} == before
    assert timm.is_model("demo_net")
    assert set(plugin_registry.left_out) == set(CLASHING)
    assert sorted(caplog.messages) == sorted(
        f"model {name!r} of demo is left out of timm's registry: {before[name].__module__} owns the name"
        for name in CLASHING
    )
    monkeypatch.setattr(sys, "argv", ["plm", "doctor", "--quick"])
    with pytest.raises(SystemExit, match="1"):
        main()
    out = capsys.readouterr().out
    assert all(f"problem: model {name!r} of demo is timm's own name" in out for name in CLASHING)


def test_a_declaration_that_timm_cannot_take_hurts_no_other(plm_registry, caplog):
    shipped_nowhere = "(Pretrained(tag='t', license='MIT', file='no_such_package:w.safetensors'),)"
    plm_registry(plugin(f"[{declared('bad_net', pretrained=shipped_nowhere)}, {declared('demo_net')}]"))
    timm_bridge.register()
    assert timm.is_model("demo_net")
    assert timm.is_model(MICRO)
    assert not timm.is_model("bad_net")
    [message] = caplog.messages
    assert message.startswith("model 'bad_net' of demo is left out of timm's registry: PluginError: shipped file")
    with pytest.raises(PluginError, match="'bad_net' could not be registered with timm: PluginError"):
        plm_core.create_model("bad_net")


# --- create_model -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("hiera_micro_digit", UnknownName, "no model 'hiera_micro_digit'; did you mean 'hiera_micro_digits'"),
        ("resnet19", UnknownName, "did you mean 'resnet18'"),
        ("acme_vitb14", UnknownName, "acme would provide it and is not installed"),
        ("", UnknownName, "no model ''"),
        ("hiera_*", UnknownName, "no model 'hiera_*'"),
        ("a/b/c", UnknownName, "no model 'a/b/c'"),
        (f"{MICRO}.sklearn_digit", UnknownName, f"no tag of model '{MICRO}' named 'sklearn_digit'; did you mean 'skl"),
        ("test_resnet.r161_in1k", UnknownName, "did you mean 'r160_in1k'?"),
        (f"{MICRO}.", None, ""),
        (
            "gopher:org/name",
            InputError,
            "has source 'gopher'; 'hf-hub:', 'local-dir:', 'torchvision:', 'transformers:' are allowed",
        ),
        ("local-dir:/no/such/folder", WeightsError, "/no/such/folder"),
        ("hf-hub:org/name", WeightsError, "HF_HUB_OFFLINE is set"),
        ("org/name", WeightsError, "HF_HUB_OFFLINE is set"),
    ],
)
@pytest.mark.usefixtures("acme")
def test_names_that_miss(name, error, said):
    if error is None:
        assert plm_core.create_model(name)
        return
    with pytest.raises(error) as raised:
        plm_core.create_model(name)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)
    assert "pip install" not in str(raised.value)


def test_withdrawn_name(plm_registry):
    plm_registry(plugin(f"[{declared('shared')}]"), plugin(f"[{declared('shared')}]", name="other"))
    assert not timm.is_model("shared")
    with pytest.raises(DuplicateName, match=r"demo \(demo\) and other \(other\)"):
        plm_core.create_model("shared.tag")


@pytest.mark.parametrize(
    ("fields", "error", "said"),
    [
        ({"needs": "('no-such-dist', 'pe-encoder[x]')"}, MissingDependency, "needs no-such-dist, pe-encoder[x]"),
        ({"builder": "'no_such_module:f'"}, MissingDependency, "needs the module 'no_such_module'"),
        ({"builder": "'json:no_such'"}, PluginError, "has no attribute 'no_such'"),
    ],
)
@pytest.mark.parametrize("create", [plm_core.create_model, timm.create_model])
def test_what_a_model_needs_is_asked_for_when_it_is_built(plm_registry, create, fields, error, said):
    source = declared("demo_net", **fields)
    if "builder" in fields:
        source = source.replace("builder='demo_models:Demo', ", "", 1)
    plm_registry(plugin(f"[{source}]"))
    with pytest.raises(error, match=r"no.such") as raised:
        create("demo_net")
    assert said in str(raised.value)


# --- timm's keywords --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def micro():
    return timm.create_model(MICRO, pretrained=True).eval()


@pytest.fixture(scope="module")
def x():
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


@torch.no_grad()
def test_name_tag_and_our_function_give_the_same_model(micro, x):
    for other in (timm.create_model(f"{MICRO}.sklearn_digits", pretrained=True), plm_core.create_model(MICRO, True)):
        assert torch.equal(other.eval()(x), micro(x))


@torch.no_grad()
@pytest.mark.parametrize("pretrained", [False, True])
def test_num_classes(micro, x, pretrained):
    headless = timm.create_model(MICRO, pretrained=pretrained, num_classes=0).eval()
    assert headless(x).shape == (2, micro.num_features)
    assert torch.equal(headless(x), micro.forward_head(micro.forward_features(x), pre_logits=True)) == pretrained
    assert timm.create_model(MICRO, pretrained=pretrained, num_classes=3).eval()(x).shape == (2, 3)


@torch.no_grad()
def test_one_channel_of_pretrained_weights_sees_grey_as_grey(micro, x):
    grey = timm.create_model(MICRO, pretrained=True, in_chans=1).eval()
    assert torch.allclose(grey(x[:, :1]), micro(x[:, :1].expand(-1, 3, -1, -1)), atol=1e-5)


@torch.no_grad()
def test_features_only_and_intermediates(micro, x):
    backbone = timm.create_model(MICRO, pretrained=True, features_only=True).eval()
    final, maps = micro.forward_intermediates(x)
    assert [tuple(m.shape[1:]) for m in maps] == [(24, 8, 8), (48, 4, 4), (96, 2, 2)]
    assert backbone.feature_info.channels() == [24, 48, 96]
    assert backbone.feature_info.reduction() == [4, 8, 16]
    assert all(map(torch.equal, backbone(x), maps))
    assert torch.equal(micro.forward_head(final), micro(x))
    [last] = timm.create_model(MICRO, pretrained=True, features_only=True, out_indices=(1,)).eval()(x)
    assert torch.equal(last, maps[1])


@pytest.mark.parametrize("name", [MICRO, TINY])
def test_data_config(name):
    spec = registry().get(Model, name).input
    with torch.device("meta"):
        config = timm.data.resolve_model_data_config(timm.create_model(name))
    expected = {"input_size": spec.size, "mean": spec.mean, "std": spec.std, "crop_pct": spec.crop_pct}
    assert {key: config[key] for key in expected} == expected
    assert config["interpolation"] == spec.interpolation


# --- preprocessing and embeddings -------------------------------------------------------------------------------

SMALL = (MICRO, "test_vit", "test_resnet")


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK", "1", "LA"])
def test_transform_takes_any_image(name, mode):
    model = plm_core.create_model(name)
    image = Image.new("RGB", (50, 40), (255, 0, 0)).convert(mode, dither=Image.Dither.NONE)
    tensor = plm_core.transform_for(model)(image)
    assert tensor.dtype == torch.float32
    assert tensor.shape == model.pretrained_cfg["input_size"]
    mean, std = (torch.tensor(model.pretrained_cfg[key]) for key in ("mean", "std"))
    colour = tensor[:, 16, 16] * std + mean
    expected = torch.tensor(image.convert("RGB").getpixel((25, 20))) / 255
    assert torch.allclose(colour, expected, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "options"),
    [
        (MICRO, {"in_chans": 1}),
        (MICRO, {"in_chans": 1, "img_size": 64}),
        ("test_vit", {"in_chans": 1, "img_size": 64}),
    ],
)
@pytest.mark.parametrize("features", [False, True])
def test_transform_fits_the_model_that_was_made(name, options, features):
    model = plm_core.create_model(name, features_only=features, **options).eval()
    tensor = plm_core.transform_for(model)(Image.new("RGB", (50, 40), "white"))
    side = options.get("img_size", model.pretrained_cfg["input_size"][1])
    assert tensor.shape == (1, side, side)
    assert tensor.isfinite().all()
    model(tensor[None])


@pytest.mark.parametrize(
    "load",
    [
        lambda repo: weights.load(plm_core.create_model(MICRO), repo),
        lambda repo: weights.load(plm_core.create_model(MICRO), f"hf-hub:{repo}"),
    ],
)
def test_license_is_announced_for_a_declared_repository_named_by_hand(load, caplog, monkeypatch):
    monkeypatch.setattr(licenses, "_announced", set())
    for _ in range(2):
        with pytest.raises(WeightsError, match="HF_HUB_OFFLINE is set"):
            load("facebook/hiera_tiny_224.mae_in1k")
    assert len(caplog.records) == 1
    assert "hiera_image_tiny_224.mae_in1k" in caplog.text
    assert "non-commercial" in caplog.text


def test_license_is_not_announced_for_weights_of_the_users_own(caplog, monkeypatch, tmp_path):
    monkeypatch.setattr(licenses, "_announced", set())
    with pytest.raises(WeightsError, match=r"own\.safetensors"):
        plm_core.create_model(
            "hiera_image_tiny_224", pretrained=True, pretrained_cfg_overlay={"file": str(tmp_path / "own.safetensors")}
        )
    assert "non-commercial" not in caplog.text


def test_transform_refuses_channels_that_no_picture_has():
    with pytest.raises(plm_core.InputError, match="takes 5 channels; a PIL image has 1 or 3"):
        plm_core.transform_for(plm_core.create_model(MICRO, in_chans=5))


@pytest.mark.parametrize("mode", ["I;16", "I"])
def test_sixteen_bits_are_scaled_and_not_clipped(micro, mode):
    image = Image.new(mode, (32, 32), 65535 // 2)
    assert plm_core.transform_for(micro)(image).mean().abs() < 0.01


def test_transform_needs_a_model_that_knows_its_input():
    with pytest.raises(InputError, match="model Linear has no pretrained_cfg: create it with plm_core"):
        plm_core.transform_for(nn.Linear(1, 1))


def test_transform_says_what_it_does(micro):
    assert repr(plm_core.transform_for(micro).transforms[0]) == "Channels(mode='RGB', deep=True)"


@torch.no_grad()
@pytest.mark.parametrize("name", SMALL)
def test_embedding_is_what_the_classifier_sees(name):
    model = plm_core.create_model(name).eval()
    batch = torch.rand(2, *model.pretrained_cfg["input_size"])
    embedding = plm_core.embed(model, batch)
    assert embedding.shape == (2, model.num_features)
    assert torch.allclose(model.get_classifier()(embedding), model(batch), atol=1e-5)


@pytest.mark.parametrize("model", [nn.Linear(1, 1), timm.create_model("test_vit", features_only=True)])
def test_no_embedding(model):
    with pytest.raises(NotSupported, match=f"model {type(model).__name__} has no pooled embedding"):
        plm_core.embed(model, torch.rand(1, 3, 160, 160))


# --- weights by timm's ways -------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"num_classes": 4}, {"in_chans": 1}])
@pytest.mark.parametrize("create", [plm_core.create_model, timm.create_model])
def test_local_dir_round_trip(tmp_path, create, options):
    model = plm_core.create_model(MICRO, pretrained=True, **options)
    nn.init.ones_(model.head.fc.weight)
    weights.save_pretrained(model, tmp_path, license="MIT", card="A test.")
    again = create(f"local-dir:{tmp_path}", pretrained=True)
    assert weights.fingerprint(again) == weights.fingerprint(model)
    assert weights.fingerprint(create(f"local-dir:{tmp_path}", pretrained=False)) != weights.fingerprint(model)


@pytest.fixture
def unannounced(monkeypatch):
    monkeypatch.setattr(licenses, "_announced", set())


ANNOUNCED = f"weights {TINY}.{{0}} (facebook/hiera_tiny_224.{{0}}) are for non-commercial use: CC-BY-NC-4.0"


@pytest.mark.usefixtures("unannounced")
@pytest.mark.parametrize("create", [plm_core.create_model, timm.create_model])
def test_non_commercial_weights_are_announced_once_before_the_download(monkeypatch, caplog, create):
    import huggingface_hub

    announced = []
    download = huggingface_hub.hf_hub_download
    monkeypatch.setattr(
        timm.models._hub, "hf_hub_download", lambda *a, **k: (announced.append(len(caplog.messages)), download(*a, **k))
    )
    for name in (TINY, TINY, f"{TINY}.mae_in1k_ft_in1k", f"{TINY}.mae_in1k"):
        with torch.device("meta"), pytest.raises(WeightsError, match="HF_HUB_OFFLINE is set") as raised:
            create(name, pretrained=True)
        assert "\n" not in str(raised.value)
    ours = [record.message for record in caplog.records if record.name == "plm_core"]
    assert ours == [ANNOUNCED.format("mae_in1k_ft_in1k"), ANNOUNCED.format("mae_in1k")]
    assert announced[0] == 1


@pytest.mark.usefixtures("unannounced")
def test_nothing_is_announced_without_need(caplog, micro):
    timm.create_model(MICRO, pretrained=True)
    own = {"state_dict": micro.state_dict(), "hf_hub_id": None, "file": None}
    timm.create_model(MICRO, pretrained=True, pretrained_cfg_overlay=own)
    assert not [record for record in caplog.records if record.name == "plm_core"]
    assert not licenses._announced


@pytest.mark.parametrize(
    ("license", "expected"),
    [
        ("CC-BY-NC-4.0", True),
        ("cc-by-nc-sa-4.0", True),
        ("nc", True),
        ("CC-BY-4.0", False),
        ("NCSA", False),
        ("Apache-2.0", False),
    ],
)
def test_which_licenses_are_non_commercial(license, expected):
    assert licenses.is_non_commercial(license) is expected
