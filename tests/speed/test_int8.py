"""int8: the same vector in any company bit for bit; near float32; small; said where not."""

import random
import warnings

import numpy as np
import pytest
import torch
from support import small
from support.small import SHAPES, bert, encoder
from support.tiny import ragged_batch

from minibert.model import BertModel
from minibert.sentence_encoder import SentenceEncoder
from minibert.speed import int8


@pytest.fixture(autouse=True)
def int8_everywhere(monkeypatch):
    """Where the processor is slow at it, the same whole numbers come from float64."""
    if int8.unsupported():
        exact = lambda a, b: (a.double() @ b.double()).int()  # noqa: E731
        monkeypatch.setattr(torch, "_int_mm", exact)
    monkeypatch.setattr(int8, "unsupported", lambda: None)


@pytest.mark.parametrize("hidden_act", SHAPES)
def test_the_same_vector_in_any_company_bit_for_bit(hidden_act):
    """Promise 3: alone, in batches of all sizes, in other orders, beside longer texts."""
    ours = encoder(int8.quantize(bert(hidden_act)))
    texts = [text for text, _ in small.sentences(40)] + ["", "good " * 37]
    alone = np.stack([ours.encode(text) for text in texts])
    for seed, (size, tokens) in enumerate([(None, 1024), (7, 200), (2, 1024), (None, 33)]):
        order = random.Random(seed).sample(range(len(texts)), len(texts))
        together = ours.encode([texts[i] for i in order], batch_size=size, batch_tokens=tokens)
        assert np.array_equal(together, alone[order])


def test_padding_reaches_no_token():
    model = int8.quantize(bert())
    batch = ragged_batch(model.config)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    states = model(**batch).last_hidden_state
    for i, length in enumerate(mask.sum(1).tolist()):
        alone = model(ids[i : i + 1, :length], None, batch["token_type_ids"][i : i + 1, :length])
        assert torch.allclose(states[i, :length], alone.last_hidden_state[0], atol=1e-5)


@pytest.mark.parametrize("hidden_act", SHAPES)
def test_close_to_float32(hidden_act):
    texts = [text for text, _ in small.sentences(40)]
    exact = encoder(bert(hidden_act)).encode(texts)
    model = int8.quantize(bert(hidden_act))
    cosine = (encoder(model).encode(texts) * exact).sum(1)
    assert 0.995 < cosine.min() and cosine.max() < 1 - 1e-7  # near, and not the same
    back = (encoder(int8.dequantize(model)).encode(texts) * exact).sum(1)
    assert 0.998 < back.min()
    assert isinstance(model.embeddings.word, torch.nn.Embedding)
    assert not any(isinstance(part, int8.Int8Linear) for part in model.modules())


def test_query_key_and_value_round_their_input_once(monkeypatch):
    model, rounded = int8.quantize(bert()), []
    flatten = int8.Rounding.__call__
    monkeypatch.setattr(
        int8.Rounding, "__call__",
        lambda self, x, smooth: rounded.append(self.last and self.last[0]() is x)
        or flatten(self, x, smooth),
    )  # fmt: skip
    model(ragged_batch(model.config)["input_ids"])
    assert rounded == [False or None, True, True, None, None] * len(model.layers)
    again = model.layers[0].attention.query
    x = torch.randn(1, 3, 64)
    first = again(x)
    assert not torch.equal(again(x * 2), first) and torch.equal(again(x.clone()), first)


def test_a_linear_layer_by_hand():
    """2 x = 127 / 127 and 1 / 127 steps: with these numbers nothing is rounded."""
    plain, linear = torch.nn.Linear(2, 1), int8.Int8Linear(2, 1)
    plain.load_state_dict({"weight": torch.tensor([[127.0, -1.0]]), "bias": torch.tensor([5.0])})
    linear.fill(plain)
    assert linear.weight.tolist() == [[127], [-1]]
    x = torch.tensor([[127.0, 2.0], [1.0, 0.0], [0.0, 0.0]])
    assert torch.allclose(linear(x), torch.tensor([[16132.0], [132.0], [5.0]]), rtol=1e-6)
    assert torch.allclose(linear.to_float()(x), plain(x))


def test_a_floor_uses_all_steps():
    """x from -1 to 1 in 255 steps: -1 becomes -128, 1 becomes 127, and both come back."""
    plain, linear = torch.nn.Linear(2, 2), int8.Int8Linear(2, 2, floor=-1.0)
    weight, bias = torch.tensor([[127.0, 0.0], [0.0, 127.0]]), torch.tensor([3.0, 0.0])
    plain.load_state_dict({"weight": weight, "bias": bias})
    linear.fill(plain)
    x = torch.tensor([[-1.0, 1.0], [-1.0, -1.0], [1.0, -1.0 + 2 / 255]])
    assert torch.allclose(linear(x), plain(x), atol=1e-4)
    assert torch.allclose(linear.to_float()(x), plain(x), atol=1e-4)


def test_saved_small_and_opened_again(tmp_path):
    ours = encoder(int8.quantize(bert()))
    ours.save_pretrained(tmp_path / "int8")
    texts = [text for text, _ in small.sentences(10)]
    again = SentenceEncoder.from_pretrained(tmp_path / "int8")
    assert again.engine == "int8" and isinstance(again.model, BertModel)
    assert np.array_equal(again.encode(texts), ours.encode(texts))
    assert not (tmp_path / "int8" / "model.safetensors").exists()
    as_float = SentenceEncoder.from_pretrained(tmp_path / "int8", precision="float32")
    assert as_float.engine == "packed"
    assert (as_float.encode(texts) * ours.encode(texts)).sum(1).min() > 0.998

    first = (tmp_path / "int8" / int8.FILE).read_bytes()
    again.save_pretrained(tmp_path / "again")
    same = (tmp_path / "again" / int8.FILE).read_bytes() == first
    assert same
    (tmp_path / "again" / int8.FILE).write_bytes(first[:-1] + bytes([first[-1] ^ 1]))
    with pytest.raises(ValueError, match="has changed"):
        SentenceEncoder.from_pretrained(tmp_path / "again")


def test_one_directory_is_one_model(tmp_path):
    encoder(bert()).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has a model.safetensors; save the int8"):
        encoder(int8.quantize(bert())).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has a model.safetensors; save the int8"):
        int8.save(int8.quantize(bert()), tmp_path)
    assert not (tmp_path / int8.FILE).exists()


def test_precision_of_a_float32_directory(tmp_path):
    encoder(bert()).save_pretrained(tmp_path)
    for choice in ({"precision": "int8"}, {"engine": "int8"}):
        assert SentenceEncoder.from_pretrained(tmp_path, **choice).engine == "int8"
    assert SentenceEncoder.from_pretrained(tmp_path).engine == "packed"
    with pytest.raises(ValueError, match="no engine is named 'int4'; these"):
        SentenceEncoder.from_pretrained(tmp_path, engine="int4")
    with pytest.raises(ValueError, match="no engine is named 'int4'"):
        SentenceEncoder.from_pretrained(tmp_path, precision="int4")
    with pytest.raises(ValueError, match='"int8" is for a CPU in float32; cpu, torch.float64'):
        SentenceEncoder.from_pretrained(tmp_path, precision="int8", dtype=torch.float64)


def test_where_int8_is_not_to_be_had_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(int8, "unsupported", lambda: "no such instructions")
    encoder(bert()).save_pretrained(tmp_path / "float")
    int8.save(int8.quantize(bert()), tmp_path / "int8")
    small.tokenizer().save_pretrained(tmp_path / "int8")
    message = "no such instructions: the model computes in float32, not int8"
    for name in ("float", "int8"):
        with warnings.catch_warnings(record=True) as record:
            warnings.simplefilter("always")
            found = SentenceEncoder.from_pretrained(tmp_path / name, precision="int8")
        assert message in [str(w.message) for w in record]
        assert found.engine == "packed"


def test_the_question_to_the_machine(monkeypatch):
    """Products that are slow, not exact, or not there: each is a reason of its own."""
    monkeypatch.undo()
    ask = int8.unsupported.__wrapped__
    product = torch._int_mm
    monkeypatch.setattr(torch, "_int_mm", lambda a, b: product(a, b).clamp(max=32767))
    assert "is not exact" in ask()
    monkeypatch.setattr(torch, "_int_mm", lambda a, b: (a.double() @ b.double()).int())
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_vnni": True}, raising=False)
    assert ask() is None
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    assert "has no instructions" in ask()
    monkeypatch.delattr(torch, "_int_mm")
    assert "cannot multiply int8" in ask()


def test_a_state_that_does_not_fit_is_refused(tmp_path):
    model = int8.quantize(bert())
    model.layers[0].attention.query.weight = torch.zeros(64, 64)
    model.layers[1].attention.key.smooth = None
    int8.save(model, tmp_path)
    with pytest.raises(ValueError, match="2 tensors .*layers.0.attention.query.weight, layers.1"):
        int8.load(tmp_path)


def test_what_is_no_linear_layer_is_refused():
    from minibert.training.adapt import add_lora

    model = bert()
    model.layers[1].attention.query = torch.nn.Identity()
    with pytest.raises(ValueError, match="query is a Identity; int8 takes the place of nn.Linear"):
        int8.quantize(model)
    model = bert()
    add_lora(model, 2)
    with pytest.raises(ValueError, match="merge LoRA"):
        int8.quantize(model)


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.data
def test_sts_benchmark_in_int8(official, data, tmp_path):
    """Spearman on STS test, and the size of the file: a quarter."""
    from minibert.similarity import pairwise_cosine_similarity
    from minibert.training.data import read
    from minibert.training.metrics import spearman

    pairs = [row.values for row in read(data / "stsb" / "test.csv", ["text", "pair", "score"])]
    ours = SentenceEncoder.from_pretrained(official, precision="int8")
    vectors = ours.encode([pair[role] for role in ("text", "pair") for pair in pairs])
    cosine = pairwise_cosine_similarity(vectors[: len(pairs)], vectors[len(pairs) :])
    assert spearman(cosine, [pair["score"] for pair in pairs]) >= 0.8190
    ours.save_pretrained(tmp_path)
    full = (official / "model.safetensors").stat().st_size
    assert (tmp_path / int8.FILE).stat().st_size < 0.26 * full
