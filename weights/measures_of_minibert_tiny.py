"""What minibert-tiny knows: python weights/measures_of_minibert_tiny.py LEARNT HELD_OUT

LEARNT and HELD_OUT are directories of text files, a sentence a line, a blank line between
documents. Prints how often it sees whether a second segment follows, beside a logistic regression
that sees lengths and shared words only, and how it fills twenty gaps.
"""

import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from minibert import BertForPreTraining, BertTokenizer
from minibert.io.hub import locate
from minibert.training import measuring
from minibert.training.data.corpus import read_documents
from minibert.training.packing import Packed, held_out_batches, tokenise

GAPS = """She opened the [MASK] and went into the room.
He sat down on a [MASK] near the fire.
The [MASK] was shining and the sky was blue.
The ship sailed across the [MASK].
They had bread and [MASK] for breakfast.
He is older [MASK] his brother.
I have never [MASK] such a thing in my life.
The king and the [MASK] lived in a castle.
It was so dark that he could not [MASK] anything.
She was born in the [MASK] 1850.
He shook his [MASK] and said nothing.
We went there three [MASK] ago.
The dog began to [MASK] at the stranger.
"Where are you [MASK]?" he asked.
Mr. and [MASK]. Brown came to dinner.
Paris is the capital of [MASK].
Water is made of hydrogen and [MASK].
The nurse said that [MASK] was tired.
The doctor said that [MASK] was tired.
I sent her a message on my [MASK].""".split("\n")


def seen(packed: Packed, rows: np.ndarray) -> np.ndarray:
    """(pairs, 5): lengths of both segments, shared words: how many, how rare, of all of them."""
    ids, words = packed.texts.ids, np.bincount(packed.texts.ids, minlength=len(packed.ordinary))
    rarity = np.log(len(ids) / (words + 1))
    found = []
    for a, b, c, d, _ in rows:
        one, two = set(ids[a:b].tolist()), set(ids[c:d].tolist())
        shared = one & two
        found.append([b - a, d - c, len(shared), sum(rarity[i] for i in shared),
                      len(shared) / len(one | two)])  # fmt: skip
    return np.array(found)


def by_regression(learnt: Packed, held_out: Packed, numbers: np.ndarray) -> float:
    """The share of held-out pairs that a logistic regression on `seen` gets right."""
    x, y = [], []
    for packed, chosen in ((learnt, np.arange(20_000)), (held_out, numbers)):
        rows = packed.of_epoch(0)[chosen]
        x.append(seen(packed, rows))
        y.append(torch.from_numpy(rows[:, 4]).double())
    mean, spread = x[0].mean(0), x[0].std(0)
    x = [torch.from_numpy((part - mean) / spread) for part in x]
    weight, bias = (torch.zeros(n, dtype=torch.float64, requires_grad=True) for n in (5, 1))
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(x[0] @ weight + bias, y[0])
        loss.backward()
        return loss

    optimizer.step(closure)
    return ((x[1] @ weight + bias > 0) == (y[1] > 0.5)).double().mean().item()


def main(learnt: str, held_out: str) -> None:
    """Print it all."""
    directory = locate("minibert-tiny")
    tokenizer = BertTokenizer.from_pretrained(directory)
    model = BertForPreTraining.from_pretrained(directory)
    packed = [
        Packed(tokenise(read_documents(sorted(Path(home).glob("*.txt"))), tokenizer), tokenizer,
               max_length=tokenizer.model_max_length) for home in (learnt, held_out)
    ]  # fmt: skip
    batches = held_out_batches(packed[1], "cpu", 5000)
    found = measuring.measure(model, batches, measuring.characters_of(tokenizer))
    for name, value in found.items():
        print(f"{name.replace('_', ' ')}: {value:.4f}")
    n = len(packed[1].of_epoch(0))
    numbers = np.random.default_rng(0).permutation(n)[:5000]
    right = by_regression(packed[0], packed[1], numbers)
    print(f"next sentence accuracy from lengths and shared words: {right:.4f}\n")
    for line in measuring.guesses(model, tokenizer, [(gap, "?") for gap in GAPS]):
        print(line.replace(" (?)", ""))


if __name__ == "__main__":
    main(*sys.argv[1:])
