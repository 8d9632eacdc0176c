"""Run the studies: ``python -m tome.experiments --out DIR``."""

from tome.experiments.studies import main

main()
