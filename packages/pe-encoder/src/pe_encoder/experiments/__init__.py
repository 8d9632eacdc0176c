"""The measurements and pictures of the README: ``python -m pe_encoder.experiments [NAME ...] --out DIR``.

dense     where a CLIP finds texts in scenes of the world of shapes, by the way that its patches are embedded
layers    linear probes on every layer of its vision tower: classification, counting and segmentation
pictures  scenes with the texts that a CLIP chooses, with texts by place, and with features as colours
probes    the linear classifiers and the scores of both
"""
