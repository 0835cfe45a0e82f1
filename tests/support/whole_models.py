"""Whole BERTs as different people write them: other names, other layouts, other libraries.

Each is made from a config and weights by our names. ``wrong`` plants mistakes in the code: "mask"
(none), "eps" (1e-3), "gelu" (tanh); those in the weights are planted before.
"""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from minibert.parity.steps import Inputs


def load(module, name, weights):
    """A torch module with the weight (and the bias) of ours by that name."""
    state = {key: weights[f"{name}.{key}"] for key in ("weight", "bias")
             if f"{name}.{key}" in weights}
    module.load_state_dict(state)
    return module


class Base(nn.Module):
    """What all modules here need: the sizes, and what is wrong."""

    def __init__(self, config, weights, wrong=()):
        super().__init__()
        self.c, self.w, self.wrong = config, weights, wrong
        self.eps = 1e-3 if "eps" in wrong else config.layer_norm_eps

    def linear(self, name):
        out, into = self.w[f"{name}.weight"].shape
        return load(nn.Linear(into, out), name, self.w)

    def table(self, name):
        return load(nn.Embedding(*self.w[f"{name}.weight"].shape), name, self.w)

    def norm(self, name):
        return load(nn.LayerNorm(self.c.hidden_size, eps=self.eps), name, self.w)

    def gelu(self, x):
        return F.gelu(x, approximate="tanh" if "gelu" in self.wrong else "none")


# ------------------------------------------------------------------- names of a university course


class CourseAttention(Base):
    def __init__(self, *args, at):
        super().__init__(*args)
        self.query, self.key, self.value = (
            self.linear(f"{at}.attention.{name}") for name in ("query", "key", "value"))

    def transform(self, x, linear):
        x = linear(x).view(*x.shape[:2], self.c.num_attention_heads, -1)
        return x.transpose(1, 2)

    def forward(self, hidden_states, attention_mask):
        key = self.transform(hidden_states, self.key)
        value = self.transform(hidden_states, self.value)
        query = self.transform(hidden_states, self.query)
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        if "mask" not in self.wrong:
            scores = scores + attention_mask
        probs = F.softmax(scores, dim=-1)
        context = (probs @ value).transpose(1, 2)
        return context.reshape(hidden_states.shape)


class CourseLayer(Base):
    def __init__(self, *args, at):
        super().__init__(*args)
        self.self_attention = CourseAttention(*args, at=at)
        self.attention_dense = self.linear(f"{at}.attention.output")
        self.attention_layer_norm = self.norm(f"{at}.attention_norm")
        self.interm_dense = self.linear(f"{at}.feed_forward.expand")
        self.out_dense = self.linear(f"{at}.feed_forward.contract")
        self.out_layer_norm = self.norm(f"{at}.feed_forward_norm")

    def add_norm(self, x, output, dense, norm):
        return norm(x + dense(output))

    def forward(self, x, mask):
        attended = self.add_norm(
            x, self.self_attention(x, mask), self.attention_dense, self.attention_layer_norm)
        wide = self.gelu(self.interm_dense(attended))
        return self.add_norm(attended, wide, self.out_dense, self.out_layer_norm)


class Course(Base):
    tanh = staticmethod(torch.tanh)

    def __init__(self, *args):
        super().__init__(*args)
        self.word_embedding = self.table("embeddings.word")
        self.pos_embedding = self.table("embeddings.position")
        self.tk_type_embedding = self.table("embeddings.segment")
        self.embed_layer_norm = self.norm("embeddings.norm")
        self.bert_layers = nn.ModuleList(
            CourseLayer(*args, at=f"layers.{i}") for i in range(self.c.num_hidden_layers))
        self.pooler_dense = self.linear("pooler.dense")

    def forward(self, input_ids, attention_mask):
        positions = torch.arange(input_ids.shape[1])
        x = self.word_embedding(input_ids) + self.pos_embedding(positions)
        x = self.embed_layer_norm(x + self.tk_type_embedding(torch.zeros_like(input_ids)))
        mask = (1.0 - attention_mask[:, None, None].float()) * -10000.0
        for layer in self.bert_layers:
            x = layer(x, mask)
        return {"last_hidden_state": x, "pooler_output": self.tanh(self.pooler_dense(x[:, 0]))}


# ------------------------------------------------------------------------------- a head at a time


class Head(nn.Module):
    def __init__(self, whole, rows, wrong):
        super().__init__()
        self.wrong = wrong
        for name in ("query", "key", "value"):
            linear = getattr(whole, name)
            part = nn.Linear(linear.in_features, rows.stop - rows.start)
            part.load_state_dict({k: v[rows] for k, v in linear.state_dict().items()})
            setattr(self, name, part)

    def forward(self, x, mask):
        wei = self.query(x) @ self.key(x).transpose(-2, -1) * self.key.out_features ** -0.5
        if "mask" not in self.wrong:
            wei = wei + mask[:, 0]
        wei = F.softmax(wei, dim=-1)
        return wei @ self.value(x)


class Heads(nn.Module):
    def __init__(self, whole):
        super().__init__()
        H, N = whole.c.hidden_size, whole.c.num_attention_heads
        self.heads = nn.ModuleList(
            Head(whole, slice(i, i + H // N), whole.wrong) for i in range(0, H, H // N))

    def forward(self, x, mask):
        return torch.cat([head(x, mask) for head in self.heads], dim=-1)


class HeadByHead(Course):
    def __init__(self, *args):
        super().__init__(*args)
        for layer in self.bert_layers:
            layer.self_attention = Heads(layer.self_attention)


# ------------------------------------------------------------ the real tokens of all texts in a row


class PackedAttention(nn.Module):
    def __init__(self, whole):
        super().__init__()
        self.query, self.key, self.value = whole.query, whole.key, whole.value
        self.heads = whole.c.num_attention_heads

    def forward(self, x, lengths):
        parts = (linear(x).unflatten(-1, (self.heads, -1)).split(lengths)
                 for linear in (self.query, self.key, self.value))
        mixed = []
        for q, k, v in zip(*parts, strict=True):
            scores = torch.einsum("qnd,knd->nqk", q, k) / q.shape[-1] ** 0.5
            mixed.append(torch.einsum("nqk,knd->qnd", scores.softmax(-1), v))
        return torch.cat(mixed).flatten(1)


class Packed(Course):
    def __init__(self, *args):
        super().__init__(*args)
        for layer in self.bert_layers:
            layer.self_attention = PackedAttention(layer.self_attention)

    def forward(self, input_ids, attention_mask):
        real = attention_mask.bool()
        places = torch.arange(real.shape[1]).expand_as(real)[real]
        x = self.word_embedding(input_ids[real]) + self.pos_embedding(places)
        x = self.embed_layer_norm(x + self.tk_type_embedding(0 * places))
        for layer in self.bert_layers:
            x = layer(x, attention_mask.sum(1).tolist())
        return x.new_zeros(*real.shape, x.shape[-1]).index_put((real,), x)


# ------------------------------------------------------- a list of linears, a norm written by hand


def attention(query, key, value, mask=None):
    scores = torch.matmul(query, key.transpose(-2, -1)) / math.sqrt(query.size(-1))
    if mask is not None:
        scores = scores.masked_fill(mask == 0, -1e9)
    p_attn = scores.softmax(dim=-1)
    return torch.matmul(p_attn, value), p_attn


class HandNorm(nn.Module):
    def __init__(self, weight, bias, eps):
        super().__init__()
        self.a_2, self.b_2, self.eps = nn.Parameter(weight), nn.Parameter(bias), eps

    def forward(self, x):
        mean = x.mean(-1, keepdim=True)
        var = x.var(-1, keepdim=True, unbiased=False)
        return self.a_2 * (x - mean) / torch.sqrt(var + self.eps) + self.b_2


class ListOfLinears(Base):
    def __init__(self, *args):
        super().__init__(*args)

        def norm(name):
            return HandNorm(self.w[f"{name}.weight"], self.w[f"{name}.bias"], self.eps)

        self.lut, self.pe, self.seg = (
            self.table(f"embeddings.{name}") for name in ("word", "position", "segment"))
        self.first_norm = norm("embeddings.norm")
        self.layers = nn.ModuleList()
        for i in range(self.c.num_hidden_layers):
            at = f"layers.{i}"
            block = nn.Module()
            block.linears = nn.ModuleList(
                self.linear(f"{at}.attention.{name}")
                for name in ("query", "key", "value", "output"))
            block.sublayer = nn.ModuleList(
                [norm(f"{at}.attention_norm"), norm(f"{at}.feed_forward_norm")])
            block.w_1 = self.linear(f"{at}.feed_forward.expand")
            block.w_2 = self.linear(f"{at}.feed_forward.contract")
            self.layers.append(block)

    def forward(self, x, mask, segments):
        x = self.first_norm(self.lut(x) + self.pe.weight[: x.size(1)] + self.seg(segments))
        mask = None if "mask" in self.wrong else mask[:, None, None]
        for block in self.layers:
            q, k, v = (
                linear(x).view(x.size(0), -1, self.c.num_attention_heads,
                               x.size(2) // self.c.num_attention_heads).transpose(1, 2)
                for linear in block.linears[:3])
            z, _ = attention(q, k, v, mask)
            z = block.linears[3](z.transpose(1, 2).contiguous().view(x.shape))
            x = block.sublayer[0](x + z)
            x = block.sublayer[1](x + block.w_2(self.gelu(block.w_1(x))))
        return x


# --------------------------------------------------------------------------- torch's own encoder


class TorchEncoder(Base):
    def __init__(self, *args):
        super().__init__(*args)
        self.tok, self.pos, self.typ = (
            self.table(f"embeddings.{name}") for name in ("word", "position", "segment"))
        self.ln = self.norm("embeddings.norm")
        one = nn.TransformerEncoderLayer(
            self.c.hidden_size, self.c.num_attention_heads, self.c.intermediate_size,
            activation=self.gelu, layer_norm_eps=self.eps, batch_first=True)
        self.encoder = nn.TransformerEncoder(one, self.c.num_hidden_layers)
        for i, layer in enumerate(self.encoder.layers):
            at, inner = f"layers.{i}", layer.self_attn
            inner.in_proj_weight.data, inner.in_proj_bias.data = (
                torch.cat([self.w[f"{at}.attention.{name}.{kind}"]
                           for name in ("query", "key", "value")]) for kind in ("weight", "bias"))
            load(inner.out_proj, f"{at}.attention.output", self.w)
            load(layer.norm1, f"{at}.attention_norm", self.w)
            load(layer.linear1, f"{at}.feed_forward.expand", self.w)
            load(layer.linear2, f"{at}.feed_forward.contract", self.w)
            load(layer.norm2, f"{at}.feed_forward_norm", self.w)

    def forward(self, ids, mask, segment_ids):
        x = self.ln(self.tok(ids) + self.pos.weight[: ids.shape[1]] + self.typ(segment_ids))
        return self.encoder(x, src_key_padding_mask=None if "mask" in self.wrong else mask == 0)


# ------------------------------------------------------------------- query, key and value in one


class Fused(Base):
    """(T, B, H) inside; ``turned``: a raw parameter, (in, out), one head after the other."""

    turned = False

    def __init__(self, *args):
        super().__init__(*args)
        self.wte, self.wpe, self.wtt = (
            self.table(f"embeddings.{name}") for name in ("word", "position", "segment"))
        self.ln_0 = self.norm("embeddings.norm")
        self.h = nn.ModuleList()
        for i in range(self.c.num_hidden_layers):
            at, block = f"layers.{i}", nn.Module()
            weight, bias = (
                [self.w[f"{at}.attention.{name}.{kind}"] for name in ("query", "key", "value")]
                for kind in ("weight", "bias"))
            if self.turned:
                weight, bias = (
                    torch.stack([x.unflatten(0, (self.c.num_attention_heads, -1)) for x in some], 1)
                    .flatten(0, 2) for some in (weight, bias))
                block.c_attn_w, block.c_attn_b = nn.Parameter(weight.T), nn.Parameter(bias)
            else:
                block.qkv = nn.Linear(self.c.hidden_size, 3 * self.c.hidden_size)
                block.qkv.load_state_dict({"weight": torch.cat(weight), "bias": torch.cat(bias)})
            block.proj = self.linear(f"{at}.attention.output")
            block.ln_1 = self.norm(f"{at}.attention_norm")
            block.fc = self.linear(f"{at}.feed_forward.expand")
            block.fc_out = self.linear(f"{at}.feed_forward.contract")
            block.ln_2 = self.norm(f"{at}.feed_forward_norm")
            self.h.append(block)

    def attend(self, block, x, bias):
        (T, B, H), N = x.shape, self.c.num_attention_heads
        if self.turned:
            qkv = (x @ block.c_attn_w + block.c_attn_b).view(T, B * N, 3, -1)
            q, k, v = (part.transpose(0, 1) for part in qkv.unbind(2))
        else:
            qkv = block.qkv(x)
            q, k, v = (part.reshape(T, B * N, -1).transpose(0, 1) for part in qkv.chunk(3, -1))
        att = torch.bmm(q, k.transpose(1, 2)) * q.shape[-1] ** -0.5
        if "mask" not in self.wrong:
            att = att + bias.repeat_interleave(N, 0)
        att = att.softmax(-1)
        y = torch.bmm(att, v).transpose(0, 1).reshape(T, B, H)
        return block.proj(y)

    def forward(self, ids, mask, token_types):
        x = self.wte(ids) + self.wpe.weight[: ids.shape[1]] + self.wtt(token_types)
        x = self.ln_0(x).transpose(0, 1)
        bias = torch.zeros(mask.shape).masked_fill(mask == 0, float("-inf"))[:, None]
        for block in self.h:
            x = block.ln_1(x + self.attend(block, x, bias))
            x = block.ln_2(x + block.fc_out(self.gelu(block.fc(x))))
        return (x.transpose(0, 1),)


class FusedTurned(Fused):
    turned = True


# -------------------------------------------------------------------------- functions and a dict


def dense(p, x):
    return x @ p["kernel"] + p["bias"]


def layer_norm(p, x, eps):
    centred = x - x.mean(-1, keepdims=True)
    return centred / ((centred**2).mean(-1, keepdims=True) + eps) ** 0.5 * p["scale"] + p["offset"]


def self_attention(p, x, keep, heads):
    def split(y):
        return y.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2)

    q, k, v = split(dense(p["q"], x)), split(dense(p["k"], x)), split(dense(p["v"], x))
    logits = q @ k.swapaxes(2, 3) / q.shape[-1] ** 0.5
    if keep is not None:
        logits = logits - 1e9 * (1 - keep[:, None, None])
    powers = (logits - logits.amax(-1, True)).exp()
    weights = powers / powers.sum(-1, keepdims=True)
    return dense(p["o"], (weights @ v).swapaxes(1, 2).reshape(x.shape))


def encoder_layer(p, x, keep, heads, eps, gelu):
    x = layer_norm(p["ln1"], x + self_attention(p["attn"], x, keep, heads), eps)
    return layer_norm(p["ln2"], x + dense(p["mlp"]["down"], gelu(dense(p["mlp"]["up"], x))), eps)


class Exponent(np.ndarray):
    """An array of numpy with the two methods that torch has and numpy lacks."""

    def exp(self):
        return np.exp(self)

    def amax(self, axis, keepdims):
        return np.max(self, axis, keepdims=keepdims)


def tree_of(config, weights, turn):
    """The weights as nested dicts, (in, out)."""
    def one(name):
        weight, bias = turn(weights[f"{name}.weight"]), turn(weights[f"{name}.bias"])
        return {"scale": weight, "offset": bias} if "norm" in name else {
            "kernel": weight.T, "bias": bias}

    def layer(i):
        at = f"layers.{i}."
        inner = {"query": "q", "key": "k", "value": "v", "output": "o"}
        return {
            "attn": {short: one(f"{at}attention.{name}") for name, short in inner.items()},
            "ln1": one(at + "attention_norm"), "ln2": one(at + "feed_forward_norm"),
            "mlp": {"up": one(at + "feed_forward.expand"),
                    "down": one(at + "feed_forward.contract")},
        }

    tables = {name: turn(weights[f"embeddings.{name}.weight"])
              for name in ("word", "position", "segment")}
    return {"tables": tables, "ln": one("embeddings.norm"),
            "layers": [layer(i) for i in range(config.num_hidden_layers)]}


def functional(config, weights, wrong=()):
    """A function over a dict of weights."""
    params = tree_of(config, weights, lambda weight: weight)
    eps = 1e-3 if "eps" in wrong else config.layer_norm_eps
    kind = "tanh" if "gelu" in wrong else "none"

    def apply(ids, mask, segments):
        tables = params["tables"]
        x = tables["word"][ids] + tables["position"][: ids.shape[1]] + tables["segment"][segments]
        x = layer_norm(params["ln"], x, eps)
        keep = None if "mask" in wrong else mask.to(x.dtype)
        for p in params["layers"]:
            x = encoder_layer(p, x, keep, config.num_attention_heads, eps,
                              lambda y: F.gelu(y, approximate=kind))
        return x

    return apply


class InNumpy:
    """The same functions over arrays of numpy, behind a call that takes tensors."""

    def __init__(self, config, weights, wrong=()):
        self.config, self.wrong = config, wrong
        self.params = tree_of(config, weights, lambda weight: weight.numpy().view(Exponent))

    def gelu(self, x):
        if "gelu" in self.wrong:
            return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
        erf = np.vectorize(math.erf)
        return (0.5 * x * (1 + erf(x / np.sqrt(2)))).astype(np.float32)

    def __call__(self, ids, mask, segments):
        ids, mask, segments, p = ids.numpy(), mask.numpy(), segments.numpy(), self.params
        eps = np.float32(1e-3 if "eps" in self.wrong else self.config.layer_norm_eps)
        x = p["tables"]["word"][ids] + p["tables"]["position"][: ids.shape[1]]
        x = layer_norm(p["ln"], x + p["tables"]["segment"][segments], eps)
        keep = None if "mask" in self.wrong else mask.astype(np.float32)
        for layer in p["layers"]:
            x = encoder_layer(layer, x, keep, self.config.num_attention_heads, eps, self.gelu)
        return SimpleNamespace(hidden=torch.from_numpy(np.asarray(x))).hidden


def transformers_model(config, weights, wrong=()):
    """The BertModel of transformers."""
    import transformers

    from minibert.io.checkpoint import ENCODER_NAMES, official_name

    eps = 1e-3 if "eps" in wrong else config.layer_norm_eps
    settings = transformers.BertConfig(
        vocab_size=config.vocab_size, hidden_size=config.hidden_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        intermediate_size=config.intermediate_size,
        max_position_embeddings=config.max_position_embeddings, layer_norm_eps=eps,
        hidden_act="gelu_new" if "gelu" in wrong else "gelu", attn_implementation="sdpa")
    model = transformers.BertModel(settings)
    names = (*ENCODER_NAMES, ("pooler.dense", "pooler.dense"))
    ours = {name for name in weights if name.startswith(("embeddings", "layers", "pooler"))}
    model.load_state_dict({official_name(name, names): weights[name] for name in ours})
    if "mask" in wrong:
        plain = model.forward
        model.forward = lambda input_ids, attention_mask, token_type_ids: plain(
            input_ids, torch.ones_like(attention_mask), token_type_ids)
    return model


STYLES = {
    "course": Course, "a head at a time": HeadByHead, "packed": Packed,
    "list of linears": ListOfLinears, "torch's encoder": TorchEncoder, "fused": Fused,
    "fused, (in, out)": FusedTurned,
    "functions": functional, "numpy": InNumpy, "transformers": transformers_model,
}


def build(style: str, inputs: Inputs, wrong=(), weights=None):
    """A model in a style."""
    return STYLES[style](inputs.config, weights or inputs.weights, wrong)
