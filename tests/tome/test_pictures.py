"""Pictures of groups: as the paper draws them, sharp, and in colours that do not change."""

import json
import random
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import binary_erosion

import plm_core
import tome
from plm_core import InputError
from tome.pictures import contact_sheet, groups, paint, paint_clip, palette, run_and_trace, side_by_side

TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 4, "num_heads": 3}


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def grouping(count, tokens, prefix=0, seed=0):
    """Return groups as merging leaves them: special tokens are alone, and some of the other numbers are unused."""
    group = np.random.default_rng(seed).integers(0, tokens, prefix + count)
    group[:prefix] = np.arange(prefix)
    group[prefix:] += prefix
    return torch.from_numpy(group)


def papers_palette(count):
    """Return three random numbers for each group, from Python's generator with seed 0."""
    draw = random.Random(0)
    return np.array([[draw.random() for _ in range(3)] for _ in range(count)])


def papers_picture(image, group, patch, prefix, colours, border):
    """Paint the paper's visualisation one group at a time, in levels from 0 to 255 before rounding."""
    height, width = image.shape[:2]
    labels = np.asarray(group)[prefix:].reshape(height // patch[0], width // patch[1])
    canvas = np.zeros(image.shape)
    for label in np.unique(labels):
        mask = np.kron(labels == label, np.ones(patch, bool))
        inner = binary_erosion(mask, iterations=border, border_value=0) if border else mask
        mean = (image / 255)[mask].mean(0)
        canvas += inner[..., None] * mean + (mask & ~inner)[..., None] * colours[label]
    return canvas * 255


@pytest.mark.parametrize(
    ("size", "patch", "prefix", "border"),
    [
        ((64, 64), (16, 16), 1, 1),
        ((48, 80), (8, 8), 2, 1),
        ((24, 30), (4, 6), 0, 1),
        ((12, 12), (2, 2), 1, 1),
        ((64, 48), (16, 8), 5, 3),
        ((16, 16), (4, 4), 0, 9),
        ((32, 32), (16, 16), 1, 0),
    ],
)
def test_the_picture_is_that_of_the_paper(size, patch, prefix, border):
    image = picture(*size)
    count = size[0] // patch[0] * (size[1] // patch[1])
    group = grouping(count, max(2, count // 3), prefix)
    colours = papers_palette(int(group.max()) + 1)
    expected = papers_picture(image, group, patch, prefix, colours, border)
    levels = (colours * 255).round().astype(np.uint8)
    painted = paint(Image.fromarray(image), group, patch, prefix, border=border, colours=levels)
    assert painted.size == size[::-1]
    assert np.abs(np.asarray(painted) - expected).max() <= 0.5 + 1e-9


def test_a_patch_by_itself():
    image = picture(8, 8)
    painted = np.asarray(paint(image, [0, 1, 2, 3], 4))
    colours = palette(4)
    for number, (top, left) in enumerate([(0, 0), (0, 4), (4, 0), (4, 4)]):
        square = painted[top : top + 4, left : left + 4]
        inside = square[1:3, 1:3].reshape(-1, 3)
        border = np.concatenate([square[0], square[-1], square[:, 0], square[:, -1]])
        assert (inside == image[top : top + 4, left : left + 4].mean((0, 1)).round()).all()
        assert (border == colours[number]).all()


@pytest.mark.parametrize("kind", ["PIL", "float", "grey", "grey with channel", "RGBA", "list"])
def test_kinds_of_input(kind):
    image, group = picture(16, 16), torch.tensor([5, 0, 1, 1, 0])
    grey = image[..., 0]
    converted = {
        "PIL": Image.fromarray(image),
        "float": image / np.float32(255),
        "grey": grey,
        "grey with channel": grey[..., None],
        "RGBA": Image.fromarray(image).convert("RGBA"),
        "list": image,
    }[kind]
    expected = paint(np.repeat(grey[..., None], 3, -1) if "grey" in kind else image, group, 8, 1)
    assert paint(converted, group.tolist() if kind == "list" else group, 8, 1) == expected


def test_scale_enlarges_the_image_not_the_borders():
    image, group = picture(8, 8), [0, 1, 1, 0]
    large = np.asarray(paint(image, group, 4, scale=5))
    assert (large == np.asarray(paint(image.repeat(5, 0).repeat(5, 1), group, 20))).all()
    assert (large[1:19, 1:19] == large[1, 1]).all()


def test_a_group_that_grows_keeps_its_colour():
    image = picture(16, 16)
    before, after = torch.arange(16), torch.tensor([0, 1, 1, 2] + [0, 1, 1, 2] + [3, 4, 5, 6] * 2)
    corner = [np.asarray(paint(image, group, 4))[0, 3 * 4] for group in (before, after)]
    assert (corner[0] == corner[1]).all()
    assert (corner[0] == palette(4)[3]).all()


def test_palette_is_fixed_and_tells_groups_apart():
    colours = palette(1024).astype(int)
    assert (colours[:64] == palette(64)).all()
    assert len(np.unique(colours, axis=0)) == 1024
    for width in (1, 7, 12, 14, 16, 24, 32):  # patches beside one another, and below one another in a grid
        assert np.linalg.norm(colours[width:] - colours[:-width], axis=1).min() > 25
    distant = np.linalg.norm(colours[:197, None] - colours[:197], axis=-1)[np.triu_indices(197, 1)]
    assert distant.min() > 15
    assert palette(5000).shape == (5000, 3)
    assert palette(1).shape == (1, 3)


# --- clips ------------------------------------------------------------------------------------------------------


def test_a_group_looks_the_same_in_every_frame():
    frames = np.stack([picture(8, 12, seed) for seed in range(4)])
    group = torch.tensor([9, 0, 1, 2, 3, 1, 0, 1, 1, 4, 2, 5, 5])  # a special token, then 2 time steps of 2 x 3 patches
    painted = [np.asarray(frame) for frame in paint_clip(list(map(Image.fromarray, frames)), group, 4, 1)]
    assert len(painted) == 4
    assert (painted[0] == painted[1]).all()
    assert (painted[2] == painted[3]).all()
    places = [
        (t, y * 4, x * 4) for t, (y, x) in ((0, (0, 1)), (0, (1, 1)), (2, (0, 0)), (2, (0, 1)))
    ]  # patches of group 1
    pixels = [frames[t + dt, y : y + 4, x : x + 4] for t, y, x in places for dt in (0, 1)]
    mean = np.stack(pixels).reshape(-1, 3).mean(0).round()
    for t, y, x in places:
        assert (painted[t][y + 2, x + 1] == mean).all()
    borders = {tuple(painted[t][y, x].tolist()) for t, y, x in places[:3]}
    assert borders == {tuple(palette(2)[1].tolist())}


def test_one_frame_is_an_image():
    image, group = picture(8, 8), [0, 1, 1, 0]
    assert paint_clip([image], group, 4) == [paint(image, group, 4)]


# --- contact sheets ---------------------------------------------------------------------------------------------


def test_sheet_leaves_pictures_as_they_are():
    pictures = [Image.fromarray(picture(20, 30, seed)) for seed in range(5)]
    sheet = contact_sheet(pictures, columns=2, gap=3)
    assert sheet.size == (63, 66)
    for number, one in enumerate(pictures):
        left, top = number % 2 * 33, number // 2 * 23
        assert sheet.crop((left, top, left + 30, top + 20)) == one
    assert (np.asarray(sheet)[20:23] == 255).all()


def test_captions_stand_below():
    pictures = [Image.fromarray(picture(100, 100, seed)) for seed in range(2)]
    sheet = np.asarray(contact_sheet(pictures, ["one", "two\nlines"]))
    assert sheet.shape[1] == 208
    below = sheet[100:]
    assert (below[:, :100] < 128).any()
    assert (below[:, 108:] < 128).any()
    assert (below[-1] == 255).all()


# --- models -----------------------------------------------------------------------------------------------------


def merging(r=2, **options):
    torch.manual_seed(0)
    return tome.apply(plm_core.create_model("vit_tiny_patch16_224", **{**TINY, **options}).eval(), r=r)


def test_groups_of_a_model():
    model, photo = merging(), Image.fromarray(picture(50, 60))
    preprocess = plm_core.transform_for(model)
    shown, traced = run_and_trace(model, photo)
    assert np.abs(shown / 255 - (preprocess(photo) * 0.5 + 0.5).permute(1, 2, 0).numpy()).max() < 0.5 / 255 + 1e-6
    painted = groups(model, photo, scale=2)
    panels = [painted.crop((left, 0, left + 64, 64)) for left in range(0, painted.width, 72)]
    assert panels[0] == Image.fromarray(shown).resize((64, 64), Image.Resampling.NEAREST)
    expected = [paint(shown, traced.groups[n][0], 8, 1, scale=2) for n in (0, 1, 3)]
    assert panels[1:] == expected
    assert groups(model, photo).height > 224


def test_before_the_first_block_every_patch_is_alone():
    shown, traced = run_and_trace(merging(), Image.fromarray(picture(32, 32)))
    painted = side_by_side(shown, traced, [0], scale=1)
    assert painted.crop((40, 0, 72, 32)) == paint(shown, range(17), 8, 1)


def test_a_greyscale_model():
    model = merging(in_chans=1)
    shown, _ = run_and_trace(model, Image.fromarray(picture(32, 32)))
    assert (shown == shown[..., :1]).all()
    assert groups(model, Image.fromarray(picture(32, 32)))


def test_a_custom_preprocessing():
    model, pixels = merging(), picture(32, 32)
    shown, _ = run_and_trace(
        model, Image.fromarray(pixels), lambda image: torch.from_numpy(np.array(image) / 255).movedim(-1, 0).float()
    )
    assert (shown == pixels).all()


# --- errors -----------------------------------------------------------------------------------------------------

IMAGE = np.zeros((8, 8, 3), np.uint8)


def traced():
    return run_and_trace(merging(), Image.new("RGB", (9, 9)))[1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: paint(IMAGE, [0, 1, 2], 4), "group has 3 tokens, 0 of them special; the rest are not 2 x 2 patches"),
        (lambda: paint(IMAGE, [0, 1, 2, 3], 3), "image is 8 x 8 pixels, no multiple of the patch size 3 x 3"),
        (lambda: paint(IMAGE, [0, 1, 2, 3], 16), "no multiple of the patch size 16 x 16"),
        (lambda: paint(IMAGE, torch.zeros(1, 4, dtype=torch.long), 4), r"group is int64 \[1, 4\]"),
        (lambda: paint(IMAGE, torch.zeros(4), 4), r"group is float32 \[4\]"),
        (lambda: paint(IMAGE, [0, -1, 2, 3], 4), "0 or more"),
        (lambda: paint(IMAGE[..., :2], [0, 1, 2, 3], 4), r"image has shape \[8, 8, 2\]"),
        (
            lambda: paint(torch.rand(8, 8, 3).to_sparse(), [0], 8),
            "image is a Tensor that cannot be read; .*height",
        ),
        (lambda: paint(torch.rand(8, 8, 3, device="meta"), [0], 8), "image is a Tensor that cannot be read"),
        (lambda: side_by_side(IMAGE[:1, :1], traced()), r"cuts 1 x 1 pixels into \d+ patches, which are not square"),
        (lambda: paint(IMAGE, [0, 1, 2, 3], 4, scale=0), "scale is 0"),
        (lambda: paint(IMAGE, [0, 1, 2, 3], 4, border=-1), "border is -1"),
        (lambda: paint(IMAGE, [0, 1, 2, 3], 4, colours=palette(3)), "colours has 3 entries; there is a token 3"),
        (lambda: paint_clip([], [0], 4), "not of 0 sizes"),
        (lambda: paint_clip([IMAGE, IMAGE[:4]], [0] * 4, 4), "not of 2 sizes"),
        (lambda: paint_clip([IMAGE] * 3, [0] * 8, 4), "the rest are not 2 x 2 patches in 3 frames"),
        (lambda: contact_sheet([]), "not of 0 sizes"),
        (lambda: contact_sheet([Image.new("RGB", (2, 2))], ["a", "b"]), "captions has 2 entries for 1 pictures"),
        (lambda: groups(merging().train(), Image.new("RGB", (9, 9))), r"call model.eval\(\) first"),
        (lambda: groups(merging(), Image.new("RGB", (9, 9)), [5]), "after has 5; the model has 4 blocks"),
        (lambda: groups(tome.remove(merging()), Image.new("RGB", (9, 9))), "Token Merging is not applied"),
        (lambda: groups(merging(patch_size=(8, 4)), Image.new("RGB", (9, 9))), "which are not square"),
    ],
)
def test_arguments_that_do_not_match_are_named(call, message):
    with pytest.raises(InputError, match=message):
        call()


# --- plm paint-tokens -------------------------------------------------------------------------------------------


@pytest.fixture
def plm(monkeypatch, capsys, tmp_path):
    """Run ``plm paint-tokens WORDS`` in a folder with a photo."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(picture(48, 48)).save("photo.png")

    def run(*words):
        from plm_core.cli import main

        monkeypatch.setattr(sys, "argv", ["plm", "paint-tokens", *map(str, words)])
        with pytest.raises(SystemExit) as exit_:
            main()
        return exit_.value.code or 0, *capsys.readouterr()

    return run


def test_plm_paint_tokens(plm, tmp_path):
    words = ("--model", "tome_micro_shapes", "--random", "--json")
    code, out, err = plm("photo.png", *words, "--out", "a.png", "--after", 2, "--scale", 1)
    assert code == 0
    rows = json.loads(out)
    assert [row["tokens"] for row in rows] == [137, 129, 121, 113, 105, 97]
    assert rows[-1]["after block"] == 6
    assert 1 < rows[0]["largest group"] <= 9
    assert err == f"picture: {tmp_path / 'a.png'}\n"
    assert Image.open("a.png").size[0] == 48 + 8 + 48
    _, out, _ = plm("photo.png", *words, "--r", "(4, -1)")
    assert [row["tokens"] for row in json.loads(out)][:2] == [137, 131]
    assert Image.open("groups.png").size[0] == 4 * 240 + 3 * 8
    _, out, _ = plm("photo.png", *words, "--tokens", 0.25, "--no-prop-attn")
    assert json.loads(out)[-1]["tokens"] == 37
    _, out, _ = plm("photo.png", *words, "--size", 24)
    assert json.loads(out)[0]["tokens"] == 6 * 6 + 1 - 8
    assert Image.open("groups.png").size[0] == 4 * 240 + 3 * 8


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["photo.png", "--model", "vit_tinny"], "no model 'vit_tinny'"),
        (["no.png", "--model", "vit_tiny_patch16_224"], "image 'no.png' cannot be read"),
        (["photo.png", "--model", "x", "--out", "a.txt"], "--out 'a.txt' does not end in a picture format"),
        (["photo.png", "--model", "tome_micro_shapes", "--random", "--r", "4", "--tokens", "0.5"], "give one of r"),
        (["photo.png", "--model", "tome_micro_shapes", "--random", "--r", "many"], "r is 'many'"),
        (["photo.png", "--model", "tome_micro_shapes", "--random", "--positions", "mean"], "rotary"),
        (["photo.png", "--model", "tome_micro_shapes", "--random", "--after", "7"], "the model has 6 blocks"),
        (["photo.png", "--model", "tome_micro_shapes", "--random", "--size", "50"], "50 x 50 pixels into 144 patches"),
        (
            ["photo.png", "--model", "test_vit", "--random", "--size", "1"],
            "cannot run on [1, 3, 1, 1]: Input height (1)",
        ),
        (["photo.png", "--model", "hiera_micro_digits"], "Token Merging cannot work on Hiera"),
    ],
)
def test_errors_of_plm_paint_tokens(plm, tmp_path, words, message):
    code, out, err = plm(*words)
    assert (code, out) == (2, "")
    assert err.startswith("plm: error: ")
    assert err.count("\n") == 1
    assert message in err
    assert [path.name for path in tmp_path.iterdir()] == ["photo.png"]
