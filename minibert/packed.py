"""The same numbers sooner: a copy of a `BertModel`, laid out for the processor, for `encode` alone.

Nothing here is needed to understand BERT: read `model` for that. The copy does the same sums, but:

* A matrix product first lays its weights out in the order the processor reads them, at every call.
  Here that is done once. With the few tokens of one short text it is half of the time.
* Query, key and value are one product; GELU is applied to numbers that are still in registers;
  the scores of attention never leave the cache.
* Texts of different lengths lie one after the other, without padding.

The sums are done in another order, so numbers differ from the model's in the last bits: about
1e-6. `pack` runs both and gives no copy where they differ by more: a model that somebody has
changed computes for itself.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.modules import module

from minibert.attention import MultiHeadSelfAttention
from minibert.config import BertConfig
from minibert.embeddings import Embeddings
from minibert.encoder import EncoderLayer, FeedForward, TanhGELU
from minibert.model import BertModel, BertOutput, Pooler, check_inputs

# hidden_act -> the name and the form of it that a packed product can apply.
FUSED = {
    "gelu": ("gelu", "none"),
    "gelu_new": ("gelu", "tanh"),
    "gelu_pytorch_tanh": ("gelu", "tanh"),
    "relu": ("relu", ""),
}
# What a copy can stand for: the parts of the textbook, with the methods they have from the start.
TEXTBOOK = {
    part: part.forward
    for part in (
        BertModel, Embeddings, EncoderLayer, MultiHeadSelfAttention, FeedForward, Pooler, TanhGELU,
        nn.ModuleList, nn.Embedding, nn.Linear, nn.LayerNorm, nn.Dropout, nn.Softmax, nn.GELU,
        nn.ReLU, nn.Tanh,
    )
}  # fmt: skip
GLOBAL_HOOKS = (module._global_forward_hooks, module._global_forward_pre_hooks)  # of all modules
MANY = 1024  # tokens
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
            real, lengths = slice(None), [T] * B
            tokens = hidden.view(B * T, H)
        else:
            real = attention_mask != 0  # (B, T)
            lengths = real.sum(1).tolist()
            tokens = hidden[real]  # (n, H)
        stretches = [(len(list(same)), T) for T, same in itertools.groupby(lengths) if T]
        for layer in self.layers:
            tokens = layer(tokens, stretches)  # (n, H)
        if attention_mask is None:
            return BertOutput(tokens.view(B, T, H), None)
        states = torch.zeros_like(hidden)
        states[real] = tokens
        return BertOutput(states, None)


def attend(qkv: Tensor, heads: int, stretches: list[tuple[int, int]]) -> Tensor:
    """Attention inside each text.

    Shapes: qkv (n, 3 H); stretches (texts, T) of consecutive texts of T tokens, which are computed
    together; returns (n, H).
    """
    contexts, start = [], 0
    for texts, T in stretches:
        stretch = qkv[start : start + texts * T].view(texts, T, 3, heads, -1)
        query, key, value = stretch.permute(2, 0, 3, 1, 4)  # (texts, N, T, D) each
        context = scaled_dot_product_attention(query, key, value)  # (texts, N, T, D)
        contexts.append(context.transpose(1, 2).reshape(texts * T, -1))  # (texts * T, H)
        start += texts * T
    return contexts[0] if len(contexts) == 1 else torch.cat(contexts)


class PackedLinear(nn.Module):
    """A linear map, and an activation if need be, with its weight laid out beforehand."""

    def __init__(self, *maps: nn.Linear, activation: tuple[str, str] = ("none", "")) -> None:
        """Put the maps side by side, and lay out their weight."""
        super().__init__()
        weight = torch.cat([part.weight.detach() for part in maps])  # (out, in)
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, 1024)  # for so many tokens
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

    def __init__(self, model: BertModel) -> None:
        """Lay out the weights of all layers."""
        super().__init__()
        self.config, self.embeddings = model.config, model.embeddings
        act = model.config.hidden_act
        self.layers = nn.ModuleList(PackedLayer(layer, act) for layer in model.layers)


def pack(model: BertModel) -> PackedBert | None:
    """A packed copy of the model in evaluation, or None: not to be had here, or not the same.

    It is to be had on a CPU, in float32, where torch was built with oneDNN. It is the same unless
    the code or the parts of the model were changed: a LoRA layer, a scale that somebody took out.
    """
    if not available():
        return None
    random = torch.Generator().manual_seed(0)
    T = min(12, model.config.max_position_embeddings)
    ids = torch.randint(model.config.vocab_size, (2, T), generator=random)
    mask = torch.ones_like(ids)
    mask[1, T // 2 :] = 0
    try:
        with torch.inference_mode():
            copy = PackedBert(model).eval()
            ours, theirs = copy(ids, mask), model(ids, mask)
    except (AttributeError, RuntimeError, TypeError):  # a part is not the one of the textbook
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


def is_float32_on_cpu(model: BertModel) -> bool:
    """Whether all parameters are."""
    kinds = {(parameter.dtype, parameter.device.type) for parameter in model.parameters()}
    return kinds == {(torch.float32, "cpu")}


def as_written(model: BertModel) -> bool:
    """Whether all parts are the textbook's, with its methods and without hooks.

    A hook may only want to look: then both would give the same, and it would see nothing.
    """
    return not any(GLOBAL_HOOKS) and all(
        TEXTBOOK.get(type(part)) is type(part).forward
        and not (part._forward_hooks or part._forward_pre_hooks or "forward" in vars(part))
        for part in model.modules()
    )


class Packer:
    """Keeps the packed copy of a model, and throws it away when the model has changed.

    Noticed are: other parts, hooks, settings, ``forward`` methods; parameters that were replaced,
    changed in place (torch counts that), or written to behind torch's back, as
    ``parameter.data[3] = 0`` does. For the last the layers' biases and the ends of their matrices
    are compared; with many tokens, where it costs nothing in comparison, all numbers.
    """

    def __init__(self) -> None:
        """Nothing is packed yet."""
        self.seen: Snapshot | None = None

    def __getstate__(self) -> dict:
        """What `copy` and `pickle` take along: nothing, a copy is made anew."""
        return {"seen": None}

    def quickest(self, model: BertModel, tokens: int) -> BertModel | PackedBert:
        """What to compute so many tokens with: the copy, or the model, which is in ``eval()``."""
        if self.seen is None or not self.seen.is_still(model, all_numbers=tokens >= MANY):
            if not is_float32_on_cpu(model) or not as_written(model):
                return model
            seen = Snapshot(model)
            self.copy = pack(model)
            self.seen = seen  # last: another thread that sees it finds its copy
        return self.copy or model


class Snapshot:
    """What the numbers of a model depend on, in a form that is compared within 0.2 ms."""

    def __init__(self, model: BertModel) -> None:
        """Look at the model."""
        self.parts = list(model.modules())
        self.methods = [type(part).forward for part in self.parts]
        self.contents = [  # settings; and dicts of hooks, parts and parameters
            {name: dict(value) if isinstance(value, dict) else value
             for name, value in vars(part).items()}
            for part in self.parts
        ]  # fmt: skip
        self.parameters = list(model.parameters())
        self.places = self.where()
        self.copied = [parameter.detach() for parameter in model.layers.parameters()]
        flat = [numbers.reshape(-1) for numbers in self.copied]
        self.some = [  # views of all numbers of a bias, and of the ends of a matrix
            numbers[:: 1 if of.dim() == 1 else max(len(numbers) - 1, 1)]
            for of, numbers in zip(self.copied, flat, strict=True)
        ]
        self.numbers, self.total = torch.cat(self.some), self.sums()

    def where(self) -> list[tuple[int, int]]:
        """The address of each parameter, and how often torch has written to it."""
        return [
            (parameter.data_ptr(), 0 if parameter.is_inference() else parameter._version)
            for parameter in self.parameters
        ]

    def sums(self) -> list[Tensor]:
        """A sum over the bits of each parameter that was copied: exact, unlike one of floats."""
        return [numbers.view(torch.int32).sum(dtype=torch.int32) for numbers in self.copied]

    def is_still(self, model: BertModel, all_numbers: bool) -> bool:
        """Whether the model is still as it was."""
        try:
            same = model is self.parts[0] and [vars(part) for part in self.parts] == self.contents
        except RuntimeError:  # another tensor in the place of a parameter: torch compares numbers
            return False
        return (
            same
            and not any(GLOBAL_HOOKS)
            and [type(part).forward for part in self.parts] == self.methods
            and self.where() == self.places
            and torch.equal(torch.cat(self.some).view(torch.int32), self.numbers.view(torch.int32))
            and (not all_numbers or self.sums() == self.total)
        )
