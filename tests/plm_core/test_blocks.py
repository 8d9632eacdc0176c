"""Views, patches and copies of blocks: the pieces of every variant of timm's ViT make up the block again."""

import copy
import pickle
from dataclasses import replace

import pytest
import timm
import torch
from torch import nn

import plm_core
from plm_core import NotSupported, blocks
from plm_core.blocks import checking
from plm_core.blocks.refusals import REASONS
from plm_core.testing import check_blocks
from plm_core.utils.references import resolve

SIZE = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 5}
VARIANTS = {
    "plain": ("vit_tiny_patch16_224", {}),
    "layer scale": ("vit_tiny_patch16_224", {"init_values": 0.1}),
    "query and key norm": ("vit_tiny_patch16_224", {"qk_norm": True}),
    "attention and mlp norm": ("vit_tiny_patch16_224", {"scale_attn_norm": True, "scale_mlp_norm": True}),
    "registers": ("vit_tiny_patch16_224", {"reg_tokens": 4}),
    "no class token": ("vit_tiny_patch16_224", {"class_token": False, "global_pool": "avg"}),
    "pre-norm": ("vit_tiny_patch16_224", {"pre_norm": True}),
    "distilled": ("deit_tiny_distilled_patch16_224", {}),
}


@pytest.mark.parametrize(("name", "options"), VARIANTS.values(), ids=VARIANTS)
def test_pieces_make_up_the_block(name, options):
    torch.manual_seed(0)
    model = timm.create_model(name, **{**SIZE, **options}).eval()
    for parameter in model.parameters():  # layer scale and others start at values that would hide an error
        nn.init.normal_(parameter, std=0.2)
    check_blocks(model, torch.rand(2, 3, 32, 32))


WRONG = {
    "normalize": lambda x: x,
    "qkv": lambda x, **context: (x.unflatten(2, (3, 16)).transpose(1, 2),) * 3,
    "proj": lambda attended, normed: attended.transpose(1, 2).flatten(2),
    "residual": lambda x, normed: normed,
    "mlp_residual": lambda x: x,
}


@pytest.mark.parametrize(("piece", "wrong"), WRONG.items(), ids=WRONG)
@pytest.mark.parametrize("variant", ["plain", "layer scale"])
def test_the_piece_that_differs_is_named(monkeypatch, variant, piece, wrong):
    torch.manual_seed(0)
    name, options = VARIANTS[variant]
    model = timm.create_model(name, **{**SIZE, **options}).eval()
    right = blocks.view(model)
    views = (right.blocks[0], replace(right.blocks[1], **{piece: wrong}))
    monkeypatch.setattr(checking, "find", lambda model: {"": replace(right, blocks=views)})
    with pytest.raises(AssertionError, match=rf"^blocks\.1 from .* differ by up to .*differs is [\w ]*\b{piece}\b"):
        check_blocks(model, torch.rand(2, 3, 32, 32))


@pytest.mark.parametrize(
    ("variant", "tokens"),
    [
        ("plain", blocks.Tokens(class_tokens=1)),
        ("registers", blocks.Tokens(class_tokens=1, register_tokens=4)),
        ("no class token", blocks.Tokens()),
        ("distilled", blocks.Tokens(class_tokens=1, distill_tokens=1)),
    ],
)
def test_special_tokens_are_told_apart(variant, tokens):
    name, options = VARIANTS[variant]
    model = timm.create_model(name, **{**SIZE, **options})
    assert blocks.view(model).tokens == tokens
    assert tokens.prefix == model.num_prefix_tokens


def test_another_attention_takes_the_place_of_softmax():
    model = timm.create_model("vit_tiny_patch16_224", **SIZE).eval()
    x = torch.rand(2, 17, 48)
    block = blocks.view(model).blocks[0]
    mean = blocks.run_block(block, x, attention=lambda q, k, v: v.mean(2, keepdim=True).expand_as(v))
    with torch.no_grad():
        model.blocks[0].attn.qkv.weight[: 2 * 48].zero_()
        model.blocks[0].attn.qkv.bias[: 2 * 48].zero_()
    torch.testing.assert_close(mean, model.blocks[0](x))  # no query, no key: attention is the mean


def double(view, x, state, **context):
    return 2 * blocks.run_block(view, x, **context), state


def count(view, x, state, **context):
    """Count the blocks before this one, known only from the state of the tokens, and add the count."""
    before = 0 if state is None else state
    return blocks.run_block(view, x, **context) + before, before + 1


COPIES = {"deep copy": copy.deepcopy, "pickle": lambda model: pickle.loads(pickle.dumps(model))}


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "hiera_micro_digits"])
def test_a_patched_block_survives_a_copy_and_is_undone(name, copied):
    model = plm_core.create_model(name).eval()
    keys = list(model.state_dict())
    x = torch.rand(1, *model.pretrained_cfg["input_size"])
    with torch.no_grad():
        before = model.forward_features(x)
        for block in blocks.view(model).blocks:
            blocks.patch(block, double)
        during = model.forward_features(x)
        assert not torch.equal(during, before)
        assert list(model.state_dict()) == keys
        twin = copied(model)
        for parameter in model.blocks.parameters():
            parameter.zero_()
        assert torch.equal(twin.forward_features(x), during)  # its own weights, not the original's
        for block in blocks.view(twin).blocks:
            blocks.unpatch(block.block)
        assert torch.equal(twin.forward_features(x), before)


def test_the_state_of_tokens_reaches_the_next_block_and_no_other_call():
    model = timm.create_model("vit_tiny_patch16_224", **{**SIZE, "depth": 3}).eval()
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        plain = blocks.view(model).blocks
        tokens = model._pos_embed(model.patch_embed(x))
        for i, block in enumerate(plain):
            tokens = block.block(tokens) + i
        for block in plain:
            blocks.patch(block, count)
        for _ in range(2):  # nothing is left over from the call before
            torch.testing.assert_close(model.forward_features(x), model.norm(tokens))
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled.forward_features(x), model.norm(tokens))
    model.set_grad_checkpointing()
    model.forward_features(x).sum().backward()  # torch raises unless recomputed blocks see the same tensors


def test_patches_stack_and_are_undone_in_order():
    model = timm.create_model("vit_tiny_patch16_224", **SIZE).eval()
    block = blocks.view(model).blocks[0]
    x = torch.rand(1, 5, 48)
    with torch.no_grad():
        before = block.block(x)
        blocks.patch(block, double)
        blocks.patch(blocks.view(model).blocks[0], count)
        assert torch.equal(block.block(x), before)
        blocks.unpatch(block.block)
        assert torch.equal(block.block(x), 2 * before)
        blocks.unpatch(block.block)
        assert torch.equal(block.block(x), before)
        assert "plm_patches" not in vars(block.block)


def no_attention(view):
    """Change a block so that each token sees itself only."""
    return replace(view, attention=lambda q, k, v: v)


def no_mlp(view):
    return replace(view, mlp_residual=lambda x: x)


def test_changes_of_pieces_stack_below_a_patch_and_are_undone_apart():
    model = timm.create_model("vit_tiny_patch16_224", **SIZE).eval()
    view, x = blocks.view(model).blocks[0], torch.rand(1, 5, 48)
    block = view.block
    with torch.no_grad():
        before = block(x)
        own = blocks.run_block(no_attention(view), x)
        assert not torch.allclose(own, before)
        blocks.alter(view, no_attention)
        assert torch.equal(block(x), own)
        assert torch.equal(blocks.run_block(blocks.view(model).blocks[0], x), own)  # the view is that of what it is now
        blocks.patch(blocks.view(model).blocks[0], double)
        blocks.alter(blocks.view(model).blocks[0], no_mlp)
        both = 2 * blocks.run_block(no_mlp(no_attention(view)), x)  # each change is made once
        assert torch.equal(block(x), both)
        assert (blocks.patched_by(block), blocks.altered_by(block)) == (double, no_mlp)
        blocks.unpatch(block)
        assert torch.equal(block(x), both / 2)
        assert (blocks.patched_by(block), blocks.altered_by(block)) == (None, no_mlp)
        blocks.unalter(block)
        assert torch.equal(block(x), own)
        blocks.unalter(block)
        assert torch.equal(block(x), before)
        assert "plm_patches" not in vars(block)


@pytest.mark.parametrize("shape", [(2, 5), (2, 5, 3), (2, 4, 5, 3), (2, 1, 4, 5, 3)], ids=str)
def test_rows_are_taken_from_each_sample(shape):
    x, index = torch.rand(shape), torch.tensor([[4, 0, 0], [1, 2, 3]])
    dim = shape.index(5)
    by_hand = torch.stack([sample.index_select(dim - 1, places) for sample, places in zip(x, index, strict=True)])
    assert torch.equal(blocks.take_rows(x, index, dim), by_hand)


def test_rows_are_taken_from_a_batch_that_is_dynamic_in_an_export():
    class Take(nn.Module):
        def forward(self, x, index):
            return blocks.take_rows(x, index, dim=2)

    x, index = torch.rand(3, 4, 5, 2), torch.randint(5, (3, 3))
    dynamic = {0: torch.export.Dim.DYNAMIC}
    program = torch.export.export(Take(), (x, index), dynamic_shapes=(dynamic, dynamic))
    more, indices = torch.rand(7, 4, 5, 2), torch.randint(5, (7, 3))
    assert torch.equal(program.module()(more, indices), blocks.take_rows(more, indices, dim=2))


def test_a_model_inside_another_is_found():
    features = timm.create_model("vit_tiny_patch16_224", **{**SIZE, "depth": 3}, features_only=True)
    assert list(blocks.find(features)) == ["model"]
    both = nn.ModuleDict({"left": timm.create_model("vit_tiny_patch16_224", **SIZE), "right": nn.Linear(2, 2)})
    assert list(blocks.find(both)) == ["left"]
    with pytest.raises(
        NotSupported, match=r"no block adapter for torch.nn.modules.linear.Linear .*: .*, vit_tiny_patch16_224"
    ):
        blocks.find(nn.Linear(2, 2))


def test_blocks_without_a_view_are_refused_with_the_reason():
    parallel = timm.create_model("vit_small_patch16_18x2_224", **{**SIZE, "num_heads": 3})
    with pytest.raises(NotSupported, match="blocks of kind Parallel"):
        blocks.view(parallel)
    with pytest.raises(NotSupported, match=r"no block adapter for torch.nn.modules.linear.Linear"):
        blocks.view(nn.Linear(1, 1))


REFUSED = [(path, reason) for reason, paths in REASONS.items() for path in paths]


@pytest.mark.parametrize(("path", "reason"), REFUSED, ids=[path for path, _ in REFUSED])
def test_families_that_cannot_have_a_view_are_refused_with_the_reason(path, reason):
    module, _, name = path.partition(":")
    assert issubclass(resolve(path), nn.Module)  # it is still called so
    model = type(name, (nn.Module,), {"__module__": module, "__qualname__": name})()
    for whole, said in (
        (model, "reach the blocks, since"),
        (nn.Sequential(model), f"blocks of {name} inside it, since"),
    ):
        with pytest.raises(NotSupported, match=f"{said} {reason}"):
            blocks.find(whole)
