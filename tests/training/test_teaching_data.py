"""The teaching data set: form, balance, no leaks, and that surface words do not solve it."""

import csv
import io
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


def pairs(split: str) -> list[tuple[str, str, float]]:
    rows = csv.reader(io.StringIO(read_text(DATA / "pairs" / f"{split}.csv"), newline=""))
    next(rows)
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
    lines = read_text(DATA / "intents" / f"{split}.tsv").splitlines()
    assert lines[0] == "text\tlabel"
    assert all(line.count("\t") == 1 for line in lines)
    assert Counter(label for _, label in intents(split)) == dict.fromkeys(
        LABELS, TEXTS_PER_CLASS[split]
    )
    shuffled = [label for _, label in intents(split)]
    assert shuffled != sorted(shuffled)


@pytest.mark.parametrize("split", SPLITS)
def test_a_csv_reader_finds_the_same_intents(split):
    # Quotes inside a text are harmless; a text that began with one would be read as quoted.
    text = read_text(DATA / "intents" / f"{split}.tsv")
    rows = [tuple(row) for row in csv.reader(io.StringIO(text, newline=""), delimiter="\t")]
    assert rows[1:] == intents(split)


def test_texts_are_trimmed_and_of_many_lengths():
    texts = [text for split in SPLITS for text, _ in intents(split)]
    assert all(text == " ".join(text.split()) for text in texts)
    lengths = [len(text.split()) for text in texts]
    assert min(lengths) == 3 and max(lengths) == 40
    assert len(set(lengths)) >= 30


@pytest.mark.parametrize("split", SPLITS)
def test_pairs_have_three_columns_and_scores_in_half_steps(split):
    text = read_text(DATA / "pairs" / f"{split}.csv")
    rows = list(csv.reader(io.StringIO(text, newline="")))
    assert rows[0] == ["sentence1", "sentence2", "score"]
    assert all(len(row) == 3 for row in rows)
    assert len(rows) - 1 == PAIRS[split]
    scores = np.array([score for *_, score in pairs(split)])
    assert scores.min() == 0 and scores.max() == 5
    assert np.array_equal(scores * 2, np.round(scores * 2))
    # Every third of the scale holds at least a fifth of the pairs.
    low, high = (scores <= 1).mean(), (scores >= 4).mean()
    assert min(low, high, 1 - low - high) >= 0.2


@pytest.mark.parametrize("split", SPLITS)
def test_sentences_are_trimmed(split):
    for first, second, _ in pairs(split):
        assert normal(first) and normal(second)
        assert first == " ".join(first.split())
        assert second == " ".join(second.split())


def test_general_pairs_have_the_same_form_and_nothing_of_the_pottery():
    text = read_text(DATA / "general" / "pairs.csv")
    header, *rows = csv.reader(io.StringIO(text, newline=""))
    assert header == ["sentence1", "sentence2", "score"]
    assert len(rows) == 64
    scores = np.array([float(score) for *_, score in rows])
    assert scores.min() == 0 and scores.max() == 5
    assert np.array_equal(scores * 2, np.round(scores * 2))
    found = Counter(frozenset((normal(first), normal(second))) for first, second, _ in rows)
    assert all(count == 1 and len(pair) == 2 for pair, count in found.items())
    ours = {normal(s) for split in SPLITS for row in pairs(split) for s in row[:2]}
    assert {normal(s) for row in rows for s in row[:2]} & ours == set()


def test_no_text_twice_in_any_split():
    everything = Counter(normal(text) for split in SPLITS for text, _ in intents(split))
    assert [text for text, count in everything.items() if count > 1] == []
    assert len(everything) == 600


def test_no_pair_twice_and_no_sentence_with_itself():
    everything = Counter(
        frozenset((normal(first), normal(second)))
        for split in SPLITS
        for first, second, _ in pairs(split)
    )
    assert [pair for pair, count in everything.items() if count > 1 or len(pair) < 2] == []
    assert len(everything) == 300


def test_no_sentence_of_a_pair_in_two_splits():
    sentences = [
        {normal(sentence) for row in pairs(split) for sentence in row[:2]} for split in SPLITS
    ]
    assert sentences[0] & sentences[1] == set()
    assert sentences[0] & sentences[2] == set()
    assert sentences[1] & sentences[2] == set()


def test_minibert_itself_has_nothing_to_remark():
    for name, roles in (("intents/{}.tsv", ["text", "label"]),
                        ("pairs/{}.csv", ["text", "pair", "score"])):
        train, dev, test = (minibert_data.read(DATA / name.format(s), roles) for s in SPLITS)
        assert minibert_data.check(train, dev) == []
        assert minibert_data.check([*train, *dev], test) == []


def test_labels_do_not_stand_in_their_texts():
    for label in LABELS:
        texts = [text for split in SPLITS for text, name in intents(split) if name == label]
        told = sum(label in words(text) for text in texts)
        assert told <= 5, label


def test_no_word_gives_a_label_away():
    # A word in a dozen texts or more stands under at least three labels.
    labels_of: dict[str, list[str]] = {}
    for split in SPLITS:
        for text, label in intents(split):
            for word in words(text):
                labels_of.setdefault(word, []).append(label)
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
    overlap, scores = [], []
    for split in SPLITS:
        for first, second, score in pairs(split):
            overlap.append(len(words(first) & words(second)) / len(words(first) | words(second)))
            scores.append(score)
    assert abs(spearmanr(overlap, scores).statistic) < 0.2


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
    first, second, scores = zip(*pairs("test"), strict=True)
    cosines = (encoder.encode(list(first)) * encoder.encode(list(second))).sum(1)
    assert 0.3 < spearmanr(cosines, scores).statistic < 0.65
    _, *rows = csv.reader(io.StringIO(read_text(DATA / "general" / "pairs.csv"), newline=""))
    first, second, scores = zip(*rows, strict=True)
    cosines = (encoder.encode(list(first)) * encoder.encode(list(second))).sum(1)
    assert spearmanr(cosines, [float(score) for score in scores]).statistic > 0.8
