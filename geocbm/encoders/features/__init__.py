"""Feature store: every picture is encoded once and read many times.

A store is a folder with one raw file of half-precision numbers per kind of feature, a counter while it is being
written and a manifest once it is whole. Its name is a hash of the weights, of the preprocessing and what it does to
pixels, of the kinds and of the content of the pictures in their order, so a store can never be read with other weights
or pictures. Kinds are "pooled", "tokens" and "hidden:N", the activations that enter the last N blocks of the encoder.
"""

from geocbm.encoders.features.store import FeatureStore, OnTheFlyFeatures
from geocbm.encoders.features.writing import encode_features, re_encode
