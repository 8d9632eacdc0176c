"""Whole probings of real models on digits: accuracies, failures, splits, the cache, an interruption, files."""

import csv
import inspect
import json
from dataclasses import fields, replace

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import parc
from parc.interrupted import Interrupted
from parc.next_steps import UNTRAINED, after_probing, after_ranking
from parc.probing import ProbeSettings, Probing, evaluation, probe, run
from parc.ranking import RankedRow, Ranking
from parc.ranking.candidates import Candidate, make_model
from parc.ranking.extraction import extract
from parc.ranking.probes import draw_probes
from plm_core.datasets import load_dataset
from plm_core.errors import InputError, UnknownName

DIGITS, TOME = "hiera_micro_digits.sklearn_digits", "tome_micro_shapes.plm_shapes"
MODELS = ["tome_micro_shapes", "random:test_vit", "hiera_micro_digits", "hiera_micro_detector"]


@pytest.fixture(scope="module")
def digits(tmp_path_factory, write_digits):
    """96 handwritten digits of 8 classes."""
    return write_digits(tmp_path_factory.mktemp("digits"), classes=8, per_class=12)


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def probed(digits, _cache):
    return probe(digits, MODELS, "linear:C=1", folds=3, shots=(4, 1))


def test_models_are_ordered_by_their_accuracy(probed):
    assert probed.models[0] == DIGITS  # it was trained to read digits
    assert probed.models[-1] == "hiera_micro_detector.plm_shapes"
    for kind in ((None), 1, 4):
        rows = {model: next(row for row in probed.of(model) if row.shots == kind) for model in probed.models[:3]}
        assert rows[DIGITS].rank == 1
        assert rows[DIGITS].accuracy > 90 > rows[TOME].accuracy > 12.5
        assert all(row.low < row.accuracy <= row.high <= 100 for row in rows.values())
        assert {row.images for row in rows.values()} == {96}
    failed = probed.of("hiera_micro_detector.plm_shapes")
    assert [row.rank for row in failed] == [None] * 3
    assert all("no pooled embedding" in row.error for row in failed)


def test_accuracies_are_those_of_the_features(probed, digits):
    """The accuracy is that of scikit-learn on the features of the model."""
    images = draw_probes(load_dataset(digits), budget=5000)[0]
    extracted = extract(make_model(Candidate("tome_micro_shapes")), images, ProbeSettings().extraction(), head=False)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1, max_iter=1000))
    outer = StratifiedKFold(3, shuffle=True, random_state=0)
    predicted = cross_val_predict(model, extracted.features, images.labels, cv=outer)
    assert probed.of(TOME)[0].accuracy == pytest.approx(100 * np.mean(predicted == images.labels))


def test_features_are_shared_with_a_ranking(probed, digits, monkeypatch):
    import parc.ranking.extraction

    monkeypatch.setattr(parc.ranking.extraction, "extract", lambda *_, **__: pytest.fail("computed again"))
    assert all(row.cached for row in probe(digits, ["hiera_micro_digits"], "knn", folds=3).rows)
    assert parc.rank(digits, ["hiera_micro_digits"], ["knn"], budget=5000).rows[0].score > 90


@pytest.fixture
def split(tmp_path, digits):
    """Return a folder whose ``val`` has the digits that are left of each class, turned upside down."""
    for name, turned in (("train", False), ("val", True)):
        for folder in digits.iterdir():
            (tmp_path / name / folder.name).mkdir(parents=True)
            for file in sorted(folder.iterdir())[turned * 8 :]:
                image = Image.open(file)
                (image.rotate(180) if turned else image).save(tmp_path / name / folder.name / file.name)
    return tmp_path


def test_a_split_to_judge_by_is_reported_too(split):
    probed = probe(split, ["hiera_micro_digits", "tome_micro_shapes"], "knn:k=1", folds=3)
    folds, val = probed.of(DIGITS)
    assert [(row.judged, row.shots, row.images) for row in (folds, val)] == [("folds", None, 96), ("val", None, 32)]
    assert val.accuracy < 60 < folds.accuracy  # most digits mean something else upside down
    assert list(probed.table()[0])[:4] == ["model", "rank", "accuracy", "val"]
    assert probed.about["val_images"] == 32


def test_a_budget_draws_class_by_class(digits):
    probed = probe(digits, ["hiera_micro_digits"], "knn", folds=3, budget=40, shots="auto")
    assert (probed.about["images"], probed.about["of"]) == (40, 96)
    assert [row.shots for row in probed.rows] == [None, 1, 2]  # 5 of each class, of which 3 are left in the worst fold


def npz(path, labels):
    images = np.random.default_rng(0).integers(0, 256, (len(labels), 8, 8), np.uint8)
    np.savez(path, images=images, labels=labels)
    return path


@pytest.mark.parametrize(
    ("labels", "options", "error", "said"),
    [
        ([0] * 9, {}, InputError, r"has 1 class \(0\) in 9 images; at least 2 are needed"),
        ([0] * 9 + [1] * 4, {}, InputError, "folds is 5, but class '1' has 4 of the images; 4 folds or fewer"),
        (np.eye(4, dtype=int), {}, InputError, "has several labels per image; a probe needs one class per image"),
        ([0, 1] * 9, {"shots": [8]}, InputError, "shots is 8, but class '0' has 7 images to learn from in 5 folds"),
        ([0, 1] * 9, {"shots": [0]}, InputError, "shots is 0; a whole number from 1 is allowed"),
        ([0, 1] * 9, {"folds": 1}, InputError, "folds is 1; a whole number from 2 is allowed"),
        ([0, 1] * 9, {"seed": -1}, InputError, "seed is -1; a whole number from 0 is allowed"),
        ([0, 1] * 9, {"budget": 1}, InputError, "budget is 1; a whole number from 2 is allowed"),
        ([0, 1] * 9, {"method": "svm"}, UnknownName, "no method of probing 'svm'; there are: knn, linear"),
        ([0, 1] * 9, {"device": "abacus"}, InputError, "device 'abacus' cannot be used"),
        ([0, 1] * 9, {"models": "tome_micro_shape"}, UnknownName, "did you mean 'tome_micro_shapes'"),
    ],
)
def test_bad_input_fails_before_any_model_runs(labels, options, error, said, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "make_model", lambda candidate: pytest.fail("a model was made"))
    with pytest.raises(error, match=said):
        probe(npz(tmp_path / "x.npz", labels), **{"models": ["tome_micro_shapes"], **options})


def test_every_setting_is_a_keyword_of_probe_with_the_same_default():
    parameters = dict(list(inspect.signature(parc.probe).parameters.items())[2:])
    assert {name: parameter.default for name, parameter in parameters.items()} == {
        field.name: field.default for field in fields(ProbeSettings)
    }


def test_ctrl_c_keeps_what_is_finished(probed, digits, monkeypatch):
    real, begun = run.evaluate, []

    def until_the_third(candidate, *args):
        begun.append(candidate)
        if len(begun) == 3:
            raise KeyboardInterrupt
        return real(candidate, *args)

    monkeypatch.setattr(run, "evaluate", until_the_third)
    with pytest.raises(Interrupted) as caught:
        probe(digits, MODELS, "linear:C=1", folds=3)
    assert caught.value.left == 2
    result = caught.value.result
    assert {model: result.of(model)[0].accuracy for model in result.models} == {
        model: probed.of(model)[0].accuracy for model in (TOME, "random:test_vit")
    }


def test_files(probed, tmp_path):
    for ending in ("csv", "json", "md", "png"):
        probed.save(tmp_path / f"out.{ending}")
    with (tmp_path / "out.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["model"], row["shots"]) for row in rows] == [(r.model, str(r.shots or "")) for r in probed.rows]
    assert float(rows[0]["accuracy"]) == probed.rows[0].accuracy
    told = json.loads((tmp_path / "out.json").read_text())
    assert (told["about"]["images"], told["rows"][0]["rank"]) == (96, 1)
    assert (
        (tmp_path / "out.md").read_text().splitlines()[0].startswith("| model | rank | accuracy | 1 shot | 4 shots |")
    )
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


def test_the_picture_shows_the_curves(probed):
    (axis,) = probed.figure().axes
    assert [text.get_text() for text in axis.get_xticklabels()] == ["1", "4", "all"]
    names = [text.get_text() for text in axis.get_legend().get_texts()]
    assert names == probed.models[:3]  # not the one that failed
    for container, model in zip(axis.containers, names, strict=True):
        by_shots = {row.shots: row.accuracy for row in probed.of(model)}
        assert list(container.lines[0].get_ydata()) == [by_shots[1], by_shots[4], by_shots[None]]


def test_the_picture_without_few_shots_has_a_line_per_model(probed):
    only_all = Probing(tuple(row for row in probed.rows if row.shots is None), probed.about)
    (axis,) = only_all.figure().axes
    assert [label.get_text() for label in axis.get_yticklabels()] == probed.models[:3]
    dots = [line for line in axis.lines if line.get_marker() == "o"]
    assert [dot.get_xdata()[0] for dot in dots] == [probed.of(model)[0].accuracy for model in probed.models[:3]]


def test_the_next_step_is_a_fine_tuning_of_the_best(probed):
    line = after_probing("my photos", probed)
    assert line == f"next: plm train finetune 'my photos' --model {DIGITS} --out runs/{DIGITS}"
    untrained = Probing(tuple(row for row in probed.rows if row.model == "random:test_vit"), probed.about)
    assert after_probing("photos", untrained) is None


def test_the_next_step_of_a_ranking_probes_every_pretrained_model_and_trains_what_can_be_trained():
    names = ["random:a", "torchvision:b", "hf-hub:org/c", "d.in1k", "e"]
    rows = [RankedRow(name, "parc", 9.0 - i, None, None, 1 + i, 1, 0, 0, False) for i, name in enumerate(names)]
    assert after_ranking("data", Ranking(tuple(rows), ("parc",), {"kind": "images"})) == (
        "next: plm probe data --models torchvision:b,hf-hub:org/c,d.in1k\n"
        "  or: plm train finetune data --model hf-hub:org/c --out runs/c"
    )
    assert (
        after_ranking("data", Ranking(tuple(rows[:2]), ("parc",), {"kind": "images"}))
        == "next: plm probe data --models torchvision:b"
    )
    assert after_ranking("data", Ranking(tuple(rows[:1]), ("parc",), {"kind": "images"})) == UNTRAINED
    lost = replace(rows[0], score=None, rank=None)
    assert after_ranking("data", Ranking((lost,), ("parc",), {"kind": "images"})) is None
