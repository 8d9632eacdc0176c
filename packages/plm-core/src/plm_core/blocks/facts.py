"""The facts of a model's view, held to what the model does: its tokens, positions, heads and blocks."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from plm_core.blocks.recording import Call, Input, Run, equal, is_training, record, steps_of
from plm_core.blocks.swapping import forward_class
from plm_core.blocks.views import BlockView, ModelView, run_block


def check_order(view: ModelView, run: Run) -> None:
    """Check that the view shows the blocks that ran, all of them, in their order.

    Raises:
        AssertionError: A block is left out, or comes before one that runs earlier.
    """
    names = {b.block: b.name for b in view.blocks}
    for part in run.blocks:
        same = any(forward_class(part) is forward_class(block) for block in names)
        name = next(name for name, module in view.model.named_modules() if module is part)
        assert part in names or not same, f"the view leaves out {name}, which the model calls"
    ran = [names[part] for part in run.blocks if part in names]
    for shown, called in zip([b.name for b in view.blocks], ran, strict=True):
        assert shown == called, f"the view shows {shown} where the model calls {called}"


def check_block(view: BlockView, call: Call) -> None:
    """Check the facts of one block.

    Raises:
        AssertionError: Something in the view is not as the block does it.
    """
    x, context, y = call.x, call.context, call.y
    before, after = (math.prod(t.shape[1:-1]) for t in (x, y))
    assert view.pools == (after < before), (
        f"{view.name} returns {after} tokens for {before}, but pools of its view is {view.pools}"
    )
    _check_hidden(view, x, context)
    _check_view_of(view, x, context)


def check_heads(view: BlockView, x: Tensor, context: Mapping[str, Any]) -> None:
    """Check the shapes of q, k and v of a block.

    Raises:
        AssertionError: They are not [G, H, n, D] with the number of heads in the view.
    """
    q, k, v = view.qkv(view.normalize(x), **context)
    shapes = ", ".join(str(list(t.shape)) for t in (q, k, v))
    assert all(t.ndim == 4 for t in (q, k, v)), f"{view.name}: qkv returns {shapes}; [G, H, n, D] is expected"
    assert q.shape[1] == view.num_heads, f"{view.name}: num_heads is {view.num_heads}, its q has {q.shape[1]} heads"
    heads = {t.shape[1] for t in (q, k, v)}
    assert heads == {view.num_heads}, f"{view.name}: qkv returns {shapes}; all three need {view.num_heads} heads"
    if x.ndim == 3 and not view.local:
        assert len(q) == len(x), f"{view.name} attends in {len(q)} groups for {len(x)} images; its view is not local"


def _check_hidden(view: BlockView, x: Tensor, context: Mapping[str, Any]) -> None:
    """Check that each part which the block calls and the pieces do not is hidden, or inside a hidden part."""
    own = steps_of(view.block, lambda: view.block(x, **context)).inputs
    ours = steps_of(view.block, lambda: run_block(view, x, **context)).inputs
    hidden = {part for module in view.hidden for part in module.modules()}
    names = {part: name for name, part in view.block.named_modules()}
    left_out = [names[part] for part in own if part not in ours and part not in hidden]
    assert not left_out, (
        f"{view.name} calls its {left_out[0]} and the pieces do not, so its hooks would be left out: name it in hidden"
    )


def _check_view_of(view: BlockView, x: Tensor, context: Mapping[str, Any]) -> None:
    """Check that ``view_of`` shows another block, with that block's own parameters."""
    other = copy.deepcopy(view.block)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        for parameter in other.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        shown = view.view_of(other)
        assert isinstance(shown, BlockView), (
            f"{view.name}: view_of returns a {type(shown).__name__}; a BlockView is expected"
        )
        assert shown.block is other, f"{view.name}: view_of shows another block than the one that it is given"
        assert shown.name == view.name, f"{view.name}: view_of shows a block named {shown.name!r}"
        same = equal(run_block(shown, x, **context), other(x, **context))
        assert same, f"{view.name}: view_of shows pieces that are not those of the block that it is given"


def check_tokens(view: ModelView, model: nn.Module, x: Input, run: Run) -> None:
    """Check the number of tokens that are not patches.

    They are the same for every image, and all others make up the grid of the model's feature maps.

    Raises:
        AssertionError: The view has another number.
    """
    first = view.blocks[0]
    tokens, prefix = run.blocks[first.block].x, view.tokens.prefix
    images = [x] if isinstance(x, Tensor) else x
    if tokens.ndim != 3 or tokens.is_meta or not all(image.is_floating_point() for image in images):
        return
    number = tokens.shape[1]
    says = f"the view has {prefix} special tokens ({view.tokens})"
    patches = _patches(view, run)
    if patches is not None:
        assert number == prefix + patches, f"{says}, but {first.name} gets {number} tokens for {patches} patches"
    other = record(model, view, 1 - x if isinstance(x, Tensor) else [1 - image for image in x]).blocks[first.block].x
    if other.shape != tokens.shape:
        return
    constant = (other == tokens).all(-1).all(0).tolist()
    leading = constant.index(False) if False in constant else number
    if leading == number:  # the input does not matter at all
        return
    assert not any(constant[leading:]), (
        f"token {constant.index(True, leading)} of {first.name} is the same for every image but stands behind patches: "
        "special tokens must come first"
    )
    assert leading <= prefix, f"{says}, but {leading} of {number} tokens of {first.name} are the same for every image"
    assert patches is not None or leading == prefix, (
        f"{says}, but only {leading} of {number} tokens of {first.name} are the same for every image"
    )


def _patches(view: ModelView, run: Run) -> int | None:
    """Return the number of patches in the grid of the last feature map, for a model that gives maps on request."""
    model: Any = view.model
    if run.model is None or not hasattr(model, "forward_intermediates") or not isinstance(run.model.x, Tensor):
        return None
    if any(b.pools for b in view.blocks) or is_training(model):  # it may drop patches
        return None
    with torch.no_grad():
        maps = model.forward_intermediates(run.model.x, indices=1, intermediates_only=True)
    return math.prod(maps[-1].shape[2:]) if isinstance(maps, list | tuple) else None  # open_clip's come in a dict


def check_positions(view: ModelView, run: Run) -> None:
    """Check the kind of positions: rotations change the keys, and a bias is added to the attention's logits.

    Raises:
        AssertionError: The view names another kind.
    """
    if any(call.x.is_meta for call in run.blocks.values()):
        return
    kind = view.tokens.positions
    rotating, biased, with_bias = (
        [b.name for b in view.blocks if does(b, run.blocks[b.block])] for does in (_rotates, _has_own_bias, _has_bias)
    )
    unrotating = [b.name for b in view.blocks if _unrotates(b, run.blocks[b.block])]
    if kind == "rotary":
        assert unrotating, "positions are 'rotary', but unrotate of no block changes its keys"
    else:
        assert not unrotating, f"positions are {kind!r}, but unrotate of {unrotating[0]} changes its keys"
        assert not rotating, f"positions are {kind!r}, but the keys of {rotating[0]} depend on its context ('rotary'?)"
    if kind == "bias":
        assert with_bias, "positions are 'bias', but no block has a bias"
    if kind == "absolute":
        assert not biased, f"positions are 'absolute', but {biased[0]} has a bias of its own ('bias'?)"


def _key(view: BlockView, x: Tensor, context: Mapping[str, Any]) -> Tensor:
    return view.qkv(view.normalize(x), **context)[1]


def _unrotates(view: BlockView, call: Call) -> bool:
    key = _key(view, call.x, call.context)
    return not equal(view.unrotate(key, **call.context), key)


def _rotates(view: BlockView, call: Call) -> bool:
    try:
        return not equal(_key(view, call.x, call.context), _key(view, call.x, {}))
    except (TypeError, ValueError, AttributeError):  # a piece that cannot do without its context
        return False


def _has_bias(view: BlockView, call: Call) -> bool:
    return view.bias(**call.context) is not None


def _has_own_bias(view: BlockView, call: Call) -> bool:
    try:
        return view.bias() is not None
    except (TypeError, ValueError, AttributeError):  # a piece that cannot do without its context
        return False
