"""The embeddings of the images in a folder.

digests.py       digests of weights and of preprocessing
"""
