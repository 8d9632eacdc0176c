"""The conformance checks of timm's model interface: logits, classifier, features, and the maps of the stages."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from plm_core.blocks.recording import hooked
from plm_core.hookspecs import Model
from plm_core.models import create_model

TOLERANCE = 1e-5
"""Largest difference between two outputs that should be equal, relative to the largest value above one."""


def width_of(spec: Model, model: Any) -> int:
    """Return the width of a model's output: its classes, or that of the pooled features where it has none."""
    return spec.num_classes or _pooled_width(model)


def _pooled_width(model: Any) -> int:
    width: int = getattr(model, "head_hidden_size", model.num_features)
    return width


def check_heads(spec: Model, model: Any, x: Tensor) -> None:
    """Check the logits, the head on the features, other numbers of classes (also none), and other channels."""
    with torch.no_grad():
        out = model(x)
        assert out.shape == (2, width_of(spec, model)), f"forward returns {list(out.shape)}"
        features = model.forward_features(x)
        same(model.forward_head(features), out, "forward_head(forward_features(x)) and forward(x)")
        pooled = model.forward_head(features, pre_logits=True)
        pooled_shape = (2, _pooled_width(model))
        assert pooled.shape == pooled_shape, (
            f"forward_head(pre_logits=True) returns {list(pooled.shape)}, {list(pooled_shape)} is expected"
        )
        for classes in (0, 7):
            other = create_model(spec.name, num_classes=classes).eval()
            shape, expected = list(other(x).shape), [2, classes or pooled_shape[1]]
            hint = "" if classes else " (without classes the head's classifier is an identity)"
            assert shape == expected, f"num_classes={classes} returns {shape}, {expected} is expected{hint}"
            assert other.num_classes == classes, f"num_classes={classes} leaves {other.num_classes}"
            reset = copy.deepcopy(model)
            reset.reset_classifier(classes)
            assert reset.num_classes == classes, f"reset_classifier({classes}) leaves num_classes {reset.num_classes}"
            assert reset(x).shape == other(x).shape, f"reset_classifier({classes}) returns {list(reset(x).shape)}"
            reset.reset_classifier(classes, None)  # timm's second argument is the pooling, None for no change
            again = list(reset(x).shape)
            assert again == expected, f"reset_classifier({classes}, None) returns {again}, {expected} is expected"
        channels = x.shape[1] + 1
        wider = torch.rand(x.shape[0], channels, *x.shape[2:])
        assert create_model(spec.name, in_chans=channels).eval()(wider).shape == out.shape, "in_chans is not honoured"


def check_features(spec: Model, model: Any, x: Tensor) -> None:
    """Check that ``features_only`` and ``forward_intermediates`` return the same maps, in the declared shapes."""
    backbone: Any = create_model(spec.name, features_only=True).eval()
    with torch.no_grad():
        maps = backbone(x)
        channels, reductions = backbone.feature_info.channels(), backbone.feature_info.reduction()
        expected = [(2, c, *(side // r for side in x.shape[-2:])) for c, r in zip(channels, reductions, strict=True)]
        shapes = [(*m.shape[:2], *m.shape[-2:]) for m in maps]  # a video model may also reduce time
        assert shapes == expected, f"features_only returns {[list(m.shape) for m in maps]}"
        both = model.forward_intermediates(x)
        assert isinstance(both, tuple), "forward_intermediates(x) must return (final, [maps])"
        final, all_maps = both
        same(model.forward_head(final), model(x), "the head on forward_intermediates' last output and forward(x)")
        early = model.forward_intermediates(x, indices=[0], stop_early=True, intermediates_only=True)
        call = "forward_intermediates(x, indices=[0], stop_early=True, intermediates_only=True)"
        assert isinstance(early, list), f"{call} must return a list of maps"
        assert len(early) == 1, f"{call} returns {len(early)} maps"
        same(early[0], all_maps[0], "a map with and without stop_early")
        _check_modules(model, x)
        _check_norm(model, x, final, all_maps[-1])
        backbone.model.load_state_dict(model.state_dict(), strict=False)
        for here, there in zip(backbone(x), [all_maps[i] for i in spec.out_indices], strict=True):
            same(here, there, "a map of features_only and of forward_intermediates")


def _check_norm(model: Any, x: Tensor, final: Tensor, raw: Tensor) -> None:
    """Check that ``norm=True`` gives the map of the last stage as it is in the final output, if that is normalized.

    Args:
        model: The model.
        x: Its input.
        final: The final output of ``forward_intermediates``.
        raw: The last map without ``norm``, [B, C, *grid].
    """
    normed = model.forward_intermediates(x, indices=1, norm=True, intermediates_only=True)[0]
    assert normed.shape == raw.shape, f"norm=True returns {list(normed.shape)}"
    expected = _as_map(final, raw)
    if expected is not None and not raw.is_meta and not torch.allclose(expected, raw, atol=TOLERANCE):
        same(normed, expected, "the last map with norm=True and the final output of forward_intermediates")


def _check_modules(model: Any, x: Tensor) -> None:
    """Check that each map is what the module returns that ``feature_info`` names for it."""
    outputs: dict[str, Any] = {}
    modules = dict(model.named_modules())
    paths = [info["module"] for info in model.feature_info]
    for path in paths:
        assert path in modules, f"feature_info names the module {path!r}, which {type(model).__name__} does not have"

    def listener(path: str) -> Any:
        def listen(module: nn.Module, args: Any, kwargs: Any, y: Any) -> None:
            outputs[path] = y

        return listen

    with ExitStack() as stack:
        for path in paths:
            stack.enter_context(hooked(modules[path], listener(path)))
        maps = model.forward_intermediates(x, intermediates_only=True)
    assert len(maps) == len(paths), f"forward_intermediates returns {len(maps)} maps, feature_info has {len(paths)}"
    for number, (path, feature_map) in enumerate(zip(paths, maps, strict=True)):
        assert path in outputs, f"feature_info names the module {path!r}, which forward_intermediates does not call"
        what = f"map {number} of forward_intermediates and what its module {path!r} returns"
        _check_map(feature_map, outputs[path], what)


def _check_map(feature_map: Tensor, output: Tensor, what: str) -> None:
    """Check that a map is what a module returns, in the same places, or in those that windows give its patches."""
    expected = _as_map(output, feature_map)
    if expected is None or not _equal(expected, feature_map):
        if _in_windows(feature_map, output):
            return
        assert expected is not None, (
            f"{what} differ: {list(feature_map.shape)} and {list(output.shape)}, and the patches are not in windows"
        )
        same(feature_map, expected, what)


def _as_map(output: Tensor, like: Tensor) -> Tensor | None:
    """Return an output as a map [B, C, *grid]; None if it has another form than the three that are known.

    These are that of a map, [B, *grid, C], and tokens [B, N, C] whose last ones are the patches.
    """
    channels_first = [output] if output.shape == like.shape else []
    if output.ndim == like.ndim and output.movedim(-1, 1).shape == like.shape:
        channels_last = output.movedim(-1, 1)
        return next((m for m in channels_first if _equal(m, like)), channels_last)
    if channels_first:
        return output
    patches = math.prod(like.shape[2:])
    if output.ndim == 3 and output.shape[1] >= patches and output.shape[2] == like.shape[1]:
        return output[:, output.shape[1] - patches :].transpose(1, 2).reshape(like.shape)
    return None


def _in_windows(feature_map: Tensor, output: Tensor) -> bool:
    """Return whether an output has the patches of a map [B, C, *grid] window by window.

    It is [B, windows, patches of a window, C], or these tokens in a row, [B, N, C], where the windows may also come
    last. All windows are boxes of one shape, stand in row-major order, and have the same order of patches inside, by
    digits. On the meta device only the numbers are compared.
    """
    ours, theirs = feature_map.flatten(2).transpose(1, 2), output.flatten(1, -2)
    if ours.shape != theirs.shape or output.ndim > 4:
        return False
    if ours.is_meta or theirs.is_meta:
        return True
    places = ours[0, :, 0].argsort()[theirs[0, :, 0].argsort().argsort()]  # of each row of theirs among ours
    if not _equal(ours[:, places], theirs):
        return False
    grid, number = feature_map.shape[2:], len(places)
    if output.ndim == 4:
        return _fill_boxes(places.view(output.shape[1], output.shape[2]), grid)
    divisors = [n for n in range(2, number) if number % n == 0]
    return any(_fill_boxes(order, grid) for n in divisors for order in (places.view(n, -1), places.view(-1, n).T))


def _fill_boxes(windows: Tensor, grid: Sequence[int]) -> bool:
    """Return whether the places in each row of ``windows``, [windows, patches], are a box of a grid, as they must be.

    A box is one patch, or has two sides longer than that if the grid has: a row or a column of the grid is no window.
    """
    coordinates = torch.stack(torch.unravel_index(windows, tuple(grid)), -1)
    corners = coordinates.amin(1)
    inside = coordinates - corners[:, None]
    sides = (inside.amax((0, 1)) + 1).tolist()
    strides = torch.tensor([math.prod(grid[i + 1 :]) for i in range(len(grid))])
    return (
        bool((inside == inside[0]).all())
        and math.prod(sides) == windows.shape[1]
        and bool(((corners * strides).sum(-1).diff() > 0).all())
        and (sides.count(1) == len(sides) or _wide(sides) >= min(2, _wide(grid)))
        and _is_by_digits(inside[0], sides)
    )


def _wide(sides: Sequence[int]) -> int:
    return sum(side > 1 for side in sides)


def _is_by_digits(order: Tensor, sides: Sequence[int]) -> bool:
    """Return whether coordinates, [patches, dimensions], are in an order by their digits in some base.

    So are row-major order and that of `hiera.tokens`, while mirrored, transposed and random orders are not: the number
    of a patch is a sum of one number for each of its coordinates, and a step along an earlier one is longer.
    """
    numbers = torch.zeros(*sides, dtype=torch.int64)
    numbers[tuple(order.T)] = torch.arange(len(order))
    axes = [numbers.movedim(i, -1).reshape(-1, side)[0] for i, side in enumerate(sides)]
    steps = [int(axis[1]) for axis in axes if len(axis) > 1]
    sums = torch.stack(torch.meshgrid(*axes, indexing="ij")).sum(0)
    return bool((sums == numbers).all()) and steps == sorted(steps, reverse=True)


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and (a.is_meta or b.is_meta or torch.allclose(a, b, atol=TOLERANCE))


def same(a: Tensor, b: Tensor, what: str, exact: bool = False) -> None:
    """Check that two tensors are the same up to rounding, or exactly. On the meta device only shapes are compared."""
    assert a.shape == b.shape, f"{what} differ in shape: {list(a.shape)} and {list(b.shape)}"
    if not a.is_meta and not b.is_meta:
        worst = (a.double() - b.double()).abs().max().item() if a.numel() else 0.0
        scale = 1.0 if exact else max(1.0, b.double().abs().max().item())
        assert worst <= (0.0 if exact else TOLERANCE * scale), f"{what} differ by up to {worst:.3g}"
