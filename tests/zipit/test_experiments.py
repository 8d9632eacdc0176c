"""The measurements behind the README run, of networks that are hardly trained."""

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image

from zipit.evaluation import accuracy, class_scores
from zipit.experiments import __main__ as command
from zipit.experiments import digits, networks, training
from zipit.experiments.networks import ResNet


@pytest.fixture
def tiny(monkeypatch):
    """Let the studies train small networks for an epoch on few images, and merge them up to one place."""
    small = {"three": lambda: ResNet((4, 4, 8)), "vit": lambda: networks.vit(depth=1)}
    for name, network in small.items():
        study = digits.STUDIES[name]
        short = replace(study, recipe=replace(study.recipe, epochs=1), network=network, cuts=study.cuts[:1])
        monkeypatch.setitem(digits.STUDIES, name, short)

    def few(seed):
        data = training.digits(seed)
        return training.Digits(data.train[:200], data.train_labels[:200], data.test[:200], data.test_labels[:200])

    monkeypatch.setattr(digits, "digits", few)
    monkeypatch.setattr(digits, "A", (0.1,))
    monkeypatch.setattr(digits, "B", (0.5, 1.0))
    monkeypatch.setattr(digits, "TUNING", (100,))


def test_halves_of_the_digits_differ_by_seed_alone():
    one, again, other = training.digits(3), training.digits(3), training.digits(4)
    assert len(one.train) + len(one.test) == 1797
    assert one.train.shape[1:] == (1, 8, 8)
    assert (one.train.min(), one.train.max()) == (-1, 1)
    counts = [x.bincount() for x in (one.train_labels, one.test_labels)]
    assert (counts[0] - counts[1]).abs().max() <= 1
    assert torch.equal(one.train, again.train)
    assert not torch.equal(one.train_labels, other.train_labels)
    rows = {tuple(x.tolist()) for x in one.test.flatten(1).unique(dim=0)}
    assert not rows & {tuple(x.tolist()) for x in one.train.flatten(1)}


def test_networks_learn_the_classes_of_their_task():
    vectors = training.class_vectors()
    torch.testing.assert_close(vectors @ vectors.T, torch.eye(10))
    assert torch.equal(vectors, training.class_vectors())
    study = digits.STUDIES["two"]
    data = training.digits(0)
    model = training.train(lambda: ResNet((8, 8, 16)), data, range(5, 10), replace(study.recipe, epochs=4), 0)
    with torch.no_grad():
        found = accuracy(class_scores(model(data.test), vectors), data.test_labels, study.tasks)
    assert found.tasks[1] > 80
    assert found.tasks[0] < 50


@pytest.mark.usefixtures("tiny")
def test_the_command_writes_numbers_tables_and_the_plot(tmp_path, capsys):
    command.main(["three", "vit", "--out", str(tmp_path), "--seeds", "1", "--threads", "1"])
    printed = capsys.readouterr().out
    for name in ("three", "vit"):
        study = digits.STUDIES[name]
        found = json.loads((tmp_path / f"{name}.json").read_text())
        (cut,) = study.cuts
        assert [(row["method"], row["until"], row["b"]) for row in found["grid"]] == [
            (method, until, b) for method in digits.TUNED for until in (None, cut) for b in (0.5, 1)
        ]
        rows = found["rows"]
        assert {row["seed"] for row in rows} == {1}
        count = len(study.tasks)
        assert [(row["method"], row["until"]) for row in rows] == [
            *((f"model {number + 1}", None) for number in range(count)),
            ("average", None),
            *((method, until) for method in ("permute", *digits.TUNED) for until in (None, cut)),
            ("ensemble", None),
        ]
        for row in rows:
            assert row["average"] == pytest.approx(sum(row["tasks"]) / count)
            assert 0 <= row["joint"] <= max(row["tasks"]) <= 100, "who knows the task is right more often"
        assert [rows[i]["flops"] for i in (0, count, -1)] == [1 / count, 1 / count, 1]
        best = digits.best_of(found["grid"])
        chosen = {(row["method"], row["until"]): {"a": row["a"], "b": row["b"]} for row in rows if "a" in row}
        assert chosen == best
        assert study.title in printed
    assert Image.open(tmp_path / "sweep.png").width > 700


def test_the_best_options_are_those_of_a_method_and_a_place():
    grid = [{"method": "zipit", "until": until, "a": a, "b": 1, "joint": joint} for until, a, joint in
            ((None, 0.1, 60), (None, 1, 70), ("x", 0.1, 80), ("x", 1, 75), ("y", 0.1, 5), ("y", 1, 5))]  # fmt: skip
    grid.append({"method": "other", "until": "x", "a": 1, "b": 0, "joint": 1})
    assert digits.best_of(grid) == {
        ("zipit", None): {"a": 1, "b": 1},
        ("zipit", "x"): {"a": 0.1, "b": 1},
        ("zipit", "y"): {"a": 0.1, "b": 1},
        ("other", "x"): {"a": 1, "b": 0},
    }


def test_tables_have_means_and_deviations():
    rows = [{"method": "zipit", "until": until, "flops": 0.5, "joint": joint, "average": 70.0, "tasks": (60.0, 80.0)}
            for until in (None, "x") for joint in (50.0, 60.0)]  # fmt: skip
    rows = [{**row, "a": 0.1, "b": 1.0} if row["until"] else row for row in rows]
    assert digits.table(rows).splitlines()[2:] == [
        "| zipit | everything | 50 % | 55.0 ± 7.1 | 60.0 ± 0.0 | 80.0 ± 0.0 | 70.0 ± 0.0 |",
        "| zipit, a = 0.1, b = 1 | `x` | 50 % | 55.0 ± 7.1 | 60.0 ± 0.0 | 80.0 ± 0.0 | 70.0 ± 0.0 |",
    ]


def test_the_command_refuses(tmp_path, capsys):
    for arguments, says in ((["four"], "there are two, three, vit"), (["--seeds", "7", "100"], "chosen on seed 100")):
        with pytest.raises(SystemExit):
            command.main([*arguments, "--out", str(tmp_path)])
        assert says in capsys.readouterr().err
