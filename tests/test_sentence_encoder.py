"""The sentence encoder: same vector in any company, both directory formats, nothing cut unsaid."""

import copy
import itertools
import json
import random
import re
import warnings

import numpy as np
import pytest
import torch
from support.tiny import WORDS, build, tiny_config, words

from minibert import batching
from minibert.batching import busiest, make_batches, round_up
from minibert.io.checkpoint import read_safetensors
from minibert.model import BertModel
from minibert.pretrained import round_to_half
from minibert.sentence_encoder import SentenceEncoder
from minibert.tokenization.tokenizer import BertTokenizer

POOLING = "1_Pooling/config.json"

# ------------------------------------------------------------------------------------- encode


def test_shapes(tiny):
    assert tiny.encode(["a b", "c"]).shape == (2, 32)
    assert np.array_equal(tiny.encode("a b"), tiny.encode(["a b"])[0])
    assert tiny.encode([]).shape == (0, 32)
    assert tiny.encode(["a"]).dtype == np.float32
    assert isinstance(tiny.encode(["a"], convert_to_tensor=True), torch.Tensor)


def test_a_stream_is_encoded_chunk_by_chunk(tiny):
    """The vectors of `encode`; no more texts are taken than the next chunk needs."""
    texts = words(2, 25)
    taken = iter(texts)
    arrays = tiny.stream(taken, chunk=10, normalize_embeddings=False)
    first = next(arrays)
    assert len(first) == 10 and next(taken) == texts[10]
    expected = tiny.encode(texts, normalize_embeddings=False)
    rest = np.concatenate(list(arrays))
    assert np.allclose(first, expected[:10], atol=2e-6)
    assert np.allclose(rest, expected[11:], atol=2e-6)
    with pytest.raises(ValueError, match="chunk is 0"):
        next(tiny.stream(texts, chunk=0))


def test_every_thread_gets_a_share_of_few_texts(tiny, monkeypatch):
    """Batches of like size, as many for each thread; what is small stays one."""
    sizes = []
    encode_batch = tiny.encode_batch
    monkeypatch.setattr(
        tiny, "encode_batch", lambda rows, skip: sizes.append(len(rows)) or encode_batch(rows, skip)
    )
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    tiny.encode(["a b c d e f g h"] * 400)  # 10 tokens each
    tiny.encode(["a b c d e f g h"] * 25)
    assert sizes == [40] * 10 + [25]


def test_no_thread_waits_long_for_another(tiny, monkeypatch):
    """A few longer texts are no batch of their own, with all others in one that takes longer."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    lengths = [20] * 2 + [10] * 14
    batches = tiny.batches([[0] * n for n in lengths], None, None)
    uneven = busiest([[0, 1], [*range(2, 16)]], lengths, 2)
    assert busiest(batches, lengths, 2) < 0.9 * uneven
    small = tiny.batches([[0] * n for n in lengths], None, 40)
    assert all(len(batch) * lengths[batch[0]] <= 40 for batch in small)


def test_few_texts_are_shared_by_many_threads_and_soon(tiny, monkeypatch):
    """A batch of 128 tokens for each; texts that no share suits are not cut a thousand times."""
    cuts = []
    monkeypatch.setattr(
        batching, "make_batches", lambda *a, **kw: cuts.append(kw) or make_batches(*a, **kw)
    )
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    assert 12 <= len(tiny.batches([[0] * 10] * 200, None, None)) <= 16
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    cuts.clear()
    tiny.batches([[0] * n for n in range(3, 60)] * 40, None, 32768)
    assert 1 <= len(cuts) <= 10
    cuts.clear()
    tiny.batches([[0] * 10] * 4000, None, 32768)
    assert 1 < len(cuts) <= 10


def test_batches_hold_every_limit_and_lose_nobody():
    draw = random.Random(0)
    lengths = [draw.choice((2, 11, 13, 50)) for _ in range(200)]
    limits = itertools.product((None, 50, 333, 1000), (None, 1, 27), (None, 0, 20), (False, True))
    for tokens, size, padding, even in limits:
        batches = make_batches(lengths, tokens=tokens, size=size, padding=padding, even=even)
        assert sorted(itertools.chain(*batches)) == list(range(200))
        for batch in batches:
            area = len(batch) * max(lengths[i] for i in batch)
            assert tokens is None or area <= tokens or len(batch) == 1
            assert size is None or len(batch) <= size
            assert padding is None or area - sum(lengths[i] for i in batch) <= padding
    assert make_batches([3, 9, 3], size=2, order=[2, 0, 1]) == [[2, 0], [1]]
    for wrong in ({"tokens": 0}, {"size": 0}, {"padding": -1}):
        with pytest.raises(ValueError, match="in a batch must be at least"):
            make_batches(lengths, **wrong)


def test_full_batches_need_few_rows_of_zeros():
    """What a batch leaves goes to the next: an eighth of it at most, and nobody is lost."""
    draw = random.Random(1)
    lengths = [draw.choice((11, 13, 30)) for _ in range(400)]

    def zeros(batches):
        areas = [len(batch) * max(lengths[i] for i in batch) for batch in batches[:-1]]
        assert all(512 * 7 / 8 - 30 < area <= 512 for area in areas)
        return sum(round_up(area) - area for area in areas)

    batches = make_batches(lengths, tokens=512, even=True)
    assert sorted(itertools.chain(*batches)) == list(range(400))
    assert 4 * zeros(batches) < zeros(make_batches(lengths, tokens=512))


def test_no_mask_where_there_is_no_padding(tiny, monkeypatch):
    seen = []
    forward = tiny.model.forward

    def spy(ids, mask):
        seen.append(mask)
        return forward(ids, mask)

    monkeypatch.setattr(tiny.model, "forward", spy)
    tiny.encode(["a b", "c d"])
    assert seen == [None]
    tiny.encode(["a b", "c"])
    assert seen[1].tolist() == [[True] * 4, [True] * 3 + [False]]


def test_normalising(tiny):
    texts = words(3, 5)
    raw = tiny.encode(texts, normalize_embeddings=False)
    assert np.allclose(np.linalg.norm(tiny.encode(texts), axis=1), 1)
    assert not np.allclose(np.linalg.norm(raw, axis=1), 1, atol=1e-3)
    assert np.allclose(raw / np.linalg.norm(raw, axis=1, keepdims=True), tiny.encode(texts))


def test_encode_leaves_the_model_in_its_mode(tiny):
    tiny.model.train()
    once, again = tiny.encode("a b c"), tiny.encode("a b c")
    assert tiny.model.training and tiny.model.layers[0].attention.training
    assert np.array_equal(once, again)  # no dropout while encoding
    tiny.model.layers[0].eval()  # a part that is frozen, say
    tiny.encode("a")
    assert tiny.model.training and not tiny.model.layers[0].attention.training
    tiny.model.eval()
    tiny.encode("a")
    assert not tiny.model.training


def test_prompts(tiny):
    encoder = SentenceEncoder(
        tiny.model, tiny.tokenizer, max_length=16, prompts={"query": "q q "}
    )
    expected = tiny.encode("q q a")
    assert np.array_equal(encoder.encode("a", prompt_name="query"), expected)
    assert np.array_equal(encoder.encode("a", prompt="q q "), expected)
    encoder.default_prompt_name = "query"
    assert np.array_equal(encoder.encode("a"), expected)
    assert np.array_equal(encoder.encode("a", prompt=""), tiny.encode("a"))
    with pytest.raises(ValueError, match=r"no prompt is named 'passage'; there are \['query'\]"):
        encoder.encode("a", prompt_name="passage")


# --------------------------------------------------------------------------------- long texts


def test_a_text_cut_off_is_counted_once(tiny):
    texts = ["a " * 20, "b", "c " * 30]
    with pytest.warns(UserWarning) as record:
        vectors = tiny.encode(texts)
    assert [str(w.message) for w in record] == [
        "2 of 3 texts have more than 16 tokens, the longest 32 (text 2); the rest was cut off. "
        'on_long="window" (--on-long window) reads all of it'
    ]
    assert np.allclose(vectors[0], tiny.encode("a " * 14), atol=2e-6)


def test_on_long_window(tiny):
    """30 tokens in windows of 14: 0-14, 7-21, 14-28, 16-30, averaged by their tokens."""
    letters = [random.Random(5).choice("abcdefghij") for _ in range(30)]
    windows = [letters[start : start + 14] for start in (0, 7, 14, 16)]
    rows = tiny.encode([" ".join(w) for w in windows], normalize_embeddings=False)
    expected = rows.mean(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        texts = ["a b", " ".join(letters), "c"]
        got = tiny.encode(texts, on_long="window", normalize_embeddings=False)
    assert np.allclose(got[1], expected, atol=1e-5)
    assert np.allclose(got[0], tiny.encode("a b", normalize_embeddings=False), atol=2e-6)
    assert np.isclose(np.linalg.norm(tiny.encode(texts, on_long="window")[1]), 1)


# -------------------------------------------------------------------------------- wrong input


def test_wrong_input(tiny):
    with pytest.raises(TypeError, match="text 1 is a int; texts .str. are needed"):
        tiny.encode(["a", 3])
    with pytest.raises(ValueError, match='on_long is "?\'?cut'):
        tiny.encode(["a"], on_long="cut")
    with pytest.raises(ValueError, match="1 of 1 texts has more than 16 tokens, the longest 22"):
        tiny.encode(["a " * 20], on_long="error")
    tiny.encode(["a " * 14], on_long="error")
    with pytest.raises(ValueError, match="size in a batch must be at least 1, not 0"):
        tiny.encode(["a"], batch_size=0)
    with pytest.raises(ValueError, match=r"pooling \['middle'\]; implemented are \['cls'"):
        SentenceEncoder(tiny.model, tiny.tokenizer, pooling=["middle"])
    with pytest.raises(ValueError, match="the vocabulary has 33 tokens, the model's word table 32"):
        SentenceEncoder(tiny.model, BertTokenizer([*WORDS, "##y"]))
    with pytest.warns(UserWarning, match="has 31 tokens.*is the vocabulary file complete"):
        SentenceEncoder(tiny.model, BertTokenizer(WORDS[:-1]))


def test_texts_of_every_kind(tiny):
    """A generator, too; what would silently be something else is refused."""
    texts = ["a b", "c"]
    vectors = tiny.encode(texts)
    for same in (tuple(texts), np.array(texts), (text for text in texts)):
        assert np.array_equal(tiny.encode(same), vectors)
    class DataFrame(dict):
        columns = ("text",)

    for wrong, message in (
        (dict.fromkeys(texts), "texts .str. are needed; this is of type dict"),
        (b"a b", "of type bytes"),
        (None, "of type NoneType"),
        ({"a", "b"}, "a set has no order .* pass a list"),
        (frozenset("ab"), "a frozenset has no order"),
        (DataFrame(text=texts), "a DataFrame is a table, not texts; pass one of its columns"),
    ):
        with pytest.raises(TypeError, match=message):
            tiny.encode(wrong)
        with pytest.raises(TypeError, match=message):
            next(tiny.stream(wrong))


def test_it_says_what_it_is_and_where(tiny):
    assert re.fullmatch(
        r"SentenceEncoder\(BertModel, \d+ dimensions, pooling mean, normalised, "
        r"up to \d+ tokens, textbook on cpu\)",
        repr(tiny),
    )
    assert tiny.to("cpu") is tiny
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="device 'cuda' is not there; torch found .*cpu"):
            tiny.to("cuda")


def test_nan_is_an_error_that_says_so(tiny):
    bias = tiny.model.layers[1].attention.value.bias
    bias.data[3] = float("nan")
    with pytest.raises(ValueError, match=r"texts \[0, 1\] are not numbers .* weights are damaged"):
        tiny.encode(["a b", "c"])
    bias.data[3] = 0.0


# ------------------------------------------------------------------------------- directories


def test_round_trip(tiny, tmp_path):
    settings = {
        "pooling": ("mean", "cls"), "normalize": False, "max_length": 9, "prompts": {"query": "q "},
        "default_prompt_name": "query", "similarity_fn_name": "dot",
    }
    encoder = SentenceEncoder(tiny.model, tiny.tokenizer, **settings)
    encoder.save_pretrained(tmp_path / "model")
    again = SentenceEncoder.from_pretrained(tmp_path / "model", engine="textbook")
    assert {name: getattr(again, name) for name in settings} == settings
    texts = words(7, 9, longest=6)
    assert np.array_equal(again.encode(texts), encoder.encode(texts))
    assert again.encode(texts).shape == (9, 64)


def test_a_model_card_that_somebody_wrote_stays(tiny, tmp_path):
    tiny.save_pretrained(tmp_path)
    assert "sentence-similarity" in (tmp_path / "README.md").read_text()
    (tmp_path / "README.md").write_text("mine")
    tiny.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"


def test_plain_bert_pools_with_the_mean_and_says_so(tiny, tmp_path):
    tiny.model.save_pretrained(tmp_path)
    tiny.tokenizer.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="does not say how to pool.*not normalised"):
        encoder = SentenceEncoder.from_pretrained(tmp_path)
    assert (encoder.pooling, encoder.normalize) == (("mean",), False)


@pytest.mark.parametrize(
    "file, content, message",
    [
        (POOLING, {"pooling_mode_mean_tokens": False}, "pooling unsaid"),
        (POOLING, {"pooling_mode": "attention"}, r"pooling \['attention'\]; these are"),
        (POOLING, {"pooling_mode_attention_tokens": True}, "attention_tokens is True, whi"),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(tiny, tmp_path, file, content, message):
    tiny.save_pretrained(tmp_path)
    (tmp_path / file).write_text(json.dumps(content))
    (tmp_path / "minibert.json").unlink()
    with pytest.raises(ValueError, match=message):
        SentenceEncoder.from_pretrained(tmp_path)


def test_both_generations_of_the_pooling_config(tiny, tmp_path):
    tiny.save_pretrained(tmp_path)
    (tmp_path / "minibert.json").unlink()
    for config, pooling in (
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, ("cls",)),
        ({"pooling_mode": "max", "embedding_dimension": 32}, ("max",)),
        ({"pooling_mode": ["mean", "cls"]}, ("mean", "cls")),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, ("cls", "mean")),
    ):
        (tmp_path / POOLING).write_text(json.dumps(config))
        assert SentenceEncoder.from_pretrained(tmp_path).pooling == pooling


# ----------------------------------------------------------------- with sentence-transformers


@pytest.fixture
def no_noise(caplog, recwarn):
    """Fails when a library warns or logs while it opens what the other one saved."""
    yield
    noise = [r.getMessage() for r in caplog.records if r.levelname in ("WARNING", "ERROR")]
    noise += [str(w.message) for w in recwarn.list]
    assert noise == []


EAGER = {"attn_implementation": "eager"}  # written-out attention, as ours: the same bits
MODES = ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]


@pytest.mark.parity
@pytest.mark.parametrize("pooling", [*((mode,) for mode in MODES), ("mean", "cls")], ids=str)
@pytest.mark.parametrize("normalize", [True, False])
def test_there_and_back(tiny, tmp_path, pooling, normalize, no_noise):
    """What we save opens in sentence-transformers, what that saves opens here: the same bits."""
    from sentence_transformers import SentenceTransformer

    settings = {"pooling": pooling, "normalize": normalize, "max_length": 16}
    ours = SentenceEncoder(tiny.model, tiny.tokenizer, **settings)
    ours.save_pretrained(tmp_path / "ours")
    theirs = SentenceTransformer(str(tmp_path / "ours"), device="cpu", model_kwargs=EAGER)
    assert theirs.max_seq_length == 16
    theirs.save(str(tmp_path / "theirs"))
    back = SentenceEncoder.from_pretrained(tmp_path / "theirs", engine="textbook")
    assert {name: getattr(back, name) for name in settings} == settings
    texts = words(11, 7)
    for text in texts:  # one by one: the same batches, so the same bits
        assert np.array_equal(theirs.encode([text]), ours.encode([text]))
        assert np.array_equal(back.encode([text]), ours.encode([text]))
    vectors = ours.encode(texts)
    scale = 1 if normalize else np.abs(vectors).max()
    assert np.abs(theirs.encode(texts) - vectors).max() <= 2e-6 * scale


@pytest.mark.parity
@pytest.mark.parametrize("cased", [False, True])
@pytest.mark.parametrize("strip", [None, True, False])
@pytest.mark.filterwarnings("ignore:.*capital letter")
def test_lower_casing_before_the_tokenizer(tmp_path, cased, strip):
    """No special token is lower-cased, and no Σ looks at its neighbours: as there."""
    from sentence_transformers import SentenceTransformer

    vocab = [*WORDS[:-1], *"οδσςéÉAΣ", *(f"##{c}" for c in "οδσςaé"), "mask", "cls"]
    model = build(BertModel, tiny_config(vocab_size=len(vocab)))
    tokenizer = BertTokenizer(vocab, do_lower_case=not cased, strip_accents=strip)
    SentenceEncoder(model, tokenizer, max_length=16).save_pretrained(tmp_path)
    (tmp_path / "minibert.json").unlink()
    (tmp_path / "sentence_bert_config.json").write_text('{"do_lower_case": true}')
    ours = SentenceEncoder.from_pretrained(tmp_path, engine="textbook")
    theirs = SentenceTransformer(str(tmp_path), device="cpu", model_kwargs=EAGER)
    for text in ("A [MASK] B", "[CLS] [cls] a", "ΟΔΟΣ ΟΔΟΣ.", "É A\u0301 é", "İ b"):
        assert np.array_equal(theirs.encode([text]), ours.encode([text])), text


@pytest.mark.slow
@pytest.mark.parity
@pytest.mark.weights
@pytest.mark.data
def test_sts_benchmark(official, data):
    """Spearman of the whole test set as on MTEB, 82.03; every fifth sentence is within 1e-6 of
    sentence-transformers."""
    from sentence_transformers import SentenceTransformer

    from minibert.similarity import pairwise_cosine_similarity
    from minibert.training.data import read
    from minibert.training.metrics import spearman

    rows = [row.values for row in read(data / "stsb" / "test.csv", ["text", "pair", "score"])]
    texts = [row[role] for role in ("text", "pair") for row in rows]
    ours = SentenceEncoder.from_pretrained(official).encode(texts)
    theirs = SentenceTransformer(str(official), device="cpu", model_kwargs=EAGER)
    difference = np.abs(ours[::5] - theirs.encode(texts[::5])).max()
    cosine = pairwise_cosine_similarity(ours[: len(rows)], ours[len(rows) :])
    score = spearman(cosine, [row["score"] for row in rows])
    print(f"\n{len(texts[::5])} sentences, max difference {difference:.1e}, Spearman {score:.5f}")
    assert len(rows) == 1379 and difference <= 1e-6
    assert f"{score:.5f}" == "0.82032"


@pytest.mark.parity
def test_a_half_precision_save_gives_the_same_numbers_everywhere(tiny, tmp_path):
    """float16 holds the weights exactly once they are rounded; everybody computes in float32."""
    transformers = pytest.importorskip("transformers")
    sentence_transformers = pytest.importorskip("sentence_transformers")
    encoder = copy.deepcopy(tiny)
    round_to_half(encoder.model)
    texts = ["a b c", "d e f g h"]
    wanted = encoder.encode(texts)
    assert 1e-6 < np.abs(wanted - tiny.encode(texts)).max() < 1e-2, "rounded, and not much"
    encoder.save_pretrained(tmp_path / "half", half=True)
    encoder.save_pretrained(tmp_path / "whole")
    stored = read_safetensors(tmp_path / "half" / "model.safetensors")[0]
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = SentenceEncoder.from_pretrained(tmp_path / "half", engine="textbook").encode(texts)
        theirs = sentence_transformers.SentenceTransformer(str(tmp_path / "half"), device="cpu")
        model = transformers.AutoModel.from_pretrained(tmp_path / "half")
        whole = transformers.AutoModel.from_pretrained(tmp_path / "whole")
    assert np.array_equal(ours, encoder.encode(texts))
    assert np.abs(theirs.encode(texts) - wanted).max() < 1e-6
    assert all(map(torch.equal, model.parameters(), whole.parameters()))
    with torch.no_grad():
        encoder.model.pooler.dense.weight[0, 0] = 1e6
    with pytest.raises(ValueError, match="pooler.dense.weight has numbers over 65,504"):
        round_to_half(encoder.model)
