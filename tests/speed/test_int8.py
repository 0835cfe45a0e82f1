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
from minibert.speed import int8 as quantize


@pytest.fixture(autouse=True)
def int8_is_to_be_had(monkeypatch):
    """The products are exact on every processor, only slow on some."""
    monkeypatch.setattr(quantize, "unsupported", lambda: None)


@pytest.mark.parametrize("hidden_act", SHAPES)
def test_the_same_vector_in_any_company_bit_for_bit(hidden_act):
    """Promise 3: alone, in batches of all sizes, in other orders, beside longer texts."""
    ours = encoder(quantize.quantize(bert(hidden_act)))
    texts = [text for text, _ in small.sentences(40)] + ["", "good " * 37]
    alone = np.stack([ours.encode(text) for text in texts])
    for seed, (size, tokens) in enumerate([(None, 1024), (7, 200), (2, 1024), (None, 33)]):
        order = random.Random(seed).sample(range(len(texts)), len(texts))
        together = ours.encode([texts[i] for i in order], batch_size=size, batch_tokens=tokens)
        assert np.array_equal(together, alone[order])


def test_padding_reaches_no_token():
    """Real tokens have the bits they have without padding, left or right; padding gives zeros."""
    model = quantize.quantize(bert())
    batch = ragged_batch(model.config)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    states = model(**batch).last_hidden_state
    for i, length in enumerate(mask.sum(1).tolist()):
        alone = model(ids[i : i + 1, :length], None, batch["token_type_ids"][i : i + 1, :length])
        assert torch.equal(states[i, :length], alone.last_hidden_state[0])
        assert not states[i, length:].any()


@pytest.mark.parametrize("hidden_act", SHAPES)
def test_close_to_float32(hidden_act):
    model = bert(hidden_act)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    texts = [text for text, _ in small.sentences(40)]
    exact = encoder(model).encode(texts)
    int8 = quantize.quantize(model)
    cosine = (encoder(int8).encode(texts) * exact).sum(1)
    assert 0.995 < cosine.min() and cosine.max() < 1 - 1e-7  # near, and not the same
    back = (encoder(quantize.dequantize(int8)).encode(texts) * exact).sum(1)
    assert 0.998 < back.min()
    for name, tensor in model.state_dict().items():  # what came in is as it was
        assert torch.equal(tensor, before[name])


def test_a_linear_map_by_hand():
    """2 x = 127 / 127 and 1 / 127 steps: with these numbers nothing is rounded."""
    state: dict = {}
    quantize.add(state, "map", torch.tensor([[127.0, -1.0]]), torch.tensor([5.0]))
    assert state["map.weight"].tolist() == [[127], [-1]]
    linear = quantize.Int8Linear(2, 1)
    linear.load_state_dict({k.removeprefix("map."): v for k, v in state.items()})
    x = torch.tensor([[127.0, 2.0], [1.0, 0.0], [0.0, 0.0]])
    assert torch.allclose(linear(x), torch.tensor([[16132.0], [132.0], [5.0]]), rtol=1e-6)


def test_a_floor_uses_all_steps():
    """x from -1 to 1 in 255 steps: -1 becomes -128, 1 becomes 127, and both come back."""
    state: dict = {}
    weight = torch.tensor([[127.0, 0.0], [0.0, 127.0]])
    quantize.add(state, "map", weight, torch.tensor([3.0, 0.0]), -1.0)
    linear = quantize.Int8Linear(2, 2, -1.0)
    linear.load_state_dict({k.removeprefix("map."): v for k, v in state.items()})
    x = torch.tensor([[-1.0, 1.0], [-1.0, -1.0], [1.0, -1.0 + 2 / 255]])
    assert torch.allclose(linear(x), x @ weight + torch.tensor([3.0, 0.0]), atol=1e-4)


def test_saved_small_and_opened_again(tmp_path):
    ours = encoder(quantize.quantize(bert()))
    ours.save_pretrained(tmp_path / "int8")
    texts = [text for text, _ in small.sentences(10)]
    again = SentenceEncoder.from_pretrained(tmp_path / "int8")
    assert isinstance(again.model, quantize.Int8Bert)
    assert np.array_equal(again.encode(texts), ours.encode(texts))
    assert not (tmp_path / "int8" / "model.safetensors").exists()
    as_float = SentenceEncoder.from_pretrained(tmp_path / "int8", precision="float32")
    assert isinstance(as_float.model, BertModel)
    assert (as_float.encode(texts) * ours.encode(texts)).sum(1).min() > 0.998

    first = (tmp_path / "int8" / quantize.FILE).read_bytes()
    again.save_pretrained(tmp_path / "again")
    same = (tmp_path / "again" / quantize.FILE).read_bytes() == first
    assert same
    (tmp_path / "again" / quantize.FILE).write_bytes(first[:-1] + bytes([first[-1] ^ 1]))
    with pytest.raises(ValueError, match="is damaged"):
        SentenceEncoder.from_pretrained(tmp_path / "again")
    config = (tmp_path / "int8" / "config.json").read_text()
    (tmp_path / "int8" / "config.json").write_text(config.replace("1e-12", "1e-05"))
    with pytest.raises(ValueError, match="config.json is not the one that it was saved with"):
        SentenceEncoder.from_pretrained(tmp_path / "int8")


def test_one_directory_is_one_model(tmp_path):
    encoder(bert()).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has a model.safetensors; save the int8"):
        encoder(quantize.quantize(bert())).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has a model.safetensors; save the int8"):
        quantize.save(quantize.quantize(bert()), tmp_path)
    assert not (tmp_path / quantize.FILE).exists()


def test_precision_of_a_float32_directory(tmp_path):
    encoder(bert()).save_pretrained(tmp_path)
    int8 = SentenceEncoder.from_pretrained(tmp_path, precision="int8")
    assert isinstance(int8.model, quantize.Int8Bert)
    assert isinstance(SentenceEncoder.from_pretrained(tmp_path).model, BertModel)
    with pytest.raises(ValueError, match="precision is 'int4'"):
        SentenceEncoder.from_pretrained(tmp_path, precision="int4")
    with pytest.raises(ValueError, match="int8 is for the CPU and float32; cuda"):
        SentenceEncoder.from_pretrained(tmp_path, precision="int8", device="cuda")


def test_where_int8_is_not_to_be_had_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(quantize, "unsupported", lambda: "no such instructions")
    encoder(bert()).save_pretrained(tmp_path / "float")
    quantize.save(quantize.quantize(bert()), tmp_path / "int8")
    small.tokenizer().save_pretrained(tmp_path / "int8")
    message = "no such instructions: the model is computed in float32, not int8"
    for name in ("float", "int8"):
        with warnings.catch_warnings(record=True) as record:
            warnings.simplefilter("always")
            found = SentenceEncoder.from_pretrained(tmp_path / name, precision="int8")
        assert message in [str(w.message) for w in record]
        assert isinstance(found.model, BertModel)


def test_the_question_to_the_machine(monkeypatch):
    """Products that are slow, not exact, or not there: each is a reason of its own."""
    monkeypatch.undo()
    ask = quantize.unsupported.__wrapped__
    product = torch._int_mm
    monkeypatch.setattr(torch, "_int_mm", lambda a, b: product(a, b).clamp(max=32767))
    assert "is not exact" in ask()
    monkeypatch.setattr(torch, "_int_mm", lambda a, b: (a.double() @ b.double()).int())
    monkeypatch.setattr(quantize.time, "perf_counter", None)  # nothing is timed where torch knows
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_vnni": True}, raising=False)
    assert ask() is None
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    monkeypatch.setattr(quantize.time, "perf_counter", iter([0, 1, 1, 51, *range(99)]).__next__)
    assert "0.02 times the speed" in ask()
    monkeypatch.setattr(quantize.time, "perf_counter", iter([0, 4, 4, 5] * 9).__next__)
    assert ask() is None
    monkeypatch.delattr(torch, "_int_mm")
    assert "cannot multiply int8" in ask()


def test_a_state_that_does_not_fit_is_refused():
    model = quantize.quantize(bert())
    state = model.state_dict()
    state["layers.0.qkv.weight"] = state["layers.0.qkv.weight"].float()
    del state["layers.1.smooth"]
    with pytest.raises(ValueError, match="2 tensors .*layers.0.qkv.weight, layers.1.smooth"):
        quantize.from_state(model.config, state)


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
    assert (tmp_path / quantize.FILE).stat().st_size < 0.26 * full
