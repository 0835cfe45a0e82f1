"""``CrossEncoder``: tokenizer + classifier = a score for two texts that are read together.

It sees both texts at once, so it judges better than two vectors, and has to be run for every pair.

Source: Devlin 2019, §4.1 (sentence pair classification); Nogueira & Cho 2019 (1901.04085).
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from minibert.batching import InBatches, to_device
from minibert.heads import BertForSequenceClassification
from minibert.io import sentence_transformers
from minibert.io.directory import open_directory
from minibert.sentence_encoder import activation_named, best_device
from minibert.tokenization.tokenizer import BertTokenizer


class CrossEncoder(InBatches):
    """Pairs of texts in, scores out, as in sentence-transformers.

    >>> encoder = CrossEncoder.from_pretrained("cross-encoder/ms-marco-TinyBERT-L2-v2")
    >>> encoder.predict([("how old is he?", "He is 40."), ("how old is he?", "It rains.")])

    Args:
        model: the classifier; with one label its logit is the score.
        tokenizer: the tokenizer the model was trained with.
        max_length: how many tokens of a pair are used; the longer text is cut first.
        activation: what scores are made of logits with; None: a sigmoid where there is one label.
    """

    def __init__(
        self,
        model: BertForSequenceClassification,
        tokenizer: BertTokenizer,
        *,
        max_length: int | None = None,
        activation: nn.Module | None = None,
    ) -> None:
        positions = model.config.max_position_embeddings
        one = model.config.num_labels == 1
        self.model = model
        self.tokenizer = tokenizer
        self.max_length = min(max_length or positions, positions)
        self.activation = activation or (nn.Sigmoid() if one else nn.Identity())

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | os.PathLike, *, device: str | torch.device = "auto", **hub: object
    ) -> CrossEncoder:
        """Load a classifier of pairs: a directory of sentence-transformers or of transformers.

        Args:
            name_or_path: a directory, or a name for ``hub.locate``.
            device: ``"auto"`` = cuda, then mps, then cpu.
            hub: options of ``hub.locate``, such as ``revision`` and ``cache_dir``.

        Raises:
            FileNotFoundError: no such model.
            ValueError: a file is damaged, has no trained classifier, or asks for something that
                minibert does not implement.
        """
        directory = open_directory(name_or_path, **hub)
        home, settings = sentence_transformers.read_cross_encoder(directory)
        tokenizer = BertTokenizer.from_pretrained(home, lower_case=settings["lower_case"])
        model = BertForSequenceClassification.from_pretrained(home)
        if model.load_report.new:
            raise ValueError(f"{directory} has no classifier of its own, so it has no scores yet")
        extra = model.config.extra
        name = settings["activation"] or (extra.get("sentence_transformers") or {}).get(
            "activation_fn", extra.get("sbert_ce_default_activation_function")
        )
        length = settings["max_length"] or tokenizer.model_max_length
        try:
            activation = activation_named(name) if name else None
        except ValueError as error:
            raise ValueError(f"{directory}: {error}") from None
        return cls(
            model.to(best_device(device)), tokenizer, max_length=length, activation=activation
        )

    def predict(
        self,
        pairs: Sequence[Sequence[str]],
        *,
        batch_size: int | None = None,
        activation_fn: nn.Module | None = None,
        apply_softmax: bool = False,
        convert_to_tensor: bool = False,
        show_progress_bar: bool | None = None,
    ) -> np.ndarray | Tensor:
        """The scores of pairs of texts.

        Args:
            pairs: pairs of texts, or a single pair.
            batch_size: the most pairs in a batch; None = as many as there are tokens for.
            activation_fn: instead of the model's own; ``torch.nn.Identity()`` gives logits.
            apply_softmax: make probabilities of the scores of several labels.
            convert_to_tensor: return a tensor on the model's device.
            show_progress_bar: None = in a terminal, when it takes more than a second.

        Shapes: (pairs,) where there is one label, else (pairs, labels); without the first axis for
        a single pair; float32.

        Raises:
            TypeError: something is not a pair of texts.
            ValueError: a score is not a number.
        """
        pairs = list(pairs)
        single = bool(pairs) and isinstance(pairs[0], str)
        pairs = [pairs] if single else pairs
        for i, pair in enumerate(pairs):
            texts = list(pair) if isinstance(pair, list | tuple | np.ndarray) else None
            if texts is None or len(texts) != 2 or not all(isinstance(t, str) for t in texts):
                raise TypeError(f"pair {i} is {pair!r:.80}; two texts (str) are needed")
        first, second = zip(*pairs, strict=True) if pairs else ((), ())
        batch = self.tokenizer.encode_batch(first, second, max_length=self.max_length)
        labels = self.model.config.num_labels
        scores = torch.empty(len(pairs), labels, dtype=torch.float32, device=self.device)
        model = self.in_eval().model

        def work(item: tuple[int, list[int]]) -> None:
            _, some = item
            inputs = self.tokenizer.pad(
                [batch.ids[i] for i in some], [batch.type_ids[i] for i in some]
            )
            inputs = {name: to_device(ids, self.device) for name, ids in inputs.items()}
            where = to_device(torch.tensor(some, device="cpu"), self.device)
            scores[where] = model(**inputs).logits.float()  # (B, labels)

        batches = [(0, some) for some in self.batches(batch.ids, batch_size, None)]
        self.run(work, batches, len(pairs), show_progress_bar)
        scores = (activation_fn or self.activation)(scores)
        if bad := (~scores.isfinite()).any(1).nonzero().flatten().tolist():
            raise ValueError(f"the scores of pairs {bad[:5]} are not numbers (NaN or infinity)")
        if labels == 1:
            scores = scores.squeeze(1)  # (pairs,)
        elif apply_softmax:
            scores = scores.softmax(dim=1)
        scores = scores[0] if single else scores
        return scores if convert_to_tensor else scores.cpu().numpy()

    def rank(
        self, query: str, documents: Sequence[str], *, top_k: int | None = None, **options: object
    ) -> list[dict]:
        """The documents in the order of their scores with the query, the highest first.

        Each as ``{"corpus_id": its number, "score": ...}``; the ``options`` are those of `predict`.

        Raises:
            ValueError: the model has several labels.
        """
        if self.model.config.num_labels != 1:
            raise ValueError(f"ranking needs one label, not {self.model.config.num_labels}")
        scores = self.predict([(query, document) for document in documents], **options).tolist()
        found = [{"corpus_id": i, "score": score} for i, score in enumerate(scores)]
        return sorted(found, key=lambda item: -item["score"])[:top_k]
