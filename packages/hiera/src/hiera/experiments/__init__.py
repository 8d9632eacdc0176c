"""The measurements behind the README's tables: ``python -m hiera.experiments.NAME --out DIR`` runs one of them.

Training needs the extra ``hiera[train]``, and the plots need ``plm-core[tour]``.
"""
