"""Random sequences of applying, removing and other changes: afterwards a model answers as one never touched."""

import copy
import pickle
import random

import accelerate
import pytest
import timm
import torch
import torchvision
from torch import nn

import plm_core
import tome
from plm_core import blocks
from plm_core.adapters import transformers as transformers_adapters

IMAGE = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
SIZE = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3, "num_classes": 5}
HF = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 48}
MAKERS = (
    lambda: timm.create_model("vit_tiny_patch16_224", **SIZE),
    lambda: timm.create_model("eva02_tiny_patch14_224", **SIZE),
    lambda: torchvision.models.VisionTransformer(32, 8, 3, 3, 24, 48, num_classes=5),
    lambda: transformers_adapters.example("ViTForImageClassification", **HF, image_size=32, patch_size=8),
)
CLOSE = {"atol": 1e-4, "rtol": 1e-4}


def make(which):
    torch.manual_seed(which)
    model = MAKERS[which]()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    return model.eval()


@torch.no_grad()
def answer(model):
    out = model(IMAGE)
    return out if isinstance(out, torch.Tensor) else out.logits


def parts(model):
    """The second block of a model and its attention."""
    holder = next(m for m in model.modules() if isinstance(m, nn.ModuleList | nn.Sequential) and len(m) == 3)
    block = holder[1]
    names = ("attn", "self_attention", "attention")
    return block, next(getattr(block, name) for name in names if hasattr(block, name))


def doubled(out):
    return (2 * out[0], *out[1:]) if isinstance(out, tuple) else 2 * out


class Doubled:
    """A mixin that stands for what adapters of LoRA do to a class."""

    def forward(self, *args, **kwargs):
        return doubled(super().forward(*args, **kwargs))


# Each changes a model in place, and a second call may take the change back.


def hook(module):
    handle = vars(module).pop("drill_hook", None)
    if handle:
        handle.remove()
    else:
        vars(module)["drill_hook"] = module.register_forward_hook(lambda module, args, out: doubled(out))


def replace_forward(module):
    if "drill_forward" in vars(module):
        module.forward = vars(module).pop("drill_forward")
    elif "_hf_hook" not in vars(module):
        original = vars(module)["drill_forward"] = module.forward
        module.forward = lambda *args, **kwargs: doubled(original(*args, **kwargs))


def exchange_class(module):
    if "_hf_hook" in vars(module):  # accelerate keeps the forward of the class that it found
        return
    if isinstance(module, Doubled):
        module.__class__ = vars(module).pop("drill_class")
    elif not isinstance(module, blocks.Patched):
        cls = vars(module)["drill_class"] = type(module)
        module.__class__ = type(f"LoRA{cls.__name__}", (Doubled, cls), {})


CHANGES = {
    "hook a block": lambda model: hook(parts(model)[0]),
    "hook an attention": lambda model: hook(parts(model)[1]),
    "hook a linear layer": lambda model: hook(
        next(m for m in parts(model)[0].modules() if isinstance(m, nn.LayerNorm))
    ),
    "replace the forward of a block": lambda model: replace_forward(parts(model)[0]),
    "replace the forward of an attention": lambda model: replace_forward(parts(model)[1]),
    "exchange the class of an attention": lambda model: exchange_class(parts(model)[1]),
    "scale weights": lambda model: [p.data.mul_(1.01) for p in parts(model)[0].parameters()],
    "dispatch": lambda model: accelerate.dispatch_model(model, {"": "cpu"}, force_hooks=True),
    "undo the dispatch": lambda model: accelerate.hooks.remove_hook_from_submodules(model),
    "half way to half precision": lambda model: model.double().float(),
}
OURS = {
    "apply": lambda model: tome.apply(model, r=0),
    "apply by name": lambda model: plm_core.apply(model, "tome", r=0),
    "remove": tome.remove,
    "remove by name": plm_core.remove,
    "apply for a while": lambda model: tome.applied(model, r=2).__enter__() and tome.remove(model),
    "merge": lambda model: answer(tome.apply(model, r=3)),
}
COPIES = {"copy": copy.deepcopy, "pickle": lambda model: pickle.loads(pickle.dumps(model))}


def merging(model):
    return any(isinstance(module, blocks.Patched) for module in model.modules())


@pytest.mark.filterwarnings("ignore:Token Merging was applied")
@pytest.mark.trials(short=8, long=1500)
def test_sequences(drill, trials):
    for trial in range(trials):
        choose = random.Random(trial)
        touched = make(trial % len(MAKERS))
        untouched, steps = copy.deepcopy(touched), []
        for _ in range(choose.randint(2, 7)):
            step = choose.choice([*CHANGES, *OURS, *OURS])
            steps.append(step)
            if step in OURS:
                drill.attempt(steps, lambda step=step, model=touched: OURS[step](model))
                if step == "merge" and merging(touched):
                    tome.remove(touched)
            else:
                for model in (touched, untouched):
                    CHANGES[step](model)
            expected = answer(untouched)
            actual = drill.attempt((trial, steps), lambda model=touched: answer(model))
            if not isinstance(actual, Exception):
                drill.expect((trial, steps), torch.allclose(actual, expected, **CLOSE), "another answer at r=0")
            else:
                drill.expect((trial, steps), merging(touched), "an error without a transform")
        plm_core.remove(touched)
        drill.expect((trial, steps), not merging(touched), "still patched")
        drill.expect((trial, steps), torch.allclose(answer(touched), answer(untouched), **CLOSE), "another answer")


@pytest.mark.filterwarnings("ignore:Token Merging was applied")
@pytest.mark.trials(short=1, long=200)
def test_copies_and_compiled_blocks(drill, trials):
    for trial in range(trials):
        choose = random.Random(trial)
        model = make(trial % len(MAKERS))
        plain = answer(model)
        name, copied = choose.choice(list(COPIES.items()))
        twin = copied(tome.apply(model, r=choose.randint(0, 6)))
        torch._dynamo.reset()
        for module in list(model.modules()):
            if isinstance(module, blocks.Patched):
                module.compile(backend="eager")
        merged = drill.attempt((trial, "compiled"), lambda model=model: answer(model))
        drill.expect((trial, name), torch.allclose(answer(twin), merged, **CLOSE), "a copy merges otherwise")
        for each in (model, twin):
            tome.remove(each)
            drill.expect((trial, name), torch.allclose(answer(each), plain, **CLOSE), "another answer after remove")
