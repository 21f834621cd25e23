"""List the published weights that MODEL.BACKBONE.PRETRAIN_PATH takes by name, or fetch some.

Beside those of the list, timm/MODEL.TAG names any weights of timm's. What has no address to download from is on its
publisher's page; fetching it says where its file belongs.
"""

from __future__ import annotations

import argparse
import difflib
import itertools

from ..pretrained import Published, fetch, published
from ..pretrained.published import FOLDER


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="what to fetch; without it, all are listed")
    parser.add_argument("--folder", default=FOLDER, help="where files are put (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace a file of the same name with another content")


def run(args: argparse.Namespace) -> None:
    """Fetch the sets, or list them all.

    Raises:
        ValueError: there is no such set.
        OSError: one cannot be fetched, or a file of its name with another content is there.
    """
    table = published()
    for name in args.names:
        if name not in table:
            near = difflib.get_close_matches(name, table, n=3)
            raise ValueError(f"no set '{name}'" + (f": did you mean {' or '.join(near)}?" if near else ""))
    for name in args.names:
        print(fetch(table[name], args.folder, args.overwrite))
    if not args.names:
        for (publisher, what, page), sets in itertools.groupby(
            table.values(), lambda one: (one.publisher, one.what, one.page)
        ):
            print(f"{publisher}: {what}\n  {page}", *map(_line, sets), sep="\n", end="\n\n")


def _line(one: Published) -> str:
    keys = " ".join(f"{key} {value}" for key, value in one.fits.items() if value is not False)
    state = "here" if one.found() else "fetched by this command" if one.url or one.wheel else "on that page"
    return f"  {one.name:<30} {keys}; {one.file}, {state}"
