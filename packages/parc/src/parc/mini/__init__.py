"""A small benchmark of our own: do the scores tell which of 48 micro models to fine-tune?

    python -m parc.mini --out DIR     # about 25 minutes on one core; a stopped run continues

    protocol.py  the constants, the source models and targets, and the measurement of the truth
    tasks.py     the source and target tasks
    models.py    the micro models, their training and fine-tuning
    make.py      makes the tables of truth and scores
    report.py    reads the tables: methods and baselines with intervals, and their picture

The protocol was fixed before any score was computed. Models learn a source task (8 tasks, 3 architectures, 2 widths).
The truth is the accuracy on held-out images after fine-tuning all parameters on 100 images of a target. It is the mean
over 10 seeds, which differ in images, head and order. Scores see probes of 200 labelled images of the same pool, drawn
by `parc.sample_probe`. The tables are written into DIR, and are shipped with the package.
"""
