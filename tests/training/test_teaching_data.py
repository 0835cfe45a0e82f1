"""The teaching data set: form, balance, no leaks, and that surface words do not solve it."""

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
PAIRS = {"pairs/train": 180, "pairs/dev": 40, "pairs/test": 80, "general/pairs": 64}
LABELS = "booking breakdown claim diagnosis recipe repair safety schedule".split()


def read(name: str, *roles: str) -> list[tuple]:
    return [tuple(row.values.values()) for row in minibert_data.read(DATA / name, roles)]


def intents(split: str) -> list[tuple[str, str]]:
    return read(f"intents/{split}.tsv", "text", "label")


def pairs(name: str) -> list[tuple[str, str, float]]:
    return read(f"{name}.csv", "text", "pair", "score")


def normal(text: str) -> str:
    """The text without case, accents, punctuation and spacing: what makes two texts twins."""
    text = unicodedata.normalize("NFKD", text.casefold())
    return " ".join(re.findall(r"[a-z0-9]+", text))


def words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.casefold()))


ALL_INTENTS = [row for split in SPLITS for row in intents(split)]
ALL_PAIRS = [row for name in PAIRS for row in pairs(name)]


def test_the_files_are_those_we_document_in_plain_utf8():
    files = sorted(DATA.rglob("*.?sv"))
    names = {str(file.relative_to(DATA)) for file in files}
    assert names == {*(f"{home}intents/{split}.tsv" for home in ("", "zh/") for split in SPLITS),
                     *(f"{pair}.csv" for pair in (*PAIRS, "zh/pairs"))}
    assert all(f"`{label}`" in read_text(DATA / "README.md") for label in LABELS)
    for file in files:
        text = file.read_bytes().decode()
        assert text.endswith("\n") and unicodedata.is_normalized("NFC", text)
        odd = {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Co", "Cn")}
        assert odd <= {"\n", "\t"}, file


@pytest.mark.parametrize("split", SPLITS)
def test_intents_are_balanced_and_shuffled(split):
    labels = [label for _, label in intents(split)]
    assert Counter(labels) == dict.fromkeys(LABELS, TEXTS_PER_CLASS[split])
    assert labels != sorted(labels)


@pytest.mark.parametrize("name, count", PAIRS.items())
def test_scores_are_in_half_steps_over_the_whole_scale(name, count):
    scores = np.array([score for *_, score in pairs(name)])
    assert len(scores) == count and scores.min() == 0 and scores.max() == 5
    assert np.array_equal(scores * 2, np.round(scores * 2))
    if name != "general/pairs":  # every third of the scale holds at least a fifth of the pairs
        low, high = (scores <= 1).mean(), (scores >= 4).mean()
        assert min(low, high, 1 - low - high) >= 0.2


def test_nothing_stands_twice_or_in_two_splits():
    sentences = [text for row in ALL_PAIRS for text in row[:2]]
    for text in [text for text, _ in ALL_INTENTS] + sentences:
        assert normal(text) and text == " ".join(text.split())
    texts = Counter(normal(text) for text, _ in ALL_INTENTS)
    assert len(texts) == 600 and set(texts.values()) == {1}
    found = Counter(frozenset((normal(a), normal(b))) for a, b, _ in ALL_PAIRS)
    assert len(found) == 364 and set(found.values()) == {1}
    assert all(len(pair) == 2 for pair in found), "a sentence with itself"
    sentences = [{normal(text) for row in pairs(name) for text in row[:2]} for name in PAIRS]
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
    for text, label in ALL_INTENTS:
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
    rows = [row for name in PAIRS if name != "general/pairs" for row in pairs(name)]
    overlap = [len(words(a) & words(b)) / len(words(a) | words(b)) for a, b, _ in rows]
    assert abs(spearmanr(overlap, [score for *_, score in rows]).statistic) < 0.2


@pytest.mark.slow  # the data do not change
@pytest.mark.weights
def test_no_near_twins_across_splits_and_the_untouched_model_leaves_room(official):
    from minibert import SentenceEncoder

    encoder = SentenceEncoder.from_pretrained(official)
    split_texts = [[text for text, _ in intents(split)] for split in SPLITS]
    pair_texts = [sorted({s for row in pairs(name) for s in row[:2]}) for name in PAIRS]
    every = sorted({text for texts in split_texts + pair_texts for text in texts})
    vector = dict(zip(every, encoder.encode(every), strict=True))
    for group in (split_texts, pair_texts[:3]):
        for a, b in itertools.combinations([np.stack([vector[t] for t in g]) for g in group], 2):
            assert (a @ b.T).max() < 0.93
    for rows, low, high in ((pairs("pairs/test"), 0.3, 0.65), (pairs("general/pairs"), 0.8, 1)):
        cosines = [vector[a] @ vector[b] for a, b, _ in rows]
        assert low < spearmanr(cosines, [score for *_, score in rows]).statistic < high


def test_the_chinese_set_is_balanced_and_has_no_text_twice():
    rows = {split: read(f"zh/intents/{split}.tsv", "text", "label") for split in SPLITS}
    for split, count in {"train": 10, "dev": 2, "test": 3}.items():
        assert Counter(label for _, label in rows[split]) == dict.fromkeys(LABELS, count)
    texts = [text for split in SPLITS for text, _ in rows[split]]
    assert len({*texts}) == 120 and all(re.search("[\u4e00-\u9fff]{3}", text) for text in texts)
    scored = read("zh/pairs.csv", "text", "pair", "score")
    assert len({frozenset(pair) for *pair, _ in scored}) == 60
    assert {score * 2 % 1 for *_, score in scored} == {0} and all(0 <= s <= 5 for *_, s in scored)
    shared = [len({*one} & {*other}) / len({*one} | {*other}) for one, other, _ in scored]
    assert spearmanr(shared, [score for *_, score in scored]).statistic < 0.6
