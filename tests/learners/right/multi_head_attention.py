"""A learner's solution: linear layers, heads, attention, heads together."""

import torch.nn.functional as F


def multi_head_attention(hidden, mask, heads, weights):
    B, T, H = hidden.shape
    D = H // heads

    def linear(name, x):
        return F.linear(x, weights[name + ".weight"], weights[name + ".bias"])

    q = linear("query", hidden).view(B, T, heads, D).transpose(1, 2)
    k = linear("key", hidden).view(B, T, heads, D).transpose(1, 2)
    v = linear("value", hidden).view(B, T, heads, D).transpose(1, 2)
    scores = q @ k.transpose(-1, -2) / D**0.5 + (1.0 - mask[:, None, None, :].float()) * -10000.0
    context = scores.softmax(-1) @ v
    return linear("output", context.transpose(1, 2).reshape(B, T, H))
