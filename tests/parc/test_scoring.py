import re
import sys
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

import parc
from parc import scoring
from parc.catalog import parse_method
from parc.scores import pairwise
from parc.scores import pca as pca_module
from parc.scores.inputs import features_of
from parc.scores.linalg import compact
from parc.scoring import Features, score, score_bank
from plm_core.errors import InputError, NotSupported, UnknownName
from plm_core.hookspecs import Scorer
from plm_core.registry import registry

OURS = (
    "parc",
    "parc-auc",
    "rsa",
    "dds",
    "leep",
    "nce",
    "energy",
    "nleep",
    "hscore",
    "hscore-shrunk",
    "lda-loo",
    "sfda",
)
OURS += ("gbc", "transrate", "logme", "knn", "split-knn", "logistic", "ridge-press")

pytestmark = pytest.mark.filterwarnings("ignore:.* it needs more images than dimensions")


def model(n=60, d=12, classes=3, seed=0, strength=1.0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    x = rng.standard_normal((n, d)) + strength * np.random.default_rng(99).standard_normal((classes, d))[y]
    p = rng.dirichlet(np.full(5, 0.5), n)
    return Features(x.astype(dtype), p, rng.standard_normal((n, 6)) + x[:, :1]), y


def everything(features):
    return {"probs": features.probs, "reference_features": features.reference_features}


# Names


def test_methods_are_ours_first():
    assert tuple(parc.methods()[: len(OURS)]) == OURS
    assert set(parc.methods()) >= set(registry().all(Scorer))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("PARC", "parc"),
        ("h-score", "hscore"),
        ("H_Score_Shrunk", "hscore-shrunk"),
        ("LogME", "logme"),
        ("k-NN", "knn"),
        ("N-LEEP", "nleep"),
        ("parc_auc", "parc-auc"),
        ("cka", "dds"),
        ("AUC", "parc-auc"),
        ("LDA", "lda-loo"),
        ("ridge", "ridge-press"),
    ],
)
def test_spellings(text, name):
    assert parse_method(text).scorer.name == name


def test_options_in_the_name():
    method = parse_method("K-NN:k=5,metric=cosine,pca=compat:8", pca=32, k=3)
    assert (method.options, method.pca) == ({"k": 5, "metric": "cosine"}, "compat:8")
    assert parse_method("parc", pca=32).pca == 32


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("parcc", UnknownName, "no scorer 'parcc'; did you mean 'parc'"),
        ("knn,parc", UnknownName, "no scorer 'knn,parc'; several are a list, as in ['knn', 'parc']"),
        ("qqq", UnknownName, "no scorer 'qqq'; there are: parc, parc-auc, rsa"),
        ("knn:k", InputError, "method 'knn:k': option 'k' is not of the form key=value"),
        ("knn:neighbours=3", InputError, "knn takes no option 'neighbours'; it takes k, metric, pca"),
        ("leep:probs=3", InputError, "leep takes no option 'probs'; it takes pca"),
    ],
)
def test_methods_that_are_refused(text, error, message):
    with pytest.raises(error, match=re.escape(message)):
        parse_method(text)


# One score


@pytest.mark.parametrize("name", OURS)
def test_every_score_is_a_number_that_options_and_reduction_reach(name):
    features, y = model()
    assert np.isfinite(score(name, features.features, y, num_classes=3, **everything(features)))
    assert np.isfinite(score(name, features.features, y, pca=4, **everything(features)))


@pytest.mark.parametrize("name", OURS)
def test_four_images_of_two_classes(name):
    """The matrix of plm-core makes such calls. The result is a number, or a reason."""
    x = np.random.default_rng(0).standard_normal((4, 192)).astype(np.float32)
    function, y = parse_method(name).function, np.array([0, 1, 1, 0])
    if name in ("rsa", "dds", "leep", "nce"):
        with pytest.raises(NotSupported, match=f"{name} needs"):
            function(x, y)
    else:
        assert np.isfinite(function(x, y))


@pytest.mark.parametrize("name", [name for name in OURS if name not in ("rsa", "dds", "energy")])
def test_better_features_score_higher(name):
    y = model()[1]
    low, high = (model(strength=s, seed=1)[0].features for s in (0.2, 3))
    p = np.eye(5)[y] * 0.6 + 0.08  # source classes that tell the labels
    scores = [
        score(name, x, y, probs=q, pca=4 if name in ("sfda", "hscore") else None)
        for x, q in ((low, model()[0].probs), (high, p))
    ]
    assert scores[1] > scores[0]


def test_options_reach_the_score():
    features, y = model(strength=0.3)
    x = features.features
    assert score("knn", x, y, k=5) == score("knn:k=5", x, y) != score("knn", x, y)
    assert score("parc:pca=4", x, y) == score("parc", x, y, pca=4) != score("parc", x, y)


def test_reduction_is_of_features_and_reference():
    from parc.scores.pairwise import dds
    from parc.scores.pca import reduce

    features, y = model()
    x, r = features.features, features.reference_features
    expected = dds(reduce(x, "compat:4"), y, reference_features=reduce(r, "compat:4"))
    assert score("dds", x, y, reference_features=r, pca="compat:4") == expected
    with pytest.raises(InputError, match="reference_features: pca=8 asks for more than the 6 dimensions"):
        score("dds", x, y, reference_features=r, pca=8)


def test_what_a_score_does_not_need_does_not_matter():
    features, y = model()
    narrow = Features(features.features, features.probs[:3], features.features[:, :2])
    assert score("knn", narrow.features, y, narrow.probs, narrow.reference_features, pca=4) > 0
    (row,) = score_bank({"m": narrow}, y, ["knn"], bootstraps=4, pca=4)
    assert row.low < row.score < row.high


def test_a_bank_keeps_all_of_narrow_features():
    from parc.scores.pca import reduce

    features, y = model()
    wide, own = (score_bank({"m": features}, y, ["dds", "knn:pca=none"], pca=pca) for pca in (999, None))
    assert wide[1].score == own[1].score
    x, r = features.features, features.reference_features  # of 12 and 6 dimensions, each reduced to its own
    reduced = score("dds", reduce(x, 12), y, reference_features=reduce(r, 6))
    assert wide[0].score == pytest.approx(reduced)
    assert wide[0].score != pytest.approx(own[0].score)


@pytest.mark.parametrize(
    ("bank", "said"),
    [
        ([np.ones((4, 2))], "bank is a list; a mapping of names to parc.Features is needed"),
        ({"m": np.ones((4, 2))}, r"bank\['m'\] is a ndarray; parc.Features\(...\) is needed"),
    ],
)
def test_a_bank_of_something_else(bank, said):
    with pytest.raises(InputError, match=said):
        score_bank(bank, [0, 0, 1, 1], ["knn"])


@pytest.mark.parametrize("text", ["gbc:dims=x", "energy:tail=x", "logistic:percent_train=x", "nleep:components=2.5"])
def test_an_option_of_a_wrong_type(text):
    features, y = model()
    with pytest.raises(InputError, match=text.partition(":")[2].replace("=", ".*")):
        score(text, features.features, y)


def test_a_wrong_reduction_is_said_at_once():
    with pytest.raises(InputError, match="pca='x' is not allowed"):
        parse_method("knn:pca=x")


def test_tensors_and_lists():
    import torch

    features, y = model(dtype=np.float32)
    expected = score("leep", features.features, y, features.probs)
    tensors = (torch.tensor(v) for v in (features.features, y, features.probs))
    assert score("leep", *tensors) == expected
    assert score("parc", torch.tensor(features.features, requires_grad=True), y.tolist()) == pytest.approx(
        score("parc", features.features, y)
    )


@pytest.fixture
def copied(monkeypatch):
    """Treat tensors on the CPU as if they were on an accelerator, and note what is copied whole."""
    import torch

    whole = []

    def note(x, *args, **options):
        whole.extend([x] if isinstance(x, torch.Tensor) else [])
        return features_of(x, *args, **options)

    for module in (scoring, pca_module):
        monkeypatch.setattr(module, "on_accelerator", lambda x: isinstance(x, torch.Tensor))
    monkeypatch.setattr(scoring, "features_of", note)
    return whole


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize(("d", "pca"), [(150, None), (150, 8), (12, None), (12, 8), (150, "compat:8")])
def test_tensors_on_an_accelerator_are_reduced_there(copied, name, d, pca):
    """The same scores, and wide features are copied only for a score that needs each of their dimensions."""
    import torch

    features, y = model(d=d, strength=0.4)
    tensor = torch.tensor(features.features)
    more = everything(features) | {"reference_features": features.features}
    expected = score(name, features.features, y, pca=pca, **more)
    assert score(name, tensor, y, pca=pca, **more) == pytest.approx(expected, rel=1e-5, abs=1e-5)
    stays = pca == 8 or (pca is None and name in scoring.ROTATION_INVARIANT)
    assert (len(copied) == 0) is stays
    bank = {"m": Features(tensor, features.probs, features.features)}
    copied.clear()
    (row,) = score_bank(bank, y, [name], pca=pca, bootstraps=3)
    assert (len(copied) == 0) is stays
    (same,) = score_bank({"m": replace(bank["m"], features=features.features)}, y, [name], pca=pca, bootstraps=3)
    assert (row.score, row.low, row.high) == pytest.approx((same.score, same.low, same.high), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("spoil", [np.nan, np.inf, 1e160])
@pytest.mark.parametrize("pca", [None, 4])
def test_bad_tensors_on_an_accelerator_are_refused(copied, spoil, pca):
    import torch

    features, y = model()
    bad = torch.tensor(features.features)
    bad[3, 2] = spoil
    for x, said in (
        (bad, "features has"),
        (bad * 0 if spoil == 1e160 else bad[:1], "features"),
        (bad[:, 0], "features is"),
    ):
        with pytest.raises(InputError, match=said):
            score("knn", x, y[: len(x)], pca=pca)
        (row,) = score_bank({"m": Features(x)}, y, ["knn"], pca=pca)
        assert "features" in row.error


@pytest.mark.parametrize(
    ("labels", "name", "message"),
    [
        (np.eye(3)[np.arange(60) % 3], "leep", "leep cannot do multilabel labels; these can: parc, rsa, dds, energy"),
        (
            np.linspace(0, 1, 60),
            "parc",
            "parc cannot do regression labels; cast classes to integers, or",
        ),
    ],
)
def test_labels_that_a_score_cannot_do(labels, name, message):
    with pytest.raises(NotSupported, match=re.escape(message)):
        score(name, model()[0].features, labels)


@pytest.mark.parametrize("labels", [np.eye(3)[np.arange(60) % 3], np.linspace(0, 1, 60)], ids=["many", "regression"])
def test_labels_of_other_kinds_do_where_declared(labels):
    features, _ = model()
    kind = "multilabel" if labels.ndim == 2 else "regression"
    able = [name for name in OURS if kind in parse_method(name).scorer.targets]
    assert len(able) >= 4
    for name in able:
        assert np.isfinite(score(name, features.features, labels, **everything(features)))


@pytest.mark.parametrize("name", OURS)
def test_a_single_column_of_labels_is_no_other_kind(name):
    features, y = model()
    for labels in (y, (y > 0).astype(int), (y > 0)):
        flat = score(name, features.features, labels, **everything(features))
        assert score(name, features.features, labels[:, None], **everything(features)) == flat


def test_a_headless_model_says_so():
    features, y = model()
    with pytest.raises(NotSupported, match="leep needs probs"):
        score("leep", features.features, y)
    assert np.isfinite(score("parc", features.features, y, probs=np.full((60, 2), 7)))  # not its business


def test_checks_come_before_any_score():
    features, y = model()
    with pytest.raises(InputError, match="labels has 2 for num_classes=2"):
        score("rsa", features.features, y, num_classes=2)
    with pytest.raises(InputError, match="labels has 59 rows for 60 images"):
        score("rsa", features.features, y[1:])
    with pytest.raises(InputError, match="NaN"):
        score("energy", features.features * np.nan, y)


def test_scoring_needs_no_torch():
    import subprocess

    code = "import sys, parc, numpy as np; parc.score('parc', np.eye(6) + np.tri(6), [0, 0, 1, 1, 2, 2])"
    code += "; parc.methods(); print([m for m in ('torch', 'timm', 'sklearn', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# A bank


def test_bank_is_score_by_score():
    bank = {f"m{seed}": model(seed=seed)[0] for seed in range(3)}
    y = model()[1]
    methods = ["parc:pca=4", "knn:k=3", "LEEP", "dds", "nce", "logme"]
    rows = score_bank(bank, y, methods, num_classes=4)
    assert [(row.model, row.method) for row in rows] == [(m, method) for m in bank for method in methods]
    for row in rows:
        features = bank[row.model]
        assert row.score == score(row.method, features.features, y, num_classes=4, **everything(features))
        assert (row.low, row.high, row.error) == (None, None, None)
        assert row.seconds > 0


class Loading(Mapping):
    """A bank that reads the features of a model, and its reference, when they are asked for."""

    def __init__(self, banks):
        self.banks = banks

    def __getitem__(self, name):
        seed = self.banks[name]
        return Features(model(seed=seed)[0].features, reference_features=model(seed=seed + 7)[0].features)

    def __iter__(self):
        return iter(self.banks)

    def __len__(self):
        return len(self.banks)


def test_a_bank_that_loads_its_references_does_not_mix_them_up():
    """An array that is gone may leave its identity to the next one."""
    y = model()[1]
    bank = Loading({f"m{seed}": seed for seed in range(6)})
    rows = score_bank(bank, y, ["dds"])
    own = [score("dds", f.features, y, reference_features=f.reference_features) for f in bank.values()]
    assert [row.score for row in rows] == own


def test_dds_compares_its_reference_with_itself_once(monkeypatch):
    real, calls = pairwise._dependence, []
    monkeypatch.setattr(pairwise, "_dependence", lambda a, b: (calls.append(a is b), real(a, b))[1])
    y, shared = model()[1], model()[0].reference_features
    bank = {f"m{seed}": Features(model(seed=seed)[0].features, reference_features=shared) for seed in range(3)}
    score_bank(bank, y, ["dds"])
    assert sorted(calls) == [False] * 3 + [True] * 4  # each model with itself, and the reference once


@pytest.mark.parametrize(("name", "piece"), [("rsa", "ranks"), ("dds", "unit_rows")])
@pytest.mark.parametrize("pca", [None, 4])
def test_a_bank_prepares_its_reference_once(monkeypatch, name, piece, pca):
    """The reference is ranked for the first of three models. Its owner may change it afterwards."""
    from parc.scores import reference

    real, prepared = getattr(reference, piece), []
    monkeypatch.setattr(reference, piece, lambda *args: (prepared.append(args), real(*args))[1])
    y, shared = model()[1], model()[0].reference_features
    bank = {f"m{seed}": Features(model(seed=seed)[0].features, reference_features=shared) for seed in range(3)}
    rows = score_bank(bank, y, [name], pca=pca, bootstraps=3)
    assert len(prepared) == 1
    own = [score(name, f.features, y, reference_features=shared, pca=pca) for f in bank.values()]
    assert [row.score for row in rows] == own
    shared[:30] = shared[:30][::-1].copy()
    assert score(name, bank["m0"].features, y, reference_features=shared, pca=pca) != own[0]
    kept, before = reference.Reference(shared), shared.copy()
    with pytest.raises(ValueError, match="read-only"):
        kept[0] = 0
    shared += 1
    assert (kept == before).all()
    assert reference.Reference(kept) is kept


def test_bank_without_its_own_reduction_takes_the_given_one():
    features, y = model()
    one, other = score_bank({"m": features}, y, ["parc", "parc:pca=3"], pca=4)
    assert one.score == score("parc", features.features, y, pca=4)
    assert other.score == score("parc", features.features, y, pca=3)


def test_what_cannot_be_scored_is_a_row():
    good, y = model()
    bank = {
        "good": good,
        "headless": Features(good.features),
        "broken": Features(good.features * np.nan, good.probs),
        "short": Features(good.features[1:]),
    }
    rows = {(row.model, row.method): row for row in score_bank(bank, y, ["parc", "leep", "parc:pca=13"], bootstraps=4)}
    assert rows["good", "leep"].error is rows["headless", "parc"].error is None
    assert rows["headless", "leep"].score is rows["headless", "leep"].low is None
    assert "without a trained classifier" in rows["headless", "leep"].error
    assert "NaN" in rows["broken", "parc"].error
    assert "NaN" in rows["broken", "leep"].error
    assert rows["short", "parc"].error == "features has 59 rows for 60 images"
    assert rows["good", "parc:pca=13"].error is None  # all 12 dimensions


def test_bad_methods_and_labels_stop_a_bank():
    features, y = model()
    with pytest.raises(UnknownName):
        score_bank({"m": features}, y, ["parc", "parcx"])
    with pytest.raises(InputError, match="1 class"):
        score_bank({"m": features}, y * 0, ["parc"])
    for option, value in (("bootstraps", -1), ("bootstraps", 2.5), ("seed", -1), ("seed", "0"), ("num_classes", 0)):
        with pytest.raises(InputError, match=f"{option} is {value!r}; a whole number from"):
            score_bank({"m": features}, y, ["parc"], **{option: value})
    for methods in (None, 3, [None], "knn:k=" + "1+" * 20_000 + "1"):
        with pytest.raises(InputError, match=r"methods? is"):
            score_bank({"m": features}, y, methods)


# Intervals


@pytest.mark.parametrize("name", OURS)
def test_intervals_hold_the_score(name):
    features, y = model(strength=0.5, n=90)
    (row,) = score_bank({"m": features}, y, [name], bootstraps=15)
    assert row.low <= row.score <= row.high


@pytest.mark.parametrize("name", ["parc-auc", "lda-loo", "knn", "split-knn", "logistic", "ridge-press"])
def test_intervals_of_accuracies_end_at_0_and_100(name):
    y, signs = np.arange(40) % 2, np.array([1, -1, 1, -1, 1, -1])
    x = np.random.default_rng(0).standard_normal((40, 6))
    bank = {str(s): Features(x + s * np.outer(y, signs)) for s in (0, 1, 1.5, 2, 2.5, 3)}
    bank["shifted"] = Features(x + 2 * y[:, None])
    ends = [(row.low, row.high) for row in score_bank(bank, y, [name], bootstraps=20)]
    assert all(0 <= low <= high <= 100 for low, high in ends), ends
    assert any(low < high == 100 for low, high in ends), ends
    (row,) = score_bank({"m": Features(x)}, y / 7, ["ridge-press"], bootstraps=20)
    assert row.low < 0  # the fit of a regression is no percentage


@pytest.mark.parametrize("d", [12, 200])
def test_intervals_are_the_same_each_time_and_shared_by_models(d):
    features, y = model(d=d, strength=0.1)
    first, second = score_bank({"a": features, "b": features}, y, ["knn"], bootstraps=10, seed=5)
    assert (first.low, first.high) == (second.low, second.high)
    (other,) = score_bank({"a": features}, y, ["knn"], bootstraps=10, seed=6)
    assert (other.low, other.high) != (first.low, first.high)


@pytest.mark.parametrize("name", sorted(scoring.ROTATION_INVARIANT))
def test_scores_that_see_no_rotation(name):
    features, y = model(n=60, d=150, strength=0.4)
    x = features.features
    assert score(name, compact(x), y) == pytest.approx(score(name, x, y), abs=1e-6)
    if name == "knn":
        assert score(name, compact(x), y, metric="cosine") == score(name, x, y, metric="cosine")


def acme(body):
    source = "import numpy as np\nfrom plm_core.hookspecs import Scorer, hookimpl\n@hookimpl\ndef plm_scorers():\n"
    source += "    kinds = ('classes', 'regression')\n"
    source += "    return [Scorer(name='acme-score', score='acme_scores:compute', targets=kinds)]\n" + body
    return {"name": "acme-scores", "modules": {"acme_scores.py": source}, "entry_points": {"acme": "acme_scores"}}


def test_third_party_score(plm_registry):
    plm_registry(acme("def compute(features, labels, *, power=1):\n    return np.mean(features[:, 0] ** power)"))
    features, y = model()
    x = features.features
    assert parc.methods()[-1] == "acme-score"
    assert score("Acme_Score", x, y, power=2) == pytest.approx(np.mean(x[:, 0] ** 2))
    with pytest.raises(InputError, match="acme-score takes no option 'k'; it takes power, pca"):
        score("acme-score:k=3", x, y)


@pytest.mark.parametrize(
    ("body", "reason"),
    [("return 1 / 0", "ZeroDivisionError: division by zero"), ("return float('nan')", "acme-score is nan")],
)
def test_third_party_score_that_fails(plm_registry, body, reason):
    plm_registry(acme(f"def compute(features, labels):\n    {body}"))
    features, y = model()
    failed, fine = score_bank({"m": features}, y, ["acme-score", "parc"], bootstraps=3)
    assert reason in failed.error
    assert fine.score is not None


@pytest.mark.parametrize(("n", "classes"), [(400, 4), (400, 160)])
@pytest.mark.parametrize("regression", [False, True])
def test_intervals_are_as_wide_as_sampling_makes_them(plm_registry, n, classes, regression):
    """The interval of a mean extends 1.645 standard errors, even if classes of 2 images are always kept whole."""
    plm_registry(acme("def compute(features, labels):\n    return np.mean(features[:, 0])"))
    rng = np.random.default_rng(0)
    y = np.arange(n) % classes
    x = rng.standard_normal((n, 3))
    (row,) = score_bank({"m": Features(x)}, y / 7 if regression else y, ["acme-score"], bootstraps=600)
    assert (row.high - row.low) / 2 == pytest.approx(1.645 / np.sqrt(n), rel=0.2)


def test_no_interval_where_every_class_has_two_images():
    features, _ = model(n=60)
    y = np.arange(60) % 30
    (row,) = score_bank({"m": features}, y, ["parc"], bootstraps=5)
    assert row.score is not None
    assert row.low is row.high is None
