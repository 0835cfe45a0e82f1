"""A vocabulary learnt from text: from characters to words, by merging what stands together most.

Every word begins as its characters, ``t ##h ##e``. The pair of neighbours that occurs most often in
the whole text becomes one token, everywhere; then the pair that occurs most often now; and so on
until there are as many tokens as were asked for. Words are counted once, each different one is kept
once with its count, and a merge touches only the words that have the pair.

That is the rule of byte-pair encoding (Sennrich 2016 §3.2), and of the WordPiece trainer of the
``tokenizers`` library. The papers on WordPiece have another one: of all pairs, merge the one that
raises the likelihood of the text the most, under a language model whose words are the tokens
(Schuster & Nakajima 2012, "WordPieceModel"; Wu 2016 §4.1, who add that it should leave the fewest
tokens, which is closer to counting). Were that model a unigram, to merge a and b would raise the
log-likelihood by about

    n(ab) · log( p(ab) / (p(a) · p(b)) )

The rule here looks at n(ab) alone. So it merges two frequent tokens early that meet no more often
than by chance, where the logarithm is near 0; and it lets rarer ones wait that are nearly always
together, as q and u. Google has not published its trainer (README of google-research/bert), so how
the vocabulary of BERT was learnt cannot be repeated exactly. Whatever learnt it, a vocabulary is
used in the same way: the longest token that fits first, as in ``tokenizer.wordpiece``.

The same text, size and minimum frequency give the tokens of the library, with these differences:

- Of pairs that occur equally often, the one with the smaller ids goes first in both. The library
  numbers ``##a``, ``##b`` ... as it meets them in a hash table, so each run of it may end with some
  other tokens. Here they stand in the order of their code points. Given them in this order, as
  special tokens, the library learns the same tokens in the same order.
- With a limit to the alphabet, nothing is learnt from a word with a character outside of it, which
  will be [UNK]. The library drops the character and joins what stood left and right of it. Of
  characters that are equally frequent it keeps any; here the smaller code point stays.
- Nothing is learnt from a word of more than 100 characters, which will be [UNK] as well.
- A size with no room for the special tokens and the alphabet is an error; the library exceeds it.
"""

from __future__ import annotations

import heapq
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from minibert.batching import progress
from minibert.io.files import need_ending, write_text
from minibert.tokenization.files import LONGEST_WORD
from minibert.tokenization.tokenizer import (
    SPAN_OR_IDEOGRAPH,
    cleaning_rules,
    split,
    wordpiece,
)
from minibert.training.data import Say, silent
from minibert.training.data.corpus import hold_out, read_documents, sentences

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
SHOWN = 20  # so many merges are said as they happen
MUCH_UNKNOWN = 0.02  # of the tokens of held-out text: the vocabulary does not fit

Pair = tuple[int, int]


def count_words(texts: Iterable[str], *, lowercase: bool = True) -> Counter[str]:
    """Clean and split texts as our tokenizer does; return how often each word occurs.

    No rule looks across white space or past a CJK ideograph, so what stands between is counted
    first, and each different span is cleaned once.
    """
    spans, words = Counter(), Counter()
    for text in texts:
        spans.update(SPAN_OR_IDEOGRAPH.findall(text))
    rules = cleaning_rules(lowercase)
    for span, count in spans.items():
        characters = [(c, 0) for c in span]
        for rule in rules:
            characters = rule(characters)
        for word in split(characters):
            words["".join(c for c, _ in word)] += count
    return words


def learn(
    texts: Iterable[str] | Mapping[str, int],
    size: int,
    *,
    lowercase: bool = True,
    min_frequency: int = 2,
    alphabet: int | None = None,
    say: Say = silent,
) -> list[str]:
    """Learn a vocabulary; return its tokens in the order of their ids.

    First the special tokens, then the alphabet, as it begins a word (``a``) and as it continues one
    (``##a``), then the merges, the earliest first.

    Args:
        texts: sentences or any other texts; or words with their counts, as `count_words` gives.
        size: how many tokens; fewer are learnt if no more pairs are frequent enough.
        lowercase: whether the vocabulary is to be uncased, without accents.
        min_frequency: a pair that occurs less often is not merged.
        alphabet: how many characters to keep, the most frequent; None = all.
        say: gets the first merges, a line each.

    Raises:
        ValueError: no words, or a size with no room for the alphabet.
    """
    counts = texts if isinstance(texts, Mapping) else count_words(texts, lowercase=lowercase)
    counts = {word: n for word, n in counts.items() if len(word) <= LONGEST_WORD}
    if not counts:
        raise ValueError("there are no words to learn a vocabulary from")
    ids = number_characters(counts, size, alphabet)
    words, weights = [], []
    for word, count in counts.items():
        numbers = [ids.get("##" + c if at else c) for at, c in enumerate(word)]
        if len(numbers) > 1 and None not in numbers:
            words.append(numbers)
            weights.append(count)
    tokens, start, pairs = list(ids), len(ids), Pairs(words, weights)
    with progress(size - start, "tokens", False if say is silent else None) as advance:
        while len(tokens) < size and (top := pairs.pop(max(min_frequency, 1))):
            (first, second), count, places = top
            left, right = tokens[first], tokens[second]
            token = left + right.removeprefix("##")
            if token not in ids:  # other pieces may have made the same token before
                ids[token] = len(tokens)
                tokens.append(token)
                advance(1)
                if len(tokens) <= start + SHOWN:
                    number = len(tokens) - start
                    say(f"merge {number:2}: {left} + {right} → {token}  ({count:,} times)")
            pairs.merge((first, second), ids[token], places)
    return tokens


def number_characters(counts: Mapping[str, int], size: int, alphabet: int | None) -> dict[str, int]:
    """The ids of the tokens that are there before the first merge.

    Raises:
        ValueError: they are more than ``size``.
    """
    often: Counter[str] = Counter()
    for word, count in counts.items():
        for c in word:
            often[c] += count
    kept = set(sorted(often, key=lambda c: (-often[c], c))[:alphabet])
    inside = {c for word in counts if kept.issuperset(word) for c in word[1:]}
    tokens = [*SPECIAL_TOKENS, *sorted(kept), *("##" + c for c in sorted(inside))]
    if len(tokens) > size:
        raise ValueError(
            f"a vocabulary of {size} tokens has no room for {len(SPECIAL_TOKENS)} special tokens, "
            f"{len(kept)} characters, and {len(inside)} of them again as ##: give at least "
            f"{len(tokens)}, or keep fewer characters (--alphabet); the rarest then become [UNK]"
        )
    return {token: number for number, token in enumerate(tokens)}


class Pairs:
    """The pairs of neighbours in words of numbers: how often each occurs, and where.

    The queue has the most frequent pair on top. A merge makes pairs rarer that stand further down;
    their entries are corrected when they come to the top.

    A pair that was merged keeps its count, and if other pieces make one of its tokens anew, it
    comes back with the old count and the new together. That is how the library counts; it adds no
    token, since the merged one exists.
    """

    def __init__(self, words: Sequence[list[int]], weights: Sequence[int]) -> None:
        self.words, self.weights = words, weights
        self.counts: defaultdict[Pair, int] = defaultdict(int)
        self.queue: list[tuple[int, Pair, list[int]]] = []  # -count, pair, words that have it
        places = defaultdict(list)
        for number, word in enumerate(words):
            for pair in pairwise(word):
                self.counts[pair] += weights[number]
                places[pair].append(number)
        self.push(places)

    def push(self, places: Mapping[Pair, list[int]]) -> None:
        """Put pairs into the queue, each with the words where it is new."""
        for pair, numbers in places.items():
            if self.counts[pair] > 0:
                heapq.heappush(self.queue, (-self.counts[pair], pair, numbers))

    def pop(self, least: int) -> tuple[Pair, int, list[int]] | None:
        """The most frequent pair, its count, and words that have it; None if it is too rare."""
        while self.queue:
            count, pair, places = self.queue[0]
            if -count == self.counts[pair]:
                heapq.heappop(self.queue)
                return (pair, -count, places) if -count >= least else None
            heapq.heapreplace(self.queue, (-self.counts[pair], pair, places))
        return None

    def merge(self, pair: Pair, token: int, places: Sequence[int]) -> None:
        """Put one token where a pair stands in some words, and count what this changes."""
        first, second = pair
        new = defaultdict(list)
        for number in places:
            word, weight, at = self.words[number], self.weights[number], 0
            while at < len(word) - 1:
                if word[at] == first and word[at + 1] == second:
                    word[at : at + 2] = [token]
                    if at:
                        self.counts[word[at - 1], first] -= weight
                        self.counts[word[at - 1], token] += weight
                        new[word[at - 1], token].append(number)
                    if at + 1 < len(word):
                        self.counts[second, word[at + 1]] -= weight
                        self.counts[token, word[at + 1]] += weight
                        new[token, word[at + 1]].append(number)
                at += 1
        self.push(new)


# --------------------------------------------------------------------------------- the command


def measure(vocabulary: Sequence[str], words: Mapping[str, int]) -> dict:
    """How a vocabulary cuts the words of a text, as `count_words` gives them.

    Returns ``words``, how many there are (a punctuation mark is one); ``tokens_per_word``,
    ``characters_per_token``; ``whole``, the share of words that are one token; ``unknown``, the
    share of tokens that are [UNK].
    """
    known = dict.fromkeys(vocabulary, 0)
    total = tokens = whole = unknown = characters = 0
    for word, count in words.items():
        pieces, rest = wordpiece(word, known)
        total += count
        characters += count * len(word)
        tokens += count * (1 if rest else len(pieces))
        whole += count * (not rest and len(pieces) == 1)
        unknown += count * bool(rest)
    return {
        "words": total,
        "tokens_per_word": tokens / total,
        "characters_per_token": characters / tokens,
        "whole": whole / total,
        "unknown": unknown / tokens,
    }


def write_vocabulary(
    paths: Sequence[str | os.PathLike],
    out: str | os.PathLike,
    size: int,
    *,
    cased: bool = False,
    min_frequency: int = 2,
    alphabet: int | None = None,
    held_out_share: float = 0.1,
    say: Say = silent,
) -> dict:
    """Learn a vocabulary from files of text, write it, and measure it on documents held out.

    Args:
        paths: the texts, as `corpus.read_documents` takes them.
        out: the ``vocab.txt`` to write, a token a line.
        size, min_frequency, alphabet: as in `learn`.
        cased: keep capitals and accents.
        held_out_share: the share of the documents, the last ones, that is not learnt from.
        say: gets remarks and the first merges, a line each.

    Raises:
        FileNotFoundError, ValueError: as `read_documents` and `learn`; or ``out`` is one of the
            texts.
    """
    need_ending(out, ".txt")
    if os.path.realpath(out) in map(os.path.realpath, paths):
        raise ValueError(f"{out} is one of the texts; name another file for the vocabulary")
    if not 0 <= held_out_share < 1:
        raise ValueError(
            f"the share held out is {held_out_share}; give 0 (nothing) or more, less than 1"
        )
    documents = kept = read_documents(paths)
    if held_out_share and len(documents) > 1:
        kept, documents = hold_out(documents, held_out_share)
    else:
        say("nothing is held out: what is measured below was learnt from")
        if held_out_share:
            say("(the text is one document; a blank line begins another)")
    words = count_words(sentences(kept), lowercase=not cased)
    say(f"{sum(words.values()):,} words, {len(words):,} different ones; {len(set().union(*words))} "
        f"characters; {'cased' if cased else 'uncased'}")  # fmt: skip
    settings = {"min_frequency": min_frequency, "alphabet": alphabet, "say": say}
    vocabulary = learn(words, size, lowercase=not cased, **settings)
    if len(vocabulary) < size:
        say(f"warning: {len(vocabulary):,} tokens and no more: no other pair of neighbours occurs "
            f"{min_frequency} times; a larger vocabulary needs more text")  # fmt: skip
    found = measure(vocabulary, count_words(sentences(documents), lowercase=not cased))
    if found["unknown"] > MUCH_UNKNOWN:
        say(f"warning: {found['unknown']:.1%} of the tokens of the text held out are [UNK]; is it "
            "of another language or script than the rest?")  # fmt: skip
    write_text(out, "".join(f"{token}\n" for token in vocabulary))
    return {"tokens": len(vocabulary), "cased": cased, "documents": len(kept),
            "held_out": len(documents) if documents is not kept else 0, **found}  # fmt: skip
