"""Settings that are changed by text, as `--set` does."""

import logging
from dataclasses import dataclass

import pytest

from plm_core import InputError
from plm_core.errors import UnknownName
from plm_core.training import Recipe
from plm_core.training.finetuning import FinetuneConfig
from plm_core.training.overrides import override

RECIPE = Recipe(epochs=100, batch_size=8, lr=1e-3, warmup_epochs=5)
LOG = "plm_core.training.overrides"


@dataclass(frozen=True)
class Flat:
    """A configuration without a recipe."""

    epochs: float = 3
    warmup_epochs: float = 3
    names: list[str] | None = None


def test_a_recipe_a_configuration_with_one_and_one_without_can_be_changed():
    assert override(RECIPE, {"lr": "2", "clip_grad": "None"}) == Recipe(epochs=100, batch_size=8, lr=2, warmup_epochs=5)
    config = override(FinetuneConfig(recipe=RECIPE), {"mixup": "0", "batch_size": "16"})
    assert config == FinetuneConfig(recipe=Recipe(epochs=100, batch_size=16, lr=1e-3, warmup_epochs=5), mixup=0)
    assert override(Flat(), {"names": "['a']"}) == Flat(names=["a"])
    assert RECIPE.lr == 1e-3


@pytest.mark.parametrize("config", [RECIPE, FinetuneConfig(recipe=RECIPE)])
@pytest.mark.parametrize(
    ("epochs", "warmup", "said"),
    [("5", 0.25, "warmup_epochs follows epochs: 5 -> 0.25"), ("200", 10, "warmup_epochs follows epochs: 5 -> 10")],
)
def test_the_warm_up_follows_the_epochs_and_a_line_says_so(caplog, config, epochs, warmup, said):
    changed = override(config, {"epochs": epochs})
    recipe = getattr(changed, "recipe", changed)
    assert (recipe.epochs, recipe.warmup_epochs) == (float(epochs), warmup)
    assert caplog.record_tuples == [(LOG, logging.WARNING, said)]
    for step in range(20):  # so that the schedule is the same, only shorter
        assert recipe.lr_factor(step, 20) == RECIPE.lr_factor(step, 20)


@pytest.mark.parametrize(
    ("config", "changes", "warmup"),
    [
        (RECIPE, {"epochs": "50", "warmup_epochs": "5"}, 5),
        (RECIPE, {"lr": "1"}, 5),
        (RECIPE, {"epochs": "100"}, 5),
        (Recipe(epochs=10, batch_size=8, lr=1), {"epochs": "1"}, 0),
    ],
)
def test_the_warm_up_stays_if_it_is_given_or_if_nothing_changes_it(caplog, config, changes, warmup):
    assert override(config, changes).warmup_epochs == warmup
    assert not caplog.records


def test_who_wants_to_say_it_later_takes_the_note(caplog):
    notes = []
    override(RECIPE, {"epochs": "50"}, say=notes.append)
    assert notes == ["warmup_epochs follows epochs: 5 -> 2.5"]
    assert not caplog.records


def test_only_the_main_process_says_so(caplog, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert override(RECIPE, {"epochs": "20"}).warmup_epochs == 1
    assert not caplog.records


@pytest.mark.parametrize("epochs", [0.7, 1.1, 4.9, 6.3])
def test_rounding_makes_no_warm_up_longer_than_the_training(epochs):
    assert override(Flat(), {"epochs": str(epochs)}).warmup_epochs == pytest.approx(epochs)
    recipe = Recipe(epochs=3, batch_size=8, lr=1, warmup_epochs=3)
    assert override(recipe, {"epochs": str(epochs)}).warmup_epochs <= epochs


def test_an_unknown_setting_is_answered_with_a_similar_one_or_all():
    config = FinetuneConfig(recipe=RECIPE)
    with pytest.raises(UnknownName, match=r"^no setting 'epoch'; did you mean 'epochs'\?$"):
        override(config, {"epoch": "1"})
    with pytest.raises(UnknownName, match=r"^no setting 'q'; there are: aug_repeats, auto_augment, .*, weight_decay$"):
        override(config, {"q": "1"})
    with pytest.raises(UnknownName, match=r"^no setting 'recipe'"):
        override(config, {"recipe": "1"})


def test_a_refused_change_says_nothing_about_the_warm_up(caplog):
    for changes, said in (
        ({"epochs": "-1"}, "epochs -1 is not allowed: more than 0 is"),
        ({"epochs": "9", "lr": "'x'"}, "lr .*x.* is not"),
    ):
        with pytest.raises(InputError, match=said):
            override(RECIPE, changes)
    assert not caplog.records
