"""One bad plug-in hurts nothing but itself, says what is wrong, and says how to mend it."""

import sys
from importlib.metadata import entry_points

import pytest

from plm_core import __version__, names
from plm_core.errors import DuplicateName, PluginError, UnknownName
from plm_core.hookspecs import BlockAdapter, Command, Model, Transform
from plm_core.registry import Registry, registry, using
from plm_core.testing.distributions import write_distribution

HEAD = "from plm_core.hookspecs import *\n"


def hook(body, name="plm_models", args=""):
    return f"{HEAD}@hookimpl\ndef {name}({args}):\n    {body}\n"


def model(name, **fields):
    """Source of a declaration; ``fields`` are source too."""
    more = "".join(f", {key}={value}" for key, value in fields.items())
    return f"Model(name={name!r}, family='demo', builder='demo_models:make', params=1{more})"


def returning(name, **fields):
    return f"return [{model(name, **fields)}]"


def declaring(*names):
    return hook(f"return [{', '.join(map(model, names))}]")


def plugin(source, name="demo", point=None, **more):
    """Keywords for a distribution with one plug-in, whose module is named after the distribution."""
    module = f"{name.replace('-', '_')}_plugin"
    return {"name": name, "modules": {f"{module}.py": source}, "entry_points": {point or name: module}, **more}


GOOD = plugin(declaring("good_model"), name="good")


def status(hub, distribution="demo"):
    return next(s for s in hub.statuses if s.distribution == distribution)


def assert_others_work(hub):
    assert hub.get(Model, "good_model").family == "demo"
    assert hub.get(Model, "hiera_micro_digits").family == "hiera"
    assert hub.get(Command, "doctor")
    assert all(status(hub, name).healthy for name in ("plm-core", "good", "hiera"))


# --- one that works ---------------------------------------------------------------------------------------------


def test_healthy_plugin(plm_registry, caplog):
    hub = plm_registry(plugin(declaring("demo_b", "demo_a"), version="2.3", requires=["plm-core>=0.1,<1"]))
    found = status(hub)
    assert (found.state, found.version, found.errors, found.heavy) == ("loaded", "2.3", [], [])
    assert found.healthy
    assert found.declares == "2 models"
    assert hub.all(Model)["demo_a"].distribution == "demo"
    assert list(hub.all(Model)) == sorted(hub.all(Model))
    assert registry() is hub
    assert not caplog.records


def test_the_process_gets_its_registry_back(plm_registry):
    hub = plm_registry(GOOD)
    inner = plm_registry(plugin(declaring("demo_model")))
    assert registry() is inner is not hub
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
        ("x = 1", "declares nothing"),
        (hook("return []", name="plm_model"), "no hook 'plm_model'; did you mean 'plm_models'"),
        (hook("return []", args="registry"), "Argument(s) {'registry'} are declared in the hookimpl but"),
    ],
)
def test_broken_at_import(plm_registry, caplog, source, error):
    hub = plm_registry(plugin(source), GOOD)
    found = status(hub)
    assert (found.state, found.declares, found.healthy) == ("failed", "", False)
    assert len(found.errors) == 1
    assert error in found.errors[0]
    assert "\n" not in found.errors[0]
    assert found.mend == "reinstall or remove demo, or set PLM_DISABLE_PLUGINS=demo"
    [record] = caplog.records
    assert "plug-in demo (demo 1.0)" in record.message
    assert error in record.message
    assert "plm doctor" in record.message
    assert_others_work(hub)


@pytest.mark.parametrize("module", ["demo_plugin:", "no_such_module", "demo plugin"])
def test_broken_entry_point(plm_registry, module):
    hub = plm_registry(plugin(declaring("demo_model")) | {"entry_points": {"demo": module}}, GOOD)
    assert status(hub).state == "failed"
    assert_others_work(hub)


def test_interrupt_is_not_swallowed(plm_registry):
    with pytest.raises(KeyboardInterrupt):
        plm_registry(plugin("raise KeyboardInterrupt"))


@pytest.mark.parametrize("name", ["demo", "aa-first", "zz-last"])
def test_every_position_in_the_order_is_isolated(plm_registry, name):
    hub = plm_registry(plugin("raise RuntimeError", name=name), GOOD)
    assert status(hub, name).state == "failed"
    assert_others_work(hub)


# --- failures in a hook -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("raise RuntimeError('boom')", "RuntimeError: boom"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("yield 1/0", "ZeroDivisionError"),
        ("pass", "TypeError: returned None; a list was expected"),
        ("return 7", "TypeError: 'int' object is not iterable"),
        (f"return {model('lonely')}", "TypeError: 'Model' object is not iterable"),
        ("return 'abc'", "a Model was expected, a str came"),
        ("return [Scorer(name='x', score='a:b')]", "a Model was expected, a Scorer came"),
        ("return [Model(name='x')]", "missing 3 required keyword-only arguments"),
        (returning(""), "name '' is not allowed"),
        (returning("a b"), "name 'a b' is not allowed: letters, digits, '_' and '-' only"),
        (returning("name.tag"), "name 'name.tag' is not allowed"),
        (returning("../x"), "name '../x' is not allowed"),
        (returning(5), "Model.name is 5; str is expected"),
        (returning("x", num_classes="None"), "Model.num_classes is None; int is expected"),
        (returning("x", needs="'torch'"), "Model.needs is 'torch'; tuple[str, ...] is expected"),
        (returning("x", config="[]"), "Model.config is []; Mapping[str, Any] is expected"),
        # the forgotten comma: parentheses alone do not make a tuple
        (
            returning("x", pretrained="(Pretrained(tag='t', repo='a/b', license='MIT'))"),
            "tuple[Pretrained, ...] is expected",
        ),
        (returning("x", pretrained="(Pretrained(tag='t', repo='a/b', license=None),)"), "Pretrained.license is None"),
        (returning("x", input="Input(size='32')"), "Input.size is '32'; tuple[int, ...] is expected"),
        # one bad declaration takes the good ones of the same hook with it, but not the other hooks
        (f"return [{model('fine')}, None]", "a Model was expected, a NoneType came"),
    ],
)
def test_broken_hook(plm_registry, caplog, body, error):
    source = hook(body) + "@hookimpl\ndef plm_scorers():\n    return [Scorer(name='demo_score', score='a:b')]\n"
    hub = plm_registry(plugin(source), GOOD)
    found = status(hub)
    assert (found.state, found.declares, found.healthy) == ("faulty", "1 scorer", False)
    assert found.errors[0].startswith("plm_models: ")
    assert error in found.errors[0]
    assert found.mend == "report it to the authors of demo"
    assert len(caplog.records) == len(found.errors) == 1
    assert error in caplog.text
    assert not {"x", "fine", "lonely"} & set(hub.all(Model))
    assert_others_work(hub)


@pytest.mark.parametrize("models", ["None", "'torch.nn:Linear'", "('torch.nn:Linear', 3)"])
@pytest.mark.parametrize("kind", ["WeightLayout(", "BlockAdapter(view='a:b', example=('m', {}), "])
def test_declarations_by_class_are_checked_too(plm_registry, kind, models):
    name = "plm_weight_layouts" if kind.startswith("W") else "plm_block_adapters"
    hub = plm_registry(plugin(hook(f"return [{kind}name='x', models={models})]", name=name)), GOOD)
    assert "models is" in status(hub).errors[0]
    assert_others_work(hub)


# --- metadata ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("requirement", ["plm-core>=9", "PLM_Core<0.0.1", "plm-core[lm]==7.*"])
def test_incompatible_is_skipped_before_import(plm_registry, requirement):
    hub = plm_registry(plugin(declaring("demo_model"), requires=["numpy", requirement]), GOOD)
    found = status(hub)
    assert found.state == "incompatible"
    assert found.errors[0].startswith("needs plm-core ")
    assert found.errors[0].endswith(f", this is {__version__}")
    assert found.mend == "install a version of demo that fits"
    assert "demo_plugin" not in sys.modules
    assert_others_work(hub)


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
    hub = plm_registry(plugin(declaring("demo_model"), requires=[requirement]), GOOD)
    assert status(hub).healthy
    assert hub.get(Model, "demo_model")


def test_distribution_without_metadata(plm_registry, tmp_path, monkeypatch):
    info = tmp_path / "ghost-1.0.dist-info"
    info.mkdir()
    (info / "entry_points.txt").write_text("[plm]\nghost = ghost_plugin\n")
    (tmp_path / "ghost_plugin.py").write_text(declaring("ghost_model"))
    monkeypatch.syspath_prepend(tmp_path)
    hub = plm_registry(GOOD)
    assert status(hub, "(unknown)").as_dict()["version"] == ""
    assert hub.get(Model, "ghost_model")
    assert_others_work(hub)


# --- names declared twice ---------------------------------------------------------------------------------------

FIRST = plugin(declaring("shared", "only_first"), name="first")
SECOND = plugin(declaring("shared", "only_second"), name="second", point="two")


def test_duplicate_is_withdrawn_and_both_are_named(plm_registry, caplog):
    hub = plm_registry(FIRST, SECOND, GOOD)
    with pytest.raises(DuplicateName) as raised:
        hub.get(Model, "shared")
    line = str(raised.value)
    assert "model 'shared'" in line
    assert "first (first) and two (second)" in line
    assert line.endswith("set PLM_DISABLE_PLUGINS=first or PLM_DISABLE_PLUGINS=two")
    assert "shared" not in hub.all(Model)
    assert {"only_first", "only_second"} <= set(hub.all(Model))
    assert hub.withdrawn() == [line]
    assert caplog.messages == [line]
    assert_others_work(hub)


@pytest.mark.parametrize(("switch", "owner"), [("first", "second"), ("two", "first")])
def test_the_switch_named_mends_it(plm_registry, switch, owner):
    hub = plm_registry(FIRST, SECOND, GOOD, environ={"PLM_DISABLE_PLUGINS": switch})
    assert hub.all(Model)["shared"].distribution == owner
    assert hub.withdrawn() == []
    assert_others_work(hub)


def test_nobody_takes_one_of_ours(plm_registry):
    hub = plm_registry(plugin(declaring("hiera_micro_digits"), name="aa-evil"))
    with pytest.raises(DuplicateName, match=r"aa-evil \(aa-evil\) and hiera \(hiera\)"):
        hub.get(Model, "hiera_micro_digits")
    assert hub.get(Model, "hiera_image_tiny_224")


def test_nobody_takes_a_command(plm_registry):
    source = hook("return [Command(name='list', help='', implementation='os:system')]", name="plm_commands")
    hub = plm_registry(plugin(source, name="evil"))
    assert hub.get(Command, "list").implementation == "plm_core.cli.show:list_"
    assert hub.withdrawn() == []
    evil = next(s for s in hub.statuses if s.name == "evil")
    assert (evil.state, evil.errors) == ("faulty", ["command 'list' is plm-core's own"])
    assert evil.mend == "evil must use another name"


def test_three_of_one_name(plm_registry):
    hub = plm_registry(FIRST, SECOND, plugin(declaring("shared"), name="third"))
    with pytest.raises(DuplicateName, match=r"first .* and third .* and two "):
        hub.get(Model, "shared")


def test_same_name_in_two_kinds_is_no_clash(plm_registry):
    scorer = hook("return [Scorer(name='shared', score='a:b')]", name="plm_scorers")
    hub = plm_registry(FIRST, plugin(scorer))
    assert hub.get(Model, "shared")
    assert hub.withdrawn() == []


def test_one_plugin_that_declares_a_name_twice(plm_registry):
    hub = plm_registry(plugin(declaring("twice", "twice", "once")), GOOD)
    with pytest.raises(DuplicateName, match=r"more than once, by demo \(demo\), and withdrawn; each needs a name"):
        hub.get(Model, "twice")
    assert hub.get(Model, "once")
    assert_others_work(hub)


# --- plug-ins of one name ---------------------------------------------------------------------------------------


def test_entry_points_of_one_name(plm_registry, caplog):
    hub = plm_registry(
        plugin(declaring("b_model"), name="bb", point="demo"),
        plugin(declaring("a_model"), name="aa", point="demo"),
        GOOD,
    )
    assert status(hub, "aa").healthy
    assert status(hub, "bb").state == "failed"
    assert status(hub, "bb").errors == ["aa has a plug-in named 'demo' too"]
    assert status(hub, "bb").mend == "remove bb or aa"
    assert len(caplog.records) == 1
    assert "bb_plugin" not in sys.modules
    assert_others_work(hub)


@pytest.mark.parametrize("point", ["hiera", "plm-core"])
def test_nobody_takes_the_name_of_our_plugins(plm_registry, point):
    hub = plm_registry(plugin(declaring("evil_model"), name="aa-evil", point=point), GOOD)
    assert status(hub, "aa-evil").state == "failed"
    assert "evil_model" not in hub.all(Model)
    assert_others_work(hub)


@pytest.mark.parametrize("source", ["1/0", "x = 1", hook("return []", args="registry")])
def test_a_plugin_that_failed_does_not_block_its_namesake(plm_registry, source):
    hub = plm_registry(plugin(source, name="aa", point="demo"), plugin(declaring("b_model"), name="bb", point="demo"))
    assert hub.get(Model, "b_model")


# --- switches ---------------------------------------------------------------------------------------------------

OURS = {point.name for point in entry_points(group="plm")} - {"plm-core"}
"""The plug-ins of the distributions that are really installed."""


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
    hub = plm_registry(plugin(declaring("demo_model")), GOOD, environ=environ)
    states = {s.name: s.state for s in hub.statuses}
    assert {name for name, state in states.items() if state == "loaded"} == loaded | {"plm-core"}
    assert states.keys() == {"plm-core", "demo", "good"} | OURS
    assert ("demo_plugin" in sys.modules) == ("demo" in loaded)
    assert all(s.healthy for s in hub.statuses)


def test_a_broken_plugin_can_be_disabled(plm_registry, caplog):
    hub = plm_registry(plugin("raise RuntimeError"), GOOD, environ={"PLM_DISABLE_PLUGINS": "demo"})
    assert status(hub).state == "disabled"
    assert not caplog.records
    assert_others_work(hub)


@pytest.mark.parametrize(
    "bad",
    [
        [plugin("raise RuntimeError('boom')")],
        [plugin(hook("raise RuntimeError('boom')"))],
        [plugin(declaring("x"), requires=["plm-core>=9"])],
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
    hub = plm_registry(plugin("raise RuntimeError"), GOOD, environ={"PLM_STRICT_PLUGINS": value})
    assert_others_work(hub)


def test_trace_shows_calls_and_results(plm_registry, capsys):
    plm_registry(GOOD, environ={"PLM_TRACE_PLUGINS": "1"})
    out, err = capsys.readouterr()
    assert out == ""
    assert "plm: hook plm_models <- ['good']" in err
    assert "plm: hook plm_models -> [[Model(name='good_model'" in err


def test_trace_shows_errors_and_stops_nothing(plm_registry, capsys):
    hub = plm_registry(plugin(hook("raise RuntimeError('boom')")), GOOD, environ={"PLM_TRACE_PLUGINS": "1"})
    assert "RuntimeError('boom')" in capsys.readouterr().err
    assert_others_work(hub)


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
        (Model, "pe_core_b16_224", "no model 'pe_core_b16_224'; pe-encoder would provide it and is not installed"),
        (Transform, "hydra", "no transform 'hydra'; hydra-attn would provide it and is not installed"),
        (Command, "dokter", "no command 'dokter'; did you mean 'doctor'?"),
        (Command, "frobnicate", "no command 'frobnicate'; acme would provide it"),
        (Command, "zzz", "no command 'zzz'; there are: bench, convert, doctor, "),
    ],
)
def test_a_miss_says_what_is_near_and_who_provides(plm_registry, monkeypatch, kind, name, said):
    monkeypatch.setattr(names, "PROVIDERS", (*names.PROVIDERS, ("command", "frob*", "acme")))
    hub = plm_registry()
    with pytest.raises(UnknownName) as raised:
        hub.get(kind, name)
    assert said in str(raised.value)
    assert "pip install" not in str(raised.value)


def test_a_miss_does_not_offer_withdrawn_names(plm_registry):
    with pytest.raises(UnknownName) as raised:
        plm_registry(FIRST, SECOND).get(Model, "shard")
    assert "'shared'" not in str(raised.value)


def test_for_class_prefers_the_nearest_class(plm_registry):
    source = hook(
        "return [BlockAdapter(name=n, models=(f'demo_models:{n}',), view='a:b', example=('m', {}))"
        " for n in ('Base', 'Derived')]",
        name="plm_block_adapters",
    )
    hub = plm_registry(plugin(source))
    base = type("Base", (), {"__module__": "demo_models"})
    derived = type("Derived", (base,), {"__module__": "demo_models"})
    assert [a.name for a in hub.for_class(BlockAdapter, derived())] == ["Derived", "Base"]
    assert [a.name for a in hub.for_class(BlockAdapter, base())] == ["Base"]
    assert hub.for_class(BlockAdapter, object()) == []


def test_a_plugin_may_not_ask_for_the_registry_while_it_loads(tmp_path, monkeypatch, caplog):
    nosy = plugin("from plm_core.registry import registry\nregistry()\n" + declaring("x"), name="nosy")
    monkeypatch.syspath_prepend(write_distribution(tmp_path, **nosy))
    with using(None):  # as in a process that has not asked for the registry yet
        hub = registry()
        assert registry() is hub
    assert "ask at first use instead" in status(hub, "nosy").errors[0]
    assert hub.get(Model, "hiera_micro_digits")
    assert len(caplog.records) == 1
