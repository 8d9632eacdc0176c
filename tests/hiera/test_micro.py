"""The shipped micro model: its score, its size, its card, its recipe."""

import pytest

import plm_core
from hiera import micro_digits as digits
from plm_core import weights
from plm_core.hookspecs import Model
from plm_core.registry import registry
from plm_core.timm_bridge import shipped_file


@pytest.fixture(scope="module")
def shipped():
    return plm_core.create_model(digits.NAME, pretrained=True)


def declared():
    return registry().get(Model, digits.NAME).pretrained[0]


def test_score_on_held_out_digits_is_the_declared_one(shipped):
    score = digits.evaluate(shipped)[digits.TOP1]
    assert score >= 97
    assert score == pytest.approx(declared().metrics[digits.TOP1], abs=0.3)  # one digit of 360


def test_file_is_small_and_its_card_tells_the_score():
    file = shipped_file(declared().file)
    assert file.stat().st_size <= 2_000_000
    card = file.with_suffix(".md").read_text()
    assert f"{declared().metrics[digits.TOP1]:.2f} %" in card
    for word in ("license: apache-2.0", "--seed 0", "held", "scikit-learn", digits.NAME):
        assert word in card


def test_splits_do_not_share_digits():
    (train, y), (held, z) = plm_core.samples.digits("train"), plm_core.samples.digits("heldout")
    assert (len(train), len(held)) == (len(y), len(z)) == (1437, 360)
    seen = {image.tobytes() for image in train}
    assert sum(image.tobytes() in seen for image in held) == 0
    assert set(z.tolist()) == set(range(10))


def test_recipe_trains_and_writes_what_the_name_loads(tmp_path):
    before = digits.evaluate(plm_core.create_model(digits.NAME))[digits.TOP1]
    scores = digits.train(tmp_path, seed=1, epochs=2)
    assert scores[digits.TOP1] > before + 20
    model = plm_core.create_model(digits.NAME)
    weights.load(model, tmp_path / f"{digits.NAME}.safetensors")
    assert digits.evaluate(model) == scores
    assert f"{scores[digits.TOP1]:.2f} %" in (tmp_path / f"{digits.NAME}.md").read_text()


@pytest.mark.slow
def test_retraining_from_scratch_reaches_the_shipped_score(tmp_path):
    assert digits.train(tmp_path, seed=0)[digits.TOP1] >= 97
