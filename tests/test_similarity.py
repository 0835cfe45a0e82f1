import itertools
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minibert import similarity
from minibert.similarity import (
    SIMILARITY,
    cosine_similarity,
    dot_similarity,
    euclidean_distance,
    euclidean_similarity,
    key_sentences,
    manhattan_distance,
    manhattan_similarity,
    paraphrases,
    search,
)

PAIRWISE = {name: getattr(similarity, f"pairwise_{name}_similarity") for name in SIMILARITY}
BOTH = [*SIMILARITY.values(), *PAIRWISE.values()]


def random_rows(rows, width=48, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).normal(size=(rows, width)).astype(dtype)


# --- all pairs, by hand ---


def test_i_j_is_a_i_against_b_j():
    a, b = np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([[3.0, 4.0], [1.0, 0.0], [0.0, 1.0]])
    assert dot_similarity(a, b).tolist() == [[3, 1, 0], [8, 0, 2]]
    assert np.allclose(cosine_similarity(a, b), [[0.6, 1, 0], [0.8, 0, 1]], atol=1e-15)
    assert cosine_similarity(a, [[-1.0, 0.0], [0.0, 0.0]]).tolist() == [[-1, 0], [0, 0]]


def test_distances_in_the_3_4_5_triangle():
    a, b = [[0.0, 0.0], [3.0, 0.0]], [[3.0, 4.0], [0.0, 0.0]]
    assert euclidean_distance(a, b).tolist() == [[5, 0], [4, 3]]
    assert manhattan_distance(a, b).tolist() == [[7, 0], [4, 3]]
    assert euclidean_similarity(a, b).tolist() == [[-5, 0], [-4, -3]]
    assert manhattan_similarity(a, b).tolist() == [[-7, 0], [-4, -3]]
    assert not np.signbit(euclidean_similarity(a, b)[0, 1])  # would print as -0.0
    assert not np.signbit(manhattan_similarity(a, b)[0, 1])


def test_row_by_row_by_hand():
    a, b = [[3.0, 0.0], [0.0, 0.0], [1.0, 1.0]], [[3.0, 4.0], [1.0, 0.0], [-2.0, -2.0]]
    assert np.allclose(PAIRWISE["cosine"](a, b), [0.6, 0, -1], atol=1e-15)
    assert PAIRWISE["dot"](a, b).tolist() == [9, 0, -4]
    assert np.allclose(PAIRWISE["euclidean"](a, b), [-4, -1, -(18**0.5)])
    assert PAIRWISE["manhattan"](a, b).tolist() == [-4, -1, -6]


# --- the same as sentence-transformers, and as each other ---


@pytest.mark.parity
@pytest.mark.parametrize("name", SIMILARITY)
def test_the_numbers_of_sentence_transformers(name):
    util = pytest.importorskip("sentence_transformers.util")
    assert name in util.SimilarityFunction.possible_values()
    suffix = {"cosine": "cos_sim", "dot": "dot_score"}.get(name, f"{name}_sim")
    a, b = random_rows(40, seed=1, dtype=np.float64), random_rows(40, seed=2, dtype=np.float64)
    a[3] = 0
    expected = getattr(util, suffix)(a, b).numpy()
    assert np.allclose(SIMILARITY[name](a, b), expected, rtol=1e-12, atol=1e-12)
    expected = getattr(util, f"pairwise_{suffix}")(a, b).numpy()
    assert np.allclose(PAIRWISE[name](a, b), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", SIMILARITY)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_numpy_gives_numpy_and_torch_gives_torch(name, dtype):
    a, b = (random_rows(5, seed=seed).astype(dtype) for seed in (1, 2))
    tolerance = 1e-2 if dtype == "float16" else 1e-5
    for function in (SIMILARITY[name], PAIRWISE[name]):
        expected, result = function(a, b), function(torch.tensor(a), torch.tensor(b))
        assert isinstance(expected, np.ndarray) and expected.dtype == dtype
        assert isinstance(result, torch.Tensor) and result.dtype == getattr(torch, dtype)
        assert np.allclose(result.numpy(), expected, rtol=tolerance, atol=tolerance)
        assert function(a, b.astype(np.float64)).dtype == np.float64
        assert function(torch.tensor(a), torch.tensor(b).double()).dtype == torch.float64
        assert isinstance(function(a, torch.tensor(b)), torch.Tensor)


@pytest.mark.parametrize("name", SIMILARITY)
def test_one_dimension_is_one_row(name):
    a, b = random_rows(1, seed=1), random_rows(4, seed=2)
    assert SIMILARITY[name](a[0], b).shape == (1, 4)
    assert SIMILARITY[name](b, a[0]).shape == (4, 1)
    assert SIMILARITY[name](torch.tensor(a[0]), torch.tensor(a[0])).shape == (1, 1)
    assert PAIRWISE[name](a[0], b[0]).shape == (1,)
    assert SIMILARITY[name](b[:0], b).shape == (0, 4)
    assert SIMILARITY[name](torch.tensor(b[:0]), torch.tensor(b)).shape == (0, 4)
    assert np.array_equal(SIMILARITY[name](b), SIMILARITY[name](b, b))


@pytest.mark.parametrize("name", SIMILARITY)
def test_the_arguments_are_left_alone(name):
    a, b = random_rows(3, seed=1), random_rows(3, seed=2)
    before = a.copy(), b.copy()
    SIMILARITY[name](a, b), PAIRWISE[name](a, b)
    search(a, b, score=SIMILARITY[name]), paraphrases(a, score=SIMILARITY[name])
    assert np.array_equal(a, before[0]) and np.array_equal(b, before[1])


# --- hard cases ---


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_a_cosine_is_finite_and_in_range_whatever_the_length_of_the_vectors(kind):
    a = random_rows(20)
    expected = cosine_similarity(a)
    for scale in (1e-44, 1e-30, 1e30, 1e37):
        result = np.asarray(cosine_similarity(kind(np.float32(scale) * a), kind(a)))
        assert np.isfinite(result).all() and (abs(result) <= 1).all()
        if scale > 1e-40:  # below, float32 itself has but a few digits left
            assert np.allclose(result, expected, atol=1e-6)
    many = kind(random_rows(500))
    assert (PAIRWISE["cosine"](many, many) <= 1).all()  # rounding would exceed it
    half = kind(np.full((1, 4096), 200, np.float16))  # its squares are infinite in half precision
    assert cosine_similarity(half).tolist() == [[1.0]]
    assert PAIRWISE["cosine"](half, half).tolist() == [1.0]


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_small_integers_do_not_overflow(kind):
    a = kind(np.array([[127, 127], [-128, 0]], np.int8))
    assert dot_similarity(a).tolist() == [[32258, -16256], [-16256, 16384]]
    assert manhattan_distance(a).tolist() == [[0, 382], [382, 0]]
    assert "float32" in str(dot_similarity(a).dtype)


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_the_distance_of_near_neighbours_is_not_lost(kind):
    a = np.repeat(random_rows(1, 384) + 10, 40, axis=0)
    b = a.copy()
    b[:, 0] += np.float32(2**-10)  # exact in float32 around 10
    distances = np.asarray(euclidean_distance(kind(a), kind(b)))
    assert (distances == 2**-10).all()
    assert (np.asarray(euclidean_distance(kind(a))) == 0).all()


def test_gradients_flow_and_stay_finite():
    a = torch.tensor(random_rows(4, 8, 1, np.float64), requires_grad=True)
    b = torch.tensor(random_rows(4, 8, 2, np.float64), requires_grad=True)
    for function in BOTH:
        assert torch.autograd.gradcheck(function, (a, b))
    zeros = torch.zeros(2, 8, requires_grad=True)
    for function in BOTH:
        function(zeros, torch.ones(2, 8)).sum().backward()
        assert zeros.grad.isfinite().all()


@pytest.mark.parametrize("a, b, words", [
    (np.ones((2, 3)), np.ones((4, 5)), r"\(2, 3\).*\(4, 5\)"),
    (torch.ones(2, 3), torch.ones(4, 5), r"\(2, 3\).*\(4, 5\)"),
    (np.ones((2, 3, 4)), np.ones((2, 4)), r"\(2, 3, 4\)"),
    (np.float32(1), np.ones((2, 4)), r"\(\)"),
    ([], np.ones((2, 4)), r"\(0,\)"),
    (["a text"], np.ones((2, 4)), "encode texts first"),
])
def test_what_does_not_fit_is_named(a, b, words):
    for function in (*BOTH, search):
        with pytest.raises(ValueError, match=words):
            function(a, b)
    for function in PAIRWISE.values():
        with pytest.raises(ValueError, match=r"\(2, 3\).*\(1, 3\).*equal shapes"):
            function(np.ones((2, 3)), np.ones((1, 3)))


def test_torch_is_not_imported_for_numpy():
    code = (
        "import sys, importlib.util as u\n"
        f"spec = u.spec_from_file_location('similarity', {similarity.__file__!r})\n"
        "module = u.module_from_spec(spec); spec.loader.exec_module(module)\n"
        "module.search([[1.0, 2.0]], [[1.0, 2.0]]); module.key_sentences([[1.0, 2.0]])\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# --- search ---


def test_search_by_hand():
    corpus = [[0.0, 1.0], [1.0, 0.0], [3.0, 4.0], [-1.0, 0.0]]
    assert search([[5.0, 0.0], [0.0, -1.0]], corpus, k=2) == [
        [{"corpus_id": 1, "score": 1.0}, {"corpus_id": 2, "score": pytest.approx(0.6)}],
        [{"corpus_id": 1, "score": 0.0}, {"corpus_id": 3, "score": 0.0}],
    ]
    (hits,) = search([5.0, 0.0], corpus, k=9, score=euclidean_similarity)
    assert [hit["corpus_id"] for hit in hits] == [1, 2, 0, 3]
    assert hits[0]["score"] == -4 and type(hits[0]["score"]) is float
    assert search([[1.0, 0.0]], np.ones((0, 2))) == [[]]
    assert search(np.ones((0, 2)), corpus) == []


small = st.integers(-2, 2)  # few values, so ties abound; sums of products are exact


@settings(max_examples=60, deadline=None)
@given(
    corpus=st.lists(st.tuples(small, small), min_size=1, max_size=25),
    queries=st.lists(st.tuples(small, small), min_size=1, max_size=4),
    k=st.integers(1, 30),
    chunks=st.tuples(st.integers(1, 30), st.integers(1, 5)),
    kind=st.sampled_from([np.array, torch.tensor]),
)
def test_search_is_a_stable_sort_whatever_the_chunks(corpus, queries, k, chunks, kind):
    sizes = dict(zip(("corpus_chunk", "query_chunk"), chunks, strict=True))
    result = search(kind(queries), kind(corpus), k, score=dot_similarity, **sizes)
    for query, hits in zip(queries, result, strict=True):
        scores = [query[0] * row[0] + query[1] * row[1] for row in corpus]
        order = sorted(range(len(corpus)), key=lambda i: (-scores[i], i))[:k]
        assert hits == [{"corpus_id": i, "score": float(scores[i])} for i in order]


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_search_reads_a_memory_map_piece_by_piece(tmp_path, dtype):
    rows, width = 40_000, 64
    np.save(tmp_path / "corpus.npy", random_rows(rows, width, dtype=dtype))
    corpus = np.load(tmp_path / "corpus.npy", mmap_mode="r")
    query = np.array(corpus[31_234], dtype=np.float32)
    tracemalloc.start()
    (hits,) = search(query, corpus, 3, corpus_chunk=1000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert hits[0]["corpus_id"] == 31_234 and hits[0]["score"] == pytest.approx(1, abs=1e-6)
    assert peak < rows * width * 4 / 5  # a fifth of the corpus in float32
    (of_tensor,) = search(torch.tensor(query), corpus, 3, corpus_chunk=1000)
    assert [hit["corpus_id"] for hit in of_tensor] == [hit["corpus_id"] for hit in hits]


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_half_precision_vectors_are_told_apart(kind):
    # Cosines to the query of 0.99995 and 0.9998: one number in float16.
    corpus = kind(np.array([[100, 2], [100, 1]], np.float16))
    (hits,) = search(kind(np.array([[1, 0]], np.float16)), corpus)
    assert [hit["corpus_id"] for hit in hits] == [1, 0] and hits[0]["score"] > hits[1]["score"]
    pairs = paraphrases(kind(np.array([[100, 2], [100, 0], [100, 1]], np.float16)))
    assert pairs[-1][1:] == (0, 1) and pairs[-1][0] < pairs[0][0] < 1


def test_tensors_in_training_are_searched_too():
    rows = random_rows(6)
    trained = torch.tensor(rows, requires_grad=True)
    assert [hits[0]["corpus_id"] for hits in search(trained, trained)] == [0, 1, 2, 3, 4, 5]
    assert [p[1:] for p in paraphrases(trained)] == [p[1:] for p in paraphrases(rows)]
    assert key_sentences(trained) == key_sentences(rows)


@pytest.mark.parametrize("call, wrong, words", [
    (search, {"k": 0}, "k is 0"),
    (search, {"query_chunk": 0}, "query_chunk is 0"),
    (search, {"corpus_chunk": -1}, "corpus_chunk is -1"),
    (paraphrases, {"k": 0}, "k is 0"),
    (paraphrases, {"chunk": 0}, "chunk is 0"),
    (key_sentences, {"n": 0}, "n is 0"),
    (key_sentences, {"method": "pagerank"}, "'pagerank'.*'centrality' or 'mmr'"),
    (key_sentences, {"method": "mmr", "diversity": 1.5}, "diversity is 1.5"),
])
def test_a_wrong_option_is_named(call, wrong, words):
    vectors = [random_rows(5)] * (2 if call is search else 1)
    with pytest.raises(ValueError, match=words):
        call(*vectors, **wrong)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("call", [search, paraphrases, key_sentences])
def test_what_is_not_a_number_is_named(call, bad):
    rows = random_rows(5)
    rows[3, 2] = bad
    with np.errstate(invalid="ignore"), pytest.raises(ValueError, match="NaN or infinity"):
        call(random_rows(5), rows) if call is search else call(rows)


# --- paraphrases ---


def test_paraphrases_by_hand():
    vectors = [[1.0, 0.0], [0.0, 2.0], [3.0, 4.0], [7.0, 0.0]]
    assert paraphrases(vectors, 3) == [
        (1.0, 0, 3),
        (pytest.approx(0.8), 1, 2),
        (pytest.approx(0.6), 0, 2),
    ]
    assert [pair[1:] for pair in paraphrases(vectors, threshold=0.7)] == [(0, 3), (1, 2)]
    assert paraphrases(vectors[:1]) == [] and paraphrases(np.ones((0, 2))) == []


@settings(max_examples=60, deadline=None)
@given(
    vectors=st.lists(st.tuples(small, small), min_size=1, max_size=20),
    k=st.integers(1, 200),
    chunk=st.integers(1, 25),
    threshold=st.sampled_from([float("-inf"), 0.0, 2.0]),
    kind=st.sampled_from([np.array, torch.tensor]),
)
def test_paraphrases_are_the_best_of_all_pairs(vectors, k, chunk, threshold, kind):
    result = paraphrases(kind(vectors), k, threshold=threshold, score=dot_similarity, chunk=chunk)
    both = itertools.combinations(enumerate(vectors), 2)
    pairs = [(float(a[0] * b[0] + a[1] * b[1]), i, j) for (i, a), (j, b) in both]
    pairs = [pair for pair in pairs if pair[0] >= threshold]
    assert result == sorted(pairs, key=lambda pair: (-pair[0], pair[1:]))[:k]


# --- key sentences ---

# 0, 2 and 4 say nearly the same, 1 something else, 3 the opposite.
SENTENCES = [[1.0, 0.1], [0.2, 1.0], [1.0, 0.0], [-1.0, -0.2], [1.0, 0.2]]


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_key_sentences_come_in_the_order_of_the_text(kind):
    assert key_sentences(kind(SENTENCES), 1) == [4]
    assert key_sentences(kind(SENTENCES), 2) == [0, 4]
    assert key_sentences(kind(SENTENCES), 2, method="mmr", diversity=0.7) == [3, 4]
    assert key_sentences(kind(SENTENCES), 2, method="mmr", diversity=0.5) == [1, 4]
    for method in ("centrality", "mmr"):
        assert key_sentences(kind(SENTENCES), 99, method=method) == [0, 1, 2, 3, 4]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 12), diversity=st.floats(0, 1))
def test_key_sentences_follow_their_formulas(seed, n, diversity):
    vectors = random_rows(10, 4, seed, np.float64)
    cosines = cosine_similarity(vectors)
    degree = cosines.sum(axis=1)
    best = sorted(np.argsort(-degree)[:n].tolist())
    assert key_sentences(vectors, n) == best
    assert key_sentences(vectors, n, method="mmr", diversity=0) == best

    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    relevance = cosine_similarity(units, units.mean(axis=0))[:, 0]
    taken = [int(relevance.argmax())]
    while len(taken) < min(n, 10):
        values = (1 - diversity) * relevance - diversity * cosines[:, taken].max(axis=1)
        taken.append(max(set(range(10)) - set(taken), key=lambda i: values[i]))
    assert key_sentences(vectors, n, method="mmr", diversity=diversity) == sorted(taken)


def test_key_sentences_of_nothing_and_of_zeros():
    assert key_sentences(np.ones((0, 4))) == []
    assert key_sentences(np.ones((0, 4)), method="mmr") == []
    assert key_sentences(np.zeros((3, 4)), 2) == [0, 1]
