"""A small honest benchmark: do the scores tell which of 48 micro models to fine-tune?

    python -m parc.mini --out DIR     # some 25 minutes on one core; goes on where it was stopped

The protocol is the constants of `parc.mini.protocol` and the tasks of `parc.mini.tasks`, fixed before any score was
computed.
Models learn a source task (8 tasks, 3 architectures, 2 widths). The truth is the accuracy on held-out images after
fine-tuning everything on 100 images of a target, the mean over 10 seeds which differ in images, head and order. Scores
see probes of 200 labelled images of the same pool, as `parc.sample_probe` draws them. Tables are written into DIR and
are shipped with the package; `parc.mini.report` reads them.
"""
