"""The models by name: timm's, with Hydra in the last two blocks unless another number is asked for."""

import pytest
import timm
import torch

import hydra_attn
import plm_core
from hydra_attn.api import altered_blocks
from plm_core.errors import InputError
from plm_core.hookspecs import Model
from plm_core.registry import registry

SMALL = {"img_size": 32, "embed_dim": 24, "depth": 4, "num_classes": 5}
NAMES = [name for name, entry in registry().all(Model).items() if entry.plugin == "hydra-attn" and "micro" not in name]


@pytest.mark.parametrize("name", NAMES)
def test_they_are_timms_with_hydra(name):
    with torch.device("meta"):
        model, of_timm = timm.create_model(name), timm.create_model(name.removeprefix("hydra_"))
    assert {key: x.shape for key, x in model.state_dict().items()} == {
        key: x.shape for key, x in of_timm.state_dict().items()
    }
    assert altered_blocks(model) == list(model.blocks[-2:])
    assert {attribute: model.pretrained_cfg[attribute] for attribute in ("mean", "std", "crop_pct", "input_size")} == {
        attribute: of_timm.pretrained_cfg[attribute] for attribute in ("mean", "std", "crop_pct", "input_size")
    }


@torch.inference_mode()
def test_layers_order_and_kernel_are_arguments(tmp_path):
    torch.manual_seed(0)
    model = timm.create_model("hydra_vit_tiny_patch16_224", **SMALL).eval()
    plain = timm.create_model("vit_tiny_patch16_224", **SMALL).eval()
    plain.load_state_dict(model.state_dict())
    x = torch.rand(2, 3, 32, 32)
    for options in (
        {"hydra_layers": 1},
        {"hydra_layers": "all", "hydra_kernel": "mean"},
        {"hydra_layers": 3, "hydra_order": "forward"},
    ):
        other = timm.create_model("hydra_vit_tiny_patch16_224", **SMALL, **options).eval()
        other.load_state_dict(model.state_dict())
        applied = hydra_attn.apply(plain, **{key.removeprefix("hydra_"): value for key, value in options.items()})
        assert torch.equal(other(x), applied(x))
        hydra_attn.remove(plain)
    none = timm.create_model("hydra_vit_tiny_patch16_224", **SMALL, hydra_layers=0).eval()
    none.load_state_dict(model.state_dict())
    assert torch.equal(none(x), plain(x))
    with pytest.raises(InputError, match=r"^layers is 5; a number from 1 to 4"):
        timm.create_model("hydra_vit_tiny_patch16_224", **SMALL, hydra_layers=5)
    plm_core.weights.save_pretrained(model, tmp_path / "out", "apache-2.0")
    again = plm_core.create_model(str(tmp_path / "out"), pretrained=True).eval()
    assert torch.equal(again(x), model(x))
    assert torch.equal(hydra_attn.remove(again)(x), plain(x))
