"""A learner's solution: rows of length 1."""

import torch


def cosine_similarity(a, b):
    a = a / torch.clamp(a.norm(dim=1, keepdim=True), min=1e-8)
    b = b / torch.clamp(b.norm(dim=1, keepdim=True), min=1e-8)
    return a @ b.T
