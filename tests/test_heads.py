"""The six heads: what each is made of.

Names and shapes of their logits are seen in ``test_trace.py``; that the numbers are right in
``parity/test_reference.py``: bit for bit the reference's.
"""

import pytest
import torch
from support.tiny import build, tiny_config

from minibert.heads import (
    BertForMaskedLM,
    BertForPreTraining,
    BertForSequenceClassification,
    BertForTokenClassification,
    MaskedLMHead,
)


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


@pytest.mark.parametrize("head", [BertForMaskedLM, BertForPreTraining])
def test_the_decoder_is_the_word_table(head):
    model = build(head, tiny_config())
    assert not any("decoder" in name for name in model.state_dict())
    table, ids = model.bert.embeddings.word.weight, torch.tensor([[5, 6]])
    logits = model(ids)[0]
    logits[0, 0, 9].backward()  # the score of a word that is not in the text trains its row
    assert table.grad[9].any() and not table.grad[10].any()
    with torch.no_grad():
        table[9] += 1
    changed = (model(ids)[0] != logits).any(dim=(0, 1))
    assert changed.nonzero().flatten().tolist() == [9]


@pytest.mark.parametrize("head", [BertForSequenceClassification, BertForTokenClassification])
@pytest.mark.parametrize("own, rate", [(None, 0.1), (0.0, 0.0), (0.6, 0.6)])
def test_the_classifiers_dropout(head, own, rate):
    assert build(head, tiny_config(classifier_dropout=own)).dropout.p == rate
