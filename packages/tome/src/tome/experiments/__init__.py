"""The measurements behind the README's figures: ``python -m tome.experiments --out DIR``.

merging.py   what merging costs the shipped micro model, by r
studies.py   merging against dropping tokens, and positions of merged tokens, on models trained here
pruning.py   blocks that drop tokens
rotary.py    blocks that place merged tokens elsewhere
models.py    the micro ViTs of the studies
data.py      their data
report.py    tables and plots
"""
