"""A learner's solution: four lines."""

import math

import torch


def attention(query, key, mask):
    scores = torch.matmul(query, key.transpose(-2, -1)) / math.sqrt(query.size(-1))
    scores = scores.masked_fill(mask[:, None, None, :] == 0, -1e9)
    return torch.softmax(scores, dim=-1)
