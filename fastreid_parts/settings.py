"""How a config key is declared: once, as a field of its section's dataclass, beside the code that reads it.

    class RRIDSettings(Settings, section="MODEL.RRID"):
        relation: str = choice(("one_vs_rest", "none"), "what supports a part", "Eq. (1)")

declares MODEL.RRID.RELATION. All else follows from it: the section and default in fast-reid's config, the check and its
message, the arguments of what is built from the config, what a fingerprint of features counts, what a variant of the
ledger may change in evaluation, and the reference of keys. A key of fast-reid's own that a class reads as well is a
`host_key`: it is checked the same way, and its default stays fast-reid's.
"""

from __future__ import annotations

import dataclasses
import difflib
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from typing_extensions import Self, dataclass_transform

#: Who a key matters to. `features`: training and what evaluation gives; `test`: what evaluation gives, and no training
#: step reads it; `training`: training alone; `procedure`: neither, such as speed, paths and how features are compared.
ROLES = ("features", "test", "training", "procedure")

Choices = Sequence[Any] | Callable[[], Sequence[Any]]


@dataclasses.dataclass(frozen=True)
class Key:
    """One key.

    Attributes:
        name: in full, as in `MODEL.RRID.RELATION`.
        attribute: the field of its class.
        default: its value where no config sets it; None for one of fast-reid's.
        help: one line.
        source: the paper's symbol, equation or table.
        role: one of `ROLES`.
        choices: the values that it can have, or, for a list, that its entries can have.
        low, high: the bounds of a number, included.
        above: the lower bound of a number, not included.
        of_host: whether it is one of fast-reid's.
        trains_with: values of a `test` key that a training step does read.
        several: a string, or a list of strings.
    """

    name: str
    attribute: str
    default: Any
    help: str
    source: str = ""
    role: str = "training"
    choices: Choices = ()
    low: float | None = None
    high: float | None = None
    above: float | None = None
    of_host: bool = False
    trains_with: tuple = ()
    several: bool = False

    @property
    def known(self) -> tuple:
        """The choices, () where there is no such list."""
        return tuple(self.choices() if callable(self.choices) else self.choices)

    def check(self, value: Any) -> None:
        """Check one value.

        Raises:
            ValueError: it is nothing, as an empty value in YAML is, none of the choices or out of range.
        """
        if value is None and self._usual() is not None:
            raise ValueError(f"{self.name} has no value; give it one, or leave the key out for {_shown(self._usual())}")
        values = value if isinstance(value, tuple) else (value,)
        wrong = [v for v in values if self.known and v not in self.known]
        if wrong or (self.known and value == ()):
            kind = "it lists some of" if isinstance(value, tuple) else "it is one of"
            close = difflib.get_close_matches(str(wrong[0]), map(str, self.known), n=1) if wrong else []
            raise ValueError(
                f"{self.name} is {_shown(value)}; {kind} {', '.join(map(str, self.known))}"
                + (f". Did you mean {close[0]}?" if close else "")
            )
        bounds = [
            ("above", self.above, operator.gt),
            ("at least", self.low, operator.ge),
            ("at most", self.high, operator.le),
        ]
        if not all(holds(v, bound) for _, bound, holds in bounds if bound is not None for v in values):
            words = " and ".join(f"{word} {bound:g}" for word, bound, _ in bounds if bound is not None)
            raise ValueError(f"{self.name} is {_shown(value)}; it is {words}")

    def _usual(self) -> Any:
        """The default, of one of fast-reid's keys too where its config is followed."""
        return _section(_followers[0], self.name) if self.of_host and _followers else self.default

    def trains(self, value: Any) -> bool:
        """Tell whether a training step reads the key at this value."""
        return self.role in ("features", "training") or value in self.trains_with


def key(default: Any, help: str, source: str = "", choices: Choices = (), **options: Any) -> Any:
    """Declare a key of the plugin's as a field of a `Settings` class.

    Args:
        default: its default; a tuple for a list.
        help: one line.
        source: the paper's symbol, equation or table.
        choices: the values that it can have.
        **options: further attributes of `Key`; `role` is that of the class unless it is given.
    """
    return dataclasses.field(default=default, metadata=dict(help=help, source=source, choices=choices, **options))


def choice(values: Sequence[Any], help: str, source: str = "", **options: Any) -> Any:
    """Declare a key that has one of some values.

    Args:
        values: the default first.
        help, source: see `key`.
        **options: see `key`.
    """
    return key(values[0], help, source, values, **options)


def host_key(help: str, source: str = "", choices: Choices = (), **options: Any) -> Any:
    """Declare that a `Settings` class reads a key of fast-reid's, whose default stays.

    Args:
        help, source, choices: see `key`.
        **options: see `key`.
    """
    return dataclasses.field(metadata=dict(help=help, source=source, choices=choices, of_host=True, **options))


#: Every class of keys, in the order of declaration; several may share a section.
DECLARED: list[type[Settings]] = []
_followers: list[Any] = []


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(key, choice, host_key))
class Settings:
    """Base of the classes that declare keys: frozen dataclasses, whose values are checked when they are made.

    A subclass names its section, "" for keys outside of any, and the role of keys that name none. Fields are the
    keys in lower case. `for_any_model` says that the section is no single method's, so that a model that does not read
    it refuses it.

    Raises:
        ValueError: a value is not one of its choices, is out of range, or does not go with another.
    """

    section: ClassVar[str]
    role: ClassVar[str]
    for_any_model: ClassVar[bool] = False

    def __init_subclass__(cls, *, section: str, role: str = "training", **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.section, cls.role = section, role
        dataclasses.dataclass(frozen=True, kw_only=True)(cls)
        DECLARED.append(cls)
        for cfg in _followers:
            cls.add_to(cfg)

    def __post_init__(self) -> None:
        for one in self.declared_keys():
            one.check(getattr(self, one.attribute))
        self.check()

    @classmethod
    def declared_keys(cls) -> list[Key]:
        """List the keys that the class declares or reads, in order."""
        prefix = f"{cls.section}." if cls.section else ""
        return [
            Key(
                name=prefix + field.name.upper(),
                attribute=field.name,
                default=None if field.default is dataclasses.MISSING else field.default,
                **{"role": cls.role, **field.metadata},
            )
            for field in dataclasses.fields(cls)  # type: ignore[arg-type]
        ]

    @classmethod
    def add_to(cls, cfg: Any) -> None:
        """Add the keys to a config, with their defaults; those that are there keep their values."""
        node = cfg
        for name in cls.section.split(".") if cls.section else ():
            if name not in node:
                node[name] = type(cfg)()
            node = node[name]
        for one in cls.declared_keys():
            if not one.of_host and one.attribute.upper() not in node:
                node[one.attribute.upper()] = _thawed(one.default)

    @classmethod
    def check_value(cls, attribute: str, value: Any) -> None:
        """Check the value of one field.

        Args:
            attribute: the field.
            value: its value.

        Raises:
            ValueError: it is none of its choices or out of range.
        """
        next(one for one in cls.declared_keys() if one.attribute == attribute).check(value)

    @classmethod
    def from_cfg(cls, cfg: Any) -> Self:
        """Read the section of a config.

        Raises:
            ValueError: as the class.
        """
        node = _section(cfg, cls.section)
        return cls(**{one.attribute: _frozen(node[one.attribute.upper()]) for one in cls.declared_keys()})

    def as_dict(self) -> dict[str, Any]:
        """Give {field: value}."""
        return dataclasses.asdict(self)  # type: ignore[call-overload]

    def check(self) -> None:
        """Check what goes together; a subclass overrides it.

        Raises:
            ValueError: values do not go together.
        """

    def feature_settings(self) -> dict[str, Any]:
        """Name and value of each key that what evaluation gives depends on.

        A subclass leaves out what has no influence at the present values, and writes alike what acts alike.
        """
        return {
            one.name: getattr(self, one.attribute) for one in self.declared_keys() if one.role in ("features", "test")
        }

    def changed_feature_settings(self) -> dict[str, Any]:
        """Give those of `feature_settings` that are not at their defaults: a key that is added later changes none."""
        defaults = type(self).from_cfg(_followers[0]).feature_settings()
        return {name: v for name, v in self.feature_settings().items() if name not in defaults or defaults[name] != v}


class Declares:
    """What a module of a model says about itself, for all that reads models without knowing their methods.

    Attributes:
        reads: the keys that it is built from, {argument: class of settings}.
        training_only: prefixes, below the module, of state that evaluation does not use; checkpoints may lack it.
        settings: what it was built with, as far as what evaluation gives depends on it.
        of_whole_batch: what in it, beside norms, is no function of one image, in words; "": nothing.

    A subclass names its own of the first two; those of the classes that it inherits from stay.
    """

    reads: ClassVar[Mapping[str, type[Settings]]] = {}
    training_only: ClassVar[Sequence[str]] = ()
    settings: Sequence[Settings] = ()
    of_whole_batch: ClassVar[str] = ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        bases = [base for base in cls.__mro__ if issubclass(base, Declares)]
        cls.training_only = tuple(dict.fromkeys(prefix for base in bases for prefix in base.training_only))
        cls.reads = {name: declared for base in reversed(bases) for name, declared in base.reads.items()}

    def before_compiled_pass(self) -> None:
        """Put into buffers what a training pass reads of the trainer; a compiled pass would take it for constant."""

    def feature_settings(self) -> dict[str, Any]:
        """Name and value of each of the `settings` that what evaluation gives depends on, where not the default."""
        return {name: value for one in self.settings for name, value in one.changed_feature_settings().items()}


def follow(cfg: Any) -> None:
    """Add the keys to a config, those that are declared already and those that will be; fast-reid's defaults first."""
    _followers.append(cfg)
    for declared in DECLARED:
        declared.add_to(cfg)


def all_keys() -> Iterator[Key]:
    """List every key of the plugin's, in the order of declaration."""
    for declared in DECLARED:
        yield from (one for one in declared.declared_keys() if not one.of_host)


def trains(name: str, value: Any) -> bool:
    """Tell whether a training step reads a key.

    Args:
        name: in full, of the plugin's or of fast-reid's.
        value: what it is set to.
    """
    known = {one.name: one for one in all_keys()}
    return known[name].trains(value) if name in known else not name.startswith("TEST.")


def unread_key(cfg: Any, read: Iterable[type[Settings]]) -> tuple[Key, Any] | None:
    """Find a key that is set and has no effect: of a section that a model reads in part, or of one for any model.

    A section that a model reads nothing of is passed over: a config may hold the settings of several methods.

    Args:
        cfg: the config.
        read: the classes of settings that the model reads.

    Returns:
        The first such key and its value, or None.
    """
    read = set(read)
    sections = {declared.section for declared in read}
    for declared in DECLARED:
        if declared not in read and (declared.section in sections or declared.for_any_model):
            for one in declared.declared_keys():
                value = _frozen(_section(cfg, declared.section)[one.attribute.upper()])
                if not one.of_host and value != one.default:
                    return one, _thawed(value)
    return None


def reference(pattern: str = "") -> str:
    """Write the keys as text: section by section, each with default, values, meaning and source.

    Args:
        pattern: only keys whose name has this in it, in any case.
    """
    lines: list[str] = []
    for declared in DECLARED:
        chosen = [one for one in declared.declared_keys() if not one.of_host and pattern.upper() in one.name]
        if not chosen:
            continue
        summary = (declared.__doc__ or "").strip().splitlines()
        lines += ["", f"# {declared.section or 'outside of any section'}: {summary[0] if summary else ''}"]
        for one in chosen:
            values = f"one of {', '.join(map(str, one.known))}. " if one.known else ""
            source = f" [{one.source}]" if one.source else ""
            lines.append(f"{one.name} {_shown(one.default)}\n    {values}{one.help}{source}; {ROLE_WORDS[one.role]}")
    return "\n".join(lines[1:])


#: What a role means, in a sentence about a key.
ROLE_WORDS = {
    "features": "training and features",
    "test": "features, not training",
    "training": "training alone",
    "procedure": "neither training nor features",
}


def _section(cfg: Any, section: str) -> Any:
    for name in section.split(".") if section else ():
        cfg = cfg[name]
    return cfg


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, (list, tuple)) else value


def _thawed(value: Any) -> Any:
    return list(map(_thawed, value)) if isinstance(value, tuple) else value


def _shown(value: Any) -> str:
    return repr(_thawed(value))
