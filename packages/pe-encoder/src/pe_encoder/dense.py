"""Embeddings of patches in the space of texts, and maps of where an image agrees with a text.

PE-Core learns to embed whole images: its attention pool and the MLP of the pool stand between the tokens and the
projection. The projection alone, on the tokens, gives vectors that have nothing to do with the texts. Here every patch
goes the way that the pooled image goes: it is pooled with its neighbours, or alone.

Shapes: B batch, N tokens, C channels, E width of the embedding, K texts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from pe_encoder.clip import CLIP
from pe_encoder.layers import AttentionPool, Block
from pe_encoder.model import VisionTower
from pe_encoder.zeroshot import SCALE
from plm_core import InputError, NotSupported, transform_for
from plm_core.utils.ranges import check_choice

WINDOW = 3
"""Side of the windows in patches. On `pe_micro_clip`, windows of 1, 3 and 5 find objects by their names with 51, 51 and
32 % mean IoU, and the projection alone with 22 %; see the README."""
LAST = "self"
"""What the attention of the last block does: as trained, objects are found with 51 % mean IoU, and with this 61 %."""
LEAST_WEIGHT = 1e-6
"""The least weight of a token in a window, as a share of the largest in the image."""


def patch_embeddings(model: nn.Module, images: Tensor, *, window: int = WINDOW, last: str | None = None) -> Tensor:
    """Embed every patch in the space of the texts.

    A patch is pooled as the whole image is, but over a square window of patches around it: the scores of the attention
    pool are normalised over the window, and the values, the output projection, the MLP of the pool and the head follow.
    The class token belongs to no window. A window of 1 is the value path, each patch alone, as in MaskCLIP
    (arXiv 2112.01071). The default pools a few patches, since that is nearer to what the pool was trained for.

    Args:
        model: A CLIP or a vision tower of PE-Core, in eval mode.
        images: Preprocessed images [B, 3, H, W] of any size that the model takes.
        window: Side of the window in patches, an odd number.
        last: What the attention of the last block does: ``self`` (queries attend to queries and keys to keys, the mean
            of the two, as in SCLIP, arXiv 2312.01597), ``keep`` (as trained), ``value`` (values attend to values),
            ``own`` (each token takes its own value) or ``skip`` (nothing). None for ``self``, and for ``keep`` where a
            transform has changed the last block, since the others need the model's own attention.

    Returns:
        [B, E, rows, columns], not normalised. For a tower with a classifier in place of the projection, E is its number
        of classes.

    Raises:
        NotSupported: The model has no embedding that texts share.
        InputError: An argument is not allowed, or the images do not fit the model.
    """
    tower = tower_of(model)
    if isinstance(window, bool) or not isinstance(window, int) or window < 1 or window % 2 == 0:
        raise InputError(f"window is {window!r}; an odd number of patches from 1 on is allowed")
    if last is None:
        last = LAST if type(tower.blocks[-1]) is Block else "keep"
    check_choice("last", last, ATTENTIONS)
    tokens, rope = tower.patch_tokens(images)
    grid = tower.grid_of(images)
    tokens = _run(tower, tokens, rope, last)
    if tokens.shape[1] != tower.num_prefix_tokens + grid[0] * grid[1]:
        raise NotSupported(
            f"model returns {tokens.shape[1]} tokens for {grid[0]} x {grid[1]} patches, so its tokens are no map"
        )
    patches = tower.norm(tokens)[:, tower.num_prefix_tokens :]
    pooled = patches if tower.attn_pool is None else _pool(tower.attn_pool, patches, grid, window)
    return tower.head(pooled).transpose(1, 2).unflatten(2, grid)


def text_maps(
    clip: nn.Module, images: Tensor, text_classifier: Tensor, *, softmax: bool = False, **options: Any
) -> Tensor:
    """Compare every patch with texts.

    Args:
        clip: A CLIP, or the vision tower of one, in eval mode.
        images: Preprocessed images [B, 3, H, W].
        text_classifier: The texts, [E, K], as `pe_encoder.zeroshot.embed_classes` makes it.
        softmax: Whether to turn the cosines into shares of the texts, by a softmax of 100 times the cosines.
        **options: Keywords of `patch_embeddings`.

    Returns:
        [B, K, rows, columns]: the cosines, or shares from 0 to 1 that add up to 1 over the texts.

    Raises:
        NotSupported, InputError: See `patch_embeddings`, or the classifier has another width.
    """
    embeddings = patch_embeddings(clip, images, **options)
    width = embeddings.shape[1]
    if text_classifier.ndim != 2 or len(text_classifier) != width or not text_classifier.shape[1]:
        raise InputError(f"text_classifier has shape {list(text_classifier.shape)}; [{width}, texts] is expected")
    cosines = torch.einsum(
        "berc,ek->bkrc", F.normalize(embeddings, dim=1), F.normalize(text_classifier, dim=0).to(embeddings.dtype)
    )
    return (SCALE * cosines).softmax(1) if softmax else cosines


def upsample(maps: Tensor, size: int | Sequence[int], patch_size: int) -> Tensor:
    """Enlarge maps to the pixels of the image, bilinearly.

    Args:
        maps: [B, K, rows, columns].
        size: Side, or height and width, of the image that the model saw. Pixels beyond the last whole patch repeat the
            edge.
        patch_size: Side of a patch in pixels.

    Returns:
        [B, K, height, width].
    """
    rows, columns = maps.shape[2:]
    height, width = rows * patch_size, columns * patch_size
    sides = (size, size) if isinstance(size, int) else tuple(size)
    below, right = sides[0] - height, sides[1] - width
    if not (0 <= below < patch_size and 0 <= right < patch_size):
        raise InputError(f"size is {sides}; {rows} x {columns} patches of {patch_size} pixels cover {height} x {width}")
    large = F.interpolate(maps, size=(height, width), mode="bilinear", align_corners=False)
    return F.pad(large, (0, right, 0, below), mode="replicate")


@torch.inference_mode()
def segment(
    clip: CLIP,
    image: Image.Image,
    text_classifier: Tensor,
    preprocess: Callable[[Image.Image], Tensor] | None = None,
    **options: Any,
) -> NDArray[np.int64]:
    """Assign each pixel of an image to the text with which its patch agrees most.

    Args:
        clip: A CLIP in eval mode.
        image: The image, of any size.
        text_classifier: The texts, [E, K], see `pe_encoder.zeroshot.embed_classes`.
        preprocess: Function from the image to [3, h, w], which shows all of it; None for `plm_core.transform_for`.
        **options: Keywords of `patch_embeddings`.

    Returns:
        The number of the text of each pixel, [H, W].

    Raises:
        NotSupported, InputError: See `text_maps`.
    """
    x = (preprocess or transform_for(clip))(image)[None].to(clip.logit_scale.device)
    maps = text_maps(clip, x, text_classifier, **options)
    best: Any = None
    for number in range(maps.shape[1]):  # one by one, since all maps of a large image would need much memory
        size = (image.height, image.width)
        score = F.interpolate(maps[:, number, None].float(), size=size, mode="bilinear", align_corners=False)[0, 0]
        if best is None:
            best, regions = score, torch.zeros(size, dtype=torch.int64, device=score.device)
        else:
            regions[score > best] = number
            best = torch.maximum(best, score)
    return regions.cpu().numpy()


def tower_of(model: nn.Module) -> VisionTower:
    """Return the vision tower of a model whose patches can be compared with texts.

    Raises:
        NotSupported: It is a PE-Lang or PE-Spatial, or no model of this family.
    """
    tower = model.visual if isinstance(model, CLIP) else model
    if not isinstance(tower, VisionTower):
        raise NotSupported(f"model is a {type(model).__name__}; a CLIP or a vision tower of pe-encoder is needed")
    if isinstance(tower.head, nn.Identity):
        raise NotSupported(
            "model has no projection to the space of texts: the alignment that made PE-Lang and PE-Spatial dropped the "
            "last layers of the CLIP, so their features cannot be compared with texts; use a pe_clip_* model"
        )
    return tower


# --- the attention of the last block --------------------------------------------------------------------------

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""A function from queries, keys and values, each [B, H, N, D], to what each token takes, [B, H, N, D]."""


def _self_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (F.scaled_dot_product_attention(q, q, v) + F.scaled_dot_product_attention(k, k, v)) / 2


def _value_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(v, v, v)


def _own_value(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return v


OTHER_ATTENTIONS: Mapping[str, Attend] = {"self": _self_attention, "value": _value_attention, "own": _own_value}
ATTENTIONS = ("keep", *OTHER_ATTENTIONS, "skip")


def _run(tower: VisionTower, tokens: Tensor, rope: Tensor | None, last: str) -> Tensor:
    """Run the blocks, the last one with another attention."""
    if last == "keep":
        return tower.run(tokens, rope)
    *blocks, block = tower.blocks
    if type(block) is not Block:
        raise NotSupported(f"last {last!r} needs the model's own attention: call plm_core.remove(model) first")
    for earlier in blocks:
        tokens = earlier(tokens, rope=rope)
    if last != "skip":
        attended = OTHER_ATTENTIONS[last](*block.attn.project(block.norm1(tokens), rope))
        tokens = tokens + block.attention_branch(block.attn.join(attended))
    return block.mlp_residual(tokens)


def _pool(pool: AttentionPool, patches: Tensor, grid: tuple[int, int], window: int) -> Tensor:
    """Pool patches [B, N, C] over the window around each of them: [B, N, C]."""
    if window == 1:
        dim = patches.shape[-1]
        values = pool.proj(F.linear(patches, pool.kv.weight[dim:], pool.kv.bias[dim:]))
    else:
        averages = _averages(patches, pool.scores(patches), grid, window)
        values = pool.values(averages.flatten(0, 1)).unflatten(0, patches.shape[:2])
    return values + pool.mlp(pool.norm(values))


def _averages(patches: Tensor, weights: Tensor, grid: tuple[int, int], window: int) -> Tensor:
    """Average patches [B, N, C] over the window around each, by weights [B, H, N]: [B, N, H, C].

    Weights that sum to 1 over the image have the ratios of a softmax over any window.
    """
    weights = (weights / weights.amax(-1, keepdim=True)).clamp_min(LEAST_WEIGHT)
    weighted = torch.einsum("bhn,bnc->bhcn", weights, patches)
    sums = _box(weighted, grid, window) / _box(weights, grid, window)[:, :, None]
    return sums.permute(0, 3, 1, 2)


def _box(x: Tensor, grid: tuple[int, int], window: int) -> Tensor:
    """Average maps [..., N] over a window around each place, with zeros beyond the edge."""
    maps = x.reshape(-1, 1, *grid)
    return F.avg_pool2d(maps, window, stride=1, padding=window // 2).reshape(x.shape)
