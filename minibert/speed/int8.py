"""int8: a model whose linear maps multiply whole numbers, a quarter of the size and faster.

A weight matrix keeps one scale for each of its outputs, and every token gets one for itself when
it passes: x is about scale * q with q from -127 to 127. The products are then exact, so a token's
vector depends on nothing but its own text, bit for bit. Attention, softmax, GELU, LayerNorm and the
residuals stay float32; texts are never padded, they lie one after the other.

Two details keep the error small. Channels that are large in every token would leave the others few
steps of the scale, so their size is moved into the weights beforehand; the LayerNorm in front takes
the factor, and it costs nothing. What comes out of the activation is never below -0.17, so there
the 256 steps go from that floor to the largest value.

An int8 model cannot be trained, and other libraries cannot open it.

Source: scales per token and per output: Dettmers 2022 (LLM.int8()), §2; moving the size of
channels: Xiao 2023 (SmoothQuant), §4 equation 4.
"""

from __future__ import annotations

import functools
import json
import os
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from minibert.config import BertConfig
from minibert.embeddings import Embeddings
from minibert.encoder import activation
from minibert.io import checkpoint
from minibert.io.files import atomic_directory
from minibert.model import BertModel
from minibert.pretrained import NoInitialisation, numbers_of
from minibert.speed.packed import RaggedBert, attend

FILE = "model.int8.safetensors"
SMALLEST = 1e-30  # instead of 0 where something is divided by the largest value
# Below the lowest value of each activation.
FLOORS = {"gelu": -0.171, "gelu_new": -0.171, "gelu_pytorch_tanh": -0.171, "relu": 0.0}


class Int8Linear(nn.Module):
    """A linear map of whole numbers: x W + b, with the scales put back afterwards.

    Without a floor q = x * 127 / largest, with largest = max |x| of the token. With one,
    q = (x - floor) * 255 / largest - 128, with largest = max (x - floor); ``offset`` is then 128
    times the sum of the weights of each output, and ``bias`` has taken in what the floor adds.

    Shapes: (n, in) → (n, out). ``weight`` (in, out) int8, ``scale`` and ``bias`` (out,) float32,
    ``offset`` (out,) int32.
    """

    def __init__(self, inputs: int, outputs: int, floor: float | None = None) -> None:
        """Make room for the numbers."""
        super().__init__()
        self.floor = floor
        self.register_buffer("weight", torch.empty(inputs, outputs, dtype=torch.int8))
        self.register_buffer("scale", torch.empty(outputs))
        self.register_buffer("bias", torch.empty(outputs))
        if floor is not None:
            self.register_buffer("offset", torch.empty(outputs, dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        """Round the tokens, multiply, scale: few passes over memory, and those in place."""
        if self.floor is None:
            largest = x.abs().amax(1, keepdim=True).clamp_(min=SMALLEST)  # (n, 1)
            q = (x * (127 / largest)).round_().to(torch.int8)  # (n, in)
            product = torch._int_mm(q, self.weight)  # (n, out) int32
        else:
            largest = (x.amax(1, keepdim=True) - self.floor).clamp_(min=SMALLEST)  # (n, 1)
            factor = 255 / largest
            shift = -128 - self.floor * factor
            q = (x * factor).add_(shift).round_().to(torch.int8)  # (n, in)
            product = torch._int_mm(q, self.weight).add_(self.offset)  # (n, out) int32
        y = product.float().mul_(largest)
        return torch.addcmul(self.bias, y, self.scale, out=y)  # (n, out)


class Int8Embedding(nn.Module):
    """The word table, with a scale for each row. Shapes: ids (B, T) → (B, T, H)."""

    def __init__(self, words: int, hidden: int) -> None:
        """Make room for the numbers."""
        super().__init__()
        self.register_buffer("weight", torch.empty(words, hidden, dtype=torch.int8))
        self.register_buffer("scale", torch.empty(words, 1))

    def forward(self, ids: Tensor) -> Tensor:
        """Look up the rows and scale them."""
        return self.weight[ids].float().mul_(self.scale[ids])  # (B, T, H)


class Int8Layer(nn.Module):
    """What `EncoderLayer` computes, for tokens of many texts that lie one after the other.

    The hidden states come in divided by ``smooth``, and go out divided by that of the next layer.
    """

    def __init__(self, config: BertConfig) -> None:
        """Make room for the numbers."""
        super().__init__()
        H, F = config.hidden_size, config.intermediate_size
        self.heads = config.num_attention_heads
        self.qkv = Int8Linear(H, 3 * H)
        self.output = Int8Linear(H, H)
        self.attention_norm = nn.LayerNorm(H, eps=config.layer_norm_eps)
        self.expand = Int8Linear(H, F)
        self.activation = activation(config.hidden_act)
        self.contract = Int8Linear(F, H, FLOORS[config.hidden_act])
        self.feed_forward_norm = nn.LayerNorm(H, eps=config.layer_norm_eps)
        self.register_buffer("smooth", torch.empty(H))
        self.register_buffer("smooth_feed_forward", torch.empty(H))

    def forward(self, hidden: Tensor, stretches: list[tuple[int, int]]) -> Tensor:
        """One layer. Shapes: hidden (n, H); stretches: see `attend`."""
        context = attend(self.qkv(hidden), self.heads, stretches)  # (n, H)
        hidden = self.attention_norm(self.output(context).addcmul_(hidden, self.smooth))
        expanded = self.expand(hidden)  # (n, F)
        if isinstance(self.activation, nn.GELU):
            torch.ops.aten.gelu_(expanded, approximate=self.activation.approximate)
        else:
            expanded = self.activation(expanded)
        result = self.contract(expanded).addcmul_(hidden, self.smooth_feed_forward)  # (n, H)
        return self.feed_forward_norm(result)


class Int8Bert(RaggedBert):
    """A `BertModel` in int8, without the pooler: made by `quantize` or `load`."""

    def __init__(self, config: BertConfig) -> None:
        """Make room for the numbers."""
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.embeddings.word = Int8Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Int8Layer(config) for _ in range(config.num_hidden_layers))
        self.requires_grad_(False)


# -------------------------------------------------------------------------------- making one


def quantize(model: BertModel) -> Int8Bert:
    """The model in int8. The one that comes in is left as it is."""
    config = model.config
    attention, feed_forward = largest_inputs(model)
    state = {
        name: parameter.detach().float()
        for name, parameter in model.embeddings.named_parameters("embeddings")
    }
    words = state["embeddings.word.weight"]
    state["embeddings.word.weight"], state["embeddings.word.scale"] = rounded(words)
    # The norm that a layer's input comes from: of the embeddings, then of the layer before.
    norms = ["embeddings.norm"]
    for i, layer in enumerate(model.layers):
        here, old = f"layers.{i}.", layer.attention
        norms.append(here + "feed_forward_norm")
        maps = (old.query, old.key, old.value)
        qkv = torch.cat([part.weight.detach().float() for part in maps])  # (3 H, H)
        bias = torch.cat([part.bias.detach().float() for part in maps])
        smooth = smoothing(attention[i], qkv)
        add(state, here + "qkv", qkv * smooth, bias)
        state[here + "smooth"] = smooth
        for name in (".weight", ".bias"):
            state[norms[i] + name] = state[norms[i] + name] / smooth
        add(state, here + "output", old.output.weight.detach().float(), old.output.bias)

        expand, contract = layer.feed_forward.expand, layer.feed_forward.contract
        smooth = smoothing(feed_forward[i], expand.weight.detach().float())
        add(state, here + "expand", expand.weight.detach().float() * smooth, expand.bias)
        state[here + "smooth_feed_forward"] = smooth
        floor = FLOORS[config.hidden_act]
        add(state, here + "contract", contract.weight.detach().float(), contract.bias, floor)
        for name in ("weight", "bias"):
            norm = getattr(layer.attention_norm, name).detach().float()
            state[f"{here}attention_norm.{name}"] = norm / smooth
            norm = getattr(layer.feed_forward_norm, name).detach().float()
            state[f"{here}feed_forward_norm.{name}"] = norm
    return from_state(config, state)


def rounded(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers from -127 to 127, and a scale for each row: (out, in) → (out, in), (out, 1)."""
    scale = weight.abs().amax(1, keepdim=True).clamp(min=SMALLEST) / 127
    return (weight / scale).round().to(torch.int8), scale


def add(state: dict, name: str, weight: Tensor, bias: Tensor, floor: float | None = None) -> None:
    """Put the tensors of an `Int8Linear` into a state. ``weight`` is (out, in), as in torch."""
    q, scale = rounded(weight)
    scale, bias = scale.flatten(), bias.detach().float()
    sums = q.sum(1, dtype=torch.int32)  # (out,)
    state[name + ".weight"] = q.T.contiguous()  # (in, out)
    if floor is None:
        state[name + ".scale"], state[name + ".bias"] = scale / 127, bias
    else:
        state[name + ".scale"], state[name + ".bias"] = scale / 255, bias + floor * scale * sums
        state[name + ".offset"] = 128 * sums


def smoothing(largest: Tensor, weight: Tensor) -> Tensor:
    """What each channel is divided by: large for a channel that is large and has small weights."""
    return largest.clamp(min=1e-5) ** 0.6 / weight.abs().amax(0).clamp(min=1e-5) ** 0.4  # (H,)


def largest_inputs(model: BertModel) -> tuple[list[Tensor], list[Tensor]]:
    """The largest |value| of each channel, before attention and before feed-forward of each layer.

    No texts are needed: the large channels are large for any words. 32 lists of 16 random tokens
    found the same ones as the sentences of the STS benchmark.
    """
    config, random = model.config, torch.Generator().manual_seed(0)
    size = (32, min(16, config.max_position_embeddings))
    ids = torch.randint(config.vocab_size, size, generator=random)
    found: dict[nn.Module, Tensor] = {}

    def look(part: nn.Module, inputs: tuple) -> None:
        found[part] = inputs[0].float().abs().amax((0, 1))  # (H,)

    attention = [layer.attention.query for layer in model.layers]
    feed_forward = [layer.feed_forward.expand for layer in model.layers]
    hooks = [part.register_forward_pre_hook(look) for part in attention + feed_forward]
    training = model.training
    try:
        with torch.no_grad():
            model.eval()(ids.to(model.embeddings.word.weight.device))
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return [found[part] for part in attention], [found[part] for part in feed_forward]


def from_state(config: BertConfig, state: dict[str, Tensor]) -> Int8Bert:
    """The int8 model of a state, which must be complete and of the right shapes and dtypes."""
    with torch.device("meta"), NoInitialisation():
        model = Int8Bert(config)
    wanted = model.state_dict()
    wrong = [
        name
        for name in sorted(wanted.keys() | state.keys())
        if name not in wanted
        or name not in state
        or (wanted[name].shape, wanted[name].dtype) != (state[name].shape, state[name].dtype)
    ]
    if wrong:
        raise ValueError(
            f"{len(wrong)} tensors are missing, not expected, or of another shape or dtype than "
            f"the config needs: {', '.join(wrong[:6])}"
        )
    model.load_state_dict(state, assign=True)
    return model.requires_grad_(False).eval()


def dequantize(model: Int8Bert) -> BertModel:
    """A `BertModel` in float32 with the rounded weights: for where int8 is slow, or to export.

    Nearly the same vectors: what is missing is the rounding of the tokens.
    """
    state = {}
    for name, tensor in model.embeddings.state_dict(prefix="embeddings.").items():
        state[name] = tensor.clone()
    scale = state.pop("embeddings.word.scale")
    state["embeddings.word.weight"] = state["embeddings.word.weight"] * scale
    norms = ["embeddings.norm"]
    for i, layer in enumerate(model.layers):
        here = f"layers.{i}."
        norms.append(here + "feed_forward_norm")
        H = model.config.hidden_size
        weight, bias = as_float(layer.qkv)
        for part, name in enumerate(("query", "key", "value")):
            rows = slice(part * H, part * H + H)
            state[f"{here}attention.{name}.weight"] = weight[rows] / layer.smooth
            state[f"{here}attention.{name}.bias"] = bias[rows]
        for name in (".weight", ".bias"):
            state[norms[i] + name] = state[norms[i] + name] * layer.smooth
            norm = getattr(layer.attention_norm, name[1:]) * layer.smooth_feed_forward
            state[here + "attention_norm" + name] = norm
            state[here + "feed_forward_norm" + name] = getattr(layer.feed_forward_norm, name[1:])
        for name, part, smooth in (
            ("attention.output", layer.output, 1.0),
            ("feed_forward.expand", layer.expand, layer.smooth_feed_forward),
            ("feed_forward.contract", layer.contract, 1.0),
        ):
            weight, bias = as_float(part)
            state[f"{here}{name}.weight"], state[f"{here}{name}.bias"] = weight / smooth, bias
    with torch.device("meta"), NoInitialisation():
        result = BertModel(model.config, add_pooling_layer=False)
    result.load_state_dict(state, assign=True)
    return result.eval()


def as_float(part: Int8Linear) -> tuple[Tensor, Tensor]:
    """The weight, (out, in), and the bias of an int8 map."""
    scale = part.scale * (127 if part.floor is None else 255)  # (out,)
    weight = part.weight.T.float() * scale[:, None]
    bias = part.bias - (0.0 if part.floor is None else part.floor * weight.sum(1))
    return weight.contiguous(), bias


# ----------------------------------------------------------------------------- load and save


def save(model: Int8Bert, directory: str | os.PathLike) -> None:
    """Write ``config.json`` and ``model.int8.safetensors``, a quarter of the float32 file.

    The file has a name of its own because no other library can read it: transformers says that
    there is no ``model.safetensors``, which is better than wrong numbers.

    Raises:
        ValueError: the directory has a ``model.safetensors``: which of the two would be meant?
        OSError: the directory cannot be written.
    """
    if Path(directory, "model.safetensors").exists():
        raise ValueError(
            f"{directory} has a model.safetensors; save the int8 model into a directory of its own"
        )
    metadata = {"format": "pt", "minibert.numbers": json.dumps(numbers_of(model.config))}
    state = model.state_dict()
    metadata[checkpoint.DIGEST] = checkpoint.content_digest(state, metadata)
    with atomic_directory(directory) as staging:
        model.config.save_pretrained(staging)
        checkpoint.write_safetensors(staging / FILE, state, metadata)


def load(directory: str | os.PathLike) -> Int8Bert:
    """Read what `save` has written.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or does not fit the config.
    """
    state, metadata = checkpoint.read_safetensors(Path(directory, FILE))
    config = BertConfig.from_pretrained(directory)
    try:
        if json.loads(metadata.get("minibert.numbers", "{}")) != numbers_of(config):
            raise ValueError("config.json is not the one that it was saved with; put that back")
        return from_state(config, state)
    except ValueError as error:
        raise ValueError(f"{Path(directory, FILE)}: {error}") from None


def is_int8(directory: str | os.PathLike) -> bool:
    """Whether a directory holds an int8 model and no float one."""
    return Path(directory, FILE).exists() and not Path(directory, "model.safetensors").exists()


@functools.cache
def unsupported() -> str | None:
    """Why int8 does not pay on this machine, or None where it does.

    Torch multiplies int8 matrices on every processor, but on one without the instructions for it
    that takes many times as long as in float32. Where torch does not know of the instructions, both
    are timed.
    """
    if not hasattr(torch, "_int_mm"):
        return f"torch {torch.__version__} cannot multiply int8 matrices"
    random = torch.Generator().manual_seed(0)
    x = torch.randint(-128, 128, (64, 384), generator=random).to(torch.int8)
    w = torch.randint(-127, 128, (384, 1536), generator=random).to(torch.int8)
    x[0], w[:, 0] = 127, 127  # sums that would overflow 16 bits
    exact = x.double() @ w.double()
    if not torch.equal(torch._int_mm(x, w).double(), exact):
        return "this processor's product of int8 matrices is not exact"
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    if capabilities.get("avx512_vnni"):
        return None
    a, b, seconds = x.float(), w.float(), {"int8": 1e9, "float32": 1e9}
    for _ in range(5):
        for name, product in (("float32", lambda: a @ b), ("int8", lambda: torch._int_mm(x, w))):
            start = time.perf_counter()
            product()
            seconds[name] = min(seconds[name], time.perf_counter() - start)
        if seconds["int8"] > 5 * seconds["float32"]:
            break
    ratio = seconds["float32"] / seconds["int8"]
    if ratio < 1.2:
        return f"here int8 products have {ratio:.2g} times the speed of float32"
    return None
