"""What other libraries add to the modules of a model, and whether a transform of its blocks leaves it out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from plm_core.blocks.swapping import forward_class, is_own_method
from plm_core.blocks.views import BlockView, ModelView
from plm_core.errors import NotSupported


def refuse_changes(model_view: ModelView) -> None:
    """Check that every block of a model can be patched, and that its patch would leave nothing out.

    Raises:
        NotSupported: A block is used several times, is compiled, has a forward of its own, or has a hidden module that
            was changed, see `refuse_hidden`.
    """
    names: dict[nn.Module, str] = {}
    for view in model_view.blocks:
        if names.setdefault(view.block, view.name) != view.name:
            raise NotSupported(
                f"{view.name} is the same module as {names[view.block]}; a transform needs blocks that are used once"
            )
        if _other_forward(view.block):
            raise NotSupported(
                f"{view.name} has a forward of its own, which a transform would not call: restore the forward of its "
                "class and apply the transform first"
            )
        refuse_hidden(view)


def refuse_hidden(view: BlockView) -> None:
    """Check that the pieces of a block leave out nothing that its own forward calls.

    Raises:
        NotSupported: A module that the pieces take apart has hooks or a forward of its own.
    """
    for module in view.hidden:
        if any(_active_hooks(module)):
            change = "hooks"
        elif _other_forward(module) or _loads_weights(module):
            change = "a forward of its own"
        else:
            continue
        path = next((f".{name}" for name, part in view.block.named_modules() if part is module), "")
        raise NotSupported(
            f"{view.name}{path} has {change}, which a transform of {view.name} would not call; the transform does "
            "call those of the block and of the linear layers"
        )


def refuse_exchanged(view: BlockView, kinds: tuple[type[nn.Module], ...]) -> None:
    """Check that the hidden modules of a block have the classes that they had when the block was patched.

    Raises:
        NotSupported: A module has another class.
    """
    for module, kind in zip(view.hidden, kinds, strict=True):
        if type(module) is not kind and forward_class(module) is not kind:
            raise NotSupported(
                f"a {kind.__name__} of {view.name} became a {type(module).__module__}.{type(module).__name__} after a "
                "transform was applied, and the transform would not call it: remove the transform first"
            )


def _active_hooks(module: nn.Module) -> Iterator[Any]:
    """Yield the hooks of a module, but for those of transformers, which are idle unless attentions are asked for."""
    for hooks in (
        module._forward_pre_hooks,
        module._forward_hooks,
        module._backward_pre_hooks,
        module._backward_hooks,
    ):
        for hook in hooks.values():
            if hook.__module__ != "transformers.utils.output_capturing":
                yield hook


def _other_forward(module: nn.Module) -> bool:
    """Return whether a module has a forward other than its class's, or accelerate's around that one."""
    forward = module.__dict__.get("forward")
    kept = module.__dict__.get("_old_forward") if "_hf_hook" in module.__dict__ else forward
    return forward is not None and not is_own_method(module, kept)


def _loads_weights(module: nn.Module) -> bool:
    """Return whether accelerate's wrapper does more than move the input to the device of the module."""
    return getattr(module.__dict__.get("_hf_hook"), "offload", "_hf_hook" in module.__dict__)
