"""int8: the same vector in any company bit for bit; near float32; small; said where not."""

import json

import numpy as np
import pytest
import torch
from support import small
from support.command import run
from support.small import SHAPES, bert, encoder
from support.tiny import ragged_batch

from minibert.model import BertModel
from minibert.sentence_encoder import SentenceEncoder
from minibert.speed import int8, packed
from minibert.training.adapt import add_lora

TEXTS = [text for text, _ in small.sentences(40)]


@pytest.fixture(autouse=True)
def int8_everywhere(monkeypatch):
    """Where the processor is slow at it, the same whole numbers come from float64."""
    if int8.unsupported():
        exact = lambda a, b: (a.double() @ b.double()).int()  # noqa: E731
        monkeypatch.setattr(torch, "_int_mm", exact)
    monkeypatch.setattr(int8, "unsupported", lambda: None)


@pytest.mark.parametrize("hidden_act", SHAPES)
def test_close_to_float32_and_the_same_in_any_company_bit_for_bit(hidden_act):
    exact = encoder(bert(hidden_act)).encode(TEXTS)
    ours = encoder(int8.quantize(bert(hidden_act)))
    alone = np.stack([ours.encode(text) for text in TEXTS])
    assert np.array_equal(ours.encode(TEXTS, batch_size=7, batch_tokens=200), alone)
    cosine = (alone * exact).sum(1)
    assert 0.995 < cosine.min() and cosine.max() < 1 - 1e-7  # near, and not the same
    back = encoder(int8.dequantize(ours.model))
    assert 0.998 < (back.encode(TEXTS) * exact).sum(1).min()
    assert isinstance(back.model.embeddings.word, torch.nn.Embedding)
    swapped = (int8.Int8Linear, packed.ShortSoftmax)
    assert not any(isinstance(part, swapped) for part in back.model.modules())


def test_a_model_in_bfloat16_is_as_good_a_beginning():
    exact, model = encoder(bert()).encode(TEXTS), bert().to(torch.bfloat16)
    ours = encoder(int8.quantize(packed.pack(model, packed.BFloat16Linear)))
    assert 0.99 < (ours.encode(TEXTS) * exact).sum(1).min() and ours.engine == "int8"


def test_padding_reaches_no_token():
    model = int8.quantize(bert())
    batch = ragged_batch(model.config)
    states = model(**batch).last_hidden_state
    for i, length in enumerate(batch["attention_mask"].sum(1).tolist()):
        ids, types = (batch[key][i : i + 1, :length] for key in ("input_ids", "token_type_ids"))
        alone = model(ids, None, types).last_hidden_state[0]
        assert torch.allclose(states[i, :length], alone, atol=1e-5)


def test_query_key_and_value_round_their_input_once():
    attention = int8.quantize(bert()).layers[0].attention
    query, rounding = attention.query, attention.query.rounding
    assert rounding is attention.key.rounding is attention.value.rounding
    x = torch.randn(3, 64)
    q, _ = rounding(x, query.smooth)
    assert rounding(x, query.smooth)[0] is q
    first = query(x)
    assert not torch.equal(query(x * 2), first) and torch.equal(query(x.clone()), first)


@pytest.mark.parametrize(
    "floor, inputs",
    [
        (None, [[127.0, 2.0], [1.0, 0.0], [0.0, 0.0]]),
        (-1.0, [[-1.0, 1.0], [-1.0, -1.0], [1.0, -1.0 + 2 / 255]]),  # in 255 steps from -1 to 1
    ],
)
def test_a_linear_layer_by_hand(floor, inputs):
    """With these numbers nothing is rounded; with a floor it becomes -128."""
    plain, linear = torch.nn.Linear(2, 2), int8.Int8Linear(2, 2, floor=floor)
    weight, bias = torch.tensor([[127.0, -1.0], [0.0, 127.0]]), torch.tensor([3.0, 5.0])
    plain.load_state_dict({"weight": weight, "bias": bias})
    linear.fill(plain)
    assert linear.weight.tolist() == [[127, 0], [-1, 127]]
    x = torch.tensor(inputs)
    assert torch.allclose(linear(x), plain(x), atol=1e-4)
    assert torch.allclose(linear.to_float()(x), plain(x), atol=1e-4)


def test_saved_small_and_opened_again(tmp_path):
    ours = encoder(int8.quantize(bert()))
    for name in ("once", "again"):
        ours.save_pretrained(tmp_path / name)
        ours = SentenceEncoder.from_pretrained(tmp_path / name)
    vectors = encoder(int8.quantize(bert())).encode(TEXTS)
    assert ours.engine == "int8" and isinstance(ours.model, BertModel)
    assert np.array_equal(ours.encode(TEXTS), vectors)
    first, again = ((tmp_path / name / int8.FILE).read_bytes() for name in ("once", "again"))
    assert first == again and not (tmp_path / "once" / "model.safetensors").exists()
    with pytest.raises(FileNotFoundError, match="which SentenceEncoder alone reads"):
        BertModel.from_pretrained(tmp_path / "once")
    as_float = SentenceEncoder.from_pretrained(tmp_path / "once", precision="float32")
    assert as_float.engine == "packed"
    assert (as_float.encode(TEXTS) * vectors).sum(1).min() > 0.998


def test_one_directory_is_one_model(tmp_path):
    encoder(bert()).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has a model.safetensors; save the int8"):
        encoder(int8.quantize(bert())).save_pretrained(tmp_path)
    assert not (tmp_path / int8.FILE).exists()


def test_where_int8_does_not_pay_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(int8, "unsupported", lambda: "no such instructions")
    encoder(bert()).save_pretrained(tmp_path / "float")
    encoder(int8.quantize(bert())).save_pretrained(tmp_path / "int8")
    for name in ("float", "int8"):
        with pytest.warns(UserWarning, match="no such instructions: the model .* not int8"):
            found = SentenceEncoder.from_pretrained(tmp_path / name, precision="int8")
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
    model = bert()
    add_lora(model, 2)
    with pytest.raises(ValueError, match="query is a LoRALinear; int8 .* nn.Linear: merge LoRA"):
        int8.quantize(model)


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.data
def test_sts_benchmark_in_int8(official, data, tmp_path, capsys):
    """Spearman on STS test, and the size of the file: a quarter."""
    SentenceEncoder.from_pretrained(official, precision="int8").save_pretrained(tmp_path)
    words = ["evaluate", "similarity", "--data", data / "stsb" / "test.csv", "--model", tmp_path]
    assert json.loads(run(capsys, *words, "--json")[1])["spearman"] >= 0.8190
    full = (official / "model.safetensors").stat().st_size
    assert (tmp_path / int8.FILE).stat().st_size < 0.26 * full
