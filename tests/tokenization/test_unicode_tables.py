"""The frozen tables against the reader they were measured from, one code point after the other."""

import unicodedata

import pytest
from support.code_points import EVERY, some_or

from minibert.tokenization import unicode_tables as unicode
from minibert.tokenization.tokenizer import clean, lower_case, space_cjk, split, strip_accents

BLOCK = 4096


def blocks(codes):
    """These characters, with a letter between any two, in texts of 4096."""
    for start in range(0, len(codes), BLOCK):
        yield "".join(f"a{chr(code)}" for code in codes[start : start + BLOCK])


def applied(rule, text):
    return "".join(c for c, _ in rule([(c, place) for place, c in enumerate(text)]))


def test_ranges_hold_their_ends_and_nothing_beside_them():
    ranges = unicode.Ranges("41-43 45")
    assert [c for c in "@ABCDEF" if c in ranges] == ["A", "B", "C", "E"]


def test_a_few_members_known_by_name():
    assert "\u0301" in unicode.MARK and "e" not in unicode.MARK
    assert "," in unicode.PUNCTUATION and "^" in unicode.PUNCTUATION and "。" in unicode.PUNCTUATION
    assert "€" not in unicode.PUNCTUATION  # a symbol, not punctuation, and not ASCII
    assert "\u00a0" in unicode.SPACE and "\x0b" not in unicode.SPACE
    assert "中" in unicode.CJK and "あ" not in unicode.CJK


def test_lower_is_per_character():
    assert [unicode.lower(c) for c in "Σİ\U00016ea0"] == ["σ", "i̇", "\U00016ebb"]


def test_what_is_newer_than_unicode_9_is_not_taken_apart():
    assert unicode.decompose("é") == (("e", 0, True), ("\u0301", 230, False))
    for c in "\U00011938\u1df6":  # decomposes since Unicode 13; a mark since Unicode 10
        assert unicode.decompose(c) == ((c, 0, True),)


def test_the_sets_are_disjoint():
    sets = (unicode.SPACE, unicode.MARK, unicode.PUNCTUATION)
    assert len(frozenset.union(*sets)) == sum(map(len, sets))


@pytest.mark.parity
@some_or(EVERY)
@pytest.mark.parametrize(
    ("rule", "setting"),
    [
        (clean, "clean_text"),
        (space_cjk, "handle_chinese_chars"),
        (strip_accents, "strip_accents"),
        (lower_case, "lowercase"),
    ],
)
def test_each_rule_on_every_code_point(rule, setting, codes):
    normalizers = pytest.importorskip("tokenizers").normalizers
    off = dict.fromkeys(("clean_text", "handle_chinese_chars", "strip_accents", "lowercase"), False)
    reference = normalizers.BertNormalizer(**{**off, setting: True})
    for text in blocks(codes):
        if applied(rule, text) != reference.normalize_str(text):
            for c in text[1::2]:  # each by itself: which is it?
                assert applied(rule, f"a{c}b") == reference.normalize_str(f"a{c}b"), ascii(c)
            pytest.fail(f"together only: {text!a}")
    print(
        f"\n{rule.__name__}: {len(codes)} code points, differences 0 "
        f"(this Python has Unicode {unicodedata.unidata_version})"
    )


@pytest.mark.parity
@some_or(EVERY)
def test_split_on_every_code_point(codes):
    pre_tokenizers = pytest.importorskip("tokenizers").pre_tokenizers
    reference = pre_tokenizers.BertPreTokenizer()
    for text in blocks(codes):
        cleaned = applied(clean, text)  # `split` comes after it
        ours = ["".join(c for c, _ in word) for word in split([(c, 0) for c in cleaned])]
        assert ours == [word for word, _ in reference.pre_tokenize_str(cleaned)]
    print(f"\nsplit: {len(codes)} code points, differences 0")
