"""A learner's solution: LayerNorm by hand."""

import torch


def embeddings(input_ids, token_type_ids, word, segment, position, gain, bias, eps):
    places = torch.arange(input_ids.shape[1])
    x = word[input_ids] + position[places] + segment[token_type_ids]
    mean = x.mean(dim=-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(dim=-1, keepdim=True)
    return (x - mean) / torch.sqrt(variance + eps) * gain + bias
