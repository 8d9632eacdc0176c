"""The declarations of parc: its scores, its commands and its stop on the tour."""

from __future__ import annotations

from plm_core.hookspecs import Command, Scorer, TourStop, hookimpl

# The kinds of labels that a score takes
CLASSES = ("classes",)
MULTILABEL = ("classes", "multilabel")
REGRESSION = ("classes", "multilabel", "regression")

# The inputs that a score needs besides features and labels
PROBS = ("probs",)
REFERENCE = ("reference_features",)
COUNT = ("num_classes",)


def _scorer(
    name: str, module: str, help: str, needs: tuple[str, ...] = (), targets: tuple[str, ...] = CLASSES
) -> Scorer:
    reference = f"parc.scores.{module}:{name.replace('-', '_')}"
    return Scorer(name=name, score=reference, help=help, needs=needs, targets=targets)


@hookimpl
def plm_scorers() -> list[Scorer]:
    """Declare the scores, PARC first."""
    return [
        _scorer("parc", "pairwise", "PARC: rank correlation of feature and label distances", COUNT, MULTILABEL),
        _scorer("parc-auc", "pairwise", "PARC as the area under the ROC curve of its pairs"),
        _scorer("rsa", "pairwise", "RSA: like PARC, against a model trained on the data", REFERENCE, REGRESSION),
        _scorer(
            "dds", "pairwise", "DDS: centred kernel alignment with a model trained on the data", REFERENCE, REGRESSION
        ),
        _scorer("leep", "probabilities", "LEEP: log likelihood of a classifier made of the source classes", PROBS),
        _scorer("nce", "probabilities", "NCE: negative entropy of the labels given the source classes", PROBS + COUNT),
        _scorer("energy", "probabilities", "Energy of the features (ETran)", targets=REGRESSION),
        _scorer("nleep", "probabilities", "N-LEEP: LEEP on a Gaussian mixture of the features"),
        _scorer("hscore", "covariance", "H-score: variance between the classes over the total variance"),
        _scorer("hscore-shrunk", "covariance", "H-score with a shrunk covariance (Ledoit-Wolf)"),
        _scorer("lda-loo", "covariance", "Leave-one-out accuracy of shrunk linear discriminants"),
        _scorer("sfda", "covariance", "SFDA: self-challenging Fisher discriminants"),
        _scorer("gbc", "covariance", "GBC: Bhattacharyya overlap of the classes"),
        _scorer("transrate", "covariance", "TransRate: coding rate of the features minus that within classes"),
        _scorer("logme", "evidence", "LogME: evidence of a Bayesian linear model", targets=REGRESSION),
        _scorer("knn", "probing", "Leave-one-out accuracy of the k nearest neighbours", targets=MULTILABEL),
        _scorer("split-knn", "probing", "Accuracy of nearest neighbours, half of the images against the other half"),
        _scorer("logistic", "probing", "Accuracy of logistic regression, half of the images against the other half"),
        _scorer("ridge-press", "probing", "Leave-one-out fit of ridge regression, in closed form", targets=REGRESSION),
    ]


@hookimpl
def plm_commands() -> list[Command]:
    """Declare ``plm rank`` and ``plm probe``."""
    return [
        Command(name="rank", help="Rank models by how well they suit a dataset.", implementation="parc.cli:rank_app"),
        Command(
            name="probe",
            help="Judge models by a linear or k-NN classifier on their features.",
            implementation="parc.cli:probe_app",
        ),
    ]


@hookimpl
def plm_tour_stops() -> list[TourStop]:
    """Declare the stop that ranks the micro models on digits."""
    return [TourStop(name="parc", title="Which model should I fine-tune?", run="parc.tour:choose_model", order=60)]
