"""Kinds of faiss indexes for a gallery: parameters, with defaults that follow from its size, and building."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import faiss
import numpy as np

from ..evaluation.exact import check_metric
from .half_rows import HalfRows

#: Name of a kind -> what it is.
KINDS = {
    "flat": "exhaustive and exact",
    "ivfpq": "inverted lists of product-quantised features, whose best candidates are compared again in float16",
    "hnsw": "a graph of neighbors over the features",
}
#: Parameters that may change after an index is built: they trade time for recall.
SEARCH_PARAMETERS = {"flat": (), "ivfpq": ("nprobe", "rescore"), "hnsw": ("efSearch",)}

#: The longest list that faiss finds on a GPU.
GPU_LONGEST = 2048

_CENTROID_IMAGES = 39  # faiss warns of k-means with fewer points for a centroid
_CODE_IMAGES = 64  # for the codes; faiss takes up to 256, for four times the time


def default_parameters(kind: str, images: int, dimensions: int, nlist: int | None = None) -> dict[str, int]:
    """Parameters of an index for so many images.

    `flat` has none. `ivfpq`: `nlist` inverted lists, about four times the square root of the number of images; `m`
    bytes of `nbits` bits for an image's code, one for at least eight dimensions and 64 at most; `nprobe` lists are
    looked at, one in 16 and at least 16; with `rescore` r, the r * k best by their codes are compared exactly, with 0
    the codes' distances stand. `hnsw`: `M` neighbors in the graph, candidates that are kept while it is built
    (`efConstruction`) and searched (`efSearch`).

    Args:
        kind: one of `KINDS`.
        images: number of images that the index is built for.
        dimensions: of a feature.
        nlist: where it is chosen already; `nprobe` follows it.

    Raises:
        ValueError: unknown kind.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind of index '{kind}', choose one of: {', '.join(KINDS)}")
    if kind == "ivfpq":
        lists = min(round(math.log2(max(1, images)) / 2 + 2), int(math.log2(max(1, images / _CENTROID_IMAGES))))
        m = max(m for m in range(1, max(1, min(64, dimensions // 8)) + 1) if dimensions % m == 0)
        nlist = nlist or 2**lists
        return {"nlist": nlist, "m": m, "nbits": 8, "nprobe": max(min(nlist, 16), nlist // 16), "rescore": 10}
    return {"M": 32, "efConstruction": 80, "efSearch": 64} if kind == "hnsw" else {}


def check_parameters(kind: str, parameters: Mapping[str, int], dimensions: int) -> None:
    """Refuse parameters that the kind does not have, or that an index cannot have.

    Args:
        kind: one of `KINDS`.
        parameters: by name.
        dimensions: of a feature.

    Raises:
        ValueError: an unknown kind, an unknown parameter or a value out of its range.
    """
    names = default_parameters(kind, 1, dimensions)
    unknown = [name for name in parameters if name not in names]
    if unknown:
        has = f"its parameters are {', '.join(names)}" if names else "it has no parameters"
        raise ValueError(f"an index of kind {kind} has no {', '.join(unknown)}: {has}")
    for name, value in parameters.items():
        least = {"rescore": 0, "nbits": 4, "M": 2}.get(name, 1)
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
            raise ValueError(f"{name} is a whole number and at least {least}, got {value}")
    if dimensions % parameters.get("m", 1):
        raise ValueError(f"m must divide the {dimensions} dimensions of a feature, got {parameters['m']}")
    if parameters.get("nbits", 8) > 8:
        raise ValueError(f"nbits is 4 to 8, got {parameters['nbits']}")


def check_tunable(kind: str, parameters: Iterable[str]) -> None:
    """Refuse parameters that are fixed when an index is built.

    Args:
        kind: one of `KINDS`.
        parameters: names.

    Raises:
        ValueError: one is.
    """
    fixed = [name for name in parameters if name not in SEARCH_PARAMETERS[kind]]
    if fixed:
        raise ValueError(f"{', '.join(fixed)} cannot change in an index that is built: build it anew")


def needed_images(kind: str, parameters: Mapping[str, int]) -> int:
    """Tell how many images it takes to train an index: those that faiss asks for, for every centroid of a k-means.

    Args:
        kind: one of `KINDS`.
        parameters: of the kind.
    """
    return _CENTROID_IMAGES * max(parameters["nlist"], 2 ** parameters["nbits"]) if kind == "ivfpq" else 1


def make_index(kind: str, dimensions: int, metric: str, parameters: Mapping[str, int]) -> faiss.Index:
    """Make an empty index; an `ivfpq` index is to be trained before images are added.

    Args:
        kind: one of `KINDS`.
        dimensions: of a feature.
        metric: `euclidean`, or `cosine` for features of length 1.
        parameters: all that `default_parameters` names.

    Raises:
        ValueError: unknown metric.
    """
    check_metric(metric)
    measure = _measure(metric)
    if kind == "flat":
        return faiss.IndexFlat(dimensions, measure)
    if kind == "hnsw":
        index = faiss.IndexHNSWFlat(dimensions, parameters["M"], measure)
        index.hnsw.efConstruction = parameters["efConstruction"]
        return index
    words = f"IVF{parameters['nlist']},PQ{parameters['m']}x{parameters['nbits']}"
    index = faiss.index_factory(dimensions, words, measure)
    index.do_polysemous_training = False  # the factory's default takes minutes, for a search that is not used here
    index.cp.max_points_per_centroid, index.pq.cp.max_points_per_centroid = _CENTROID_IMAGES, _CODE_IMAGES
    return index


def _measure(metric: str) -> int:
    return faiss.METRIC_INNER_PRODUCT if metric == "cosine" else faiss.METRIC_L2


def check_index(index: faiss.Index, kind: str, metric: str, parameters: Mapping[str, int], rows: np.ndarray) -> None:
    """Refuse a faiss index that is another one than what is said of it.

    Args:
        index: as faiss read it.
        kind: one of `KINDS`.
        metric: `euclidean` or `cosine`.
        parameters: all that `default_parameters` names.
        rows: (P,) int64, ascending: the numbers that an `ivfpq` index has for its vectors.

    Raises:
        ValueError: kind, metric, a parameter or a number is another one.
    """
    if set(parameters) != set(default_parameters(kind, 1, index.d)):
        raise ValueError(f"the parameters of the {kind} index are not {', '.join(parameters) or 'none'}")
    check_parameters(kind, parameters, index.d)
    made = {"flat": faiss.IndexFlat, "ivfpq": faiss.IndexIVFPQ, "hnsw": faiss.IndexHNSWFlat}[kind]
    if not isinstance(index, made) or index.metric_type != _measure(metric):
        raise ValueError(f"the vectors are in a {type(index).__name__} of another kind or metric than {kind}, {metric}")
    built: dict[str, int] = {}
    if kind == "hnsw":
        built = {"M": index.hnsw.nb_neighbors(1), "efConstruction": index.hnsw.efConstruction}
    elif kind == "ivfpq":
        built = {"nlist": index.nlist, "m": index.pq.M, "nbits": index.pq.nbits}
        lists = index.invlists
        labels = [faiss.rev_swig_ptr(lists.get_ids(n), lists.list_size(n)) for n in range(index.nlist)]
        if not np.array_equal(np.sort(np.concatenate(labels)), rows):
            raise ValueError("the lists hold other images than the table")
    wrong = [name for name, value in built.items() if parameters[name] != value]
    if wrong:
        raise ValueError(f"{wrong[0]} of the vectors is {built[wrong[0]]}, not {parameters[wrong[0]]}")


def training_rows(parameters: Mapping[str, int], images: int) -> np.ndarray:
    """Choose the images that an ivfpq index is trained on, at random but always the same.

    Args:
        parameters: of the kind.
        images: how many there are.

    Returns:
        Ascending row numbers.
    """
    wanted = max(_CENTROID_IMAGES * parameters["nlist"], _CODE_IMAGES * 2 ** parameters["nbits"])
    return np.sort(np.random.default_rng(0).choice(images, min(images, wanted), replace=False))


def search(
    index: faiss.Index,
    query: np.ndarray,
    k: int,
    parameters: Mapping[str, int],
    allowed: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """faiss's scores and labels, with the parameters of a search set.

    Args:
        index: on the CPU, or what `on_gpus` made of it.
        query: (Q, D) float32.
        k: length of a list; no more than are allowed.
        parameters: of the index.
        allowed: (labels,) bool, which vectors may be found; None for all. Only on the CPU.

    Returns:
        Scores (Q, k) and labels (Q, k) int64, -1 where fewer were found.
    """
    if isinstance(index, faiss.IndexHNSW):
        return _search_graph(index, query, k, parameters["efSearch"], allowed)
    selector = None if allowed is None else faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
    if "nprobe" not in parameters:
        return (
            index.search(query, k, params=faiss.SearchParameters(sel=selector)) if selector else index.search(query, k)
        )
    nprobe = min(parameters["nprobe"], parameters["nlist"])
    if selector:
        return _search_lists(index, query, k, nprobe, selector)
    if isinstance(index, faiss.IndexIVF):
        index.nprobe = nprobe
    else:
        faiss.GpuParameterSpace().set_index_parameter(index, "nprobe", nprobe)
    return index.search(query, k)


def _search_lists(
    index: faiss.IndexIVF, query: np.ndarray, k: int, nprobe: int, selector: faiss.IDSelector
) -> tuple[np.ndarray, np.ndarray]:
    """More lists, until k of each are found."""
    while True:
        scores, labels = index.search(query, k, params=faiss.SearchParametersIVF(sel=selector, nprobe=nprobe))
        if nprobe == index.nlist or (labels >= 0).all():
            return scores, labels
        nprobe = min(2 * nprobe, index.nlist)


def _search_graph(
    index: faiss.Index, query: np.ndarray, k: int, width: int, allowed: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Longer lists until k of each may be found. Not with faiss's selector, which misses neighbors in old versions."""
    if allowed is None:
        index.hnsw.efSearch = max(width, k)
        return index.search(query, k)
    wanted = math.ceil(k * len(allowed) / allowed.sum())
    while True:
        wanted = min(2 * wanted, len(allowed))
        index.hnsw.efSearch = max(width, wanted)
        scores, labels = index.search(query, wanted)
        may = (labels >= 0) & allowed[labels]
        if wanted == len(allowed) or (may.sum(axis=1) >= k).all():
            break
    first = np.argsort(~may, axis=1, kind="stable")[:, :k]
    may, scores, labels = (np.take_along_axis(column, first, 1) for column in (may, scores, labels))
    return scores, np.where(may, labels, -1)


def on_gpus(index: faiss.Index) -> faiss.Index:
    """Copy an index to all GPUs, each with a share of the images.

    Raises:
        ValueError: this faiss has no GPU code, there is no GPU, or it is an HNSW index: faiss has none for GPUs.
    """
    if not hasattr(faiss, "StandardGpuResources"):
        raise ValueError("this faiss was built without GPU code: install faiss-gpu in place of faiss-cpu")
    if faiss.get_num_gpus() == 0:
        raise ValueError("faiss sees no GPU")
    if isinstance(index, faiss.IndexHNSW):
        raise ValueError("faiss searches HNSW on the CPU only: build a flat or ivfpq index for GPUs")
    options = faiss.GpuMultipleClonerOptions()
    options.shard = True
    # Tables of long codes do not fit into a GPU's shared memory as float32; flat features stay exact
    options.useFloat16 = isinstance(index, faiss.IndexIVFPQ)
    return faiss.index_cpu_to_all_gpus(index, co=options)


def exact_distances(
    query: np.ndarray, stored: np.ndarray | HalfRows, positions: np.ndarray, metric: str, block: int = 16
) -> np.ndarray:
    """Distances of each query to candidates of its own.

    Args:
        query: (Q, D) float32, normalized.
        stored: (N, D) float16, normalized.
        positions: (Q, C) rows of `stored`; -1 where there is no candidate.
        metric: `euclidean` or `cosine`.
        block: queries at a time.

    Returns:
        (Q, C) float32, infinite where there is no candidate.
    """
    distances = np.empty(positions.shape, np.float32)
    for start in range(0, len(query), block):
        rows = slice(start, start + block)
        candidates = stored[positions[rows]].astype(np.float32)  # (b, C, D)
        own = query[rows, :, None]  # (b, D, 1)
        if metric == "cosine":
            distances[rows] = 1 - (candidates @ own)[..., 0]
        else:
            candidates -= own[..., 0][:, None]
            distances[rows] = np.sqrt(np.einsum("qcd,qcd->qc", candidates, candidates))
    distances[positions < 0] = np.inf
    return distances


def blocks_of(rows: int, dimensions: int, values: int = 1 << 25) -> Iterable[slice]:
    """Cut rows into consecutive slices.

    Args:
        rows: how many.
        dimensions: values of a row.
        values: at most about so many in a slice.
    """
    step = max(1, values // max(1, dimensions))
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))
