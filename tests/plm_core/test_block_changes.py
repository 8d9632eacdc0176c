"""What else changes a model: a patched block runs it, refuses it by name, or notices it at its next call."""

import copy

import accelerate
import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.utils import parametrize

from plm_core import NotSupported, blocks
from plm_core.adapters import transformers as transformers_adapters

SIZE = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 3, "num_classes": 5}
IMAGE = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
MAKERS = {
    "timm-vit": lambda: timm.create_model("vit_tiny_patch16_224", **SIZE),
    "timm-eva": lambda: timm.create_model("eva02_tiny_patch14_224", **SIZE),
    "torchvision": lambda: torchvision.models.VisionTransformer(32, 8, 3, 3, 48, 96, num_classes=5),
    "transformers": lambda: transformers_adapters.example(
        "ViTForImageClassification",
        hidden_size=48,
        num_hidden_layers=3,
        num_attention_heads=3,
        intermediate_size=96,
        image_size=32,
        patch_size=8,
    ),
}
FAMILIES = pytest.mark.parametrize("family", MAKERS)


def make(family):
    torch.manual_seed(0)
    model = MAKERS[family]()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    return model.eval()


@torch.no_grad()
def answer(model):
    out = model(IMAGE)
    return out if isinstance(out, torch.Tensor) else out.logits


def views(model):
    (view,) = blocks.find(model).values()
    return view.blocks


def shifted(view, x, state, **context):
    """Run the block and add other tokens, so that a patch that does not run shows; count the blocks in the state."""
    count = 0 if state is None else state
    return blocks.run_block(view, x, **context) + count * x.roll(1, 1), count + 1


def patch(model):
    for view in views(model):
        blocks.patch(view, shifted)
    return model


def unpatch(model):
    for module in list(model.modules()):
        while blocks.patched_by(module):
            blocks.unpatch(module)
    return model


def same(a, b):
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


# --- hooks and forwards of what the pieces take apart -----------------------------------------------------------

HOOKS = {
    "forward hook": lambda module: module.register_forward_hook(lambda module, args, out: None),
    "forward pre-hook": lambda module: module.register_forward_pre_hook(lambda module, args: None),
    "backward hook": lambda module: module.register_full_backward_hook(lambda module, into, out: None),
    "backward pre-hook": lambda module: module.register_full_backward_pre_hook(lambda module, out: None),
}


@FAMILIES
def test_hooks_of_the_attention_are_refused_at_once_and_noticed_later(family):
    model = make(family)
    plain, attention = answer(model), views(model)[1].hidden[0]
    for add in HOOKS.values():
        hook = add(attention)
        with pytest.raises(NotSupported, match=r"1\.\w*att\w* has hooks, which a transform of .*1 would not call"):
            patch(model)
        hook.remove()
    patched = answer(patch(model))
    assert not torch.allclose(patched, plain)
    for add in HOOKS.values():
        hook = add(attention)
        with pytest.raises(NotSupported, match="has hooks"):
            answer(model)
        hook.remove()
    assert torch.equal(answer(model), patched)
    HOOKS["forward hook"](attention)
    assert torch.equal(answer(unpatch(model)), plain)


@FAMILIES
def test_a_forward_of_its_own_is_refused_at_once_and_noticed_later(family):
    model = make(family)
    plain, view = answer(model), views(model)[1]
    attention, own = view.hidden[0], view.hidden[0].forward
    for module, name in ((view.block, view.name), (attention, f"{view.name}.")):
        original = module.forward
        module.forward = lambda *args, original=original, **kwargs: original(*args, **kwargs)
        with pytest.raises(NotSupported, match=f"{name}.* has a forward of its own"):
            patch(model)
        module.forward = original  # bound to the module: as good as none
    patched = answer(patch(model))
    assert not torch.allclose(patched, plain)
    attention.forward = lambda *args, **kwargs: own(*args, **kwargs)
    with pytest.raises(NotSupported, match="has a forward of its own"):
        answer(model)
    assert torch.equal(answer(unpatch(model)), plain)


def test_the_idle_hooks_of_transformers_are_no_obstacle():
    model = make("transformers")
    plain = model(IMAGE, output_hidden_states=True).logits  # transformers adds hooks to all attentions
    assert views(model)[0].hidden[0]._forward_hooks
    hidden = patch(model)(IMAGE, output_hidden_states=True).hidden_states
    same(answer(model), model(IMAGE).logits)
    assert len(hidden) == 4
    assert torch.equal(answer(unpatch(model)), plain)


@FAMILIES
def test_hooks_of_blocks_and_of_layers_are_called(family):
    model, calls = make(family), []
    view = views(model)[1]
    linear = next(part for part in view.block.modules() if isinstance(part, nn.LayerNorm))
    for module in (view.block, linear):
        module.register_forward_hook(lambda *call: calls.append(call[0]))
    answer(patch(model))
    assert calls == [linear, view.block]


# --- classes ----------------------------------------------------------------------------------------------------


@FAMILIES
def test_an_attention_of_another_class_is_noticed(family):
    model = make(family)
    plain, attention = answer(model), views(patch(model))[1].hidden[0]
    base = type(attention)

    class LoRA(base):
        def forward(self, *args, **kwargs):
            out = super().forward(*args, **kwargs)
            return (2 * out[0], *out[1:]) if isinstance(out, tuple) else 2 * out

    attention.__class__ = LoRA
    with pytest.raises(NotSupported, match=r"a \w+ of .*1 became a .*LoRA after a transform was applied"):
        answer(model)
    adapted = answer(unpatch(model))
    assert not torch.allclose(adapted, plain)
    attention.__class__ = base
    assert torch.equal(answer(model), plain)


def test_an_attention_that_is_gone_is_noticed():
    model = patch(make("timm-vit"))
    model.blocks[1].attn = nn.Identity()
    with pytest.raises(NotSupported, match="changed after a transform was applied"):
        answer(model)


@FAMILIES
def test_parametrized_weights_count(family):
    class Half(nn.Module):
        def forward(self, weight):
            return weight / 2

    model = make(family)
    view = views(model)[1]
    holder = next(part for part in view.block.modules() if isinstance(part, nn.LayerNorm))
    parametrize.register_parametrization(holder, "weight", Half())
    plain = answer(model)
    patched = answer(patch(model))
    assert not torch.allclose(patched, plain)
    assert torch.equal(answer(unpatch(model)), plain)


def test_blocks_that_are_used_several_times_are_refused_and_a_model_with_two_names_is_found_once():
    model = make("timm-vit")
    model.blocks[2] = model.blocks[0]
    with pytest.raises(NotSupported, match=r"blocks.2 is the same module as blocks.0"):
        blocks.find(model)
    twice = nn.ModuleDict({"left": make("timm-vit")})
    twice["right"] = twice["left"]
    assert list(blocks.find(twice)) == ["left"]


# --- accelerate, torch.compile, torch.distributed ---------------------------------------------------------------


@FAMILIES
@pytest.mark.parametrize("order", ["dispatched first", "patched first"])
def test_models_that_accelerate_dispatched(family, order):
    model = make(family)
    plain, patched = answer(model), answer(patch(copy.deepcopy(model)))

    def dispatch():
        accelerate.dispatch_model(model, {"": "cpu"}, force_hooks=True)

    if order == "dispatched first":
        dispatch()
    patch(model)
    if order == "patched first":
        dispatch()
    same(answer(model), patched)
    same(answer(copy.deepcopy(model)), patched)
    same(answer(unpatch(model)), plain)
    same(answer(patch(model)), patched)
    accelerate.hooks.remove_hook_from_submodules(model)  # this leaves bound methods on the instances
    same(answer(model), patched)
    same(answer(unpatch(model)), plain)
    same(answer(patch(model)), patched)


@pytest.mark.parametrize("family", ["timm-vit", "transformers"])
def test_weights_that_accelerate_loads_for_each_call(family):
    model = make(family)
    plain, patched = answer(model), answer(patch(copy.deepcopy(model)))
    accelerate.cpu_offload(model, "cpu")
    assert next(model.parameters()).is_meta
    same(answer(patch(model)), patched)
    same(answer(unpatch(model)), plain)


def test_weights_that_accelerate_loads_for_the_attention_itself_are_refused():
    model = make("timm-eva")
    accelerate.cpu_offload(model, "cpu")
    with pytest.raises(NotSupported, match=r"blocks.0.attn has a forward of its own"):
        patch(model)
    assert not any(isinstance(module, blocks.Patched) for module in model.modules())


@pytest.mark.parametrize("family", ["timm-vit", "transformers"])
def test_blocks_compiled_after_the_patch(family):
    model = make(family)
    plain, patched = answer(model), answer(patch(model))
    torch._dynamo.reset()
    path, _, _ = views(model)[0].name.rpartition(".")
    holder = next(m for name, m in model.named_modules() if name.endswith(path))
    for name, block in list(holder.named_children()):
        setattr(holder, name, torch.compile(block, backend="eager"))
    same(answer(model), patched)
    same(answer(unpatch(model)), plain)
    with pytest.raises(NotSupported, match="is compiled already: apply transforms first, then compile"):
        patch(model)


def test_blocks_compiled_in_place():
    model = make("timm-vit")
    plain, patched = answer(model), answer(patch(copy.deepcopy(model)))
    torch._dynamo.reset()
    for block in model.blocks:
        block.compile(backend="eager")
    same(answer(model), plain)
    same(answer(patch(model)), patched)
    same(answer(unpatch(model)), plain)


@pytest.fixture(scope="module")
def process_group():
    """One process that takes part in torch.distributed alone."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@FAMILIES
@pytest.mark.parametrize("order", ["sharded first", "patched first"])
def test_sharded_blocks(process_group, family, order):
    model = make(family)
    plain, patched = answer(model), answer(patch(copy.deepcopy(model)))
    if order == "patched first":
        patch(model)
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    for view in views(model):
        fully_shard(view.block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    if order == "sharded first":
        patch(model)
    same(answer(model), patched)
    same(answer(unpatch(model)), plain)
    assert all(isinstance(view.block, FSDPModule) for view in views(model))
    same(answer(patch(model)), patched)
    same(answer(unpatch(model)), plain)


def test_a_sharded_attention_is_refused(process_group):
    model = make("timm-vit")
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    fully_shard(model.blocks[1].attn, mesh=mesh)
    with pytest.raises(NotSupported, match=r"blocks.1.attn has hooks"):
        patch(model)


def test_a_model_inside_ddp(process_group):
    model = make("timm-vit")
    plain, patched = answer(model), answer(patch(copy.deepcopy(model)))
    parallel = nn.parallel.DistributedDataParallel(model)
    same(answer(patch(parallel)), patched)
    parallel(IMAGE).sum().backward()
    assert model.blocks[0].attn.qkv.weight.grad.abs().sum() > 0
    same(answer(unpatch(parallel)), plain)


# --- LoRA -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["beit_base_patch16_224", "eva_giant_patch14_224", "vit_tiny_patch16_224"])
@pytest.mark.parametrize("separate", [False, True])
def test_adapters_of_the_projection_count_where_they_count_in_the_model(name, separate):
    class LoRALinear(nn.Linear):
        """As in peft: ``weight`` is the frozen one, and forward adds the adapter."""

        def forward(self, x):
            return super().forward(x) + x @ self.delta

    model = timm.create_model(name, **SIZE).eval()
    for block in model.blocks:
        block.attn.qkv_bias_separate = separate
        block.attn.qkv.__class__ = LoRALinear
        block.attn.qkv.delta = nn.Parameter(torch.randn(48, 144))
    x, view = torch.rand(2, 17, 48), views(model)[0]
    same(blocks.run_block(view, x), view.block(x))
