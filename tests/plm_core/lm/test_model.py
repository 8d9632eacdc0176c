"""The forward pass, the loss and the generation of the language model: goldens, and live parity with transformers."""

import json

import pytest
import torch
from transformers import LlamaConfig, PerceptionLMConfig, PerceptionLMForConditionalGeneration, Qwen2Config

import plm_core
from plm_core import InputError, NotSupported, lm, weights
from plm_core.layouts import convert
from plm_core.lm.blocks import example
from plm_core.lm.vision import Projector, pool

TOLERANCE = 1e-4
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 50,
}


@pytest.fixture(scope="module", params=["hf_l_image_tiles", "hf_g_video"])
def case(request, golden):
    data = golden(request.param)
    model = lm.build(data.config).eval()
    assert weights.load(model, data.weights).layout == "transformers"
    return data, model


def largest(a, b):
    return float((a - b).detach().abs().max())


@torch.no_grad()
def test_goldens_of_the_forward_pass(case):
    data, model = case
    pixels = data.inputs.get("pixel_values", data.inputs.get("pixel_values_videos"))
    features = data.outputs.get("image_features", data.outputs.get("video_features"))
    tokens = model.vision.tower.forward_features(pixels.flatten(0, 1))
    assert largest(tokens, data.outputs["vision_tokens"]) < TOLERANCE
    assert largest(model.image_features(pixels), features) < TOLERANCE
    assert largest(model(**data.inputs).logits, data.outputs["logits"]) < TOLERANCE


def test_goldens_of_greedy_decoding(case):
    """Some of the generated ids are those of placeholders, which stand for nothing there."""
    data, model = case
    ids = model.generate(**data.inputs, max_new_tokens=10, do_sample=False, eos_token_id=None)
    assert torch.equal(ids[:, : data.inputs["input_ids"].shape[1]], data.inputs["input_ids"])
    assert torch.equal(ids[:, -10:], data.outputs["greedy_ids"])
    assert (data.outputs["greedy_ids"] == model.image_token_id).any() or "pixel_values" not in data.inputs


@torch.no_grad()
def test_logits_of_some_positions_alone(case):
    data, model = case
    whole = model(**data.inputs).logits
    assert largest(model(**data.inputs, logits_to_keep=1).logits, whole[:, -1:]) < 1e-5
    places = torch.tensor([3, 7])
    assert largest(model(**data.inputs, logits_to_keep=places).logits, whole[:, places]) < 1e-5
    with pytest.raises(InputError, match="logits_to_keep"):
        model(**data.inputs, labels=data.inputs["input_ids"], logits_to_keep=1)


def test_golden_of_the_originals_training_step(golden):
    data = golden("official_train_step")
    model = lm.build(data.config)
    assert weights.load(model, data.weights).layout == "official"
    inputs = dict(data.inputs, num_chunks=data.config["num_chunks"], media_type=data.config["media_type"])
    loss = lm.training_loss(model, **inputs)
    assert largest(loss, data.outputs["loss"][0]) < TOLERANCE
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    theirs, left = convert(gradients, weights.rules_of(model, "official"), to="foreign")
    assert not left
    for name, gradient in data.of("grad").items():
        assert largest(theirs[name], gradient) < TOLERANCE, name
    for name, norm in json.loads(data.metadata["grad_norms"]).items():
        assert float(theirs[name].norm()) == pytest.approx(norm, rel=1e-4, abs=1e-5), name


def test_a_batch_without_targets_has_a_loss_of_zero(golden):
    data = golden("official_train_step")
    model = lm.build(data.config)
    inputs = dict(data.inputs, num_chunks=data.config["num_chunks"], media_type=data.config["media_type"])
    loss = lm.training_loss(model, **inputs | {"mask": torch.zeros_like(inputs["mask"])})
    loss.backward()
    assert loss == 0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())
    inputs["images"] = inputs["images"][:-1]
    with pytest.raises(InputError, match="images has 5 chunks; num_chunks says 6"):
        lm.training_loss(model, **inputs)


# --- live parity with transformers ---------------------------------------------------------------------------------


def both(config, seed=0):
    """Our model and transformers', with the same random weights."""
    torch.manual_seed(seed)
    theirs = PerceptionLMForConditionalGeneration(PerceptionLMConfig(**config)).eval()
    for name, parameter in theirs.named_parameters():  # a fresh tower has scales and positions of zero
        torch.nn.init.normal_(parameter, 1.0 if name.endswith("norm.weight") else 0.0, 0.2)
    ours = lm.build(config).eval()
    weights.load(ours, {k: v for k, v in theirs.state_dict().items() if not (ours.tied and k == "lm_head.weight")})
    return ours, theirs


@pytest.fixture(scope="module")
def pair(golden):
    return both(golden("hf_l_image_tiles").config)


def prompt(length, chunks, token=126, tokens=4):
    ids = torch.randint(3, 120, (1, length))
    ids[:, 2 : 2 + chunks * tokens] = token
    return ids


@torch.no_grad()
def test_parity_with_images_and_video_in_one_text(pair):
    ours, theirs = pair
    ids = prompt(30, 3)
    ids[:, 20:28] = 127
    inputs = {
        "input_ids": ids,
        "pixel_values": torch.randn(1, 3, 3, 56, 56),
        "pixel_values_videos": torch.randn(1, 2, 3, 56, 56),
        "attention_mask": torch.ones_like(ids),
    }
    assert largest(ours(**inputs).logits, theirs(**inputs).logits) < TOLERANCE
    labels = torch.where(torch.arange(30) > 27, ids, -100)
    assert largest(ours(**inputs, labels=labels).loss, theirs(**inputs, labels=labels).loss) < 1e-5
    greedy = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    assert torch.equal(ours.generate(**inputs, **greedy), theirs.generate(**inputs, **greedy))


def test_parity_of_a_tower_with_odd_windows(golden):
    config = golden("hf_g_video").config
    arguments = {**config["vision_config"]["model_args"], "img_size": [40, 40], "ref_feat_shape": [5, 5]}
    ours, theirs = both({**config, "vision_config": {**config["vision_config"], "model_args": arguments}})
    ids = prompt(20, 2, 127)
    inputs = {"input_ids": ids, "pixel_values_videos": torch.randn(1, 2, 3, 40, 40)}
    with torch.no_grad():
        assert largest(ours(**inputs).logits, theirs(**inputs).logits) < TOLERANCE


def test_prompts_of_different_lengths_answer_in_a_batch_as_they_do_alone(pair):
    ours, _ = pair
    texts = [prompt(length, chunks) for length, chunks in ((12, 2), (25, 3), (9, 1), (18, 0))]
    pixels = torch.randn(6, 3, 56, 56)
    longest = max(ids.shape[1] for ids in texts)
    padded = torch.cat([torch.nn.functional.pad(ids, (longest - ids.shape[1], 0), value=0) for ids in texts])
    mask = torch.cat([torch.arange(longest)[None] >= longest - ids.shape[1] for ids in texts]).long()
    greedy = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    together = ours.generate(padded, mask, pixels, **greedy)[:, longest:]
    some = iter(pixels.split([2, 3, 1]))
    for ids, row in zip(texts, together, strict=True):
        own = next(some) if (ids == 126).any() else None
        assert torch.equal(ours.generate(ids, pixel_values=own, **greedy)[0, ids.shape[1] :], row)


def test_beams_sampling_and_streams_are_those_of_transformers(pair):
    ours, theirs = pair
    inputs = {"input_ids": prompt(14, 1), "pixel_values": torch.randn(1, 1, 3, 56, 56)}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    for options in ({"num_beams": 3}, {"do_sample": True, "top_p": 0.8}, {"repetition_penalty": 1.5}):
        options |= {"max_new_tokens": 6, "eos_token_id": None, "pad_token_id": 0}
        torch.manual_seed(1)
        mine = ours.generate(**inputs, **options)
        torch.manual_seed(1)
        assert torch.equal(mine, theirs.generate(**inputs, **options)), options


# --- towers, decoders, pooling ---------------------------------------------------------------------------------------


def test_pooling_before_the_second_layer_gives_the_tokens_of_pooling_after_it():
    torch.manual_seed(0)
    projector, features = Projector(8, 12, 2).double(), torch.randn(2, 25, 8, dtype=torch.float64)
    after = projector.linear_2(torch.nn.functional.gelu(projector.linear_1(features)))
    after = torch.nn.functional.adaptive_avg_pool2d(after.transpose(1, 2).unflatten(2, (5, 5)), 2)
    assert largest(projector(features), after.flatten(2).transpose(1, 2)) < 1e-12
    assert projector.linear_1.bias.abs().max() <= 3 * 12**-0.5
    assert projector.linear_1.bias.std() > 0


def test_windows_that_do_not_overlap_are_plain_means():
    x = torch.randn(2, 36, 5)
    expected = torch.nn.functional.avg_pool2d(x.transpose(1, 2).unflatten(2, (6, 6)), 3).flatten(2).transpose(1, 2)
    assert largest(pool(x, 3), expected) < 1e-6
    assert pool(x, 1) is x
    with pytest.raises(InputError, match="35 tokens"):
        pool(x[:, 1:], 2)
    with pytest.raises(InputError, match="larger than the grid"):
        pool(x, 7)


@pytest.mark.parametrize(
    "decoder",
    [
        Qwen2Config(**SMALL),
        LlamaConfig(**SMALL),
    ],
    ids=lambda config: config.model_type,
)
@pytest.mark.parametrize("tower", ["test_vit", "test_convnext", "test_byobnet"])
def test_any_tower_with_any_decoder(tower, decoder):
    vision = {"architecture": tower, "model_args": {"img_size": 64} if tower == "test_vit" else {}}
    model = lm.build({"vision_config": vision, "text_config": decoder.to_dict(), "image_token_id": 48}).eval()
    tokens = model(torch.rand(2, 3, 64, 64))
    ids = torch.full((1, 2 + tokens.shape[1]), 48)
    ids[:, [0, -1]] = 3
    out = model.generate(ids, pixel_values=torch.rand(1, 3, 64, 64), max_new_tokens=2, do_sample=False)
    assert tokens.shape[::2] == (2, 32)
    assert out.shape[1] > ids.shape[1]


def test_a_tower_without_maps_is_refused():
    with pytest.raises(NotSupported, match="tower is a Linear"):
        lm.PerceptionLM(torch.nn.Linear(2, 2), example().decoder)


def test_chunks_are_encoded_a_few_at_a_time_with_the_same_tokens():
    model, x = example().eval(), torch.rand(7, 3, 64, 64)
    with torch.no_grad():
        assert largest(model(x), torch.cat([model(x[:3]), model(x[3:])])) < 1e-5


def test_transforms_reach_the_tower():
    model, x = example().eval(), torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        before = model(x)
        plm_core.apply(model, "tome", r=4)
        merged = model(x)
        assert merged.shape == before.shape
        assert largest(merged, before) > 0
        plm_core.remove(model, "tome")
        assert largest(model(x), before) == 0


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunks", [1, 3])
def test_placeholders_and_visual_tokens_must_agree(pair, chunks):
    with pytest.raises(InputError, match=f"has 8 placeholders where pixel_values gives {4 * chunks} visual tokens"):
        pair[0](prompt(20, 2), pixel_values=torch.randn(chunks, 3, 56, 56))


def test_other_bad_input(pair):
    with pytest.raises(InputError, match=r"pixel_values has shape \[3, 56, 56\]"):
        pair[0](prompt(20, 1), pixel_values=torch.randn(3, 56, 56))
    with pytest.raises(InputError, match="no text_config"):
        lm.build({"vision_config": {"architecture": "test_vit"}})
    with pytest.raises(InputError, match="a dict of keywords"):
        lm.build("plm_1b")
    with pytest.raises(InputError, match="no classes"):
        lm.build({"vision_config": {"architecture": "test_vit"}, "text_config": {"vocab_size": 9}}, num_classes=3)
