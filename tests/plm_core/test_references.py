"""Strings that name things, and the errors when there is no such thing."""

import json

import pytest

from plm_core.errors import MissingDependency, PluginError
from plm_core.hookspecs import KINDS
from plm_core.testing.distributions import write_distribution
from plm_core.utils.near_misses import PROVIDERS, miss
from plm_core.utils.references import class_paths, resolve
from plm_core.utils.requirements import check_needs, installed
from plm_core.utils.text import natural_key


@pytest.fixture
def modules(tmp_path, monkeypatch):
    (tmp_path / "needs_what_is_absent.py").write_text("import absent_thing")
    (tmp_path / "broken_thing.py").write_text("raise RuntimeError('boom')")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.fixture
def distributions(tmp_path, monkeypatch):
    """``demo`` 1.5 with the extras ``full`` (satisfied), ``lacking`` and ``none`` (requires nothing)."""
    folder = write_distribution(
        tmp_path,
        name="demo",
        version="1.5",
        modules={},
        entry_points={},
        requires=[
            "no-such-base-requirement",
            "pluggy; extra == 'full'",
            "pluggy; extra == 'lacking'",
            "no-such-extra-requirement; extra == 'lacking'",
            "no-such-elsewhere; extra == 'full' and sys_platform == 'plan9'",
        ],
    )
    metadata = folder / "demo-1.5.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text() + "".join(f"Provides-Extra: {x}\n" for x in ("full", "lacking", "none")))
    monkeypatch.syspath_prepend(folder)


def test_resolve():
    assert resolve("json:dumps") is json.dumps


@pytest.mark.parametrize("reference", ["", "json", "json:", ":dumps", ":"])
def test_resolve_refuses_another_form(reference):
    with pytest.raises(PluginError, match="is not of the form 'module:attribute'"):
        resolve(reference)


@pytest.mark.parametrize(
    ("reference", "error", "said"),
    [
        ("json:no_such", PluginError, "module 'json' has no attribute 'no_such'"),
        ("json:JSONEncoder.enc", PluginError, "has no attribute 'JSONEncoder.enc'"),
        ("json:dump_s", PluginError, "has no attribute 'dump_s'; did you mean 'dumps'?"),
        ("no_such_module:f", MissingDependency, "'no_such_module:f' needs the module 'no_such_module'"),
        ("json.no_such:f", PluginError, "'json.no_such:f': package 'json' has no module 'json.no_such'"),
        ("needs_what_is_absent:f", MissingDependency, "'needs_what_is_absent:f' needs the module 'absent_thing'"),
        ("broken_thing:f", PluginError, "'broken_thing:f' cannot be imported: RuntimeError: boom"),
    ],
)
def test_resolve_says_what_is_wrong(modules, reference, error, said):
    with pytest.raises(error) as raised:
        resolve(reference)
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("kind", "name", "known", "line"),
    [
        ("model", "resnet19", ["resnet18", "vit"], "no model 'resnet19'; did you mean 'resnet18'?"),
        ("model", "abc1", ["abc2", "abc", "abc2"], "no model 'abc1'; did you mean 'abc' or 'abc2'?"),
        ("model", "zzz", ["b", "a", "b"], "no model 'zzz'; there are: a, b"),
        ("model", "zzz", map(str, range(31)), "no model 'zzz'"),
        ("model", "zzz", [], "no model 'zzz'"),
        ("model", "", ["a"], "no model ''; there are: a"),
    ],
)
def test_miss(kind, name, known, line):
    assert miss(kind, name, known) == line


@pytest.mark.usefixtures("acme")
def test_miss_names_the_provider_and_what_is_near():
    line = miss("model", "acme_vitb15", ["acme_vitb14"])
    assert line == (
        "no model 'acme_vitb15'; acme would provide it and is not installed "
        "(see 'Install' in the repository's README); did you mean 'acme_vitb14'?"
    )


def test_miss_does_not_name_a_provider_that_is_installed():
    assert miss("model", "hiera_nonsense", []) == "no model 'hiera_nonsense'"


@pytest.mark.usefixtures("acme")
def test_miss_looks_at_the_kind():
    assert "would provide" in miss("model", "acme_vitb14", [])
    assert "would provide" not in miss("merger", "acme_vitb14", [])


@pytest.mark.parametrize(("kind", "pattern", "provider"), PROVIDERS)
def test_no_hint_makes_an_installer_fetch_a_stranger(kind, pattern, provider):
    line = miss(kind, pattern.replace("*", "x"), [])
    assert kind in {declaration.word for declaration in KINDS}
    assert "install " not in line
    assert installed(provider) or f"{provider} would provide it" in line


@pytest.mark.parametrize(
    ("requirement", "expected"),
    [
        ("demo", True),
        ("Demo", True),
        ("demo>=1.5", True),
        ("demo>=2", False),
        ("demo[full]", True),
        ("demo[none]", True),
        ("demo[full,none]>=1", True),
        ("demo[lacking]", False),
        ("demo[full,lacking]", False),
        ("demo[no-such-extra]", False),
        ("no-such-distribution", False),
        ("no-such-distribution[full]", False),
        ("not a requirement", False),
        ("", False),
    ],
)
def test_installed(distributions, requirement, expected):
    assert installed(requirement) is expected


def test_check_needs_names_all_that_is_missing(distributions):
    check_needs("model 'm'", ())
    check_needs("model 'm'", ("demo", "demo[full]"))
    with pytest.raises(MissingDependency) as raised:
        check_needs("model 'm'", ("demo", "demo[lacking]", "no-such"))
    assert str(raised.value) == "model 'm' needs demo[lacking], no-such (see 'Install' in the repository's README)"


def test_class_paths_go_from_near_to_far():
    class Mine(dict):
        pass

    paths = class_paths(Mine())
    assert paths[0].endswith("test_class_paths_go_from_near_to_far.<locals>.Mine")
    assert paths[1:] == ["builtins:dict", "builtins:object"]


def test_natural_key():
    names = ["b16", "b2", "B10_9", "a", "b10_11", ""]
    assert sorted(names, key=natural_key) == ["", "a", "b2", "B10_9", "b10_11", "b16"]
