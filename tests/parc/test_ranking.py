"""Whole rankings of real models: rows, failures, an interruption, a kill, several probes, and Ray."""

import csv
import errno
import json
import os
import re
import signal
import sys
import time
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import parc
from parc.ranking import Interrupted, RankedRow, Ranking, Settings, evaluation, rank, report, run
from parc.ranking.probes import draw_probes
from parc.writing import markdown_text
from plm_core.datasets import load_dataset
from plm_core.errors import FileError, InputError, MissingDependency, UnknownName

MODELS = ["hiera_micro_digits", "hiera_micro_shapes", "tome_micro_shapes", "random:test_vit", "random:test_resnet"]
NAMES = {
    "hiera_micro_digits.sklearn_digits",
    "hiera_micro_shapes.plm_shapes",
    "tome_micro_shapes.plm_shapes",
    "random:test_vit",
    "random:test_resnet",
}


@pytest.fixture(scope="module")
def digits(tmp_path_factory, write_digits):
    """80 handwritten digits."""
    return write_digits(tmp_path_factory.mktemp("digits"), classes=10, per_class=8)


@pytest.fixture(scope="module")
def undisturbed(digits, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield rank(digits, MODELS)


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PLM_CACHE", str(tmp_path))
    return tmp_path


def scores(ranking):
    return {(row.model, row.method): (row.score, row.low, row.high, row.rank) for row in ranking.rows}


def test_a_bank_on_digits(undisturbed):
    ranking = undisturbed
    assert set(ranking.models) == NAMES
    assert [row.method for row in ranking.rows[:3]] == ["parc", "logme", "knn"]
    for method in ranking.methods:
        assert ranking.of("hiera_micro_digits.sklearn_digits")[method].rank == 1  # it was trained to read digits
    assert ranking.models[0] == "hiera_micro_digits.sklearn_digits"
    assert [ranking.of(model)["parc"].rank for model in ranking.models] == [1, 2, 3, 4, 5]
    for row in ranking.rows:
        assert row.low < row.high or row.score == row.low == row.high
        assert row.params > 100_000
        assert row.extract_seconds > 0
        assert not row.cached
        assert row.error == ""
    assert ranking.mean_rank("hiera_micro_digits.sklearn_digits") == 1


def test_scores_are_those_of_the_features(undisturbed, digits):
    """The ranking has the scores that `parc.score` computes from the features of the model."""
    from parc.ranking.candidates import Candidate, make_model
    from parc.ranking.extraction import extract

    probe = draw_probes(load_dataset(digits))[0]
    extracted = extract(make_model(Candidate("tome_micro_shapes")), probe, Settings(), head=True)
    for method in ("parc", "logme", "knn"):
        expected = parc.score(method, extracted.features, probe.labels, num_classes=10, pca=32)
        assert undisturbed.of("tome_micro_shapes.plm_shapes")[method].score == pytest.approx(expected, rel=1e-4)


def test_the_second_time_comes_from_the_cache(undisturbed, digits, monkeypatch):
    import parc.ranking.extraction

    monkeypatch.setattr(parc.ranking.extraction, "extract", lambda *_, **__: pytest.fail("computed again"))
    again = rank(digits, MODELS)
    assert scores(again) == scores(undisturbed)
    assert all(row.cached and row.extract_seconds > 0 for row in again.rows)


def test_whatever_changes_the_features_is_not_taken_from_the_cache(own_cache, tmp_path, monkeypatch):
    """Each part of the cache's key, where a user changes it."""
    from parc.ranking import extraction
    from parc.scoring import Features
    from plm_core.embeddings import digests

    def extract(model, probe, settings, **options):
        return Features(np.random.default_rng(0).normal(size=(len(probe), 3)))

    monkeypatch.setattr(extraction, "extract", extract)
    monkeypatch.setattr(evaluation, "make_model", cache(evaluation.make_model))
    pixels = np.random.default_rng(0).integers(0, 256, (8, 4, 9, 3), dtype=np.uint8)

    def cached(images=pixels, labels=(0, 1) * 4, file="a/x.npz", model="random:test_vit", **options):
        path = tmp_path / file
        path.parent.mkdir(exist_ok=True)
        np.savez(path, images=images, labels=labels)
        return rank(path, model, ["knn"], **{"budget": 8, "bootstraps": 0, "pca": None, **options}).rows[0].cached

    assert not cached()
    assert cached(file="b/x.npz")  # the same data in another place
    brighter = pixels.copy()
    brighter[5, 3, 2, 1] ^= 1
    assert not cached(images=brighter)
    assert not cached(images=pixels.transpose(0, 2, 1, 3).reshape(pixels.shape))
    assert not cached(images=pixels.reshape(8, 9, 4, 3))  # the same bytes
    assert not cached(labels=(1, 0) * 4)
    assert not cached(file="a/y.npz")
    assert not cached(budget=6)
    assert not cached(runs=2)
    assert not cached(dtype="bf16")
    assert not cached(model="random:test_vit2")
    with monkeypatch.context() as patch:
        real = digests.metadata.version
        patch.setattr(digests.metadata, "version", lambda name: "0" if name == "timm" else real(name))
        assert not cached()
    for options in ({}, {"dtype": "bf16"}, {"budget": 6}, {"runs": 2}, {"images": pixels.reshape(8, 9, 4, 3)}):
        assert cached(**options), options
    assert not cached(cache=False)


def test_models_that_fail_are_rows_that_say_why(undisturbed, digits):
    bad = ["test_vit", "test_maxvit", "hiera_micro_detector", "hiera_micro_motions", "local-dir:/nowhere"]
    bad += ["transformers:org/name", "random:torchvision:squeezenet1_1"]
    ranking = rank(digits, [*bad, "tome_micro_shapes"], ["leep", "parc", "params"])
    assert ranking.models[0] == "tome_micro_shapes.plm_shapes"
    why = {row.model: row.error for row in ranking.rows if row.method == "parc"}
    assert why.pop("tome_micro_shapes.plm_shapes") == ""
    assert "HF_HUB_OFFLINE is set" in why["test_vit.r160_in1k"]
    assert "there are no weights of it" in why["test_maxvit"]
    assert "no pooled embedding" in why["hiera_micro_detector.plm_shapes"]
    assert why["hiera_micro_motions.plm_shapes"] == "the model takes clips of 8 frames; the dataset holds images"
    assert "HF_HUB_OFFLINE is set" in why["transformers:org/name"]
    assert "no pooled embedding" in why["random:torchvision:squeezenet1_1"]
    assert all(why.values())
    assert len(why) == 7


def test_models_of_torchvision_and_transformers(digits, own_cache, vit_folder, hub_double):
    hub_double.add("org/vit", {path.name: path.read_bytes() for path in vit_folder.iterdir()})
    there, here = "transformers:org/vit", f"transformers:{vit_folder}"
    models = ["random:torchvision:shufflenet_v2_x0_5", there, here]
    ranking = rank(digits, models, ["parc", "leep", "params", "layers"], bootstraps=0)
    assert set(ranking.models) == set(models)
    assert [row.error for row in ranking.rows if row.method != "leep"] == [""] * 9
    assert "needs probs" in ranking.of(models[0])["leep"].error
    for method in ("parc", "leep", "params", "layers"):
        assert ranking.of(there)[method].score == ranking.of(here)[method].score
    assert ranking.of(here)["leep"].score < 0
    assert ranking.of(models[0])["params"].params == 1_366_792
    assert ranking.of(here)["parc"].cached  # the same weights and preprocessing as on the Hub
    assert len(list((own_cache / "parc").rglob("*.safetensors"))) == 2


def test_a_headless_model_has_no_leep_but_the_rest(undisturbed, digits):
    rows = rank(digits, "random:test_vit", ["leep", "nce", "parc"]).of("random:test_vit")
    assert "needs probs" in rows["leep"].error
    assert "needs probs" in rows["nce"].error
    assert rows["leep"].score is rows["leep"].rank is None
    assert rows["parc"].rank == 1


def test_static_methods_need_no_weights_and_no_features(digits, own_cache, tmp_path):
    table = tmp_path / "results.csv"
    table.write_text("model,top1\nresnet18.a1_in1k,71.5\nresnet50.a1_in1k,80.2\n")
    methods = ["imagenet-top1", "layers", "params", "heuristic"]
    ranking = rank(digits, ["resnet18", "resnet50.a1_in1k", "random:resnet34"], methods, imagenet_csv=table)
    assert ranking.models == ["resnet50.a1_in1k", "resnet18.a1_in1k", "random:resnet34"]
    best = ranking.of("resnet50.a1_in1k")
    assert (best["imagenet-top1"].score, best["layers"].score, best["params"].params) == (80.2, 50.0, 25_557_032)
    assert best["heuristic"].score == pytest.approx(50 + np.log(1_281_167 + 80))
    assert ranking.of("random:resnet34")["imagenet-top1"].error  # random weights know nothing of ImageNet
    assert not list(own_cache.glob("parc"))


def test_few_dimensions_are_not_reduced_further(undisturbed, digits):
    ranking = rank(digits, ["tome_micro_shapes"], ["parc"], pca=5000)
    assert ranking.rows[0].score == rank(digits, ["tome_micro_shapes"], ["parc"], pca=96).rows[0].score
    assert ranking.rows[0].score != undisturbed.of("tome_micro_shapes.plm_shapes")["parc"].score


def test_few_images_for_a_reduction_are_said(undisturbed, digits, caplog):
    rank(digits, ["tome_micro_shapes"], ["parc"], budget=60)
    assert "few for pca=32" in caplog.text
    caplog.clear()
    rank(digits, ["tome_micro_shapes"], ["parc"], budget=64)
    assert not caplog.text


def test_several_probes_are_averaged(undisturbed, digits):
    both = rank(digits, ["tome_micro_shapes"], ["parc"], budget=40, runs=2, bootstraps=0).rows[0]
    from parc.ranking.candidates import Candidate, make_model
    from parc.ranking.extraction import extract

    model = make_model(Candidate("tome_micro_shapes"))
    each = [
        parc.score("parc", extract(model, probe, Settings(), head=False).features, probe.labels, num_classes=10, pca=32)
        for probe in draw_probes(load_dataset(digits), budget=40, runs=2)
    ]
    assert both.score == pytest.approx(np.mean(each), rel=1e-4)
    assert each[0] != each[1]
    assert both.low is both.high is None


def test_a_reference_model_makes_rsa_and_dds_possible(undisturbed, digits):
    ranking = rank(digits, ["tome_micro_shapes", "hiera_micro_digits"], ["rsa", "dds"], reference="hiera_micro_digits")
    own = ranking.of("hiera_micro_digits.sklearn_digits")
    assert own["rsa"].score == pytest.approx(100, abs=1e-3)  # to itself
    assert own["dds"].score == pytest.approx(100, abs=1e-3)
    assert 0 < ranking.of("tome_micro_shapes.plm_shapes")["rsa"].score < 90
    with pytest.raises(InputError, match="matches 2 models; one is needed"):
        rank(digits, ["tome_micro_shapes"], ["rsa"], reference="hiera_micro_[ds]*s")


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"methods": ["prac"]}, UnknownName, "no method 'prac'; did you mean 'parc'"),
        ({"methods": "parc,knn"}, UnknownName, r"no method 'parc,knn'.* several are a list, as in \['parc', 'knn'\]"),
        ({"methods": ["foo"]}, UnknownName, "no method 'foo'; there are: parc, parc-auc, .*, transrate, .* layers"),
        ({"methods": ["layer"]}, UnknownName, "no method 'layer'; did you mean 'layers'"),
        ({"methods": ["knn:q=3"]}, InputError, "knn takes no option 'q'"),
        ({"methods": []}, InputError, "methods is empty"),
        ({"models": "tome_micro_shape"}, UnknownName, "did you mean 'tome_micro_shapes'"),
        ({"methods": ["parc", "rsa"]}, InputError, "method 'rsa' needs reference, a model that was trained on the"),
        ({"methods": ["dds:pca=8"]}, InputError, "method 'dds:pca=8' needs reference"),
        ({"methods": ["knn:k=0"]}, InputError, "method 'knn:k=0' cannot rank this dataset: k=0 neighbours of 79"),
        ({"methods": ["parc", "knn:k=80"]}, InputError, "k=80 neighbours of 79 images; 1 to 79 are allowed"),
        ({"methods": ["knn:metric=cosin"]}, InputError, "metric='cosin' is none of euclidean"),
        ({"methods": ["knn:k=" + "1+" * 9000 + "1"]}, InputError, r"method is 'knn:k=1\+1"),
        ({"methods": ["imagenet-top1"]}, InputError, "'imagenet-top1' is not known for any of the models; for those"),
        ({"methods": [None]}, InputError, "methods has None"),
        ({"batch_size": float("nan")}, InputError, "batch_size is nan; a whole number from 1 is allowed"),
        ({"budget": "40"}, InputError, "budget is '40'; a whole number from 2 is allowed"),
        ({"bootstraps": 2.5}, InputError, r"bootstraps is 2\.5; a whole number from 0 is allowed"),
        ({"pca": 0}, InputError, "pca=0 is not allowed"),
        ({"pca": "raw"}, InputError, "pca='raw' is not allowed"),
        ({"budget": 1}, InputError, "budget"),
        ({"runs": 0}, InputError, "runs is 0; a whole number from 1 is allowed"),
        ({"batch_size": 0}, InputError, "batch_size is 0; a whole number from 1 is allowed"),
        ({"num_workers": -1}, InputError, "num_workers is -1; a whole number from 0 is allowed"),
        ({"device": "abacus"}, InputError, "device 'abacus' cannot be used"),
        ({"dtype": "int4"}, InputError, "dtype 'int4' is not allowed"),
        ({"imagenet_csv": "/nowhere.csv"}, InputError, "imagenet_csv '/nowhere.csv' cannot be read"),
        ({"ray": "ray://127.0.0.1:9"}, InputError, "ray 'ray://127.0.0.1:9' cannot be reached"),
    ],
)
def test_bad_input_fails_before_any_model_runs(digits, monkeypatch, options, error, said):
    for module in (evaluation, run):
        monkeypatch.setattr(module, "make_model", lambda candidate: pytest.fail("a model was made"))
    with pytest.raises(error, match=said):
        rank(digits, **{"models": ["tome_micro_shapes"], **options})


def test_ctrl_c_keeps_what_is_finished(undisturbed, digits, monkeypatch):
    real, begun = run.evaluate, []

    def until_the_third(candidate, *args):
        begun.append(candidate)
        if len(begun) == 3:
            raise KeyboardInterrupt
        return real(candidate, *args)

    monkeypatch.setattr(run, "evaluate", until_the_third)
    with pytest.raises(Interrupted) as caught:
        rank(digits, MODELS)
    assert caught.value.left == 3
    finished = {model: undisturbed.of(model) for model in caught.value.result.models}
    assert len(finished) == 2
    for row in caught.value.result.rows:
        assert row.score == finished[row.model][row.method].score


def test_killed_half_way_it_resumes(undisturbed, digits, own_cache, forked, monkeypatch):
    """After a SIGKILL, features that are in the cache already are not computed again."""
    process = forked(rank, digits, MODELS)
    deadline = time.monotonic() + 120
    while not (kept := list(own_cache.rglob("*.safetensors"))) and time.monotonic() < deadline:
        assert process.is_alive(), "it ended by itself"
        time.sleep(0.005)
    process.kill()
    process.join(30)
    assert process.exitcode == -signal.SIGKILL
    kept = list(own_cache.rglob("*.safetensors"))
    assert 0 < len(kept) < len(MODELS)

    import parc.ranking.extraction

    real, computed = parc.ranking.extraction.extract, []
    monkeypatch.setattr(parc.ranking.extraction, "extract", lambda *a, **k: (computed.append(a[0]), real(*a, **k))[1])
    before = {path: path.stat().st_mtime_ns for path in kept}
    resumed = rank(digits, MODELS)
    assert len(computed) == len(MODELS) - len(kept)
    assert {path: path.stat().st_mtime_ns for path in kept} == before
    assert resumed.of("hiera_micro_digits.sklearn_digits")["parc"].cached
    assert resumed.models == undisturbed.models
    for key, expected in scores(undisturbed).items():
        assert scores(resumed)[key] == pytest.approx(expected, rel=1e-4, abs=1e-6), key
    assert not list(own_cache.rglob("*.part"))


@pytest.mark.slow
def test_ray_gives_the_same(undisturbed, digits, own_cache):
    if find_spec("ray") is None:  # not importorskip: settings of ours must stand before ray is imported
        pytest.skip("ray is not installed")
    failing = [*MODELS, "test_vit"]
    ranking = rank(digits, failing, ray="local")
    assert ranking.models == [*undisturbed.models, "test_vit.r160_in1k"]
    assert "HF_HUB_OFFLINE is set" in ranking.rows[-1].error
    for key, expected in scores(undisturbed).items():
        assert scores(ranking)[key] == pytest.approx(expected, rel=1e-4, abs=1e-6), key
    assert len(list(own_cache.rglob("*.safetensors"))) == len(MODELS)  # the workers kept theirs in the same place
    assert all(row.cached for row in rank(digits, MODELS).rows)


class TestReport:
    def test_table(self, undisturbed):
        rows = undisturbed.table()
        assert [row["rank"] for row in rows] == [1, 2, 3, 4, 5]
        best = rows[0]
        assert (best["model"], best["size"], best["mean rank"]) == ("hiera_micro_digits.sklearn_digits", "170k", "1")
        row = undisturbed.of(best["model"])["parc"]
        numbers = re.fullmatch(r"(\S+) \[(\S+), (\S+)\]", best["parc"]).groups()
        assert [float(number) for number in numbers] == pytest.approx([row.score, row.low, row.high], rel=1e-3)
        assert {len(number.replace(".", "").lstrip("0")) for number in numbers} == {4}  # digits, zeros at the end, too

    def test_scores_have_four_digits(self):
        row = RankedRow("some_model", "parc", 0.36, None, None, 1, 1000, 0.1, 0.1, False)
        (line,) = report.table([row])
        assert line["parc"] == "0.3600"
        (line,) = report.table([replace(row, score=1234.5, low=-70.0, high=2000.1)])
        assert line["parc"] == "1234 [-70.00, 2000]"

    def test_files(self, undisturbed, tmp_path):
        for ending in ("csv", "json", "md", "png", "svg"):
            undisturbed.save(tmp_path / f"out.{ending}")
        with (tmp_path / "out.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [(row["model"], row["method"]) for row in rows] == [(r.model, r.method) for r in undisturbed.rows]
        assert float(rows[0]["score"]) == undisturbed.rows[0].score
        told = json.loads((tmp_path / "out.json").read_text())
        assert told["rows"][0]["score"] == undisturbed.rows[0].score
        assert told["about"]["images"] == 80
        lines = (tmp_path / "out.md").read_text().splitlines()
        assert len(lines) == 2 + len(MODELS)
        assert {line.count("|") for line in lines} == {lines[0].count("|")}
        assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
        assert "hiera_micro_digits" in (tmp_path / "out.svg").read_text()

    def test_it_prints_as_a_table_and_becomes_a_data_frame(self, undisturbed, monkeypatch):
        lines = str(undisturbed).splitlines()
        assert " ".join(lines[0].split()) == "model rank parc logme knn mean rank size extract, s score, s"
        assert [line.split()[0] for line in lines[1:]] == undisturbed.models
        assert len({line.index(str(rank)) for rank, line in zip(["rank", *range(1, 6)], lines, strict=True)}) == 1
        frame = undisturbed.to_pandas()
        assert frame[frame["rank"] == 1]["model"].tolist() == ["hiera_micro_digits.sklearn_digits"] * 3
        assert frame["score"].tolist() == [row.score for row in undisturbed.rows]
        monkeypatch.setitem(sys.modules, "pandas", None)
        with pytest.raises(MissingDependency, match=r"a data frame needs pandas: install parc\[pandas\]"):
            undisturbed.to_pandas()

    def test_the_sizes_have_labels_that_do_not_overlap(self, undisturbed):
        rows = [replace(row, params=params) for row, params in zip(undisturbed.rows, (10**5, 10**9) * 9, strict=False)]
        axes = replace(undisturbed, rows=tuple(rows)).figure().axes[-1]
        axes.figure.draw_without_rendering()
        assert axes.get_xscale() == "log"
        boxes = [label.get_window_extent() for label in axes.get_xticklabels(which="both") if label.get_text()]
        assert len(boxes) >= 2
        assert not any(a.overlaps(b) for a, b in pairwise(boxes))

    def test_a_full_disk_is_one_line(self, undisturbed, tmp_path, monkeypatch):
        def full(path, data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(Path, "write_bytes", full)
        with pytest.raises(FileError, match=r"cannot write .*out\.pdf: .*No space left on device"):
            undisturbed.save(tmp_path / "out.pdf")
        assert not list(tmp_path.iterdir())

    def test_an_ending_that_means_nothing(self, undisturbed, tmp_path):
        with pytest.raises(InputError, match=r"ending '\.xls'; \.csv, \.json, \.md, \.png, \.svg, \.pdf are allowed"):
            undisturbed.save(tmp_path / "out.xls")

    def test_the_picture_shows_scores_and_intervals(self, undisturbed):
        drawn = undisturbed.figure()
        titles = [axis.get_title() for axis in drawn.axes]
        assert titles == ["parc", "logme", "knn", "parameters, millions"]
        assert [label.get_text() for label in drawn.axes[0].get_yticklabels()] == undisturbed.models
        dots = [line for line in drawn.axes[0].lines if line.get_marker() == "o"]
        shown = [undisturbed.of(model)["parc"].score for model in undisturbed.models]
        assert [float(dot.get_xdata()[0]) for dot in dots] == shown

    def test_many_methods_stand_in_rows_of_four(self):
        from parc.ranking.outcomes import RankedRow
        from parc.ranking.report import figure

        long = "knn:k=5,metric=euclidean,pca=None"
        methods = [long, *"abcdefgh"]
        rows = [RankedRow("run", method, 1.0, None, None, 1, 10**6, 1.0, 1.0, False) for method in methods]
        drawn = figure(rows, "title")
        drawn.draw_without_rendering()
        assert [
            len([axis for axis in drawn.axes if axis.get_subplotspec().rowspan.start == row]) for row in range(4)
        ] == [4, 4, 2, 0]
        assert drawn.get_size_inches().tolist() == pytest.approx([13.4, 7.6])  # at 150 dots an inch 2010 wide
        shown = [axis.yaxis.get_tick_params()["labelleft"] for axis in drawn.axes]
        assert shown == [True, *[False] * 3] * 2 + [True, False]  # each row names the models
        title = drawn.axes[0].title.get_window_extent()
        assert drawn.axes[0].get_title().replace("\n", " ") == long.replace(",", ", ")
        assert title.width < drawn.axes[0].get_tightbbox().width
        assert not title.overlaps(drawn.axes[1].title.get_window_extent())

    def test_equal_scores_share_a_rank_and_failed_rows_have_none(self):
        from parc.ranking.outcomes import Outcome, ranked_rows
        from parc.scoring import ScoreRow

        def outcome(name, score):
            return Outcome(name, 1, {"m": [ScoreRow(name, "m", score, None, None, 0.1)]})

        failed = Outcome("z", error="a | reason\nin lines")
        outcomes = [failed, outcome("a", 1.0), outcome("b", 2.0), outcome("c", 2.0)]
        ranking = Ranking(ranked_rows(outcomes, ("m",)), ("m",), {})
        assert [(row.model, row.rank) for row in ranking.rows] == [("b", 1), ("c", 1), ("a", 3), ("z", None)]
        assert ranking.table()[-1]["problem"] == "a | reason\nin lines"
        assert markdown_text(ranking.table()).splitlines()[-1].count(" | ") == markdown_text(
            ranking.table()
        ).splitlines()[0].count(" | ")
        part = replace(ranking.rows[0], method="n", error="n is impossible", score=None, rank=None)
        partly = replace(ranking, rows=(*ranking.rows[:1], part), methods=("m", "n"))
        assert partly.table()[0]["problem"] == "n is impossible"
