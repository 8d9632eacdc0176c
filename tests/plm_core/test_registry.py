"""One bad plug-in hurts nothing but itself, says what is wrong, and says how to mend it.

Each test installs throw-away distributions, `plm_registry(distribution(source), ...)`, and looks at the registry that a
fresh process would then have. The source is the text of a plug-in module.
"""

import copy
import pickle
import sys
from dataclasses import replace
from importlib.metadata import entry_points

import pytest

from plm_core import __version__
from plm_core.errors import DuplicateName, PluginError, UnknownName
from plm_core.hookspecs import BlockAdapter, Command, Merger, Model
from plm_core.registry import Registry, using
from plm_core.registry import registry as current_registry
from plm_core.testing.distributions import write_distribution

PREAMBLE = """
from functools import partial
from plm_core.hookspecs import *

DemoModel = partial(Model, family="demo", builder="demo_models:make", params=1)
"""


def plugin_with_hook(body, hook="plm_models", arguments=""):
    """Return the source of a plug-in whose one hook has this body; in it, `DemoModel(name="x")` declares a model."""
    return f"{PREAMBLE}\n@hookimpl\ndef {hook}({arguments}):\n    {body}\n"


def plugin_with_models(*names):
    """Return the source of a plug-in that declares models of these names."""
    return plugin_with_hook(f"return [{', '.join(f'DemoModel(name={name!r})' for name in names)}]")


def distribution(source, name="demo", entry_point=None, **metadata):
    """Return a distribution for `plm_registry` to install, with one plug-in: a module `<name>_plugin` of this source.

    The entry point has the name of the distribution unless another is given. `metadata` is `version` and `requires`.
    """
    module = f"{name.replace('-', '_')}_plugin"
    entry_points = {entry_point or name: module}
    return {"name": name, "modules": {f"{module}.py": source}, "entry_points": entry_points, **metadata}


GOOD = distribution(plugin_with_models("good_model"), name="good")


def status_of(registry, name="demo"):
    """Return what the registry says of a distribution's plug-in."""
    return next(status for status in registry.statuses if status.distribution == name)


def assert_others_work(registry):
    """Check that `GOOD` and what is really installed were not affected by a bad plug-in."""
    assert registry.get(Model, "good_model").family == "demo"
    assert registry.get(Model, "hiera_micro_digits").family == "hiera"
    assert registry.get(Command, "doctor")
    assert all(status_of(registry, name).healthy for name in ("plm-core", "good", "hiera"))


# --- one that works ---------------------------------------------------------------------------------------------


def test_healthy_plugin(plm_registry, caplog):
    source = plugin_with_models("demo_b", "demo_a")
    registry = plm_registry(distribution(source, version="2.3", requires=["plm-core>=0.1,<1"]))
    demo = status_of(registry)
    assert (demo.state, demo.version, demo.errors, demo.heavy) == ("loaded", "2.3", [], [])
    assert demo.healthy
    assert demo.declares == "2 models"
    assert registry.all(Model)["demo_a"].distribution == "demo"
    assert list(registry.all(Model)) == sorted(registry.all(Model))
    assert current_registry() is registry
    assert not caplog.records


def test_the_process_gets_its_registry_back(plm_registry):
    outer = plm_registry(GOOD)
    inner = plm_registry(distribution(plugin_with_models("demo_model")))
    assert current_registry() is inner is not outer
    assert_others_work(inner)


# --- failures at import -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("def (", "SyntaxError: "),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("from plm_core.hookspecs import NoSuchThing", "ImportError: cannot import name 'NoSuchThing'"),
        ("import sys\nsys.exit('bye')", "SystemExit: bye"),
        ("raise RuntimeError", "RuntimeError: (no message)"),
        ("raise RuntimeError('first\\nsecond')", "RuntimeError: first"),
        ("class Panic(BaseException): pass\nraise Panic('a panic of Rust')", "Panic: a panic of Rust"),
        ("class Mute(Exception):\n    def __str__(self): raise self\nraise Mute", "Mute: (no message)"),
        ("raise RuntimeError('\\x1b[31m' + 'red' * 10**6)", r"RuntimeError: \x1b[31mred"),
        ("raise type('\\x1b[31m', (Exception,), {})", r"\x1b[31m: (no message)"),
        ("x = 1", "declares nothing"),
        (plugin_with_hook("return []", hook="plm_model"), "no hook 'plm_model'; did you mean 'plm_models'"),
        (
            plugin_with_hook("return []", arguments="registry"),
            "Argument(s) {'registry'} are declared in the hookimpl but",
        ),
    ],
)
def test_broken_at_import(plm_registry, caplog, source, error):
    registry = plm_registry(distribution(source), GOOD)
    demo = status_of(registry)
    assert (demo.state, demo.declares, demo.healthy) == ("failed", "", False)
    assert len(demo.errors) == 1
    assert error in demo.errors[0]
    assert len(demo.errors[0]) < 1000
    assert demo.errors[0].isprintable()
    assert demo.mend == "reinstall or remove demo, or set PLM_DISABLE_PLUGINS=demo"
    [record] = caplog.records
    assert "plug-in demo (demo 1.0)" in record.message
    assert error in record.message
    assert "plm doctor" in record.message
    assert_others_work(registry)


@pytest.mark.parametrize("module", ["demo_plugin:", "no_such_module", "demo plugin"])
def test_broken_entry_point(plm_registry, module):
    demo = distribution(plugin_with_models("demo_model")) | {"entry_points": {"demo": module}}
    registry = plm_registry(demo, GOOD)
    assert status_of(registry).state == "failed"
    assert_others_work(registry)


def test_interrupt_is_not_swallowed(plm_registry):
    with pytest.raises(KeyboardInterrupt):
        plm_registry(distribution("raise KeyboardInterrupt"))


@pytest.mark.parametrize("name", ["demo", "aa-first", "zz-last"])
def test_every_position_in_the_order_is_isolated(plm_registry, name):
    registry = plm_registry(distribution("raise RuntimeError", name=name), GOOD)
    assert status_of(registry, name).state == "failed"
    assert_others_work(registry)


# --- failures in a hook -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("raise RuntimeError('boom')", "RuntimeError: boom"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("yield 1/0", "ZeroDivisionError"),
        ("pass", "TypeError: returned None; a list of Model is expected"),
        ("return 7", "TypeError: returned a int; a list of Model is expected"),
        ("return DemoModel(name='lonely')", "TypeError: returned one Model; a list of Model is expected"),
        ("return 'abc'", "TypeError: returned a str; a list of Model is expected"),
        ("return {'x': DemoModel(name='x')}", "TypeError: returned a dict; a list of Model is expected"),
        ("return [Scorer(name='x', score='a:b')]", "a Model was expected, a Scorer came"),
        ("return [Model(name='x')]", "number 1: TypeError: Model 'x' lacks family, builder, params"),
        ("return [Model()]", "missing 4 required keyword-only arguments"),
        ("return [DemoModel(name='x', licence='MIT')]", "Model 'x' has no field 'licence'; did you mean 'license'?"),
        ("return [DemoModel(name='x', colour=1)]", "Model 'x' has no field 'colour'; there are: name, family, "),
        (
            "return [DemoModel(name='x', pretrained=(Pretrained(tag='t', licence='MIT'),))]",
            "model 'x': TypeError: Pretrained 't' has no field 'licence'; did you mean 'license'?",
        ),
        ("return [DemoModel(name='x', input=Input(width=3))]", "model 'x': TypeError: Input has no field 'width'"),
        ("return [DemoModel(name='')]", "name '' is not allowed"),
        ("return [DemoModel(name='a b')]", "name 'a b' is not allowed: letters, digits, '_' and '-' only"),
        ("return [DemoModel(name='name.tag')]", "name 'name.tag' is not allowed"),
        ("return [DemoModel(name='../x')]", "name '../x' is not allowed"),
        ("return [DemoModel(name=5)]", "Model.name is 5; str is expected"),
        ("return [DemoModel(name='x', num_classes=None)]", "Model.num_classes is None; int is expected"),
        ("return [DemoModel(name='x', needs='torch')]", "Model.needs is 'torch'; tuple[str, ...] is expected"),
        ("return [DemoModel(name='x', config=[])]", "Model.config is []; Mapping[str, Any] is expected"),
        # the forgotten comma: parentheses alone do not make a tuple
        (
            "return [DemoModel(name='x', pretrained=(Pretrained(tag='t', repo='a/b', license='MIT')))]",
            "tuple[Pretrained, ...] is expected",
        ),
        (
            "return [DemoModel(name='x', pretrained=(Pretrained(tag='t', repo='a/b', license=None),))]",
            "Pretrained.license is None",
        ),
        ("return [DemoModel(name='x', input=Input(size='32'))]", "Input.size is '32'; tuple[int, ...] is expected"),
        ("return [DemoModel(name='x', input=Input(size=()))]", "Input.size is (); (channels, height, width)"),
        ("return [DemoModel(name='x', input=Input(size=(3, 0, 8)))]", "is 0; 1 to"),
        ("return [DemoModel(name='x', input=Input(frames=-1))]", "is -1; 1 to"),
        ("return [DemoModel(name='x', input=Input(std=(float('nan'),) * 3))]", "Input.std is (nan, nan, nan)"),
        (
            "return [DemoModel(name='x', input=Input(std=(0.5, 0.0, 0.5)))]",
            "Input.std is (0.5, 0.0, 0.5); numbers above 0",
        ),
        ("return [DemoModel(name='x', input=Input(mean=(0.5,)))]", "Input.mean is (0.5,); one number for each of 3"),
        ("return [DemoModel(name='x', input=Input(size=(1, 8, 8)))]", "one number for each of 1 channels"),
        ("return [DemoModel(name='x', input=Input(crop_pct=87.5))]", "Input.crop_pct is 87.5; 0.1 to 2 is allowed"),
        ("return [DemoModel(name='x', input=Input(crop_pct=0))]", "Input.crop_pct is 0; 0.1 to 2 is allowed"),
        (
            "return [DemoModel(name='x', input=Input(interpolation='cubic'))]",
            "'cubic'; one of nearest, bilinear, bicubic",
        ),
        ("return [DemoModel(name='x', input=Input(crop_mode='centre'))]", "'centre'; one of center, squash, border"),
        (
            "return [DemoModel(name='x', task='image-classificaton')]",
            "Model.task: no task 'image-classificaton'; did you mean 'image-classification'",
        ),
        ("return [DemoModel(name='x', builder='a.b')]", "Model.builder is 'a.b'; 'module:attribute' is expected"),
        ("return [DemoModel(name='x', micro=Micro(recipe='a', evaluate='a:b'))]", "Micro.recipe is 'a'; 'module:attr"),
        (
            "return [DemoModel(name='x', pretrained=(Pretrained(tag='t', license='MIT', file='w.safetensors'),))]",
            "Pretrained.file of 't' is 'w.safetensors'; without a repo, 'package:path' of a shipped file is expected",
        ),
        (
            "return [DemoModel(name='x', pretrained=(Pretrained(tag='t', license=' ', repo='o/n'),))]",
            "Pretrained.license of 't' is empty; an SPDX identifier, 'other' or 'unknown' is expected",
        ),
        (
            "return [DemoModel(name='x', num_classes=3, pretrained="
            "(Pretrained(tag='t', license='MIT', repo='o/n', labels=('a', 'b')),))]",
            "Pretrained.labels of 't' has 2 names; the weights have 3 classes",
        ),
        ("return [Model(name='x', family='', builder='', params=10**400)]", "Model.params is huge; 0 to"),
        ("return [Model(name='x', family='', builder='', params=-1)]", "Model.params is -1; 0 to"),
        ("return [DemoModel(name='x', pretrained=(Pretrained(tag='a b', license='', repo='o/n'),))]", "tag 'a b'"),
        ("return [DemoModel(name='x', pretrained=(Pretrained(tag='t', license='x', repo='o/n'),) * 2)]", "the tag 't'"),
        (
            "return [DemoModel(name='x', pretrained=(Pretrained(tag='t', license='', repo='r', metrics={'a': 'b'}),))]",
            "Pretrained.metrics is {'a': 'b'}; Mapping[str, float] is expected",
        ),
        # names and declarations that compare, hash or print themselves in their own way could disturb other plug-ins
        ("return [DemoModel(name=type('S', (str,), {'__hash__': None})('x'))]", "has a S as a name; str is expected"),
        ("return [type('M', (Model,), {'__eq__': lambda *_: 1/0})(name='x', family='', builder='', params=1)]", "a M"),
        ("class Panic(BaseException): pass\n    raise Panic('x')", "Panic: x"),
        ("return [DemoModel(name='x', input=type('I', (), {'__repr__': lambda _: 1/0})())]", "Model.input is <I inst"),
        ("return [DemoModel(name='x' * 10**6)]", "is not allowed: letters"),
    ],
)
def test_broken_hook(plm_registry, caplog, body, error):
    good_hook = "@hookimpl\ndef plm_scorers():\n    return [Scorer(name='demo_score', score='a:b')]\n"
    source = plugin_with_hook(body) + good_hook
    registry = plm_registry(distribution(source), GOOD)
    demo = status_of(registry)
    assert (demo.state, demo.declares, demo.healthy) == ("faulty", "1 scorer", False)
    assert demo.errors[0].startswith("plm_models: ")
    assert error in demo.errors[0]
    assert demo.mend == "report it to the authors of demo"
    assert len(caplog.records) == len(demo.errors) == 1
    assert error in caplog.text
    assert not {"x", "lonely"} & set(registry.all(Model))
    assert_others_work(registry)


BAD = {
    "None": "number 2: TypeError: a Model was expected, a NoneType came",
    "DemoModel(name='bad', params=-1)": "model 'bad': ValueError: Model.params is -1",
    "DemoModel(name='bad', licence='')": "number 2: TypeError: Model 'bad' has no field 'licence'",
    "Model(name='bad', builder='a:b', params=1)": "number 2: TypeError: Model 'bad' lacks family",
}


@pytest.mark.parametrize(("bad", "error"), BAD.items())
def test_a_bad_declaration_hides_no_other_of_its_plugin_and_is_named(plm_registry, caplog, bad, error):
    body = f"return [DemoModel(name='first'), {bad}, DemoModel(name='last')]"
    registry = plm_registry(distribution(plugin_with_hook(body)), GOOD)
    demo = status_of(registry)
    assert (demo.state, demo.declares) == ("faulty", "2 models")
    assert {"first", "last"} <= set(registry.all(Model))
    assert "bad" not in registry.all(Model)
    [line] = demo.errors
    assert line.startswith(f"plm_models: {error}")
    assert error in caplog.text
    assert_others_work(registry)


def test_outside_of_a_hook_a_declaration_that_cannot_be_made_raises():
    with pytest.raises(TypeError, match=r"^Model 'x' has no field 'licence'; did you mean 'license'\?$"):
        Model(name="x", family="f", builder="a:b", params=1, licence="MIT")
    with pytest.raises(TypeError, match=r"^Model 'x' lacks builder, params$"):
        Model(name="x", family="f")
    model = Model(name="x", family="f", builder="a:b", params=1)
    assert copy.deepcopy(model) == pickle.loads(pickle.dumps(model)) == replace(model) == model


@pytest.mark.parametrize("models", ["None", "'torch.nn:Linear'", "('torch.nn:Linear', 3)", "('torch.nn.Linear',)"])
@pytest.mark.parametrize(
    ("hook", "body"),
    [
        ("plm_weight_layouts", "return [WeightLayout(name='x', models={})]"),
        ("plm_block_adapters", "return [BlockAdapter(name='x', models={}, view='a:b', example=('m', {{}}))]"),
    ],
)
def test_declarations_by_class_are_checked_too(plm_registry, hook, body, models):
    source = plugin_with_hook(body.format(models), hook)
    registry = plm_registry(distribution(source), GOOD)
    assert "models is" in status_of(registry).errors[0]
    assert_others_work(registry)


# --- metadata ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("requirement", ["plm-core>=9", "PLM_Core<0.0.1", "plm-core[lm]==7.*"])
def test_incompatible_is_skipped_before_import(plm_registry, requirement):
    registry = plm_registry(distribution(plugin_with_models("demo_model"), requires=["numpy", requirement]), GOOD)
    demo = status_of(registry)
    assert demo.state == "incompatible"
    assert demo.errors[0].startswith("needs plm-core ")
    assert demo.errors[0].endswith(f", this is {__version__}")
    assert demo.mend == "install a version of demo that fits"
    assert "demo_plugin" not in sys.modules
    assert_others_work(registry)


@pytest.mark.parametrize(
    "requirement",
    [
        f"plm-core>={__version__}.dev0",
        "plm-core",
        "plm-core>=9; extra == 'x'",
        "plm-core>=9; python_version < '3'",
        "?? !!",
    ],
)
def test_requirement_that_does_not_stand_in_the_way(plm_registry, requirement):
    registry = plm_registry(distribution(plugin_with_models("demo_model"), requires=[requirement]), GOOD)
    assert status_of(registry).healthy
    assert registry.get(Model, "demo_model")


def test_distribution_without_metadata(plm_registry, tmp_path, monkeypatch):
    info = tmp_path / "ghost-1.0.dist-info"
    info.mkdir()
    (info / "entry_points.txt").write_text("[plm]\nghost = ghost_plugin\n")
    (tmp_path / "ghost_plugin.py").write_text(plugin_with_models("ghost_model"))
    monkeypatch.syspath_prepend(tmp_path)
    registry = plm_registry(GOOD)
    assert status_of(registry, "(unknown)").as_dict()["version"] == ""
    assert registry.get(Model, "ghost_model")
    assert_others_work(registry)


@pytest.mark.parametrize(
    ("file", "distribution_name"), [("METADATA", "demo-1.0.dist-info"), ("entry_points.txt", "demo-1.0.dist-info")]
)
@pytest.mark.parametrize("switch", [{}, {"PLM_DISABLE_PLUGINS": "demo"}])
def test_metadata_that_cannot_be_read(plm_registry, tmp_path, monkeypatch, file, distribution_name, switch):
    folder = write_distribution(tmp_path, **distribution(plugin_with_models("demo_model")))
    path = folder / "demo-1.0.dist-info" / file
    path.write_bytes(path.read_bytes() + b"\xff")
    monkeypatch.syspath_prepend(folder)
    registry = plm_registry(GOOD, environ=switch)
    demo = status_of(registry, distribution_name)
    if switch and file == "METADATA":
        assert demo.state == "disabled"
    else:
        assert (demo.state, demo.declares) == ("failed", "")
        assert "cannot be read: UnicodeDecodeError" in demo.errors[0]
    assert "demo_plugin" not in sys.modules
    assert_others_work(registry)


@pytest.mark.parametrize("source", ["Evil()", "Evil"])
def test_a_plugin_object_that_compares_in_its_own_way(plm_registry, source):
    head = "class Evil:\n    __hash__ = None\n    __module__ = 'x'\n    def __eq__(self, other): raise RuntimeError\n"
    hook = "    from plm_core.hookspecs import hookimpl\n    @hookimpl\n    def plm_models(self=None): return []\n"
    evil = distribution(f"{head}{hook}plugin = {source}\n", name="aa-evil")
    registry = plm_registry(evil | {"entry_points": {"evil": "aa_evil_plugin:plugin"}}, GOOD)
    assert_others_work(registry)


# --- names declared twice ---------------------------------------------------------------------------------------

FIRST = distribution(plugin_with_models("shared", "only_first"), name="first")
SECOND = distribution(plugin_with_models("shared", "only_second"), name="second", entry_point="two")


def test_duplicate_is_withdrawn_and_both_are_named(plm_registry, caplog):
    registry = plm_registry(FIRST, SECOND, GOOD)
    with pytest.raises(DuplicateName) as raised:
        registry.get(Model, "shared")
    line = str(raised.value)
    assert "model 'shared'" in line
    assert "first (first) and two (second)" in line
    assert line.endswith("set PLM_DISABLE_PLUGINS=first or PLM_DISABLE_PLUGINS=two")
    assert "shared" not in registry.all(Model)
    assert {"only_first", "only_second"} <= set(registry.all(Model))
    assert registry.withdrawn() == [line]
    assert caplog.messages == [line]
    assert_others_work(registry)


@pytest.mark.parametrize(("switch", "owner"), [("first", "second"), ("two", "first")])
def test_the_switch_named_mends_it(plm_registry, switch, owner):
    registry = plm_registry(FIRST, SECOND, GOOD, environ={"PLM_DISABLE_PLUGINS": switch})
    assert registry.all(Model)["shared"].distribution == owner
    assert registry.withdrawn() == []
    assert_others_work(registry)


def test_nobody_takes_one_of_ours(plm_registry):
    registry = plm_registry(distribution(plugin_with_models("hiera_micro_digits"), name="aa-evil"))
    with pytest.raises(DuplicateName, match=r"aa-evil \(aa-evil\) and hiera \(hiera\)"):
        registry.get(Model, "hiera_micro_digits")
    assert registry.get(Model, "hiera_image_tiny_224")


def test_nobody_takes_a_command(plm_registry):
    source = plugin_with_hook("return [Command(name='list', help='', implementation='os:system')]", hook="plm_commands")
    registry = plm_registry(distribution(source, name="evil"))
    assert registry.get(Command, "list").implementation == "plm_core.cli.list:app"
    assert registry.withdrawn() == []
    evil = next(s for s in registry.statuses if s.name == "evil")
    assert (evil.state, evil.errors) == ("faulty", ["command 'list' is plm-core's own"])
    assert evil.mend == "evil must use another name"


def test_three_of_one_name(plm_registry):
    registry = plm_registry(FIRST, SECOND, distribution(plugin_with_models("shared"), name="third"))
    with pytest.raises(DuplicateName, match=r"first .* and third .* and two "):
        registry.get(Model, "shared")


def test_same_name_in_two_kinds_is_no_clash(plm_registry):
    scorer = plugin_with_hook("return [Scorer(name='shared', score='a:b')]", hook="plm_scorers")
    registry = plm_registry(FIRST, distribution(scorer))
    assert registry.get(Model, "shared")
    assert registry.withdrawn() == []


def test_one_plugin_that_declares_a_name_twice(plm_registry):
    registry = plm_registry(distribution(plugin_with_models("twice", "twice", "once")), GOOD)
    with pytest.raises(DuplicateName, match=r"more than once, by demo \(demo\), and withdrawn; each needs a name"):
        registry.get(Model, "twice")
    assert registry.get(Model, "once")
    assert_others_work(registry)


# --- plug-ins of one name ---------------------------------------------------------------------------------------


def test_entry_points_of_one_name(plm_registry, caplog):
    b = distribution(plugin_with_models("b_model"), name="bb", entry_point="demo")
    a = distribution(plugin_with_models("a_model"), name="aa", entry_point="demo")
    registry = plm_registry(b, a, GOOD)
    assert status_of(registry, "aa").healthy
    assert status_of(registry, "bb").state == "failed"
    assert status_of(registry, "bb").errors == ["aa has a plug-in named 'demo' too"]
    assert status_of(registry, "bb").mend == "remove bb or aa"
    assert len(caplog.records) == 1
    assert "bb_plugin" not in sys.modules
    assert_others_work(registry)


@pytest.mark.parametrize("name", ["hiera", "plm-core"])
def test_nobody_takes_the_name_of_our_plugins(plm_registry, name):
    evil = distribution(plugin_with_models("evil_model"), name="aa-evil", entry_point=name)
    registry = plm_registry(evil, GOOD)
    assert status_of(registry, "aa-evil").state == "failed"
    assert "evil_model" not in registry.all(Model)
    assert_others_work(registry)


@pytest.mark.parametrize("source", ["1/0", "x = 1", plugin_with_hook("return []", arguments="registry")])
def test_a_plugin_that_failed_does_not_block_its_namesake(plm_registry, source):
    failing = distribution(source, name="aa", entry_point="demo")
    namesake = distribution(plugin_with_models("b_model"), name="bb", entry_point="demo")
    registry = plm_registry(failing, namesake)
    assert registry.get(Model, "b_model")


# --- switches ---------------------------------------------------------------------------------------------------

OURS = {point.name for point in entry_points(group="plm")} - {"plm-core"}
"""The plug-ins of the distributions that are really installed, without plm-core."""


@pytest.mark.parametrize(
    ("environ", "loaded"),
    [
        ({}, {"demo", "good"} | OURS),
        ({"PLM_PLUGINS": "demo, good"}, {"demo", "good"}),
        ({"PLM_PLUGINS": "demo,good", "PLM_DISABLE_PLUGINS": "good"}, {"demo"}),
        ({"PLM_PLUGINS": ""}, set()),
        ({"PLM_PLUGINS": "no-such"}, set()),
        ({"PLM_DISABLE_PLUGINS": "hiera,,plm-core,no-such"}, {"demo", "good"} | OURS - {"hiera"}),
        ({"PLM_DISABLE_PLUGINS": ""}, {"demo", "good"} | OURS),
    ],
)
def test_selection(plm_registry, environ, loaded):
    registry = plm_registry(distribution(plugin_with_models("demo_model")), GOOD, environ=environ)
    states = {s.name: s.state for s in registry.statuses}
    assert {name for name, state in states.items() if state == "loaded"} == loaded | {"plm-core"}
    assert states.keys() == {"plm-core", "demo", "good"} | OURS
    assert ("demo_plugin" in sys.modules) == ("demo" in loaded)
    assert all(s.healthy for s in registry.statuses)


def test_a_broken_plugin_can_be_disabled(plm_registry, caplog):
    registry = plm_registry(distribution("raise RuntimeError"), GOOD, environ={"PLM_DISABLE_PLUGINS": "demo"})
    assert status_of(registry).state == "disabled"
    assert not caplog.records
    assert_others_work(registry)


@pytest.mark.parametrize(
    "bad",
    [
        [distribution("raise RuntimeError('boom')")],
        [distribution(plugin_with_hook("raise RuntimeError('boom')"))],
        [distribution(plugin_with_models("x"), requires=["plm-core>=9"])],
        [FIRST, SECOND],
    ],
)
def test_strict_raises_in_one_line(plm_registry, bad):
    with pytest.raises(PluginError) as raised:
        plm_registry(*bad, environ={"PLM_STRICT_PLUGINS": "1"})
    assert "\n" not in str(raised.value)
    assert any(word in str(raised.value) for word in ("boom", "needs plm-core >=9", "declared more than once"))
    assert any(mend in str(raised.value) for mend in ("PLM_DISABLE_PLUGINS", "install a version", "report it"))


@pytest.mark.parametrize("value", ["0", ""])
def test_strict_can_be_off(plm_registry, value):
    registry = plm_registry(distribution("raise RuntimeError"), GOOD, environ={"PLM_STRICT_PLUGINS": value})
    assert_others_work(registry)


def test_trace_shows_calls_and_results(plm_registry, capsys):
    plm_registry(GOOD, environ={"PLM_TRACE_PLUGINS": "1"})
    out, err = capsys.readouterr()
    assert out == ""
    assert "plm: hook plm_models <- ['good']" in err
    assert "plm: hook plm_models -> [[Model(name='good_model'" in err


def test_trace_shows_errors_and_stops_nothing(plm_registry, capsys):
    demo = distribution(plugin_with_hook("raise RuntimeError('boom')"))
    registry = plm_registry(demo, GOOD, environ={"PLM_TRACE_PLUGINS": "1"})
    assert "RuntimeError('boom')" in capsys.readouterr().err
    assert_others_work(registry)


def test_no_trace_by_default(plm_registry, capsys):
    plm_registry(GOOD)
    assert capsys.readouterr() == ("", "")


def test_switches_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("PLM_PLUGINS", "")
    assert {s.state for s in Registry().statuses if s.name != "plm-core"} <= {"not selected"}


# --- look-ups ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [
        (Model, "hiera_micro_digit", "no model 'hiera_micro_digit'; did you mean 'hiera_micro_digits'"),
        (Model, "acme_vitb14", "no model 'acme_vitb14'; acme would provide it and is not installed"),
        (Merger, "zipitt", "no merger 'zipitt'; did you mean 'zipit'"),
        (Command, "dokter", "no command 'dokter'; did you mean 'doctor'?"),
        (Command, "frobnicate", "no command 'frobnicate'; acme would provide it"),
        (Command, "zzz", "no command 'zzz'; there are: ask, bench, caption, chat, check-data, "),
    ],
)
@pytest.mark.usefixtures("acme")
def test_a_miss_says_what_is_near_and_who_provides(plm_registry, kind, name, said):
    registry = plm_registry()
    with pytest.raises(UnknownName) as raised:
        registry.get(kind, name)
    assert said in str(raised.value)
    assert "pip install" not in str(raised.value)


def test_a_miss_does_not_offer_withdrawn_names(plm_registry):
    with pytest.raises(UnknownName) as raised:
        plm_registry(FIRST, SECOND).get(Model, "shard")
    assert "'shared'" not in str(raised.value)


def test_for_class_prefers_the_nearest_class(plm_registry):
    source = plugin_with_hook(
        "return [BlockAdapter(name=n, models=(f'demo_models:{n}',), view='a:b', example=('m', {}))"
        " for n in ('Base', 'Derived')]",
        hook="plm_block_adapters",
    )
    registry = plm_registry(distribution(source))
    base = type("Base", (), {"__module__": "demo_models"})
    derived = type("Derived", (base,), {"__module__": "demo_models"})
    assert [a.name for a in registry.for_class(BlockAdapter, derived())] == ["Derived", "Base"]
    assert [a.name for a in registry.for_class(BlockAdapter, base())] == ["Base"]
    assert registry.for_class(BlockAdapter, object()) == []


def test_a_plugin_may_not_ask_for_the_registry_while_it_loads(tmp_path, monkeypatch, caplog):
    nosy = distribution("from plm_core.registry import registry\nregistry()\n" + plugin_with_models("x"), name="nosy")
    monkeypatch.syspath_prepend(write_distribution(tmp_path, **nosy))
    with using(None):  # as in a process that has not asked for the registry yet
        registry = current_registry()
        assert current_registry() is registry
    assert "ask at first use instead" in status_of(registry, "nosy").errors[0]
    assert registry.get(Model, "hiera_micro_digits")
    assert len(caplog.records) == 1
