"""The methods that Token Merging is compared with drop and place the right tokens, and the measurements run."""

import json
from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models.vision_transformer import VisionTransformer

import tome
from plm_core import blocks
from plm_core.training.micro import silhouettes
from tome.experiments import merging, studies
from tome.experiments.__main__ import main
from tome.experiments.models import rotary_vit
from tome.experiments.pruning import class_attention, dropping
from tome.experiments.report import plot_merging
from tome.experiments.rotary import _mean_of_angles, placing
from tome.experiments.studies import PLACES, RIVALS, STUDIES

TINY = {"embed_dim": 16, "depth": 3, "num_heads": 2, "mlp_ratio": 2}


def random_weights(model, std=0.3):
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=std, generator=torch.Generator().manual_seed(parameter.numel()))
    return model.eval()


@pytest.fixture(scope="module")
def vit():
    return random_weights(VisionTransformer(img_size=16, patch_size=4, num_classes=5, **TINY))


@pytest.fixture(scope="module")
def eva():
    return random_weights(rotary_vit(8, **TINY))


def run_and_count(model, x):
    """Return the number of tokens after each block, and the output."""
    counts = []
    hooks = [b.register_forward_hook(lambda module, args, y: counts.append(y.shape[1])) for b in model.blocks]
    with torch.no_grad():
        y = model(x)
    for hook in hooks:
        hook.remove()
    return counts, y


@pytest.mark.parametrize("way", RIVALS)
@settings(max_examples=15, deadline=None)
@given(r=st.integers(0, 12), seed=st.integers(0, 99))
def test_every_method_leaves_as_many_tokens_and_with_r_0_changes_nothing(vit, way, r, seed):
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    before = run_and_count(vit, x)[1]
    with RIVALS[way](vit, r):
        counts, y = run_and_count(vit, x)
    patches, expected = 16, []
    for _ in range(3):
        patches -= min(r, patches // 2)
        expected.append(1 + patches)
    assert counts == expected
    if r == 0:
        torch.testing.assert_close(y, before, atol=1e-5, rtol=1e-5)
    assert torch.equal(run_and_count(vit, x)[1], before)
    assert not any(isinstance(block, blocks.Patched) for block in vit.blocks)


def test_the_least_attended_tokens_are_dropped_and_the_class_token_stays(vit):
    x = torch.rand(3, 3, 16, 16)
    block = vit.blocks[0]
    with torch.no_grad():
        embedded = vit.norm_pre(vit._pos_embed(vit.patch_embed(x)))
        n = block.norm1(embedded)
        q, k, _ = block.attn.qkv(n).unflatten(2, (3, 2, 8)).permute(2, 0, 3, 1, 4)
        attention = (q / 8**0.5 @ k.mT).softmax(-1)[:, :, 0].mean(1)
        whole = embedded + block.attn(n)
        whole = whole + block.mlp(block.norm2(whole))
        with dropping(vit, 5, class_attention):
            out = vit.blocks[0](embedded)
    kept = [[0, *(1 + sample[1:].argsort()[5:]).sort().values.tolist()] for sample in attention]
    assert blocks.state_of(out).tolist() == kept
    torch.testing.assert_close(out, torch.stack([y[i] for y, i in zip(whole, kept, strict=True)]), atol=1e-5, rtol=1e-5)


def test_random_dropping_takes_every_patch_equally_often_and_never_the_class_token(vit):
    x = torch.rand(1, 3, 16, 16).expand(400, -1, -1, -1)
    torch.manual_seed(0)
    with torch.no_grad(), RIVALS["random dropping"](vit, 4):
        kept = blocks.state_of(vit.blocks[0](vit._pos_embed(vit.patch_embed(x))))
    often = kept.flatten().bincount(minlength=17) / 400
    assert often[0] == 1
    assert (often[1:] - 12 / 16).abs().max() < 0.12


def test_rotary_positions_follow_the_tokens_that_are_left(eva):
    """The second block gives what it gives for all tokens when its attention masks the dropped ones."""
    x = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        t, rope = eva._pos_embed(eva.patch_embed(x))
        with dropping(eva, 20, class_attention):
            left = eva.blocks[0](t, rope=rope)
            kept = blocks.state_of(left)
        visible = torch.zeros(2, 65, dtype=torch.bool).scatter(1, kept, True)
        expected = eva.blocks[1](eva.blocks[0](t, rope=rope), rope=rope, attn_mask=visible[:, None, None])
        with dropping(eva, 0, class_attention):
            left._plm_state = kept
            actual = eva.blocks[1](left, rope=rope)
    torch.testing.assert_close(actual, expected.take_along_dim(kept[..., None], 1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("way", PLACES)
def test_placing_changes_positions_only(eva, way):
    x = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        with tome.applied(eva, 10):
            counts, ours = run_and_count(eva, x)
        torch.manual_seed(0)
        with PLACES[way](eva, 10):
            assert run_and_count(eva, x)[0] == counts
            theirs = eva(x)
        before = eva(x)
        with PLACES[way](eva, 0):
            torch.testing.assert_close(eva(x), before, atol=1e-5, rtol=1e-5)
    assert torch.equal(theirs, ours) == (way == "destination")
    assert not any(isinstance(block, blocks.Patched) for block in eva.blocks)


def test_merged_tokens_get_the_named_positions(eva):
    x = torch.rand(1, 1, 32, 32)
    with torch.no_grad():
        t, rope = eva._pos_embed(eva.patch_embed(x))
        with placing(eva, 6):
            ours = blocks.state_of(eva.blocks[0](t, rope=rope))
        with placing(eva, 6, place="source"):
            theirs = blocks.state_of(eva.blocks[0](t, rope=rope))
        groups = {i: [] for i in range(ours.place.shape[1])}
        for source, into in zip(ours.matching.merged[0].tolist(), ours.matching.into[0].tolist(), strict=True):
            groups[into].append(source)
        for i, sources in groups.items():
            expected = sources[0] if sources else ours.place[0, i]
            assert theirs.place[0, i] == expected
        view = blocks.view(eva).blocks[1]
        actual = _mean_of_angles(view, {"rope": rope}, ours.matching.group, ours.size)["rope"][0, 0]
        for i, sources in list(groups.items())[1:]:
            sin, cos = rope[torch.tensor([ours.place[0, i].item(), *sources]) - 1].mean(0).chunk(2)
            angle = torch.atan2(sin, cos)
            torch.testing.assert_close(actual[i - 1], torch.cat([angle.sin(), angle.cos()]))


def test_silhouettes_are_bright_on_dark_and_whole():
    data = silhouettes("heldout", 40)
    assert data.x.shape == (40, 1, 32, 32)
    bright = data.x > 0
    edge = torch.ones(32, 32, dtype=torch.bool)
    edge[2:-2, 2:-2] = False
    assert not bright[:, :, edge].any()
    assert 60 < bright.sum((1, 2, 3)).float().mean() < 300
    assert len(data.y.unique()) == 8


def test_measurement_of_the_studies_runs_and_continues_where_it_stopped(tmp_path, monkeypatch, capsys):
    """With tiny data and models: files, tables and plots."""
    for name, study in STUDIES.items():
        model = partial(study.model, **TINY)
        small = replace(study, model=model, epochs=1, num_train=32, num_held_out=20, r=(16,))
        monkeypatch.setitem(STUDIES, name, small)
    main(["accuracy", "rotary", "--out", str(tmp_path), "--seeds", "1"])
    printed = capsys.readouterr().out
    assert "| r (tokens left) | 0 (65) | 16 (17) |" in printed
    assert all(way in printed for way in (*RIVALS, *PLACES))
    assert (tmp_path / "accuracy.png").stat().st_size > 5000
    assert (tmp_path / "rotary.png").exists()
    rows = studies.measure("digits", 0, tmp_path)
    whole = {row["top1"] for row in rows if row["r"] == 0}
    assert len(whole) == 1
    monkeypatch.setattr(studies, "finetune", None)  # nothing is trained again
    (tmp_path / "digits_0.json").unlink()
    assert studies.measure("digits", 0, tmp_path) == rows


def test_measurement_of_the_shipped_model_runs(tmp_path, monkeypatch):
    """With tiny data: the rows, the files and the plot."""
    for what, few in {"TRAIN": 32, "HELD_OUT": 40, "R": (0, 16), "FINETUNED_R": (16,)}.items():
        monkeypatch.setattr(merging, what, few)
    recipe = replace(merging.FINETUNE_CONFIG.recipe, epochs=1, batch_size=32, warmup_epochs=0)
    monkeypatch.setattr(merging, "FINETUNE_CONFIG", replace(merging.FINETUNE_CONFIG, recipe=recipe))
    main(["merging", "--out", str(tmp_path)])
    none, some = json.loads((tmp_path / "merging.json").read_text())
    assert (none["tokens"], some["tokens"]) == (145, 145 - 6 * 16)
    assert none["off the shelf"] == none["without proportional attention"]
    assert "finetuned while merging" in some.keys() - none.keys()
    assert (tmp_path / "merging.png").stat().st_size > 5000
    assert len(plot_merging([none, some]).axes[0].lines) == 3


def test_a_figure_that_does_not_exist_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["speed", "--out", str(tmp_path)])
    assert "no figure 'speed'; there are merging, accuracy and rotary" in capsys.readouterr().err
