"""One paper, one file. Importing this package registers every method."""

from . import cge, cmbn  # noqa: F401
