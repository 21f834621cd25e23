"""One paper, one file. Importing this package registers every method."""

from . import can, cge, cmbn, rmgl, rrid  # noqa: F401
