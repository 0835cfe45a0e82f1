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


class Attention(MultiHeadSelfAttention):
    """Right as it stands; the mistakes below change one method."""

    def forward(self, hidden, mask):
        query, key, value = (
            self.split_heads(linear(hidden)) for linear in (self.query, self.key, self.value)
        )
        scores = self.score(query, key)
        if mask is not None:
            scores = scores + mask
        return self.output(self.merge_heads(self.mix(self.weigh(scores), value)))

    def score(self, query, key):
        return query @ key.transpose(2, 3) / math.sqrt(self.head_size)

    def weigh(self, scores):
        return scores.softmax(-1)

    def mix(self, weights, value):
        return weights @ value


class ScoresClamped(Attention):
    def score(self, query, key):
        return super().score(query, key).clamp(-0.5, 0.5)


class DistanceBias(Attention):  # ALiBi
    def score(self, query, key):
        place = torch.arange(query.shape[2])
        return super().score(query, key) - 0.1 * (place[:, None] - place).abs()


class SoftmaxPlusOne(Attention):
    def weigh(self, scores):
        power = scores.exp()
        return power / (1 + power.sum(-1, keepdim=True))


class LastHeadSilent(Attention):
    def mix(self, weights, value):
        mixed = super().mix(weights, value)
        return torch.cat([mixed[:, :-1], torch.zeros_like(mixed[:, -1:])], 1)


class CosineScores(Attention):
    def score(self, query, key):
        return F.normalize(query, dim=-1) @ F.normalize(key, dim=-1).transpose(2, 3)


class ValuesOfTheNextHead(Attention):
    def mix(self, weights, value):
        return weights @ value.roll(1, dims=1)


class NarrowWindow(Attention):
    def score(self, query, key):
        place = torch.arange(query.shape[2])
        far = (place[:, None] - place).abs() > 2
        return super().score(query, key).masked_fill(far, -1e9)


class RotaryPositions(Attention):
    def score(self, query, key):
        return super().score(self.turn(query), self.turn(key))

    def turn(self, x):
        half = x.shape[-1] // 2
        angle = torch.arange(x.shape[2])[:, None] / 100 ** (torch.arange(half) / half)
        angle = angle.to(x.dtype)
        one, two = x[..., :half], x[..., half : 2 * half]
        return torch.cat(
            [one * angle.cos() - two * angle.sin(), one * angle.sin() + two * angle.cos()], -1
        )


class OnlyTheThreeBest(Attention):
    def weigh(self, scores):
        third = scores.topk(3, dim=-1).values[..., -1:]
        return scores.masked_fill(scores < third, -1e9).softmax(-1)


class ValuesOneTokenLate(Attention):
    def mix(self, weights, value):
        return weights @ value.roll(1, dims=2)


class Mish(FeedForward):
    def forward(self, hidden):
        return self.contract(F.mish(self.expand(hidden)))


class SquaredReLU(FeedForward):
    def forward(self, hidden):
        return self.contract(F.relu(self.expand(hidden)) ** 2)


class ActivatedTwice(FeedForward):
    def forward(self, hidden):
        return self.contract(F.gelu(F.gelu(self.expand(hidden))))


class BiasSubtracted(FeedForward):
    def forward(self, hidden):
        return self.contract(F.gelu(hidden @ self.expand.weight.T - self.expand.bias))


class ResidualHalved(EncoderLayer):
    def forward(self, hidden, mask):
        hidden = self.attention_norm(self.attention(hidden, mask) + 0.5 * hidden)
        return self.feed_forward_norm(self.feed_forward(hidden) + 0.5 * hidden)


class RootMeanSquareNorm(EncoderLayer):
    def forward(self, hidden, mask):
        hidden = self.scale(self.attention_norm, self.attention(hidden, mask) + hidden)
        return self.scale(self.feed_forward_norm, self.feed_forward(hidden) + hidden)

    def scale(self, norm, x):
        return x * (x * x).mean(-1, keepdim=True).add(norm.eps).rsqrt() * norm.weight + norm.bias


class BothAtOnce(EncoderLayer):
    def forward(self, hidden, mask):
        together = self.attention(hidden, mask) + self.feed_forward(hidden) + hidden
        return self.feed_forward_norm(self.attention_norm(together))


class PositionsBackwards(Embeddings):
    def forward(self, input_ids, token_type_ids):
        place = torch.arange(input_ids.shape[1]).flip(0)
        total = self.word(input_ids) + self.segment(token_type_ids) + self.position(place)
        return self.norm(total)


class SegmentsExchanged(Embeddings):
    def forward(self, input_ids, token_type_ids):
        place = torch.arange(input_ids.shape[1])
        total = self.word(input_ids) + self.segment(1 - token_type_ids) + self.position(place)
        return self.norm(total)


class WordsOfLengthOne(Embeddings):
    def forward(self, input_ids, token_type_ids):
        place = torch.arange(input_ids.shape[1])
        word = F.normalize(self.word(input_ids), dim=-1)
        return self.norm(word + self.segment(token_type_ids) + self.position(place))


class PoolerOnTheSecondToken(Pooler):
    def forward(self, hidden):
        return torch.tanh(self.dense(hidden[:, 1]))


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
        ScoresClamped, DistanceBias, SoftmaxPlusOne, LastHeadSilent, CosineScores,
        ValuesOfTheNextHead, NarrowWindow, RotaryPositions, OnlyTheThreeBest, ValuesOneTokenLate,
    ],
    "feed_forward": [Mish, SquaredReLU, ActivatedTwice, BiasSubtracted],
    "layer": [ResidualHalved, RootMeanSquareNorm, BothAtOnce],
    "embeddings": [PositionsBackwards, SegmentsExchanged, WordsOfLengthOne],
    "pooler": [PoolerOnTheSecondToken],
    "pooling": [median_pooling],
    "loss": [smoothed_loss],
    "optimizer": [RootWithEpsInside],
}


class FusedAttention(nn.Module):
    """Right, in another style: one map for q, k, v; einsum; the query scaled first; bool mask."""

    def __init__(self, config):
        super().__init__()
        self.N = config.num_attention_heads
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.out = nn.Linear(config.hidden_size, config.hidden_size)

    def take_weights(self, weights):
        parts = ("query", "key", "value")
        self.qkv.weight.copy_(torch.cat([weights[f"{n}.weight"] for n in parts]))
        self.qkv.bias.copy_(torch.cat([weights[f"{n}.bias"] for n in parts]))
        self.out.weight.copy_(weights["output.weight"])
        self.out.bias.copy_(weights["output.bias"])

    def forward(self, hidden, mask):
        B, T, H = hidden.shape
        q, k, v = self.qkv(hidden).view(B, T, 3, self.N, H // self.N).unbind(2)  # (B, T, N, D)
        scores = torch.einsum("bqnd,bknd->bnqk", q / math.sqrt(H // self.N), k)
        if mask is not None:
            scores = scores.masked_fill(mask < 0, float("-1e30"))
        power = (scores - scores.amax(-1, keepdim=True)).exp()
        mixed = torch.einsum("bnqk,bknd->bqnd", power, v)
        return self.out((mixed / power.sum(-1).transpose(1, 2)[..., None]).reshape(B, T, H))


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
