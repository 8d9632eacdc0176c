"""Transforms by name, here throw-away ones: applied, removed and refused, and their form on the command line."""

import pytest
from torch import Tensor, nn, ones

import plm_core
from plm_core import InputError, MissingDependency, NotSupported, PluginError, UnknownName
from plm_core.transforms import apply_all, parse

PLUGIN = """
from plm_core.hookspecs import *

@hookimpl
def plm_transforms():
    return [
        *(Transform(name=n, apply=f"demo_ops:{n}", remove=f"demo_ops:un{n}") for n in ("plus", "times")),
        *(Transform(name=n, apply=f"demo_ops:{n}", remove="demo_ops:x") for n in ("refuses", "breaks", "lost")),
        Transform(name="absent", apply="no_such_module:f", remove="no_such_module:g"),
    ]
"""
OPS = """
from plm_core import NotSupported

def plus(model, amount=1):
    _hook(model, "plus", lambda out: out + amount)

def times(model, *, factor):
    _hook(model, "times", lambda out: out * factor)

def unplus(model):
    _unhook(model, "plus")

def untimes(model):
    _unhook(model, "times")

def refuses(model):
    raise NotSupported(f"{type(model).__name__} has no blocks")

def breaks(model):
    raise RuntimeError("halfway")

def _hook(model, name, function):
    handle = model.register_forward_hook(lambda m, args, out: function(out))
    model.__dict__.setdefault("hooks", []).append((name, handle))

def _unhook(model, name):
    last, handle = model.hooks.pop()
    assert last == name, f"{name} is removed before {last}"
    handle.remove()
"""


@pytest.fixture
def model(plm_registry):
    plm_registry(
        {
            "name": "demo",
            "modules": {"demo_plugin.py": PLUGIN, "demo_ops.py": OPS},
            "entry_points": {"demo": "demo_plugin"},
        }
    )
    return nn.Identity()


def answer(model) -> float:
    out: Tensor = model(ones(1))
    return out.item()


def test_apply_and_remove(model):
    assert plm_core.apply(model, "plus", amount=4) is model
    assert answer(model) == 5
    assert plm_core.remove(model, "plus") is model
    assert answer(model) == 1


def test_remove_all_in_reverse_order(model):
    plm_core.apply(plm_core.apply(model, "plus"), "times", factor=3)
    assert answer(model) == 6
    plm_core.remove(model)
    assert answer(model) == 1
    plm_core.remove(model)  # nothing left to remove is no error


def test_only_the_last_one_can_be_removed(model):
    plm_core.apply(plm_core.apply(model, "plus"), "times", factor=3)
    with pytest.raises(
        InputError, match=r"'plus' cannot be removed: it is not the last one applied \(in order: plus, times\)"
    ):
        plm_core.remove(model, "plus")
    assert answer(model) == 6
    plm_core.remove(model, "times")
    plm_core.remove(model, "plus")
    assert answer(model) == 1


def test_what_is_not_applied_cannot_be_removed(model):
    with pytest.raises(InputError, match="'plus' cannot be removed: none is applied"):
        plm_core.remove(model, "plus")


def test_twice_is_refused_and_again_after_removal_is_not(model):
    plm_core.apply(model, "plus")
    with pytest.raises(InputError, match="'plus' is applied to this Identity already; remove it first"):
        plm_core.apply(model, "plus")
    assert answer(model) == 2
    plm_core.remove(model)
    plm_core.apply(model, "plus", amount=2)
    assert answer(model) == 3


def test_two_models_do_not_share_what_is_applied(model):
    other = nn.Identity()
    plm_core.apply(model, "plus")
    plm_core.apply(other, "plus")
    plm_core.remove(model)
    assert (answer(model), answer(other)) == (1, 2)


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("refuses", NotSupported, "Identity has no blocks"),
        ("breaks", RuntimeError, "halfway"),
        ("lost", PluginError, "module 'demo_ops' has no attribute 'lost'"),
        ("absent", MissingDependency, "needs the module 'no_such_module', which is not installed"),
        ("pluss", UnknownName, "no transform 'pluss'; did you mean 'plus'?"),
        ("times", InputError, "transform 'times': missing a required"),
    ],
)
def test_a_transform_that_fails_is_not_applied(model, name, error, said):
    plm_core.apply(model, "plus")
    with pytest.raises(error) as raised:
        plm_core.apply(model, name)
    assert said in str(raised.value)
    assert answer(model) == 2
    plm_core.remove(model, "plus")
    assert answer(model) == 1


def test_unknown_option_shows_the_ones_there_are(model):
    with pytest.raises(InputError, match=r"transform 'plus': .* 'r'; its signature is \(model, amount=1\)"):
        plm_core.apply(model, "plus", r=13)
    assert answer(model) == 1


@pytest.mark.parametrize("wrong", [None, 3, "vit", b"vit", {}, [1], nn.Identity])
def test_other_objects_than_models_and_names_are_refused(model, wrong):
    for call in (lambda: plm_core.apply(wrong, "plus"), lambda: plm_core.remove(wrong)):
        with pytest.raises(InputError, match=r"model is a \w+; it can be a torch.nn.Module or a pipeline of diffusers"):
            call()
    if not isinstance(wrong, str):
        with pytest.raises(InputError, match=r"name is .*; it is the name of a transform"):
            plm_core.apply(model, wrong)
        with pytest.raises(InputError, match=r"transform is .*; it is a text such as 'tome:r=8'"):
            apply_all(model, [wrong])
    assert answer(model) == 1


def test_apply_all_keeps_the_order(model):
    assert apply_all(model, ["plus:amount=2", "times:factor=10"]) is model
    assert answer(model) == 30


def test_apply_all_of_nothing(model):
    assert apply_all(model, []) is model


@pytest.mark.parametrize(
    ("text", "name", "options"),
    [
        ("tome", "tome", {}),
        ("tome:", "tome", {}),
        ("tome:r=13", "tome", {"r": 13}),
        ("tome:r=13,prop_attn=False", "tome", {"r": 13, "prop_attn": False}),
        ("tome: r = 13 , x = None ,", "tome", {"r": 13, "x": None}),
        ("tome:r=(16,-1)", "tome", {"r": (16, -1)}),
        ("tome:r=(16,-1),s=2", "tome", {"r": (16, -1), "s": 2}),
        ("t:r=[8,8,4],f=1e-3", "t", {"r": [8, 8, 4], "f": 1e-3}),
        ("t:r=((1,2),(3,4)),s=[(5,),6]", "t", {"r": ((1, 2), (3, 4)), "s": [(5,), 6]}),
        ("t:r={'a':1,'b':2}", "t", {"r": {"a": 1, "b": 2}}),
        ("hydra-attn:kernel=cosine", "hydra-attn", {"kernel": "cosine"}),
        (
            "t:a='13',b=x y,c=/dir/file.txt,d=http://host:80/",
            "t",
            {"a": "13", "b": "x y", "c": "/dir/file.txt"} | {"d": "http://host:80/"},
        ),
        ("t:a=b=c", "t", {"a": "b=c"}),
        ("t:a=08,b=__import__('os')", "t", {"a": "08", "b": "__import__('os')"}),
        ("t:a={[]:1}", "t", {"a": "{[]:1}"}),
    ],
)
def test_parse(text, name, options):
    parsed_name, parsed = parse(text)
    assert (parsed_name, parsed) == (name, options)
    assert {key: type(value) for key, value in parsed.items()} == {key: type(value) for key, value in options.items()}


@pytest.mark.parametrize(
    "text",
    ["", ":r=1", "two words", "a/b", " tome", "t:r", "t:=1", "t:r=", "t:1=2", "t:r=1,r=2", "t:r=(1,s=2", "t:r=1)"],
)
def test_parse_refuses(text):
    with pytest.raises(InputError) as raised:
        parse(text)
    assert repr(text) in str(raised.value) or repr(text.partition(":")[2]) in str(raised.value)
