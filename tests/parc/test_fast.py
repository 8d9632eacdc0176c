"""The setting ``fast`` of rankings and probings: packed layers, the same features, one cache."""

import numpy as np
import pytest
import torch

import parc
from parc.probing import ProbeSettings
from parc.ranking import Settings, evaluation
from parc.ranking.candidates import Candidate, make_model
from parc.ranking.evaluation import cached_features
from parc.ranking.extraction import extract, preprocess_digest
from parc.ranking.probes import draw_probes
from plm_core.datasets import load_dataset
from plm_core.embeddings.digests import weights_digest
from plm_core.errors import InputError
from plm_core.packing import make_fast, operators
from plm_core.utils import devices

pytestmark = pytest.mark.skipif(bool(operators.missing()), reason=operators.missing())
MODELS = ["tome_micro_shapes", "random:test_vit"]


@pytest.fixture(scope="module")
def digits(tmp_path_factory, write_digits):
    return write_digits(tmp_path_factory.mktemp("digits"), classes=4, per_class=6)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PLM_CACHE", str(tmp_path))


@pytest.mark.parametrize("name", ["hiera_micro_digits", "tome_micro_shapes", "test_vit"])
def test_features_and_their_key_are_those_of_a_plain_run(name, digits, all_layers_gain):
    """They differ by 1e-6, as they do with another number of threads, so one cache serves both."""
    candidate = Candidate(name, pretrained=name != "test_vit")
    probe = draw_probes(load_dataset(digits), 24, 1)[0]
    model = make_model(candidate)
    plain = extract(model, probe, Settings(), head=True)
    digests = weights_digest(model), preprocess_digest(model, "fp32", "images")
    assert not all_layers_gain
    [entry] = cached_features(candidate, model, [probe], Settings(fast=True))
    assert len(all_layers_gain) >= 18
    assert not entry.cached
    for ours, others in ((entry.features.features, plain.features), (entry.features.probs, plain.probs)):
        if ours is not None:
            np.testing.assert_allclose(ours, others, rtol=0, atol=1e-5 * np.abs(others).max())
    assert (weights_digest(model), preprocess_digest(model, "fp32", "images")) == digests
    [again] = cached_features(candidate, make_model(candidate), [probe], Settings())
    assert again.cached
    np.testing.assert_array_equal(again.features.features, entry.features.features)


@pytest.mark.parametrize("fast", [False, True])
def test_models_of_rankings_and_probings_are_packed(fast, digits, all_layers_gain, caplog):
    ranking = parc.rank(digits, MODELS, "parc", bootstraps=0, pca=None, fast=fast)
    assert ranking.about["fast"] is fast
    assert len(all_layers_gain) == 49 * fast  # 25 of a model with its classifier, 24 without
    assert not ranking.failed
    before = len(all_layers_gain)
    probing = parc.probe(digits, MODELS[:1], "knn", folds=2, fast=fast, cache=False)
    assert len(all_layers_gain) - before == 25 * fast
    assert probing.about["fast"] is fast
    assert not caplog.records


def test_models_that_cannot_be_packed_run_as_they_are_and_are_counted(digits, monkeypatch, caplog):
    monkeypatch.setattr(operators, "missing", lambda *dtype: "this torch was built without oneDNN")
    plain = parc.rank(digits, MODELS, "parc", bootstraps=0)
    fast = parc.rank(digits, MODELS, "parc", bootstraps=0, fast=True, cache=False)
    assert [(row.model, row.score, row.error) for row in fast.rows] == [
        (row.model, row.score, row.error) for row in plain.rows
    ]
    why = "fast changes nothing: no layer can be packed in float32: this torch was built without oneDNN"
    assert f"{why} (tome_micro_shapes.plm_shapes and 1 more)" in caplog.messages
    caplog.clear()
    parc.probe(digits, MODELS, "knn", folds=2, fast=True)
    assert f"{why} (tome_micro_shapes.plm_shapes and 1 more)" in caplog.messages


def test_another_device_or_precision_is_refused_before_any_model_runs(digits, monkeypatch):
    monkeypatch.setattr(evaluation, "make_model", None)
    for judge in (parc.rank, parc.probe):
        with pytest.raises(InputError, match=r"^fast is for dtype fp32, and dtype is bf16"):
            judge(digits, MODELS, fast=True, dtype="bf16")
    monkeypatch.setattr(devices, "pick_device", lambda name: torch.device("cuda:1"))
    for judge in (parc.rank, parc.probe):
        with pytest.raises(InputError, match=r"^fast is for the CPU, and device is cuda:1"):
            judge(digits, MODELS, fast=True)


def test_a_worker_with_a_gpu_says_so_in_the_row(digits, monkeypatch):
    """The device of a Ray worker is known there only."""
    probe = draw_probes(load_dataset(digits), 24, 1)[0]
    monkeypatch.setattr(devices, "pick_device", lambda name: torch.device("cuda:0"))
    outcome = evaluation.evaluate(Candidate("tome_micro_shapes"), [probe], Settings(fast=True))
    assert outcome.error.startswith("fast is for the CPU, and device is cuda:0")


def test_a_packed_model_has_its_plain_digest():
    model = make_model(Candidate("test_vit", pretrained=False))
    digest = weights_digest(model)
    assert make_fast(model) == ""
    assert weights_digest(model) == digest
    assert ProbeSettings(fast=True).extraction().fast
