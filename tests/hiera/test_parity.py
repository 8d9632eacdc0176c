"""Comparison with recorded outputs of hiera-transformer 0.1.4 and transformers 5.23, on random weights in float32."""

import pytest
import torch

import hiera
from hiera.tokens import official_order
from plm_core import weights

TOLERANCE = {"atol": 2e-4, "rtol": 0}


def close(a, b):
    torch.testing.assert_close(a, b, **TOLERANCE)


def load(golden, **kwargs):
    model = hiera.Hiera(**golden.kwargs, **kwargs).eval()
    assert weights.load(model, golden.weights).layout == "official"
    return model


@pytest.mark.parametrize("name", ["image_official", "video_official"])
@torch.no_grad()
def test_official_outputs_and_every_intermediate(golden, name):
    g = golden(name)
    model = load(g)
    out, intermediates = model(g.inputs["x"], return_intermediates=True)
    close(out, g.outputs["probs"])
    close(official_order(model.patch_tokens(g.inputs["x"])), g.outputs["unrolled"])
    expected = g.outputs_of("intermediates")
    assert len(intermediates) == len(expected) == 4
    for ours, theirs in zip(intermediates, expected, strict=True):
        close(ours, theirs)


@torch.no_grad()
def test_softmax_is_where_the_original_has_it(golden):
    g = golden("image_official")
    model = load(g)
    close(model.train()(g.inputs["x"]), g.outputs["logits"])  # no dropout or drop path in this configuration
    close(load(g, probabilities=False)(g.inputs["x"]), g.outputs["logits"])


@torch.no_grad()
def test_official_masked_encoder(golden):
    g = golden("mask_official")
    tokens, intermediates = load(g)(g.inputs["x"], mask=g.inputs["mask"].bool(), return_intermediates=True)
    close(tokens, g.outputs["tokens"])
    for ours, theirs in zip(intermediates, g.outputs_of("intermediates"), strict=True):
        close(ours, theirs)


@torch.no_grad()
def test_transformers_classifier(golden):
    g = golden("transformers_classifier")
    config = g.kwargs
    model = hiera.Hiera(
        input_size=config["image_size"],
        embed_dim=config["embed_dim"],
        stages=config["depths"],
        num_classes=config["num_labels"],
        probabilities=False,
    ).eval()
    assert weights.load(model, g.weights).layout == "transformers"
    logits, intermediates = model(g.inputs["x"], return_intermediates=True)
    close(logits, g.outputs["logits"])
    # their first hidden state is the embedding
    for ours, theirs in zip(intermediates, g.outputs_of("reshaped_hidden_states")[1:], strict=True):
        close(ours, theirs)


@pytest.mark.parametrize("name", ["image_official", "video_official"])
@torch.no_grad()
def test_float32_agrees_with_float64(golden, name):
    g = golden(name)
    single = load(g, probabilities=False)
    double = load(g, probabilities=False).double()
    torch.testing.assert_close(single(g.inputs["x"]).double(), double(g.inputs["x"].double()), atol=1e-5, rtol=1e-5)
