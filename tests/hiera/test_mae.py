import pytest
import torch

import hiera
from hiera.configs import VIDEO
from plm_core import InputError, weights

SMALL = {"input_size": (32, 48), "embed_dim": 8, "num_heads": 1, "stages": (1, 1, 1), "mask_unit_size": (4, 4)}
SMALL |= {"mask_unit_attn": (True, False, False), "q_pool": 1}
SMALL |= {"decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 2}


def small(**kwargs):
    torch.manual_seed(0)
    return hiera.MaskedAutoencoderHiera(**{**SMALL, **kwargs}).eval()


@pytest.mark.parametrize("name", ["mae_image_official", "mae_video_official"])
@torch.no_grad()
def test_official_loss_predictions_targets_and_latent(golden, name):
    g = golden(name)
    model = hiera.MaskedAutoencoderHiera(**g.kwargs).eval()
    assert weights.load(model, g.weights).ok
    mask = g.inputs["mask"].bool()
    loss, predicted, targets, returned = model(g.inputs["x"], mask=mask)
    close = {"atol": 2e-4, "rtol": 0}
    torch.testing.assert_close(model.forward_encoder(g.inputs["x"], mask), g.outputs["latent"], **close)
    torch.testing.assert_close(predicted, g.outputs["pred"], **close)
    torch.testing.assert_close(targets, g.outputs["label"], **close)
    torch.testing.assert_close(loss, g.outputs["loss"], **close)
    assert torch.equal(returned, mask)


@pytest.mark.parametrize(("ratio", "units", "keep"), [(0.6, (224, 224), 19), (0.9, (16, 224, 224), 39)])
def test_random_masks_keep_what_the_paper_keeps(ratio, units, keep):
    config = VIDEO if len(units) == 3 else {}
    model = hiera.MaskedAutoencoderHiera(**config, stages=(1, 1, 1, 1), decoder_depth=1, device="meta")
    x = torch.empty(1).expand(3, 3, *units)
    mask = model.get_random_mask(x, ratio, torch.Generator().manual_seed(0))
    assert mask.sum(1).tolist() == [keep] * 3
    assert not torch.equal(mask[0], mask[1])


@torch.no_grad()
def test_dropped_units_are_neither_computed_nor_seen():
    model = small()
    x, mask = torch.rand(1, 3, 32, 48), torch.tensor([[True, False, True, False, False, True]])
    seen = []
    for block in model.blocks:
        block.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    latent = model.forward_encoder(x, mask)
    assert seen == [3, 3, 3]  # kept mask units
    changed = torch.where(model_pixels(mask), x, torch.rand_like(x))
    assert torch.equal(model.forward_encoder(changed, mask), latent)


def model_pixels(mask):
    return mask.view(1, 1, 2, 3).repeat_interleave(16, 2).repeat_interleave(16, 3)


@torch.no_grad()
def test_predictions_and_targets_are_of_the_same_places():
    """A decoder that had learnt the identity would have loss 0: targets, masks and tokens share one order."""
    model = small()
    x = torch.rand(1, 3, 32, 48)
    mask = torch.tensor([[True, False, True, True, False, True]])
    targets = model.pixel_targets(x, normalize=False)
    assert targets.shape == (1, 24, 3 * 8 * 8)
    assert torch.equal(targets[0, 7].view(3, 8, 8), x[0, :, 8:16, 8:16])  # row 1, column 1 of a grid 4 x 6
    hidden = model.masked_tokens(mask).view(4, 6)
    assert torch.equal(hidden, ~mask.view(2, 3).repeat_interleave(2, 0).repeat_interleave(2, 1))
    places = torch.arange(24.0).view(1, 4, 6, 1)
    units = places.unflatten(2, (3, 2)).unflatten(1, (2, 2)).transpose(2, 3).reshape(1, 6, 4, 1)
    assert torch.equal(model._to_grid(units).flatten(), torch.arange(24.0))


def test_patches_are_normalised_by_their_own_unbiased_variance():
    model = small()
    targets = model.pixel_targets(torch.rand(2, 3, 32, 48))
    torch.testing.assert_close(targets.mean(-1), torch.zeros(2, 24), atol=1e-5, rtol=0)
    torch.testing.assert_close(targets.var(-1), torch.ones(2, 24), atol=1e-3, rtol=0)


def test_learns():
    torch.manual_seed(0)
    model = small().train()
    x = torch.linspace(0, 6, 48).sin().expand(8, 3, 32, 48) + 0.1 * torch.rand(8, 3, 32, 48)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    losses = []
    for _ in range(60):
        loss, *_ = model(x, mask_ratio=0.5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
    assert all(p.grad is not None for p in model.parameters())


@torch.no_grad()
def test_indices_are_masks_and_compile_in_one_graph():
    model, x = small(), torch.rand(2, 3, 32, 48)
    mask = torch.tensor([[True, False, True, False, False, True], [False, True, True, True, False, False]])
    keep = torch.tensor([[0, 2, 5], [1, 2, 3]])
    whole, compiled = model(x, mask=mask), torch.compile(model, fullgraph=True, backend="eager")(x, mask=keep)
    for a, b, c in zip(whole, model(x, mask=keep), compiled, strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(a, c)
    encoder = hiera.Hiera(**{k: v for k, v in SMALL.items() if "decoder" not in k}).eval()
    program = torch.export.export(encoder, (x, keep)).module()
    torch.testing.assert_close(program(x, keep), encoder(x, mask=mask))
    random = torch.compile(model, fullgraph=True, backend="eager")(x, mask_ratio=0.5)
    assert random[3].sum(1).tolist() == [3, 3]


@torch.no_grad()
def test_plain_encoder_has_the_trunk():
    model = small()
    encoder = model.plain_encoder(num_classes=7, q_pool=2).eval()
    assert type(encoder) is hiera.Hiera
    assert encoder(torch.rand(1, 3, 32, 48)).shape == (1, 7)
    for key, value in encoder.state_dict().items():
        assert key.startswith("head.") or torch.equal(value, model.state_dict()[key])
    x = torch.rand(1, 3, 32, 48)
    whole = model.embed(x)
    assert torch.equal(model.blocks[0](whole), encoder.blocks[0](encoder.embed(x)))


@pytest.mark.parametrize(
    ("size", "options", "said"),
    [
        ((32, 48), {"mask_ratio": 1.0}, "mask_ratio 1.0 keeps 0 of 6"),
        ((32, 48), {"mask_ratio": 0.0}, "mask_ratio 0.0 keeps 6 of 6"),
        ((32, 48), {"mask": torch.ones(1, 6, dtype=torch.bool)}, "nothing to predict"),
        ((64, 48), {}, "x has size (64, 48); the decoder is made for (32, 48)"),
    ],
)
def test_bad_input_is_named(size, options, said):
    with pytest.raises(InputError) as e:
        small()(torch.rand(1, 3, *size), **options)
    assert said in str(e.value)
