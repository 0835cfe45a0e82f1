"""BERT in plain numpy: a dump from "another framework" for ``minibert parity``."""

import math

import numpy as np


def linear(w, name, x):
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def norm(w, name, x, eps):
    x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x * x).mean(-1, keepdims=True) + eps)
    return x * w[f"{name}.weight"] + w[f"{name}.bias"]


def gelu(x):
    return 0.5 * x * (1 + np.vectorize(math.erf, otypes=[x.dtype])(x / math.sqrt(2)))


def bert(w, ids, mask, types, layers, heads, eps=1e-12, scale=True):
    """All hidden states under names of its own; ``scale=False`` is the planted mistake."""
    w = {name.removeprefix("bert."): value for name, value in w.items()}
    e = "embeddings."
    x = w[e + "word_embeddings.weight"][ids] + w[e + "token_type_embeddings.weight"][types]
    x = norm(w, e + "LayerNorm", x + w[e + "position_embeddings.weight"][: ids.shape[1]], eps)
    out = {"h0": x}
    B, T, H = x.shape
    for i in range(layers):
        at = f"encoder.layer.{i}."
        q, k, v = (
            linear(w, at + f"attention.self.{n}", x).reshape(B, T, heads, -1).transpose(0, 2, 1, 3)
            for n in ("query", "key", "value")
        )
        scores = q @ k.swapaxes(-1, -2)
        if scale:
            scores = scores / np.sqrt(np.float32(H // heads))
        scores = np.where(mask[:, None, None] == 1, scores, np.float32(-1e9))
        power = np.exp(scores - scores.max(-1, keepdims=True))
        context = (power / power.sum(-1, keepdims=True)) @ v
        context = context.transpose(0, 2, 1, 3).reshape(B, T, H)
        out[f"attention{i}"] = linear(w, at + "attention.output.dense", context)
        x = norm(w, at + "attention.output.LayerNorm", x + out[f"attention{i}"], eps)
        inner = gelu(linear(w, at + "intermediate.dense", x))
        x = norm(w, at + "output.LayerNorm", x + linear(w, at + "output.dense", inner), eps)
        out[f"h{i + 1}"] = x
    out["pooled"] = np.tanh(linear(w, "pooler.dense", x[:, 0]))
    return out


def names(layers):
    """Its names → ours."""
    mapping = {f"h{i + 1}": f"layers.{i}" for i in range(layers)}
    mapping |= {f"attention{i}": f"layers.{i}.attention.output" for i in range(layers)}
    return {"h0": "embeddings", "pooled": "pooler", **mapping}
