"""One paper, one file. Importing this package registers every method."""

from . import can, cge, cmbn, combined, mgn, rmgl, rrid  # noqa: F401
