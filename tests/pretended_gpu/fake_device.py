"""A CUDA device that is pretended, on a machine that has none.

`pretended` is torch's FakeTensorMode: tensors have a shape, a type and a device, and no values; an operation on tensors
of two devices is an error, as it is on a GPU. `OnDevice` has values as well, for code that goes back and forth between
torch and NumPy, but no gradients: a backward pass needs a driver.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from fastreid.utils.events import EventStorage
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map_only

CUDA = torch.device("cuda:0")


class Unread(EventStorage):
    """A log that does not ask for the values of tensors: there are none."""

    def put_scalar(self, name: str, value: Any, smoothing_hint: bool = True) -> None:
        assert not isinstance(value, torch.Tensor) or value.numel() == 1, name


def moved(module: nn.Module) -> nn.Module:
    """The module, with its parameters and buffers on the pretended device; inside of one of the contexts below."""
    for part in module.modules():
        for name, value in part._parameters.items():
            if value is not None:
                part._parameters[name] = nn.Parameter(value.detach().to(CUDA), requires_grad=value.requires_grad)
        for name, value in part._buffers.items():
            if value is not None:
                part._buffers[name] = value.to(CUDA)
    return module


@contextlib.contextmanager
def pretended(module: nn.Module) -> Iterator[nn.Module]:
    """The module on a pretended GPU. Tensors that are made inside have no values; those of before are refused."""
    with FakeTensorMode() as mode:
        with contextlib.ExitStack() as outside:
            outside.enter_context(_allowing(mode))
            moved(module)
        with Unread():
            yield module


@contextlib.contextmanager
def _allowing(mode: FakeTensorMode) -> Iterator[None]:
    mode.allow_non_fake_inputs = True  # the module's own, which are replaced
    yield
    mode.allow_non_fake_inputs = False


@contextlib.contextmanager
def half_precision(dtype: torch.dtype) -> Iterator[None]:
    """Autocast of a GPU, which torch switches off where it finds none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
        patch.setattr("torch.cuda.is_bf16_supported", lambda *_: True)
        with torch.autocast("cuda", dtype=dtype):
            yield


# ---- with values ----------------------------------------------------------------------------------------------------


class OnDevice(torch.Tensor):
    """A tensor that says it is on a GPU; its values are on the CPU."""

    values: torch.Tensor

    @staticmethod
    def __new__(cls, values: torch.Tensor) -> OnDevice:
        self = torch.Tensor._make_wrapper_subclass(
            cls, values.shape, strides=values.stride(), storage_offset=values.storage_offset(),
            dtype=values.dtype, device=CUDA,
        )  # fmt: skip
        self.values = values
        return self

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.__getitem__:  # a list would become a tensor on the GPU, by the driver
            tensor, index = args
            several = index if isinstance(index, tuple) else (index,)
            args = tensor, tuple(torch.tensor(one) if isinstance(one, list) else one for one in several)
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [one for one in tree_flatten((args, kwargs))[0] if isinstance(one, torch.Tensor)]
        target = kwargs.get("device")
        elsewhere = [one for one in tensors if not isinstance(one, OnDevice) and one.dim() > 0]
        if elsewhere and func not in _ACROSS:
            raise RuntimeError(f"{func}: Expected all tensors to be on the same device, found {CUDA} and cpu")
        if target is not None:
            kwargs["device"] = "cpu"
        plain_args, plain_kwargs = tree_map_only(OnDevice, lambda one: one.values, (args, kwargs))
        result = func(*plain_args, **plain_kwargs)
        if func is torch.ops.aten._to_copy.default and target is not None and torch.device(target).type == "cpu":
            return result
        if func is torch.ops.aten.copy_.default and not isinstance(args[0], OnDevice):
            return args[0]
        result = tree_map_only(torch.Tensor, OnDevice, result)
        return return_and_correct_aliasing(func, args, kwargs, result)


# Operations that take tensors of two devices, as on a GPU: copies, and indices on the CPU
_ACROSS = {
    torch.ops.aten.copy_.default,
    torch.ops.aten.index.Tensor,
    torch.ops.aten.index_put_.default,
}


class _ToDevice(TorchDispatchMode):
    """Has what is made for, or sent to, the GPU be `OnDevice`."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        target = kwargs.get("device")
        if target is None or torch.device(target).type != "cuda":
            return func(*args, **kwargs)
        result = func(*args, **{**kwargs, "device": "cpu"})
        return result if isinstance(result, OnDevice) else OnDevice(result)


@contextlib.contextmanager
def pretended_with_values(module: nn.Module | None = None) -> Iterator[nn.Module | None]:
    """Have tensors that are made on `cuda`, or moved there, be `OnDevice`; the module's too. No gradients."""
    without_cudnn = torch.backends.cudnn.flags(enabled=False)  # whose kernels take no values of the CPU
    with pytest.MonkeyPatch.context() as patch, torch.no_grad(), without_cudnn, _ToDevice(), Unread():
        torch._C._ensureCUDADeviceGuardSet()  # without a driver, one that does nothing, as FakeTensorMode's
        patch.setattr("torch.cuda._lazy_init", lambda: None)
        make = torch.tensor  # which makes tensors by the driver
        patch.setattr(
            "torch.tensor", lambda data, device=None, **options: make(data, **options).to(device or torch.device("cpu"))
        )
        yield moved(module) if module else None
