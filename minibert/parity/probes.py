"""What code is tried on: a tiny BERT in which every number matters, and batches that show mistakes.

A freshly initialised model hides half of all mistakes: its biases are zero, its norms do nothing
and its attention is nearly uniform. One batch hides some more, so there are several.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from minibert.config import BertConfig
from minibert.model import BertModel
from minibert.parity.steps import Inputs

ADAMW = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-6, "weight_decay": 0.1, "max_norm": 4.0}


def example(
    seed: int = 0,
    *,
    layers: int = 2,
    hidden_act: str = "gelu",
    heads: int = 4,
    size: int = 6,
    wide: int = 40,
    lengths: Sequence[int] = (10, 7, 5),
    scale: float = 1.0,
    eps: float = 1e-12,
) -> Inputs:
    """A tiny BERT in which every number matters, and a batch that shows every mistake we know.

    The batch has padding, two segments, a literal [PAD] among the attended tokens, labels, and
    gradients for five optimizer steps.

    Args:
        heads, size, wide: N, D and F.
        lengths: of the texts, in tokens; the first is the longest.
        scale: makes what goes into every norm so much smaller, so that eps counts.
        eps: of the LayerNorms.
    """
    config = BertConfig(
        vocab_size=50,
        hidden_size=heads * size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=wide,
        max_position_embeddings=32,
        hidden_act=hidden_act,
        layer_norm_eps=eps,
        id2label={0: "a", 1: "b", 2: "c"},
    )
    random = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random)

    weights = {}
    shapes = {name: tuple(t.shape) for name, t in BertModel(config).state_dict().items()}
    H, V = config.hidden_size, config.vocab_size
    for name, width in (("predictions.dense", H), ("seq_relationship", 2), ("qa_outputs", 2)):
        shapes |= {f"{name}.weight": (width, H), f"{name}.bias": (width,)}
    shapes |= {"predictions.norm.weight": (H,), "predictions.norm.bias": (H,)}
    shapes |= {"predictions.bias": (V,), "classifier.weight": (3, H), "classifier.bias": (3,)}
    for name, shape in shapes.items():
        if "norm.weight" in name:
            weights[name] = 0.4 * (1 + 0.3 * draw(*shape))
        elif len(shape) == 1:
            weights[name] = 0.3 * draw(*shape)
        elif name.startswith("embeddings."):
            weights[name] = 0.05 * draw(*shape)
        else:
            sharp = "query" in name or "key" in name
            weights[name] = (4 if sharp else 2) / shape[1] ** 0.5 * draw(*shape)
        before_a_norm = ("embeddings.", "attention.output.", "contract.", "predictions.dense.")
        if any(part in name for part in (*before_a_norm, "attention_norm.")):
            weights[name] *= scale

    length, T = torch.tensor(lengths)[:, None], max(lengths)
    place = torch.arange(T)
    ids = torch.randint(5, V, (len(lengths), T), generator=random)
    ids[:, 0], ids[0, T // 2 - 1] = 2, 0
    mask = (place < length).long()
    types = ((place >= (length - 4).clamp(min=1)) & (mask == 1)).long()
    if len(lengths) > 1:
        types[-1] = 0
    labels = torch.full_like(ids, -100)
    for text, token, word in ((0, 2, 7), (0, 3, 9), (0, T - 2, 0), (1, 4, 11), (2, 1, 20)):
        if text < len(lengths) and token < lengths[text]:
            labels[text, token] = word
    batch = {
        "input_ids": ids * mask,
        "attention_mask": mask,
        "token_type_ids": types,
        "labels": labels,
        "gradients": draw(5, 3, 40) * torch.tensor([0.2, 2.0, 4.0, 0.5, 3.0])[:, None, None],
        "counts": torch.tensor([4, 4, 1]),
        "parameters": draw(40),
        "decayed": (torch.arange(40) < 25).long(),
        "settings": {"lr": [0.01, 0.02, 0.03, 0.02, 0.01], **ADAMW},
    }
    return Inputs(config, weights, batch)


def ragged_batch(
    config: BertConfig, lengths: Sequence[int] = (7, 3, 11, 1), seed: int = 0
) -> dict[str, Tensor]:
    """Texts of these lengths in tokens, padded to the longest; each uses all segment types.

    Returns input_ids, attention_mask, token_type_ids, all (B, T). Ids are drawn from the whole
    vocabulary: [PAD] is among the attended tokens too, as a literal "[PAD]" in a text would be.
    """
    random = torch.Generator().manual_seed(seed)
    B, T, S = len(lengths), max(lengths), config.type_vocab_size
    ids = torch.full((B, T), config.pad_token_id or 0)
    mask, types = torch.zeros(B, T, dtype=torch.long), torch.zeros(B, T, dtype=torch.long)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.randint(config.vocab_size, (length,), generator=random)
        mask[row, :length] = 1
        types[row, :length] = torch.arange(length) * S // max(length, 1)  # 0 ... 0 1 ... 1
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}


def probes(kinds: Collection[str]) -> dict[str, Inputs]:
    """What code of these kinds is tried on beside the example, by what is special about it.

    Some mistakes change nothing in the example, or too little: each of these makes a few large.
    """
    found = {
        "texts of 4, 1, 0, 3 and 2 tokens": example(1, lengths=(4, 1, 0, 3, 2)),
        "states so small that eps counts": example(2, scale=1e-3),
        "a large eps, and a first text that is not the longest": example(
            4, lengths=(3, 9, 6, 2), eps=0.05),
        "a single text of two tokens": example(6, lengths=(2,)),
    }
    if "loss" in kinds:  # a loss is one number; scores far apart make labels matter
        for seed in range(1, 9):
            config, weights, batch = example(seed, lengths=(9, 1 + seed, 3, seed))
            weights["predictions.norm.weight"] *= 20
            random = torch.Generator().manual_seed(seed)
            asked = torch.rand(batch["labels"].shape, generator=random) < 0.1 * seed
            words = torch.randint(0, config.vocab_size, asked.shape, generator=random)
            batch["labels"] = torch.where(asked, words, -100)
            found[f"other texts and labels ({seed})"] = Inputs(config, weights, batch)
    if {"attention", "layer"} & set(kinds):  # softmax(s + c) = softmax(s), c being a number
        config, weights, batch = example(3)
        poisoned = {name: torch.full_like(weights[name], float("nan")) for name in weights
                    if name.endswith("attention.key.bias")}
        found["a key bias that is not a number (so must be the result)"] = Inputs(
            config, weights | poisoned, batch)
    return found
