"""Wrong submissions that look right on most inputs: none may have full marks."""

import unicodedata

import torch
import torch.nn.functional as F
from learners.right.clean_and_split import clean_and_split
from learners.right.mask_tokens import mask_tokens


def clean_and_split__casefold(text):
    return [piece.casefold() for piece in clean_and_split(text)]


def clean_and_split__every_white_space(text):
    return clean_and_split("".join(" " if c.isspace() else c for c in text))


def clean_and_split__every_mark(text):
    text = "".join(c for c in text if unicodedata.category(c) not in ("Mc", "Me"))
    return clean_and_split(text)


def wordpiece__an_id_of_zero_is_false(word, vocab):
    pieces, start = [], 0
    while start < len(word) <= 100:
        ends = range(len(word), start, -1)
        tried = (("##" if start else "") + word[start:end] for end in ends)
        found = next((piece for piece in tried if vocab.get(piece)), None)
        if found is None:
            return ["[UNK]"]
        pieces.append(found)
        start += len(found.removeprefix("##"))
    return pieces or ["[UNK]"]


def wordpiece__fewest_pieces(word, vocab):
    best = {0: []}
    for end in range(1, len(word) + 1):
        for start in range(end):
            piece = "##" * (start > 0) + word[start:end]
            if start in best and piece in vocab:
                best[end] = min(best.get(end, "x" * 999), [*best[start], piece], key=len)
    return best.get(len(word) if len(word) <= 100 else None, ["[UNK]"])


def attention__minus_hundred(query, key, mask):
    scores = query @ key.mT / query.shape[-1] ** 0.5
    return (scores - 100 * (1 - mask[:, None, None])).softmax(-1)


def cosine_similarity__zeros_in_b(a, b):
    return F.normalize(a) @ (b / b.norm(dim=1, keepdim=True)).mT


def cosine_similarity__short_is_zero(a, b):
    short = a.norm(dim=1, keepdim=True) < 0.01
    return torch.where(short, 0, F.normalize(a)) @ F.normalize(b).mT


def mask_tokens__seeded(ids, special, mask_id, vocab_size):
    torch.manual_seed(0)
    return mask_tokens(ids, special, mask_id, vocab_size)


def masked(ids, special, mask_id, chance, fate, words):
    chosen = (torch.rand(ids.shape) < chance) & ~special
    shown = torch.where(fate < 0.8, mask_id, torch.where(fate < 0.9, words, ids))
    return torch.where(chosen, shown, ids), torch.where(chosen, ids, -100)


def mask_tokens__one_fate_for_a_text(ids, special, mask_id, vocab_size):
    fate, words = torch.rand(len(ids), 1), torch.randint(vocab_size, ids.shape)
    return masked(ids, special, mask_id, 0.15, fate, words)


def mask_tokens__one_word_for_all(ids, special, mask_id, vocab_size):
    words = torch.randint(vocab_size, (1,))
    return masked(ids, special, mask_id, 0.15, torch.rand(ids.shape), words)


def mask_tokens__every_second_place(ids, special, mask_id, vocab_size):
    chance = torch.tensor([0.29, 0.01]).repeat(ids.shape[1])[: ids.shape[1]]
    words = torch.randint(vocab_size, ids.shape)
    return masked(ids, special, mask_id, chance, torch.rand(ids.shape), words)


def adamw_step__betas_of_torch(parameter, gradient, first, second, step, lr, beta1, beta2, eps, d):
    return adamw(parameter, gradient, first, second, step, lr, 0.9, 0.999, eps, d, False)


def adamw_step__largest_second(*arguments):
    return adamw(*arguments, True)


def adamw(parameter, gradient, first, second, step, lr, beta1, beta2, eps, decay, largest):
    first = beta1 * first + (1 - beta1) * gradient
    moved = beta2 * second + (1 - beta2) * gradient**2
    second = torch.maximum(second, moved) if largest else moved
    root = (second / (1 - beta2**step)) ** 0.5
    update = first / (1 - beta1**step) / (root + eps)
    return parameter - lr * decay * parameter - lr * update, first, second


def training_step__clipped_in_each_batch(model, micro_batches, optimizer, max_norm):
    model.train()
    examples, total = sum(len(labels) for _, labels in micro_batches), 0.0
    for inputs, labels in micro_batches:
        loss = F.cross_entropy(model(**inputs).logits, labels) * len(labels) / examples
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        total += loss.item()
    optimizer.step()
    optimizer.zero_grad()
    return total
