"""A learner's solution: probabilities as tensors."""

import torch


def mask_tokens(input_ids, special, mask_id, vocab_size):
    inputs, labels = input_ids.clone(), input_ids.clone()
    probability = torch.full(labels.shape, 0.15).masked_fill(special, 0.0)
    chosen = torch.bernoulli(probability).bool()
    labels[~chosen] = -100
    masked = torch.bernoulli(torch.full(labels.shape, 0.8)).bool() & chosen
    inputs[masked] = mask_id
    other = torch.bernoulli(torch.full(labels.shape, 0.5)).bool() & chosen & ~masked
    inputs[other] = torch.randint(vocab_size, labels.shape)[other]
    return inputs, labels
