"""The benchmark of the paper (section 3): how well do scores predict which model fine-tunes best?

table = benchmark.run(bank, labels, ["parc:pca=32", "knn"])   # or a table of scores from elsewhere
result = benchmark.aggregate(table, "controlled", plasticity=1)
benchmark.plot([result, benchmark.aggregate(benchmark.baselines("controlled"), "controlled")])

aggregation.py       `aggregate`: how well each method of a table predicts the truth
comparison.py        `compare` and `markdown`: methods beside the static baselines
own_scores.py        `run`: from features to a table of scores
static_baselines.py  `baselines`: facts about models and datasets, to compare with
plots.py             `plot` and `plot_scatter`
oracle.py            the true accuracies, the paper's or your own
scoretable.py        a table of scores joined with the truth
tables.py            tables as plain columns
metrics.py           correlations and regrets, with bootstrap intervals
"""

from parc.benchmark.aggregation import Aggregate, aggregate
from parc.benchmark.comparison import compare, markdown
from parc.benchmark.own_scores import run
from parc.benchmark.plots import plot, plot_scatter
from parc.benchmark.static_baselines import baselines

__all__ = ["Aggregate", "aggregate", "baselines", "compare", "markdown", "plot", "plot_scatter", "run"]
