"""Copies, threads, replaced forwards, gradients and compiled graphs."""

import copy
import pickle
import threading
from types import SimpleNamespace

import pytest
import torch

import tome
from plm_core.errors import InputError, NotSupported

from .tiny_models import TokenCounter, call, inputs, transformer, unet


def test_models_whose_forward_was_replaced_are_merged():
    """accelerate replaces forwards for offloading."""
    from accelerate.hooks import ModelHook, add_hook_to_module

    model, args = unet(), inputs()
    for module in model.modules():
        add_hook_to_module(module, ModelHook())
    attention = TokenCounter(model, ".attn1.to_q")
    tome.diffusion.apply(model, seed=0)
    assert set(attention.during(lambda: call(model, *args))) == {32}


COPIES = {"deep copy": copy.deepcopy, "pickle": lambda model: pickle.loads(pickle.dumps(model))}


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_copies_merge_by_themselves(copied):
    model, args = unet(), inputs()
    plain = call(model, *args)
    tome.diffusion.apply(model, seed=0, reuse_steps=2)
    call(model, *args)
    twin = copied(model)
    expected = [call(model, *args) for _ in range(3)]
    tome.diffusion.remove(model)
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    for out in expected:  # the copy has the generator state and the matchings at that moment
        assert torch.equal(call(twin, *args), out)
    tome.diffusion.remove(twin)
    assert torch.equal(call(twin, *args), plain)


def test_two_models_in_two_threads():
    models, args = [unet(0), unet(1)], inputs()

    def outs(model, seed):
        tome.diffusion.apply(model, seed=seed)
        return [call(model, *args) for _ in range(5)]

    expected = [outs(model, seed) for seed, model in enumerate(models)]
    for model in models:
        tome.diffusion.remove(model)
    got = {}
    threads = [threading.Thread(target=lambda i=i: got.update({i: outs(models[i], i)})) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(2):
        assert all(map(torch.equal, got[i], expected[i]))


@pytest.mark.parametrize(
    "options", [{"merge_mlp": True}, {"ratio": (0.75, 0), "share": True}, {"reuse_steps": 2}], ids=str
)
def test_gradients_are_those_of_recomputed_blocks(options):
    """Checkpointed blocks run a second time in backward, and must then merge the tokens of their first call."""
    model, (sample, _, text) = unet(), inputs()
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.enable_gradient_checkpointing()
        model.train()
        model.zero_grad()
        tome.diffusion.apply(model, seed=0, **options)
        losses = [model(sample + i, t, text).sample.square().sum() for i, t in enumerate((900, 800, 0))]
        call(model, -sample, 950, text)
        sum(losses).backward()
        tome.diffusion.remove(model)
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    plain, recomputed = gradients
    assert plain["down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight"].abs().sum() > 0
    assert plain.keys() == recomputed.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(recomputed[name], gradient, msg=name)


@pytest.mark.parametrize("what", ["model", "reentrant", "attention"])
def test_what_cannot_be_recomputed_is_refused(what):
    """An error is better than gradients of other tokens."""
    from torch.utils.checkpoint import checkpoint

    model, args = unet().train(), inputs()
    run = model
    if what == "model":
        message = "UNet2DConditionModel is recomputed in backward"
        run = lambda *args: checkpoint(model, *args, use_reentrant=False)  # noqa: E731
    elif what == "reentrant":
        message = "checkpoint single blocks, with use_reentrant=False"
        model.enable_gradient_checkpointing(lambda block, *args: checkpoint(block, *args, use_reentrant=True))
    else:
        message = r"a part of down_blocks\.0\.attentions\.0\.transformer_blocks\.0 is recomputed"
    tome.diffusion.apply(model, seed=0)
    if what == "attention":
        block = model.down_blocks[0].attentions[0].transformer_blocks[0]
        attention = block.attn1
        block.attn1 = Checkpointed(attention)
    loss = run(*args).sample.sum()
    with pytest.raises(NotSupported, match=message):
        loss.backward()


class Checkpointed(torch.nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, *args, **kwargs):
        return torch.utils.checkpoint.checkpoint(self.inner, *args, use_reentrant=False, **kwargs)


def test_compiled_models():
    model, text = transformer(), torch.randn(2, 5, 12)
    steps = [torch.randn(2, 16, 6, 8) for _ in range(2)]
    plain = call(model, steps[0], text)
    tome.diffusion.apply(model, seed=0)
    expected = [call(model, x, text) for x in steps]
    tome.diffusion.remove(model)
    tome.diffusion.apply(model, seed=0)
    compiled = torch.compile(model, backend="aot_eager")
    for x, out in zip(steps, expected, strict=True):
        torch.testing.assert_close(call(compiled, x, text), out)
    message = "Transformer2DModel is compiled already: apply Token Merging first, then compile"
    for apply, late in ((tome.apply, compiled), (tome.diffusion.apply, SimpleNamespace(unet=compiled))):
        with pytest.raises(NotSupported, match=message):
            apply(late, ratio=0.5)
    with pytest.raises(InputError, match=r"write ratio=0\.5"):
        tome.apply(compiled, 0.5)
    assert tome.remove(compiled) is compiled
    torch.testing.assert_close(call(compiled, steps[0], text), plain)
    model.transformer_blocks[0].compile(backend="eager")
    with pytest.raises(NotSupported, match="is compiled already"):
        tome.diffusion.apply(model)
    torch.compiler.reset()
