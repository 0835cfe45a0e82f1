"""The six heads: fields and shapes of their logits, and where each looks."""

import pytest
import torch
import torch.nn.functional as F
from support.tiny import build, ragged_batch, tiny_config

from minibert.heads import (
    BertForMaskedLM,
    BertForNextSentencePrediction,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    MaskedLMHead,
)
from minibert.trace import trace

B, T, V, C = 4, 11, 60, 5  # texts and tokens of `ragged_batch`, words and classes of the config
SHAPES = {
    BertForMaskedLM: {"logits": (B, T, V)},
    BertForNextSentencePrediction: {"logits": (B, 2)},
    BertForPreTraining: {"prediction_logits": (B, T, V), "seq_relationship_logits": (B, 2)},
    BertForSequenceClassification: {"logits": (B, C)},
    BertForTokenClassification: {"logits": (B, T, C)},
    BertForQuestionAnswering: {"start_logits": (B, T), "end_logits": (B, T)},
}
WITHOUT_POOLER = (BertForMaskedLM, BertForTokenClassification, BertForQuestionAnswering)


@pytest.mark.parametrize("head", SHAPES)
def test_fields_and_shapes(head):
    config = tiny_config(num_labels=C)
    out = build(head, config)(**ragged_batch(config))
    assert {name: tuple(value.shape) for name, value in out._asdict().items()} == SHAPES[head]


@pytest.mark.parametrize("head", SHAPES)
def test_only_the_heads_that_use_the_pooler_have_one(head):
    model = build(head, tiny_config())
    assert (model.bert.pooler is None) == (head in WITHOUT_POOLER)


@pytest.mark.parametrize("head", SHAPES)
def test_the_mask_and_the_segments_reach_the_encoder(head):
    config = tiny_config(num_labels=C)
    model = build(head, config)
    batch = ragged_batch(config)
    out = model(**batch)
    for name in ("attention_mask", "token_type_ids"):
        less = {key: value for key, value in batch.items() if key != name}
        for a, b in zip(model(**less), out, strict=True):
            assert not torch.allclose(a, b, atol=1e-2), name


@pytest.mark.parametrize("head", SHAPES)
def test_every_parameter_is_trained(head):
    config = tiny_config(num_labels=C)
    model = build(head, config)
    random = torch.Generator().manual_seed(0)
    out = model(**ragged_batch(config))
    torch.autograd.backward(out, [torch.randn(field.shape, generator=random) for field in out])
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().max() > 1e-6 or name.endswith("key.bias"), name


# ------------------------------------------------------------------------------- masked LM


def test_masked_lm_head_by_hand():
    config = tiny_config(vocab_size=3, hidden_size=2, num_attention_heads=1, hidden_act="relu")
    head = MaskedLMHead(config)
    with torch.no_grad():
        head.dense.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        head.dense.bias.copy_(torch.tensor([0.0, 1.0]))
        head.norm.weight.copy_(torch.tensor([2.0, 2.0]))
        head.norm.bias.copy_(torch.tensor([5.0, 5.0]))
        head.bias.copy_(torch.tensor([100.0, 200.0, 300.0]))
    words = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    # (3, -9) + (0, 1) = (3, -8); relu (3, 0); norm (1, -1) · 2 + 5 = (7, 3).
    # Word by word: 7 + 100, 3 + 200, 7 + 3 + 300.
    out = head(torch.tensor([[[3.0, -9.0]]]), words)
    torch.testing.assert_close(out, torch.tensor([[[107.0, 203.0, 310.0]]]))


@pytest.mark.parametrize("model_class", [BertForMaskedLM, BertForPreTraining])
def test_the_decoder_is_the_word_table(model_class):
    config = tiny_config()
    model = build(model_class, config)
    assert not any("decoder" in name for name in model.state_dict())
    batch = ragged_batch(config)
    with trace(model) as tensors:
        logits = model(**batch)[0]
    table = model.bert.embeddings.word.weight
    expected = F.linear(tensors["predictions.norm"], table, model.predictions.bias)
    assert torch.equal(logits, expected)
    with torch.no_grad():
        unused = next(row for row in range(V) if row not in batch["input_ids"])
        table[unused] += 1
    changed = (model(**batch)[0] != logits).any(dim=(0, 1))
    assert changed.nonzero().flatten().tolist() == [unused]


def test_the_decoder_trains_the_word_table():
    config = tiny_config()
    model = build(BertForMaskedLM, config)
    ids = torch.tensor([[5, 6]])
    model(ids).logits[0, 0, 9].backward()  # the score of a word that is not in the text
    assert model.bert.embeddings.word.weight.grad[9].abs().max() > 0
    assert model.bert.embeddings.word.weight.grad[10].abs().max() == 0


def test_the_bias_of_the_words_starts_at_zero_and_is_a_parameter():
    bias = BertForMaskedLM(tiny_config()).predictions.bias
    assert bias.shape == (V,)
    assert bias.requires_grad
    assert not bias.any()


def test_pre_training_is_both_heads():
    config = tiny_config()
    both = build(BertForPreTraining, config)
    batch = ragged_batch(config)
    out = both(**batch)
    for single, logits in (
        (BertForMaskedLM(config), out.prediction_logits),
        (BertForNextSentencePrediction(config), out.seq_relationship_logits),
    ):
        own = single.state_dict().keys()
        single.load_state_dict({k: v for k, v in both.state_dict().items() if k in own})
        assert torch.equal(single.eval()(**batch).logits, logits)


# ------------------------------------------------------------------------------- classifiers


@pytest.mark.parametrize("head", [*SHAPES][3:] + [BertForNextSentencePrediction])
def test_answers_are_read_off_the_encoder(head):
    config = tiny_config(num_labels=C)
    model = build(head, config)
    batch = ragged_batch(config)
    (name,) = {name.partition(".")[0] for name, _ in model.named_parameters()} - {"bert"}
    hidden, pooled = model.bert(**batch)
    expected = model.get_submodule(name)(hidden if head in WITHOUT_POOLER else pooled)
    if head is BertForQuestionAnswering:  # start is the first column, end the second
        expected = expected.unbind(-1)
    else:
        expected = [expected]
    assert all(map(torch.equal, model(**batch), expected))


def test_question_answering_has_two_columns_whatever_the_labels():
    model = build(BertForQuestionAnswering, tiny_config(num_labels=C))
    assert model.qa_outputs.weight.shape == (2, 32)
    assert model.config.num_labels == 2


@pytest.mark.parametrize("head", [BertForSequenceClassification, BertForTokenClassification])
@pytest.mark.parametrize("own, rate", [(None, 0.1), (0.0, 0.0), (0.6, 0.6)])
def test_the_classifiers_dropout(head, own, rate):
    assert build(head, tiny_config(classifier_dropout=own)).dropout.p == rate


@pytest.mark.parametrize("head", [BertForSequenceClassification, BertForTokenClassification])
def test_the_classifiers_dropout_is_before_it_and_only_while_training(head):
    config = tiny_config(
        classifier_dropout=0.5, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    model = build(head, config)
    seen = []
    model.classifier.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    batch = ragged_batch(config)
    model(**batch)
    model.train()(**batch)
    plain, dropped = seen
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], plain[kept] * 2)
    assert 0.3 < kept.double().mean() < 0.7


def test_new_heads_are_initialised():
    torch.manual_seed(0)
    config = tiny_config(hidden_size=64, num_labels=40, initializer_range=0.3)
    for head, name in (
        (BertForSequenceClassification, "classifier"),
        (BertForTokenClassification, "classifier"),
        (BertForQuestionAnswering, "qa_outputs"),
        (BertForNextSentencePrediction, "seq_relationship"),
        (BertForPreTraining, "seq_relationship"),
        (BertForPreTraining, "predictions.dense"),
        (BertForMaskedLM, "predictions.dense"),
    ):
        part = head(config).get_submodule(name)
        assert part.weight.std().item() == pytest.approx(0.3, rel=0.3), (head, name)
        assert not part.bias.any()
