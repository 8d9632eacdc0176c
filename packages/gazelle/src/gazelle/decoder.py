"""`Decoder`: where each person looks, from the features of an image (arXiv 2412.09586, section 3).

Shapes: B images, N people of an image at most, P people of all images, C channels of the features, D width of the
decoder, h x w the grid of patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as TF

from gazelle.boxes import Box, as_tensor, head_maps, people_of
from gazelle.layers import HeatmapHead, before_last, block, draw, sine_positions
from plm_core import InputError
from plm_core.utils.ranges import whole

PEOPLE_AT_ONCE = {"cpu": 1}
"""Number of people that are decoded at once, by the kind of device. What one person takes fits into a CPU's caches."""
MOST_AT_ONCE = 64
"""That of other devices, which bounds the memory."""


class Gaze(TypedDict):
    """Where people look.

    For boxes in lists, each entry is a list with a tensor for each image. For boxes in a tensor it is one tensor.

    Attributes:
        heatmap: For each person a map of 0 to 1, [h, w] of ``out_size``.
        inout: For each person the probability that the target is inside the frame. None for a model without that head.
    """

    heatmap: Any
    inout: Any


class Decoder(nn.Module):
    """The part of Gaze-LLE that is trained. Its parameters have the names of the original.

    Args:
        width: Number of channels C of the features.
        grid: Height and width of their grid.
        inout: Whether the model tells if a target is inside the frame.
        dim: Width D, divisible by 8.
        num_layers: Number of transformer blocks.
        out_size: Height and width of the heatmaps.
        decoder_ln_eps: What LayerNorm adds to the variance.

    Raises:
        InputError: ``dim`` is not divisible by 8, ``num_layers`` is less than 1, ``inout`` is no bool, or ``out_size``
            is not two sizes.
    """

    def __init__(
        self,
        width: int,
        grid: tuple[int, int],
        inout: bool = False,
        dim: int = 256,
        num_layers: int = 3,
        out_size: tuple[int, int] = (64, 64),
        decoder_ln_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        if not whole(dim) or dim % 8:
            raise InputError(f"dim is {dim!r}; a multiple of 8, the number of attention heads, is expected")
        if not isinstance(inout, bool):  # a text such as "false" would count as true
            raise InputError(f"inout is {inout!r}; True or False is expected")
        if not whole(num_layers):
            raise InputError(f"num_layers is {num_layers!r}; 1 or more is expected")
        self.dim, self.out_size, self.has_inout = dim, size_of(out_size, "out_size"), inout
        self.register_buffer("pos_embed", sine_positions(dim, grid))
        self.linear = nn.Conv2d(width, dim, 1)
        self.head_token = nn.Embedding(1, dim)
        if inout:
            self.inout_token = nn.Embedding(1, dim)
        self.transformer = nn.Sequential(*(block(dim, decoder_ln_eps) for _ in range(num_layers)))
        self.heatmap_head = HeatmapHead(dim)
        if inout:
            self.inout_head = nn.Sequential(nn.Linear(dim, 128), nn.ReLU(), nn.Dropout(0.1), nn.Linear(128, 1))

    def decode(
        self,
        features: Tensor,
        bboxes: Sequence[Sequence[Box] | None] | Tensor,
        mask: Tensor | None = None,
        fill: bool = False,
    ) -> Gaze:
        """Return where people look in images whose features are known.

        Args:
            features: [B, C, h, w].
            bboxes: For each image a list of boxes (x0, y0, x1, y1) in fractions, with None for a person without a box.
                Or a tensor [B, N, 4], in which a box without an area stands for a person without one. Boxes of a tensor
                are not checked, and all of them are decoded at once.
            mask: Which of a tensor's boxes are people, bool [B, N]. None if all are. The result of others is 0.
            fill: See `gazelle.head_maps`.

        Returns:
            For lists ``heatmap``, a list of [people, h, w], and ``inout``, a list of [people]. For a tensor
            [B, N, h, w] and [B, N].

        Raises:
            InputError: A box is not one, see `gazelle.boxes.check_box`, there are other lists than images, or a mask
                does not fit the boxes.
        """
        if isinstance(bboxes, Tensor):
            return self._decode_tensor(features, bboxes, mask, fill)
        if mask is not None:
            raise InputError("mask is given with lists of boxes; it is for a tensor of boxes, [images, people, 4]")
        people = people_of(bboxes, len(features))
        counts = [len(boxes) for boxes in people]
        boxes = as_tensor([box for image in people for box in image])
        image = torch.repeat_interleave(torch.arange(len(people)), torch.tensor(counts, dtype=torch.int64))
        heads = head_maps(boxes, (features.shape[2], features.shape[3]), fill).to(features.device)
        heatmaps, scores = self.look_at_all(features, heads, image)
        inout = None if scores is None else list(scores.split(counts))
        return {"heatmap": list(heatmaps.split(counts)), "inout": inout}

    def _decode_tensor(self, features: Tensor, bboxes: Tensor, mask: Tensor | None, fill: bool) -> Gaze:
        if bboxes.ndim != 3 or bboxes.shape[0] != features.shape[0] or bboxes.shape[2] != 4:
            raise InputError(f"bboxes is {list(bboxes.shape)}; [{len(features)}, people, 4] is expected")
        if mask is not None and (not isinstance(mask, Tensor) or mask.shape != bboxes.shape[:2]):
            given = list(mask.shape) if isinstance(mask, Tensor) else f"a {type(mask).__name__}"
            raise InputError(f"mask is {given}; a tensor {list(bboxes.shape[:2])}, one value for each box, is expected")
        b, n = bboxes.shape[:2]
        heads = head_maps(bboxes.flatten(0, 1), (features.shape[2], features.shape[3]), fill)
        image = torch.arange(b, device=features.device)[:, None].expand(b, n).flatten()
        heatmap, score = self.look(self.scenes(features), heads.to(features.device), image)
        heatmap = heatmap.unflatten(0, (b, n))
        score = None if score is None else score.unflatten(0, (b, n))
        if mask is not None:
            heatmap = heatmap * mask[:, :, None, None]
            score = None if score is None else score * mask
        return {"heatmap": heatmap, "inout": score}

    def look_at_all(self, features: Tensor, heads: Tensor, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return what `look` does, for any number of people: the memory that is needed does not grow with it.

        Args:
            features: [B, C, h, w].
            heads: See `look`.
            image: See `look`.
        """
        scenes = self.scenes(features)
        count = MOST_AT_ONCE if self.training else PEOPLE_AT_ONCE.get(features.device.type, MOST_AT_ONCE)
        parts = [self.look(scenes, *part) for part in zip(heads.split(count), image.split(count), strict=True)]
        scores = [score for _, score in parts if score is not None]
        return torch.cat([heatmap for heatmap, _ in parts]), torch.cat(scores) if scores else None

    def scenes(self, features: Tensor) -> Tensor:
        """Return the tokens of images before they know of a person: [B, C, h, w] -> [B, h * w, D]."""
        grid = (features.shape[2], features.shape[3])
        positions: Any = self.pos_embed
        if grid != tuple(positions.shape[1:]):  # another size of image than the model was made for
            positions = sine_positions(self.dim, grid).to(positions)
        return (self.linear(features) + positions).flatten(2).mT

    def look(self, scenes: Tensor, heads: Tensor, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the heatmap of each person, [P, h, w] of ``out_size``, and whether the target is inside, [P].

        Args:
            scenes: See `scenes`, [B, h * w, D].
            heads: The cells of each head, [P, h, w].
            image: The image of each person, int64 [P].
        """
        grid = (heads.shape[1], heads.shape[2])
        tokens = scenes[image.to(scenes.device)] + heads.flatten(1)[:, :, None] * self.head_token.weight
        if self.has_inout:
            tokens = torch.cat([self.inout_token.weight.expand(tokens.shape[0], 1, -1), tokens], 1)
        if self.training:
            tokens = self.transformer(tokens)
            points = self.heatmap_head(tokens)
        else:
            tokens, hidden, last = before_last(self.transformer, tokens)
            points = self.heatmap_head.after(tokens, hidden, last)
            tokens = tokens[:, :1] + last(hidden[:, :1])
        score = self.inout_head(tokens[:, 0])[:, 0].sigmoid() if self.has_inout else None
        heatmap = draw(points[:, self.has_inout :], grid).sigmoid()
        if tuple(heatmap.shape[1:]) != self.out_size:
            heatmap = TF.resize(heatmap[:, None], list(self.out_size), antialias=True)[:, 0]
        return heatmap, score

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        """Keep the positions, which are a formula, where a checkpoint has those of another grid."""
        key = f"{prefix}pos_embed"
        stored: Any = state_dict.get(key)
        own: Any = self.pos_embed
        if stored is not None and stored.shape != own.shape and stored.shape[:1] == own.shape[:1]:
            state_dict[key] = own
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def resample(self, key: str, tensor: Tensor) -> Tensor:
        """Return positions of another grid as those of the own one, for `plm_core.weights.load`.

        Args:
            key: The name of a tensor of a checkpoint.
            tensor: Its values. Those of other tensors are returned as they are.
        """
        own: Any = self.pos_embed
        if key != "pos_embed" or tensor.shape[:1] != own.shape[:1]:
            return tensor
        return sine_positions(self.dim, (own.shape[1], own.shape[2])).to(tensor)


def size_of(size: Any, name: str) -> tuple[int, int]:
    """Return a height and a width.

    Args:
        size: Two whole numbers.
        name: What an error calls them.

    Raises:
        InputError: They are not two, or one is less than 1.
    """
    sides = tuple(size) if isinstance(size, list | tuple) else ()
    if len(sides) != 2 or not all(map(whole, sides)):
        raise InputError(f"{name} is {size!r}; (height, width), whole numbers of 1 or more, is expected")
    return int(sides[0]), int(sides[1])
