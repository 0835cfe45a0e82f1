"""The same numbers sooner: a copy of a `BertModel`, laid out for the processor, for `encode` alone.

Nothing here is needed to understand BERT: read `model` for that. The copy does the same sums, but:

* A matrix product first lays its weights out in the order the processor reads them, at every call.
  Here that is done once. With the few tokens of one short text it is half of the time.
* Query, key and value are one product; GELU is applied to numbers that are still in registers;
  the scores of attention never leave the cache.
* Texts of different lengths lie one after the other, without padding.

The sums are done in another order, so numbers differ from the model's in the last bits: about
1e-6. `pack` runs both on a few random ids and gives no copy where they differ by more than 1e-5 of
the largest number: so if you edit the textbook's code, `encode` follows. What you only print there
shows once you have asked for ``encoder.model``: from then on the model itself computes.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention
from torch.nn.modules import module

from minibert import model
from minibert.attention import MultiHeadSelfAttention
from minibert.config import BertConfig
from minibert.embeddings import Embeddings
from minibert.encoder import EncoderLayer, FeedForward, TanhGELU
from minibert.model import BertModel, BertOutput, check_inputs

# hidden_act -> the activation that a packed product can apply, and which form of it.
FUSED = {
    "gelu": ("gelu", "none"),
    "gelu_new": ("gelu", "tanh"),
    "gelu_pytorch_tanh": ("gelu", "tanh"),
    "relu": ("relu", ""),
}
# The parts that a copy stands for, as they are when this is imported.
TEXTBOOK = {
    part: dict(vars(part))
    for part in (
        BertModel, Embeddings, EncoderLayer, MultiHeadSelfAttention, FeedForward, TanhGELU,
        nn.Linear, nn.LayerNorm,
    )
}  # fmt: skip
ADDITIVE_MASK = model.additive_mask
GLOBAL_HOOKS = (module._global_forward_hooks, module._global_forward_pre_hooks)  # of all modules
TOLERANCE = 1e-5  # of the largest number; where the sums are the same they differ by about 1e-6


class RaggedBert(nn.Module):
    """A `BertModel` without the pooler, whose layers get the real tokens of all texts in a row.

    ``layers`` are called with tokens (n, H) and stretches, see `attend`.
    """

    config: BertConfig
    embeddings: nn.Module
    layers: nn.ModuleList

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> BertOutput:
        """As `BertModel.forward`; the states of padding are zeros, pooler_output is None."""
        check_inputs(self.config, input_ids, attention_mask, token_type_ids)
        if token_type_ids is None:
            token_type_ids = torch.zeros_like(input_ids)  # (B, T)
        hidden = self.embeddings(input_ids, token_type_ids)  # (B, T, H)
        B, T, H = hidden.shape
        if attention_mask is None:
            lengths = [T] * B
            tokens = hidden.view(B * T, H)
        else:
            real = attention_mask != 0  # (B, T)
            lengths = real.sum(1).tolist()
            tokens = hidden[real]  # (n, H)
        stretches = [(len(list(same)), T) for T, same in itertools.groupby(lengths) if T]
        tokens = self.through_layers(tokens, stretches)  # (n, H)
        if attention_mask is None:
            return BertOutput(tokens.view(B, T, H), None)
        states = torch.zeros_like(hidden)
        states[real] = tokens
        return BertOutput(states, None)

    def through_layers(self, tokens: Tensor, stretches: list[tuple[int, int]]) -> Tensor:
        """All layers. Shapes: tokens (n, H) → (n, H); stretches: see `attend`."""
        for layer in self.layers:
            tokens = layer(tokens, stretches)  # (n, H)
        return tokens


def attend(qkv: Tensor, heads: int, stretches: list[tuple[int, int]]) -> Tensor:
    """Attention inside each text.

    Shapes: qkv (n, 3 H); stretches (texts, T) of consecutive texts of T tokens, which are computed
    together; returns (n, H). Rows behind the last text give zeros.
    """
    contexts, start = [], 0
    for texts, T in stretches:
        stretch = qkv[start : start + texts * T].view(texts, T, 3, heads, -1)
        query, key, value = stretch.permute(2, 0, 3, 1, 4)  # (texts, N, T, D) each
        context = scaled_dot_product_attention(query, key, value)  # (texts, N, T, D)
        contexts.append(context.transpose(1, 2).reshape(texts * T, -1))  # (texts * T, H)
        start += texts * T
    if start < len(qkv):
        contexts.append(qkv.new_zeros(len(qkv) - start, qkv.shape[1] // 3))
    return contexts[0] if len(contexts) == 1 else torch.cat(contexts)


class PackedLinear(nn.Module):
    """A linear map, and an activation if need be, with its weight laid out beforehand."""

    def __init__(self, *maps: nn.Linear, activation: tuple[str, str] = ("none", "")) -> None:
        """Put the maps side by side, and lay out their weight."""
        super().__init__()
        weight = torch.cat([part.weight.detach() for part in maps])  # (out, in)
        # The best order of the numbers depends a little on how many tokens come: `encode`'s 1,024.
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, 1024)
        self.bias = torch.cat([part.bias.detach() for part in maps])  # (out,)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (n, in) → (n, out)."""
        name, form = self.activation
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, name, [], form)


class PackedLayer(nn.Module):
    """What `EncoderLayer` computes in evaluation, without dropout."""

    def __init__(self, layer: EncoderLayer, hidden_act: str) -> None:
        """Lay out the weights of a layer."""
        super().__init__()
        attention, feed_forward = layer.attention, layer.feed_forward
        self.heads = attention.heads
        self.qkv = PackedLinear(attention.query, attention.key, attention.value)
        self.output = PackedLinear(attention.output)
        self.attention_norm = layer.attention_norm
        self.expand = PackedLinear(feed_forward.expand, activation=FUSED[hidden_act])
        self.contract = PackedLinear(feed_forward.contract)
        self.feed_forward_norm = layer.feed_forward_norm

    def forward(self, hidden: Tensor, stretches: list[tuple[int, int]]) -> Tensor:
        """One layer. Shapes: hidden (n, H); stretches: see `attend`."""
        context = attend(self.qkv(hidden), self.heads, stretches)  # (n, H)
        hidden = self.attention_norm(self.output(context).add_(hidden))
        return self.feed_forward_norm(self.contract(self.expand(hidden)).add_(hidden))


class PackedBert(RaggedBert):
    """A copy of a `BertModel`'s layers; embeddings and norms are the model's own."""

    def __init__(self, bert: BertModel) -> None:
        """Lay out the weights of all layers."""
        super().__init__()
        self.config, self.embeddings = bert.config, bert.embeddings
        act = bert.config.hidden_act
        self.layers = nn.ModuleList(PackedLayer(layer, act) for layer in bert.layers)

    def through_layers(self, tokens: Tensor, stretches: list[tuple[int, int]]) -> Tensor:
        """All layers, with some rows of zeros more: up to 3, or 3 %.

        oneDNN makes a program for each size of a matrix that it meets, and keeps it. For all sizes
        from 1 to 1,024 that were a gigabyte.
        """
        n = len(tokens)
        step = max(4, 2 ** (n.bit_length() - 6))
        tokens = pad(tokens, (0, 0, 0, -n % step))  # (n', H)
        return super().through_layers(tokens, stretches)[:n]  # (n, H)


def pack(bert: BertModel) -> PackedBert | None:
    """A packed copy of a model in evaluation, or None: not to be had here, or not the same.

    It is to be had on a CPU, in float32, where torch was built with oneDNN. It is the same unless
    the code or the parts of the model were changed: a LoRA layer, a scale that somebody took out.
    """
    if not available():
        return None
    random = torch.Generator().manual_seed(0)
    T = min(12, bert.config.max_position_embeddings)
    ids = torch.randint(bert.config.vocab_size, (2, T), generator=random)
    mask = torch.ones_like(ids)
    mask[1, T // 2 :] = 0
    try:
        with torch.inference_mode():
            copy = PackedBert(bert)
            ours, theirs = copy(ids, mask), bert(ids, mask)
    except (AttributeError, IndexError, RuntimeError, TypeError):  # not the textbook's parts
        return None
    ours, theirs = ours.last_hidden_state[mask != 0], theirs.last_hidden_state[mask != 0]
    same = (ours - theirs).abs().max() <= TOLERANCE * theirs.abs().max()
    return copy if same else None


def available() -> bool:
    """Whether torch has the packed products here: part of oneDNN, as in all builds for x86."""
    names = ("_reorder_linear_weight", "_linear_pointwise")
    return torch.backends.mkldnn.is_available() and all(
        hasattr(torch.ops.mkldnn, name) for name in names
    )


def is_as_imported() -> bool:
    """Whether the textbook's classes are as they were, and no hook listens to all modules."""
    return (
        not any(GLOBAL_HOOKS)
        and model.additive_mask is ADDITIVE_MASK
        and all(vars(part) == before for part, before in TEXTBOOK.items())
    )


class Keeper:
    """A model; and as long as nobody else has got hold of it, its packed copy.

    Whoever has the model can change weights, replace parts or hook into it, and then the model
    itself must compute. No check would find all such changes, so none is tried: `lend` ends the use
    of the copy, for good.
    """

    def __init__(self, model: nn.Module) -> None:
        """Keep a model that came from outside: it counts as lent."""
        self.model, self.lent = model, True
        self.copy: PackedBert | None = None
        self.tried = False

    def __getstate__(self) -> dict:
        """What `copy` and `pickle` take along; a packed copy is made anew."""
        return {**vars(self), "copy": None, "tried": False}

    def lend(self) -> nn.Module:
        """The model, for somebody who may do with it what he likes."""
        self.lent, self.copy = True, None
        return self.model

    def move(self, device: torch.device) -> None:
        """Move the model to a device, in place."""
        self.model.to(device)
        self.copy, self.tried = None, False

    def quickest(self) -> nn.Module:
        """What to compute with: the copy, or the model."""
        if self.lent or not isinstance(self.model, BertModel):
            return self.model
        if torch.is_autocast_enabled("cpu") or not is_as_imported():
            return self.model
        if not self.tried:
            self.copy = pack(self.model)
            self.tried = True
        return self.copy or self.model
