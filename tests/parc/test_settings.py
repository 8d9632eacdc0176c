"""The settings of a ranking: one list of names for the class and for the keywords of `parc.rank`."""

import inspect
import pickle
from dataclasses import fields, replace

import pytest

import parc
from parc.ranking import Settings
from plm_core.errors import InputError


def test_every_setting_is_a_keyword_of_rank_with_the_same_default():
    parameters = dict(list(inspect.signature(parc.rank).parameters.items())[2:])
    assert {name: parameter.default for name, parameter in parameters.items()} == {
        field.name: field.default for field in fields(Settings)
    }


def test_methods_are_kept_once_and_in_order():
    settings = Settings(methods=("layers", "parc", "knn:k=3", "parc", "params"))
    assert settings.methods == ("layers", "parc", "knn:k=3", "params")
    assert settings.score_methods == ("parc", "knn:k=3")
    assert settings.fact_methods == ("layers", "params")


def test_a_changed_copy_is_checked_and_a_pickled_one_is_equal(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = Settings(imagenet_csv="results.csv")
    assert settings.imagenet_csv == tmp_path / "results.csv"  # a Ray worker has another working directory
    assert pickle.loads(pickle.dumps(settings)) == settings
    with pytest.raises(InputError, match="num_workers is -1; a whole number from 0 is allowed"):
        replace(settings, num_workers=-1)


def test_every_keyword_reaches_its_setting(monkeypatch, tmp_path):
    """Of rank and of probe; a probing extracts its features with the same settings."""
    from parc import probing
    from parc.probing import run as prober
    from parc.ranking import run

    monkeypatch.setattr(run, "rank_models", lambda *given: given)
    monkeypatch.setattr(prober, "probe_models", lambda *given: given)
    shared = {"budget": 31, "pretrained": False, "device": "cuda:3", "dtype": "bf16", "batch_size": 5, "num_workers": 7}
    shared |= {"cache": False, "skip_unreadable": True, "fast": True}
    own = {"methods": ("rsa",), "runs": 3, "pca": 9, "bootstraps": 4, "reference": "r", "ray": "auto"}
    own["imagenet_csv"] = tmp_path / "results.csv"
    assert run.rank("data", "m", **shared, **own) == ("data", ["m"], Settings(**shared, **own))
    assert {*shared, *own} == {field.name for field in fields(Settings)}
    own = {"method": "knn:k=2", "folds": 3, "shots": (2, 4), "seed": 6}
    settings = probing.ProbeSettings(**shared, **own)
    assert prober.probe("data", ["m"], **shared, **own) == ("data", ["m"], settings)
    assert {*shared, *own} == {field.name for field in fields(settings)}
    extraction = settings.extraction()
    assert {name: getattr(extraction, name) for name in shared} == shared
