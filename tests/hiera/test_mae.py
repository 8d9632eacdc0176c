import pytest
import torch

import hiera
import plm_core
from hiera.configs import MICRO_DIGITS, MICRO_MOTIONS, VIDEO
from plm_core import InputError, NotSupported, weights
from plm_core.training import Recipe
from plm_core.training.recipe import parameter_groups

TINY = {"embed_dim": 8, "stages": (1, 1, 1), "q_pool": 1}
TINY |= {"decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 2}
SMALL = {**MICRO_DIGITS, **TINY, "input_size": (32, 48)}
TINY_VIDEO = {**MICRO_MOTIONS, **TINY, "input_size": (4, 32, 48)}
SIGNAL = {
    **SMALL,
    "input_size": (96,),
    "q_stride": (2,),
    "mask_unit_size": (4,),
    "patch_kernel": (7,),
    "patch_stride": (4,),
    "patch_padding": (3,),
}
DIMENSIONS = pytest.mark.parametrize("config", [SIGNAL, SMALL, TINY_VIDEO], ids=["signal", "image", "video"])


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
def test_random_masks_keep_as_many_units_as_in_the_paper(ratio, units, keep):
    config = VIDEO if len(units) == 3 else {}
    model = hiera.MaskedAutoencoderHiera(**config, stages=(1, 1, 1, 1), decoder_depth=1, device="meta")
    x = torch.empty(1).expand(3, 3, *units)
    mask = model.get_random_mask(x, ratio, torch.Generator().manual_seed(0))
    assert mask.sum(1).tolist() == [keep] * 3
    assert not torch.equal(mask[0], mask[1])


@torch.no_grad()
def test_dropped_units_are_not_computed_and_have_no_influence():
    model = small()
    x, mask = torch.rand(1, 3, 32, 48), torch.tensor([[True, False, True, False, False, True]])
    counts = []
    for block in model.blocks:
        block.register_forward_pre_hook(lambda _, args: counts.append(args[0].shape[1]))
    latent = model.forward_encoder(x, mask)
    assert counts == [3, 3, 3]  # kept mask units
    changed = torch.where(model_pixels(mask), x, torch.rand_like(x))
    assert torch.equal(model.forward_encoder(changed, mask), latent)


def model_pixels(mask):
    return mask.view(1, 1, 2, 3).repeat_interleave(16, 2).repeat_interleave(16, 3)


@torch.no_grad()
def test_predictions_and_targets_belong_to_the_same_places():
    """Targets, masks and tokens have the same order: a decoder that has learned the identity has a loss of 0."""
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
    whole = model.patch_tokens(x)
    assert torch.equal(model.blocks[0](whole), encoder.blocks[0](encoder.patch_tokens(x)))


@pytest.mark.parametrize(
    ("size", "options", "said"),
    [
        ((32, 48), {"mask_ratio": 1.0}, "mask_ratio 1.0 keeps 0 of 6"),
        ((32, 48), {"mask_ratio": 0.0}, "mask_ratio 0.0 keeps 6 of 6"),
        ((32, 48), {"mask": torch.ones(1, 6, dtype=torch.bool)}, "nothing to predict"),
        ((64, 48), {}, "x has size (64, 48); the decoder is built for (32, 48)"),
    ],
)
def test_bad_input_is_named(size, options, said):
    with pytest.raises(InputError) as e:
        small()(torch.rand(1, 3, *size), **options)
    assert said in str(e.value)


# --- only what is needed ------------------------------------------------------------------------------------------


@DIMENSIONS
@pytest.mark.parametrize("depth", [1, 3])
def test_hidden_tokens_alone_give_the_predictions_of_all(config, depth):
    """Skipping visible tokens at the end of the decoder changes neither the predictions nor the gradients."""
    model = small(**{**config, "decoder_depth": depth})
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x, mask = torch.rand(2, 3, *model.input_size), model_mask(model)
    loss, predicted, *_ = model(x, mask=mask)
    grads = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    everything, hidden = model.forward_decoder(model.forward_encoder(x, mask), mask), model.masked_tokens(mask)
    torch.testing.assert_close(predicted, everything[hidden])
    plain = (everything[hidden] - model.pixel_targets(x)[hidden]).square().mean()
    torch.testing.assert_close(loss, plain)
    for a, b in zip(grads, torch.autograd.grad(plain, list(model.parameters()), allow_unused=True), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)


def model_mask(model):
    """Return a mask of two rows that each keep 2 of the model's units."""
    units = 1
    for side, pixels in zip(model.input_size, model.unit_pixels, strict=True):
        units *= side // pixels
    mask = torch.zeros(2, units, dtype=torch.bool)
    mask[0, [0, units - 2]] = True
    mask[1, [1, 2]] = True
    return mask


@torch.no_grad()
def test_the_end_of_the_decoder_runs_on_hidden_tokens():
    model = small(decoder_depth=2)
    counts = []
    for module in (model.decoder_blocks[0].mlp, model.decoder_blocks[1].mlp, model.decoder_pred):
        module.register_forward_pre_hook(lambda _, args: counts.append(args[0].shape[-2]))
    model(torch.rand(2, 3, 32, 48), mask=model_mask(model))
    assert counts == [24, 16, 16]  # 2 of 6 units, so 8 of 24 tokens, are visible


# --- back to pixels -------------------------------------------------------------------------------------------------


@DIMENSIONS
def test_patches_turn_back_into_pixels(config):
    model = small(**config)
    x = torch.rand(2, 3, *model.input_size)
    expected = x[:, :, ::2] if config is TINY_VIDEO else x
    assert torch.equal(model.to_pixels(model.pixel_targets(x, normalize=False)), expected)


@DIMENSIONS
@torch.no_grad()
def test_a_perfect_decoder_reconstructs_the_input(config, monkeypatch):
    """Predictions that equal the normalised targets give the input, because each patch gets its own moments back."""
    model = small(**config)
    x, mask = torch.rand(2, 3, *model.input_size), model_mask(model)
    monkeypatch.setattr(model, "_decode", lambda *_: model.pixel_targets(x))
    reconstructed, original, hidden = model.reconstruct(x, mask=mask)
    expected = x[:, :, ::2] if config is TINY_VIDEO else x
    assert torch.equal(original, expected)
    torch.testing.assert_close(reconstructed, expected, atol=1e-5, rtol=0)
    pixels = mask.view(2, *(s // p for s, p in zip(model.input_size, model.unit_pixels, strict=True)))
    for dim, size in enumerate(
        model.unit_pixels[-min(2, len(model.unit_pixels)) :], pixels.ndim - min(2, pixels.ndim - 1)
    ):
        pixels = pixels.repeat_interleave(size, dim)
    assert torch.equal(hidden[:, 0], ~pixels)


@torch.no_grad()
def test_reconstructions_are_the_models_predictions():
    model, x = small(), torch.rand(2, 3, 32, 48)
    mask = model_mask(model)
    _, predicted, _, _ = model(x, mask=mask)
    reconstructed, _, hidden = model.reconstruct(x, mask=mask)
    assert hidden.shape == (2, 1, 32, 48)
    targets = model.pixel_targets(x, normalize=False)[model.masked_tokens(mask)]
    raw = predicted * (targets.var(-1, keepdim=True) + 1e-6).sqrt() + targets.mean(-1, keepdim=True)
    patches = model.pixel_targets(reconstructed, normalize=False)[model.masked_tokens(mask)]
    torch.testing.assert_close(patches, raw, atol=1e-5, rtol=1e-5)
    drawn = [model.reconstruct(x, 0.5, generator=torch.Generator().manual_seed(s))[2] for s in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


# --- an encoder without a mask --------------------------------------------------------------------------------------


@DIMENSIONS
@torch.no_grad()
def test_features_are_the_fused_latents_of_everything(config):
    model = small(**config)
    x = torch.rand(2, 3, *model.input_size)
    everything = torch.ones_like(model_mask(model))
    latent = model.forward_encoder(x, everything).flatten(2, -2)  # [B, U, P, C]
    features = model.forward_features(x)
    torch.testing.assert_close(features, model._to_grid(latent), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(plm_core.embed(model, x), features.mean(1))
    assert torch.equal(model.forward_head(features), model.forward_head(features, pre_logits=True))
    final, maps = model.forward_intermediates(x, [0, 2])
    assert torch.equal(final, features)
    plain = model.forward_intermediates(x, [0, 2], intermediates_only=True)
    for a, b in zip(maps, plain, strict=True):
        assert torch.equal(a, b)
    assert [m.shape[1] for m in maps] == [8, 32]


def test_a_decoder_needs_a_block():
    with pytest.raises(InputError, match="decoder_depth 0 is not allowed"):
        small(decoder_depth=0)


def test_an_empty_batch_is_refused():
    with pytest.raises(InputError, match="x has no sample"):
        small()(torch.zeros(0, 3, 32, 48))


def test_positions_and_the_mask_token_are_not_decayed():
    names = {name for name, _ in small().named_parameters()}
    expected = {"pos_embed", "mask_token", "decoder_pos_embed"}
    assert small().no_weight_decay() & names == expected
    groups = parameter_groups(small(), Recipe(epochs=1, batch_size=1, lr=1.0, weight_decay=0.1))
    exempt = {id(p) for group in groups if not group["weight_decay"] for p in group["params"]}
    assert len(exempt) > len(expected)  # biases and norms too


@torch.no_grad()
def test_a_plain_encoder_of_another_size_has_resized_positions():
    model = small()
    encoder = model.plain_encoder(num_classes=3, q_pool=2, input_size=(64, 96))
    own = model.plain_encoder(num_classes=3, q_pool=2)
    torch.testing.assert_close(encoder.positions(encoder.grid), own.positions(encoder.grid))
    assert encoder.eval()(torch.rand(1, 3, 64, 96)).shape == (1, 3)
    with pytest.raises(InputError, match=r"kwargs \['embed_dim'\] make an encoder that the weights do not fit"):
        model.plain_encoder(embed_dim=16, q_pool=2)


def test_there_is_no_classifier():
    model = small()
    assert model.num_classes == 0
    assert list(model.get_classifier().parameters()) == []
    model.reset_classifier(0)
    x = torch.rand(1, 3, 32, 48)
    for call, said in [
        (lambda: model.reset_classifier(5), "use plain_encoder"),
        (lambda: model.reset_classifier(0, "max"), "use plain_encoder"),
        (lambda: model.forward_intermediates(x, norm=True), "see forward_features"),
        (lambda: model.forward_intermediates(x, stop_early=True), "pass intermediates_only"),
        (lambda: model.prune_intermediate_layers(1), "prune the model that plain_encoder"),
    ]:
        with pytest.raises(NotSupported) as e:
            call()
        assert said in str(e.value)
    with pytest.raises(InputError, match="output_fmt 'CHW'"):
        model.forward_intermediates(x, output_fmt="CHW")
    with pytest.raises(InputError, match="batch dimension missing"):
        model(x[0])


@pytest.mark.parametrize(
    ("keep", "said"),
    [
        ([[0, 1, 6]], "mask has indices from 0 to 6; 0 to 5 are allowed"),
        ([[-1, 1, 2]], "mask has indices from -1 to 2"),
        ([[3, 1, 3]], "mask names a mask unit twice in one row"),
        ([[]], "torch.int64 [1, 1 to 6]"),
        ([[0, 1, 2, 3, 4, 5]], "nothing to predict"),
        ([[0, 1, 2, 3, 4, 5, 0]], "torch.int64 [1, 1 to 6]"),
    ],
)
def test_bad_indices_are_named(keep, said):
    model, mask = small(), torch.tensor(keep, dtype=torch.int64)
    with pytest.raises(InputError) as e:
        model(torch.rand(1, 3, 32, 48), mask=mask)
    assert said in str(e.value)


@torch.no_grad()
def test_indices_in_any_order_are_the_same_units():
    model, x = small(), torch.rand(1, 3, 32, 48)
    a, b = (model(x, mask=torch.tensor([keep])) for keep in ([0, 2, 5], [5, 0, 2]))
    torch.testing.assert_close(a, b)


@torch.no_grad()
def test_checkpoints_of_another_size_keep_their_decoder():
    source, target = small(), small(input_size=(64, 64))
    square = small(input_size=(32, 32))
    assert weights.load(target, square.state_dict()).ok
    assert target.decoder_pos_embed.shape == (1, 64, 16)
    with pytest.raises(weights.WeightsMismatch, match=r"wrong shape: .*decoder_pos_embed"):
        weights.load(target, source.state_dict())  # a table of 4 x 6 is not square, so its sides are not known
