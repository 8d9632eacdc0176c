"""The measurements of the README: ``python -m gazelle.experiments [NAME ...] --out DIR``.

ablation  the micro model with the right head boxes, wrong ones and none, and with a frozen backbone and a tuned one
"""
