"""minibert: BERT written by hand in pure PyTorch, to be read, proved and fine-tuned."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # for editors; at run time a name is imported when it is first asked for
    from minibert.config import BertConfig
    from minibert.heads import (
        BertForMaskedLM,
        BertForNextSentencePrediction,
        BertForPreTraining,
        BertForQuestionAnswering,
        BertForSequenceClassification,
        BertForTokenClassification,
    )
    from minibert.model import BertModel
    from minibert.sentence_encoder import SentenceEncoder
    from minibert.similarity import cosine_similarity, key_sentences, paraphrases, search
    from minibert.tokenization.tokenizer import BertTokenizer

__version__ = "0.1.0"
__all__ = [
    "BertConfig",
    "BertForMaskedLM",
    "BertForNextSentencePrediction",
    "BertForPreTraining",
    "BertForQuestionAnswering",
    "BertForSequenceClassification",
    "BertForTokenClassification",
    "BertModel",
    "BertTokenizer",
    "SentenceEncoder",
    "cosine_similarity",
    "key_sentences",
    "paraphrases",
    "search",
]
HOMES = {
    "BertConfig": "config",
    "BertTokenizer": "tokenization.tokenizer",
    "BertModel": "model",
    "SentenceEncoder": "sentence_encoder",
    **dict.fromkeys(("cosine_similarity", "key_sentences", "paraphrases", "search"), "similarity"),
}  # all others: heads


def __getattr__(name: str) -> object:
    """Import the home of a public name when it is first asked for: ``--help`` needs no torch."""
    if name in __all__:
        return getattr(importlib.import_module(f"minibert.{HOMES.get(name, 'heads')}"), name)
    raise AttributeError(f"minibert has no {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    """The public names, imported or not."""
    return sorted([*globals(), *__all__])
