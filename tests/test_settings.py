"""How a key is declared, and what follows from it: config, checks, fingerprint's share, reference."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from yacs.config import CfgNode

from fastreid_parts import settings
from fastreid_parts.settings import Declares, Key, Settings, all_keys, follow, host_key, key, reference, unread_key


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[CfgNode]:
    """A host's config of one key, and no other declarations."""
    monkeypatch.setattr(settings, "DECLARED", [])
    monkeypatch.setattr(settings, "_followers", [])
    yield CfgNode({"HOST": {"WIDTH": 8}})


def toy() -> type[Settings]:
    class Toy(Settings, section="HOST"):
        """Of a toy."""

        width: int = host_key("a width", low=1, role="features")
        kinds: tuple = key(
            ("a",), "which kinds", source="Eq. (1)", choices=("a", "b"), role="test", trains_with=(("b",),)
        )
        rate: float = key(0.5, "a rate", above=0, high=1)

        def check(self) -> None:
            if self.width == 3 and self.rate == 1:
                raise ValueError("HOST.WIDTH 3 needs another HOST.RATE")

    return Toy


class TestKey:
    def test_choices(self) -> None:
        one = Key("A.B", "b", "x", "", choices=lambda: ("round", "square"))
        assert one.known == ("round", "square")
        one.check("round")
        one.check(("square", "round"))
        with pytest.raises(ValueError, match=r"^A\.B is 'rond'; it is one of round, square\. Did you mean round\?$"):
            one.check("rond")
        with pytest.raises(ValueError, match=r"A\.B is \['square', 'oval'\]; it lists some of round, square$"):
            one.check(("square", "oval"))
        with pytest.raises(ValueError, match=r"A\.B is \[\]; it lists some of"):
            one.check(())
        Key("A.B", "b", (), "").check(())  # without choices a list may be empty

    def test_bounds(self) -> None:
        one = Key("A.B", "b", 1, "", low=1, high=4)
        for value in (1, 4, (1, 2)):
            one.check(value)
        for value in (0, 5, (2, 5)):
            with pytest.raises(ValueError, match=r"it is at least 1 and at most 4$"):
                one.check(value)
        positive = Key("A.B", "b", 1, "", above=0)
        positive.check(1e-9)
        with pytest.raises(ValueError, match=r"A\.B is 0; it is above 0$"):
            positive.check(0)

    def test_nothing_is_no_value(self, host: CfgNode) -> None:
        """`PROB:` in YAML, with nothing behind it."""
        for one in (
            Key("A.B", "b", 0.5, "", low=0),
            Key("A.B", "b", 0.5, ""),
            Key("A.B", "b", 0.5, "", choices=(0.5,)),
        ):
            with pytest.raises(ValueError, match=r"^A\.B has no value; give it one, or leave the key out for 0\.5$"):
                one.check(None)
        Key("A.B", "b", None, "").check(None)
        of_host = Key("HOST.WIDTH", "width", None, "", low=1, of_host=True)
        follow(host)
        with pytest.raises(ValueError, match=r"^HOST\.WIDTH has no value; .* for 8$"):
            of_host.check(None)

    def test_what_a_training_step_reads(self) -> None:
        assert [Key("A", "a", 0, "", role=role).trains(1) for role in settings.ROLES] == [True, False, True, False]
        at_test = Key("A", "a", 0, "", role="test", trains_with=("always",))
        assert at_test.trains("always") and not at_test.trains("test")


class TestSettings:
    def test_a_section_of_the_config_with_defaults(self, host: CfgNode) -> None:
        follow(host)
        declared = toy()  # added where the config is followed already
        assert host == CfgNode({"HOST": {"WIDTH": 8, "KINDS": ["a"], "RATE": 0.5}})
        later = CfgNode({"HOST": {"WIDTH": 2, "RATE": 0.25}})
        follow(later)
        assert dict(later.HOST) == {"WIDTH": 2, "RATE": 0.25, "KINDS": ["a"]}  # what is there stays
        later.HOST.KINDS.append("b")
        read = declared.from_cfg(later)
        assert read.as_dict() == {"width": 2, "kinds": ("a", "b"), "rate": 0.25}
        assert host.HOST.KINDS == ["a"]  # lists are not shared
        assert [one.name for one in all_keys()] == ["HOST.KINDS", "HOST.RATE"]

    def test_sections_are_made_as_deep_as_they_are(self, host: CfgNode) -> None:
        class Deep(Settings, section="A.B"):
            flag: bool = key(False, "")

        class Top(Settings, section=""):
            seed: int = key(3, "")

        follow(host)
        assert host.A.B.FLAG is False and host.SEED == 3
        assert Deep.from_cfg(host).flag is False and Top.from_cfg(host).seed == 3
        assert [one.name for one in (*Deep.declared_keys(), *Top.declared_keys())] == ["A.B.FLAG", "SEED"]

    def test_values_are_checked_when_they_are_made(self, host: CfgNode) -> None:
        declared = toy()
        values = {"width": 2, "kinds": ("a",), "rate": 1.0}
        declared(**values)
        for wrong, message in (
            ({"width": 0}, "HOST.WIDTH is 0; it is at least 1"),
            ({"kinds": ("c",)}, r"HOST.KINDS is \['c'\]"),
            ({"rate": 1.5}, "HOST.RATE is 1.5; it is above 0 and at most 1"),
            ({"width": 3}, "HOST.WIDTH 3 needs another HOST.RATE"),
        ):
            with pytest.raises(ValueError, match=message):
                declared(**{**values, **wrong})
        declared.check_value("rate", 0.5)
        with pytest.raises(ValueError, match="HOST.RATE is 0"):
            declared.check_value("rate", 0)

    def test_what_features_depend_on(self, host: CfgNode) -> None:
        follow(host)
        declared = toy()
        usual = declared.from_cfg(host)
        assert usual.feature_settings() == {"HOST.WIDTH": 8, "HOST.KINDS": ("a",)}
        assert usual.changed_feature_settings() == {}
        other = declared(width=8, kinds=("b",), rate=0.1)
        assert other.changed_feature_settings() == {"HOST.KINDS": ("b",)}


class TestDeclares:
    def test_what_a_class_inherits_stays(self, host: CfgNode) -> None:
        one, other = toy(), toy()

        class Base(Declares):
            reads = {"one": one}
            training_only = ("a", "b")

        class Derived(Base):
            reads = {"other": other}
            training_only = ("b", "c")

        assert Derived.reads == {"one": one, "other": other} and set(Derived.training_only) == {"a", "b", "c"}
        assert Base.reads == {"one": one} and Base.training_only == ("a", "b")
        follow(host)
        module = Derived()
        assert module.feature_settings() == {}
        module.settings = (one(width=2, kinds=("a",), rate=1.0),)
        assert module.feature_settings() == {"HOST.WIDTH": 2}

    def test_a_key_that_is_set_and_not_read(self, host: CfgNode) -> None:
        declared = toy()

        class Beside(Settings, section="HOST"):
            depth: tuple = key((1, 2), "a depth")

        class Elsewhere(Settings, section="OTHER"):
            depth: int = key(1, "a depth")

        class Everywhere(Settings, section="ALL"):
            for_any_model = True
            depth: int = key(1, "a depth")

        follow(host)
        assert unread_key(host, [declared]) is None
        host.OTHER.DEPTH = 2  # of a method that is not used
        assert unread_key(host, [declared]) is None
        host.HOST.RATE = 0.1
        assert unread_key(host, [declared]) is None
        host.HOST.DEPTH = [1, 3]
        one, value = unread_key(host, [declared])
        assert (one.name, value) == ("HOST.DEPTH", [1, 3]) and unread_key(host, [declared, Beside]) is None
        host.ALL.DEPTH = 2
        one, value = unread_key(host, [declared, Beside])
        assert (one.name, value) == ("ALL.DEPTH", 2) and unread_key(host, [declared, Beside, Everywhere]) is None


def test_reference(host: CfgNode) -> None:
    toy()
    assert reference().splitlines() == [
        "# HOST: Of a toy.",
        "HOST.KINDS ['a']",
        "    one of a, b. which kinds [Eq. (1)]; features, not training",
        "HOST.RATE 0.5",
        "    a rate; training alone",
    ]
    assert reference("host.ra").splitlines()[1:] == ["HOST.RATE 0.5", "    a rate; training alone"]
    assert reference("nothing") == ""
