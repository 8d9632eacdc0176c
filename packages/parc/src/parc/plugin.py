"""What parc declares to the hub."""

from __future__ import annotations

from plm_core.hookspecs import Command, Scorer, TourStop, hookimpl

CLASSES, MULTILABEL, REGRESSION = ("classes",), ("classes", "multilabel"), ("classes", "multilabel", "regression")
PROBS, REFERENCE, COUNT = ("probs",), ("reference_features",), ("num_classes",)


def _scorer(
    name: str, module: str, help: str, needs: tuple[str, ...] = (), targets: tuple[str, ...] = CLASSES
) -> Scorer:
    reference = f"parc.scores.{module}:{name.replace('-', '_')}"
    return Scorer(name=name, score=reference, help=help, needs=needs, targets=targets)


@hookimpl
def plm_scorers() -> list[Scorer]:
    """The scores, PARC first."""
    return [
        _scorer("parc", "pairwise", "PARC: rank correlation of feature and label distances", COUNT, MULTILABEL),
        _scorer("parc-auc", "pairwise", "PARC as the area under the ROC curve of its pairs"),
        _scorer("rsa", "pairwise", "RSA: as PARC, against a model trained on the data", REFERENCE, REGRESSION),
        _scorer(
            "dds", "pairwise", "DDS, centred kernel alignment to a model trained on the data", REFERENCE, REGRESSION
        ),
        _scorer("leep", "probabilities", "LEEP: log likelihood of a classifier made of the source classes", PROBS),
        _scorer("nce", "probabilities", "NCE: minus the entropy of the labels given the source classes", PROBS + COUNT),
        _scorer("energy", "probabilities", "Energy of the features (ETran)", targets=REGRESSION),
        _scorer("nleep", "probabilities", "N-LEEP: LEEP on a Gaussian mixture of the features"),
        _scorer("hscore", "covariance", "H-score: variance between the classes over all variance"),
        _scorer("hscore-shrunk", "covariance", "H-score with a shrunk covariance (Ledoit-Wolf)"),
        _scorer("lda-loo", "covariance", "Left-one-out accuracy of shrunk linear discriminants"),
        _scorer("sfda", "covariance", "SFDA: self-challenging Fisher discriminants"),
        _scorer("gbc", "covariance", "GBC: Bhattacharyya overlap of the classes"),
        _scorer("transrate", "covariance", "TransRate: coding rate of the features less that within classes"),
        _scorer("logme", "evidence", "LogME: evidence of a Bayesian linear model", targets=REGRESSION),
        _scorer("knn", "probing", "Left-one-out accuracy of the k nearest neighbours", targets=MULTILABEL),
        _scorer("split-knn", "probing", "Accuracy of nearest neighbours, half against half"),
        _scorer("logistic", "probing", "Accuracy of logistic regression, half against half"),
        _scorer("ridge-press", "probing", "Left-one-out fit of ridge regression, in closed form", targets=REGRESSION),
    ]


@hookimpl
def plm_commands() -> list[Command]:
    """Rank models on a dataset."""
    return [Command(name="rank", help="Rank models by how well they suit a dataset.", implementation="parc.cli:app")]


@hookimpl
def plm_tour_stops() -> list[TourStop]:
    """Which of the micro models suits a task."""
    return [TourStop(name="parc", title="Which model should I fine-tune?", run="parc.tour:choose_model", order=60)]
