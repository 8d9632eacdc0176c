"""The weights of the language model: every public checkpoint's tensors, files in parts, and what transformers reads."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText

import plm_core
from plm_core import InputError, NotSupported, WeightsError, lm, weights
from plm_core.hub import INDEX_FILE, shards_of
from plm_core.lm.blocks import example
from plm_core.lm.builders import create_tower
from plm_core.lm.configs import SIZES
from plm_core.lm.pretrained import from_pretrained, save_transformers
from plm_core.testing import expand_manifest

MANIFESTS = sorted((Path(__file__).parent / "manifests").glob("*.json"))


def on_meta(size):
    with torch.device("meta"):
        return plm_core.create_model(f"plm_{size}")


@pytest.fixture(scope="module", params=["1b", "3b", "8b"])
def published(request):
    return request.param, on_meta(request.param)


@pytest.mark.parametrize("layout", ["consolidated", "transformers"])
def test_names_and_shapes_of_the_published_checkpoints_both_ways(published, layout):
    size, model = published
    manifest = json.loads((Path(__file__).parent / "manifests" / f"plm_{size}_{layout}.json").read_text())
    expected = expand_manifest(manifest["tensors"])
    name = layout if layout == "transformers" else "official"
    assert {key: tuple(x.shape) for key, x in weights.export(model, name).items()} == expected
    state = {key: torch.empty(shape, device="meta") for key, shape in expected.items()}
    mapped, report = weights.to_native(model, state)
    assert report.ok, report.message("PerceptionLM")
    assert report.layout == name
    assert mapped.keys() == model.state_dict().keys()
    assert sum(p.numel() for p in model.parameters()) == manifest["params"]
    parts = manifest.get("params_by_part") or {}
    counts = {"vision": model.vision.tower, "projector": model.vision.projector}
    for part, module in counts.items():
        assert sum(p.numel() for p in module.parameters()) == parts.get(
            part, sum(p.numel() for p in module.parameters())
        )


def test_the_alias_of_a_tied_head_may_be_there(published):
    size, model = published
    state = weights.export(model, "official")
    state["output.tied_module.weight"] = state["tok_embeddings.weight"]
    report = weights.to_native(model, state, "official")[1]
    assert report.ok == (size != "8b"), "only a tied head has an alias"


@pytest.fixture(scope="module")
def small(golden):
    """A model with the weights of a golden, the golden, and the tensors that its file would have."""
    data = golden("hf_l_image_tiles")
    model = lm.build(data.config).eval()
    weights.load(model, data.weights)
    return model, data


def test_a_tied_head_stays_tied(small):
    model, data = small
    assert model.decoder.lm_head.weight is model.decoder.model.embed_tokens.weight
    assert "decoder.lm_head.weight" not in model.state_dict()
    with torch.device("meta"):
        other = lm.build(data.config)
    weights.load(other, data.weights)
    assert other.decoder.lm_head.weight is other.decoder.model.embed_tokens.weight
    assert not any(x.is_meta for x in [*other.parameters(), *other.buffers()])
    with torch.no_grad():
        assert torch.allclose(other.eval()(**data.inputs).logits, model(**data.inputs).logits, atol=1e-5)


def test_the_official_layout_gives_the_same_model(small, golden):
    model, data = small
    again = lm.build(data.config)
    report = weights.load(again, weights.export(model, "official"))
    assert report.layout == "official"
    assert weights.fingerprint(again) == weights.fingerprint(model)


@pytest.mark.parametrize("size", ["1b", "8b"])
def test_a_tower_may_have_no_layer_scale(size):
    config = SIZES[size].config
    vision = config["vision_config"]
    plain = {**vision, "model_args": {**vision["model_args"], "init_values": None}}
    with torch.device("meta"):
        tower, bare = (create_tower(given, config["vision_use_cls_token"]) for given in (vision, plain))
    scales = {name for name in tower.state_dict() if ".ls" in name}
    assert len(scales) == 2 * len(tower.blocks)
    shapes = {name: value.shape for name, value in tower.state_dict().items() if name not in scales}
    assert shapes == {name: value.shape for name, value in bare.state_dict().items()}


def test_a_configuration_of_the_original_builds_the_published_sizes():
    section = {
        "dim": 4096,
        "n_layers": 32,
        "n_heads": 32,
        "n_kv_heads": 8,
        "vocab_size": 128256,
        "ffn_dim_multiplier": 1.3,
        "multiple_of": 1024,
        "rope_theta": 500000.0,
        "rope_scale_factor": 1,
        "max_seqlen": 11520,
        "pooling_ratio": 2,
        "vision_model": {
            "image_size": 448,
            "patch_size": 14,
            "width": 1536,
            "layers": 47,
            "heads": 16,
            "mlp_ratio": 5.833333333333333,
            "use_cls_token": False,
            "ls_init_value": 0.1,
        },
    }
    with torch.device("meta"):
        model = lm.build({"meta_model": section})
    assert {k: v.shape for k, v in model.state_dict().items()} == {
        k: v.shape for k, v in on_meta("8b").state_dict().items()
    }
    assert model.decoder.config.rope_parameters["rope_type"] == "default"


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_shard_size", ["5GB", "100KB"])
def test_transformers_reads_what_is_saved(small, tmp_path, max_shard_size):
    model, data = small
    names = save_transformers(model, tmp_path, max_shard_size)
    assert sorted(names) == sorted(path.name for path in tmp_path.iterdir())
    assert (INDEX_FILE in names) == (max_shard_size == "100KB")
    theirs = AutoModelForImageTextToText.from_pretrained(tmp_path).eval()
    ours = from_pretrained(tmp_path)
    assert type(theirs).__name__ == "PerceptionLMForConditionalGeneration"
    with torch.no_grad():
        logits = model(**data.inputs).logits
        assert torch.allclose(theirs(**data.inputs).logits, logits, atol=1e-4)
        assert torch.equal(ours(**data.inputs).logits, logits)
    assert from_pretrained(tmp_path, torch.bfloat16).dtype == torch.bfloat16


def test_a_model_folder_of_ours_gives_the_model_back(tmp_path):
    model = plm_core.create_model("plm_1b", **SMALL)
    weights.save_pretrained(model, tmp_path, license="other")
    again = from_pretrained(tmp_path)
    assert weights.fingerprint(again) == weights.fingerprint(model)


SMALL = {
    "vision_config": {
        "architecture": "vit_pe_core_large_patch14_336",
        "model_args": {"embed_dim": 32, "depth": 1, "num_heads": 2, "img_size": [28, 28], "init_values": 0.1},
    },
    "text_config": {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "vocab_size": 32,
    },
    "image_token_id": 30,
    "video_token_id": 31,
}


def test_files_in_parts_are_read_whole_or_not_at_all(small, tmp_path):
    model, _ = small
    save_transformers(model, tmp_path, "100KB")
    shards = shards_of(tmp_path / INDEX_FILE)
    assert len(shards) > 2
    assert weights.load(lm.build(model.config), tmp_path).ok
    (tmp_path / shards[1]).unlink()
    with pytest.raises(WeightsError, match=f"names {shards[1]}, which is not beside it"):
        weights.read(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "no 'weight_map'"),
        ("[]", "no 'weight_map'"),
        ('{"weight_map": {"a": "../../secrets.safetensors"}}', "safetensors files beside it are expected"),
        ('{"weight_map": {"a": "pytorch_model.bin"}}', "safetensors files beside it are expected"),
    ],
)
def test_an_index_that_is_none(tmp_path, text, message):
    (tmp_path / INDEX_FILE).write_text(text)
    with pytest.raises(WeightsError, match=message):
        weights.read(tmp_path)


@pytest.mark.parametrize("max_shard_size", ["5GB", "100KB"])
def test_a_repository_in_one_file_or_in_parts(small, tmp_path, hub_double, max_shard_size):
    model, _ = small
    names = save_transformers(model, tmp_path, max_shard_size)
    hub_double.add("acme/perception", {name: (tmp_path / name).read_bytes() for name in names})
    assert weights.fingerprint(from_pretrained("acme/perception")) == weights.fingerprint(model)


def test_a_gated_repository_says_so(small, tmp_path, hub_double):
    names = save_transformers(small[0], tmp_path)
    hub_double.add("acme/gated", {name: (tmp_path / name).read_bytes() for name in names}, gated=True)
    with pytest.raises(WeightsError, match="acme/gated"):
        from_pretrained("acme/gated")


def test_declared_weights_in_parts_load_through_timm(small, tmp_path, hub_double, monkeypatch):
    """The published sizes are too large here, so one of their declarations gets a small configuration."""
    model = plm_core.create_model("plm_1b", **SMALL)
    names = save_transformers(model, tmp_path, "5KB")
    assert len(names) > 3
    hub_double.add("facebook/Perception-LM-1B", {name: (tmp_path / name).read_bytes() for name in names})
    loaded = plm_core.create_model("plm_1b", pretrained=True, **SMALL)
    assert weights.fingerprint(loaded) == weights.fingerprint(model)
    assert loaded.pretrained_cfg["hf_hub_id"] == "facebook/Perception-LM-1B"


# --- bad input -------------------------------------------------------------------------------------------------------


def test_weights_of_another_size(small):
    data = small[1]
    with torch.device("meta"):
        other = lm.build({**data.config, "text_config": {**data.config["text_config"], "intermediate_size": 64}})
    with pytest.raises(WeightsError, match=r"gate_proj.weight .*is \[96, 48\] in the source and \[64, 48\]"):
        weights.load(other, data.weights)


def test_what_transformers_cannot_build_is_not_written(tmp_path):
    with pytest.raises(NotSupported, match="made of parts"):
        save_transformers(lm.PerceptionLM(example().vision.tower, example().decoder), tmp_path)
    vision = {"architecture": "hiera_micro_shapes"}
    model = lm.build({"vision_config": vision, "text_config": SMALL["text_config"], "projector_pooling_ratio": 1})
    with pytest.raises(NotSupported, match="'hiera_micro_shapes' is of hiera"):
        save_transformers(model, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_model_of_another_kind_is_refused():
    with pytest.raises(InputError, match="a language model that sees is expected"):
        from_pretrained("hiera_micro_digits")
