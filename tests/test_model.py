"""``BertModel``: its inputs and what it says to wrong ones, new weights, loading and saving."""

import warnings

import pytest
import torch
from support.tiny import build, ragged_batch, tiny_config
from torch import nn

from minibert.config import BertConfig
from minibert.embeddings import sinusoidal_positions
from minibert.heads import BertForMaskedLM, BertForPreTraining, BertForSequenceClassification
from minibert.model import BertModel, Pooler, check_ids

# ------------------------------------------------------------------------------- the forward pass


def test_output():
    config = tiny_config()
    batch = ragged_batch(config)
    out = build(BertModel, config)(**batch)
    B, T = batch["input_ids"].shape
    assert out.last_hidden_state.shape == (B, T, config.hidden_size)
    assert out.pooler_output.shape == (B, config.hidden_size)
    assert out[0] is out.last_hidden_state
    assert out[1] is out.pooler_output


def test_the_layers_follow_each_other():
    config = tiny_config(num_hidden_layers=3)
    model = build(BertModel, config)
    ids = ragged_batch(config, (6, 6))["input_ids"]
    hidden = model.embeddings(ids, torch.zeros_like(ids))
    for i in range(3):
        hidden = model.layers[i](hidden, None)
    assert torch.equal(model(ids).last_hidden_state, hidden)


def test_the_pooler_by_hand():
    pooler = Pooler(tiny_config(hidden_size=2, num_attention_heads=1))
    with torch.no_grad():
        pooler.dense.weight.copy_(torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
        pooler.dense.bias.copy_(torch.tensor([0.0, -0.5]))
    out = pooler(torch.tensor([[[0.5, 1.0], [7.0, 7.0]]]))  # only the first token counts
    torch.testing.assert_close(out, torch.tensor([[0.5, 1.0]]).tanh())


def test_without_a_pooler():
    config = tiny_config()
    model = build(BertModel, config)
    bare = BertModel(config, add_pooling_layer=False).eval()
    assert not any("pooler" in name for name in bare.state_dict())
    bare.load_state_dict({k: v for k, v in model.state_dict().items() if "pooler" not in k})
    batch = ragged_batch(config)
    assert bare(**batch).pooler_output is None
    assert torch.equal(bare(**batch).last_hidden_state, model(**batch).last_hidden_state)


def test_no_mask_means_all_tokens_are_real():
    config = tiny_config()
    model = build(BertModel, config)
    batch = ragged_batch(config, (5, 5, 5))
    assert batch["attention_mask"].all()
    with_mask, without = model(**batch), model(batch["input_ids"], None, batch["token_type_ids"])
    assert torch.equal(with_mask[0], without[0])
    assert torch.equal(with_mask[1], without[1])


@pytest.mark.parametrize("kind", [torch.bool, torch.int32, torch.uint8, torch.float32])
def test_masks_of_any_kind(kind):
    config = tiny_config()
    model = build(BertModel, config)
    batch = ragged_batch(config)
    plain = model(**batch)
    batch["attention_mask"] = batch["attention_mask"].to(kind)
    assert torch.equal(model(**batch)[0], plain[0])


def test_no_segments_means_all_are_the_first():
    config = tiny_config()
    model = build(BertModel, config)
    batch = ragged_batch(config)
    zeros = torch.zeros_like(batch["input_ids"])
    without = model(batch["input_ids"], batch["attention_mask"])[0]
    assert torch.equal(without, model(batch["input_ids"], batch["attention_mask"], zeros)[0])
    assert not torch.allclose(without, model(**batch)[0], atol=1e-2)


def test_positions_count():
    config = tiny_config()
    model = build(BertModel, config)
    ids = torch.full((1, 6), 9)  # the same word six times
    hidden = model(ids).last_hidden_state[0]
    assert not torch.allclose(hidden[0], hidden[1], atol=1e-2)


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
    assert out.last_hidden_state.isfinite().all()
    assert out.pooler_output.isfinite().all()
    sum(field.sum() for field in out).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    batch["input_ids"][1] = 8
    assert torch.equal(model(**batch)[0][[0, 2]], out[0][[0, 2]])


def test_every_parameter_is_trained():
    config = tiny_config()
    model = build(BertModel, config)
    batch = ragged_batch(config)
    random = torch.Generator().manual_seed(0)
    out = model(**batch)
    torch.autograd.backward(out, [torch.randn(field.shape, generator=random) for field in out])
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().max() > 1e-6 or name.endswith("key.bias"), name


def test_dropout_only_while_training():
    config = tiny_config()
    model = build(BertModel, config)
    batch = ragged_batch(config)
    assert torch.equal(model(**batch)[0], model(**batch)[0])
    model.train()
    assert not torch.equal(model(**batch)[0], model(**batch)[0])
    torch.manual_seed(3)
    first = model(**batch)[0]
    torch.manual_seed(3)
    assert torch.equal(model(**batch)[0], first)


def test_the_inputs_are_not_changed():
    config = tiny_config()
    batch = ragged_batch(config)
    before = {name: value.clone() for name, value in batch.items()}
    build(BertModel, config)(**batch)
    assert all(torch.equal(batch[name], before[name]) for name in batch)


def test_as_many_tokens_as_positions():
    config = tiny_config(max_position_embeddings=11)
    assert build(BertModel, config)(**ragged_batch(config, (11, 2)))[0].shape[1] == 11


def test_highest_and_lowest_ids():
    config = tiny_config(type_vocab_size=3)
    ids = torch.tensor([[0, config.vocab_size - 1]])
    assert build(BertModel, config)(ids, None, torch.tensor([[0, 2]]))[0].isfinite().all()


def test_no_texts():
    config = tiny_config()
    nothing = torch.zeros(0, 5, dtype=torch.long)
    out = build(BertModel, config)(nothing, nothing, nothing)
    assert out.last_hidden_state.shape == (0, 5, config.hidden_size)
    assert out.pooler_output.shape == (0, config.hidden_size)


@pytest.mark.parametrize("kind", [torch.int32, torch.int64])
def test_ids_of_any_whole_type(kind):
    config = tiny_config()
    model = build(BertModel, config)
    ids = ragged_batch(config)["input_ids"]
    assert torch.equal(model(ids.to(kind))[0], model(ids)[0])


# ------------------------------------------------------------------------------- wrong inputs

IDS = torch.tensor([[5, 6, 7], [8, 9, 10]])
ONES = torch.ones_like(IDS)
WRONG = {  # what is wrong: the inputs, and words of the message (what came, what is allowed, do)
    "one text": (
        {"input_ids": IDS[0]},
        ("input_ids", "(3,)", "(texts, tokens)", "unsqueeze(0)"),
    ),
    "three axes": ({"input_ids": IDS[None]}, ("input_ids", "(1, 2, 3)", "(texts, tokens)")),
    "no tokens": ({"input_ids": IDS[:, :0]}, ("input_ids", "(2, 0)", "at least one token")),
    "floats": ({"input_ids": IDS.float()}, ("input_ids", "torch.float32", "whole numbers")),
    "bools": ({"input_ids": ONES.bool()}, ("input_ids", "torch.bool", "whole numbers")),
    "bytes": ({"input_ids": IDS.to(torch.uint8)}, ("input_ids", "torch.uint8", "whole numbers")),
    "complex": ({"input_ids": IDS.to(torch.complex64)}, ("input_ids", "complex", "whole numbers")),
    "float types": (
        {"input_ids": IDS, "token_type_ids": ONES.float()},
        ("token_type_ids", "torch.float32", "whole numbers"),
    ),
    "mask of another length": (
        {"input_ids": IDS, "attention_mask": ONES[:, :2]},
        ("attention_mask", "(2, 2)", "(2, 3)", "same shape"),
    ),
    "mask of one text": (
        {"input_ids": IDS, "attention_mask": ONES[:1]},
        ("attention_mask", "(1, 3)", "(2, 3)", "same shape"),
    ),
    "mask with four axes": (
        {"input_ids": IDS, "attention_mask": ONES[:, None, None]},
        ("attention_mask", "(2, 1, 1, 3)", "(2, 3)"),
    ),
    "41 tokens": (
        {"input_ids": torch.ones(1, 41, dtype=torch.long)},
        ("41 tokens", "40 positions", "max_length=40", 'on_long="window"'),
    ),
    "types of another length": (
        {"input_ids": IDS, "token_type_ids": ONES[:, :1]},
        ("token_type_ids", "(2, 1)", "(2, 3)", "same shape"),
    ),
}


@pytest.mark.parametrize("inputs, words", WRONG.values(), ids=WRONG.keys())
def test_wrong_inputs(inputs, words):
    model = build(BertModel, tiny_config())
    with pytest.raises(ValueError) as error:
        model(**inputs)
    for word in words:
        assert word in str(error.value)


def test_600_tokens_into_512_positions():
    config = tiny_config(max_position_embeddings=512)
    with pytest.raises(ValueError, match="600 tokens, but this model has 512 positions"):
        build(BertModel, config)(torch.ones(1, 600, dtype=torch.long))


WRONG_IDS = {
    "id beyond the vocabulary": (
        {"input_ids": torch.tensor([[5, 60]])},
        ("input_ids", " 60", "0 to 59", "tokenizer"),
    ),
    "negative id": (
        {"input_ids": torch.tensor([[5, -1, 60]])},
        ("input_ids", " -1", "0 to 59"),
    ),
    "type beyond the segments": (
        {"input_ids": IDS, "token_type_ids": ONES * 2},
        ("token_type_ids", " 2", "0 to 1"),
    ),
    "negative type": (
        {"input_ids": IDS, "token_type_ids": -ONES},
        ("token_type_ids", " -1", "0 to 1"),
    ),
}


@pytest.mark.parametrize("batch, words", WRONG_IDS.values(), ids=WRONG_IDS)
def test_wrong_ids(batch, words):
    """`check_ids` names them; the model itself still refuses to look them up."""
    config = tiny_config()
    with pytest.raises(ValueError) as error:
        check_ids(config, batch["input_ids"], batch.get("token_type_ids"))
    assert all(word in str(error.value) for word in words)
    with pytest.raises(IndexError):
        build(BertModel, config)(**batch)
    check_ids(config, IDS, ONES)


# ------------------------------------------------------------------------------- new weights


def test_new_weights():
    config = tiny_config(vocab_size=500, hidden_size=128, max_position_embeddings=300)
    torch.manual_seed(0)
    model = BertForPreTraining(config)
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
                assert rows.std().item() == pytest.approx(0.02, rel=5 / (2 * count) ** 0.5), name
                assert abs(rows.mean()) < 5 * 0.02 / count**0.5, name
    assert seen == set(model.state_dict())


def test_new_weights_have_the_deviation_of_the_config():
    model = BertModel(tiny_config(initializer_range=0.5))
    assert model.layers[1].feed_forward.expand.weight.std().item() == pytest.approx(0.5, rel=0.1)


def test_the_padding_row_is_new_as_zero():
    def zero_rows(pad):
        weight = BertModel(tiny_config(pad_token_id=pad)).embeddings.word.weight
        return [row for row in range(len(weight)) if not weight[row].any()]

    assert zero_rows(0) == [0]
    assert zero_rows(7) == [7]
    assert zero_rows(None) == []


@pytest.mark.parametrize("model_class", [BertModel, BertForPreTraining])
def test_the_same_seed_gives_the_same_weights(model_class):
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(model_class(tiny_config()).state_dict())
    for name, weight in states[0].items():
        assert torch.equal(weight, states[1][name])
        constant = name.endswith("bias") or "norm" in name
        assert constant or not torch.equal(weight, states[2][name]), name


def test_a_head_does_not_draw_its_encoder_again():
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


def test_what_is_saved_comes_back(tmp_path):
    model = build(BertModel, tiny_config(layer_norm_eps=1e-5))
    model.save_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = BertModel.from_pretrained(tmp_path)
    assert type(again) is BertModel
    assert again.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(w, again.state_dict()[n]) for n, w in model.state_dict().items())
    assert again.config.layer_norm_eps == again.layers[0].attention_norm.eps == 1e-5
    assert len(again.load_report.loaded) == len(model.state_dict())
    assert not again.load_report.dropped
    assert not again.load_report.new


def test_a_loaded_model_is_ready_to_use_and_to_train(tmp_path):
    build(BertModel, tiny_config()).train().save_pretrained(tmp_path)
    model = BertModel.from_pretrained(tmp_path)
    assert not any(part.training for part in model.modules())
    assert all(p.requires_grad and p.device.type == "cpu" for p in model.parameters())
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_loading_draws_no_random_numbers(tmp_path):
    build(BertModel, tiny_config()).save_pretrained(tmp_path)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    BertModel.from_pretrained(tmp_path)
    assert torch.equal(torch.random.get_rng_state(), before)
    BertModel(tiny_config())
    assert not torch.equal(torch.random.get_rng_state(), before)


def test_a_trained_model_can_be_trained_on_and_saved_over_its_own_file(tmp_path):
    build(BertModel, tiny_config()).save_pretrained(tmp_path)
    model = BertModel.from_pretrained(tmp_path)
    with torch.no_grad():
        model.embeddings.word.weight.add_(1)
    model.save_pretrained(tmp_path)
    again = BertModel.from_pretrained(tmp_path)
    assert torch.equal(again.embeddings.word.weight, model.embeddings.word.weight)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtypes(tmp_path, dtype):
    model = build(BertModel, tiny_config(), dtype=dtype)
    model.save_pretrained(tmp_path)
    assert BertConfig.from_pretrained(tmp_path).extra["dtype"] == str(dtype).split(".")[1]
    as_asked = BertModel.from_pretrained(tmp_path, dtype=dtype)
    plain = BertModel.from_pretrained(tmp_path)
    for name, weight in model.state_dict().items():
        assert torch.equal(as_asked.state_dict()[name], weight)
        assert torch.equal(plain.state_dict()[name], weight.float())
    out = as_asked(**ragged_batch(model.config))
    assert out.last_hidden_state.dtype == dtype
    assert out.last_hidden_state.isfinite().all()


def test_config_values_can_be_overridden(tmp_path):
    build(BertModel, tiny_config()).save_pretrained(tmp_path)
    model = BertModel.from_pretrained(tmp_path, hidden_dropout_prob=0.4)
    assert model.config.hidden_dropout_prob == model.layers[1].dropout.p == 0.4
    with pytest.raises(ValueError, match="hidden_act 'mish'"):
        BertModel.from_pretrained(tmp_path, hidden_act="mish")


def test_a_new_head_is_named_once_initialised_and_usable(tmp_path):
    config = tiny_config(hidden_size=64)
    build(BertModel, config).save_pretrained(tmp_path)
    torch.manual_seed(0)
    with pytest.warns(UserWarning, match="untrained") as seen:
        model = BertForSequenceClassification.from_pretrained(tmp_path, num_labels=50)
    assert len(seen) == 1
    assert "classifier.weight" in str(seen[0].message)
    assert "classifier.bias" in str(seen[0].message)
    assert seen[0].filename == __file__
    assert model.classifier.weight.shape == (50, 64)
    assert model.classifier.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert not model.classifier.bias.any()
    assert not model.classifier.training
    assert model.classifier.weight.requires_grad
    assert model(**ragged_batch(config)).logits.shape == (4, 50)
    assert set(model.load_report.new) == {"classifier.weight", "classifier.bias"}


def test_a_new_head_has_the_dtype_asked_for(tmp_path):
    build(BertModel, tiny_config()).save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="untrained"):
        model = BertForMaskedLM.from_pretrained(tmp_path, dtype=torch.float64)
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert (model.predictions.norm.weight == 1).all()
    assert not model.predictions.bias.any()


def test_a_file_without_a_pooler_gives_a_model_without_one(tmp_path):
    model = build(BertForMaskedLM, tiny_config())
    model.save_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder = BertModel.from_pretrained(tmp_path)
    batch = ragged_batch(model.config)
    out = encoder(**batch)
    assert out.pooler_output is None
    assert torch.equal(out.last_hidden_state, model.bert(**batch).last_hidden_state)


def test_a_sinusoidal_model_saved_is_the_same_model(tmp_path):
    torch.manual_seed(0)
    model = BertModel(tiny_config(position_embedding_type="sinusoidal")).eval()
    model.save_pretrained(tmp_path)
    again = BertModel.from_pretrained(tmp_path)
    batch = ragged_batch(model.config)
    assert torch.equal(again(**batch)[0], model(**batch)[0])
    assert torch.equal(again.embeddings.position.weight, sinusoidal_positions(40, 32))


@pytest.mark.weights
def test_the_official_model(official):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = BertModel.from_pretrained(official)
    assert len(model.load_report.loaded) == 103
    assert list(model.load_report.dropped) == ["embeddings.position_ids"]
    assert not model.training
    with torch.no_grad():
        out = model(torch.tensor([[101, 7592, 102]]))
    assert out.last_hidden_state.shape == (1, 3, 384)
