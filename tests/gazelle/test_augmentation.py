"""The augmentation keeps head and gaze in the picture and where they were, and samples have what a training needs."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from gazelle import data, targets
from gazelle.data import Annotations, Person, Scene, augment
from gazelle.data.augmentation import JITTER
from gazelle.preprocessing import preprocess
from plm_core import InputError

share = st.floats(0, 1)
beyond = st.floats(-0.5, 1.5)
sides = st.tuples(beyond, beyond).map(sorted)


def marked(width=90, height=60, at=(30, 20)):
    """A dark picture with one bright pixel."""
    image = Image.new("L", (width, height))
    image.putpixel(at, 255)
    return image


class Fixed:
    """A source of randomness that applies the augmentations of the given numbers only: 0 crop, 1 flip, 2 jitter."""

    def __init__(self, *applied, seed=0):
        self.draws = iter([0.0 if number in applied else 0.9 for number in range(3)])
        self.rng = np.random.default_rng(seed)

    def random(self):
        return next(self.draws)

    def __getattr__(self, name):
        return getattr(self.rng, name)


@settings(deadline=None, max_examples=300)
@given(sides, sides, beyond, beyond, st.booleans(), st.integers(0, 2**32), st.integers(1, 70), st.integers(1, 70))
def test_boxes_stay_valid_and_gaze_that_is_inside_stays_inside(x, y, gx, gy, inside, seed, width, height):
    box = (x[0], y[0], x[1], y[1])
    image, (x0, y0, x1, y1), gaze = augment(
        Image.new("L", (width, height)), box, (gx, gy), inside, np.random.default_rng(seed)
    )
    assert 1 <= image.width <= width
    assert 1 <= image.height <= height
    assert 0 <= x0 <= x1 <= 1
    assert 0 <= y0 <= y1 <= 1
    if inside:
        assert 0 <= gaze[0] <= 1
        assert 0 <= gaze[1] <= 1
    else:
        assert gaze == (-1, -1)


@settings(deadline=None, max_examples=200)
@given(share, share, share, share, st.integers(0, 2**32))
def test_a_crop_keeps_what_is_looked_at_and_the_head_to_a_pixel(gx, gy, bx, by, seed):
    at = (min(int(gx * 90), 89), min(int(gy * 60), 59))
    gaze = ((at[0] + 0.5) / 90, (at[1] + 0.5) / 60)
    box = (bx, by, min(bx + 0.3, 1), min(by + 0.3, 1))
    image, new, point = augment(marked(at=at), box, gaze, True, Fixed(0, seed=seed))
    x, y = point[0] * image.width, point[1] * image.height
    if x < image.width and y < image.height:  # a crop may end at the pixel of the point, as the original's does
        assert image.getpixel((int(x), int(y))) == 255
    else:
        assert not np.asarray(image).any()
    pixels = np.multiply(new, (image.width, image.height) * 2)
    expected = np.multiply(box, (90, 60) * 2)
    assert (pixels[2:] - pixels[:2] <= expected[2:] - expected[:2] + 1e-9).all()
    assert (pixels[2:] - pixels[:2] > expected[2:] - expected[:2] - 1).all()


def test_crops_reach_every_border_that_they_may():
    """The picture has 12 x 10 pixels, each of its own brightness, which tells where a crop begins and ends."""
    image = Image.fromarray(np.arange(120, dtype=np.uint8).reshape(10, 12))
    box, gaze = (4.5 / 12, 3 / 10, 6 / 12, 5 / 10), (8.5 / 12, 6 / 10)
    corners = []
    for seed in range(500):
        crop = np.asarray(augment(image, box, gaze, True, Fixed(0, seed=seed))[0])
        corners.append((crop[0, 0] % 12, crop[0, 0] // 12, crop[-1, -1] % 12 + 1, crop[-1, -1] // 12 + 1))
    lefts, tops, rights, bottoms = (set(map(int, values)) for values in zip(*corners, strict=True))
    assert (lefts, rights) == (set(range(5)), set(range(8, 13)))
    assert (tops, bottoms) == (set(range(4)), set(range(6, 11)))


def test_a_flip_mirrors_picture_box_and_gaze():
    image, box, gaze = augment(marked(), (0.1, 0.2, 0.3, 0.6), (30.5 / 90, 20.5 / 60), True, Fixed(1))
    assert box == pytest.approx((0.7, 0.2, 0.9, 0.6))
    assert gaze == pytest.approx((59.5 / 90, 20.5 / 60))
    assert image.getpixel((59, 20)) == 255


def test_the_box_moves_by_a_fifth_of_its_sides_at_most():
    box = np.array((0.3, 0.4, 0.5, 0.8))
    moved = [augment(marked(), tuple(box), (0.5, 0.5), True, Fixed(2, seed=seed)) for seed in range(300)]
    shifts = np.array([new for _, new, _ in moved]) - box
    most = JITTER * np.array((0.2, 0.4, 0.2, 0.4))
    assert (np.abs(shifts) <= most + 1e-9).all()
    assert (np.abs(shifts).max(0) > 0.95 * most).all()
    assert np.abs(np.corrcoef(shifts.T) - np.eye(4)).max() < 0.2, "each side moves by itself"
    assert {gaze for _, _, gaze in moved} == {(0.5, 0.5)}


def test_each_is_applied_in_half_of_the_cases():
    image, gaze = marked(), (0.3, 0.3)
    counts = np.zeros(3)
    for seed in range(600):
        rng = np.random.default_rng(seed)
        new, (x0, y0, x1, y1), point = augment(image, (0.1, 0.1, 0.2, 0.2), gaze, True, rng)
        width, height = (x1 - x0) * new.width, (y1 - y0) * new.height
        counts += new.size != image.size, point[0] < x0, abs(width - 9) > 1e-6 and abs(height - 6) > 1e-6
    assert (np.abs(counts / 600 - 0.5) < 0.08).all()


def test_nothing_but_the_generator_decides():
    np.random.seed(0)
    state = np.random.get_state()[1].copy()
    results = []
    for _ in "12":
        image, *rest = augment(marked(), (0.1, 0.1, 0.5, 0.5), (0.5, 0.5), True, np.random.default_rng(7))
        results.append((image.tobytes(), rest))
    assert results[0] == results[1]
    assert (np.random.get_state()[1] == state).all()


@pytest.mark.parametrize(
    ("box", "gaze", "message"),
    [
        ((0.5, 0.5, 0.1, 0.9), (0.5, 0.5), r"box is \(0.5, 0.5, 0.1, 0.9\); \(x0, y0, x1, y1\) in fractions"),
        ((0.5, 0.5, float("nan"), 0.9), (0.5, 0.5), "box is"),
        ((0.5, 0.5), (0.5, 0.5), "box is"),
        ((0, 0, 1, 1), (0.5, float("inf")), r"gaze is \(0.5, inf\); \(x, y\) in fractions is expected"),
    ],
)
def test_arguments_are_checked(box, gaze, message):
    with pytest.raises(InputError, match=message):
        augment(marked(), box, gaze, True, np.random.default_rng(0))


# --- samples --------------------------------------------------------------------------------------------------


def person(box=(0.1, 0.2, 0.3, 0.4), gaze=((0.5, 0.25),), inout=1, head_id="0"):
    return Person(box, gaze, inout, head_id)


@pytest.fixture
def annotations(tmp_path):
    scenes = []
    people = [
        (person(), person(gaze=((0.7, 0.7),), inout=0)),  # GazeFollow has points of targets outside
        (person(inout=None), person((0.2, 0.2, 0.4, 0.4), ((0.9, 0.1), (0.8, 0.2)))),
    ]
    for number, group in enumerate(people):
        path = tmp_path / f"{number}.png"
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (50, 80 + number, 3), np.uint8)).save(path)
        scenes.append(Scene(path, 80 + number, 50, group))
    return Annotations("test", tuple(scenes))


def test_a_sample_is_one_person(annotations):
    samples = data.PersonSamples(annotations, preprocess(32), (16, 24))
    assert len(samples) == 3, "nobody has said where the target of the fourth is"
    first, second, third = samples
    assert first["image"].shape == (3, 32, 32)
    assert (first["box"], first["gaze"].tolist(), first["inout"]) == ((0.1, 0.2, 0.3, 0.4), [0.5, 0.25], 1)
    torch.testing.assert_close(first["heatmap"], targets.heatmap(0.5, 0.25, 16, 24))
    assert (second["gaze"].tolist(), second["inout"]) == ([-1, -1], 0)
    assert not second["heatmap"].any()
    torch.testing.assert_close(third["gaze"], torch.tensor([0.9, 0.1]))
    torch.testing.assert_close(third["image"], preprocess(32)(annotations.scenes[1].image()))


def test_only_people_who_look_inside_are_taken_on_request(annotations):
    samples = data.PersonSamples(annotations, preprocess(32), inside_only=True)
    assert [sample["inout"].item() for sample in samples] == [1, 1]
    outside = Annotations("test", (Scene(annotations.scenes[0].path, 80, 50, (person(inout=0),)),))
    with pytest.raises(InputError, match="data 'test' has no person whose target is inside the picture"):
        data.PersonSamples(outside, preprocess(32), inside_only=True)


def test_augmented_samples_follow_torchs_generator_and_fit_their_targets(annotations):
    samples = data.PersonSamples(annotations, preprocess(32), augmented=True)
    drawn = []
    for seed in (0, 0, 1, 2, 3):
        torch.manual_seed(seed)
        drawn.append(samples[0])
    torch.testing.assert_close(drawn[0], drawn[1])
    assert len({sample["box"] for sample in drawn}) > 2
    for sample in drawn:
        torch.testing.assert_close(sample["heatmap"], targets.heatmap(*sample["gaze"].tolist(), 64, 64))
        assert sample["heatmap"].max() == 1


def test_samples_are_collated_with_one_box_for_each_image(annotations):
    loader = DataLoader(
        pickle.loads(pickle.dumps(data.PersonSamples(annotations, preprocess(32)))),
        batch_size=3,
        collate_fn=data.collate_people,
    )
    (batch,) = loader
    assert batch["images"].shape == (3, 3, 32, 32)
    assert batch["boxes"] == [[(0.1, 0.2, 0.3, 0.4)], [(0.1, 0.2, 0.3, 0.4)], [(0.2, 0.2, 0.4, 0.4)]]
    assert (batch["gaze"].shape, batch["heatmaps"].shape) == ((3, 2), (3, 64, 64))
    assert batch["inout"].tolist() == [1, 0, 1]


def test_pictures_are_collated_with_the_boxes_of_their_people(annotations):
    samples = data.SceneSamples(annotations, preprocess(32))
    (batch,) = DataLoader(samples, batch_size=2, collate_fn=data.collate_scenes)
    assert batch["images"].shape == (2, 3, 32, 32)
    assert [len(boxes) for boxes in batch["boxes"]] == [2, 2]
    assert batch["boxes"][1][1] == (0.2, 0.2, 0.4, 0.4)
    assert [person.inout for person in batch["people"]] == [1, 0, None, 1]
    assert batch["sizes"] == [(50, 80), (50, 80), (50, 81), (50, 81)]


def test_a_picture_that_cannot_be_read_is_named(annotations):
    annotations.scenes[0].path.write_text("text")
    for samples in (data.PersonSamples(annotations, preprocess(32)), data.SceneSamples(annotations, preprocess(32))):
        with pytest.raises(InputError, match=r"image '.*0.png' cannot be read: not an image"):
            samples[0]
