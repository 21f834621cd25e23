"""Trained weights that a method's authors published, as weights of this package's model of it.

Such a file may be a whole model, `torch.save(model)`, which only their code can load, and which could run any code.
Here its tensors are taken out and nothing else: every class in it is replaced by an empty one.
"""

from __future__ import annotations

import os
import pickle
import types
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from fastreid.modeling import build_model

from ..checkpoints import CheckpointError, safe_load
from ..config import load_config
from .formats import tensors_of

State = dict[str, torch.Tensor]

#: What builds tensors. All else that a file asks for becomes an `_Empty`.
_BUILDS_TENSORS = {
    ("collections", "OrderedDict"),
    ("torch._utils", "_rebuild_tensor"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch.nn.parameter", "Parameter"),
}


@dataclass(frozen=True)
class AuthorsWeights:
    """Weights of one trained model.

    Attributes:
        name: what `fastreid-parts weights` calls it.
        page: where it is published.
        url: the file.
        code: repository and commit of the code that `convert` was held against.
        config: of the model here.
        convert: from the tensors of theirs, by their names, to ours.
    """

    name: str
    page: str
    url: str
    code: str
    config: str
    convert: Callable[[Mapping[str, torch.Tensor]], State]


def convert_authors(name: str, path: str | os.PathLike) -> State:
    """Read an authors' file and give the weights of this package's model.

    Args:
        name: one of `AUTHORS`.
        path: the file, as they published it, or a state dict of theirs.

    Returns:
        The whole state dict of the model of its config.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no file of `torch.save`, or another model's.
    """
    entry = AUTHORS[name]
    theirs = {key.removeprefix("module."): value for key, value in read_tensors(path).items()}
    try:
        state = entry.convert(theirs)
    except KeyError as error:
        raise ValueError(
            f"{path} has no {error.args[0]}: it is no model of {entry.code}, whose weights are on {entry.page}"
        ) from error
    model = build_model(load_config(entry.config, ["MODEL.DEVICE", "cpu", "MODEL.BACKBONE.PRETRAIN", False]))
    own, got = (
        # Classifiers depend on the number of identities
        {key: value.shape for key, value in one.items() if not key.startswith("heads.classifiers.")}
        for one in (model.state_dict(), state)
    )
    if wrong := sorted(key for key in own.keys() | got.keys() if own.get(key) != got.get(key)):
        raise ValueError(f"{path} is another model than that of {entry.config}: {', '.join(wrong[:5])} do not fit")
    return state


# ---- reading --------------------------------------------------------------------------------------------------------


class _Empty:
    """Stands for whatever class a file names, and keeps what it would have been given."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, Mapping):
            self.__dict__.update(state)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _BUILDS_TENSORS:
            return super().find_class(module, name)
        return type(name, (_Empty,), {})


def _load(file: Any, **options: Any) -> Any:
    return _Unpickler(file, **options).load()


_PICKLE = types.SimpleNamespace(__name__="fastreid_parts", Unpickler=_Unpickler, load=_load)


def _is_program(path: str | os.PathLike) -> bool:
    """Whether a file is a TorchScript archive, of which `torch.load` runs code."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(os.path.basename(name) == "constants.pkl" for name in archive.namelist())


def read_tensors(path: str | os.PathLike) -> State:
    """Take the tensors out of what `torch.save` wrote, a state dict or a whole model, and run nothing of it.

    Args:
        path: the file.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it cannot be read, holds no tensors, or is a TorchScript archive.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the source of their classes is not there
            # Said by torch before it runs one that zipfile reads otherwise
            warnings.filterwarnings("error", message=".*TorchScript archive")
            content = (
                safe_load(path)  # which refuses it, and says what to do
                if _is_program(path)
                else torch.load(path, map_location="cpu", pickle_module=_PICKLE, weights_only=False)
            )
    except FileNotFoundError:
        raise FileNotFoundError(f"no file '{os.fspath(path)}'") from None
    except CheckpointError:
        raise
    except Exception as error:  # a broken file fails in many ways
        reason = (str(error).strip() or "nothing to read").splitlines()[0]
        raise CheckpointError(
            f"{path} is cut short or no file of torch.save ({type(error).__name__}: {reason})"
        ) from error
    found = dict(_tensors_in(content)) if isinstance(content, _Empty) else tensors_of(content)
    if not found:
        raise CheckpointError(f"{path} holds no tensors")
    return found


def _tensors_in(module: _Empty, prefix: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    own = vars(module)
    for kind in ("_parameters", "_buffers"):
        for name, value in own.get(kind, {}).items():
            if isinstance(value, torch.Tensor):
                yield prefix + name, value.detach()
    for name, child in own.get("_modules", {}).items():
        if isinstance(child, _Empty):
            yield from _tensors_in(child, f"{prefix}{name}.")


# ---- RRID -----------------------------------------------------------------------------------------------------------

_SCALES = (2, 4, 6)


def _rrid(theirs: Mapping[str, torch.Tensor]) -> State:
    """A module of theirs for each feature is an entry of a parallel layer here, in the order of `RRIDHead`."""

    def wholes(name: str) -> list[str]:
        return [f"{name.format(p)}.0" for p in _SCALES]

    def parts(name: str) -> list[str]:
        return [f"{name.format(p)}.{i}" for p in _SCALES for i in range(p)]

    maxima, contrasts = wholes("global_{}_max_conv_list"), wholes("global_{}_rest_conv_list")
    blocks = {
        "heads.reduction": [*maxima, *contrasts, *parts("local_{}_conv_list"), *parts("rest_{}_conv_list")],
        "heads.global_relation": wholes("global_{}_pooling_conv_list"),
        "heads.local_relation": parts("relation_{}_conv_list"),
    }
    classifiers = [*wholes("fc_global_{}_list"), *parts("fc_local_rest_{}_list")]
    classifiers += [*wholes("fc_global_max_{}_list"), *wholes("fc_global_rest_{}_list")]
    classifiers += [*parts("fc_local_{}_list"), *parts("fc_rest_{}_list")]

    state = {f"backbone.{name[5:]}": value for name, value in theirs.items() if name.startswith("base.")}
    for name in [*state]:
        if name.endswith("running_var"):  # PyTorch before 0.4.1 did not count batches
            state.setdefault(name.replace("running_var", "num_batches_tracked"), torch.zeros((), dtype=torch.long))
    for block, modules in blocks.items():
        state[f"{block}.conv.weight"] = torch.stack([theirs[f"{one}.0.weight"].flatten(1) for one in modules])
        state[f"{block}.conv.bias"] = torch.stack([theirs[f"{one}.0.bias"] for one in modules])
        for entry in ("weight", "bias", "running_mean", "running_var"):
            state[f"{block}.norm.{entry}"] = torch.cat([theirs[f"{one}.1.{entry}"] for one in modules])
        state[f"{block}.norm.num_batches_tracked"] = torch.zeros((), dtype=torch.long)
    for entry in ("weight", "bias"):
        state[f"heads.classifiers.{entry}"] = torch.stack([theirs[f"{one}.{entry}"] for one in classifiers])
    return state


#: Name -> what its authors published. CAN's, CMBN's, CGE's and RMGL's published no weights that are known here.
AUTHORS: Mapping[str, AuthorsWeights] = {
    one.name: one
    for one in (
        AuthorsWeights(
            name="rrid/market1501",
            page="https://github.com/cvlab-yonsei/RRID",
            url="https://drive.google.com/file/d/1x7Hqb3MY8kPJhhWFHiI-fvwJ8MKS5muy/view",
            code="cvlab-yonsei/RRID 7b003a365e6f11172952f8dd6eafa7d1f423851b",
            config="Market/rrid_f.yml",
            convert=_rrid,
        ),
    )
}
