"""The benchmark: how well do scores predict which model fine-tunes best (paper 3; facts 3)?

table = benchmark.run(bank, labels, ["parc:pca=32", "knn"])   # or a table of scores from anywhere
result = benchmark.aggregate(table, "controlled", plasticity=1)
benchmark.plot([result, benchmark.aggregate(benchmark.baselines("controlled"), "controlled")])
"""

from parc.benchmark.aggregation import Aggregate, aggregate
from parc.benchmark.comparison import compare, markdown
from parc.benchmark.own_scores import run
from parc.benchmark.plots import plot, plot_scatter
from parc.benchmark.static_baselines import baselines

__all__ = ["Aggregate", "aggregate", "baselines", "compare", "markdown", "plot", "plot_scatter", "run"]
