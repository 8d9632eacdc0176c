"""The shipped micro model, its recipe, and what it needs."""

import json
import math
from dataclasses import replace

import pytest
import torch

import plm_core
from gazelle.experiments import __main__ as command
from gazelle.experiments import ablation
from gazelle.micro import shapes as micro
from plm_core import InputError
from plm_core.hookspecs import Model
from plm_core.registry import registry

NAME = micro.NAME


@pytest.fixture(scope="module")
def shipped():
    return plm_core.create_model(NAME, pretrained=True).eval()


@pytest.fixture
def few(monkeypatch):
    """Few scenes, to train on and to be scored on, and one short epoch."""
    monkeypatch.setattr(micro, "TRAIN", 12)
    monkeypatch.setattr(micro, "HELD_OUT", 8)
    monkeypatch.setattr(micro, "RECIPE", replace(micro.RECIPE, epochs=1, batch_size=4, warmup_epochs=0))


@pytest.mark.slow
def test_scores_on_held_out_scenes_are_the_declared_ones(shipped):
    declared = registry().get(Model, NAME).pretrained[0].metrics
    assert micro.evaluate(shipped) == pytest.approx(declared, abs=0.003)
    assert declared[micro.AUC] >= 0.95


def test_the_shipped_model_finds_targets_of_the_person_in_the_box(shipped, monkeypatch):
    """The wrong box and no box must be clearly worse, in the scenes of several people."""
    monkeypatch.setattr(micro, "HELD_OUT", 60)
    right, wrong, none = ablation.prompting(shipped)
    assert [row["head box"] for row in (right, wrong, none)] == list(micro.BOXES)
    assert right[micro.AUC] > 0.93
    assert right[micro.L2] < 0.1
    assert right[micro.AP] > 0.9
    for other in (wrong, none):
        assert other[micro.AUC] < right[micro.AUC] - 0.1
        assert other[micro.L2] > right[micro.L2] + 0.15
        assert other[micro.AP] < right[micro.AP] - 0.05


def test_the_shipped_file_is_small(shipped):
    assert 4 * sum(tensor.numel() for tensor in shipped.state_dict().values()) < 2e6


def test_boxes_are_those_of_the_next_person():
    heads = [(0, 0, 1, 1), (1, 1, 2, 2), (3, 3, 4, 4)]
    assert micro._given(heads, "right") == heads
    assert micro._given(heads, "wrong") == [heads[1], heads[2], heads[0]]
    assert micro._given(heads, "none") == [None] * 3
    with pytest.raises(InputError, match="boxes 'left' is not allowed: 'right', 'wrong' and 'none' are"):
        micro._given(heads, "left")


def test_a_flipped_scene_is_the_mirror_image(monkeypatch):
    pictures = micro.scenes("train", 12)
    data = micro.Scenes(pictures)
    monkeypatch.setattr(micro.torch, "rand", lambda shape: torch.tensor(0.2))
    plain = [data[i] for i in range(12)]
    monkeypatch.setattr(micro.torch, "rand", lambda shape: torch.tensor(0.8))
    for (image, people), (other, mirrored) in zip(plain, (data[i] for i in range(12)), strict=True):
        assert torch.equal(image.flip(-1), other)
        assert image.abs().max() <= 1
        for (box, point, angle), (box2, point2, angle2) in zip(people, mirrored, strict=True):
            assert box2 == (1 - box[2], box[1], 1 - box[0], box[3])
            assert point2 == ((1 - point[0], point[1]) if point[0] >= 0 else (-1, -1))
            assert math.cos(angle2) == pytest.approx(-math.cos(angle))
            assert math.sin(angle2) == pytest.approx(math.sin(angle))


def test_a_ray_begins_at_the_head_and_passes_the_target():
    samples = [micro.Scenes(micro.scenes("train", 12))[i] for i in range(12)]
    batch = micro.collate(samples)
    rays = micro.rays_of(batch["boxes"], batch["directions"], (32, 32))
    people = [person for _, looks in samples for person in looks]
    assert len(rays) == len(batch["heatmaps"]) == len(people)
    for ray, (box, (x, y), _) in zip(rays, people, strict=True):
        centre = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        if x >= 0:
            assert ray[int(y * 32), int(x * 32)] > 0.5
            behind = [2 * c - t for c, t in zip(centre, (x, y), strict=True)]
            if all(0 <= side < 1 for side in behind):
                assert ray[int(behind[1] * 32), int(behind[0] * 32)] == 0
    assert batch["inout"].tolist() == [float(x >= 0) for _, (x, _), _ in people]


def test_the_helping_layers_teach_the_backbone_and_are_no_part_of_the_model():
    model = plm_core.create_model(NAME, frozen=False)
    taught = micro.Taught(model).train()
    loss, parts = micro.teaching_loss(
        taught, micro.collate([micro.Scenes(micro.scenes("train", 12))[i] for i in (0, 1)])
    )
    assert set(parts) == {"heatmap", "inout", "direction", "ray"}
    expected = micro.HEATMAP * parts["heatmap"] + parts["inout"] + micro.DIRECTION * parts["direction"]
    torch.testing.assert_close(loss, expected + micro.RAY * parts["ray"])
    parts["direction"].backward(retain_graph=True)
    assert model.linear.weight.grad is None
    assert any(parameter.grad is not None for parameter in model.backbone.parameters())
    parts["ray"].backward()
    assert model.transformer[-2].mlp.fc1.weight.grad is not None
    assert model.transformer[-1].mlp.fc1.weight.grad is None
    assert micro.plain(taught.state_dict()).keys() == model.state_dict().keys()


def test_the_recipe_writes_weights_and_a_card_with_the_scores(few, tmp_path):
    scores = micro.train(tmp_path)
    card = " ".join((tmp_path / f"{NAME}.md").read_text().split())
    for name, score in scores.items():
        assert f"**Score, {name}**: {score:.3f}" in card
    model = plm_core.create_model(NAME)
    plm_core.weights.load(model, tmp_path / f"{NAME}.safetensors")
    assert micro.evaluate(model) == pytest.approx(scores)


def test_a_frozen_backbone_keeps_its_weights(few):
    start = plm_core.create_model(NAME, backbone_options={"pretrained": True}).backbone.state_dict()
    frozen, tuned = (micro.trained(frozen=frozen).backbone.state_dict() for frozen in (True, False))
    assert all(torch.equal(value, start[name]) for name, value in frozen.items())
    assert not all(torch.equal(value, start[name]) for name, value in tuned.items())


def test_the_command_prints_tables_and_writes_them(few, tmp_path, capsys):
    command.main(["--out", str(tmp_path / "out"), "--seeds", "1", "--threads", str(torch.get_num_threads())])
    tables = json.loads((tmp_path / "out" / "ablation.json").read_text())
    assert [row["backbone"] for row in tables["backbone"]] == ["frozen", "tuned"]
    printed = capsys.readouterr().out
    assert "| head box | held-out AUC | held-out L2 | held-out in/out AP |\n| --- | --- | --- | --- |" in printed
    assert f"| tuned | 0 | {tables['backbone'][1][micro.AUC]:.3f} |" in printed
    with pytest.raises(SystemExit):
        command.main(["layers", "--out", str(tmp_path)])
    assert "no measurement 'layers'; there are ablation" in capsys.readouterr().err
