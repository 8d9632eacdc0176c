"""The view of a model, through the adapter that is declared for its class."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from plm_core.blocks.changes import refuse_changes
from plm_core.blocks.patching import altered
from plm_core.blocks.refusals import reason_of
from plm_core.blocks.views import BlockView, ModelView
from plm_core.errors import NotSupported, PlmError, PluginError
from plm_core.hookspecs import BlockAdapter
from plm_core.registry import registry
from plm_core.utils.references import resolve
from plm_core.utils.text import describe


def view(model: nn.Module) -> ModelView:
    """Return the view of a model, made by the adapter that is declared for its class, with what `alter` changed.

    Raises:
        NotSupported: No adapter is declared for the class, the adapter refuses this instance and gives the reason, or
            something was added to the model that pieces of its blocks would leave out, see `refuse_changes`.
        PluginError: The adapter does not return a view.
    """
    adapters = registry().for_class(BlockAdapter, model)
    if not adapters:
        raise NotSupported(reason_of(model))
    for path, part in model.named_modules():
        compiled = [name for name, child in part.named_children() if "_orig_mod" in child._modules]
        if compiled and isinstance(part, nn.ModuleList | nn.Sequential):
            raise NotSupported(f"block {path}.{compiled[0]} is compiled already: apply transforms first, then compile")
    model_view = _made(adapters[0], model)
    refuse_changes(model_view)
    return replace(model_view, blocks=tuple(map(altered, model_view.blocks)))


def _made(adapter: BlockAdapter, model: nn.Module) -> ModelView:
    """Let an adapter make the view of a model, and check its form.

    Raises:
        PluginError: The view function fails, or returns something else than a view.
    """
    who = f"block adapter {adapter.name!r}"
    try:
        model_view = resolve(adapter.view)(model)
        if not isinstance(model_view, ModelView):
            raise PluginError(f"{who}: {adapter.view} returns a {type(model_view).__name__}; a ModelView is expected")
        if not isinstance(model_view.blocks, tuple) or not all(isinstance(b, BlockView) for b in model_view.blocks):
            raise PluginError(
                f"{who}: blocks of its view are {_kinds(model_view.blocks)}; a tuple of BlockView is expected"
            )
        for b in model_view.blocks:
            shown = b.view_of(b.block)
            if not isinstance(shown, BlockView) or shown.block is not b.block:
                came = "another block" if isinstance(shown, BlockView) else f"a {type(shown).__name__}"
                raise PluginError(f"{who}: view_of of {b.name} returns {came}; a BlockView of its argument is expected")
    except PlmError:
        raise
    except Exception as e:  # an adapter may fail in any way
        raise PluginError(f"{who} fails on {type(model).__name__}: {describe(e)}") from e
    return model_view


def _kinds(blocks: object) -> str:
    kinds = {type(b).__name__ for b in blocks} if isinstance(blocks, list | tuple) else set()
    return f"a {type(blocks).__name__}" + (f" of {', '.join(sorted(kinds))}" if kinds else "")


def find(model: nn.Module) -> dict[str, ModelView]:
    """Find the view of a model, or the views of the outermost models inside it that have one.

    This reaches a vision tower inside a larger model, and the model inside a wrapper such as timm's ``features_only``.

    Returns:
        The views by dotted path; the path of ``model`` itself is "".

    Raises:
        NotSupported: Neither the model nor anything inside it has an adapter, or an adapter refuses its model. The
            message names the class, and gives the reason or models that have a view.
    """
    views: dict[str, ModelView] = {}
    searched: set[nn.Module] = set()

    def search(module: nn.Module, path: str) -> None:
        if module in searched:  # a module with two names
            return
        searched.add(module)
        if registry().for_class(BlockAdapter, module):
            views[path] = view(module)
        else:
            for name, child in module.named_children():
                search(child, f"{path}.{name}" if path else name)

    search(model, "")
    if not views:
        raise NotSupported(reason_of(model))
    return views
