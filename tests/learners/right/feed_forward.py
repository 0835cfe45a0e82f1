"""A learner's solution: GELU with erf."""

import torch


def feed_forward(hidden, weights):
    x = hidden @ weights["expand.weight"].T + weights["expand.bias"]
    x = 0.5 * x * (1 + torch.erf(x / 2**0.5))
    return x @ weights["contract.weight"].T + weights["contract.bias"]
