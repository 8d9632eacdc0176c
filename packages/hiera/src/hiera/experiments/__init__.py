"""The measurements behind the tables of the README; each runs by ``python -m hiera.experiments.NAME --out DIR``."""
