"""One paper, one file. Importing this package registers every method."""

from . import cmbn  # noqa: F401
