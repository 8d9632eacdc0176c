"""The vision tower: sizes of images, layers, maps, pooling, precision, timm's interface, and what is refused."""

import copy
import math

import pytest
import timm
import torch

import pe_encoder
import plm_core
from pe_encoder.model import layer_index, resize_positions
from pe_encoder.rope import inverse, rotate, rotations

IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def rotated_slowly(x, rows, columns, class_token):
    """Turn x [tokens, D] in float64, one pair of channels at a time, by the definition."""
    dim = x.shape[1]
    out = x.double().clone()
    for token in range(x.shape[0]):
        patch = token - int(class_token)
        if patch < 0:
            continue
        first = int(class_token)
        place = (patch % columns + first, patch // columns + first)
        for pair in range(dim // 2):
            axis, j = divmod(pair, dim // 4)
            angle = place[axis] * 10000 ** (-4 * j / dim)
            a, b = x[token, 2 * pair].double(), x[token, 2 * pair + 1].double()
            out[token, 2 * pair] = a * math.cos(angle) - b * math.sin(angle)
            out[token, 2 * pair + 1] = b * math.cos(angle) + a * math.sin(angle)
    return out


# --- rotary positions ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("grid", "dim", "class_token"), [((3, 5), 16, True), ((4, 3), 24, False), ((1, 7), 4, True)])
def test_rotations_are_those_of_the_definition(grid, dim, class_token):
    x = torch.randn(math.prod(grid) + class_token, dim)
    table = rotations(grid, dim, class_token)
    torch.testing.assert_close(rotate(x, table).double(), rotated_slowly(x, *grid, class_token), atol=1e-5, rtol=1e-5)


def test_complex_and_real_arithmetic_agree(monkeypatch):
    x, table = torch.randn(2, 3, 13, 16), rotations((3, 4), 16, True)
    by_complex = rotate(x, table)
    monkeypatch.setattr("pe_encoder.rope.is_traced", lambda: True)
    torch.testing.assert_close(rotate(x, table), by_complex, atol=1e-6, rtol=1e-6)


def test_an_inverse_undoes_a_table_also_an_averaged_one():
    x, table = torch.randn(2, 3, 13, 16), rotations((3, 4), 16, True)
    torch.testing.assert_close(rotate(rotate(x, table), inverse(table, False)), x, atol=1e-5, rtol=1e-5)
    averaged = (table + table.roll(1, 0)) / 2
    torch.testing.assert_close(rotate(rotate(x, averaged), inverse(averaged, True)), x, atol=1e-3, rtol=1e-3)


def test_a_model_in_half_precision_turns_in_float32(tower):
    q = torch.randn(1, 1601, 16, generator=torch.Generator().manual_seed(0)).bfloat16()
    exact = rotated_slowly(q[0], 40, 40, True)
    rounding = exact.abs() * 2**-8 + 1e-6  # half a unit in the last of the eight digits of the result
    assert bool(((rotate(q, rotations((40, 40), 16, True))[0].double() - exact).abs() <= rounding).all())
    assert tower().bfloat16()(IMAGES.bfloat16()).dtype == torch.bfloat16


def test_tables_made_without_gradients_serve_a_training(tower):
    model = tower()
    with torch.inference_mode():
        model(IMAGES)
    model(IMAGES).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_few_tables_are_kept(tower):
    model = tower()
    with torch.no_grad():
        for side in range(1, 30):
            model(torch.rand(1, 3, 8 * side, 8))
    assert len(model._tables) <= 8


# --- sizes --------------------------------------------------------------------------------------------------------


def test_pixels_beyond_the_last_patch_are_not_seen_as_in_the_original(tower):
    model, image = tower(), torch.rand(1, 3, 35, 47)
    torch.testing.assert_close(model(image), model(image[:, :, :32, :40]))


def test_a_model_by_name_refuses_sizes_that_do_not_fit():
    model = timm.create_model("pe_core_t16_384")
    with pytest.raises(plm_core.InputError, match="390 is not a multiple of the patch of 16 pixels: resize to 384 or"):
        model(torch.rand(1, 3, 384, 390))
    timm.create_model("pe_core_t16_384", ragged=True, layers=1)(torch.rand(1, 3, 40, 39))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 32, 32), "is the batch dimension missing"),
        ((1, 4, 32, 32), r"\[batch, 3, height, width\] is expected"),
        ((1, 2, 3, 32, 32), "encode_video"),
        ((1, 3, 32, 7), "at least one patch of 8 pixels"),
    ],
)
def test_wrong_inputs_are_refused(tower, shape, message):
    with pytest.raises(plm_core.InputError, match=message):
        tower()(torch.rand(shape))
    with pytest.raises(plm_core.InputError, match=r"x is torch\.uint8; floats are expected"):
        tower()(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))


@pytest.mark.parametrize(("both", "layout"), [(False, "timm"), (True, "open_clip")])
def test_a_projection_with_a_bias_that_is_not_zero_does_not_fit_and_says_so(tower, clip, both, layout):
    model = clip if both else tower()
    state = plm_core.weights.export(model, layout)
    plm_core.weights.load(model, state)
    name = "visual.trunk.head.bias" if both else "head.bias"
    state[name] = torch.ones_like(state[name])
    with pytest.raises(plm_core.WeightsError, match=r"only a head\.bias of zeros can be left out"):
        plm_core.weights.load(model, state)


def test_another_size_by_timms_rules(tower):
    official, like_timm = tower(), tower(resampling="timm")
    assert torch.equal(official(IMAGES), like_timm(IMAGES))
    wide = torch.rand(1, 3, 24, 48)
    assert not torch.allclose(official(wide), like_timm(wide), atol=1e-3)


@pytest.mark.parametrize("resampling", ["official", "timm"])
def test_set_input_size_keeps_the_outputs_at_that_size(tower, resampling):
    """The rotary positions of timm are stretched to the new size from then on, so only the official outputs stay."""
    model, wide = tower(resampling=resampling), torch.rand(1, 3, 24, 48)
    before = model(wide)
    model.set_input_size((24, 48))
    assert model.pos_embed.shape == (1, 19, 48)
    assert torch.allclose(model(wide), before, atol=1e-5) == (resampling == "official")


def test_weights_load_at_another_size(tower):
    small, large = tower(), pe_encoder.VisionTower(
        patch_size=8, width=48, layers=3, heads=3, output_dim=10, image_size=(48, 64), attn_pooler_heads=3
    ).eval()  # fmt: skip
    plm_core.weights.load(large, small.state_dict())
    image = torch.rand(1, 3, 48, 64)
    torch.testing.assert_close(large(image), small(image), atol=1e-5, rtol=1e-5)


def test_positions_are_interpolated_without_antialiasing_and_the_class_token_is_left_alone():
    table = torch.randn(1, 17, 2)
    resized = resize_positions(table, (4, 4), (2, 2), 1)
    assert torch.equal(resized[:, 0], table[:, 0])
    patches = table[0, 1:].view(2, 2, 2, 2, 2)  # rows, their halves, columns, their halves, channels
    torch.testing.assert_close(resized[0, 1:].view(2, 2, 2), patches.mean((1, 3)))


# --- layers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("layer_idx", "index"), [(-1, 2), (0, 0), (-3, 0), (1.0, 2), (0.66, 1), (0.34, 0), (0.01, 0)])
def test_a_layer_by_index_from_the_end_and_by_relative_depth(tower, layer_idx, index):
    model = tower()
    calls = []
    for number, block in enumerate(model.blocks):
        block.register_forward_hook(lambda *_, number=number: calls.append(number))
    tokens = model.forward_features(IMAGES, layer_idx=layer_idx)
    assert calls == list(range(index + 1)), "the blocks after the layer must not run"
    maps = model.forward_intermediates(IMAGES, indices=[index], output_fmt="NLC", intermediates_only=True)
    assert torch.equal(maps[0], tokens[:, 1:])


@pytest.mark.parametrize("layer_idx", [3, -4, 0.0, 1.5, True, "last", None])
def test_layers_that_do_not_exist_are_refused(layer_idx):
    with pytest.raises(plm_core.InputError, match="layer_idx is"):
        layer_index(layer_idx, 3)


def test_best_layers_are_relative_depths():
    assert layer_index(pe_encoder.BEST_LAYER["tracking"], 50) == 31  # the paper's layer 32
    assert layer_index(pe_encoder.BEST_LAYER["zero-shot"], 12) == 11


def test_maps_have_the_places_of_the_patches(tower):
    model, wide = tower(), torch.rand(2, 3, 24, 40)
    final, maps = model.forward_intermediates(wide, indices=2, norm=True, return_prefix_tokens=True)
    tokens = model.forward_features(wide, norm=True)
    (feature_map, prefix), stopped = maps[-1], model.forward_intermediates(wide, [0], stop_early=True)
    assert torch.equal(feature_map.flatten(2).transpose(1, 2), tokens[:, 1:])
    assert torch.equal(prefix, tokens[:, :1])
    assert torch.equal(model.norm(final), tokens)
    assert feature_map.shape == (2, 48, 3, 5)
    assert torch.equal(stopped[0], model.forward_features(wide, layer_idx=0))


def test_truncated_models_end_at_the_layer(tower):
    model = tower()
    expected = model.forward_features(IMAGES, layer_idx=-2)
    assert model.truncate(-2) == 2
    assert torch.equal(model.forward_features(IMAGES), expected)
    assert len(model.feature_info) == 2


def test_features_only_and_pruned(tower):
    model = timm.create_model("pe_core_t16_384", features_only=True, out_indices=(2, 5), layers=6, img_size=32)
    assert [tuple(m.shape) for m in model(IMAGES)] == [(2, 192, 2, 2)] * 2
    pruned = tower()
    assert pruned.prune_intermediate_layers([0, 1], prune_norm=True) == [0, 1]
    assert pruned(IMAGES).shape == (2, 17, 48)


# --- pooling and heads --------------------------------------------------------------------------------------------


def pooled_slowly(pool, tokens):
    """Pool by torch's own multi-head attention with keys and values of all tokens, in float64."""
    dim = tokens.shape[-1]
    reference = torch.nn.MultiheadAttention(dim, pool.num_heads, batch_first=True).double()
    with torch.no_grad():
        reference.in_proj_weight.copy_(torch.cat([pool.q.weight, pool.kv.weight]))
        reference.in_proj_bias.copy_(torch.cat([pool.q.bias, pool.kv.bias]))
        reference.out_proj.load_state_dict(pool.proj.state_dict())
        query = pool.latent.double().expand(len(tokens), -1, -1)
        y = reference(query, tokens.double(), tokens.double())[0][:, 0]
        double = copy.deepcopy(pool).double()
        return y + double.mlp(double.norm(y))


def test_the_attention_pool_is_multi_head_attention_with_one_query(tower):
    pool, tokens = tower().attn_pool, torch.randn(3, 17, 48)
    torch.testing.assert_close(pool(tokens).double(), pooled_slowly(pool, tokens), atol=1e-5, rtol=1e-5)
    weights = pool.scores(tokens)
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 3))


def test_ways_to_pool(tower):
    tokens = tower(pool_type="none", output_dim=None)(IMAGES)
    assert tokens.shape == (2, 17, 48)
    expected = {"tok": tokens[:, 0], "avg": tokens.mean(1)}
    for pool_type, pooled in expected.items():
        torch.testing.assert_close(tower(pool_type=pool_type, output_dim=None)(IMAGES), pooled)
    torch.testing.assert_close(tower(global_pool="avg", output_dim=None)(IMAGES), tokens[:, 1:].mean(1))


def test_a_classifier_in_place_of_the_projection(tower):
    model = tower()
    projected = model(IMAGES)
    assert model.head.bias is None
    model.reset_classifier(3)
    assert model(IMAGES).shape == (2, 3)
    assert model.head.bias is not None
    model.reset_classifier(0)
    assert model(IMAGES).shape == (2, 48)
    model.reset_classifier(10)
    assert model.head.bias is None
    assert model(IMAGES).shape == projected.shape


def test_a_classifier_loads_weights_of_a_projection(tmp_path, tower):
    small = {"width": 48, "layers": 2, "heads": 3, "attn_pooler_heads": 3, "img_size": 32}
    model = timm.create_model("pe_core_t16_384", **small)
    plm_core.weights.save_pretrained(model, tmp_path, license="mit")
    classifier = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=3).eval()
    assert classifier(IMAGES).shape == (2, 3)
    body = classifier.forward_head(classifier.forward_features(IMAGES), pre_logits=True)
    torch.testing.assert_close(body, model.eval().forward_head(model.forward_features(IMAGES), pre_logits=True))


@pytest.mark.parametrize("options", [{}, {"pool_type": "none", "ls_init_value": 0.1}])
def test_gradient_checkpointing_gives_the_same_gradients(tower, options):
    plain, thrifty = tower(**options), tower(**options)
    thrifty.set_grad_checkpointing()
    for model in (plain, thrifty):
        model.train()
        model(IMAGES).square().sum().backward()
    for (name, p), q in zip(plain.named_parameters(), thrifty.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad, msg=name)


def test_paths_are_dropped_at_the_given_rates():
    rates = [
        block.drop_path1.drop_prob for block in timm.create_model("pe_core_t16_384", drop_path_rate=0.2).blocks[1:]
    ]
    assert rates == pytest.approx([0.2 * i / 11 for i in range(1, 12)])
    constant = pe_encoder.VisionTower(layers=2, width=32, heads=2, drop_path=0.3)
    assert [block.drop_path2.drop_prob for block in constant.blocks] == [0.3, 0.3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 50}, "each head needs a multiple of 4 channels"),
        ({"attn_pooler_heads": 5}, "width 48 is not allowed with attn_pooler_heads 5"),
        ({"pool_type": "cls"}, "pool_type 'cls' is not allowed: 'attn', 'tok', 'avg' or 'none' is"),
        ({"pool_type": "tok", "use_cls_token": False}, "needs a class token"),
        ({"layers": 0}, "layers 0 is not allowed: a whole number from 1"),
        ({"image_size": 0.5}, "image_size 0.5 is not allowed"),
        ({"drop_path": [0.1]}, "one for each of the 3 layers"),
        ({"resampling": "bicubic"}, "'official' or 'timm' is"),
        ({"mlp_ratio": math.nan}, "mlp_ratio nan is not allowed"),
    ],
)
def test_wrong_arguments_are_refused(tower, options, message):
    with pytest.raises(plm_core.InputError, match=message):
        tower(**options)


def test_the_hidden_width_is_rounded_down():
    model = pe_encoder.VisionTower(layers=1, width=48, heads=4, mlp_ratio=5.84)
    assert model.blocks[0].mlp.fc1.out_features == 280  # of 280.32
