"""Models on the same words: python weights/whole_words.py LEARNT HELD_OUT MODEL...

LEARNT and HELD_OUT are directories of text files, a sentence a line, a blank line between
documents. Of 834 held-out passages of 40 words six words each are hidden, all their tokens at once,
the same for every model; a word is right if all of its tokens are. The number of [MASK] tells a
model how many tokens the word has. Beside it what counting the words of LEARNT guesses.
"""

import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from minibert import BertForPreTraining, BertTokenizer
from minibert.io.hub import locate
from minibert.training.data.corpus import read_documents

PASSAGES, LENGTH, HIDDEN = 834, 40, 6  # words


def words_of(directory: str) -> Iterator[list[str]]:
    """The words and punctuation marks of each document, in lower case."""
    for document in read_documents(sorted(Path(directory).glob("*.txt"))):
        yield re.findall(r"[^\W_]+|[^\w\s]|_", " ".join(document).lower())


def by_counting(learnt: str, passages: list[list[str]], places: list[list[int]]) -> list[float]:
    """The shares that the most frequent word and the most frequent after the left one get right."""
    after: dict[str, Counter] = defaultdict(Counter)
    alone: Counter = Counter()
    for words in words_of(learnt):
        alone.update(words)
        for left, word in zip(words, words[1:], strict=False):
            after[left][word] += 1
    usual = alone.most_common(1)[0][0]
    best = {left: counts.most_common(1)[0][0] for left, counts in after.items()}
    pairs = [(p[i - 1], p[i]) for p, chosen in zip(passages, places, strict=True) for i in chosen]
    n = len(pairs)
    return [
        sum(word == usual for _, word in pairs) / n,
        sum(word == best.get(left, usual) for left, word in pairs) / n,
    ]


@torch.inference_mode()
def by_model(directory: Path, passages: list[list[str]], places: list[list[int]]) -> float:
    """The share of the hidden words that a model gets right."""
    tokenizer = BertTokenizer.from_pretrained(directory)
    model = BertForPreTraining.from_pretrained(directory).eval()
    right = 0
    for words, chosen in zip(passages, places, strict=True):
        tokens = [tokenizer.ids(word) for word in words]
        starts = np.cumsum([1, *map(len, tokens)])
        ids = torch.tensor([tokenizer.cls_token_id, *sum(tokens, []), tokenizer.sep_token_id])
        asked = ids.clone()
        spans = [slice(starts[i], starts[i + 1]) for i in chosen]
        for span in spans:
            asked[span] = tokenizer.mask_token_id
        guessed = model(asked[None])[0][0].argmax(-1)  # (T,)
        known = ids != tokenizer.unk_token_id
        right += sum(bool((guessed[s] == ids[s]).all() and known[s].all()) for s in spans)
    return right / sum(map(len, places))


def main(learnt: str, held_out: str, *models: str) -> None:
    """Print a line for each."""
    passages = [
        words[start : start + LENGTH]
        for words in words_of(held_out)
        for start in range(0, len(words) - LENGTH + 1, LENGTH)
    ]
    rng = np.random.default_rng(0)
    passages = [passages[i] for i in rng.permutation(len(passages))[:PASSAGES]]
    places = [sorted(1 + rng.permutation(LENGTH - 1)[:HIDDEN]) for _ in passages]
    unigram, bigram = by_counting(learnt, passages, places)
    print(f"{unigram:.4f}  the most frequent word")
    print(f"{bigram:.4f}  the most frequent word after the one on its left")
    for name in models:
        print(f"{by_model(locate(name), passages, places):.4f}  {name}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
