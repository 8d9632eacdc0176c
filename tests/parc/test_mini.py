"""The mini-benchmark: tasks and models, reproduction of its tables, and agreement of the README with them."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import parc
from parc.benchmark import metrics
from parc.mini import make, protocol
from parc.mini import models as mini_models
from parc.mini import report as mini_report
from parc.mini import tasks as mini_tasks
from parc.mini.protocol import Micro
from parc.mini.tasks import SOURCES, TARGETS

README = Path(__file__).parents[2] / "packages" / "parc" / "README.md"


@pytest.fixture(scope="module")
def tables():
    return mini_report.load()


def row_of(name):
    return next(micro for micro in protocol.MODELS if micro.name == name)


@pytest.fixture
def few_scenes(monkeypatch):
    """Use worlds of few shapes, which take no time to draw."""
    monkeypatch.setattr(mini_tasks, "SCENES", {"source": 90, "target": 90})
    cached = (mini_tasks.objects, mini_tasks.crowds)
    for function in cached:
        function.cache_clear()
    yield
    for function in cached:
        function.cache_clear()


# The protocol


def test_it_is_as_large_as_promised(tables):
    assert len(tables.models) == len(protocol.MODELS) == 48
    assert len(tables.targets) == len(TARGETS) == 8
    assert {row["seeds"] for row in mini_report.read_rows(mini_report.SHIPPED / "truth.csv")} == {"10"}
    assert {values.shape for values in tables.scores.values()} == {(3, 48, 8)}
    assert tuple(tables.scores) == protocol.METHODS
    assert np.isfinite(tables.truth).all()
    assert (tables.error > 0).all()
    assert all(path.stat().st_size < 150_000 for path in mini_report.SHIPPED.iterdir())


def test_no_image_of_a_target_is_in_a_source(few_scenes):
    mine, _ = mini_tasks.digits("source")
    other, _ = mini_tasks.digits("target")
    assert len(mine) + len(other) == 1797
    scenes = [mini_tasks.objects(side, "plain", 0)[0] for side in ("source", "target")]
    for left, right in ((mine, other), scenes):
        assert not {image.tobytes() for image in left} & {image.tobytes() for image in right}
    for name in TARGETS:
        assert name.partition("-")[0] in ("digits", "shapes")


@pytest.mark.parametrize("name", ["digits-noisy", "digits-inverted", "digits-turned", "digits-textured"])
def test_targets_of_digits(name):
    task = TARGETS[name]()
    assert task.x.shape == (898, 3, 12, 12)
    assert 0 <= task.x.min() < task.x.max() <= 1
    assert np.bincount(task.y, minlength=task.classes).min() > 60
    assert np.array_equal(task.x, TARGETS[name]().x)
    split = protocol.target(name)
    assert len(split.y) == len(split.test_y) == 449


def test_tasks_of_shapes(few_scenes):
    for name, classes in {"kinds": 4, "colours": 10, "sizes": 2, "count": 2}.items():
        task = TARGETS[f"shapes-{name}"]()
        assert task.classes == classes
        assert set(task.y.tolist()) == set(range(classes))
        assert task.x.shape[1:] == (3, 12, 12)
        assert 0 <= task.x.min() < task.x.max() <= 1
    for name, classes in {"kinds": 8, "colours": 10, "count": 4}.items():
        task = SOURCES[f"shapes-{name}"]()
        assert task.classes == classes == len(set(task.y.tolist()))


# Models and fine-tuning


@pytest.mark.parametrize("architecture", mini_models.ARCHITECTURES)
def test_the_head_sees_the_features(architecture):
    model = mini_models.ARCHITECTURES[architecture].build(32, 7)
    x = torch.rand(5, 3, 12, 12)
    extracted = make.probe_features(model, x)
    assert extracted["features"].shape == (5, 32)
    torch.testing.assert_close(torch.as_tensor(extracted["probs"]), model(x).double().softmax(-1))
    assert sum(p.numel() for p in model.parameters()) < 70_000


@pytest.mark.parametrize("architecture", mini_models.ARCHITECTURES)
def test_copies_that_are_trained_together_do_not_meet(architecture):
    torch.manual_seed(0)
    model = mini_models.ARCHITECTURES[architecture].build(32, 7)
    before = [p.clone() for p in model.parameters()]
    x, y = torch.rand(40, 3, 12, 12), torch.arange(40) % 4
    subsets = torch.stack([torch.randperm(40)[:20] for _ in range(3)])
    test = torch.rand(300, 3, 12, 12), torch.arange(300) % 4
    options = {"classes": 4, "lr": 0.05, "epochs": 3, "batch_size": 10}
    together = mini_models.finetune(model, x, y, subsets, test, seeds=(3, 4, 5), **options)
    alone = [
        mini_models.finetune(model, x, y, subsets[i : i + 1], test, seeds=(3 + i,), **options)[0] for i in range(3)
    ]
    assert together == pytest.approx(alone, abs=1.0)  # three of 300 images: sums are in another order
    assert len(set(alone)) > 1
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_fine_tuning_learns_what_can_be_learnt():
    torch.manual_seed(0)
    model = mini_models.ARCHITECTURES["cnn"].build(32, 7)
    y = torch.arange(60) % 2
    x = torch.rand(60, 3, 12, 12) + y.view(-1, 1, 1, 1)
    options = {"classes": 2, "lr": 0.1, "epochs": 12, "batch_size": 20}
    learnt = mini_models.finetune(model, x, y, torch.arange(60)[None], (x, y), seeds=(0,), **options)
    assert learnt > 95


# Reproduction of the tables


@pytest.mark.parametrize(
    ("name", "target"), [("mlp-32/digits", "digits-turned"), ("mixer-32/untrained", "digits-textured")]
)
def test_a_cell_comes_out_again(name, target, tables):
    """Training starts from nothing. Sums in another order change single answers, so other machines have other means."""
    micro = row_of(name)
    values = protocol.truth(protocol.train(micro), micro, target)
    place = tables.models.index(name), tables.targets.index(target)
    error = values.std(ddof=1) / np.sqrt(len(values))
    assert abs(values.mean() - tables.truth[place]) <= 3 * np.hypot(error, tables.error[place])
    assert len(values) == 10


def test_scores_come_out_again(tables):
    """The model is not trained, so its features are the same on every machine except for rounding."""
    micro = row_of("cnn-64/untrained")
    model = protocol.train(micro)
    (row,) = make.score_rows({micro.name: model}, "digits-inverted", 1, model)
    place = 1, tables.models.index(micro.name), tables.targets.index("digits-inverted")
    for method in set(protocol.METHODS) - {"rsa", "dds", "nleep"}:  # a mixture model may converge elsewhere
        shipped = tables.scores[method][place]
        assert float(row[method]) == pytest.approx(shipped, rel=0.01, abs=1e-3), method
    assert float(row["rsa"]) == pytest.approx(100)  # compared with itself


def test_a_stopped_run_goes_on(tmp_path, monkeypatch):
    bank = [Micro("mlp", 32, "untrained"), Micro("mlp", 64, "untrained")]
    monkeypatch.setattr(make, "MODELS", bank)
    monkeypatch.setattr(make, "TARGETS", {"digits-turned": None, "digits-inverted": None})
    calls = []

    def row(model, micro, name):
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append((micro.name, name))
        return {"model": micro.name, "target": name, "mean": "1", "se": "0.1", "seeds": "10"}

    monkeypatch.setattr(make, "truth_row", row)
    with pytest.raises(KeyboardInterrupt):
        make.make_truth(tmp_path)
    first = (tmp_path / "truth.csv").read_text()
    assert len(first.splitlines()) == 1 + 3
    calls.clear()
    make.make_truth(tmp_path)
    assert calls == [("mlp-64/untrained", "digits-inverted")]
    assert (tmp_path / "truth.csv").read_text().startswith(first)
    saved = make.source_model(bank[0], tmp_path / "models").state_dict()
    made = protocol.train(bank[0]).state_dict()
    assert all(torch.equal(saved[k], made[k]) for k in made)


# Results


def test_summary_is_the_mean_of_the_metric(tables):
    for metric, function, scale in (("pearson", metrics.pearson, 100), ("regret", metrics.regret, 1)):
        (row,) = [row for row in mini_report.summary(tables, metric) if row.method == "knn"]
        values = [
            [scale * function(tables.scores["knn"][run, :, t], tables.truth[:, t]) for t in range(8)]
            for run in range(3)
        ]
        assert row.mean == pytest.approx(np.mean(values))
        assert row.sd == pytest.approx(np.mean(values, 1).std())
        assert row.by_target == pytest.approx(np.mean(values, 0))
        assert row.low < row.mean < row.high


def test_other_targets_do_not_see_their_own(tables):
    truth = tables.truth.copy()
    truth[:, 2] = np.random.default_rng(0).random(48)
    changed = mini_report.baseline_scores(replace(tables, truth=truth))["other targets"]
    before = mini_report.baseline_scores(tables)["other targets"]
    assert changed[0, :, 2] == pytest.approx(before[0, :, 2])
    assert not np.allclose(changed[0, :, 1], before[0, :, 1])


def test_intervals_are_over_sources(tables):
    """Copies of every model add no source, so the interval keeps its width."""
    twice = replace(
        tables,
        models=tables.models * 2,
        truth=np.tile(tables.truth, (2, 1)),
        error=np.tile(tables.error, (2, 1)),
        scores={"knn": np.tile(tables.scores["knn"], (1, 2, 1))},
    )
    (once,) = [row for row in mini_report.summary(tables) if row.method == "knn"]
    (again,) = [row for row in mini_report.summary(twice) if row.method == "knn"]
    assert (again.mean, again.low, again.high) == pytest.approx((once.mean, once.low, once.high))


def test_a_missing_score_counts_as_the_worst(tables):
    scores = tables.scores["knn"].copy()
    best = tables.truth[:, 0].argmax()
    scores[:, best, 0] = np.nan
    rows = mini_report.summary(replace(tables, scores={"knn": scores}))
    (with_gap,) = [row for row in rows if row.method == "knn"]
    (without,) = [row for row in mini_report.summary(tables) if row.method == "knn"]
    assert with_gap.by_target[0] < without.by_target[0]
    assert with_gap.by_target[1:] == pytest.approx(without.by_target[1:])


def numbers(markdown):
    """Return the numbers in each row of a Markdown table, by its first cell."""
    cells = [[cell.strip(" *") for cell in line.split("|")[1:-1]] for line in markdown.splitlines() if "|" in line]
    return {row[0]: [float(n) for cell in row[1:] for n in re.findall(r"-?\d+\.?\d*", cell)] for row in cells if row[0]}


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """Return a folder with the shipped tables and the report about them."""
    folder = tmp_path_factory.mktemp("mini")
    for path in mini_report.SHIPPED.glob("*.csv"):
        (folder / path.name).write_bytes(path.read_bytes())
    mini_report.write_report(folder)
    return folder


def test_the_readme_has_the_tables(reported):
    written = numbers(README.read_text().partition("## Mini-benchmark")[2].partition("\n## ")[0])
    expected = numbers((reported / "mini.md").read_text())
    for name, values in expected.items():
        assert written[name] == pytest.approx(values, abs=0.3), name
    assert {*protocol.METHODS, *mini_report.BASELINES, *TARGETS} <= set(expected)


def test_the_report_has_a_picture(reported):
    assert (reported / "mini.png").read_bytes().startswith(b"\x89PNG")


def test_the_readme_names_every_method():
    table = README.read_text().partition("## Methods")[2].partition("\n## ")[0]
    assert set(parc.methods()) <= set(re.findall(r"^\| ([\w-]+) \|", table, re.MULTILINE))
