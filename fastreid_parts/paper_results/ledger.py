"""The ledger: what the papers print, the config and overrides that reproduce it, and the range around it.

One YAML file a paper beside this module, and `rules.yml` for what they share. A paper's file:

```yaml
paper: cmbn                       # also the file's name and the folder of its results
recipe: open                      # how much of the recipe is known: a key of rules.yml's `openness`
config: "{folder}/cmbn.yml"       # below configs/; absent while the method is not built
variants:
  baseline:                       # a model; a variant may name a `config` of its own
    description: ...
    overrides: {KEY: value}       # what makes it out of the config; absent while it is not built
    same_as: other                # instead: another name of the same model, trained once
    evaluates: other              # the trained model of another variant, with overrides that only a test reads
    train_on: DATASET             # with `evaluates`: that model trained on this dataset, not on the row's
tables:
- source: Table 4
  columns: {Market1501: [rank1, mAP]}      # in the printed order
  rows:
  - {row: BaseLine, variant: baseline, values: [89.5, 70.7]}   # row: the label that is printed
facts: ...                        # other figures of the paper, held against nothing
```

Building a method is therefore: a `config` line, the config files, and `overrides` for each variant.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from ..files import read_yaml
from ..settings import trains
from .tolerances import Range, tolerated_range

Document: TypeAlias = Mapping[str, Any]

CHECKED = ("mAP", "rank1")  # the metrics that have a range
_METRICS = ("mAP", "rank1", "rank3", "rank5", "rank10")
# Kind of an entry -> the keys that it must have, and those that it may have
_KEYS = {
    "paper": ("paper recipe variants tables", "title year recipe_reason note config facts"),
    "variant": ("description", "config overrides same_as evaluates pretrain rerank feature_dim train_on"),
    "evaluation": ("description overrides", "config same_as evaluates pretrain rerank feature_dim"),
    "table": ("source columns rows", "note"),
    "row": ("row variant values", "note notes correction"),
}


class LedgerError(ValueError):
    """The ledger contradicts itself; the message names the file and the entry."""


@dataclass(frozen=True)
class Variant:
    """One model of a paper.

    Attributes:
        paper: the paper's key, for example `cmbn`.
        name: the variant's key, unique within the paper.
        run_name: the variant that is measured for it: itself, or the one it is `same_as`.
        overrides: config keys and values, None while the variant is not built.
        evaluates: the variant that is trained for it, where it is not trained itself; `overrides` has that one's too.
        config: template of its config's name, None while the method is not built.
        train_on: the training set of the model that it evaluates, where that is not the row's dataset (direct
            transfer).
    """

    paper: str
    name: str
    description: str
    run_name: str
    overrides: Document | None = None
    config: str | None = None
    pretrain: str = "imagenet"
    rerank: bool = False
    feature_dim: int | None = None
    train_on: str | None = None
    evaluates: str | None = None

    @property
    def built(self) -> bool:
        """Whether a config and overrides make it."""
        return self.config is not None and self.overrides is not None


@dataclass(frozen=True)
class Row:
    """What one line of one table prints for one dataset.

    Attributes:
        source: the table, or the place in the text.
        label: the line's label as printed.
        metrics: percent, in the printed order of columns.
        ranges: the tolerated range of each metric of `CHECKED`.
        reason: why the ranges are as wide as they are.
        notes: what a reader of the number should know.
    """

    paper: str
    source: str
    label: str
    variant: Variant
    dataset: str
    metrics: Mapping[str, float]
    ranges: Mapping[str, Range] = field(repr=False)
    reason: str = field(repr=False)
    notes: tuple[str, ...] = field(default=(), repr=False)

    @property
    def id(self) -> str:
        """Its paper, table, variant and dataset."""
        return f"{self.paper}/{self.source}/{self.variant.name}/{self.dataset}"


@dataclass(frozen=True)
class Ledger:
    """All rows, in the papers' order, with the datasets that they are on.

    Attributes:
        datasets: name -> {"folder": below configs/, "training", "queries" and "gallery": how many images are read,
            "measured_on": the dataset that is read for one that a paper does not name in full}; each may be missing.
        papers: the documents that the rows were read from.
    """

    datasets: Mapping[str, Document]
    papers: Mapping[str, Document]
    variants: Mapping[tuple[str, str], Variant]
    rows: tuple[Row, ...]

    @classmethod
    def from_documents(cls, rules: Document, papers: Iterable[Document]) -> Ledger:
        """Read the parsed YAML documents.

        Args:
            rules: of `rules.yml`.
            papers: of the papers' files.

        Raises:
            LedgerError: they contradict themselves.
        """
        by_name: dict[str, Document] = {}
        variants: dict[tuple[str, str], Variant] = {}
        rows: list[Row] = []
        for document in papers:
            name = document.get("paper", "a paper's file")
            _check_keys(document, "paper", name)
            by_name[name] = document
            own = _read_variants(document)
            variants.update({(name, v.name): v for v in own.values()})
            for table in document["tables"]:
                rows += _read_table(document, table, own, rules)
        for row_id, times in Counter(row.id for row in rows).items():
            if times > 1:
                raise LedgerError(f"{row_id} is there twice")
        return cls(rules["datasets"], by_name, variants, tuple(rows))

    def select(
        self,
        paper: str | None = None,
        source: str | None = None,
        dataset: str | None = None,
        variant: str | None = None,
        built: bool | None = None,
    ) -> list[Row]:
        """List the rows that agree with every argument that is not None.

        Args:
            paper: the paper's key.
            source: the table.
            dataset: the dataset.
            variant: the variant's key.
            built: whether the variant is built.
        """
        wanted = [("paper", paper), ("source", source), ("dataset", dataset)]
        return [
            row
            for row in self.rows
            if all(value is None or getattr(row, key) == value for key, value in wanted)
            and variant in (None, row.variant.name)
            and built in (None, row.variant.built)
        ]

    def dataset_name(self, name: str) -> str:
        """Find a dataset by its registered name or by its folder below configs/ (`Market1501` or `Market`).

        Raises:
            LedgerError: there is no such dataset; the message lists them.
        """
        for dataset, entry in self.datasets.items():
            if name in (dataset, entry.get("folder")):
                return dataset
        raise LedgerError(f"no dataset '{name}' in the ledger; it has {', '.join(self.datasets)}")

    def measured_on(self, dataset: str) -> str:
        """Give the registered dataset that is read for one of the ledger's: mostly itself."""
        return self.datasets[dataset].get("measured_on", dataset)

    def training_images(self, datasets: Sequence[str]) -> int | None:
        """Count the images that a run trains on; None where the number of one dataset is not known.

        Args:
            datasets: registered names, DATASETS.NAMES.
        """
        sizes: list[Any] = [self.datasets.get(name, {}).get("training") for name in datasets]
        return None if None in sizes or not sizes else sum(sizes)

    def config_of(self, variant: Variant, dataset: str) -> str:
        """Name, below configs/, of the config that trains a variant for a row on `dataset`.

        Args:
            variant: the variant.
            dataset: of the row.

        Raises:
            LedgerError: the variant is not built, or the dataset has no configs.
        """
        if variant.config is None or variant.overrides is None:
            raise LedgerError(f"{variant.paper}/{variant.name} is in the ledger, but it is not built yet")
        trained_on = self.measured_on(variant.train_on or dataset)
        folder = self.datasets[trained_on].get("folder")
        if folder is None:
            raise LedgerError(f"there are no configs for {trained_on}")
        return variant.config.format(folder=folder)


def _read_variants(document: Document) -> dict[str, Variant]:
    paper, entries = document["paper"], document["variants"]
    result = {}
    for name, entry in entries.items():
        changed = "evaluates" in entry and "train_on" not in entry
        _check_keys(entry, "evaluation" if changed else "variant", f"{paper}/{name}")
        model = entry
        for reference in ("same_as", "evaluates"):
            if reference in entry:
                model = entries.get(entry[reference])
                own = {"same_as", "evaluates", "config"} | ({"overrides"} if reference == "same_as" else set())
                if model is None or {"same_as", "evaluates"} & set(model) or own & (set(entry) - {reference}):
                    raise LedgerError(
                        f"{paper}/{name}: {reference} must name a variant of the paper that has its own overrides"
                    )
        overrides = model.get("overrides")
        if "evaluates" in entry:
            changes = entry.get("overrides", {})
            _only_of_test(changes, not changed, f"{paper}/{name}: it evaluates {entry['evaluates']}")
            overrides = None if overrides is None else {**overrides, **changes}
        elif "train_on" in entry:
            raise LedgerError(f"{paper}/{name}: 'train_on' needs 'evaluates': the model that is trained there")
        result[name] = Variant(
            paper=paper,
            name=name,
            run_name=entry.get("same_as", name),
            overrides=overrides,
            config=model.get("config", document.get("config")),
            **{key: value for key, value in entry.items() if key not in ("same_as", "overrides", "config")},
        )
    return result


def _read_table(document: Document, table: Document, variants: Mapping[str, Variant], rules: Document) -> list[Row]:
    paper = document["paper"]
    where = f"{paper}, {table.get('source', 'a table')}"
    _check_keys(table, "table", where)
    columns = [(dataset, metric) for dataset, metrics in table["columns"].items() for metric in metrics]
    result = []
    for entry in table["rows"]:
        here = f"{where}, row '{entry.get('row')}'"
        _check_keys(entry, "row", here)
        if entry["variant"] not in variants:
            raise LedgerError(f"{here}: no variant '{entry['variant']}'")
        if len(entry["values"]) != len(columns):
            raise LedgerError(f"{here}: {len(entry['values'])} values for {len(columns)} columns")
        for dataset in table["columns"]:
            metrics = {
                metric: value
                for (of, metric), value in zip(columns, entry["values"])
                if of == dataset and value is not None
            }
            if metrics:
                notes = [table.get("note"), entry.get("note"), entry.get("notes", {}).get(dataset)]
                ranges, reason = _ranges(document, dataset, metrics, rules, here)
                result.append(
                    Row(
                        paper, table["source"], str(entry["row"]), variants[entry["variant"]], dataset,
                        metrics, ranges, reason, tuple(note for note in notes if note),
                    )
                )  # fmt: skip
    return result


def _ranges(
    document: Document, dataset: str, metrics: Mapping[str, float], rules: Document, where: str
) -> tuple[dict[str, Range], str]:
    if dataset not in rules["datasets"]:
        raise LedgerError(f"{where}: '{dataset}' is not among the datasets of rules.yml")
    if document["recipe"] not in rules["tolerance"]["openness"]:
        raise LedgerError(f"{where}: '{document['recipe']}' is not among the recipes of rules.yml")
    for metric, value in metrics.items():
        if metric not in _METRICS or not isinstance(value, (int, float)) or not 0 <= value <= 100:
            raise LedgerError(f"{where}: {metric} {value} on {dataset} is no metric in percent")
    if missing := [metric for metric in CHECKED if metric not in metrics]:
        raise LedgerError(f"{where}: no {' and '.join(missing)} on {dataset}")
    queries = rules["datasets"][dataset]["queries"]
    share = rules["tolerance"]["openness"][document["recipe"]]["share"]
    errors = rules["tolerance"]["spread"]["errors"]
    reason = (
        f"spread: {errors} standard errors of a mean over {queries} queries; openness: {share:.1%} of the "
        f"remaining error, because {document['recipe_reason']}"
    )
    return {metric: tolerated_range(metrics[metric], queries, errors, share) for metric in CHECKED}, reason


def _only_of_test(changes: Document, may_be_empty: bool, where: str) -> None:
    if not changes and not may_be_empty:
        raise LedgerError(f"{where} and changes nothing: give it `overrides` or `same_as`")
    for key, value in changes.items():
        if trains(key, value):
            raise LedgerError(f"{where}; its overrides change nothing in training, but there is {key} {value}")


def _check_keys(entry: Document, kind: str, where: str) -> None:
    needed, optional = (keys.split() for keys in _KEYS[kind])
    unknown, known = sorted(set(entry) - {*needed, *optional}), sorted(needed + optional)
    if unknown:
        raise LedgerError(f"{where}: unknown {', '.join(unknown)}; known are {', '.join(known)}")
    for key in needed:
        if key not in entry:
            raise LedgerError(f"{where}: '{key}' is missing")


@functools.cache
def load_ledger() -> Ledger:
    """Load the ledger that comes with the package.

    Raises:
        LedgerError: a file of it contradicts itself.
    """
    folder = Path(__file__).resolve().parent
    documents = {path.stem: read_yaml(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.yml"))}
    rules = documents.pop("rules")
    for name, document in documents.items():
        if document.get("paper") != name:
            raise LedgerError(f"{name}.yml holds the paper '{document.get('paper')}'")
    return Ledger.from_documents(rules, documents.values())
