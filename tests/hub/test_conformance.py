"""Registration is the test plan: every model that a plug-in declares passes the conformance check."""

import pytest
import timm
import torch

from plm_core.hookspecs import Model
from plm_core.registry import registry
from plm_core.testing import check_model
from plm_core.testing.conformance import BIG, LACKING_HEADS, check_features, check_size, check_strict_loading

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
LARGE = [model.name for model in MODELS if model.params > BIG and model.name in WHOLE]


@pytest.mark.parametrize(
    "name", [pytest.param(m.name, marks=pytest.mark.slow) if m.name in OTHERS + LARGE else m.name for m in MODELS]
)
def test_registered_model(name):
    check_model(name)


@pytest.mark.parametrize("name", LARGE)
def test_a_large_architecture_has_the_interface_and_loads_strictly(name):
    spec = registry().get(Model, name)
    with torch.device("meta"):
        model = timm.create_model(name).eval()
        if spec.task not in LACKING_HEADS:
            check_features(spec, model, torch.rand(2, *spec.input.shape))
        check_strict_loading(spec, model)


@pytest.mark.parametrize("name", [*OTHERS, *LARGE])
def test_another_size_of_an_architecture(name):
    check_size(name)


def test_each_class_of_models_is_checked_as_a_whole():
    assert all(any(other.name in WHOLE for other in of_a_class(model)) for model in MODELS)
