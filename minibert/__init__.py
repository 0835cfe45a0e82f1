"""minibert: BERT written by hand in pure PyTorch, to be read, proved and fine-tuned."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # for editors; at run time a name is imported when it is first asked for
    from minibert.config import BertConfig
    from minibert.cross_encoder import CrossEncoder
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
    from minibert.training.api import finetune
    from minibert.training.inference import Answerer, Classifier, FineTuned, TokenTagger

__version__ = "0.1.0"
__all__ = [
    "Answerer",
    "BertConfig",
    "BertForMaskedLM",
    "BertForNextSentencePrediction",
    "BertForPreTraining",
    "BertForQuestionAnswering",
    "BertForSequenceClassification",
    "BertForTokenClassification",
    "BertModel",
    "BertTokenizer",
    "Classifier",
    "CrossEncoder",
    "FineTuned",
    "SentenceEncoder",
    "TokenTagger",
    "cosine_similarity",
    "finetune",
    "key_sentences",
    "paraphrases",
    "search",
]
HOMES = {
    "BertConfig": "config",
    "BertTokenizer": "tokenization.tokenizer",
    "BertModel": "model",
    "SentenceEncoder": "sentence_encoder",
    "CrossEncoder": "cross_encoder",
    **dict.fromkeys(("cosine_similarity", "key_sentences", "paraphrases", "search"), "similarity"),
    **dict.fromkeys(("FineTuned", "Classifier", "TokenTagger", "Answerer"), "training.inference"),
    "finetune": "training.api",
}  # all others: heads


def __getattr__(name: str) -> object:
    """Import the home of a public name when it is first asked for: ``--help`` needs no torch."""
    if name in __all__:
        return getattr(importlib.import_module(f"minibert.{HOMES.get(name, 'heads')}"), name)
    raise AttributeError(f"minibert has no {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    """The public names, imported or not."""
    return sorted([*globals(), *__all__])
