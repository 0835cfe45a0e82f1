"""``BertModel``: embeddings, the layers one after the other, and the pooler.

Source: Devlin 2019, §3; the pooler: google-research/bert, ``modeling.py``.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from minibert.attention import additive_mask
from minibert.config import BertConfig
from minibert.embeddings import Embeddings
from minibert.encoder import EncoderLayer
from minibert.pretrained import Pretrained, initialise


class BertOutput(NamedTuple):
    """``last_hidden_state`` (B, T, H) and ``pooler_output`` (B, H), None without a pooler."""

    last_hidden_state: Tensor
    pooler_output: Tensor | None


class BertModel(Pretrained, nn.Module):
    """BERT without a head: ids in, one vector for every token out.

    >>> model = BertModel.from_pretrained("sentence-transformers/all-MiniLM-L6-v2")
    >>> model(torch.tensor([[101, 7592, 102]])).last_hidden_state.shape
    torch.Size([1, 3, 384])
    """

    optional = ("pooler",)

    def __init__(self, config: BertConfig, add_pooling_layer: bool = True) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_hidden_layers))
        self.pooler = Pooler(config) if add_pooling_layer else None
        initialise(self, config)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> BertOutput:
        """Encode a batch of texts.

        Shapes:
            input_ids: (B, T), from the tokenizer.
            attention_mask: (B, T), 1 or True = real token; None = all are real.
            token_type_ids: (B, T), 0 = first segment, 1 = second; None = all first.
            returns: last_hidden_state (B, T, H), pooler_output (B, H) or None without a pooler.

        A text that is padding alone gives finite numbers that mean nothing: its tokens attend to
        all positions equally.

        Ids are not checked here: call `check_ids` for ids that did not come from our tokenizer.

        Raises:
            ValueError: shapes do not fit, or too many tokens.
        """
        check_shapes(self.config, input_ids, attention_mask, token_type_ids)
        if token_type_ids is None:
            token_type_ids = torch.zeros_like(input_ids)  # (B, T)
        hidden = self.embeddings(input_ids, token_type_ids)  # (B, T, H)
        mask = None if attention_mask is None else additive_mask(attention_mask, hidden.dtype)
        for layer in self.layers:
            hidden = layer(hidden, mask)  # (B, T, H)
        return BertOutput(hidden, None if self.pooler is None else self.pooler(hidden))


class Pooler(nn.Module):
    """The [CLS] state through a linear layer and tanh: what the next-sentence head was trained on.

    Not to be confused with pooling (``pooling.py``), which has no weights.

    Shapes: (B, T, H) → (B, H).
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = nn.Tanh()

    def forward(self, hidden: Tensor) -> Tensor:
        """Take the first token of every text."""
        return self.activation(self.dense(hidden[:, 0]))  # (B, T, H) → (B, H)


def check_shapes(
    config: BertConfig,
    input_ids: Tensor,
    attention_mask: Tensor | None,
    token_type_ids: Tensor | None,
) -> None:
    """Refuse a batch whose shapes or dtypes the model cannot read; looks at no number.

    Raises:
        ValueError: what came, what is allowed, what to do.
    """
    if input_ids.dim() != 2 or input_ids.shape[1] == 0:
        raise ValueError(
            f"input_ids is {tuple(input_ids.shape)}; (texts, tokens) is needed, with at least one "
            "token: ids.unsqueeze(0) for one text"
        )
    for name, ids in (("input_ids", input_ids), ("token_type_ids", token_type_ids)):
        if ids is not None and ids.dtype not in (torch.int64, torch.int32):
            raise ValueError(f"{name} is {ids.dtype}; whole numbers (torch.int64) are needed")
    for name, other in (("attention_mask", attention_mask), ("token_type_ids", token_type_ids)):
        if other is not None and other.shape != input_ids.shape:
            raise ValueError(
                f"{name} is {tuple(other.shape)}, input_ids is {tuple(input_ids.shape)}; "
                "they must have the same shape"
            )
    T, P = input_ids.shape[1], config.max_position_embeddings
    if T > P:
        raise ValueError(
            f"{T} tokens, but this model has {P} positions; shorten the text, pass max_length={P} "
            'to the tokenizer, or on_long="window" to SentenceEncoder.encode'
        )


def check_ids(config: BertConfig, input_ids: Tensor, token_type_ids: Tensor | None = None) -> None:
    """Refuse ids that have no row in their table. For ids that did not come from our tokenizer.

    Without it torch raises an ``IndexError`` that names no id, on a CPU, and ends the process with
    a device assertion on a GPU. It is not part of `BertModel.forward`, because looking at the
    numbers makes a GPU wait.

    Raises:
        ValueError: an id is out of range; the message names it and what the model knows.
    """
    for name, ids, rows in (
        ("input_ids", input_ids, config.vocab_size),
        ("token_type_ids", token_type_ids, config.type_vocab_size),
    ):
        if ids is None or not ids.numel():
            continue
        low, high = (int(bound) for bound in ids.aminmax())
        if low < 0 or high >= rows:
            raise ValueError(
                f"{name} has {low if low < 0 else high}; this model knows 0 to {rows - 1}. Is the "
                "tokenizer that of the model?"
            )
