"""How the features of a model are found.

program   the operations of a model, by torch.export, and the labels of every tensor
labels    what operations do to labels
rules     which operation does what
groups    features that may change places, and the parameters that they lie on
sites     where they can be seen
cutting   where a model can be cut in two
"""
