"""How alike vectors are, and what follows from it: search, paraphrases, key sentences.

Rows are vectors: a is (A, H), b is (B, H). A 1-D vector counts as one row, so two of them give
(1, 1), or (1,) from the functions that go row by row. Numpy (or lists) in, numpy out; torch in,
torch out, differentiable, on the device of b; where both come, torch wins. The result has the dtype
of the inputs; half precision and integers are computed in float32 or wider, and integers come back
so. Torch is not imported here: without a tensor, numpy is enough.

Raises, for every function:
    ValueError: the rows have different widths, or are not numbers, or (``search``, ``paraphrases``,
        ``key_sentences``) a score is not a number because a vector holds NaN or infinity.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

Array = Any  # a numpy array or a torch tensor


def cosine_similarity(a: Array, b: Array | None = None) -> Array:
    """Return the cosine of the angle, ``[i][j]`` = a[i] against b[j]; b missing means a itself.

    Shapes: (A, H), (B, H) -> (A, B). In [-1, 1]; a vector of zeros has cosine 0 with everything.
    """
    a, b, dtype = _prepare(a, b)
    return _cast((_unit(a) @ _unit(b).T).clip(-1, 1), dtype)


def dot_similarity(a: Array, b: Array | None = None) -> Array:
    """Return the dot product, ``[i][j]`` = a[i] · b[j]. Shapes: (A, H), (B, H) -> (A, B)."""
    a, b, dtype = _prepare(a, b)
    return _cast(a @ b.T, dtype)


def euclidean_distance(a: Array, b: Array | None = None) -> Array:
    """Return the straight-line distance, ``[i][j]`` = |a[i] - b[j]|.

    Shapes: (A, H), (B, H) -> (A, B). Taken from the differences: the shortcut |a|² - 2ab + |b|² is
    quicker, but loses just the small distances.
    """
    a, b, dtype = _prepare(a, b)
    return _cast(_distances(a, b, 2), dtype)


def manhattan_distance(a: Array, b: Array | None = None) -> Array:
    """Return the city-block distance, ``[i][j]`` = sum over the components of |a[i] - b[j]|.

    Shapes: (A, H), (B, H) -> (A, B).
    """
    a, b, dtype = _prepare(a, b)
    return _cast(_distances(a, b, 1), dtype)


def euclidean_similarity(a: Array, b: Array | None = None) -> Array:
    """Return the Euclidean distance negated, so that higher means more alike, as for the cosine."""
    return 0.0 - euclidean_distance(a, b)  # not a minus sign: that would print -0.0


def manhattan_similarity(a: Array, b: Array | None = None) -> Array:
    """Return the Manhattan distance negated, so that higher means more alike."""
    return 0.0 - manhattan_distance(a, b)


def pairwise_cosine_similarity(a: Array, b: Array) -> Array:
    """Return the cosine row by row, ``[i]`` = a[i] against b[i]. Shapes: 2 × (A, H) -> (A,)."""
    a, b, dtype = _prepare(a, b, pairwise=True)
    return _cast((_unit(a) * _unit(b)).sum(axis=-1).clip(-1, 1), dtype)


def pairwise_dot_similarity(a: Array, b: Array) -> Array:
    """Return the dot product row by row, ``[i]`` = a[i] · b[i]. Shapes: 2 × (A, H) -> (A,)."""
    a, b, dtype = _prepare(a, b, pairwise=True)
    return _cast((a * b).sum(axis=-1), dtype)


def pairwise_euclidean_similarity(a: Array, b: Array) -> Array:
    """Return the Euclidean distance row by row, negated. Shapes: 2 × (A, H) -> (A,)."""
    a, b, dtype = _prepare(a, b, pairwise=True)
    return _cast(0.0 - _library(a).linalg.norm(a - b, axis=-1), dtype)


def pairwise_manhattan_similarity(a: Array, b: Array) -> Array:
    """Return the Manhattan distance row by row, negated. Shapes: 2 × (A, H) -> (A,)."""
    a, b, dtype = _prepare(a, b, pairwise=True)
    return _cast(0.0 - abs(a - b).sum(axis=-1), dtype)


SIMILARITY = {
    "cosine": cosine_similarity,
    "dot": dot_similarity,
    "euclidean": euclidean_similarity,
    "manhattan": manhattan_similarity,
}
"""The values of ``similarity_fn_name`` in sentence-transformers' configurations."""


def search(
    queries: Array,
    corpus: Array,
    k: int = 10,
    *,
    score: Callable[[Array, Array], Array] = cosine_similarity,
    query_chunk: int = 512,
    corpus_chunk: int = 16384,
) -> list[list[dict]]:
    """Return the k best rows for each query: ``[i]`` = ``[{"corpus_id": 7, "score": 0.83}, ...]``.

    Best first; equal scores in the order of the corpus; all rows if the corpus has fewer than k.
    Only ``query_chunk × corpus_chunk`` scores are held at a time, and the corpus is read slice by
    slice, so it may be an ``np.memmap`` larger than the memory.

    Shapes: queries (Q, H), corpus (C, H) -> Q lists of min(k, C) entries.
    """
    _require_positive(k=k, query_chunk=query_chunk, corpus_chunk=corpus_chunk)
    queries, corpus = _at_least_single(_rows(queries)), _rows(corpus)
    found = [(np.empty(0), np.empty(0, np.int64)) for _ in range(len(queries))]  # scores, ids
    for start in range(0, len(corpus), corpus_chunk):
        rows = corpus[start : start + corpus_chunk]
        for first in range(0, len(queries), query_chunk):
            scores = _scores(score(queries[first : first + query_chunk], rows))
            for query, row in enumerate(scores, first):
                best, ids = found[query]
                # Full already: a later row has to be better than the worst so far, not as good.
                new = np.flatnonzero(row > best[-1]) if len(best) == k else np.arange(len(row))
                best, ids = np.append(best, row[new]), np.append(ids, start + new)
                keep = _highest(best, k)
                found[query] = best[keep], ids[keep]
    return [
        [{"corpus_id": i, "score": s} for s, i in zip(best.tolist(), ids.tolist(), strict=True)]
        for best, ids in found
    ]


def paraphrases(
    vectors: Array,
    k: int = 1000,
    *,
    threshold: float = float("-inf"),
    score: Callable[[Array, Array], Array] = cosine_similarity,
    chunk: int = 1024,
) -> list[tuple[float, int, int]]:
    """Return the k most similar pairs as ``(score, i, j)`` with i < j, the most similar first.

    All pairs are compared, half of the table (``score`` must be symmetric), in ``chunk × chunk``
    pieces; exactly the best k at or above the threshold are kept, equal scores by (i, j).
    """
    _require_positive(k=k, chunk=chunk)
    vectors = _rows(vectors)
    best, left, right = np.empty(0), np.empty(0, np.int64), np.empty(0, np.int64)
    for first in range(0, len(vectors), chunk):
        rows = _at_least_single(vectors[first : first + chunk])
        for second in range(first, len(vectors), chunk):
            scores = _scores(score(rows, vectors[second : second + chunk]))
            floor = best[-1] if len(best) == k else threshold
            # Above the diagonal only, where the two chunks are one: i < j.
            i, j = np.nonzero(np.triu(scores >= floor, 1 + first - second))
            best = np.append(best, scores[i, j])
            left, right = np.append(left, first + i), np.append(right, second + j)
            order = np.lexsort((right, left, -best))[:k]
            best, left, right = (column[order] for column in (best, left, right))
    return list(zip(best.tolist(), left.tolist(), right.tolist(), strict=True))


def key_sentences(
    vectors: Array, n: int = 3, *, method: str = "centrality", diversity: float = 0.3
) -> list[int]:
    """Return the indices of the n sentences that stand for a text, in the order of the text.

    ``"centrality"`` takes the sentences nearest to all others: the largest sum of cosines to every
    sentence. That sum is u_i · Σ u_j over the unit vectors u, so it ranks as the cosine to their
    centroid does, and costs n·H steps instead of n²·H.
    ``"mmr"`` (maximal marginal relevance) takes one sentence at a time, each time the one with the
    largest (1 - diversity) · cos(u_i, centroid) - diversity · max of cos(u_i, u_j) over those j
    already taken, so that the second does not repeat the first (which is the most central one).
    ``diversity`` runs from 0, centrality alone, to 1, difference alone.

    Shapes: (S, H), the vectors of the sentences in order -> min(n, S) indices.
    Raises:
        ValueError: an unknown method, or ``diversity`` outside 0 to 1.
    Source: Erkan & Radev 2004 (LexRank) §3.1, degree centrality with cosines as weights; Carbonell
        & Goldstein 1998 §2, with the centroid for the query and λ = 1 - diversity.
    """
    _require_positive(n=n)
    if method not in ("centrality", "mmr"):
        raise ValueError(f"method {method!r} is not known; use 'centrality' or 'mmr'")
    if not 0 <= diversity <= 1:
        raise ValueError(f"diversity is {diversity}, but must lie between 0 and 1")
    vectors = _rows(vectors)
    vectors = vectors.detach().cpu().double().numpy() if _is_tensor(vectors) else vectors
    units = _unit(vectors.astype(np.float64))  # (S, H)
    relevance = _scores(cosine_similarity(units, units.sum(axis=0)))[:, 0]  # (S,)
    if method == "centrality":
        return sorted(_highest(relevance, n).tolist())
    chosen = _highest(relevance, 1).tolist()
    while len(chosen) < min(n, len(units)):
        nearest = (units @ units[chosen].T).max(axis=1)  # (S,), the cosine to the most alike taken
        value = (1 - diversity) * relevance - diversity * nearest
        value[chosen] = -np.inf
        chosen.append(int(value.argmax()))
    return sorted(chosen)


def quantize_embeddings(
    vectors: Array,
    precision: str,
    *,
    ranges: Array | None = None,
    calibration_embeddings: Array | None = None,
) -> np.ndarray:
    """Return vectors in fewer bits, as sentence-transformers packs them.

    Args:
        vectors: (texts, H), or (H,) for one.
        precision: ``"int8"`` and ``"uint8"`` cut the range of each component into 255 steps;
            ``"binary"`` and ``"ubinary"`` keep the sign alone, eight to a byte (of a signed or an
            unsigned type); ``"float32"`` leaves them as they are.
        ranges: (2, H), the least and the largest value of each component.
        calibration_embeddings: vectors whose ranges are used; None = of ``vectors`` themselves.
            What is compared must have been packed with the same ranges.

    Shapes: (texts, H), or (texts, ⌈H / 8⌉) for the two binary ones.

    Raises:
        ValueError: another precision, vectors that are integers already, or one vector alone whose
            ranges nobody gave.
    """
    vectors = np.asarray(vectors.cpu() if _is_tensor(vectors) else vectors)
    if precision not in ("float32", "int8", "uint8", "binary", "ubinary"):
        raise ValueError(f"precision {precision!r}; float32, int8, uint8, binary or ubinary")
    if vectors.dtype.kind != "f":
        raise ValueError(f"vectors of {vectors.dtype}; those to be packed are floating-point")
    if precision == "float32":
        return vectors.astype(np.float32)
    if "binary" in precision:
        bits = np.packbits(vectors > 0, axis=-1)
        return bits if precision == "ubinary" else (bits.astype(np.int16) - 128).astype(np.int8)
    if ranges is None:
        calibration = vectors if calibration_embeddings is None else calibration_embeddings
        calibration = np.asarray(calibration.cpu() if _is_tensor(calibration) else calibration)
        if calibration is vectors and (vectors.ndim == 1 or len(vectors) == 1):
            raise ValueError(
                f"{precision} needs the ranges of many vectors, not of one: encode more texts at "
                "once, or give quantize_embeddings ranges or calibration_embeddings"
            )
        if len(vectors) == 0:
            return vectors.astype(precision)
        ranges = np.stack([calibration.min(axis=0), calibration.max(axis=0)])
    low, high = np.asarray(ranges).astype(np.float32)
    steps = (high - low) / 255
    numbers = np.floor((vectors - low) / np.where(steps == 0, 1, steps)).clip(0, 255)
    return (numbers - (128 if precision == "int8" else 0)).astype(precision)


def _rows(vectors: Array) -> Array:
    """Return vectors as a matrix of numbers, (rows, H), without copying."""
    if not _is_tensor(vectors):
        vectors = np.asarray(vectors)
        if vectors.dtype.kind not in "biuf":
            raise ValueError(
                f"vectors of numbers are needed, and these are {vectors.dtype}; encode texts first"
            )
    rows = vectors[None] if vectors.ndim == 1 else vectors
    if rows.ndim != 2 or rows.shape[1] == 0:
        raise ValueError(
            f"vectors of shape {tuple(vectors.shape)}; give (rows, width), or (width,) for one row"
        )
    return rows


def _prepare(a: Array, b: Array | None, pairwise: bool = False) -> tuple[Array, Array, Any]:
    """Return both matrices in one kind, dtype and place, and the dtype the result should have."""
    a = _rows(a)
    b = a if b is None else _rows(b)
    if a.shape[1] != b.shape[1] or (pairwise and a.shape != b.shape):
        raise ValueError(
            f"a has shape {tuple(a.shape)} and b {tuple(b.shape)}; "
            + ("row against row needs equal shapes" if pairwise else "the widths must be equal")
        )
    tensor = next((x for x in (b, a) if _is_tensor(x)), None)
    if tensor is not None:
        to = sys.modules["torch"].tensor
        device = tensor.device
        a, b = (x.to(device) if _is_tensor(x) else to(x, device=device) for x in (a, b))
    library = _library(b)
    dtype = library.promote_types(a.dtype, b.dtype)
    work = library.promote_types(dtype, library.float32)
    return _cast(a, work), _cast(b, work), dtype if "float" in str(dtype) else work


def _is_tensor(x: Array) -> bool:
    torch = sys.modules.get("torch")  # whoever holds a tensor has imported it
    return torch is not None and isinstance(x, torch.Tensor)


def _library(x: Array) -> Any:
    """Return numpy or torch, whichever x belongs to: the functions used have one name in both."""
    return sys.modules["torch"] if _is_tensor(x) else np


def _at_least_single(x: Array) -> Array:
    """Return x in float32 or wider: float16 is slow and short, and scores in it would tie."""
    library = _library(x)
    return _cast(x, library.promote_types(x.dtype, library.float32))


def _cast(x: Array, dtype: Any) -> Array:
    return x.to(dtype) if _is_tensor(x) else x.astype(dtype, copy=False)


def _unit(x: Array) -> Array:
    """Return the rows scaled to length 1; rows of zeros stay zeros."""
    library = _library(x)
    peak = library.amax(abs(x), axis=-1, keepdims=True)  # (rows, 1)
    x = x / (peak + (peak == 0))  # first, so that squares neither overflow nor vanish
    norm = library.linalg.norm(x, axis=-1, keepdims=True)  # (rows, 1)
    return x / (norm + (norm == 0))


def _distances(a: Array, b: Array, p: int) -> Array:
    """Return the p-norms of all differences, (A, B), without holding (A, B, H) numbers."""
    if _is_tensor(a):
        torch = sys.modules["torch"]
        return torch.cdist(a, b, p=p, compute_mode="donot_use_mm_for_euclid_dist")
    rows = [np.linalg.norm(b - row, ord=p, axis=-1) for row in a]
    return np.array(rows, a.dtype).reshape(len(a), len(b))  # also where there are none


def _scores(scores: Array) -> np.ndarray:
    """Return a table of scores in numpy, after making sure that they can be ordered."""
    scores = scores.detach().cpu().numpy() if _is_tensor(scores) else np.asarray(scores)
    if np.isnan(scores).any():
        raise ValueError(
            "a score is not a number: a vector holds NaN or infinity; "
            "find it with np.isfinite(vectors).all(axis=1)"
        )
    return scores


def _highest(scores: np.ndarray, k: int) -> np.ndarray:
    """Return the positions of the k highest of (n,) scores, best first, equal ones in order."""
    keep = np.arange(len(scores))
    if len(scores) > k:
        keep = np.flatnonzero(scores >= np.partition(scores, -k)[-k])  # k, and ties with the k-th
    return keep[np.argsort(-scores[keep], kind="stable")[:k]]


def _require_positive(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name} is {value}, but must be at least 1")
