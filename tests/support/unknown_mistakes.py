"""Mistakes that the catalogue does not have, and right modules in another style.

Written before the catalogue was matched against anything: a diagnosis must find no name for the
mistakes, and nothing to diagnose in the right modules.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from minibert.attention import MultiHeadSelfAttention
from minibert.embeddings import Embeddings
from minibert.encoder import EncoderLayer, FeedForward
from minibert.model import Pooler


def score(query, key):
    return query @ key.mT / math.sqrt(query.shape[-1])


class Attention(MultiHeadSelfAttention):
    """Right as it stands; the mistakes below change one of its three steps."""

    score = staticmethod(score)
    weigh = staticmethod(lambda scores: scores.softmax(-1))
    mix = staticmethod(torch.matmul)

    def forward(self, hidden, mask):
        query, key, value = (
            self.split_heads(linear(hidden)) for linear in (self.query, self.key, self.value)
        )
        scores = self.score(query, key)
        if mask is not None:
            scores = scores + mask
        return self.output(self.merge_heads(self.mix(self.weigh(scores), value)))


def attention(name, **steps):
    """The class above with another step."""
    return type(name, (Attention,), {step: staticmethod(f) for step, f in steps.items()})


def variant(of, forward):
    """A class with another forward pass."""
    return type(f"Other{of.__name__}", (of,), {"forward": forward})


def places(x, axis):
    return torch.arange(x.shape[axis])


def distance(query):
    return (places(query, 2)[:, None] - places(query, 2)).abs()


def power_plus_one(scores):
    power = scores.exp()
    return power / (1 + power.sum(-1, keepdim=True))


def all_but_the_last_head(weights, value):
    mixed = weights @ value
    return torch.cat([mixed[:, :-1], torch.zeros_like(mixed[:, -1:])], 1)


def turned(x):  # RoPE
    half = x.shape[-1] // 2
    angle = (places(x, 2)[:, None] / 100 ** (torch.arange(half) / half)).to(x.dtype)
    one, two = x[..., :half], x[..., half : 2 * half]
    turns = [one * angle.cos() - two * angle.sin(), one * angle.sin() + two * angle.cos()]
    return torch.cat(turns, -1)


def the_three_best(scores):
    third = scores.topk(3, dim=-1).values[..., -1:]
    return scores.masked_fill(scores < third, -1e9).softmax(-1)


def halved_residuals(self, hidden, mask):
    hidden = self.attention_norm(self.attention(hidden, mask) + 0.5 * hidden)
    return self.feed_forward_norm(self.feed_forward(hidden) + 0.5 * hidden)


def rescaled(norm, x):
    return F.normalize(x - x.median(-1, keepdim=True).values, dim=-1) * norm.weight + norm.bias


def norms_around_the_median(self, hidden, mask):
    hidden = rescaled(self.attention_norm, self.attention(hidden, mask) + hidden)
    return rescaled(self.feed_forward_norm, self.feed_forward(hidden) + hidden)


def both_at_once(self, hidden, mask):
    together = self.attention(hidden, mask) + self.feed_forward(hidden) + hidden
    return self.feed_forward_norm(self.attention_norm(together))


def embedded(self, word, segment, ids, backwards=False):
    place = places(ids, 1).flip(0) if backwards else places(ids, 1)
    return self.norm(word + segment + self.position(place))


def median_pooling(hidden, mask):
    return torch.stack([hidden[b, mask[b].bool()].median(0).values for b in range(len(hidden))])


def smoothed_loss(logits, labels):
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten(), label_smoothing=0.1)


class RootWithEpsInside(torch.optim.Optimizer):
    """AdamW with eps where Adam's authors did not put it, under the root, and large."""

    def __init__(self, parameters, lr, betas, eps, weight_decay):
        super().__init__(parameters, dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            (one, two), lr = group["betas"], group["lr"]
            for p in group["params"]:
                state = self.state[p]
                t = state["t"] = state.get("t", 0) + 1
                m = state["m"] = one * state.get("m", 0 * p) + (1 - one) * p.grad
                v = state["v"] = two * state.get("v", 0 * p) + (1 - two) * p.grad**2
                p *= 1 - lr * group["weight_decay"]
                p -= lr * m / (1 - one**t) / (v / (1 - two**t) + 1e-3).sqrt()


UNKNOWN = {
    "attention": [
        attention("ScoresClamped", score=lambda q, k: score(q, k).clamp(-0.5, 0.5)),
        attention("DistanceBias", score=lambda q, k: score(q, k) - 0.1 * distance(q)),  # ALiBi
        attention("SoftmaxPlusOne", weigh=power_plus_one),
        attention("LastHeadSilent", mix=all_but_the_last_head),
        attention("Cosines", score=lambda q, k: F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT),
        attention("ValuesOfTheNextHead", mix=lambda weights, v: weights @ v.roll(1, dims=1)),
        attention("Window", score=lambda q, k: score(q, k).masked_fill(distance(q) > 2, -1e9)),
        attention("RotaryPositions", score=lambda q, k: score(turned(q), turned(k))),
        attention("OnlyTheThreeBest", weigh=the_three_best),
        attention("ValuesOneTokenLate", mix=lambda weights, v: weights @ v.roll(1, dims=2)),
    ],
    "feed_forward": [
        variant(FeedForward, lambda self, x: self.contract(F.mish(self.expand(x)))),
        variant(FeedForward, lambda self, x: self.contract(F.relu(self.expand(x)) ** 2)),
        variant(FeedForward, lambda self, x: self.contract(F.gelu(F.gelu(self.expand(x))))),
        variant(FeedForward, lambda self, x: self.contract(  # the bias subtracted
            F.gelu(x @ self.expand.weight.T - self.expand.bias))),
    ],
    "layer": [variant(EncoderLayer, forward)
              for forward in (halved_residuals, norms_around_the_median, both_at_once)],
    "embeddings": [
        variant(Embeddings, lambda self, ids, types: embedded(
            self, self.word(ids), self.segment(types), ids, backwards=True)),
        variant(Embeddings, lambda self, ids, types: embedded(
            self, self.word(ids), self.segment(types.roll(1, 1)), ids)),
        variant(Embeddings, lambda self, ids, types: embedded(
            self, F.normalize(self.word(ids), dim=-1), self.segment(types), ids)),
    ],
    "pooler": [variant(Pooler, lambda self, hidden: torch.tanh(self.dense(hidden[:, 1])))],
    "pooling": [median_pooling],
    "loss": [smoothed_loss],
    "optimizer": [RootWithEpsInside],
}


class FusedAttention(MultiHeadSelfAttention):
    """Right, in another style: torch's own product of softmax and values."""

    def forward(self, hidden, mask):
        q, k, v = (self.split_heads(each(hidden)) for each in (self.query, self.key, self.value))
        return self.output(self.merge_heads(F.scaled_dot_product_attention(q, k, v, mask)))


class LibraryLayer(nn.Module):
    """Right, in another style: torch's own encoder layer, whose post-norm form is BERT's."""

    def __init__(self, config):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(
            config.hidden_size, config.num_attention_heads, config.intermediate_size,
            activation=config.hidden_act, layer_norm_eps=config.layer_norm_eps, batch_first=True,
        )

    def take_weights(self, weights):
        layer, attention = self.layer, self.layer.self_attn
        for kind in ("weight", "bias"):
            parts = [weights[f"attention.{n}.{kind}"] for n in ("query", "key", "value")]
            getattr(attention, f"in_proj_{kind}").copy_(torch.cat(parts))
            for mine, theirs in (
                (attention.out_proj, "attention.output"),
                (layer.linear1, "feed_forward.expand"),
                (layer.linear2, "feed_forward.contract"),
                (layer.norm1, "attention_norm"),
                (layer.norm2, "feed_forward_norm"),
            ):
                getattr(mine, kind).copy_(weights[f"{theirs}.{kind}"])

    def forward(self, hidden, mask):
        padding = None if mask is None else mask[:, 0, 0] < 0
        return self.layer(hidden, src_key_padding_mask=padding)


RIGHT = {"attention": [FusedAttention], "layer": [LibraryLayer]}
