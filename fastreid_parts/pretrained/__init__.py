"""Weights for a backbone, by the name of a published set or from a file, and never fewer than it needs."""

from .authors import AUTHORS, AuthorsWeights, convert_authors, read_tensors
from .loading import load_pretrained, load_weights
from .published import Published, check_weights, fetch, published, weights_file
