"""List the published weights that MODEL.BACKBONE.PRETRAIN_PATH takes by name, or fetch some.

Beside those of the list, timm/MODEL.TAG names any weights of timm's. What has no address to download from is on its
publisher's page; fetching it says where its file belongs.

Trained models that a method's authors published are converted: download the file and name it by --convert. Classes and
code in it are not run. `evaluate --weights` takes what is written.
"""

from __future__ import annotations

import argparse
import difflib
import itertools
import os
from collections.abc import Iterable
from functools import partial

import torch

from ..files import atomic_write
from ..pretrained import AUTHORS, AuthorsWeights, Published, convert_authors, fetch, published
from ..pretrained.published import FOLDER


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="what to fetch; without it, all are listed")
    parser.add_argument("--folder", default=FOLDER, help="where files are put (default: %(default)s)")
    text = "an authors' file, for the one NAME that is given: its weights are written into --folder"
    parser.add_argument("--convert", metavar="FILE", help=text)
    parser.add_argument("--overwrite", action="store_true", help="replace a file of the same name with another content")


def run(args: argparse.Namespace) -> None:
    """Fetch the sets, or list them all.

    Raises:
        ValueError: there is no such set, or a file to convert is another model's.
        OSError: one cannot be fetched, or a file of its name with another content is there.
    """
    table = published()
    _check(args.names, [*table, *AUTHORS])
    if args.convert:
        if len(args.names) != 1 or args.names[0] not in AUTHORS:
            raise ValueError(f"--convert takes one name of {', '.join(AUTHORS)}")
        _convert(AUTHORS[args.names[0]], args.convert, args.folder, args.overwrite)
        return
    for name in args.names:
        if name in AUTHORS:
            raise ValueError(f"{name} is on {AUTHORS[name].url}: download it and give the file with --convert")
    for name in args.names:
        print(fetch(table[name], args.folder, args.overwrite))
    if not args.names:
        for (publisher, what, page), sets in itertools.groupby(
            table.values(), lambda one: (one.publisher, one.what, one.page)
        ):
            print(f"{publisher}: {what}\n  {page}", *map(_line, sets), sep="\n", end="\n\n")
        print("Trained models of the methods' authors, with --convert FILE")
        print(*(f"  {one.name:<30} {one.config}; {one.url}" for one in AUTHORS.values()), sep="\n")


def _check(names: Iterable[str], known: list[str]) -> None:
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3)
            raise ValueError(f"no set '{name}'" + (f": did you mean {' or '.join(near)}?" if near else ""))


def _convert(entry: AuthorsWeights, file: str, folder: str, overwrite: bool) -> None:
    output = os.path.join(folder, entry.name.replace("/", "_") + ".pth")
    if os.path.exists(output) and not overwrite:
        raise FileExistsError(f"{output} is there: --overwrite replaces it")
    state = convert_authors(entry.name, file)
    os.makedirs(folder, exist_ok=True)
    atomic_write(output, partial(torch.save, {"model": state}))
    print(f"{output}: evaluate --config-file {entry.config} --weights {output}")


def _line(one: Published) -> str:
    keys = " ".join(f"{key} {value}" for key, value in one.fits.items() if value is not False)
    state = "here" if one.found() else "fetched by this command" if one.url or one.wheel else "on that page"
    return f"  {one.name:<30} {keys}; {one.file}, {state}"
