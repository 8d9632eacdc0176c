"""The examples in docstrings of public functions run and print what they say. What plug-ins fill in is explained."""

import dataclasses
import doctest
import re

import pytest

import plm_core
from plm_core import blocks, hookspecs, layouts, weights

PUBLIC = {
    f"{module.__name__}.{name}": getattr(module, name)
    for module in (plm_core, weights)
    for name in module.__all__
    if callable(getattr(module, name))
}
EXAMPLES = [name for name, function in PUBLIC.items() if ">>>" in (function.__doc__ or "")]
MOST_USED = (
    "plm_core.apply",
    "plm_core.create_model",
    "plm_core.embed",
    "plm_core.list_models",
    "plm_core.remove",
    "plm_core.transform_for",
)


def test_the_most_used_functions_have_an_example():
    assert set(MOST_USED) <= set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # an example may write files
    [example] = doctest.DocTestFinder(recurse=False).find(PUBLIC[name], name, globs={})
    result = doctest.DocTestRunner().run(example)
    assert result.attempted > 1
    assert result.failed == 0, capsys.readouterr().out


FILLED_IN = (
    *hookspecs.KINDS, hookspecs.Input, hookspecs.Pretrained, hookspecs.Micro,
    blocks.Tokens, blocks.BlockView, blocks.ModelView, layouts.Rule,
)  # fmt: skip


@pytest.mark.parametrize("kind", FILLED_IN, ids=lambda kind: kind.__name__)
def test_the_help_of_what_a_plugin_fills_in_explains_each_field(kind):
    section = (kind.__doc__ or "").partition("Attributes:")[2]
    explained = re.findall(r"^        (\w+): \S", section, re.MULTILINE)
    assert sorted(explained) == sorted(field.name for field in dataclasses.fields(kind))
