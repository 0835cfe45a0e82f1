"""A learner's solution: torch's own norm."""

import torch.nn.functional as F


def add_and_norm(x, sublayer, gain, bias, eps):
    return F.layer_norm(x + sublayer, (x.shape[-1],), gain, bias, eps)
