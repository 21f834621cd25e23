"""Write a trained model into a folder that others load, from there or from the Hugging Face Hub.

The folder holds the weights (safetensors), what the model is (model.json, config.yaml) and a page, README.md, with what
was measured: the results that the training logged for this checkpoint, or those of --results. It is loaded by
`Embedder.from_pretrained` and named by --model; `hf upload OWNER/NAME FOLDER` puts it on the hub.

    fastreid-parts hub save --model logs/cmbn --output cmbn-market --license other

`hub roboflow` writes the folder that Roboflow's package reid loads, for the one model of fast-reid's that it builds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

from ..deployment import Embedder
from ..deployment.roboflow import save_for_roboflow
from ._models import add_model_source, load_embedder, threshold_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the commands on folders for others."""
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, work: Callable[[argparse.Namespace, Embedder], None], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        add_model_source(sub)
        sub.add_argument("--output", required=True, metavar="FOLDER", help="made where it is not there")
        sub.add_argument("--overwrite", action="store_true", help="replace these files where they are there")
        sub.set_defaults(work=work)
        return sub

    save = command("save", _save, "write a folder with weights, description, config and model card")
    save.add_argument("--name", default="", help="of the model, on its page (default: the folder's)")
    save.add_argument("--license", default="", help="of the weights, as the hub names it: apache-2.0, cc-by-nc-4.0 ...")
    text = "files that `evaluate --output` wrote of this model, for its page"
    save.add_argument("--results", nargs="+", default=[], metavar="JSON", help=text)
    text = "an index of this model, whose threshold goes into the description (default: that of a loaded folder)"
    save.add_argument("--index", default="", metavar="DIR", help=text)
    command("roboflow", _roboflow, "write a folder for Roboflow's reid, of fast-reid's SBS with ResNeSt-50")


def run(args: argparse.Namespace) -> None:
    """Load the model and write the folder.

    Raises:
        OSError: there is no such model or file of results.
        ImportError: what writes the files is not installed.
        KeyError: a key does not exist.
        ValueError: the files are there already, or model, results and index do not fit together.
    """
    embedder = load_embedder(args)
    args.work(args, embedder)
    print(f"Model {embedder.fingerprint[:12]}: {args.output}")


def _save(args: argparse.Namespace, embedder: Embedder) -> None:
    embedder.save_pretrained(
        args.output,
        name=args.name,
        license=args.license,
        results=args.results,
        threshold=threshold_of(args.index, embedder),
        overwrite=args.overwrite,
    )


def _roboflow(args: argparse.Namespace, embedder: Embedder) -> None:
    save_for_roboflow(embedder.cfg, embedder.model, args.output, args.overwrite)
