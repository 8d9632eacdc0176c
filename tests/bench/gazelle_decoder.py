"""Our decoder against the original's computation restated plainly with timm's blocks, one run.

uv run python tests/bench/gazelle_decoder.py [--people 1 16] [--threads 2] [--parts decoder head scene metrics tome]

The peer has the same weights: it repeats the scene for each person, runs the blocks, and draws the heatmap by a
transposed convolution and a projection.
"""

import argparse

import numpy as np
import torch
from side_by_side import compare, machine
from sklearn.metrics import roc_auc_score
from torch import nn

import gazelle
import plm_core
from gazelle.decoder import Decoder
from gazelle.layers import draw
from gazelle.metrics import vat_rows

PARTS = ("decoder", "head", "scene", "metrics", "tome")
ROWS = 5000
SIDE = 32
TOKENS_MERGED = 38


class Plain(nn.Module):
    """The original's steps, with the modules of our decoder."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.ours = decoder

    def forward(self, features: torch.Tensor, boxes: list[tuple[float, ...]]) -> torch.Tensor:
        ours = self.ours
        x = ours.linear(features) + ours.pos_embed
        x = x.repeat_interleave(len(boxes), 0)
        maps = gazelle.head_maps(boxes, (SIDE, SIDE))
        x = x + maps[:, None] * ours.head_token.weight[:, :, None, None]
        x = x.flatten(2).permute(0, 2, 1)
        x = torch.cat([ours.inout_token.weight[None].repeat(len(x), 1, 1), x], 1)
        for block in ours.transformer:  # timm's forward, whatever ours does with its weights
            x = x + block.attn(block.norm1(x))
            x = x + block.mlp(block.norm2(x))
        score = ours.inout_head(x[:, 0]).sigmoid()
        return self.draw(x[:, 1:]), score

    def draw(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the heatmaps of tokens [P, N, D]."""
        grid = tokens.mT.unflatten(2, (SIDE, SIDE))
        return self.ours.heatmap_head[1](self.ours.heatmap_head[0](grid))[:, 0].sigmoid()


def people(count: int) -> list[tuple[float, ...]]:
    """Return head boxes of a tenth to a fifth of the picture."""
    rng = np.random.default_rng(0)
    corners, sizes = rng.uniform(0, 0.8, (count, 2)), rng.uniform(0.1, 0.2, (count, 2))
    return [tuple(map(float, box)) for box in np.concatenate([corners, corners + sizes], 1)]


def metrics(rounds: int) -> None:
    """Compare the metrics of rows at once with scikit-learn's, called for each row as the original does."""
    rng = np.random.default_rng(0)
    heatmaps = rng.random((ROWS, 64, 64)).astype(np.float32)
    x, y = rng.random((2, ROWS))

    def by_row() -> list[float]:
        areas = []
        for heatmap, gx, gy in zip(heatmaps, x * 64, y * 64, strict=True):
            label = np.zeros((64, 64))
            label[max(0, int(gy - 9)) : min(int(gy + 10), 63), max(0, int(gx - 9)) : min(int(gx + 10), 63)] = 1
            areas.append(roc_auc_score(label.ravel(), heatmap.ravel()))
        return areas

    apart = np.abs(vat_rows(heatmaps, x, y)[0] - by_row()).max()
    print(f"{f'metrics, {ROWS} rows':<28} largest difference {apart:.1e}")
    compare(
        f"metrics, {ROWS} rows", {"ours": lambda: vat_rows(heatmaps, x, y), "by row": by_row}, rounds=rounds, warmup=0
    )


def merged(rounds: int) -> None:
    """Compare ViT-L/14 at 448 pixels with and without Token Merging in its backbone, for one person."""
    model = plm_core.create_model("gazelle_dinov2_vitl14_inout").eval()
    faster = plm_core.create_model("gazelle_dinov2_vitl14_inout").eval()
    plm_core.apply(faster, "tome", r=TOKENS_MERGED)
    x, boxes = torch.randn(1, 3, 448, 448), [people(1)]
    compare(
        f"ViT-L, tome r={TOKENS_MERGED}",
        {
            "tome": lambda: faster({"images": x, "bboxes": boxes}),
            "plain": lambda: model({"images": x, "bboxes": boxes}),
        },
        rounds,
        warmup=1,
    )


def difference(one: torch.Tensor, other: torch.Tensor) -> str:
    return f"largest difference {(one - other).abs().max().item():.1e}"


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--people", nargs="+", type=int, default=[1, 4, 16])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    print(machine("torch", "timm", "gazelle"), f"{args.threads} threads")
    decoder = Decoder(768, (SIDE, SIDE), inout=True).eval()
    plain = Plain(decoder)
    features = torch.randn(1, 768, SIDE, SIDE)
    for count in args.people if "decoder" in args.parts else []:
        boxes = people(count)
        gaze, (heatmaps, _) = decoder.decode(features, [boxes]), plain(features, boxes)
        title = f"decoder, {count} people"
        print(f"{title:<28} {difference(gaze['heatmap'][0], heatmaps)}")
        compare(
            title,
            {"ours": lambda b=boxes: decoder.decode(features, [b]), "plain": lambda b=boxes: plain(features, b)},
            args.rounds,
        )
    if "head" in args.parts:
        tokens = torch.randn(16, SIDE * SIDE, 256)
        ours = lambda: draw(decoder.heatmap_head(tokens), (SIDE, SIDE)).sigmoid()  # noqa: E731
        print(f"{'head, 16 people':<28} {difference(ours(), plain.draw(tokens))}")
        compare("head, 16 people", {"ours": ours, "plain": lambda: plain.draw(tokens)}, args.rounds)
    if "scene" in args.parts:
        model = plm_core.create_model("gazelle_dinov2_vitb14_inout").eval()
        x, boxes = torch.randn(1, 3, 448, 448), [people(1)]
        known = model.encode(x)
        again = {"again": lambda: model.decode(known, boxes), "first": lambda: model({"images": x, "bboxes": boxes})}
        compare("ViT-B, one person", again, args.rounds)
    if "metrics" in args.parts:
        metrics(min(args.rounds, 3))
    if "tome" in args.parts:
        merged(min(args.rounds, 3))


if __name__ == "__main__":
    main()
