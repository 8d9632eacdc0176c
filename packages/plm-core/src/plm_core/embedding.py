"""The pooled embedding of a model: one vector per input, the one that the model's own classifier receives."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from plm_core.errors import InputError, NotSupported
from plm_core.hookspecs import BlockAdapter
from plm_core.registry import registry
from plm_core.sources.torchvision import Origin, is_classifier_of_torchvision
from plm_core.sources.transformers import is_of_transformers
from plm_core.utils.references import resolve


def embed(model: Any, x: Tensor) -> Tensor:
    """Return the pooled embedding of a batch, [B, D]: the classifier's input.

    Which model gives it, the first of these decides:

    - the block adapter that is declared for the model's class, if it says how (`BlockAdapter.embed`)
    - timm's interface, as ``forward_head(forward_features(x), pre_logits=True)``
    - the classifier of a model of torchvision or transformers: what it receives is kept on its way through the model
    - the image tower of a model of transformers that compares images and texts (CLIP, SigLIP): its projected embedding
    - the block adapter of the one model inside this one, on the input that it receives there

    Args:
        model: The model, in eval mode for repeatable results.
        x: Preprocessed inputs, usually images [B, C, H, W]. A video or audio model has its own shape.

    Raises:
        NotSupported: The model has no pooled embedding, or was made to return its tokens or maps without pooling.
        InputError: ``model`` is no model, or ``x`` no tensor.

    Example:
        >>> import plm_core
        >>> import torch
        >>> model = plm_core.create_model("hiera_micro_digits", pretrained=True).eval()
        >>> plm_core.embed(model, torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 96])
    """
    _check(model, x)
    pooled: Tensor
    if (declared := _declared(model)) is not None:
        pooled = resolve(declared)(model, x)
    elif _has_timm_interface(model):
        pooled = model.forward_head(model.forward_features(x), pre_logits=True)
    else:
        pooled = _embed_by_parts(model, x)
    return _one_vector_each(pooled, model)


def embed_and_classify(model: Any, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the embedding of a batch, [B, D], and the output of the model's classifier, [B, S], from one pass.

    The logits are None for a model without a classifier, and for one whose classifier `embed` does not reach.

    Raises:
        NotSupported, InputError: See `embed`.
    """
    _check(model, x)
    if _declared(model) is None and _has_timm_interface(model):
        features = model.forward_features(x)
        pooled = _one_vector_each(model.forward_head(features, pre_logits=True), model)
        return pooled, None if getattr(model, "num_classes", None) == 0 else model.forward_head(features)
    outputs: list[Any] = []
    handle = model.register_forward_hook(lambda module, args, output: outputs.append(output))
    try:
        pooled = embed(model, x)
    finally:
        handle.remove()
    return pooled, logits_of(outputs[-1]) if outputs else None


def logits_of(output: Any) -> Tensor | None:
    """Return the logits in the output of a classifier of torchvision or transformers, or None if there are none."""
    logits = output.get("logits") if isinstance(output, Mapping) else output
    return logits if isinstance(logits, Tensor) else None


def watch(part: nn.Module, model: nn.Module, x: Tensor) -> tuple[tuple[Tensor, Tensor] | None, Any]:
    """Run a model and watch one of its parts.

    Returns:
        The first input of the part with its output, or None if it was not called, and the output of the model.
    """
    calls: list[tuple[Tensor, Tensor]] = []
    thread = threading.get_ident()

    def keep(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if threading.get_ident() == thread:  # another thread may run the same model at the same time
            calls.append((args[0], output))

    handle = part.register_forward_hook(keep)
    try:
        result = model(x)
    finally:
        handle.remove()
    return calls[-1] if calls else None, result


def _check(model: object, x: object) -> None:
    if not isinstance(model, nn.Module):
        raise InputError(f"model is a {type(model).__name__}; a model (torch.nn.Module) is needed")
    if not isinstance(x, Tensor):
        raise InputError(f"x is a {type(x).__name__}; a tensor of preprocessed inputs is needed")


def _one_vector_each(pooled: Tensor, model: object) -> Tensor:
    """[B, D] or [B, D, 1, 1] -> [B, D]. Tokens and maps are refused, because there are several ways to pool them."""
    if pooled.ndim > 2 and pooled.shape[2:].numel() > 1:
        raise NotSupported(
            f"model {type(model).__name__} gives {list(pooled.shape)}, tokens or maps that are not pooled; create it "
            "with a pooling, such as global_pool='avg' or global_pool='token' for a model of timm"
        )
    return pooled.flatten(1)


def _declared(model: object) -> str | None:
    """Return the function that a block adapter declares for the embedding of a model of this class, or None."""
    return next((a.embed for a in registry().for_class(BlockAdapter, model) if a.embed is not None), None)


def _has_timm_interface(model: object) -> bool:
    return hasattr(model, "forward_features") and hasattr(model, "forward_head")


def _embed_by_parts(model: Any, x: Tensor) -> Tensor:
    if (projected := _by_image_tower(model, x)) is not None:
        return projected
    if (classifier := _classifier(model)) is not None:
        call, result = watch(classifier, model, x)
        if call is not None and logits_of(result) is call[1] and call[1].ndim == 2:
            return call[0]
    inside = list(_outermost(model))
    if len(inside) == 1:
        return _embed_inside(model, inside[0], x)
    raise NotSupported(
        f"model {type(model).__name__} has no pooled embedding: it has neither timm's forward_features and "
        "forward_head, nor a block adapter that says how, nor a linear classifier of torchvision or transformers"
    )


def _by_image_tower(model: Any, x: Tensor) -> Tensor | None:
    """Return the projected embedding of CLIP, SigLIP and their like, or None for any other model."""
    if callable(getattr(model, "encode_image", None)):  # open_clip's, and our own
        pooled = model.encode_image(x)
    elif hasattr(model, "get_image_features"):
        pooled = model.get_image_features(x).pooler_output
    elif hasattr(model, "visual_projection"):
        pooled = model(x).image_embeds
    else:
        return None
    return pooled if isinstance(pooled, Tensor) and pooled.ndim == 2 else None


def _classifier(model: nn.Module) -> nn.Module | None:
    """Return the part that turns the embedding into logits, for a model of a library where that is known."""
    if isinstance(origin := getattr(model, "plm_origin", None), Origin):
        return model.get_submodule(origin.classifier) if origin.classifier else None
    if is_of_transformers(model) and isinstance(named := getattr(model, "classifier", None), nn.Module):
        return named
    if is_of_transformers(model) or is_classifier_of_torchvision(model):
        return next((part for part in reversed(list(model.modules())) if isinstance(part, nn.Linear)), None)
    return None


def _outermost(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the models inside this one for which an embedding is declared, but none that is inside such a model."""
    for child in model.children():
        if _declared(child) is None:
            yield from _outermost(child)
        else:
            yield child


class _Reached(Exception):
    """The input of the model inside is known, so the rest of the pass is not needed."""


def _embed_inside(model: nn.Module, inside: nn.Module, x: Tensor) -> Tensor:
    """Return the embedding by the model inside, for the input that it receives when the whole model runs."""
    inputs: list[Tensor] = []

    def stop(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        inputs.append(args[0] if args else kwargs[getattr(inside, "main_input_name", "x")])
        raise _Reached

    handle = inside.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        model(x)
    except _Reached:
        pass
    finally:
        handle.remove()
    if not inputs:
        raise NotSupported(f"model {type(model).__name__} does not run the {type(inside).__name__} inside it")
    pooled: Tensor = resolve(str(_declared(inside)))(inside, inputs[0])
    return pooled
