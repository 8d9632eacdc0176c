"""Published weights by name, from a double of the Hugging Face Hub that serves files in their layouts."""

import timm
import torch
from safetensors.torch import save
from torch import nn

import plm_core
from plm_core import weights

REPO = "timm/vit_pe_core_tiny_patch16_384.fb"


def test_weights_come_from_the_repository_with_safetensors(hub_double):
    theirs = timm.create_model("vit_pe_core_tiny_patch16_384")
    nn.init.normal_(theirs.head.weight)
    nn.init.zeros_(theirs.head.bias)
    hub_double.add(REPO, {"model.safetensors": save(theirs.state_dict())})
    ours = timm.create_model("pe_core_t16_384", pretrained=True)
    assert all(call.split("?")[0].startswith(f"/{REPO}/") or REPO in call for call in hub_double.calls)
    for key, value in weights.export(ours, "timm").items():
        assert torch.equal(value, theirs.state_dict()[key]), key
    classifier = timm.create_model("pe_core_t16_384", pretrained=True, num_classes=5)
    assert torch.equal(classifier.blocks[3].attn.qkv.weight, ours.blocks[3].attn.qkv.weight)
    assert classifier.head.weight.shape == (5, 192)


def test_both_towers_come_from_open_clips_file(hub_double, monkeypatch):
    """With fewer and narrower layers than the published file has, which is 278 MB."""
    vision = {"patch_size": 16, "width": 32, "layers": 1, "heads": 2, "output_dim": 8, "image_size": 32}
    text = {"context_length": 8, "width": 16, "heads": 2, "layers": 1, "output_dim": 8, "vocab_size": 60}
    small = {"vision": vision, "text": text}
    ours = plm_core.create_model("pe_clip_t16_384", **small)
    state = {key: value.contiguous() for key, value in weights.export(ours, "open_clip").items()}
    assert "visual.trunk.head.bias" in state
    hub_double.add("timm/PE-Core-T-16-384", {"open_clip_model.safetensors": save(state)})
    again = plm_core.create_model("pe_clip_t16_384", pretrained=True, **small)
    for key, value in ours.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key


def test_a_file_of_the_original_is_converted(plm, tmp_path):
    """`plm convert` reads the pickle with nothing but tensors allowed, and writes our names as safetensors."""
    model = plm_core.create_model("pe_core_t16_384")
    official = {f"module.{key}": value for key, value in weights.export(model, "official-clip").items()}
    official["module.logit_scale"] = torch.tensor(1.0)
    torch.save({"state_dict": official}, tmp_path / "PE-Core-T16-384.pt")
    out = tmp_path / "pe.safetensors"
    result = plm("convert", tmp_path / "PE-Core-T16-384.pt", out, "--model", "pe_core_t16_384")
    assert result.code == 0, result.err
    loaded = plm_core.create_model("pe_core_t16_384")
    weights.load(loaded, out)
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key
