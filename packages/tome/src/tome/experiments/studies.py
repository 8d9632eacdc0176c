"""What merging costs in accuracy, beside dropping tokens, and where a merged token should stand, on micro ViTs.

    uv run python -m tome.experiments --out DIR      # the tables and the two plots of the README

Three studies, each with models that are trained here, without merging, from three seeds, and that then lose tokens off
the shelf: a plain ViT on digits, the same on scenes of shapes, and a rotary one on the scenes. What is compared is
Token Merging with other patches of the same blocks: `Dropping` and `Placing`. It goes on where it was stopped: weights
and scores of each study and seed are files in the folder. It needs the extra ``tome[train]``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from plm_core import blocks, samples, weights
from plm_core.blocks import BlockView, attend, extras
from plm_core.training import Recipe, seeded
from plm_core.training.finetuning import Finetuning, accuracy, finetune
from plm_core.training.micro import InMemory
from plm_core.utils.files import atomic_path, write_text
from tome.api import applied, remove
from tome.matching import Matching
from tome.micro import shapes as micro_shapes
from tome.vit.blocks import Merged, MergingBlock
from tome.vit.transform import current, put

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Split = Literal["train", "heldout"]
Way = Callable[[nn.Module, int], AbstractContextManager[nn.Module]]
"""(model, r) -> the model, with r tokens fewer after each block for the length of a ``with`` block."""
Row = dict[str, Any]
"""study, seed, way, r, tokens (left after the last block), top1 (held-out, in %)."""

SETTING = Finetuning(
    recipe=Recipe(epochs=1, batch=32, lr=2e-3, weight_decay=0.05, warmup_epochs=0, clip_grad=1.0),
    drop_path=0.0,
    auto_augment=None,
    mixup=0.0,
    cutmix=0.0,
)


@dataclass(frozen=True)
class Dropping:
    """A block that drops patch tokens where Token Merging merges them; the ``forward`` of `plm_core.blocks.patch`."""

    r: int
    prefix: int
    importance: Callable[[Tensor, Tensor], Tensor]
    """(q, k), both [B, H, n, D], -> [B, n]: the patch tokens with the least go."""

    def __call__(
        self, view: BlockView, x: Tensor, carried: Tensor | None, **context: Any
    ) -> tuple[Tensor, Tensor | None]:
        """The block; what is carried is the places [B, n] of the tokens left."""
        if carried is not None:
            context = dict(view.select(context, carried))
        normed = view.normalize(x)
        q, k, v = view.qkv(normed, **context)
        x = view.skip(x, normed) + view.output(attend(q, k, v, **extras(view, **context)), normed)
        r = min(self.r, (x.shape[1] - self.prefix) // 2)  # the bound of Token Merging, for equally many
        if r > 0:
            kept = self._kept(q, k, x.shape[1] - r)
            x = x.take_along_dim(kept[..., None], 1)
            carried = kept if carried is None else carried.gather(1, kept)
        return view.feed_forward(x), carried

    def _kept(self, q: Tensor, k: Tensor, count: int) -> Tensor:
        """[B, count], in order of place."""
        importance = self.importance(q, k)
        importance[:, : self.prefix] = torch.inf
        return importance.topk(count).indices.sort(1).values


def chance(q: Tensor, k: Tensor) -> Tensor:
    """An importance [B, n] that says nothing, from the global generator."""
    return torch.rand(q.shape[0], q.shape[2], device=q.device)


def class_attention(q: Tensor, k: Tensor) -> Tensor:
    """Attention [B, n] that the first token, the class token, pays to each, averaged over heads."""
    return (q[:, :, :1] @ k.mT * q.shape[-1] ** -0.5).softmax(-1).mean(1)[:, 0]


@contextmanager
def dropping(model: nn.Module, r: int, importance: Callable[[Tensor, Tensor], Tensor]) -> Iterator[nn.Module]:
    """`Dropping` in every block of a model."""
    seen = blocks.view(model)
    for view in seen.blocks:
        blocks.patch(view, Dropping(r, seen.tokens.prefix, importance))
    try:
        yield model
    finally:
        for view in seen.blocks:
            blocks.unpatch(view.block)


Place = Literal["destination", "source", "mean", "unit mean", "random"]


@dataclass(frozen=True)
class Placing(MergingBlock):
    """Token Merging in a rotary model with another position of merged tokens, or by other keys.

    Positions: of the token merged into; of the most similar token that merged into it; the average of the rows of the
    rotary table over a group's patches, as it is or with each pair of sine and cosine on the unit circle again (a mean
    of angles); or, to see whether position matters at all, of any token.
    """

    place: Place = "destination"
    rotated_keys: bool = False
    """Tokens are matched by their keys as attention has them, not before their rotation."""

    def __call__(
        self, view: BlockView, x: Tensor, carried: Merged | None, unmerge: bool = False, **context: Any
    ) -> tuple[Tensor, Merged]:
        """The block, with merging between attention and MLP."""
        if self.rotated_keys:
            view = replace(view, unrotate=lambda key, **context: key)
        if carried is not None and carried.group is not None:
            view = replace(view, select=partial(self._averaged, group=carried.group))
        count = x.shape[1]
        x, merged = super().__call__(view, x, carried, unmerge, **context)
        matching = merged.matching
        if matching is None:
            return x, merged
        if self.place in ("mean", "unit mean") and not unmerge:
            group = matching.group
            if carried is not None and carried.group is not None:
                group = group.gather(1, carried.group)
            return x, replace(merged, group=group)
        if self.place in ("source", "random"):
            chosen = self._taken(matching, count)
            place = chosen if carried is None or carried.place is None else carried.place.gather(1, chosen)
            return x, replace(merged, place=place)
        return x, merged

    def _taken(self, matching: Matching, count: int) -> Tensor:
        """[B, n]: for each token left, the one of the ``count`` before whose position it takes."""
        batch, r = matching.merged.shape
        rank = torch.arange(r, device=matching.merged.device).expand(batch, -1)  # the most similar are first
        first = torch.full_like(matching.kept, r).scatter_reduce(1, matching.into, rank, "amin")
        if self.place == "source":
            other = matching.merged.gather(1, first.clamp(max=r - 1))
        else:
            other = torch.randint_like(matching.kept, self.prefix, count)
        return torch.where(first < r, other, matching.kept)

    def _averaged(self, context: Mapping[str, Any], kept: Tensor, group: Tensor) -> Mapping[str, Any]:
        """The context with the rotary table averaged over groups [B, N] of original tokens."""
        rope: Tensor = context["rope"]
        batch, left = kept.shape
        index = (group[:, self.prefix :] - self.prefix)[..., None].expand(-1, -1, rope.shape[-1])
        mean = rope.new_zeros(batch, left - self.prefix, rope.shape[-1])
        mean = mean.scatter_reduce(1, index, rope.expand(batch, -1, -1), "mean", include_self=False)
        if self.place == "unit mean":
            sin, cos = mean.chunk(2, -1)
            mean = mean / torch.hypot(sin, cos).clamp(min=1e-6).repeat(1, 1, 2)
        return {**context, "rope": mean[:, None]}


@contextmanager
def placing(model: nn.Module, r: int, place: Place = "destination", rotated_keys: bool = False) -> Iterator[nn.Module]:
    """`Placing` in every block of a model."""
    with applied(model, r):
        plans = current(model)
    put([(seen, view, Placing(**vars(what), place=place, rotated_keys=rotated_keys)) for seen, view, what in plans])
    try:
        yield model
    finally:
        remove(model)


RIVALS: Mapping[str, Way] = {
    "merging": applied,
    "merging, prop_attn=False": partial(applied, prop_attn=False),
    "pruning by attention": partial(dropping, importance=class_attention),
    "random dropping": partial(dropping, importance=chance),
}
PLACES: Mapping[str, Way] = {
    "destination": placing,
    "source": partial(placing, place="source"),
    "mean of table rows": partial(placing, place="mean"),
    "mean of angles": partial(placing, place="unit mean"),
    "destination, matched by rotated keys": partial(placing, rotated_keys=True),
    "of any token (control)": partial(placing, place="random"),
}


def digits(split: Split, count: int) -> InMemory:
    """Handwritten digits of 8 pixels enlarged to 32, float [1, 32, 32] from -1 to 1; those to train on are moved."""
    images, labels = samples.digits(split)
    large = [np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR), np.float32) for image in images[:count]]
    x = torch.from_numpy(np.stack(large))[:, None] / 127.5 - 1
    return InMemory(x, torch.from_numpy(labels[:count]), _moved if split == "train" else None)


@cache
def silhouettes(split: Split, count: int) -> InMemory:
    """The scenes of `tome.micro.shapes`: how far each pixel is from the background, float [1, 32, 32] from -1 to 1.

    Cut out around the shape, wherever it is; those to train on are moved.
    """
    scenes = micro_shapes.scenes(split, count)
    far = (scenes.x - scenes.x[:, :, :1, :1]).abs().amax(1)  # the corner is background
    far = F.pad(far / far.amax((1, 2), keepdim=True), (16,) * 4)
    x = far.new_empty(count, 1, 32, 32)
    for i, image in enumerate(far):
        top, left = (int(places.float().mul(2).mean()) // 2 - 16 for places in (image > 0.5).nonzero(as_tuple=True))
        x[i, 0] = image[top : top + 32, left : left + 32]
    return InMemory(2 * x - 1, scenes.y, _moved if split == "train" else None)


def _moved(x: Tensor) -> Tensor:
    """A picture moved by up to two pixels."""
    top, left = torch.randint(0, 5, (2,)).tolist()
    return F.pad(x, (2,) * 4, value=-1.0)[:, top : top + 32, left : left + 32]


MODEL: Mapping[str, Any] = {
    "img_size": 32,
    "patch_size": 4,
    "in_chans": 1,
    "embed_dim": 48,
    "depth": 4,
    "num_heads": 2,
    "mlp_ratio": 2,
}


def plain(num_classes: int, **model: Any) -> nn.Module:
    """A micro ViT, absolute positions and a class token."""
    return _with_stem(VisionTransformer(num_classes=num_classes, **{**MODEL, **model}))


def rotary(num_classes: int, **model: Any) -> nn.Module:
    """A micro ViT that knows where patches are by rotary positions only."""
    positions = {"use_abs_pos_emb": False, "use_rot_pos_emb": True, "rope_temperature": 100.0}  # 100 as in DINOv3
    options = {**MODEL, **positions, **model}
    return _with_stem(Eva(num_classes=num_classes, global_pool="token", head_init_scale=1.0, **options))


def _with_stem(model: Any) -> nn.Module:
    """Patches are embedded by two convolutions, of which the first sees a pixel more: few epochs do then."""
    dim = model.embed_dim
    first = nn.Conv2d(1, 16, 3, stride=2, padding=1)
    model.patch_embed.proj = nn.Sequential(first, nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, dim, 2, stride=2))
    whole: nn.Module = model
    return whole


@dataclass(frozen=True)
class Study:
    """Models trained on one kind of data, and what is done to them."""

    model: Callable[[], nn.Module]
    data: Callable[[Split, int], InMemory]
    classes: int
    ways: Mapping[str, Way]
    epochs: float
    batch: int
    train: int
    held_out: int
    r: tuple[int, ...] = (4, 8, 10, 12, 14, 16, 20, 32)
    """Of all blocks; 0, the model itself, is measured besides."""


STUDIES: dict[str, Study] = {
    "digits": Study(partial(plain, 10), digits, 10, RIVALS, epochs=30, batch=16, train=1437, held_out=360),
    "shapes": Study(partial(plain, 8), silhouettes, 8, RIVALS, epochs=4, batch=32, train=6000, held_out=2000),
    "rotary": Study(partial(rotary, 8), silhouettes, 8, PLACES, epochs=4, batch=32, train=6000, held_out=2000),
}


def trained(study: Study, seed: int, file: Path) -> nn.Module:
    """The model of a seed (of initialisation, order and augmentation), from a file or trained and written to it."""
    torch.manual_seed(seed)
    model = study.model()
    if file.exists():
        model.load_state_dict(weights.read(file))
    else:
        recipe = replace(SETTING.recipe, epochs=study.epochs, batch=study.batch, warmup_epochs=study.epochs / 20)
        data = study.data("train", study.train)
        finetune(model, data, replace(SETTING, recipe=recipe), study.classes, seed=seed)
        weights.write(model.state_dict(), file)
    return model.eval()


def scored(name: str, seed: int, out: Path) -> list[Row]:
    """A row for each way and r of one study and seed, from a file or measured and written to it."""
    file = out / f"{name}_{seed}.json"
    if not file.exists():
        study = STUDIES[name]
        model = trained(study, seed, out / f"{name}_{seed}.safetensors")
        held_out = study.data("heldout", study.held_out)
        rows = []
        whole = {"study": name, "seed": seed, "r": 0, "top1": accuracy(model, held_out, batch=200)}
        whole["tokens"] = tokens(model, held_out.x[:1])
        for way, apply in study.ways.items():
            rows.append({**whole, "way": way})
            for r in study.r:
                with seeded(seed, r), apply(model, r):
                    top1 = accuracy(model, held_out, batch=200)
                    left = tokens(model, held_out.x[:1])
                rows.append({**whole, "way": way, "r": r, "tokens": left, "top1": top1})
        write_text(file, json.dumps(rows, indent=1))
    found: list[Row] = json.loads(file.read_text(encoding="utf-8"))
    return found


def tokens(model: nn.Module, x: Tensor) -> int:
    """How many tokens the last block of a model gives."""
    counts: list[int] = []
    last = blocks.view(model).blocks[-1].block
    hook = last.register_forward_hook(lambda module, args, y: counts.append(y.shape[1]))
    with torch.no_grad():
        model(x)
    hook.remove()
    return counts[0]


def over_seeds(rows: Sequence[Row], way: str) -> list[tuple[int, int, list[float]]]:
    """(r, tokens left, scores of the seeds), by r."""
    mine = [row for row in rows if row["way"] == way]
    keys = sorted({(row["r"], row["tokens"]) for row in mine})
    return [(r, left, [row["top1"] for row in mine if row["r"] == r]) for r, left in keys]


def table(rows: Sequence[Row]) -> str:
    """Markdown: mean of the seeds, and in brackets the lowest and highest; a line per way, a column per r."""
    lines: list[str] = []
    for way in dict.fromkeys(row["way"] for row in rows):
        found = over_seeds(rows, way)
        if not lines:
            lines.append("| r (tokens left) | " + " | ".join(f"{r} ({left})" for r, left, _ in found) + " |")
            lines.append("|---" * (len(found) + 1) + "|")
        cells = (f"{np.mean(scores):.1f} ({min(scores):.1f}-{max(scores):.1f})" for _, _, scores in found)
        lines.append(f"| {way} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


COLOURS = ("#4477aa", "#66ccee", "#228833", "#ccbb44", "#aa3377", "#aaaaaa")


def plot(studies: Mapping[str, Sequence[Row]]) -> Figure:
    """Accuracy by tokens left, a panel per study: lines for the mean of the seeds, bands from lowest to highest."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.4 * len(studies) + 0.4, 3.4), layout="constrained")
    axes = figure.subplots(1, len(studies), squeeze=False)[0]
    for ax, (title, rows) in zip(axes, studies.items(), strict=True):
        for way, colour in zip(dict.fromkeys(row["way"] for row in rows), COLOURS, strict=False):
            _, left, scores = zip(*over_seeds(rows, way), strict=True)
            ax.plot(left, [np.mean(s) for s in scores], color=colour, marker="o", markersize=3, label=way)
            ax.fill_between(left, [min(s) for s in scores], [max(s) for s in scores], color=colour, alpha=0.13, lw=0)
        ax.invert_xaxis()
        ax.set_title(title, fontsize=10)
        ax.set_xlabel("tokens left after four blocks, of 65")
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("held-out top-1 in %")
    axes[0].legend(fontsize=8, loc="lower left")
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is missing, measure, and write ``accuracy`` and ``rotary``, .json and .png; half an hour."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    for figure, names in {"accuracy": ("digits", "shapes"), "rotary": ("rotary",)}.items():
        rows = {name: [row for seed in range(given.seeds) for row in scored(name, seed, given.out)] for name in names}
        write_text(given.out / f"{figure}.json", json.dumps(rows, indent=1))
        with atomic_path(given.out / f"{figure}.png") as path:
            plot(rows).savefig(path, format="png", dpi=120)
        for name in names:
            print(f"{name}\n\n{table(rows[name])}\n", flush=True)
