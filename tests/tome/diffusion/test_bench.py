"""``plm bench`` of diffusers' UNets: what it runs, and what it refuses. No test compares two times."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from plm_core import InputError, NotSupported, WeightsError
from plm_core.sources.diffusers import Denoiser, conditioning, create
from plm_core.tools import bench
from plm_core.transforms import apply_all
from tome.diffusion.transform import merging_models

from .tiny_models import ARCHITECTURES, UNET, attends

WEIGHTS = "diffusion_pytorch_model.safetensors"
CLASSES = UNET | attends() | {"num_class_embeds": 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A pipeline of which only the UNet is there."""
    root = tmp_path_factory.mktemp("pipeline")
    ARCHITECTURES["SD"].build().save_pretrained(root / "unet")
    return root


def test_a_folder_or_a_pipeline_is_a_unet_with_random_or_its_own_weights(folder):
    torch.manual_seed(0)
    trained = ARCHITECTURES["SD"].build().state_dict()
    for path in (folder, folder / "unet"):
        own = create(str(path), pretrained=True).state_dict()
        assert all(torch.equal(own[name], weight) for name, weight in trained.items())
    assert not torch.equal(create(str(folder)).state_dict()["conv_in.weight"], trained["conv_in.weight"])


@pytest.mark.parametrize("at", ["", "unet/"])
def test_a_repository_of_the_hub_is_a_unet_and_only_what_it_needs_is_downloaded(folder, hub_double, tmp_path, at):
    files = {f"{at}{path.name}": path for path in (folder / "unet").iterdir()}
    others = ("vae/config.json", f"vae/{WEIGHTS}", f"{at}{WEIGHTS.replace('.', '.fp16.')}", f"other/{at}{WEIGHTS}")
    hub_double.add("org/model", files | dict.fromkeys(others, b"{}"))
    create("org/model@main")
    assert not any("safetensors" in request for request in hub_double.calls if "resolve" in request)
    trained = ARCHITECTURES["SD"].build().state_dict()
    own = create("org/model", pretrained=True).state_dict()
    assert own.keys() == trained.keys()
    assert torch.equal(own["conv_in.weight"], load_file(folder / "unet" / WEIGHTS)["conv_in.weight"])
    assert not any(request.endswith(others) for request in hub_double.calls)
    ARCHITECTURES["SD"].build().save_pretrained(tmp_path / "shards", max_shard_size="200KB")
    hub_double.add("org/shards", {f"{at}{path.name}": path for path in (tmp_path / "shards").iterdir()})
    assert create("org/shards", pretrained=True).state_dict().keys() == trained.keys()
    with pytest.raises(WeightsError, match=r"^cannot get .*org/other"):
        create("org/other")


@pytest.mark.parametrize(
    ("config", "given"),
    [
        (UNET | attends(), {"encoder_hidden_states"}),
        (ARCHITECTURES["SDXL"].config, {"encoder_hidden_states", "added_cond_kwargs"}),
        (CLASSES, {"encoder_hidden_states", "class_labels"}),
        (UNET | attends() | {"class_embed_type": "timestep"}, {"encoder_hidden_states", "class_labels"}),
        (
            UNET | attends() | {"encoder_hid_dim_type": "text_proj", "encoder_hid_dim": 20},
            {"encoder_hidden_states"},
        ),
    ],
    ids=["text", "SDXL", "classes", "noise level", "projected text"],
)
@torch.no_grad()
def test_the_unet_is_called_with_all_that_its_configuration_asks_for(config, given):
    import diffusers

    unet = diffusers.UNet2DConditionModel(**config).eval()
    calls = []
    unet.register_forward_hook(lambda module, args, kwargs, y: calls.append((args, kwargs, y)), with_kwargs=True)
    model = Denoiser(unet, batch_size=3)
    latents = model.random_latents(3)
    noise = model(latents)
    ((sample, timestep), kwargs, y) = calls[0]
    assert (sample is latents, timestep, set(kwargs)) == (True, 500, given)
    assert torch.equal(noise, y.sample)
    assert noise.shape == latents.shape == (3, 4, 8, 8)
    assert model.random_latents(1, size=16).shape == (1, 4, 16, 16)
    assert set(model.state_dict()) == {f"unet.{name}" for name in unet.state_dict()}


def test_tokens_merge_in_a_contender_and_not_in_the_plain_model(folder, monkeypatch):
    merging = []

    def apply_and_note(model, stack):
        merged = apply_all(model, stack)
        merging.append([type(part).__name__ for part in merging_models(merged)])
        return merged

    monkeypatch.setattr(bench, "apply_all", apply_and_note)
    model, latents = bench.prepare(f"diffusers:{folder}", 2)
    plain, merged = bench.compare(model, [["tome:ratio=0.5"]], latents, runs=1)
    assert (plain.name, merged.name) == ("unchanged", "tome:ratio=0.5")
    assert merging == [["UNet2DConditionModel"]]
    assert not merging_models(model)
    assert plain.tokens is merged.tokens is None
    with pytest.raises(
        NotSupported, match="for the diffusion model inside, give ratio in place of r, flops and tokens"
    ):
        bench.compare(model, [["tome:r=8"]], latents, runs=1)


def test_plm_bench(folder, tmp_path, monkeypatch, capsys):
    from plm_core.cli import main

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["plm", "bench", f"diffusers:{folder}", *map(str, words)])
        with pytest.raises(SystemExit) as exit_:
            main()
        return exit_.value.code or 0, *capsys.readouterr()

    words = ("--batch-size", 2, "--runs", 1, "--size", 16, "--compare", "tome:ratio=0.5", "--json")
    code, out, err = run(*words)
    assert code == 0
    assert "2 x 4 x 16 x 16, fp32" in err
    assert [row["model"] for row in json.loads(out)] == ["unchanged", "tome:ratio=0.5"]
    code, out, err = run(*words, "--images", tmp_path)
    assert (code, out) == (2, "")
    assert "--images compares embeddings and classes, and a UNet of diffusers has neither" in err


def test_what_is_no_unet_is_refused(tmp_path):
    for text, error, said in (
        ("", InputError, "model 'diffusers:' is neither a folder nor of the form 'org/name"),
        (str(tmp_path), WeightsError, "it has no config.json, and no unet/config.json as pipelines have"),
    ):
        with pytest.raises(error, match=said):
            create(text)
    for config, error, said in (
        (
            {"_class_name": "AutoencoderKL"},
            NotSupported,
            "is a AutoencoderKL; only a UNet2DConditionModel has an input",
        ),
        ({"_class_name": "UNet2DConditionModel", "block_out_channels": [3]}, WeightsError, "cannot get diffusers:"),
        ([], WeightsError, "its config.json"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(error, match=said) as caught:
            create(str(tmp_path))
        assert "\n" not in str(caught.value)
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DConditionModel"}')
    with pytest.raises(WeightsError, match=r"a model of diffusers.*plm bench takes UNets of diffusers, as 'diffus"):
        bench.prepare(str(tmp_path), 1)


def test_weights_that_do_not_fit_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    ARCHITECTURES["SD"].build().save_pretrained(tmp_path)
    file = next(tmp_path.glob("*.safetensors"))
    weights = load_file(file)
    bias = weights.pop("conv_in.bias")
    save_file(weights, file)
    with pytest.raises(WeightsError, match=r"its weights do not fit its configuration: conv_in\.bias$"):
        create(str(tmp_path), pretrained=True)
    save_file(weights | {"conv_in.bias": bias, "more": bias.clone()}, file)
    with pytest.raises(WeightsError, match=r"its weights do not fit its configuration: more$"):
        create(str(tmp_path), pretrained=True)
    save_file(weights | {"conv_in.bias": bias[:3].clone()}, file)
    with pytest.raises(WeightsError, match=r"cannot get diffusers:"):
        create(str(tmp_path), pretrained=True)
    file.unlink()
    with pytest.raises(WeightsError, match=r"cannot get diffusers:"):
        create(str(tmp_path), pretrained=True)


class Config(SimpleNamespace):
    def __getitem__(self, name):
        return getattr(self, name)


@pytest.mark.parametrize(
    "change",
    [
        {"cross_attention_dim": (8, 16)},
        {"encoder_hid_dim_type": "image_proj"},
        {"addition_embed_type": "image"},
        {"class_embed_type": "projection"},
    ],
    ids=str,
)
def test_other_conditioning_is_refused_by_its_field(change):
    plain = {
        "cross_attention_dim": 12,
        "encoder_hid_dim_type": None,
        "encoder_hid_dim": None,
        "addition_embed_type": None,
        "class_embed_type": None,
        "num_class_embeds": None,
    }
    assert conditioning(Config(**plain)) == {"encoder_hidden_states": (77, 12)}
    (field,) = change
    with pytest.raises(NotSupported, match=f"a UNet2DConditionModel with {field}="):
        conditioning(Config(**plain | change))
