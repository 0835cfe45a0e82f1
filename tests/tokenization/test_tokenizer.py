"""The tokenizer: by hand on a vocabulary of a dozen words, and against `tokenizers` on much."""

import csv
import json
import pickle
import random
import subprocess
import sys
import warnings
from itertools import pairwise, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.code_points import CHARACTERS, some_or
from support.sweeps import WHOLE

from minibert.tokenization import tokenizer as module
from minibert.tokenization.explain import explain
from minibert.tokenization.tokenizer import BertTokenizer, cut, split, wordpiece

# google-research/bert's own fixture, and the two special tokens it does without.
WORDS = "[UNK] [CLS] [SEP] want ##want ##ed wa un runn ##ing , [PAD] [MASK]".split()


@pytest.fixture
def tokenizer():
    return BertTokenizer(WORDS)


def quietly(act, *arguments, **options):
    """Do something that must not warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return act(*arguments, **options)


def characters(text):
    return [(c, place) for place, c in enumerate(text)]


# ---------------------------------------------------------------------- the rules, by hand


@pytest.mark.parametrize(
    ("rule", "text", "expected"),
    [
        (module.clean, "a\x00b\u200b\ufffd\tc\u00a0\x0bd", "a0 b2  5 c6  7 d9"),
        (module.space_cjk, "a中あ", "a0  1 中1  1 あ2"),
        (module.strip_accents, "né\u0301e", "n0 e1 e3"),
        # U+1D165, a stem (class 216), stays and is sorted before the acute (230), which goes: the
        # reference deals out the places after that.
        (module.strip_accents, "a\u0301\U0001d165", "a0 \U0001d1651"),
        (module.lower_case, "ΟΣİ", "ο0 σ1 i2 \u03072"),  # character by character: no final ς
    ],
)
def test_a_rule_gives_characters_with_their_places(rule, text, expected):
    assert " ".join(f"{c}{place}" for c, place in rule(characters(text))) == expected


def test_split_at_blanks_and_around_punctuation():
    words = [[f"{c}{place}" for c, place in word] for word in split(characters("ab  c,d^ "))]
    assert words == [["a0", "b1"], ["c4"], [",5"], ["d6"], ["^7"]]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("unwanted", (["un", "##want", "##ed"], "")),
        ("want", (["want"], "")),
        ("wanting", (["want", "##ing"], "")),
        ("unwantedx", (["un", "##want", "##ed"], "x")),
        ("xwant", ([], "xwant")),
        ("ed", ([], "ed")),  # only as ##ed
        ("", ([], "")),
        ("ab" * 50, (["ab"] + ["##ab"] * 49, "")),  # a word may have 100 characters
        ("ab" * 50 + "a", ([], "ab" * 50 + "a")),  # and no more
        ("abc", (["ab"], "c")),  # greedy: "a ##bc" would fit
    ],
)
def test_wordpiece_takes_the_longest_that_fits(word, expected):
    vocab = dict.fromkeys([*WORDS, "a", "ab", "##ab", "##bc"], 0)
    assert wordpiece(word, vocab) == expected


# ---------------------------------------------------------------------- text to ids, by hand


def test_the_fixture_of_google_research(tokenizer):
    text = "UNwantéd,running"
    assert tokenizer.tokenize(text) == ["un", "##want", "##ed", ",", "runn", "##ing"]
    assert tokenizer.ids(text) == [7, 4, 5, 10, 8, 9]
    assert tokenizer.encode(text) == [1, 7, 4, 5, 10, 8, 9, 2]
    for nothing in ("", "  ", "\x00\u200b"):
        assert tokenizer.ids(nothing) == [] and tokenizer.encode(nothing) == [1, 2]


def test_offsets_point_into_the_original_text(tokenizer):
    text = " UN\u200bwante\u0301d,xyz"
    pieces = tokenizer.pieces(text)
    spans = [text[piece.start : piece.end] for piece in pieces]
    assert spans == ["UN", "want", "e\u0301d", ",", "xyz"]
    assert [piece.token for piece in pieces] == ["un", "##want", "##ed", ",", "[UNK]"]
    assert tokenizer.offsets(text) == [(1, 3), (4, 8), (8, 11), (11, 12), (12, 15)]


def test_special_tokens_are_found_anywhere_in_exact_case(tokenizer):
    assert tokenizer.tokenize("un[MASK]want [SEP]") == ["un", "[MASK]", "want", "[SEP]"]
    with pytest.warns(UserWarning, match="knows nothing"):
        assert "[MASK]" not in tokenizer.tokenize("[mask]")


@pytest.mark.filterwarnings("ignore")
def test_settings_switch_the_rules():
    words = [*WORDS, "É", "é", "e", "E", "中a"]

    def tokens(text, **settings):
        return BertTokenizer(words, **settings).tokenize(text)

    assert tokens("É") == ["e"]
    assert tokens("É", strip_accents=False) == ["é"]
    assert tokens("É", do_lower_case=False) == ["É"]
    assert tokens("É", do_lower_case=False, strip_accents=True) == ["E"]
    assert tokens("un 中a") == ["un", "[UNK]", "[UNK]"]
    assert tokens("un 中a", tokenize_chinese_chars=False) == ["un", "中a"]


def test_added_tokens_are_taken_as_they_stand():
    added = [{"content": "<e>", "special": True}, {"content": "<e>un"}, {"content": "a b"}]
    tokenizer = BertTokenizer(WORDS, added_tokens=added)
    assert len(tokenizer) == 16 and tokenizer.convert_tokens_to_ids("a b") == 15
    text = "want<e>want<e>un,a ba  b"  # the longest literal wins; "a  b" is not "a b"
    tokens = ["want", "<e>", "want", "<e>un", ",", "a b", "[UNK]", "[UNK]"]
    assert tokenizer.tokenize(text) == [piece.token for piece in tokenizer.pieces(text)] == tokens
    assert tokenizer.decode(tokenizer.ids("un<e>"), skip_special_tokens=True) == "un"
    assert tokenizer.tokenize("<E>" + " want" * 4)[:3] == ["[UNK]"] * 3  # not by WordPiece


# ---------------------------------------------------------------------- pairs, cutting, padding


def test_a_pair_is_two_segments(tokenizer):
    batch = tokenizer.encode_batch(["un", "want", "want"], ["runn want", None, ""])
    assert batch.ids == [[1, 7, 2, 8, 3, 2], [1, 3, 2], [1, 3, 2, 2]]
    assert batch.type_ids == [[0, 0, 0, 1, 1, 1], [0, 0, 0], [0, 0, 0, 1]]
    assert tokenizer.encode("un", "runn want") == batch.ids[0]
    assert tokenizer.encode("want", "") == tokenizer.encode("want", None) == batch.ids[1]
    assert tokenizer("want", "")["input_ids"].tolist() == [batch.ids[1]]  # one text, as there
    assert tokenizer.encode("want", " ") == batch.ids[2]  # blank, but there


def test_the_longer_segment_is_cut_first():
    """And of two that are as long the first; all lengths stand against the reference below."""
    for first, second, room, kept in (
        ("abcde", "", 3, ["abc", ""]),
        ("abcde", "12", 6, ["abcd", "12"]),
        ("abcdefgh", "12345678", 7, ["abc", "1234"]),
        ("abcdefgh", "1234567", 0, ["", ""]),
    ):
        assert cut([first, second], room) == kept


def test_cutting_is_counted(tokenizer):
    texts, pairs = ["want want want want", "want", "un un"], ["runn", None, "un un un"]
    batch = tokenizer.encode_batch(texts, pairs, max_length=6)
    assert batch.ids == [[1, 3, 3, 2, 8, 2], [1, 3, 2], [1, 7, 2, 7, 7, 2]]
    assert batch.type_ids == [[0, 0, 0, 0, 1, 1], [0, 0, 0], [0, 0, 0, 1, 1, 1]]
    assert batch.lengths == [8, 3, 8] and batch.truncated == 2
    assert tokenizer.encode_batch(texts, pairs).truncated == 0
    assert tokenizer.encode("want un", max_length=2) == [1, 2]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (dict(texts="want", max_length=1), "max_length=1 has no room for 2 special tokens"),
        (dict(texts="want", pairs="want", max_length=2), "max_length=2 has no room for 3 special"),
        (dict(texts=["a", "b"], pairs=["c"]), "2 texts, 1 pairs"),
        (dict(texts="un", padding=3), "padding is 3; give 'longest' or 'max_length'"),
        (dict(texts="un", padding="max_length"), "needs a max_length"),
    ],
)
def test_a_wrong_call_is_named(tokenizer, wrong, said):
    with pytest.raises(ValueError, match=said):
        tokenizer(**wrong)


def test_call_pads_to_the_longest_and_masks_padding_only(tokenizer):
    batch = tokenizer(["want[PAD]", "un"], ["", "want want"])
    assert batch["input_ids"].tolist() == [[1, 3, 11, 2, 2, 11], [1, 7, 2, 3, 3, 2]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1]]
    assert batch["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 0], [0, 0, 0, 1, 1, 1]]
    assert all(tensor.dtype == torch.int64 for tensor in batch.values())

    padded = tokenizer("un", max_length=5, padding="max_length")
    assert padded["input_ids"].tolist() == [[1, 7, 2, 11, 11]]
    assert tokenizer("un", "want")["input_ids"].tolist() == [[1, 7, 2, 3, 2]]
    assert tokenizer([])["input_ids"].shape == (0, 0)
    padded = {name: rows.tolist() for name, rows in tokenizer.pad([[1, 3, 2], [1, 2]]).items()}
    assert padded["input_ids"] == [[1, 3, 2], [1, 2, 11]]
    assert padded["attention_mask"] == [[1, 1, 1], [1, 1, 0]]
    assert padded["token_type_ids"] == [[0, 0, 0], [0, 0, 0]]


# ---------------------------------------------------------------------- ids to text


def test_decode_joins_pieces_and_tidies(tokenizer):
    ids = [1, 7, 4, 5, 10, 8, 9, 2]
    assert tokenizer.decode(ids) == "[CLS] unwanted, running [SEP]"
    assert tokenizer.decode(ids, skip_special_tokens=True) == "unwanted, running"
    assert tokenizer.decode([5, 3]) == "##ed want"  # nothing before it to join
    assert tokenizer.decode([]) == ""


def test_tokens_and_ids(tokenizer):
    assert tokenizer.convert_tokens_to_ids(["un", "nothing"]) == [7, 0]
    assert tokenizer.convert_tokens_to_ids("un") == tokenizer.vocab["un"] == 7
    assert tokenizer.convert_ids_to_tokens([7, 0]) == ["un", "[UNK]"]
    assert tokenizer.convert_ids_to_tokens(7) == "un"
    assert len(tokenizer) == 13
    assert (tokenizer.pad_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id) == (11, 1, 2)
    assert (tokenizer.unk_token_id, tokenizer.mask_token_id) == (0, 12)
    assert tokenizer.all_special_ids == [0, 1, 2, 11, 12]

    for wrong in (-1, 13):
        with pytest.raises(ValueError, match=f"id {wrong}: this vocabulary has the ids 0 to 12"):
            tokenizer.decode([1, wrong])


# ---------------------------------------------------------------------- what is said


@pytest.mark.parametrize(
    "method", [BertTokenizer.ids, BertTokenizer.pieces, BertTokenizer.encode, explain]
)
def test_an_unpaired_surrogate_is_named(tokenizer, method):
    with pytest.raises(ValueError, match=r"character 3 of the text is U\+D83D"):
        method(tokenizer, "un \ud83d")


@pytest.mark.parametrize("wrong", [None, b"un", 1.5, ["un"]])
def test_what_is_not_a_text_is_named(tokenizer, wrong):
    with pytest.raises(TypeError, match=f"must be a str, not {type(wrong).__name__}"):
        tokenizer.encode(wrong)


def test_what_a_vocabulary_does_not_fit_is_said_once(tokenizer):
    quietly(tokenizer.encode, "xyz want")  # half of it is known
    with pytest.warns(UserWarning, match="knows nothing of 'xyz ☃'"):
        tokenizer.encode("xyz ☃")
    quietly(tokenizer.encode, "xyz")
    with pytest.warns(UserWarning, match="little of 'want xyz ☃': 2 of 3 tokens are"):
        BertTokenizer(tokenizer.vocab).encode_batch(["want", "want xyz ☃", "xyz"])
    with pytest.warns(UserWarning, match="no word of this vocabulary has a capital letter"):
        BertTokenizer(WORDS, do_lower_case=False)
    quietly(BertTokenizer, [*WORDS, "Want"], do_lower_case=False)
    capitals = [*WORDS, *(f"{letter}x" for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ")]
    with pytest.warns(UserWarning, match=f"26 of the {len(capitals) - 5} words .* needs do_lower"):
        BertTokenizer(capitals)
    quietly(BertTokenizer, capitals[:-10])  # a few do not make a vocabulary cased


def test_explain_tells_every_step(tokenizer):
    explanation = explain(tokenizer, "É\u200bd\u00a0[MASK]中unwant,WANTED " + "a" * 101)
    steps = [(step.rule, step.start, step.end, step.after) for step in explanation.steps]
    assert steps == [
        ("clean", 1, 2, ""),
        ("clean", 3, 4, " "),
        ("strip_accents", 0, 1, "E"),
        ("lower_case", 0, 1, "e"),
        ("split", 0, 4, "ed"),
        ("wordpiece", 0, 3, "[UNK]"),
        ("added token", 4, 10, "[MASK]"),
        ("space_cjk", 10, 11, " 中 "),
        *[("lower_case", place, place + 1, c) for place, c in enumerate("wanted", 18)],
        ("split", 10, 126, "中 | unwant | , | wanted | " + "a" * 101),
        ("wordpiece", 10, 11, "[UNK]"),
        ("wordpiece", 11, 17, "un ##want"),
        ("wordpiece", 17, 18, ","),
        ("wordpiece", 18, 24, "want ##ed"),
        ("wordpiece", 25, 126, "[UNK]"),
    ]
    assert [piece.token for piece in explanation.pieces] == [
        token for step in explanation.steps if step.rule in ("wordpiece", "added token")
        for token in step.after.split()
    ]  # fmt: skip
    shown = str(explanation)
    assert "U+200B ZERO WIDTH SPACE" in shown and "U+0301 dropped" in shown
    assert "no piece of the vocabulary fits 'ed'" in shown and "101 characters, more than" in shown

    (_, step) = explain(tokenizer, "unwantx").steps
    assert step.why == "unknown: no piece of the vocabulary fits 'x' after un ##want"


# ---------------------------------------------------------------------- the fast path

TEXTS = st.text(
    st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from(" \t\n,[]éÉ\u0301中want")),
    max_size=30,
)


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(TEXTS, st.sampled_from([*WORDS, " ", "UNwanted", "<e> "]))), st.data())
def test_the_fast_path_gives_what_the_definition_gives(parts, data):
    added = data.draw(st.sampled_from([(), [{"content": "<e>"}], [{"content": "中 e"}]]))
    cjk, lower = data.draw(st.booleans()), data.draw(st.booleans())
    tokenizer = BertTokenizer(
        [*WORDS, *"éeaE中", "##中", "##a", "##e"],
        tokenize_chinese_chars=cjk,
        do_lower_case=lower,
        added_tokens=added,
    )
    text = "".join(parts)
    expected = [piece.id for piece in tokenizer.pieces(text)]
    assert tokenizer.ids(text) == expected
    assert tokenizer.ids(text) == expected  # from the cache
    for control in "\x00\x0b\x1c\x7f\x85\u200b":  # some of them white space to Python
        assert tokenizer.ids(f"un{control}want") == tokenizer.ids("unwant")


def test_the_cache_is_bounded(tokenizer, monkeypatch):
    monkeypatch.setattr(module, "CACHED_SPANS", 3)
    for text in ("want un", "runn wa", "want ,", "want" * 20):
        assert tokenizer.ids(text) == [piece.id for piece in tokenizer.pieces(text)]
        assert len(tokenizer._cache) <= 3
    assert "want" * 20 not in tokenizer._cache  # too long to come again


def test_what_is_returned_is_the_callers_own_and_a_tokenizer_can_be_pickled(tokenizer):
    tokenizer.ids("want").append(99)
    assert tokenizer.ids("want") == [3]
    assert pickle.loads(pickle.dumps(tokenizer)).encode("unwanted") == [1, 7, 4, 5, 2]  # noqa: S301


def test_tokenising_and_opening_a_directory_need_no_torch():
    code = (
        "import sys, minibert.io.directory; "
        "from minibert.tokenization.tokenizer import BertTokenizer; "
        f"BertTokenizer({WORDS!r}).encode('want'); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ---------------------------------------------------------------------- parity

SETTINGS = [
    {"lowercase": lower, "strip_accents": strip, "handle_chinese_chars": cjk}
    for lower, strip, cjk in product((True, False), (None, True, False), (True, False))
]
SLOW = pytest.mark.slow
MANY = 16_700 if WHOLE else 2_000  # texts for each of twelve settings


@pytest.fixture(scope="module")
def both(official):
    """Our tokenizer and the reference's, from the official file with any settings."""
    tokenizers = pytest.importorskip("tokenizers")
    content = json.loads((official / "tokenizer.json").read_text(encoding="utf-8"))

    def build(**changes):
        settings = content["normalizer"] = content["normalizer"] | SETTINGS[0] | changes
        reference = tokenizers.Tokenizer.from_str(json.dumps(content))
        reference.no_truncation()
        reference.no_padding()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an uncased vocabulary under cased settings
            ours = BertTokenizer(
                content["model"]["vocab"],
                do_lower_case=settings["lowercase"],
                strip_accents=settings["strip_accents"],
                tokenize_chinese_chars=settings["handle_chinese_chars"],
            )
        return ours, reference

    return build


def assert_same(ours, reference, texts):
    """Ids by the fast path, ids and offsets by the definition: equal to the reference's."""
    for text, theirs in zip(
        texts, reference.encode_batch(texts, add_special_tokens=False), strict=True
    ):
        pieces = ours.pieces(text)
        if (
            [piece.id for piece in pieces] != theirs.ids
            or [(piece.start, piece.end) for piece in pieces] != theirs.offsets
            or ours.ids(text) != theirs.ids
        ):
            tokens = list(zip(theirs.tokens, theirs.offsets, strict=True))
            pytest.fail(f"{text!r}: {ours.ids(text)} {pieces}, but {theirs.ids} {tokens}")


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("lowercase", [True, False])
@some_or(CHARACTERS)
def test_parity_on_every_character(both, lowercase, codes):
    ours, reference = both(lowercase=lowercase)
    codes = codes if lowercase or WHOLE else codes[::4]
    blocks = (codes[start : start + 64] for start in range(0, len(codes), 64))
    assert_same(
        ours, reference, ["".join(f"{chr(c)} m{chr(c)}r " for c in block) for block in blocks]
    )
    print(f"\n{lowercase=}: {len(codes)} code points, alone and in a word: mismatches 0")


def generated(count, seed):
    """Texts from all planes, and what is known to be hard."""
    pick = random.Random(seed)
    borders = [0, 0x250, 0x370, 0x2000, 0x3000, 0xAC00, 0xE000, 0x10000, 0x20000, 0x40000, 0x110000]
    planes = [(0x20, 0x7E)] * 2 + [(first, last - 1) for first, last in pairwise(borders)]
    hard = [
        *"[PAD] [UNK] [CLS] [SEP] [MASK] [mask] [ MASK] un[MASK]able".split(), "\t", "\n", "\r\n",
        " ", "  ", "\u00a0", "\u3000", "\x00", "\x85", "\u200b", "\u200d", "\ufeff", "\ufffd",
        "e\u0301", "é", "É", "İ", "ΟΣ", "ß", "ﬁ", "Å", "\u0323\u0307", "\u1e9b\u0323", "\u0344",
        "한국어", "\u1112\u1161\u11ab", "日本語", "中文", "ไทย", "हिन्दी", "עִבְרִית", "العَرَبِيَّة",
        "👩‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "🇩🇪", "don't", "U.S.A.", "3.14", "a_b", "http://x.org/?q=1",
        "unaffable", "tokenization", "x" * 101, "a" * 100, "ab" * 51, "é" * 101, "\U0001d15e\u0301",
        "\u302e\u0301", "\U0001d165\u0323", "\u1d16\u0315",
    ]  # fmt: skip
    words = "the a of running playing guitar unbelievable Paris NASA embeddings 2024".split()
    for _ in range(count):
        parts = []
        for _ in range(pick.randint(1, 6)):
            kind = pick.random()
            if kind < 0.4:
                first, last = pick.choice(planes)
                drawn = [chr(pick.randint(first, last)) for _ in range(pick.randint(1, 5))]
                parts.append("".join(c for c in drawn if not "\ud800" <= c <= "\udfff"))
            else:
                parts.append(pick.choice(hard if kind < 0.75 else words))
            if pick.random() < 0.4:
                parts.append(" ")
        yield "".join(parts)


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("setting", range(len(SETTINGS)))
@pytest.mark.parametrize("count", [500, pytest.param(MANY, marks=SLOW)], ids=["some", "many"])
def test_parity_on_generated_texts(both, setting, count):
    ours, reference = both(**SETTINGS[setting])
    texts = list(generated(count, seed=setting))
    assert_same(ours, reference, texts)
    print(f"\n{SETTINGS[setting]}: {len(texts)} generated texts: mismatches 0")


@pytest.mark.parity
@pytest.mark.data
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize("every", [20, pytest.param(1 if WHOLE else 3, marks=SLOW)])
def test_parity_on_the_data_sets(both, data, lowercase, every):
    ours, reference = both(lowercase=lowercase)
    texts = []
    for name in ("train", "dev", "test"):
        with open(data / "stsb" / f"{name}.csv", encoding="utf-8", newline="") as file:
            texts += [text for row in csv.reader(file) for text in row[:2]]
        with open(data / "sst5" / f"{name}.tsv", encoding="utf-8", newline="") as file:
            texts += [line.split("\t")[0] for line in file]
    texts = texts[::every]
    assert_same(ours, reference, texts)
    theirs = reference.encode_batch(texts)
    assert ours.encode_batch(texts).ids == [encoding.ids for encoding in theirs]
    print(f"\n{lowercase=}: {len(texts)} sentences of the data sets: mismatches 0")


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
def test_parity_of_pairs_cut_at_any_length(both):
    ours, reference = both()
    pick = random.Random(7)
    texts = [" ".join(["want"] * pick.randint(0, 12)) for _ in range(200)]
    pairs = [" ".join(["more"] * pick.randint(0, 12)) for _ in range(200)]
    for max_length in range(3, 20):
        reference.enable_truncation(max_length)
        batch = ours.encode_batch(texts, pairs, max_length=max_length)
        theirs = reference.encode_batch(list(zip(texts, pairs, strict=True)))
        assert batch.ids == [encoding.ids for encoding in theirs]
        assert batch.type_ids == [encoding.type_ids for encoding in theirs]
    print(f"\n{17 * len(texts)} pairs, cut to 3 to 19 tokens: mismatches 0")


@pytest.mark.parity
def test_parity_of_decode(both):
    ours, reference = both()
    pick = random.Random(11)
    rows = [[number] for number in range(len(ours))]
    rows += [[pick.randrange(len(ours)) for _ in range(12)] for _ in range(2_000)]
    rows += [[pick.randrange(999, 1064) for _ in range(12)] for _ in range(1_000)]  # punctuation
    for skip in (False, True):
        ours_said = [ours.decode(row, skip_special_tokens=skip) for row in rows]
        assert ours_said == reference.decode_batch(rows, skip_special_tokens=skip)
    print(f"\n{len(rows)} rows of ids decoded: mismatches 0")
