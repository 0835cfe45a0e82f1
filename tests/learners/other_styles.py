"""The same exercises in other styles: numpy, loops, einsum, fused kernels, other orders."""

import math
import re
import unicodedata

import numpy as np
import torch
import torch.nn.functional as F


def clean_and_split__regular_expressions(text):
    text = re.sub(r"[\t\n\r]|(?![\x00-\x1f\x85])\s", " ", text)  # the others are control characters
    text = "".join(c for c in text if unicodedata.category(c) not in ("Cc", "Cf"))
    text = "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c))
    ideograph = "[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002fa1f]"
    kinds = [(c, unicodedata.category(c)[0]) for c in map(chr, range(0x3100))]
    marks = "".join(re.escape(c) for c, k in kinds if k == "P" or (k == "S" and c.isascii()))
    return re.sub(f"({ideograph}|[{marks}])", r" \1 ", text.lower()).split()


def wordpiece__recursive(word, vocab):
    def rest(start):
        if start == len(word):
            return []
        for end in range(len(word), start, -1):
            piece = ("##" if start else "") + word[start:end]
            if piece in vocab:
                after = rest(start + len(piece.removeprefix("##")))
                return None if after is None else [piece, *after]
        return None

    found = rest(0) if len(word) <= 100 else None
    return ["[UNK]"] if found is None else found


def embeddings__one_hot_numpy(input_ids, token_type_ids, word, segment, position, gain, bias, eps):
    ids, types = input_ids.numpy(), token_type_ids.numpy()
    x = np.eye(len(word), dtype=np.float32)[ids] @ word.numpy()
    x = x + np.eye(len(segment), dtype=np.float32)[types] @ segment.numpy()
    x = x + position.numpy()[None, : ids.shape[1]]
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)
    return x * gain.numpy() + bias.numpy()


def attention__numpy(query, key, mask):
    q, k = query.numpy().astype("float64"), key.numpy().astype("float64")
    scores = np.einsum("bnid,bnjd->bnij", q, k) / np.sqrt(q.shape[-1])
    scores = np.where(mask.numpy()[:, None, None] == 1, scores, -1e30)
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    return scores / scores.sum(-1, keepdims=True)



def multi_head_attention__fused(hidden, mask, heads, weights):
    B, T, H = hidden.shape
    w = torch.cat([weights[f"{n}.weight"] for n in ("query", "key", "value")])
    b = torch.cat([weights[f"{n}.bias"] for n in ("query", "key", "value")])
    q, k, v = F.linear(hidden, w, b).view(B, T, 3, heads, H // heads).permute(2, 0, 3, 1, 4)
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask.bool()[:, None, None])
    joined = mixed.transpose(1, 2).flatten(2)
    return F.linear(joined, weights["output.weight"], weights["output.bias"])


def add_and_norm__torch_var(x, sublayer, gain, bias, eps):
    total = sublayer + x
    variance, mean = torch.var_mean(total, -1, correction=0, keepdim=True)
    return torch.addcmul(bias, (total - mean) * torch.rsqrt(variance + eps), gain)


def feed_forward__token_by_token(hidden, weights):
    rows = []
    for token in hidden.reshape(-1, hidden.shape[-1]):
        wide = weights["expand.weight"] @ token + weights["expand.bias"]
        wide = wide * torch.distributions.Normal(0, 1).cdf(wide)
        rows.append(weights["contract.weight"] @ wide + weights["contract.bias"])
    return torch.stack(rows).reshape(hidden.shape)


def mean_pooling__loop(hidden, mask):
    rows = []
    for states, real in zip(hidden, mask, strict=True):
        own = states[real.bool()]
        rows.append(own.mean(0) if len(own) else torch.zeros(states.shape[-1]))
    return torch.stack(rows)



def cosine_similarity__plain_python(a, b):
    def cosine(x, y):
        dot = sum(p * q for p, q in zip(x, y, strict=True))
        return dot / (math.sqrt(sum(p * p for p in x) * sum(q * q for q in y)) or 1.0)

    return [[cosine(x, y) for y in b.tolist()] for x in a.tolist()]


def mask_tokens__numpy_exactly_fifteen_percent(input_ids, special, mask_id, vocab_size):
    ids = input_ids.numpy()
    inputs, labels = ids.copy(), np.full_like(ids, -100)
    for row in range(len(ids)):
        words = np.flatnonzero(~special[row].numpy())
        chosen = np.random.permutation(words)[: round(0.15 * len(words))]
        labels[row, chosen] = ids[row, chosen]
        for t in chosen:
            shown = [mask_id, np.random.randint(vocab_size), ids[row, t]]
            inputs[row, t] = np.random.choice(shown, p=[0.8, 0.1, 0.1])
    return inputs, labels


def adamw_step__numbers(parameter, gradient, first, second, step, lr, beta1, beta2, eps, decay):
    rows = []
    for p, g, m, v in zip(*(x.tolist() for x in (parameter, gradient, first, second)), strict=True):
        m += (1 - beta1) * (g - m)
        v += (1 - beta2) * (g * g - v)
        root = math.sqrt(1 - beta2**step)
        p -= lr * root / (1 - beta1**step) * m / (math.sqrt(v) + eps * root) + lr * decay * p
        rows.append((p, m, v))
    return tuple(torch.tensor(column) for column in zip(*rows, strict=True))


def training_step__sums_first(model, micro_batches, optimizer, max_norm):
    model.train()
    losses, count = 0, 0
    for inputs, labels in micro_batches:
        losses = losses + F.cross_entropy(model(**inputs).logits, labels, reduction="sum")
        count += len(labels)
    loss = losses / count
    loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norm = torch.cat([g.flatten() for g in gradients]).norm()
    for g in gradients:
        g *= min(1.0, max_norm / float(norm))
    optimizer.step()
    model.zero_grad()
    return loss
