"""The teaching data set: form, balance, no leaks, and that surface words do not solve it."""

import csv
import io
import itertools
import re
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from minibert.io.files import read_text
from minibert.training import data as minibert_data

DATA = Path(__file__).resolve().parents[2] / "notebooks" / "data"
SPLITS = ("train", "dev", "test")
TEXTS_PER_CLASS = {"train": 50, "dev": 10, "test": 15}
PAIRS = {"train": 180, "dev": 40, "test": 80}
LABELS = "booking breakdown claim diagnosis recipe repair safety schedule".split()


def intents(split: str) -> list[tuple[str, str]]:
    lines = read_text(DATA / "intents" / f"{split}.tsv").splitlines()
    return [tuple(line.split("\t")) for line in lines[1:]]


def scored(name: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(read_text(DATA / f"{name}.csv"), newline="")))


def pairs(split: str) -> list[tuple[str, str, float]]:
    rows = scored(f"pairs/{split}")[1:]
    return [(first, second, float(score)) for first, second, score in rows]


def normal(text: str) -> str:
    """The text without case, accents, punctuation and spacing: what makes two texts twins."""
    text = unicodedata.normalize("NFKD", text.casefold())
    return " ".join(re.findall(r"[a-z0-9]+", text))


def words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.casefold()))


FILES = sorted(DATA.glob("*/*.?sv"))


def test_the_files_are_those_we_document():
    names = [f"{file.parent.name}/{file.name}" for file in FILES]
    assert names == [
        "general/pairs.csv",
        *(f"intents/{split}.tsv" for split in sorted(SPLITS)),
        *(f"pairs/{split}.csv" for split in sorted(SPLITS)),
    ]
    readme = read_text(DATA / "README.md")
    for label in LABELS:
        assert f"`{label}`" in readme


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_files_are_plain_utf8(file):
    raw = file.read_bytes()
    assert not raw.startswith(b"\xef\xbb\xbf")
    assert b"\r" not in raw
    assert raw.endswith(b"\n") and not raw.endswith(b"\n\n")
    text = raw.decode("utf-8")
    assert unicodedata.is_normalized("NFC", text)
    allowed = "\n\t" if file.suffix == ".tsv" else "\n"
    odd = [c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Co", "Cn") and
           c not in allowed]
    assert odd == []


@pytest.mark.parametrize("split", SPLITS)
def test_intents_have_two_columns_and_are_balanced(split):
    text = read_text(DATA / "intents" / f"{split}.tsv")
    lines = text.splitlines()
    assert lines[0] == "text\tlabel"
    assert all(line.count("\t") == 1 for line in lines)
    shuffled = [label for _, label in intents(split)]
    assert Counter(shuffled) == dict.fromkeys(LABELS, TEXTS_PER_CLASS[split])
    assert shuffled != sorted(shuffled)
    # Quotes inside a text are harmless; a text that began with one would be read as quoted.
    rows = [tuple(row) for row in csv.reader(io.StringIO(text, newline=""), delimiter="\t")]
    assert rows[1:] == intents(split)


@pytest.mark.parametrize("name, count", [*(("pairs/" + k, n) for k, n in PAIRS.items()),
                                         ("general/pairs", 64)])  # fmt: skip
def test_pairs_have_three_columns_and_scores_in_half_steps(name, count):
    header, *rows = scored(name)
    assert header == ["sentence1", "sentence2", "score"]
    assert len(rows) == count and all(len(row) == 3 for row in rows)
    scores = np.array([float(score) for *_, score in rows])
    assert scores.min() == 0 and scores.max() == 5
    assert np.array_equal(scores * 2, np.round(scores * 2))
    if name != "general/pairs":  # every third of the scale holds at least a fifth of the pairs
        low, high = (scores <= 1).mean(), (scores >= 4).mean()
        assert min(low, high, 1 - low - high) >= 0.2


def test_texts_are_trimmed_and_of_many_lengths():
    texts = [text for split in SPLITS for text, _ in intents(split)]
    sentences = [text for split in SPLITS for row in pairs(split) for text in row[:2]]
    assert all(normal(text) and text == " ".join(text.split()) for text in texts + sentences)
    lengths = [len(text.split()) for text in texts]
    assert min(lengths) == 3 and max(lengths) == 40
    assert len(set(lengths)) >= 30


def test_nothing_stands_twice_or_in_two_splits():
    texts = Counter(normal(text) for split in SPLITS for text, _ in intents(split))
    assert len(texts) == 600 and set(texts.values()) == {1}
    general = scored("general/pairs")[1:]
    rows = [row for split in SPLITS for row in pairs(split)] + general
    found = Counter(frozenset((normal(first), normal(second))) for first, second, _ in rows)
    assert len(found) == 364 and set(found.values()) == {1}
    assert all(len(pair) == 2 for pair in found), "a sentence with itself"
    parts = [*map(pairs, SPLITS), general]
    sentences = [{normal(text) for row in part for text in row[:2]} for part in parts]
    for one, other in itertools.combinations(sentences, 2):
        assert not one & other


def test_minibert_itself_has_nothing_to_remark():
    for name, roles in (("intents/{}.tsv", ["text", "label"]),
                        ("pairs/{}.csv", ["text", "pair", "score"])):
        train, dev, test = (minibert_data.read(DATA / name.format(s), roles) for s in SPLITS)
        assert minibert_data.check(train, dev) == []
        assert minibert_data.check([*train, *dev], test) == []


def test_no_word_gives_a_label_away():
    # A word in a dozen texts or more stands under at least three labels.
    labels_of: dict[str, list[str]] = {}
    for text, label in (row for split in SPLITS for row in intents(split)):
        for word in words(text):
            labels_of.setdefault(word, []).append(label)
    for label in LABELS:
        assert labels_of.get(label, []).count(label) <= 5
    frequent = {word: found for word, found in labels_of.items() if len(found) >= 12}
    assert len(frequent) > 100
    assert {word: Counter(found) for word, found in frequent.items() if len(set(found)) < 3} == {}


def test_bag_of_words_is_above_chance_and_far_from_solving_it():
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    texts, labels = zip(*intents("train"), strict=True)
    model = make_pipeline(CountVectorizer(), LogisticRegression(max_iter=1000)).fit(texts, labels)
    texts, labels = zip(*intents("test"), strict=True)
    assert 2 / len(LABELS) < model.score(texts, labels) < 0.6


def test_shared_words_say_little_about_the_score():
    rows = [row for split in SPLITS for row in pairs(split)]
    overlap = [len(words(a) & words(b)) / len(words(a) | words(b)) for a, b, _ in rows]
    assert abs(spearmanr(overlap, [score for *_, score in rows]).statistic) < 0.2


@pytest.mark.weights
def test_no_near_twins_across_splits_and_the_untouched_model_leaves_room(official):
    from minibert import SentenceEncoder

    encoder = SentenceEncoder.from_pretrained(official)
    split_texts = [[text for text, _ in intents(split)] for split in SPLITS]
    vectors = [encoder.encode(texts) for texts in split_texts]
    pair_texts = [sorted({s for row in pairs(split) for s in row[:2]}) for split in SPLITS]
    for group in (vectors, [encoder.encode(texts) for texts in pair_texts]):
        for a, b in ((0, 1), (0, 2), (1, 2)):
            assert (group[a] @ group[b].T).max() < 0.93
    for rows, low, high in ((pairs("test"), 0.3, 0.65), (scored("general/pairs")[1:], 0.8, 1)):
        first, second, scores = zip(*rows, strict=True)
        cosines = (encoder.encode(list(first)) * encoder.encode(list(second))).sum(1)
        assert low < spearmanr(cosines, [float(score) for score in scores]).statistic < high
