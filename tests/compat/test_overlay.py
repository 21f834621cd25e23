"""Replacing the host's names."""

from __future__ import annotations

import sys
import types

import pytest
import torch

from fastreid_parts.compat.overlay import Overlay, replace, wrap


def _module(name: str, monkeypatch: pytest.MonkeyPatch, **names: object) -> types.ModuleType:
    module = types.ModuleType(name)
    vars(module).update(names)
    monkeypatch.setitem(sys.modules, name, module)
    return module


class TestOverlay:
    def test_replaces_some_names_and_passes_the_rest_through(self) -> None:
        overlay = Overlay(torch, load=len)
        assert overlay.load is len
        assert overlay.nn is torch.nn and overlay.float32 is torch.float32

    def test_leaves_the_module_alone(self) -> None:
        load = torch.load
        Overlay(torch, load=len)
        assert torch.load is load

    def test_looks_names_up_when_they_are_asked_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        base = _module("overlay_base", monkeypatch)
        overlay = Overlay(base)
        base.later = 1
        assert overlay.later == 1

    def test_names_what_is_missing(self) -> None:
        with pytest.raises(AttributeError, match="no_such_name"):
            Overlay(torch).no_such_name  # noqa: B018

    def test_torchscript_reads_through_it(self) -> None:
        # A tracer accepts modules only; the host's backbones call torch.* through an overlay.
        def twice(x: torch.Tensor) -> torch.Tensor:
            return namespace.add(x, x)

        namespace = Overlay(torch, load=len)
        scripted = torch.jit.script(twice)
        assert torch.equal(scripted(torch.ones(2)), torch.full((2,), 2.0))


class TestReplace:
    def test_reaches_names_bound_before(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def original() -> int:
            return 1

        def better() -> int:
            return 2

        host = _module("replace_host", monkeypatch, work=original)
        early = _module("replace_early_script", monkeypatch, work=original)
        other = _module("replace_other", monkeypatch, work=max)
        replace(host, "work", better)
        assert host.work() == early.work() == 2
        assert other.work is max
        assert better.__wrapped__ is original

    def test_class_methods_change_for_existing_instances(self) -> None:
        class Host:
            def work(self) -> int:
                return 1

        instance = Host()
        replace(Host, "work", lambda self: 2)
        assert instance.work() == 2

    def test_a_name_that_is_not_there(self) -> None:
        with pytest.raises(AttributeError, match="work"):
            replace(types.ModuleType("empty"), "work", max)


class TestWrap:
    def test_gives_the_original_and_the_arguments(self) -> None:
        class Host:
            def work(self, number: int, more: int = 0) -> int:
                """Its own."""
                return number + more

            @classmethod
            def named(cls) -> str:
                return cls.__name__

            @staticmethod
            def half(number: int) -> float:
                return number / 2

        class Below(Host):
            pass

        before = Host.work
        wrap(Host, "work", lambda original, self, number, more=10: -original(self, number, more=more))
        wrap(Host, "named", lambda original, cls: f"<{original(cls)}>")
        wrap(Host, "half", lambda original, number: original(number) + 1)
        assert (Host().work(1), Host().work(1, 2), Below().work(1, more=3)) == (-11, -3, -4)
        assert Host.work.__wrapped__ is before and Host.work.__doc__ == "Its own."
        assert (Host.named(), Below.named(), Below().half(4)) == ("<Host>", "<Below>", 3.0)

    def test_reaches_names_bound_before(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def original() -> int:
            return 1

        host = _module("wrap_host", monkeypatch, work=original)
        early = _module("wrap_early_script", monkeypatch, work=original)
        wrap(host, "work", lambda work: work() + 1)
        assert host.work() == early.work() == 2
