"""The scores: functions of features and labels, where higher is better. `parc.score` finds them by name.

pairwise.py       pairs of images: parc, parc-auc, rsa, dds
probabilities.py  class probabilities: leep, nce, nleep, energy
covariance.py     covariances within and between classes: hscore, hscore-shrunk, lda-loo, sfda, gbc, transrate
evidence.py       the evidence of a linear model: logme
probing.py        simple classifiers: knn, split-knn, logistic, ridge-press

inputs.py         checks of features, labels and probabilities
pca.py            reduction to fewer dimensions, standardization
linalg.py         linear algebra that several scores share
pairs.py          distances of pairs and their ranks
"""
