"""The shipped micro models: their scores, sizes, cards and recipes."""

import pytest

import plm_core
from hiera.micro import abswin, detector, digits, motions
from plm_core import shapes, weights
from plm_core.hookspecs import Model
from plm_core.registry import registry
from plm_core.utils.references import resolve, shipped_file

MICROS = sorted(
    name for name, entry in registry().all(Model).items() if entry.declaration.micro and entry.plugin == "hiera"
)
# The least score that each must reach, in the units of its metric, and how far the shipped score may differ on other
# machines.
BOUNDS = {
    "hiera_micro_digits": (97, 0.3),
    "hiera_micro_abswin": (40, 0.9),  # at 64 px, which it was not trained on; 0.9 % are three of 360 digits
    "hiera_micro_plain": (30, 0.9),
    "hiera_micro_shapes": (75, 0.5),
    "hiera_micro_motions": (95, 0.5),
    "hiera_micro_detector": (0.7, 0.02),
}


def declared(name):
    return registry().get(Model, name)


def test_every_micro_model_has_a_bound():
    assert sorted(BOUNDS) == MICROS


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == detector.NAME else name for name in MICROS]
)
def test_score_on_held_out_data_is_the_declared_one(name):
    spec = declared(name)
    scores = resolve(spec.micro.evaluate)(plm_core.create_model(name, pretrained=True))
    least, tolerance = BOUNDS[name]
    assert scores.keys() == spec.pretrained[0].metrics.keys()
    for key, value in scores.items():
        assert value >= least
        assert value == pytest.approx(spec.pretrained[0].metrics[key], abs=tolerance)


def test_score_of_the_detector_on_a_fifth_of_the_held_out_data(monkeypatch):
    monkeypatch.setattr(detector, "HELD_OUT", 100)
    scores = detector.evaluate(plm_core.create_model(detector.NAME, pretrained=True))
    assert scores == pytest.approx({detector.BOX: 0.881, detector.MASK: 0.863}, abs=0.02)


@pytest.mark.parametrize("name", MICROS)
def test_file_is_small_and_its_card_tells_how_it_was_trained(name):
    file = shipped_file(declared(name).pretrained[0].file)
    assert file.stat().st_size <= 2_000_000
    card = " ".join(file.with_suffix(".md").read_text().split())
    module = declared(name).micro.recipe.partition(":")[0]
    for word in ("license: apache-2.0", "--seed 0", "held", f"# {name}", f"`{module}`"):
        assert word in card
    for value in declared(name).pretrained[0].metrics.values():
        assert (f"{value:.2f} %" if value > 1 else f"{value:.3f}") in card


def test_labels_are_the_words_of_the_world():
    labels = {name: declared(f"hiera_micro_{name}").pretrained[0].labels for name in ("shapes", "motions", "detector")}
    assert labels == {"shapes": shapes.SHAPES, "motions": shapes.MOTIONS, "detector": shapes.SHAPES}


def test_splits_do_not_share_digits():
    (train, y), (held, z) = plm_core.samples.digits("train"), plm_core.samples.digits("heldout")
    assert (len(train), len(held)) == (len(y), len(z)) == (1437, 360)
    pixels = {image.tobytes() for image in train}
    assert sum(image.tobytes() in pixels for image in held) == 0
    assert set(z.tolist()) == set(range(10))


def test_recipe_trains_and_writes_weights_that_the_name_loads(tmp_path):
    name = digits.NAME
    before = digits.evaluate(plm_core.create_model(name))[digits.TOP1]
    scores = digits.train(tmp_path, seed=1, epochs=2)
    assert scores[digits.TOP1] > before + 20
    model = plm_core.create_model(name)
    weights.load(model, tmp_path / f"{name}.safetensors")
    assert digits.evaluate(model) == scores
    assert f"{scores[digits.TOP1]:.2f} %" in (tmp_path / f"{name}.md").read_text()


@pytest.mark.parametrize("name", ["abswin", "motions", "detector"])
def test_recipe_writes_a_file_that_the_name_loads(name, tmp_path, monkeypatch):
    """Run the whole recipe on very little data. A slow test checks that it reaches its score."""
    module = resolve(declared(f"hiera_micro_{name}").micro.recipe.partition(":")[0] + ":__name__")
    assert module == f"hiera.micro.{name}"
    if name == "abswin":
        images, labels = plm_core.samples.digits("train")
        few = {"train": (images[:128], labels[:128]), "heldout": plm_core.samples.digits("heldout")}
        monkeypatch.setattr(plm_core.samples, "digits", few.get)
        scores = abswin.train(tmp_path, epochs=1)
    elif name == "motions":
        draw = motions.clips
        monkeypatch.setattr(motions, "clips", lambda split, count, *rest: draw(split, min(count, 64), *rest))
        scores = motions.train(tmp_path, epochs=1, count=64)
    else:
        from hiera.micro import detector

        monkeypatch.setattr(detector, "HELD_OUT", 10)
        scores = detector.train(tmp_path, epochs=1, count=16)
    model = plm_core.create_model(f"hiera_micro_{name}")
    weights.load(model, tmp_path / f"hiera_micro_{name}.safetensors")
    assert resolve(declared(f"hiera_micro_{name}").micro.evaluate)(model) == scores


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", MICROS)
def test_retraining_from_scratch_reaches_the_bound(name, tmp_path):
    scores = resolve(declared(name).micro.recipe)(tmp_path, seed=0)
    assert min(scores.values()) >= BOUNDS[name][0]
