"""`check_blocks` finds what a view gets wrong, and blames a piece only where that can be told."""

from dataclasses import replace

import pytest
import timm
import torch
from torch import nn

from plm_core import PluginError, blocks
from plm_core.adapters import timm as timm_adapters
from plm_core.adapters import transformers as transformers_adapters
from plm_core.blocks import Tokens
from plm_core.errors import InputError
from plm_core.testing import check_blocks

SIZE = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 3, "num_classes": 5}
IMAGE = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def shaken(model):
    """Randomise the parameters, so that a scale, a norm or a bias that is left out would show."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model.eval()


def vit(**options):
    return shaken(timm.create_model("vit_tiny_patch16_224", **SIZE | options))


@pytest.fixture
def changed(monkeypatch):
    """Return a function that lets an adapter of timm show a changed view."""

    def change(of_model=lambda view: view, of_block=lambda view: view, adapter="vision_transformer"):
        make = getattr(timm_adapters, adapter)

        def made(model):
            view = make(model)
            return of_model(replace(view, blocks=tuple(map(of_block, view.blocks))))

        monkeypatch.setattr(timm_adapters, adapter, made)

    return change


def test_a_view_that_is_not_changed_passes(changed):
    changed()
    check_blocks(vit(), IMAGE)


# --- facts ------------------------------------------------------------------------------------------------------

OF_MODEL = {
    "too few special tokens": (
        lambda view: replace(view, tokens=Tokens()),
        r"the view has 0 special tokens .*, but blocks\.0 gets 17 tokens for 16 patches",
    ),
    "too many special tokens": (
        lambda view: replace(view, tokens=Tokens(class_tokens=2)),
        r"the view has 2 special tokens .*, but blocks\.0 gets 17 tokens for 16 patches",
    ),
    "a class token as a register": (
        lambda view: replace(view, tokens=Tokens(register_tokens=1)),
        r"the view has 1 registers .*, but the answer of VisionTransformer comes from one of them and not from the",
    ),
    "rotary": (
        lambda view: replace(view, tokens=Tokens(1, positions="rotary")),
        "positions are 'rotary', but unrotate of no block changes its keys",
    ),
    "bias": (
        lambda view: replace(view, tokens=Tokens(1, positions="bias")),
        "positions are 'bias', but no block has a bias",
    ),
    "maps": (
        lambda view: replace(view, returns_maps=True),
        "returns_maps is True, but the outputs of VisionTransformer do not depend on the places of the patches",
    ),
    "last block left out": (
        lambda view: replace(view, blocks=view.blocks[:-1]),
        r"the view leaves out blocks\.2, which the model calls",
    ),
    "middle block left out": (
        lambda view: replace(view, blocks=view.blocks[::2]),
        r"the view leaves out blocks\.1, which the model calls",
    ),
    "reversed": (
        lambda view: replace(view, blocks=view.blocks[::-1]),
        r"the view shows blocks\.2 where the model calls blocks\.0",
    ),
    "none": (lambda view: replace(view, blocks=()), "VisionTransformer shows no blocks"),
}


@pytest.mark.parametrize(("change", "said"), OF_MODEL.values(), ids=OF_MODEL)
def test_a_wrong_fact_of_the_model(changed, change, said):
    changed(of_model=change)
    with pytest.raises(AssertionError, match=said):
        check_blocks(vit(), IMAGE)


OF_BLOCK = {
    "heads": (lambda view: replace(view, num_heads=2), r"blocks\.0: num_heads is 2, its q has 3 heads"),
    "heads of keys": (
        lambda view: replace(view, qkv=lambda x: tuple(t[:, : 3 - 2 * (i > 0)] for i, t in enumerate(view.qkv(x)))),
        r"blocks\.0: qkv returns \[2, 3, 17, 16\], \[2, 1, 17, 16\].*; all three need 3 heads",
    ),
    "pools": (lambda view: replace(view, pools=True), r"blocks\.0 returns 17 tokens for 17, but pools .* is True"),
    "local": (
        lambda view: replace(view, local=True),
        r"local of blocks\.0 is True, but its last token reaches 17 of the 17 tokens that blocks\.0 returns",
    ),
    "dropout": (lambda view: replace(view, dropout=0.5), r"blocks\.0: dropout is 0\.5; in eval mode it is 0"),
    "hidden": (
        lambda view: replace(view, hidden=()),
        r"blocks\.0 calls its attn and the pieces do not, so its hooks would be left out: name it in hidden",
    ),
    "bias": (
        lambda view: replace(view, bias=lambda **context: torch.zeros(1, 3, 17, 17)),
        r"positions are 'absolute', but blocks\.0 has a bias of its own",
    ),
    "unrotate": (
        lambda view: replace(view, unrotate=lambda key, **context: -key),
        r"positions are 'absolute', but unrotate of blocks\.0 changes its keys",
    ),
    "name": (lambda view: replace(view, name="blocks.9"), r"the adapter calls a block 'blocks\.9' that is elsewhere"),
    "another's parameters": (
        lambda view: replace(view, view_of=lambda block: replace(view, block=block)),
        r"blocks\.0: view_of shows pieces that are not those of the block that it is given",
    ),
    "another's name": (
        lambda view: replace(view, view_of=lambda block: replace(view.view_of(block), name="blocks.9")),
        r"blocks\.0: view_of shows a block named 'blocks\.9'",
    ),
    "failing": (
        lambda view: replace(view, proj=lambda attended: attended),
        r"blocks\.0: proj fails with TypeError: .* takes 1 positional argument but 2 were given",
    ),
}


@pytest.mark.parametrize(("change", "said"), OF_BLOCK.values(), ids=OF_BLOCK)
def test_a_wrong_fact_of_a_block(changed, change, said):
    changed(of_block=change)
    with pytest.raises(AssertionError, match=said):
        check_blocks(vit(), IMAGE)


def test_rotary_positions_that_are_called_absolute(changed):
    rotary = shaken(timm.create_model("eva02_tiny_patch14_224", **SIZE))
    check_blocks(rotary, IMAGE)
    changed(of_model=lambda view: replace(view, tokens=Tokens(1)), adapter="eva")
    with pytest.raises(AssertionError, match=r"positions are 'absolute', but unrotate of blocks\.0 changes its keys"):
        check_blocks(rotary, IMAGE)
    changed(of_block=lambda view: replace(view, unrotate=lambda key, **context: key), adapter="eva")
    with pytest.raises(AssertionError, match=r"'absolute', but the keys of blocks\.0 depend on its context"):
        check_blocks(rotary, IMAGE)


def test_a_bias_that_is_called_absolute(changed):
    changed(of_model=lambda view: replace(view, tokens=Tokens(1)), adapter="beit")
    with pytest.raises(AssertionError, match=r"positions are 'absolute', but blocks\.0 has a bias of its own"):
        check_blocks(shaken(timm.create_model("beit_base_patch16_224", **SIZE)), IMAGE)


def hf_model(name):
    config = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 64}
    return shaken(transformers_adapters.example(name, **config, image_size=32, patch_size=8))


@pytest.mark.parametrize("tokens", [Tokens(), Tokens(class_tokens=3)])
def test_special_tokens_of_a_model_that_gives_no_maps(monkeypatch, tokens):
    """Those are told by being the same for every image."""
    make = transformers_adapters.vit
    check_blocks(hf_model("ViTModel"), IMAGE)
    monkeypatch.setattr(transformers_adapters, "vit", lambda model: replace(make(model), tokens=tokens))
    with pytest.raises(AssertionError, match=r"1 of 17 tokens of layers\.0 are the same for every image"):
        check_blocks(hf_model("ViTModel"), IMAGE)


def test_maps_that_are_not_told(monkeypatch):
    make = transformers_adapters.dinov2
    backbone = hf_model("Dinov2Backbone")
    check_blocks(backbone, IMAGE)
    monkeypatch.setattr(transformers_adapters, "dinov2", lambda model: replace(make(model), returns_maps=False))
    with pytest.raises(AssertionError, match="False, but the outputs of Dinov2Backbone depend on the places"):
        check_blocks(backbone, IMAGE)


def test_registers_that_the_answer_does_not_come_from(changed):
    """The answer of a pooling over all tokens comes from the registers too, which makes no class token of them."""
    check_blocks(vit(reg_tokens=2), IMAGE)
    over_all = vit(class_token=False, reg_tokens=1, global_pool="avg", pool_include_prefix=True)
    check_blocks(over_all, IMAGE)
    changed(of_model=lambda view: replace(view, pools_patches=False))
    with pytest.raises(AssertionError, match="pools_patches is False, but the answer of VisionTransformer depends on"):
        check_blocks(over_all, IMAGE)


def test_special_tokens_behind_the_patches(changed):
    class Behind(nn.Module):
        def __init__(self):
            super().__init__()
            self.vit = vit(class_token=False, global_pool="avg")
            self.token = nn.Parameter(torch.randn(1, 1, 48))
            self.vit.patch_drop.register_forward_hook(lambda *io: torch.cat([io[2], self.token.expand(2, -1, -1)], 1))

        def forward(self, x):
            return self.vit(x)

    changed(of_model=lambda view: replace(view, tokens=Tokens(1)))
    with pytest.raises(AssertionError, match=r"token 16 of blocks\.0 is the same for every image but stands behind"):
        check_blocks(Behind().eval(), IMAGE)


def test_a_tower_inside_a_detector(changed):
    """A detector takes a list of images, which may have several sizes."""

    class Detector(nn.Module):
        def __init__(self):
            super().__init__()
            self.tower = vit()

        def forward(self, images):
            return [{"scores": self.tower(torch.stack([image[:, :32, :32] for image in images]))}]

    images = [torch.rand(3, 32, 40), torch.rand(3, 36, 32)]
    check_blocks(Detector(), images)
    changed(of_model=lambda view: replace(view, tokens=Tokens(class_tokens=2)))
    with pytest.raises(AssertionError, match=r"the view has 2 special tokens .*, but blocks\.0 gets 17 tokens for 16"):
        check_blocks(Detector(), images)


# --- the form of a view -----------------------------------------------------------------------------------------

FORMS = {
    "no view": (lambda view: None, "timm:vision_transformer returns a NoneType; a ModelView is expected"),
    "list": (lambda view: replace(view, blocks=list(view.blocks)), "blocks of its view are a list of BlockView"),
    "other things": (lambda view: replace(view, blocks=(1, "x")), "are a tuple of int, str; a tuple of BlockView"),
    "failing": (lambda view: 1 / 0, "block adapter 'timm-vit' fails on VisionTransformer: ZeroDivisionError: division"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "said"), FORMS.values(), ids=FORMS)
def test_what_is_no_view_is_one_line(changed, change, said):
    changed(of_model=change)
    with pytest.raises(PluginError, match=said):
        blocks.view(vit())


@pytest.mark.parametrize(
    ("view_of", "said"),
    [(lambda block: None, "returns a NoneType; a BlockView"), (lambda block: block.attn.none, "fails on Vision.*none")],
)
def test_a_view_of_another_block_that_is_none(changed, view_of, said):
    changed(of_block=lambda view: replace(view, view_of=view_of))
    with pytest.raises(PluginError, match=said):
        blocks.view(vit())


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"positions": "nonsense"}, "positions is 'nonsense'; absolute, rotary, bias are allowed"),
        ({"class_tokens": -1}, "class_tokens is -1; a whole number from 0 on is expected"),
        ({"register_tokens": None}, "register_tokens is None; a whole number from 0 on is expected"),
    ],
)
def test_tokens_are_checked(wrong, said):
    with pytest.raises(InputError, match=said):
        Tokens(**wrong)


# --- which piece differs ----------------------------------------------------------------------------------------


def swapped(view):
    def qkv(normed, **context):
        q, k, v = view.qkv(normed, **context)
        return q, v, k

    return replace(view, qkv=qkv)


PIECES = {
    "normalize": lambda view: replace(view, normalize=view.block.norm2),
    "qkv": swapped,
    "bias": lambda view: replace(view, bias=lambda **context: torch.eye(17).expand(1, 3, -1, -1)),
    "proj": lambda view: replace(view, proj=lambda attended, normed: 2 * view.proj(attended, normed)),
    "residual": lambda view: replace(view, residual=lambda x, normed: 2 * x),
    "mlp_residual": lambda view: replace(view, mlp_residual=lambda x: view.mlp_residual(x) - x),
}


@pytest.mark.parametrize("piece", PIECES)
@pytest.mark.parametrize("fused", [True, False])
def test_a_piece_is_named_only_if_no_other_can_be_wrong(changed, piece, fused):
    model = vit()
    for block in model.blocks:
        block.attn.fused_attn = fused  # without it, nobody sees q, k and v
        block.ls1 = Double()  # the branch is not what a part of the block returns
    changed(of_block=PIECES[piece])
    with pytest.raises(AssertionError) as caught:
        check_blocks(model, IMAGE)
    said = str(caught.value)
    assert piece in said.rpartition("differ")[2]
    if fused or piece not in ("qkv", "bias"):
        assert said.endswith(f": the piece that differs is {piece}")
    else:
        assert said.endswith(": which piece differs cannot be told; it is one of qkv, bias, proj")


class Double(nn.Module):
    """A layer scale."""

    def forward(self, x):
        return 2 * x
