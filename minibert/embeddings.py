"""Embeddings: a token becomes the sum of three vectors, for its word, its segment and its position.

Source: Devlin 2019, §3 and figure 2; sinusoidal positions: Vaswani 2017, §3.5.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from minibert.config import BertConfig


def sinusoidal_positions(positions: int, hidden: int) -> Tensor:
    """The table of Vaswani 2017, §3.5: two columns, a sine and a cosine, for each wavelength.

    ``table[p, 2i] = sin(p / 10000^(2i/H))`` and ``table[p, 2i + 1] = cos(p / 10000^(2i/H))``

    Shapes: returns (P, H).
    """
    position = torch.arange(positions, dtype=torch.float64)[:, None]  # (P, 1)
    column = torch.arange(0, hidden, 2, dtype=torch.float64)  # (H / 2,)
    angle = position / 10000 ** (column / hidden)  # (P, H / 2)
    waves = torch.stack([angle.sin(), angle.cos()], dim=-1)  # (P, H / 2, 2)
    return waves.flatten(1)[:, :hidden].to(torch.get_default_dtype())  # (P, H); cut if H is odd


class Embeddings(nn.Module):
    """Word + segment + position, then LayerNorm, then dropout.

    The three tables are learned. ``position_embedding_type="sinusoidal"`` only changes where a new
    position table starts (``pretrained.initialise``); it is trained like the others from there.

    Shapes: ``input_ids`` and ``token_type_ids`` (B, T); returns (B, T, H).
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        # The third argument is padding_idx: lookups give the [PAD] row no gradient, as in the
        # reference. The masked-LM head shares this table and can still change that row.
        self.word = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.segment = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.position = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor) -> Tensor:
        """Add the three vectors of every token; normalise the sum."""
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)  # (T,) = 0, 1, 2, ...
        # Float addition is not associative: word + segment first, as in the reference.
        total = self.word(input_ids) + self.segment(token_type_ids)  # (B, T, H)
        total = total + self.position(positions)  # (B, T, H) + (T, H)
        return self.dropout(self.norm(total))
