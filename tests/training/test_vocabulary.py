"""A vocabulary learnt from text, beside what the trainer of the tokenizers library learns."""

import random

import pytest
from support.command import run as command
from support.sweeps import WHOLE

from minibert.tokenization.tokenizer import BertTokenizer
from minibert.training.data.corpus import read_documents, sentences
from minibert.training.vocabulary import SPECIAL_TOKENS, count_words, learn, measure

HUGS = {"hug": 10, "pug": 5, "pun": 12, "bun": 4, "hugs": 5}  # counts one can follow by hand
ENGLISH = ["The caf\u00e9's owner", "don't -- he said 1,000", "\u5317\u4eac is Beijing\u200b."]


def run(capsys, *words, status=0):
    done, *said = command(capsys, *words)
    assert done == status, said
    return said


def made_up_text(lines: int) -> list[str]:
    """Lines of words from few syllables, with capitals, accents, ideographs and punctuation."""
    draw = random.Random(0)
    syllables = ["ba", "Be", "\u00e9n", "ing", "tt", "aaa", "o", "\u4e2d\u6587", "x-y", "'s"]
    return [
        " ".join("".join(draw.choices(syllables, k=draw.randint(1, 4))) for _ in range(9))
        for _ in range(lines)
    ] + ENGLISH


def reference(texts, size, special_tokens=SPECIAL_TOKENS, lowercase=True, **settings):
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=size, special_tokens=list(special_tokens), show_progress=False,
        **{"min_frequency": 2, **settings},
    )  # fmt: skip
    tokenizer.train_from_iterator(texts, trainer)
    ids = tokenizer.get_vocab()
    return sorted(ids, key=ids.get)


def beginning(vocabulary: list[str]) -> list[str]:
    """The special tokens and the alphabet."""
    rest = vocabulary[len(SPECIAL_TOKENS) :]
    merges = next(i for i, t in enumerate(rest) if len(t.removeprefix("##")) > 1)
    return vocabulary[: len(SPECIAL_TOKENS) + merges]


def test_merges_one_can_follow_by_hand():
    said = []
    tokens = learn(HUGS, 20, say=said.append)
    assert tokens[5:16] == ["b", "g", "h", "n", "p", "s", "u", "##g", "##n", "##s", "##u"]
    assert tokens[16:] == ["##ug", "##un", "hug", "pun"]
    assert said == [
        "merge  1: ##u + ##g → ##ug  (20 times)",
        "merge  2: ##u + ##n → ##un  (16 times)",
        "merge  3: h + ##ug → hug  (15 times)",
        "merge  4: p + ##un → pun  (12 times)",
    ]


@pytest.mark.parity
@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize("frequency", [0, 2, 30])
def test_the_tokens_and_their_order_are_those_of_the_library(lowercase, frequency):
    texts = made_up_text(300)
    ours = learn(texts, 250, lowercase=lowercase, min_frequency=frequency)
    settings = {"lowercase": lowercase, "min_frequency": frequency}
    assert reference(texts, 250, beginning(ours), **settings) == ours
    other = reference(texts, 250, **settings)  # its own numbering of ##a, ##b: other ties
    assert len({*ours} & {*other}) > 0.9 * len(ours)
    assert {*beginning(ours)} <= {*other}


@pytest.mark.parity
def test_words_are_those_of_the_library():
    from tokenizers import normalizers, pre_tokenizers

    texts = made_up_text(9) + ["\u00c9T a\u0301b\tc\u3000d \x00e\x1cf (g) h\u2028i", "[MASK]"]
    for lowercase in (True, False):
        normalizer = normalizers.BertNormalizer(lowercase=lowercase)
        split = pre_tokenizers.BertPreTokenizer().pre_tokenize_str
        expected = [w for text in texts for w, _ in split(normalizer.normalize_str(text))]
        counts = count_words(texts, lowercase=lowercase)
        assert sorted(counts.elements()) == sorted(expected)


def test_a_limited_alphabet_keeps_the_most_frequent_characters():
    tokens = learn({"ab": 5, "ac": 5, "abc": 3, "d": 1}, 50, alphabet=2)
    assert tokens[5:] == ["a", "b", "##b", "ab"]  # c is as frequent as b, and comes later
    assert learn({"ab": 5, "x" * 101: 9}, 50)[5:] == ["a", "b", "##b", "ab"], "[UNK] anyway"


def test_what_cannot_be_learnt_is_said():
    with pytest.raises(ValueError, match="no words"):
        learn(["\u200b ", ""], 100)
    with pytest.raises(ValueError, match=r"12 tokens has no room .*at least"):
        learn({"hug": 10, "pun": 2}, 12)
    assert len(learn({"hug": 10, "pun": 2}, 13)) == 13  # 5 special ones, g h n p u, ##g ##n ##u


def test_measures():
    found = measure(["[UNK]", "hug", "##s", "."], {"hugs": 2, "hug": 1, ".": 3, "no": 4})
    assert found == {"words": 10, "tokens_per_word": 1.2, "characters_per_token": 22 / 12,
                     "whole": 0.4, "unknown": 4 / 12}  # fmt: skip


def test_the_command(tmp_path, capsys):
    text, out = tmp_path / "text.txt", tmp_path / "vocab.txt"
    text.write_text("\n\n".join(made_up_text(50)), encoding="utf-8")
    shown, said = run(capsys, "vocabulary", text, "--size", 120, "--out", out)
    tokens = out.read_text(encoding="utf-8").split("\n")[:-1]
    kept = sentences(read_documents(text)[:-5])
    assert tokens == learn(kept, 120) and len(tokens) == 120
    assert "merge  1: " in said and "merge 20: " in said and "merge 21" not in said
    assert "120 tokens, uncased" in shown and "5 documents held out" in shown
    tokenizer = BertTokenizer(tokens)
    assert tokenizer.unk_token not in tokenizer.tokenize(kept[0])

    shown, said = run(capsys, "vocabulary", text, "--size", 5000, "--cased", "--out", out,
                      "--held-out-share", 0, "--force")  # fmt: skip
    assert "nothing is held out" in said and "a larger vocabulary needs more text" in said
    assert "cased" in shown and "Be" in out.read_text(encoding="utf-8").split("\n")


@pytest.mark.parametrize("words, message", [
    (["loop", "--out", "vocab.txt"], "loop: no such file"),
    (["--out", "text.txt", "--force"], "one of the texts"),
    (["--out", "vocab.json"], "ends in .txt"),
    (["--out", "vocab.txt", "--held-out-share", 1], "the share held out"),
    (["--out", "vocab.txt", "--size", 7], "at least"),
])  # fmt: skip
def test_wrong_use_of_the_command(words, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("One.\n\nTwo.\n")
    (tmp_path / "loop").symlink_to("loop")
    assert message in run(capsys, "vocabulary", "text.txt", *words, status=2)[1]
    assert not (tmp_path / "vocab.txt").exists()


def test_text_that_does_not_fit_is_warned_about(tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("a b ab\n\n\u0434\u0430\n", encoding="utf-8")
    said = run(capsys, "vocabulary", text, "--size", 9, "--out", tmp_path / "vocab.txt")[1]
    assert "100.0% of the tokens of the text held out are [UNK]" in said


@pytest.mark.slow
@pytest.mark.parity
@pytest.mark.data
def test_the_tokens_of_whole_books_are_those_of_the_library(data):
    """8,000 tokens of every fourth book; with MINIBERT_ODD=1 30,000 of all."""
    every, size = (1, 30_000) if WHOLE else (4, 8_000)
    books = sorted((data / "corpus" / "books").glob("*.txt"))[::every]
    if not books:
        pytest.skip("no corpus/books below MINIBERT_DATA")
    texts = sentences(read_documents(books))
    ours = learn(texts, size)  # merge by merge: those of a smaller vocabulary come first
    assert reference(texts, size, beginning(ours)) == ours
    assert len({*ours} & {*reference(texts, size)}) >= 0.995 * size
