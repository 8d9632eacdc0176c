"""The commands of parc, which are also those of ``plm``. Data goes to stdout, everything else to stderr.

rank.py     rank models by scores
probe.py    judge models by a classifier on their features
console.py  the console script ``parc``
shared.py   options and messages that both commands have
"""

from parc.cli.console import main
from parc.cli.probe import app as probe_app
from parc.cli.rank import app as rank_app

__all__ = ["main", "probe_app", "rank_app"]
