"""The measurements behind the README's figures run, and continue where they were."""

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image

from hydra_attn import scaling
from hydra_attn.experiments import __main__ as command
from hydra_attn.experiments import accuracy, heads, micro, models
from hydra_attn.heads import linear_attention
from plm_core import blocks


@pytest.fixture
def tiny(monkeypatch):
    """Let the studies train for a step on few images of few tokens."""
    monkeypatch.setattr(micro, "PATCH", 4)
    monkeypatch.setattr(micro, "TRAIN", 16)
    monkeypatch.setattr(micro, "HELD_OUT", 16)
    recipe = replace(micro.CONFIG.recipe, epochs=1, warmup_epochs=0, batch_size=16)
    for module in (accuracy, heads):
        monkeypatch.setattr(module, "CONFIG", replace(micro.CONFIG, recipe=recipe))
    monkeypatch.setattr(accuracy, "DISTILL", replace(micro.DISTILL, recipe=recipe))
    monkeypatch.setattr(accuracy, "LAYERS", (2,))
    monkeypatch.setattr(heads, "HEADS", {"softmax": (3,), "linear attention": (1, 48)})


def test_both_attentions_of_the_measurement_compute_what_they_say():
    q, k, v = torch.randn(3, 2, 5, 12, generator=torch.Generator().manual_seed(0))
    expected = [
        torch.softmax(a @ b.mT / 2, -1) @ c for a, b, c in zip(*(x.split(4, dim=-1) for x in (q, k, v)), strict=True)
    ]
    torch.testing.assert_close(scaling.softmax(q, k, v, 3), torch.cat(expected, -1))
    rows = scaling.measure([5, 9], 12, 3, rounds=1)
    assert [(row["tokens"], row["part"]) for row in rows] == [
        (5, "attention"),
        (5, "layer"),
        (9, "attention"),
        (9, "layer"),
    ]
    for row in rows:
        assert row["ratio"] == pytest.approx(row["Hydra"] / row["softmax"])


def test_linear_attention_of_the_heads_of_a_study():
    model = micro.fresh(0, 1).eval()
    x = torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    (view, *_) = blocks.view(model).blocks
    tokens = torch.randn(1, 7, micro.DIM, generator=torch.Generator().manual_seed(2))
    attn = view.block.attn
    q, k, v = attn.qkv(view.block.norm1(tokens)).chunk(3, -1)
    expected = tokens + attn.proj(linear_attention(q, k, v, 6))
    before = model(x)
    blocks.alter(view, heads.Linear(6))
    seen = []
    view.block.norm2.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    view.block(tokens)
    torch.testing.assert_close(seen[0], expected)
    assert not torch.allclose(model(x), before)


@pytest.mark.usefixtures("tiny")
def test_the_command_continues_where_it_was(tmp_path, monkeypatch, capsys):
    command.main(["accuracy", "heads", "--out", str(tmp_path), "--seeds", "0"])
    rows = json.loads((tmp_path / "accuracy.json").read_text())
    assert [(row["layers"], row["way"]) for row in rows] == [
        (0, "from scratch"),
        (0, "twice as long"),
        (2, "from scratch"),
        (2, "distilled"),
    ]
    of_heads = json.loads((tmp_path / "heads.json").read_text())
    assert [(row["way"], row["heads"]) for row in of_heads] == [
        ("softmax", 3),
        ("linear attention", 1),
        ("linear attention", 48),
    ]
    assert all(0 <= row["top1"] <= 100 for row in rows + of_heads)
    for name in ("finetune", "plain_finetune", "distill"):
        monkeypatch.delattr(accuracy, name)
    monkeypatch.delattr(heads, "finetune")
    command.main(["accuracy", "heads", "--out", str(tmp_path), "--seeds", "0"])
    assert json.loads((tmp_path / "accuracy.json").read_text()) == rows
    assert Image.open(tmp_path / "heads.png").width > 300


def test_whole_models_and_their_plot(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "NAME", "vit_tiny_patch16_224")
    monkeypatch.setattr(models, "SIZES", ((32, 32), (40, 50)))
    monkeypatch.setattr(command, "TOKENS", (4, 8))
    command.main(["models", "scaling", "--out", str(tmp_path)])
    rows = json.loads((tmp_path / "models.json").read_text())
    assert [row["tokens"] for row in rows] == [5, 7]
    assert Image.open(tmp_path / "models.png").width > 300
    with pytest.raises(SystemExit):
        command.main(["speed", "--out", str(tmp_path)])
