"""What goes wrong in a course: EXERCISE__KEY is wrong in the way the catalogue calls KEY."""

import string
import unicodedata

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


def clean_and_split__accents_kept(text):
    return _clean(text, accents=True)


def clean_and_split__marks_attached(text):
    return _clean(text, marks="")


def clean_and_split__case_kept(text):
    return _clean(text, lower=False)


def clean_and_split__categories_only(text):
    return _clean(text, marks=" ")


def clean_and_split__case_kept__cjk_joined(text):
    return _clean(text, lower=False, cjk=False)


def wordpiece__shortest_first(word, vocab):
    if len(word) > 100:
        return ["[UNK]"]
    pieces, start = [], 0
    while start < len(word):
        for end in range(start + 1, len(word) + 1):
            piece = word[start:end] if start == 0 else "##" + word[start:end]
            if piece in vocab:
                pieces.append(piece)
                start = end
                break
        else:
            return ["[UNK]"]
    return pieces


def wordpiece__rest_unknown(word, vocab):
    if len(word) > 100:
        return ["[UNK]"]
    pieces, start = [], 0
    while start < len(word):
        end = len(word)
        while end > start:
            piece = word[start:end] if start == 0 else "##" + word[start:end]
            if piece in vocab:
                break
            end -= 1
        if end == start:
            return pieces + ["[UNK]"]
        pieces.append(piece)
        start = end
    return pieces


def wordpiece__no_limit(word, vocab):
    pieces = []
    while word:
        end = len(word)
        while end > 0 and ("##" if pieces else "") + word[:end] not in vocab:
            end -= 1
        if end == 0:
            return ["[UNK]"]
        pieces.append(("##" if pieces else "") + word[:end])
        word = word[end:]
    return pieces


def embeddings__no_position(input_ids, token_type_ids, word, segment, position, gain, bias, eps):
    x = word[input_ids] + segment[token_type_ids]
    return F.layer_norm(x, x.shape[-1:], gain, bias, eps)


def embeddings__position_along_batch(
    input_ids, token_type_ids, word, segment, position, gain, bias, eps
):
    places = torch.arange(input_ids.shape[0])[:, None]
    x = word[input_ids] + segment[token_type_ids] + position[places]
    return F.layer_norm(x, x.shape[-1:], gain, bias, eps)


def embeddings__norm_eps_1e_05(input_ids, token_type_ids, word, segment, position, gain, bias, eps):
    x = word[input_ids] + segment[token_type_ids] + position[: input_ids.shape[1]]
    return F.layer_norm(x, x.shape[-1:], gain, bias)


def attention__no_scale(query, key, mask):
    scores = query @ key.transpose(-1, -2)
    return scores.masked_fill(mask[:, None, None] == 0, -1e9).softmax(-1)


def attention__softmax_over_queries(query, key, mask):
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    return scores.masked_fill(mask[:, None, None] == 0, -1e9).softmax(2)


def attention__no_mask(query, key, mask):
    return (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(-1)


def attention__mask_on_queries(query, key, mask):
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    return scores.masked_fill(mask[:, None, :, None] == 0, -1e9).softmax(-1)


def attention__no_scale__mask_added_raw(query, key, mask):
    return (query @ key.transpose(-1, -2) + mask[:, None, None]).softmax(-1)


def attention__dropout_left_on(query, key, mask):
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    return F.dropout(scores.masked_fill(mask[:, None, None] == 0, -1e9).softmax(-1), 0.1)


def _heads(hidden, mask, heads, weights, cut, join, scale=None):
    q, k, v = (
        cut(F.linear(hidden, weights[f"{name}.weight"], weights[f"{name}.bias"]), heads)
        for name in ("query", "key", "value")
    )
    scores = q @ k.transpose(-1, -2) / (scale or q.shape[-1]) ** 0.5
    scores = scores.masked_fill(mask[:, None, None] == 0, -1e9)
    out = join(scores.softmax(-1) @ v)
    return F.linear(out, weights["output.weight"], weights["output.bias"])


def _cut(x, heads):
    return x.view(*x.shape[:2], heads, -1).transpose(1, 2)


def _join(x):
    return x.transpose(1, 2).flatten(2)


def multi_head_attention__view_without_transpose(hidden, mask, heads, weights):
    B, T, H = hidden.shape
    return _heads(hidden, mask, heads, weights, lambda x, n: x.view(B, n, T, H // n), _join)


def multi_head_attention__merge_without_transpose(hidden, mask, heads, weights):
    return _heads(hidden, mask, heads, weights, _cut, lambda x: x.reshape(hidden.shape))


def multi_head_attention__scale_hidden(hidden, mask, heads, weights):
    return _heads(hidden, mask, heads, weights, _cut, _join, scale=hidden.shape[-1])


def multi_head_attention__query_key_swapped(hidden, mask, heads, weights):
    swapped = {
        **weights,
        "query.weight": weights["key.weight"],
        "key.weight": weights["query.weight"],
        "query.bias": weights["key.bias"],
        "key.bias": weights["query.bias"],
    }
    return _heads(hidden, mask, heads, swapped, _cut, _join)


def add_and_norm__no_attention_residual(x, sublayer, gain, bias, eps):
    return F.layer_norm(sublayer, x.shape[-1:], gain, bias, eps)


def add_and_norm__norm_before_add(x, sublayer, gain, bias, eps):
    return x + F.layer_norm(sublayer, x.shape[-1:], gain, bias, eps)


def add_and_norm__norm_unbiased(x, sublayer, gain, bias, eps):
    x = x + sublayer
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + eps).sqrt() * gain + bias


def feed_forward__gelu_tanh(hidden, weights):
    x = F.linear(hidden, weights["expand.weight"], weights["expand.bias"])
    x = F.gelu(x, approximate="tanh")
    return F.linear(x, weights["contract.weight"], weights["contract.bias"])


def feed_forward__relu(hidden, weights):
    x = F.linear(hidden, weights["expand.weight"], weights["expand.bias"]).relu()
    return F.linear(x, weights["contract.weight"], weights["contract.bias"])


def feed_forward__gelu_without_root_two(hidden, weights):
    x = F.linear(hidden, weights["expand.weight"], weights["expand.bias"])
    return F.linear(
        x * (1 + torch.erf(x)) / 2, weights["contract.weight"], weights["contract.bias"]
    )


def mean_pooling__pooling_padding(hidden, mask):
    return hidden.mean(1)


def mean_pooling__pooling_wrong_count(hidden, mask):
    return (hidden * mask[..., None]).sum(1) / hidden.shape[1]


def mean_pooling__pooling_cls(hidden, mask):
    return hidden[:, 0]


def cosine_similarity__dot_product(a, b):
    return a @ b.T


def cosine_similarity__columns_normalised(a, b):
    return F.normalize(a, dim=0) @ F.normalize(b, dim=0).T


def mask_tokens__labels_everywhere(input_ids, special, mask_id, vocab_size):
    inputs, labels = mask_tokens__special_chosen(input_ids, special, mask_id, vocab_size)
    return torch.where(special, input_ids, inputs), input_ids.clone()


def mask_tokens__special_chosen(input_ids, special, mask_id, vocab_size):
    chosen = torch.rand(input_ids.shape) < 0.15
    fate = torch.rand(input_ids.shape)
    inputs = torch.where(chosen & (fate < 0.8), mask_id, input_ids)
    words = torch.randint(vocab_size, input_ids.shape)
    inputs = torch.where(chosen & (fate > 0.9), words, inputs)
    return inputs, torch.where(chosen, input_ids, -100)


def mask_tokens__second_draw_tenth(input_ids, special, mask_id, vocab_size):
    chosen = (torch.rand(input_ids.shape) < 0.15) & ~special
    masked = chosen & (torch.rand(input_ids.shape) < 0.8)
    other = chosen & ~masked & (torch.rand(input_ids.shape) < 0.1)
    inputs = torch.where(masked, mask_id, input_ids)
    inputs = torch.where(other, torch.randint(vocab_size, input_ids.shape), inputs)
    return inputs, torch.where(chosen, input_ids, -100)


def mask_tokens__labels_after_masking(input_ids, special, mask_id, vocab_size):
    inputs = input_ids.clone()
    chosen = (torch.rand(input_ids.shape) < 0.15) & ~special
    fate = torch.rand(input_ids.shape)
    inputs[chosen & (fate < 0.8)] = mask_id
    other = chosen & (fate >= 0.8) & (fate < 0.9)
    inputs[other] = torch.randint(vocab_size, input_ids.shape)[other]
    return inputs, torch.where(chosen, inputs, -100)


def _adamw(p, g, m, v, step, lr, beta1, beta2, eps, decay, correct=True):
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    one, two = (1 - beta1**step, 1 - beta2**step) if correct else (1, 1)
    return p - lr * decay * p - lr * (m / one) / ((v / two).sqrt() + eps), m, v


def adamw_step__no_bias_correction(*arguments):
    return _adamw(*arguments, correct=False)


def adamw_step__l2_instead_of_decay(
    parameter, gradient, first, second, step, lr, beta1, beta2, eps, weight_decay
):
    gradient = gradient + weight_decay * parameter
    return _adamw(parameter, gradient, first, second, step, lr, beta1, beta2, eps, 0.0)


def adamw_step__eps_in_root(
    parameter, gradient, first, second, step, lr, beta1, beta2, eps, weight_decay
):
    first = beta1 * first + (1 - beta1) * gradient
    second = beta2 * second + (1 - beta2) * gradient**2
    m, v = first / (1 - beta1**step), second / (1 - beta2**step)
    return parameter - lr * (m / (v + eps).sqrt() + weight_decay * parameter), first, second


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
