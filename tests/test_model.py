"""``BertModel``: its inputs and what it says to wrong ones, new weights, loading and saving.

That it computes what BERT computes is seen in ``parity/test_reference.py``, to the last bit.
"""

import warnings

import pytest
import torch
from support.tiny import build, ragged_batch, tiny_config
from torch import nn

from minibert.config import BertConfig
from minibert.heads import (
    BertForMaskedLM,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
)
from minibert.model import BertModel, Pooler, check_ids

# ------------------------------------------------------------------------------- the forward pass


def test_the_pooler_by_hand():
    pooler = Pooler(tiny_config(hidden_size=2, num_attention_heads=1))
    with torch.no_grad():
        pooler.dense.weight.copy_(torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
        pooler.dense.bias.copy_(torch.tensor([0.0, -0.5]))
    out = pooler(torch.tensor([[[0.5, 1.0], [7.0, 7.0]]]))  # only the first token counts
    torch.testing.assert_close(out, torch.tensor([[0.5, 1.0]]).tanh())


FULL = torch.ones(4, 6, dtype=torch.long)


@pytest.mark.parametrize("one, other", [
    ({"attention_mask": None}, {"attention_mask": FULL}),
    ({"attention_mask": FULL.bool()}, {"attention_mask": FULL}),
    ({"attention_mask": FULL.tril().to(torch.uint8)}, {"attention_mask": FULL.tril()}),
    ({"token_type_ids": None}, {"token_type_ids": 0 * FULL}),
    ({"input_ids": 9 * FULL.int()}, {"input_ids": 9 * FULL}),
])
def test_two_ways_to_say_the_same(one, other):
    """No mask means that all tokens are real, no segments that all are the first."""
    config = tiny_config()
    model, batch = build(BertModel, config), ragged_batch(config, (6, 6, 6, 6))
    assert all(map(torch.equal, model(**batch | one), model(**batch | other)))


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 5e-6), (torch.float64, 1e-12)])
def test_a_text_alone_and_in_company(dtype, tolerance):
    config = tiny_config()
    model = build(BertModel, config, dtype=dtype)
    lengths = (7, 3, 11, 1)
    batch = ragged_batch(config, lengths)
    together = model(**batch)
    for row, length in enumerate(lengths):
        alone = model(
            batch["input_ids"][row : row + 1, :length],
            token_type_ids=batch["token_type_ids"][row : row + 1, :length],
        )
        for a, b in ((alone[0][0], together[0][row, :length]), (alone[1][0], together[1][row])):
            torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


def test_a_row_of_padding_alone_is_finite_and_disturbs_nobody():
    config = tiny_config()
    model = build(BertModel, config)
    batch = ragged_batch(config, (6, 0, 9))
    out = model(**batch)
    assert all(field.isfinite().all() for field in out)
    sum(field.sum() for field in out).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    batch["input_ids"][1] = 8
    assert torch.equal(model(**batch)[0][[0, 2]], out[0][[0, 2]])


def test_no_texts():
    config = tiny_config()
    nothing = torch.zeros(0, 5, dtype=torch.long)
    out = build(BertModel, config)(nothing, nothing, nothing)
    assert out.last_hidden_state.shape == (0, 5, config.hidden_size)
    assert out.pooler_output.shape == (0, config.hidden_size)


# ------------------------------------------------------------------------------- wrong inputs

IDS = torch.tensor([[5, 6, 7], [8, 9, 10]])
ONES = torch.ones_like(IDS)
WRONG = {  # what is wrong: the inputs, and words of the message (what came, what is allowed, do)
    "one text": ({"input_ids": IDS[0]}, "input_ids; (3,); (texts, tokens); unsqueeze(0)"),
    "three axes": ({"input_ids": IDS[None]}, "input_ids; (1, 2, 3); (texts, tokens)"),
    "no tokens": ({"input_ids": IDS[:, :0]}, "input_ids; (2, 0); at least one token"),
    "floats": ({"input_ids": IDS.float()}, "input_ids; torch.float32; whole numbers"),
    "bools": ({"input_ids": ONES.bool()}, "input_ids; torch.bool; whole numbers"),
    "bytes": ({"input_ids": IDS.byte()}, "input_ids; torch.uint8; whole numbers"),
    "float types": ({"token_type_ids": ONES.float()}, "token_type_ids; torch.float32; whole"),
    "long types": ({"token_type_ids": ONES[:, :1]}, "token_type_ids; (2, 1); (2, 3); same shape"),
    "long mask": ({"attention_mask": ONES[:, :2]}, "attention_mask; (2, 2); (2, 3); same shape"),
    "mask of one": ({"attention_mask": ONES[:1]}, "attention_mask; (1, 3); (2, 3); same shape"),
    "41 tokens": (
        {"input_ids": torch.ones(1, 41, dtype=torch.long)},
        '41 tokens, but this model has 40 positions; max_length=40; on_long="window"',
    ),
}


@pytest.mark.parametrize("inputs, words", WRONG.values(), ids=WRONG)
def test_wrong_inputs(inputs, words):
    with pytest.raises(ValueError) as error:
        build(BertModel, tiny_config())(**{"input_ids": IDS, **inputs})
    assert all(word in str(error.value) for word in words.split("; "))


WRONG_IDS = {
    "beyond the vocabulary": ({"input_ids": torch.tensor([[5, 60]])}, "input_ids; 60; 0 to 59"),
    "negative": ({"input_ids": torch.tensor([[5, -1, 60]])}, "input_ids; -1; 0 to 59; tokenizer"),
    "beyond the segments": ({"token_type_ids": ONES * 2}, "token_type_ids; 2; 0 to 1"),
    "negative segment": ({"token_type_ids": -ONES}, "token_type_ids; -1; 0 to 1"),
}


@pytest.mark.parametrize("inputs, words", WRONG_IDS.values(), ids=WRONG_IDS)
def test_wrong_ids(inputs, words):
    """`check_ids` names them; the model itself still refuses to look them up."""
    config = tiny_config()
    batch = {"input_ids": IDS, "token_type_ids": None, **inputs}
    with pytest.raises(ValueError) as error:
        check_ids(config, batch["input_ids"], batch["token_type_ids"])
    assert all(f" {word}" in f" {error.value}" for word in words.split("; "))
    with pytest.raises(IndexError):
        build(BertModel, config)(**batch)
    check_ids(config, torch.tensor([[0, 59]]), torch.tensor([[0, 1]]))


# ------------------------------------------------------------------------------- new weights


@pytest.mark.parametrize("model_class", [
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
])
def test_new_weights(model_class):
    config = tiny_config(vocab_size=500, hidden_size=128, num_labels=40, initializer_range=0.05)
    torch.manual_seed(0)
    model = model_class(config)
    seen = set()
    for name, part in model.named_modules():
        for kind, parameter in part.named_parameters(recurse=False):
            seen.add(f"{name}.{kind}")
            if isinstance(part, nn.LayerNorm):
                assert (parameter == (1 if kind == "weight" else 0)).all(), name
            elif kind == "bias":
                assert (parameter == 0).all(), name
            else:
                rows = parameter[1:] if name.endswith("word") else parameter  # row 0 is [PAD]
                count = rows.numel()
                assert rows.std().item() == pytest.approx(0.05, rel=5 / (2 * count) ** 0.5), name
                assert abs(rows.mean()) < 5 * 0.05 / count**0.5, name
    assert seen == set(model.state_dict())


@pytest.mark.parametrize("pad, zero_rows", [(0, [0]), (7, [7]), (None, [])])
def test_the_padding_row_is_new_as_zero(pad, zero_rows):
    weight = BertModel(tiny_config(pad_token_id=pad)).embeddings.word.weight
    assert [row for row in range(len(weight)) if not weight[row].any()] == zero_rows


def test_a_head_does_not_draw_its_encoder_again():
    """And the same seed gives the same weights."""
    torch.manual_seed(1)
    encoder = BertModel(tiny_config(), add_pooling_layer=False)
    torch.manual_seed(1)
    head = BertForMaskedLM(tiny_config())
    assert all(torch.equal(p, head.bert.get_parameter(n)) for n, p in encoder.named_parameters())


def test_sizes_of_bert_base():
    with torch.device("meta"):
        model = BertModel(BertConfig())
    assert len(model.state_dict()) == 199
    assert sum(p.numel() for p in model.parameters()) == 109_482_240


# ------------------------------------------------------------------------------- loading and saving


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_saved_comes_back(tmp_path, dtype):
    """In eval mode, ready to be used and trained."""
    model = build(BertModel, tiny_config(layer_norm_eps=1e-5), dtype=dtype)
    model.train().save_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = BertModel.from_pretrained(tmp_path, dtype=dtype)
    assert type(again) is BertModel
    assert again.state_dict().keys() == model.state_dict().keys()
    assert again.config.layer_norm_eps == again.layers[0].attention_norm.eps == 1e-5
    assert len(again.load_report.loaded) == len(model.state_dict())
    assert not again.load_report.dropped and not again.load_report.new
    assert not any(part.training for part in again.modules())
    assert all(p.requires_grad and p.dtype == dtype for p in again.parameters())
    batch = ragged_batch(model.config)
    assert all(map(torch.equal, again(**batch), model.eval()(**batch)))


def test_loading_draws_no_random_numbers(tmp_path):
    build(BertModel, tiny_config()).save_pretrained(tmp_path)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    BertModel.from_pretrained(tmp_path)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_trained_model_can_be_saved_over_its_own_file(tmp_path):
    build(BertModel, tiny_config()).save_pretrained(tmp_path)
    model = BertModel.from_pretrained(tmp_path)
    with torch.no_grad():
        model.embeddings.word.weight.add_(1)
    model.save_pretrained(tmp_path)
    again = BertModel.from_pretrained(tmp_path)
    assert torch.equal(again.embeddings.word.weight, model.embeddings.word.weight)


def test_config_values_can_be_overridden(tmp_path):
    build(BertModel, tiny_config()).save_pretrained(tmp_path)
    model = BertModel.from_pretrained(tmp_path, hidden_dropout_prob=0.4)
    assert model.config.hidden_dropout_prob == model.layers[1].dropout.p == 0.4
    with pytest.raises(ValueError, match="hidden_act is 'mish'"):
        BertModel.from_pretrained(tmp_path, hidden_act="mish")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_new_head_is_named_once_initialised_and_usable(tmp_path, dtype):
    config = tiny_config(hidden_size=64)
    build(BertModel, config).save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="untrained") as seen:
        model = BertForSequenceClassification.from_pretrained(tmp_path, num_labels=50, dtype=dtype)
    assert len(seen) == 1 and seen[0].filename == __file__
    assert all(f"classifier.{kind}" in str(seen[0].message) for kind in ("weight", "bias"))
    assert set(model.load_report.new) == {"classifier.weight", "classifier.bias"}
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert model.classifier.weight.shape == (50, 64)
    assert model.classifier.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert not model.classifier.bias.any() and not model.classifier.training
    assert model(**ragged_batch(config)).logits.shape == (4, 50)


def test_habits_of_transformers_are_understood_or_answered(tiny):
    tokenizer, model = tiny.tokenizer, tiny.model
    inputs = tokenizer(["a b c", "d"], padding=True, truncation=True, return_tensors="pt")
    assert inputs.input_ids is inputs["input_ids"] and {**inputs.to("cpu")} == {**inputs}
    with pytest.raises(AttributeError, match="'ids' is not there; there are input_ids"):
        _ = inputs.ids
    with pytest.raises(ValueError, match="return_tensors is 'np'; 'pt' is what is returned"):
        tokenizer("a", return_tensors="np")
    tokenizer.model_max_length = 4
    assert tokenizer("a b c d", truncation=True).input_ids.shape == (1, 4)
    tokenizer.model_max_length = None
    assert model.num_parameters() == sum(p.numel() for p in model.parameters())
    assert tiny.get_sentence_embedding_dimension() == tiny.get_embedding_dimension() == 32
    assert tiny.max_seq_length == tiny.max_length == 16
    for name, advice in (
        ("output_attentions", "with minibert.trace.trace"), ("labels", "the loss is yours"),
        ("position_ids", "positions are 0, 1, 2"),
    ):  # fmt: skip
        with pytest.raises(TypeError, match=f"{name} is no argument of BertModel; .*{advice}"):
            model(inputs.input_ids, **{name: True})
