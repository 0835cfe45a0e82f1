"""What goes wrong in a course: EXERCISE__KEY is wrong in the way the catalogue calls KEY.

``parity/test_catalogue.py`` plants every mistake of the catalogue; here are some of each exercise.
"""

import string
import unicodedata
from functools import partial

import torch
import torch.nn.functional as F
from learners.right.clean_and_split import CJK
from learners.right.training_step import training_step as _training_step


def _clean(text, marks=string.punctuation, accents=False, lower=True, cjk=True):
    clean = ""
    for c in text if accents else unicodedata.normalize("NFD", text):
        category = unicodedata.category(c)
        if c in "\t\n\r" or category == "Zs":
            clean += " "
        elif category in ("Cc", "Cf") or (category == "Mn" and not accents):
            continue
        elif c in marks or (marks and category[0] == "P"):
            clean += f" {c} "
        elif cjk and any(first <= ord(c) <= last for first, last in CJK):
            clean += f" {c} "
        else:
            clean += c.lower() if lower else c
    return clean.split()


clean_and_split__accents_kept = partial(_clean, accents=True)
clean_and_split__marks_attached = partial(_clean, marks="")
clean_and_split__case_kept = partial(_clean, lower=False)
clean_and_split__categories_only = partial(_clean, marks=" ")
clean_and_split__case_kept__cjk_joined = partial(_clean, lower=False, cjk=False)


def _pieces(word, vocab, limit=100, shortest=False, keep_beginning=False):
    if len(word) > limit:
        return ["[UNK]"]
    pieces, start = [], 0
    while start < len(word):
        ends = range(start + 1, len(word) + 1)
        for end in ends if shortest else reversed(ends):
            piece = word[start:end] if start == 0 else "##" + word[start:end]
            if piece in vocab:
                pieces.append(piece)
                break
        else:
            return [*pieces, "[UNK]"] if keep_beginning else ["[UNK]"]
        start = end
    return pieces


wordpiece__shortest_first = partial(_pieces, shortest=True)
wordpiece__rest_unknown = partial(_pieces, keep_beginning=True)
wordpiece__no_limit = partial(_pieces, limit=1e9)


def embeddings__norm_eps_1e_05(ids, types, word, segment, position, gain, bias, eps):
    total = word[ids] + segment[types] + position[: ids.shape[1]]
    return F.layer_norm(total, total.shape[-1:], gain, bias)


def _probabilities(query, key, mask):
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    return scores.masked_fill(mask[:, None, None] == 0, -1e9).softmax(-1)


def attention__no_scale__mask_added_raw(query, key, mask):
    return (query @ key.transpose(-1, -2) + mask[:, None, None]).softmax(-1)


def attention__dropout_left_on(query, key, mask):
    return F.dropout(_probabilities(query, key, mask), 0.1)


def _linear(x, weights, name):
    return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])


def _cut(x, heads):
    return x.view(*x.shape[:2], heads, -1).transpose(1, 2)


QKV = ("query", "key", "value")


def _heads(hidden, mask, heads, weights, cut=_cut, names=QKV):
    q, k, v = (cut(_linear(hidden, weights, name), heads) for name in names)
    out = _probabilities(q, k, mask) @ v
    return _linear(out.transpose(1, 2).flatten(2), weights, "output")


def multi_head_attention__view_without_transpose(hidden, mask, heads, weights):
    B, T, H = hidden.shape
    return _heads(hidden, mask, heads, weights, cut=lambda x, n: x.view(B, n, T, H // n))


def multi_head_attention__query_key_swapped(hidden, mask, heads, weights):
    return _heads(hidden, mask, heads, weights, names=("key", "query", "value"))


def add_and_norm__norm_unbiased(x, sublayer, gain, bias, eps):
    x = x + sublayer
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + eps).sqrt() * gain + bias


def _norm(x, gain, bias, deviation):
    return (x - x.mean(-1, keepdim=True)) / deviation(x) * gain + bias


def _std(eps, correction=0):
    return lambda x: x.std(-1, keepdim=True, correction=correction) + eps


def add_and_norm__norm_no_eps(x, sublayer, gain, bias, eps):
    return _norm(x + sublayer, gain, bias, _std(0))


def add_and_norm__norm_eps_outside(x, sublayer, gain, bias, eps):
    return _norm(x + sublayer, gain, bias, _std(eps))


def add_and_norm__norm_unbiased_eps_outside(x, sublayer, gain, bias, eps):
    return _norm(x + sublayer, gain, bias, _std(eps, correction=1))


def embeddings__norm_no_eps(ids, types, word, segment, position, gain, bias, eps):
    return _norm(word[ids] + segment[types] + position[: ids.shape[1]], gain, bias, _std(0))


def embeddings__norm_eps_outside(ids, types, word, segment, position, gain, bias, eps):
    return _norm(word[ids] + segment[types] + position[: ids.shape[1]], gain, bias, _std(eps))


def feed_forward__gelu_tanh(hidden, weights):
    wide = F.gelu(_linear(hidden, weights, "expand"), approximate="tanh")
    return _linear(wide, weights, "contract")


def mean_pooling__pooling_wrong_count(hidden, mask):
    return (hidden * mask[..., None]).sum(1) / hidden.shape[1]


def cosine_similarity__dot_product(a, b):
    return a @ b.T


def cosine_similarity__columns_normalised(a, b):
    return F.normalize(a, dim=0) @ F.normalize(b, dim=0).T


def _mask(ids, special, mask_id, vocab_size, words=True, second=0.5, late=False):
    chosen = (torch.rand(ids.shape) < 0.15) & ~(special & words)
    masked = chosen & (torch.rand(ids.shape) < 0.8)
    other = chosen & ~masked & (torch.rand(ids.shape) < second)
    inputs = torch.where(masked, mask_id, ids)
    inputs = torch.where(other, torch.randint(vocab_size, ids.shape), inputs)
    return inputs, torch.where(chosen, inputs if late else ids, -100)


mask_tokens__special_chosen = partial(_mask, words=False)
mask_tokens__second_draw_tenth = partial(_mask, second=0.1)
mask_tokens__labels_after_masking = partial(_mask, late=True)


def mask_tokens__labels_everywhere(input_ids, special, mask_id, vocab_size):
    inputs, _ = _mask(input_ids, special, mask_id, vocab_size)
    return inputs, input_ids.clone()


def _adamw(p, g, m, v, step, lr, beta1, beta2, eps, decay, correct=True, inside=0.0):
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    one, two = (1 - beta1**step, 1 - beta2**step) if correct else (1, 1)
    return p - lr * decay * p - lr * (m / one) / ((v / two + inside).sqrt() + eps), m, v


adamw_step__no_bias_correction = partial(_adamw, correct=False)


def adamw_step__l2_instead_of_decay(p, g, m, v, step, lr, beta1, beta2, eps, decay):
    return _adamw(p, g + decay * p, m, v, step, lr, beta1, beta2, eps, 0.0)


def adamw_step__eps_in_root(p, g, m, v, step, lr, beta1, beta2, eps, decay):
    return _adamw(p, g, m, v, step, lr, beta1, beta2, 0.0, decay, inside=eps)


def training_step__no_zero_grad(model, micro_batches, optimizer, max_norm):
    optimizer.zero_grad = lambda *_, **__: None
    return _training_step(model, micro_batches, optimizer, max_norm)


def training_step__mean_of_means(model, micro_batches, optimizer, max_norm):
    model.train()
    optimizer.zero_grad()
    total = 0
    for inputs, labels in micro_batches:
        loss = F.cross_entropy(model(**inputs).logits, labels) / len(micro_batches)
        loss.backward()
        total += loss.item()
    torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    optimizer.step()
    return total


def training_step__no_clipping(model, micro_batches, optimizer, max_norm):
    return _training_step(model, micro_batches, optimizer, 1e9)


def training_step__last_micro_batch(model, micro_batches, optimizer, max_norm):
    model.train()
    losses = []
    for inputs, labels in micro_batches:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(**inputs).logits, labels)
        loss.backward()
        losses += [loss.item()] * len(labels)
    torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    optimizer.step()
    return sum(losses) / len(losses)
