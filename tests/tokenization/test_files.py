"""Vocabularies that are wrong, and the official files read, refused and written."""

import itertools
import json
import warnings

import pytest
import torch

from minibert.tokenization.files import numbered_words
from minibert.tokenization.tokenizer import BertTokenizer

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] want ##want ##ed un , Un".split()


def write_vocab_txt(directory, words=WORDS, **config):
    (directory / "vocab.txt").write_text("".join(f"{word}\n" for word in words), encoding="utf-8")
    if config:
        (directory / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


@pytest.fixture
def saved(tmp_path):
    """A saved tokenizer, and a function that changes its tokenizer.json and reads it."""
    BertTokenizer(WORDS).save_pretrained(tmp_path)
    path = tmp_path / "tokenizer.json"

    def reread(change):
        content = json.loads(path.read_text(encoding="utf-8"))
        change(content)
        path.write_text(json.dumps(content), encoding="utf-8")
        (tmp_path / "minibert.json").unlink(missing_ok=True)
        return BertTokenizer.from_pretrained(tmp_path)

    return reread


# ---------------------------------------------------------------------- vocabularies


def test_words_are_numbered_in_the_order_of_their_ids():
    for vocab in ({"b": 1, "a": 0}, ["a", "b"]):
        assert list(numbered_words(vocab).items()) == [("a", 0), ("b", 1)]
    with pytest.raises(TypeError, match="from_pretrained reads files"):
        BertTokenizer("vocab.txt")


@pytest.mark.parametrize(
    ("vocab", "message"),
    [
        ([], "the vocabulary is empty"),
        (["a", "b", "a"], "has 'a' twice: ids 0, 2"),
        (["a", ""], "id 1 of the vocabulary is '', not one line of text"),
        (["a\nb"], "not one line of text"),
        ({"a": 0, "b": 2}, "gives 'b' the id 2 where 1 is next"),
        ({"a": 0, "b": 0}, "gives 'b' the id 0 where 1 is next"),
        ({"a": "0"}, "must give every word an integer"),
    ],
)
def test_what_is_wrong_with_a_vocabulary_is_said(vocab, message):
    with pytest.raises(ValueError, match=message):
        numbered_words(vocab)


def test_special_tokens_are_named_if_missing_and_may_have_other_names():
    for token in WORDS[:5]:
        says = rf"has no '\[{token[1:-1]}\]', which is to be the {token[1:-1].lower()}_token"
        with pytest.raises(ValueError, match=says):
            BertTokenizer([word for word in WORDS if word != token])
    words = ["<p>" if word == "[PAD]" else word for word in WORDS if word != "[MASK]"]
    tokenizer = BertTokenizer(words, pad_token="<p>", mask_token=None)
    assert tokenizer.pad_token_id == 0 and tokenizer.mask_token_id is None
    assert tokenizer.tokenize("un<p>") == ["un", "<p>"]


@pytest.mark.parametrize(
    ("token", "message"),
    [
        ({"content": "foo", "id": 3}, "'foo' has the id 3; 11 is its own"),
        ({"content": "want", "id": 0}, "'want' has the id 0; 5 is its own"),
        ({"content": "foo", "id": "11"}, "not an integer"),
        ({"content": ""}, "has no content"),
        ("foo", "has no content"),
        *(
            ({"content": "foo", flag: True}, f"'foo' has {flag}: true; only false is known")
            for flag in ("single_word", "lstrip", "rstrip", "normalized")
        ),
    ],
)
def test_what_an_added_token_cannot_be_is_said(token, message):
    with pytest.raises(ValueError, match=message):
        BertTokenizer(WORDS, added_tokens=[token])


# ---------------------------------------------------------------------- vocab.txt


def test_vocab_txt_alone_is_enough_and_tokenizer_config_has_its_settings(tmp_path):
    write_vocab_txt(tmp_path)
    tokenizer = BertTokenizer.from_pretrained(tmp_path)
    assert tokenizer.encode("UNwanted") == [2, 8, 6, 7, 3]
    assert tokenizer.model_max_length is None
    config = {"do_lower_case": False, "tokenize_chinese_chars": False, "model_max_length": 256}
    write_vocab_txt(tmp_path, **config, mask_token={"content": "want"}, tokenizer_class=None)
    tokenizer = BertTokenizer.from_pretrained(tmp_path)
    assert tokenizer.tokenize("Un") == ["Un"] and not tokenizer.tokenize_chinese_chars
    assert tokenizer.mask_token == "want" and tokenizer.model_max_length == 256
    write_vocab_txt(tmp_path, model_max_length=int(1e30))  # how "no limit" is written
    assert BertTokenizer.from_pretrained(tmp_path).model_max_length is None


def test_lines_may_end_as_on_windows_and_begin_with_a_byte_order_mark(tmp_path):
    text = "\ufeff" + "\r\n".join([*WORDS, "a\u2028b\x85c"])  # other breaks belong to the word
    (tmp_path / "vocab.txt").write_bytes(text.encode("utf-8"))
    tokenizer = BertTokenizer.from_pretrained(tmp_path)
    assert list(tokenizer.vocab) == [*WORDS, "a\u2028b\x85c"]


def test_added_tokens_beside_vocab_txt(tmp_path):
    added = {"12": {"content": "<b>"}, "11": {"content": "<a>", "special": True}}
    write_vocab_txt(tmp_path, added_tokens_decoder=added, extra_special_tokens=["want", "<c>"])
    tokenizer = BertTokenizer.from_pretrained(tmp_path)
    assert tokenizer.ids("<c><b>un<a>wanted") == [13, 12, 8, 11, 5, 1]
    assert tokenizer.all_special_ids == [0, 1, 2, 3, 4, 5, 11, 13]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("vocab.txt", b"", "vocabulary is empty"),
        ("vocab.txt", b"[PAD]\n\n[UNK]\n", "id 1 of the vocabulary is ''"),
        ("vocab.txt", b"[PAD]\n\xff\xfe\n", "vocab.txt, line 2: byte 0xff is not UTF-8"),
        ("vocab.txt", b"a\nb\n", r"has no '\[UNK\]'"),
        ("tokenizer.json", b'{"model": ', "tokenizer.json, line 1: not valid JSON"),
        ("added_tokens.json", b'{"foo": 11}', "added_tokens.json does not say"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path, file, content, message):
    write_vocab_txt(tmp_path)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        BertTokenizer.from_pretrained(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_without_vocabulary_it_is_said_how_to_save_one(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="neither tokenizer.json nor vocab.txt") as error:
        BertTokenizer.from_pretrained(tmp_path)
    assert f"tokenizer.save_pretrained({str(tmp_path)!r})" in str(error.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"do_lower_case": 7}, "do_lower_case is 7, not"),
        ({"cls_token": 7}, "cls_token is 7, not"),
        ({"strip_accents": 7}, "strip_accents is 7, not"),
        ({"unk_token": ["x"]}, r"unk_token is \['x'\], not"),
        ({"model_input_names": 1}, "model_input_names is 1; a list"),
        ({"additional_special_tokens": "<a>"}, "tokens is '<a>'; a list of tokens"),
        ({"added_tokens_decoder": {"x": {"content": "<a>"}}}, "a token under 'x', which is no id"),
        ({"added_tokens_decoder": {"11": {"content": []}}}, "has no content to look for"),
        ({"tokenizer_class": "BertJapaneseTokenizer"}, "'BertJapaneseTokenizer'; only BertTokeni"),
        ({"tokenizer_class": "PreTrainedTokenizerFast"}, "'PreTrainedTokenizer'; only BertTok"),
    ],
)
def test_settings_that_are_not_implemented_are_named(tmp_path, config, message):
    write_vocab_txt(tmp_path, **config)
    with pytest.raises(ValueError, match=message) as error:
        BertTokenizer.from_pretrained(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_blanks_at_the_end_of_a_word_in_a_vocabulary_do_not_count(tmp_path):
    """As transformers reads the file."""
    write_vocab_txt(tmp_path)
    path = tmp_path / "vocab.txt"
    words = path.read_text().split("\n")[:-1]
    ends = itertools.cycle([" ", "\t", "\r", "\u00a0", "\u2028", "\x85", "\u3000"])
    path.write_bytes("".join(map("{}{}\n".format, words, ends)).encode())
    assert [*BertTokenizer.from_pretrained(tmp_path).vocab] == words


# ---------------------------------------------------------------------- tokenizer.json


def test_what_is_saved_is_read_back_from_either_file(tmp_path):
    settings = {"do_lower_case": False, "strip_accents": True, "tokenize_chinese_chars": False}
    added = [{"content": "<a>", "special": True}, {"content": "b c"}]
    tokenizer = BertTokenizer(WORDS, **settings, model_max_length=77, added_tokens=added)
    tokenizer.save_pretrained(tmp_path)
    from_json = BertTokenizer.from_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "minibert.json").unlink()
    from_txt = BertTokenizer.from_pretrained(tmp_path)
    for again in (from_json, from_txt):
        kept = {name: value for name, value in vars(again).items() if name != "_cache"}
        assert kept == {name: value for name, value in vars(tokenizer).items() if name != "_cache"}


def test_tokenizer_config_decides_and_a_disagreement_is_said(saved, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # two spellings of the same settings are none
        saved(lambda content: content["normalizer"].update(strip_accents=True))
    with pytest.warns(UserWarning, match="the latter decides, as in transformers"):
        tokenizer = saved(lambda content: content["normalizer"].update(lowercase=False))
    assert tokenizer.do_lower_case
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "TokenizersBackend"}')
    assert not BertTokenizer.from_pretrained(tmp_path).do_lower_case


def test_older_and_stored_settings_are_read_or_left_alone(saved):
    bert = {"type": "BertProcessing", "cls": ["[CLS]", 2], "sep": ["[SEP]", 3]}
    padding = {"strategy": {"Fixed": 9}, "pad_id": 0, "pad_token": "[PAD]"}
    truncation = {"max_length": 3, "strategy": "LongestFirst", "stride": 0}
    for change in (
        {"post_processor": bert},
        {"post_processor": None},
        {"truncation": truncation, "padding": padding},  # never applied
    ):
        tokenizer = saved(lambda content, change=change: content.update(change))
        assert tokenizer.encode("want want un") == [2, 5, 5, 8, 3]


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("model", {"type": "BPE"}, "model.type is 'BPE'"),
        ("model", {"continuing_subword_prefix": "@@"}, "prefix is '@@'; only '##'"),
        ("model", {"max_input_chars_per_word": 200}, "max_input_chars_per_word is 200; only 100"),
        ("model", {"vocab": ["a"]}, "model.vocab must be a JSON object, not list"),
        ("model", {"unk_token": "<unk>"}, "unk_token is '<unk>' in tokenizer.json and '.UNK.'"),
        ("normalizer", {"type": "Lowercase"}, "normalizer.type is 'Lowercase'"),
        ("normalizer", {"clean_text": False}, "clean_text is False; only True"),
        ("normalizer", {"lowercase": None}, "do_lower_case is None"),
        ("truncation", {"direction": "Left"}, "truncation.direction is 'Left'"),
        ("padding", {"direction": "Left"}, "padding.direction is 'Left'"),
        ("pre_tokenizer", {"type": "Whitespace"}, "pre_tokenizer.type is 'Whitespace'"),
        ("post_processor", {"type": "RobertaProcessing"}, "post_processor 'RobertaProcessing'"),
        ("post_processor", {"single": []}, "post_processor 'TemplateProcessing'"),
        ("post_processor", {"pair": []}, "post_processor 'TemplateProcessing'"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*disagree")
def test_what_is_not_implemented_is_refused_by_name(saved, part, change, message):
    with pytest.raises(ValueError, match=message):
        saved(lambda content: content.update({part: (content[part] or {}) | change}))


@pytest.mark.parametrize("part", ["model", "normalizer", "pre_tokenizer", "post_processor"])
def test_what_is_no_object_is_named(saved, part):
    with pytest.raises(ValueError, match=f"{part} must be a JSON object, not list"):
        saved(lambda content: content.update({part: [1]}))


def test_a_sentencepiece_vocabulary_is_called_that(saved, tmp_path):
    with pytest.raises(ValueError, match="an XLM-R vocabulary .SentencePiece, in tokenizer.json"):
        saved(lambda content: content.update(model={"type": "Unigram", "vocab": [["<s>", 0.0]]}))
    for name in ("tokenizer.json", "vocab.txt"):
        (tmp_path / name).unlink()
    (tmp_path / "sentencepiece.bpe.model").write_bytes(b"x")
    with pytest.raises(ValueError, match="an XLM-R vocabulary .SentencePiece, in sentencepiece.bp"):
        BertTokenizer.from_pretrained(tmp_path)


# ---------------------------------------------------------------------- parity

TEXTS = ["Café 中文 [MASK], ok?", "<a>Un b c wanted", "", "un " + "un" * 60]
CASES = [
    {},
    {"do_lower_case": False},
    {"strip_accents": False, "tokenize_chinese_chars": False},
    {"added_tokens": [{"content": "<a>", "special": True}, {"content": "b c"}]},
]


@pytest.fixture
def strict(caplog):
    """Nothing may warn, neither through warnings nor through logging."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ResourceWarning)
        warnings.filterwarnings("ignore", "the vocabulary knows little")  # of TEXTS: on purpose
        yield
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]


@pytest.mark.parity
@pytest.mark.parametrize("case", CASES, ids=str)
def test_transformers_opens_what_we_save(tmp_path, case, strict, capsys):
    transformers = pytest.importorskip("transformers")
    ours = BertTokenizer([*WORDS, *"caféo", "##k", "##af", "ok"], model_max_length=99, **case)
    ours.save_pretrained(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert type(theirs).__name__ == "BertTokenizer" and theirs.model_max_length == 99
    assert len(theirs) == len(ours)
    assert [theirs(text).input_ids for text in TEXTS] == [ours.encode(text) for text in TEXTS]
    pair = theirs(TEXTS[0], TEXTS[1], max_length=9, truncation=True)
    assert pair.input_ids == ours.encode(TEXTS[0], TEXTS[1], max_length=9)
    assert theirs(TEXTS[0], "").input_ids == ours.encode(TEXTS[0], "")
    assert not capsys.readouterr().err


@pytest.mark.parity
@pytest.mark.parametrize("case", CASES[:3], ids=str)
def test_we_open_what_transformers_saves(tmp_path, case, strict):
    transformers = pytest.importorskip("transformers")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    write_vocab_txt(tmp_path, [*WORDS, "Café", "cafe"], **case, extra_special_tokens=["<a>"])
    theirs = transformers.BertTokenizer.from_pretrained(tmp_path)
    theirs.save_pretrained(tmp_path / "again")
    assert not (tmp_path / "again" / "vocab.txt").exists()
    for directory in (tmp_path, tmp_path / "again"):
        ours = BertTokenizer.from_pretrained(directory)
        assert [ours.encode(text) for text in TEXTS] == [theirs(text).input_ids for text in TEXTS]


TOKEN = {"__type": "AddedToken", "content": "Un", "normalized": False, "special": True}
ADDED = {i: {"content": WORDS[i], "normalized": False, "special": True} for i in (*range(5), 8)}
KEYS = {  # of a tokenizer_config.json: values that might change the ids; "!" is refused
    "do_lower_case": [True, False],
    "strip_accents": [True, False, None],
    "tokenize_chinese_chars": [False],
    "model_max_length": [6, 6.0, 10**30],
    "max_len": [6],
    "model_input_names": [["input_ids", "attention_mask"], ["input_ids", "token_type_ids"]],
    "tokenizer_class": [
        "BertTokenizer", "BertTokenizerFast", "DistilBertTokenizer", "DistilBertTokenizerFast",
        "PreTrainedTokenizerFast", "TokenizersBackend", "!XLMRobertaTokenizer",
    ],
    "truncation_side": ["right", "!left"],
    "padding_side": ["right", "!left"],
    "split_special_tokens": [False, "!True"],
    "mask_token": ["want", TOKEN],
    "pad_token": ["un"],
    "unk_token": ["[UNK]", "!un"],
    "cls_token": ["!un"],
    "sep_token": ["!un"],
    "eos_token": ["un", TOKEN, None],
    "image_token": ["want"],
    "additional_special_tokens": [["un"], []],
    "extra_special_tokens": [["un"], {"which": "un"}],
    "added_tokens_decoder": [ADDED, {}],
    "do_basic_tokenize": [False],
    "never_split": [["Un"]],
    "clean_up_tokenization_spaces": [True],
    "max_length": [3],
    "stride": [2],
    "truncation_strategy": ["only_first"],
    "pad_to_multiple_of": [8],
    "pad_token_type_id": [1],
    "add_prefix_space": [True],
    "name_or_path": ["elsewhere"],
    "special_tokens_map_file": ["elsewhere"],
    "something_new": [7],
}


def ids_and_types(tokenizer, **options):
    """Of single texts, of pairs and of pairs that are cut, by either library."""
    texts, pairs = ["Unwanted [MASK] Ún 中", "un un", "un"], ["want un Un un", "", "un un un un"]
    whole, cut = options.pop("whole", {}), {"max_length": 6, **options.pop("cut", {})}
    batches = [
        tokenizer(texts, **whole), tokenizer(texts, pairs, **whole), tokenizer(texts, pairs, **cut)
    ]  # fmt: skip
    batches = [{name: torch.as_tensor(ids) for name, ids in batch.items()} for batch in batches]
    for batch in batches:
        batch["type_ids"] = batch.get("token_type_ids", 0 * batch["input_ids"])
        batch["type_ids"] = batch["type_ids"] * batch["attention_mask"]  # of padding: never used
    return [batch[name].tolist() for batch in batches for name in ("input_ids", "type_ids")]


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("files", ["tokenizer.json", "vocab.txt"])
@pytest.mark.parametrize("key", [None, *KEYS])
def test_every_key_is_honoured_or_harmless_or_refused_by_name(tmp_path, files, key):
    """As transformers reads the same files: the ids and segments are the same, or we refuse."""
    transformers = pytest.importorskip("transformers")
    lengths = {"padding": True, "pad_to_multiple_of": None, "return_attention_mask": True}
    lengths = {"whole": lengths, "cut": {**lengths, "truncation": True}}
    for number, value in enumerate(KEYS.get(key, [None])):
        home = tmp_path / str(number)
        BertTokenizer(WORDS, do_lower_case=False).save_pretrained(home)
        for name in ("minibert.json", "special_tokens_map.json", "vocab.txt", "tokenizer.json"):
            if name != files:
                (home / name).unlink()
        (home / "config.json").write_text('{"model_type": "bert"}')
        refused = isinstance(value, str) and value.startswith("!")
        value = {"!True": True}.get(value, value[1:]) if refused else value
        if value in ("PreTrainedTokenizerFast", "TokenizersBackend"):
            refused = files == "vocab.txt"
        elif key in ("unk_token", "cls_token", "sep_token"):
            refused &= files == "tokenizer.json"  # there they stand, too
        config = {"pad_token": "[PAD]"} | ({key: value} if key else {})
        (home / "tokenizer_config.json").write_text(json.dumps(config))
        if refused:
            with pytest.raises(ValueError, match=key):
                BertTokenizer.from_pretrained(home)
            continue
        ours, theirs = BertTokenizer.from_pretrained(home), transformers.AutoTokenizer
        theirs = theirs.from_pretrained(home)
        assert ids_and_types(ours) == ids_and_types(theirs, **lengths), value
        assert ours.model_max_length in (theirs.model_max_length, None)


@pytest.mark.parity
@pytest.mark.weights
def test_official_files_either_way(official, tmp_path, strict):
    transformers = pytest.importorskip("transformers")
    ours = BertTokenizer.from_pretrained(official)
    ours.save_pretrained(tmp_path / "ours")
    written, original = (
        json.loads((path / "tokenizer.json").read_text(encoding="utf-8"))
        for path in (tmp_path / "ours", official)
    )
    assert written == original | {"truncation": None, "padding": None}
    assert (tmp_path / "ours" / "vocab.txt").read_bytes() == (official / "vocab.txt").read_bytes()
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "vocab.txt").write_bytes((official / "vocab.txt").read_bytes())
    assert BertTokenizer.from_pretrained(tmp_path / "alone").vocab == ours.vocab
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    assert theirs(TEXTS).input_ids == ours.encode_batch(TEXTS).ids
