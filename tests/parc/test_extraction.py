"""Features and probabilities from one pass, against plain calls of the model."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image

import plm_core
from parc.ranking.candidates import Candidate, make_model
from parc.ranking.extraction import extract, preprocess_digest
from parc.ranking.probes import draw_probes
from parc.ranking.settings import Settings
from plm_core.datasets import load_dataset
from plm_core.embedding import logits_of
from plm_core.embeddings.digests import weights_digest
from plm_core.errors import InputError, NotSupported
from plm_core.utils.devices import pick_device


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "x.npz"
    images = np.random.default_rng(0).integers(0, 256, (10, 9, 9, 3), dtype=np.uint8)
    np.savez(path, images=images, labels=np.arange(10) % 2)
    return draw_probes(load_dataset(path))[0]


@pytest.fixture(scope="module")
def model():
    return make_model(Candidate("tome_micro_shapes"))


def inputs(model, probe):
    preprocess = plm_core.transform_for(model)
    return torch.stack([preprocess(probe.image(i)) for i in range(len(probe))])


@pytest.mark.parametrize(
    "name",
    [
        "tome_micro_shapes",
        "hiera_micro_digits",
        "random:test_resnet",
        "random:test_byobnet",
        "random:torchvision:shufflenet_v2_x0_5",
        "transformers:vit_folder",
    ],
)
def test_features_are_the_embedding_and_probabilities_those_of_the_classifier(name, probe, vit_folder):
    name = name.replace("vit_folder", str(vit_folder))
    net = make_model(Candidate(name.removeprefix("random:"), not name.startswith("random:")))
    extracted = extract(net, probe, Settings(batch_size=4), head=True)
    with torch.inference_mode():
        x = inputs(net, probe)
        torch.testing.assert_close(torch.from_numpy(extracted.features), plm_core.embed(net, x), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            torch.from_numpy(extracted.probs), logits_of(net(x)).softmax(-1), rtol=1e-4, atol=1e-6
        )
    assert extracted.features.dtype == extracted.probs.dtype == np.float32


def test_the_backbone_runs_once_per_batch(model, probe):
    calls, steps = [], []
    handle = model.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    extract(model, probe, Settings(batch_size=4), head=True, advance=steps.append)
    handle.remove()
    assert len(calls) == 3
    assert steps == [4, 4, 2]


def test_no_probabilities_without_a_head(model, probe):
    assert extract(model, probe, Settings(), head=False).probs is None


def test_workers_give_the_same(model, probe):
    alone, with_worker = (
        extract(model, probe, Settings(batch_size=4, num_workers=workers), head=True) for workers in (0, 1)
    )
    np.testing.assert_array_equal(alone.features, with_worker.features)


def test_autocast_is_close(model, probe):
    exact, rough = (extract(model, probe, Settings(dtype=dtype), head=True) for dtype in ("fp32", "bf16"))
    assert rough.features.dtype == np.float32
    assert 0 < np.abs(exact.features - rough.features).max() < 0.1 * np.abs(exact.features).max()


def test_the_settings_reach_the_loader_and_the_model(model, probe, monkeypatch):
    from parc.ranking import extraction

    given, moved = {}, []

    def loader(dataset, **options):
        given.update(options)
        return torch.utils.data.DataLoader(dataset, options["batch_size"])

    monkeypatch.setattr(extraction, "DataLoader", loader)
    monkeypatch.setattr(extraction, "pick_device", lambda name: (moved.append(name), torch.device("cpu"))[1])
    extract(model, probe, Settings(batch_size=7, num_workers=3, device="cuda:1"), head=False)
    assert (given["batch_size"], given["num_workers"], moved) == (7, 3, ["cuda:1"])
    extract(model, probe, Settings(), head=False)
    assert (given["batch_size"], given["num_workers"]) == (32, 0)


def test_a_model_without_embedding(probe):
    with pytest.raises(NotSupported, match="no pooled embedding"):
        extract(make_model(Candidate("hiera_micro_detector")), probe, Settings(), head=True)


def test_greyscale_images_go_through(model, tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        for i in range(2):
            Image.fromarray(np.full((8, 8), 50 * i, np.uint8)).save(tmp_path / name / f"{i}.png")
    probe = draw_probes(load_dataset(tmp_path))[0]
    of = dict(zip(probe.names, extract(model, probe, Settings(), head=False).features, strict=True))
    np.testing.assert_array_equal(of["a/1.png"], of["b/1.png"])  # the same picture
    assert np.abs(of["a/0.png"] - of["a/1.png"]).max() > 0.01


def test_devices():
    assert pick_device("auto").type in ("cpu", "cuda", "mps", "xpu")
    assert pick_device("cpu") == torch.device("cpu")
    for name in ("meta", "nothing", "cuda:99"):
        with pytest.raises(InputError, match=f"device '{name}' cannot be used"):
            pick_device(name)


def test_dtypes(model, probe):
    with pytest.raises(InputError, match="dtype 'int8' is not allowed: fp32, bf16, fp16 are"):
        extract(model, probe, Settings(dtype="int8"), head=False)


def test_the_weights_digest_follows_every_tensor_and_the_architecture(model):
    digest = weights_digest(model)
    other = copy.deepcopy(model)
    assert weights_digest(other) == digest
    with torch.no_grad():
        other.norm.bias[3] += 1e-6
    assert weights_digest(other) != digest
    activation = copy.deepcopy(model)
    activation.blocks[0].mlp.act = torch.nn.ReLU()
    assert weights_digest(activation) != digest


def test_digests_of_other_libraries(vit_folder):
    """They follow what the layers do not show, and not the place of the files."""
    here = make_model(Candidate(f"transformers:{vit_folder}"))
    moved, heads = copy.deepcopy(here), copy.deepcopy(here)
    moved.config._name_or_path = "elsewhere"
    heads.config.num_attention_heads = 3
    assert weights_digest(moved) == weights_digest(here) != weights_digest(heads)
    resnets = [make_model(Candidate(f"torchvision:{name}", False)) for name in ("resnet18", "resnet18", "resnet34")]
    assert weights_digest(resnets[0]) == weights_digest(resnets[1]) != weights_digest(resnets[2])
    with torch.device("meta"):
        tags = [plm_core.create_model(f"torchvision:resnet50.IMAGENET1K_V{i}") for i in (1, 2)]
    digests = [preprocess_digest(model, dtype, "images") for model in (*tags, here) for dtype in ("fp32", "bf16")]
    assert len(set(digests)) == len(digests)
    here.config._name_or_path = str(vit_folder)
    assert preprocess_digest(here, "bf16", "images") == digests[-1]


def test_the_preprocess_digest_follows_preprocessing_and_precision(model):
    digests = {preprocess_digest(model, "fp32", "images"), preprocess_digest(model, "bf16", "images")}
    for change in ({"mean": (0.5, 0.5, 0.50001)}, {"interpolation": "bilinear"}, {"crop_pct": 0.9}):
        other = copy.deepcopy(model)
        other.pretrained_cfg = {**model.pretrained_cfg, **change}
        digests.add(preprocess_digest(other, "fp32", "images"))
    assert len(digests) == 5
    assert preprocess_digest(copy.deepcopy(model), "fp32", "images") in digests
