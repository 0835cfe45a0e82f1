"""The six official heads: what one can ask of the vectors. They return logits, never a loss.

All take ``(input_ids, attention_mask=None, token_type_ids=None)``, as `BertModel.forward` does.

Source: Devlin 2019, §3.1 (masked LM, next sentence) and §4 (the others).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from minibert.config import BertConfig
from minibert.encoder import activation
from minibert.model import BertModel
from minibert.pretrained import Pretrained, initialise


class Logits(NamedTuple):
    """``logits``: scores before the softmax; the shape is that of the head."""

    logits: Tensor


class PreTrainingLogits(NamedTuple):
    """``prediction_logits`` (B, T, V) and ``seq_relationship_logits`` (B, 2)."""

    prediction_logits: Tensor
    seq_relationship_logits: Tensor


class SpanLogits(NamedTuple):
    """``start_logits`` (B, T) and ``end_logits`` (B, T)."""

    start_logits: Tensor
    end_logits: Tensor


class MaskedLMHead(nn.Module):
    """A vector → a score for every word: transform, then compare with the table of words itself.

    Shapes: (B, T, H) and the word table (V, H) → (B, T, V). Source: Devlin 2019, §3.1.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = activation(config.hidden_act)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.bias = nn.Parameter(self.dense.bias.new_zeros(config.vocab_size))

    def forward(self, hidden: Tensor, words: Tensor) -> Tensor:
        """Score all words at every position."""
        hidden = self.norm(self.activation(self.dense(hidden)))  # (B, T, H)
        return F.linear(hidden, words, self.bias)  # (B, T, H) x (V, H)ᵀ → (B, T, V)


MASKED_LM_NAMES = (
    ("predictions.dense", "cls.predictions.transform.dense"),
    ("predictions.norm", "cls.predictions.transform.LayerNorm"),
    ("predictions", "cls.predictions"),  # its bias; the decoder's weight is the word table
)
NEXT_SENTENCE_NAMES = (("seq_relationship", "cls.seq_relationship"),)


class Head(Pretrained, nn.Module, ABC):
    """What all six have in common: a BERT, and a way to score what it gives.

    Shapes: (B, T) token ids, mask and segments → the logits that the head names.
    """

    with_pooler = False

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.config = config
        self.bert = BertModel(config, add_pooling_layer=self.with_pooler)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> tuple:
        """Score the last hidden states (B, T, H) and the pooled vectors (B, H) of BERT."""
        return self.score(*self.bert(input_ids, attention_mask, token_type_ids))

    @abstractmethod
    def score(self, hidden: Tensor, pooled: Tensor | None) -> tuple:
        """What each head does; ``pooled`` is None where it has no pooler."""


class BertForMaskedLM(Head):
    """Which word stands behind each [MASK]? ``logits`` (B, T, V)."""

    names = MASKED_LM_NAMES

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.predictions = MaskedLMHead(config)
        initialise(self.predictions, config)

    def score(self, hidden: Tensor, pooled: None) -> Logits:
        """Score all words at every position."""
        return Logits(self.predictions(hidden, self.bert.embeddings.word.weight))  # (B, T, V)


class BertForNextSentencePrediction(Head):
    """Does the second segment follow the first? ``logits`` (B, 2): column 0 = it does."""

    names = NEXT_SENTENCE_NAMES
    with_pooler = True

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.seq_relationship = nn.Linear(config.hidden_size, 2)
        initialise(self.seq_relationship, config)

    def score(self, hidden: Tensor, pooled: Tensor) -> Logits:
        """Score "follows" and "does not follow"."""
        return Logits(self.seq_relationship(pooled))  # (B, 2)


class BertForPreTraining(Head):
    """Both tasks BERT was trained on at once: masked words and next sentence."""

    names = MASKED_LM_NAMES + NEXT_SENTENCE_NAMES
    with_pooler = True

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.predictions = MaskedLMHead(config)
        self.seq_relationship = nn.Linear(config.hidden_size, 2)
        initialise(self.predictions, config)
        initialise(self.seq_relationship, config)

    def score(self, hidden: Tensor, pooled: Tensor) -> PreTrainingLogits:
        """Score all words at every position, and "follows" against "does not follow"."""
        return PreTrainingLogits(
            self.predictions(hidden, self.bert.embeddings.word.weight),  # (B, T, V)
            self.seq_relationship(pooled),  # (B, 2)
        )


class ClassifierHead(Head):
    """What both classifiers have: dropout, at its own rate if the config has one, and a layer."""

    names = (("classifier", "classifier"),)

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        own = config.classifier_dropout
        self.dropout = nn.Dropout(config.hidden_dropout_prob if own is None else own)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        initialise(self.classifier, config)


class BertForSequenceClassification(ClassifierHead):
    """Which class has the text (or pair)? ``logits`` (B, C); with one label, a regression."""

    with_pooler = True

    def score(self, hidden: Tensor, pooled: Tensor) -> Logits:
        """Score the classes."""
        return Logits(self.classifier(self.dropout(pooled)))  # (B, C)


class BertForTokenClassification(ClassifierHead):
    """Which class has each token? ``logits`` (B, T, C)."""

    def score(self, hidden: Tensor, pooled: None) -> Logits:
        """Score the classes of every token."""
        return Logits(self.classifier(self.dropout(hidden)))  # (B, T, C)


class BertForQuestionAnswering(Head):
    """Where in the second segment is the answer to the first? Scores for its two ends."""

    names = (("qa_outputs", "qa_outputs"),)

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config.replace(num_labels=2))  # other libraries make a row for each label
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        initialise(self.qa_outputs, config)

    def score(self, hidden: Tensor, pooled: None) -> SpanLogits:
        """Score every token as the first and as the last of the answer."""
        start, end = self.qa_outputs(hidden).unbind(-1)  # (B, T, 2) → (B, T) twice
        return SpanLogits(start, end)
