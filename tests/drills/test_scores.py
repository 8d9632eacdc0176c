"""Scores under bad input, one parameter at a time: a number, or one line. The caller's data are never changed."""

import copy
import random
import warnings

import numpy as np
import pytest
import torch

import parc
from parc.catalog import parse_method
from parc.scores.pairwise import ceiling
from plm_core.errors import PlmError

METHODS = parc.methods()
TINY, HUGE = 1e-320, 1e149


def strided(a):
    wide = np.zeros((*a.shape[:-1], 2 * a.shape[-1]), a.dtype)
    wide[..., ::2] = a
    return wide[..., ::2]


def frozen(a):
    a = a.copy()
    a.flags.writeable = False
    return a


# The same values in another form: the same score.
FORMS = {
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "Fortran": np.asfortranarray,
    "read-only": frozen,
    "strided": strided,
    "reversed memory": lambda a: a[::-1].copy()[::-1],
    "lists": lambda a: a.tolist(),
    "tuples": lambda a: tuple(a.tolist()),
    "tensor": torch.tensor,
    "parameter": lambda a: torch.tensor(a, requires_grad=a.dtype.kind == "f"),
    "strided tensor": lambda a: torch.tensor(a.T.copy()).T,
    "nothing masked": np.ma.asarray,
}


def spoiled(value):
    def spoil(a, rng):
        a = a.astype(np.float64)
        a.flat[rng.randrange(a.size)] = value
        return a

    return spoil


# Other values: a number or a PlmError.
VALUES = {
    "NaN": spoiled(np.nan),
    "inf": spoiled(np.inf),
    "-inf": spoiled(-np.inf),
    "huge": spoiled(HUGE),
    "too large": spoiled(1e160),
    "negative": spoiled(-3),
    "all huge": lambda a, rng: a * HUGE,
    "all tiny": lambda a, rng: a * TINY,
    "all small": lambda a, rng: a * 1e-200,
    "zeros": lambda a, rng: np.zeros_like(a),
    "constant": lambda a, rng: np.full_like(a, 3),
    "constant but for rounding": lambda a, rng: 1e8 + a * 1e-8,
    "two values": lambda a, rng: (a > np.median(a)).astype(np.float64),
    "duplicates": lambda a, rng: np.repeat(a[: len(a) // 2], 2, 0),
    "one row": lambda a, rng: a[:1],
    "two rows": lambda a, rng: a[:2],
    "no row": lambda a, rng: a[:0],
    "a row less": lambda a, rng: a[1:],
    "flat": lambda a, rng: a.ravel(),
    "one column": lambda a, rng: a.reshape(len(a), -1)[:, :1],
    "a column thrice": lambda a, rng: np.repeat(a.reshape(len(a), -1)[:, :1], 3, 1),
    "no column": lambda a, rng: a.reshape(len(a), -1)[:, :0],
    "three axes": lambda a, rng: a.reshape(len(a), -1)[..., None].repeat(2, 2),
    "scalar": lambda a, rng: a.flat[0],
    "float16": lambda a, rng: a.astype(np.float16),
    "int8": lambda a, rng: (a * 10).astype(np.int8),
    "uint64": lambda a, rng: np.abs(a * 10).astype(np.uint64),
    "bool": lambda a, rng: a > 0,
    "complex": lambda a, rng: a + 1j,
    "objects": lambda a, rng: a.astype(object),
    "texts": lambda a, rng: a.astype(str),
    "dates": lambda a, rng: a.astype("M8[s]"),
    "records": lambda a, rng: np.zeros(len(a), [("a", float), ("b", int)]),
    "masked": lambda a, rng: np.ma.masked_less(a, 0),
    "ragged": lambda a, rng: [[1.0], [1.0, 2.0]],
    "bfloat16": lambda a, rng: torch.tensor(a).bfloat16(),
    "meta tensor": lambda a, rng: torch.tensor(a).to("meta"),
    "sparse tensor": lambda a, rng: torch.tensor(a).to_sparse(),
    "complex tensor": lambda a, rng: torch.tensor(a) + 1j,
    "quantized tensor": lambda a, rng: torch.quantize_per_tensor(torch.tensor(a).float(), 0.1, 0, torch.qint8),
    "nested tensor": lambda a, rng: torch.nested.as_nested_tensor([torch.tensor(a), torch.tensor(a[1:])]),
    "identifiers": lambda a, rng: np.unique(a, return_inverse=True)[1].reshape(a.shape) * 10**12,
}
# Wrong types for anything.
TYPES = [None, True, 7, -1, 2.5, float("nan"), 10**400, "x", "", b"x", {}, {"a": 1}, set(), [], (), object(), print]
TYPES += [int, iter([1]), Ellipsis, slice(3), [None, 1], [[]], ["a", 1], np.float64(2), np.array(None), "9" * 5000]


def case(rng):
    """Return arguments that every score takes."""
    n, d, classes = rng.randrange(12, 30), rng.choice([2, 3, 8, 40]), rng.randrange(2, 5)
    numbers = np.random.default_rng(rng.randrange(2**32))
    labels = numbers.permutation(np.arange(n) % classes)
    features = numbers.normal(size=(n, d)) + labels[:, None] * numbers.normal(size=d)
    return {
        "features": features.astype(rng.choice([np.float32, np.float64])),
        "labels": labels,
        "probs": numbers.dirichlet(np.ones(5), n),
        "reference_features": numbers.normal(size=(n, 6)),
    }


def changed(value, before):
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return not np.array_equal(value, before, equal_nan=True)
    return False


def judge(drill, name, arguments, **options):
    before = copy.deepcopy({k: v for k, v in arguments.items() if isinstance(v, np.ndarray)})
    answer = drill.attempt(name, lambda: parc.score(name[0], **arguments, **options))
    for key, kept in before.items():
        drill.expect(name, not changed(arguments[key], kept), f"{key} was changed")
    drill.expect(name, isinstance(answer, Exception) or np.isfinite(answer), f"answer {answer!r}")
    return answer


@pytest.mark.filterwarnings("ignore")
@pytest.mark.trials(short=120, long=20_000)
def test_other_values(drill, trials):
    rng = random.Random(0)
    for trial in range(trials):
        method, arguments = METHODS[trial % len(METHODS)], case(rng)
        which, how = rng.choice(list(arguments)), rng.choice(list(VALUES))
        with np.errstate(all="ignore"):
            arguments[which] = VALUES[how](arguments[which], rng)
        judge(drill, (method, which, how), arguments)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.trials(short=60, long=5_000)
def test_the_same_values_in_another_form(drill, trials):
    rng = random.Random(1)
    for trial in range(trials):
        method, arguments = METHODS[trial % len(METHODS)], case(rng)
        which, how = rng.choice(list(arguments)), rng.choice(list(FORMS))
        expected = parc.score(method, **arguments)
        arguments[which] = FORMS[how](arguments[which])
        answer = judge(drill, (method, which, how), arguments)
        right = not isinstance(answer, Exception) and abs(answer - expected) <= 1e-4 * max(1, abs(expected))
        drill.expect((method, which, how), right, f"{answer!r} instead of {expected!r}")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.trials(short=120, long=10_000)
def test_wrong_types(drill, trials):
    rng = random.Random(2)
    for trial in range(trials):
        method, arguments = METHODS[trial % len(METHODS)], case(rng)
        own = list(parse_method(method).function.__kwdefaults__ or ())
        which = rng.choice(["method", "num_classes", "pca", *arguments, *own])
        value = rng.choice(TYPES)
        if which == "method":
            drill.attempt((which, repr(value)[:20]), lambda value=value, given=arguments: parc.score(value, **given))
        else:
            judge(drill, (method, which, repr(value)[:20]), arguments | {which: value})


@pytest.mark.filterwarnings("ignore")
@pytest.mark.trials(short=150, long=5_000)
def test_what_surrounds_the_scores(drill, trials):
    """score_bank, sample_probe, ceiling and embed, with one parameter of a wrong type or value."""
    import plm_core

    rng = random.Random(3)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
    for trial in range(trials):
        data = case(rng)
        labels = data.pop("labels")
        calls = {
            parc.score_bank: {"bank": {"m": parc.Features(**data)}, "labels": labels, "methods": ["knn", "parc"]}
            | {"pca": None, "num_classes": None, "bootstraps": 2, "seed": 0},
            parc.sample_probe: {"labels": labels, "budget": 8, "run": 0, "num_classes": None},
            ceiling: {"labels": labels},
            plm_core.embed: {"model": model, "x": torch.zeros(1, 3, 2, 2)},
        }
        call = list(calls)[trial % len(calls)]
        arguments = calls[call]
        which = rng.choice(list(arguments))
        if which == "labels" and rng.random() < 0.5:
            how = rng.choice(list(VALUES))
            with np.errstate(all="ignore"):
                value = VALUES[how](labels, rng)
        else:
            value = rng.choice(TYPES)
            how = repr(value)[:20]
        drill.attempt((call.__name__, which, how), lambda c=call, a=arguments | {which: value}: c(**a))


def test_a_bank_says_what_is_wrong_with_one_model(drill):
    """Other models of the bank have the scores that they have alone."""
    rng = random.Random(4)
    good = case(rng)
    labels = good.pop("labels")
    alone = {row.method: row.score for row in parc.score_bank({"good": parc.Features(**good)}, labels, ["parc", "rsa"])}
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for how, spoil in VALUES.items():
            bad = parc.Features(spoil(good["features"], rng), reference_features=good["reference_features"])
            bank = {"bad": bad, "good": parc.Features(**good)}
            rows = drill.attempt(how, lambda bank=bank: parc.score_bank(bank, labels, ["parc", "rsa"]))
            if not isinstance(rows, PlmError):
                kept = {row.method: row.score for row in rows if row.model == "good"}
                drill.expect(how, kept == alone, f"{kept} instead of {alone}")
