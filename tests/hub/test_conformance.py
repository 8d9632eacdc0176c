"""Registration is the test plan: every model that a plug-in declares passes the conformance check."""

import pytest

from plm_core.hookspecs import Model
from plm_core.registry import registry
from plm_core.testing import check_model
from plm_core.testing.conformance import BIG, check_size

MODELS = sorted(registry().declared(Model), key=lambda model: (model.params > BIG, -len(model.config), model.params))


def of_a_class(model):
    """Models of one class have the same code and take inputs of the same kind."""
    return [
        other for other in MODELS if (other.builder, len(other.input.shape)) == (model.builder, len(model.input.shape))
    ]


def shows_nothing_new(model):
    """A model that an earlier one, smaller or with more of its parts configured, stands for."""
    earlier = of_a_class(model)[: of_a_class(model).index(model)]
    return any(model.params > BIG or model.config.keys() <= other.config.keys() for other in earlier)


WHOLE = [model.name for model in MODELS if not shows_nothing_new(model)]
OTHERS = [model.name for model in MODELS if shows_nothing_new(model)]


@pytest.mark.parametrize("name", [*WHOLE, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def test_registered_model(name):
    check_model(name)


@pytest.mark.parametrize("name", OTHERS)
def test_another_size_of_an_architecture(name):
    check_size(name)


def test_each_class_of_models_is_checked_as_a_whole():
    assert all(any(other.name in WHOLE for other in of_a_class(model)) for model in MODELS)
