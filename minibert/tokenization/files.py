"""The vocabulary and the settings of a tokenizer, and the official files that hold them.

``tokenizer.json`` holds everything; ``vocab.txt`` holds the words, one a line, and
``tokenizer_config.json`` beside it the settings. Either is enough to read; all are written.

Where they contradict each other they are read as transformers reads them: it makes a BertTokenizer
of the words in one file and of the settings in ``tokenizer_config.json``, with its own defaults for
those that are not there.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from minibert.io.directory import ModelDirectory, open_directory
from minibert.io.files import atomic_directory, write_json, write_text

LONGEST_WORD = 100  # characters; a longer word is [UNK]

PARTS = {  # what a tokenizer.json must say, and what we write: the parts of BERT's tokenizer
    "normalizer": {"type": "BertNormalizer", "clean_text": True},
    "pre_tokenizer": {"type": "BertPreTokenizer"},
    "model": {
        "type": "WordPiece",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": LONGEST_WORD,
    },
}
NORMALIZER = {  # the settings of a tokenizer, and their names in a tokenizer.json
    "tokenize_chinese_chars": "handle_chinese_chars",
    "strip_accents": "strip_accents",
    "do_lower_case": "lowercase",
}
SETTINGS = tuple(NORMALIZER)
DEFAULTS = {"tokenize_chinese_chars": True, "strip_accents": None, "do_lower_case": True}
BERT = ("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer")  # classes that do the same
OTHER = ("PreTrainedTokenizer", "TokenizersBackend")  # these do what tokenizer.json says, no more
SENTENCEPIECE = ("sentencepiece.bpe.model", "spiece.model", "tokenizer.model")
ONLY = {  # keys of a tokenizer_config.json that would change the ids -> what we implement
    "truncation_side": "right",
    "padding_side": "right",
    "split_special_tokens": False,
}
FLAGS = ("single_word", "lstrip", "rstrip", "normalized")  # of an added token; we know false only
SPECIAL_TOKENS = ("unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def numbered_words(vocab: Sequence[str] | Mapping[str, int]) -> dict[str, int]:
    """Return the words and their ids, in the order of the ids.

    Raises:
        ValueError: no words, a word twice, ids that are not 0 to their number less 1.
    """
    if isinstance(vocab, (str, os.PathLike)):
        raise TypeError(f"{vocab!r} is no vocabulary; BertTokenizer.from_pretrained reads files")
    if not vocab:
        raise ValueError("the vocabulary is empty")
    given = vocab if isinstance(vocab, Mapping) else {}
    if any(type(number) is not int for number in given.values()):
        raise ValueError("the vocabulary must give every word an integer")
    numbered: dict[str, int] = {}
    for number, word in enumerate(sorted(given, key=given.__getitem__) if given else vocab):
        if not isinstance(word, str) or not word or "\n" in word or "\r" in word:
            raise ValueError(f"id {number} of the vocabulary is {word!r}, not one line of text")
        if given and given[word] != number:
            raise ValueError(
                f"the vocabulary gives {word!r} the id {given[word]} where {number} is next; "
                f"{len(given)} words have the ids 0 to {len(given) - 1}, each once"
            )
        if (first := numbered.setdefault(word, number)) != number:
            raise ValueError(f"the vocabulary has {word!r} twice: ids {first}, {number}")
    return numbered


def collect_added_tokens(
    special: Mapping[str, str | None], added: Iterable[Mapping], words: Mapping[str, int]
) -> list[dict]:
    """Return the tokens taken from a text as they stand, as ``tokenizer.json`` lists them, by id.

    They are the special tokens (``special``: role → token) and further ``added`` ones. One that is
    not among the words has the next free id.

    Raises:
        ValueError: a special token is missing, an id is taken, or a token asks for what is not
            implemented.
    """
    entries: dict[str, dict] = {token: {"special": True} for token in special.values() if token}
    for entry in added:
        token = entry.get("content") if isinstance(entry, Mapping) else None
        if not isinstance(token, str) or not token:
            raise ValueError(f"added token {entry!r} has no content to look for")
        if type(entry.get("id", 0)) is not int:
            raise ValueError(f"added token {token!r} has the id {entry['id']!r}, not an integer")
        entries[token] = entries.get(token, {}) | dict(entry)
    for role, token in special.items():
        without = token is None and role == "mask_token"
        if not without and token not in words and "id" not in entries.get(token, {}):
            raise ValueError(f"the vocabulary has no {token!r}, which is to be the {role}")
    tokens, free = [], len(words)
    for token, entry in sorted(entries.items(), key=lambda item: item[1].get("id", sys.maxsize)):
        number = words.get(token, free)
        if entry.get("id", number) != number:
            raise ValueError(f"added token {token!r} has the id {entry['id']}; {number} is its own")
        free += token not in words
        if on := [flag for flag in FLAGS if entry.get(flag)]:
            raise ValueError(f"added token {token!r} has {on[0]}: true; only false is known")
        flags = {**dict.fromkeys(FLAGS, False), "special": bool(entry.get("special"))}
        tokens.append({"id": number, "content": token, **flags})
    return sorted(tokens, key=lambda token: token["id"])


# ---------------------------------------------------------------------------------------- reading


def read_settings(directory: ModelDirectory) -> dict:
    """Return the arguments of a `BertTokenizer` from the files of a directory.

    Truncation and padding in ``tokenizer.json`` belong to whoever saved it and are not applied.

    Raises:
        FileNotFoundError: there is neither ``tokenizer.json`` nor ``vocab.txt``.
        ValueError: a file is damaged, contradicts another one, or asks for something that is not
            implemented.
    """
    config = directory.settings("tokenizer_config.json")
    if "added_tokens_decoder" not in config:  # where it is, the older file is not looked at
        config |= directory.settings("special_tokens_map.json")
    has_json = directory.has("tokenizer.json")
    kind = _kind(directory, config, has_json)
    for key, only in ONLY.items():
        _only(directory.path / "tokenizer_config.json", key, config.get(key, only), only)
    there = [name for name in (*SETTINGS, *SPECIAL_TOKENS) if name in config]
    settings = {name: _content(config[name]) for name in there}
    _check_settings(directory, settings)
    limit = config.get("model_max_length", config.get("max_len"))  # "no limit" is written as 1e30
    number = isinstance(limit, int | float) and limit < 10**9
    settings["model_max_length"] = int(limit) if number else None
    segments = kind in ("BertTokenizer", "ElectraTokenizer")
    inputs = config.get("model_input_names")
    if not isinstance(inputs, list | None):
        raise ValueError(f"{directory}: model_input_names is {inputs!r}; a list is needed")
    settings["segments"] = segments if inputs is None else "token_type_ids" in inputs

    if has_json:
        settings |= _read_tokenizer_json(directory, config, None if kind in OTHER else settings)
    elif directory.has("vocab.txt"):
        settings |= _read_vocab_txt(directory, config)
    else:
        raise FileNotFoundError(
            f"{directory} has neither tokenizer.json nor vocab.txt; if you saved a model there, "
            f"save the tokenizer there too: tokenizer.save_pretrained({str(directory)!r})"
        )
    named = [config[key] for key in config if key.endswith("_token") and key not in SPECIAL_TOKENS]
    for name in ("additional_special_tokens", "extra_special_tokens"):
        more = config.get(name) or []
        if not isinstance(more, list | dict):
            raise ValueError(f"{directory}: {name} is {more!r}; a list of tokens is needed")
        named += more.values() if isinstance(more, dict) else more
    named = [_content(token) for token in named if token is not None]
    settings["added_tokens"] += [{"content": token, "special": True} for token in named]
    _check_settings(directory, settings)
    return settings


def _check_settings(where: object, settings: Mapping) -> None:
    for name, value in settings.items():
        if name in SPECIAL_TOKENS and not isinstance(value, str | None):
            raise ValueError(f"{where}: {name} is {value!r}, not a string")
        allowed = (True, False, None) if name == "strip_accents" else (True, False)
        if name in SETTINGS and value not in allowed:
            raise ValueError(f"{where}: {name} is {value!r}, not one of {allowed}")


def _kind(directory: ModelDirectory, config: dict, has_json: bool) -> str:
    """The class of the tokenizer, if it is one that we can stand in for."""
    kind = str(config.get("tokenizer_class") or "BertTokenizer").removesuffix("Fast")
    model = directory.json("tokenizer.json").get("model") if has_json else None
    unigram = isinstance(model, dict) and model.get("type") == "Unigram"
    pieces = [name for name in SENTENCEPIECE if directory.has(name)]
    if unigram or (pieces and not has_json and not directory.has("vocab.txt")):
        raise ValueError(
            f"{directory} has an XLM-R vocabulary (SentencePiece, in "
            f"{'tokenizer.json' if unigram else pieces[0]}); minibert implements BERT's, WordPiece"
        )
    if kind not in (*BERT, *(OTHER if has_json else ())):
        raise ValueError(f"{directory}: tokenizer_class is {kind!r}; only BertTokenizer is known")
    return kind


def _in_effect(settings: Mapping) -> tuple:
    cjk, strip, lower = map(settings.get, SETTINGS)
    return lower, lower if strip is None else strip, cjk


def _read_vocab_txt(directory: ModelDirectory, config: dict) -> dict:
    if directory.has("added_tokens.json"):
        raise ValueError(
            f"{directory}: added_tokens.json does not say how its tokens are found; open and save "
            "the directory with transformers, which makes a tokenizer.json of it"
        )
    lines = directory.text("vocab.txt").removesuffix("\n").split("\n")
    lines = [line.rstrip() or line.rstrip("\r") for line in lines]  # blanks at an end do not count
    return {"vocab": lines if lines != [""] else [], "added_tokens": _decoder(directory, config)}


def _decoder(directory: ModelDirectory, config: dict) -> list[dict]:
    """The added tokens in a ``tokenizer_config.json``."""
    found, where = [], f"{directory}: added_tokens_decoder"
    for number, token in _object(config.get("added_tokens_decoder") or {}, where).items():
        if not number.isdecimal():
            raise ValueError(f"{where} has a token under {number!r}, which is no id")
        found.append({"id": int(number), **_object(token, f"{where}: {number}")})
    return _with_content(found, where)


def _with_content(tokens: object, where: object) -> list[dict]:
    """Refuse what is no list of added tokens."""
    if not isinstance(tokens, list):
        raise ValueError(f"{where}: added tokens must be a list, not {type(tokens).__name__}")
    for token in tokens:
        if not isinstance(token, dict) or not isinstance(token.get("content"), str):
            raise ValueError(f"{where}: added token {token!r} has no content to look for")
    return tokens


def _read_tokenizer_json(directory: ModelDirectory, config: dict, settings: dict | None) -> dict:
    """Its vocabulary and added tokens, and the settings in force: ``settings``, if there are any.

    Args:
        config: what the other files say.
        settings: those of them that make a BertTokenizer; None: its class does as this file says.
    """
    path, file = directory.path / "tokenizer.json", directory.json("tokenizer.json")
    model, normalizer, pre, post_processor = (
        _object(file.get(name) or {}, f"{path}: {name}")
        for name in ("model", "normalizer", "pre_tokenizer", "post_processor")
    )
    model = {"type": "WordPiece", **model}  # older files do not name it
    for part, values in (("model", model), ("normalizer", normalizer), ("pre_tokenizer", pre)):
        for key, known in PARTS[part].items():
            _only(path, f"{part}.{key}", values.get(key), known)
    for part in ("truncation", "padding"):
        stored = _object(file.get(part) or {}, f"{path}: {part}")
        if f"{part}_side" not in config:
            _only(path, f"{part}.direction", stored.get("direction", "Right"), "Right")
    added = _with_content(file.get("added_tokens") or [], path)
    named = {token["content"]: token.get("id") for token in added}
    more = _decoder(directory, config)
    said = {token["content"]: token["id"] for token in more}
    special = {_content(config.get(name)) for name in SPECIAL_TOKENS}
    different = [
        token
        for token, number in named.items()
        if said and said.get(token, number if token in special else None) != number
    ]
    if different:
        raise ValueError(
            f"{directory}: the added token {different[0]!r} of tokenizer.json has another id, or "
            "none, in the added_tokens_decoder of tokenizer_config.json; make the files agree"
        )
    added = added + [token for token in more if token["content"] not in named]
    decided = {name: normalizer.get(json_name) for name, json_name in NORMALIZER.items()}
    _check_settings(path, decided)
    if settings is not None:
        in_force = {name: settings.get(name, value) for name, value in DEFAULTS.items()}
        if _in_effect(in_force) != _in_effect(decided):
            warnings.warn(
                f"{directory}: tokenizer.json and tokenizer_config.json disagree on "
                f"{' or '.join(SETTINGS)}; the latter decides, as in transformers: {in_force}",
                stacklevel=4,
            )
        decided = in_force
    decided["vocab"] = _object(model.get("vocab"), f"{path}: model.vocab")
    decided |= {"added_tokens": added, "unk_token": model.get("unk_token")}
    if post_processor:  # a file without one is read as BERT's: [CLS] A [SEP] B [SEP]
        decided["cls_token"], decided["sep_token"] = _ends(post_processor, path)
    for name in SPECIAL_TOKENS:
        here, there = decided.get(name), _content(config.get(name))
        if None not in (here, there) and here != there:
            raise ValueError(
                f"{directory}: {name} is {here!r} in tokenizer.json and {there!r} beside it; make "
                "the files agree"
            )
    return decided


def _ends(post_processor: dict, path: Path) -> tuple[str, str]:
    """The names of [CLS] and [SEP] in a post-processor, if it is BERT's."""
    try:
        if post_processor["type"] == "BertProcessing":
            return post_processor["cls"][0], post_processor["sep"][0]
        cls, sep = (part["SpecialToken"]["id"] for part in post_processor["single"][::2])
        ids = (post_processor["special_tokens"][token]["ids"][0] for token in (cls, sep))
        if post_processor == _template((cls, sep), ids):
            return cls, sep
    except (KeyError, IndexError, TypeError, ValueError):
        pass
    raise ValueError(
        f"{path}: post_processor {post_processor.get('type')!r} does not make [CLS] A [SEP] "
        "and [CLS] A [SEP] B [SEP]; nothing else is implemented"
    )


def _content(token: object) -> object:
    """A token may be written as a string or as a dict with its flags."""
    return token.get("content") if isinstance(token, dict) else token


def _only(where: object, key: str, value: object, known: object) -> None:
    if value != known:
        raise ValueError(f"{where}: {key} is {value!r}; only {known!r} is implemented")


def _object(value: object, what: object) -> dict:
    if not isinstance(value, dict):
        raise ValueError(f"{what} must be a JSON object, not {type(value).__name__}")
    return value


# ---------------------------------------------------------------------------------------- both


class PretrainedTokenizer:
    """What makes a tokenizer of a directory and a directory of a tokenizer.

    A class that mixes this in takes the arguments that `read_settings` returns, and has the
    attributes of `BertTokenizer`: the SETTINGS, ``model_max_length``, ``segments``, ``words`` (what
    WordPiece may find), ``added_tokens``, ``vocab`` (both) and ``special_tokens_map``.
    """

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | os.PathLike, *, lower_case: bool = False, **hub: object
    ) -> PretrainedTokenizer:
        """Read the tokenizer of a directory or of a hub name; ``hub``: see ``hub.locate``.

        ``tokenizer.json`` has the words, or else ``vocab.txt``; ``tokenizer_config.json`` has the
        settings, and is warned about where ``tokenizer.json`` disagrees. Truncation and padding
        stored in ``tokenizer.json`` are never applied.

        Args:
            name_or_path: a directory, or a name for ``hub.locate``.
            lower_case: lower-case texts, though these files do not ask for it.
            hub: options of ``hub.locate``.

        Raises:
            FileNotFoundError: no such model, or it has neither file.
            ValueError: a file is damaged, or asks for something that is not implemented.
        """
        directory = open_directory(name_or_path, **hub)
        settings = read_settings(directory)
        if lower_case:  # accents stay or go as they did
            strip = settings.get("strip_accents", DEFAULTS["strip_accents"])
            was = settings.get("do_lower_case", DEFAULTS["do_lower_case"])
            settings |= {"do_lower_case": True, "strip_accents": was if strip is None else strip}
        try:
            return cls(**settings)
        except ValueError as error:
            raise ValueError(f"{directory}: {error}") from None

    def save_pretrained(self, directory: str | os.PathLike) -> None:
        """Write ``vocab.txt``, ``tokenizer.json`` and their two companions, all or none.

        transformers and sentence-transformers open the directory and give the same ids.
        """
        special, added = self.special_tokens_map, self.added_tokens
        settings = {name: getattr(self, name) for name in SETTINGS}
        config = {"tokenizer_class": "BertTokenizer", **settings, **special}
        if self.model_max_length is not None:
            config["model_max_length"] = self.model_max_length
        if not self.segments:
            config["model_input_names"] = ["input_ids", "attention_mask"]
        if any(token["content"] not in self.words for token in added):  # vocab.txt cannot say it
            config["added_tokens_decoder"] = {
                str(token["id"]): {key: value for key, value in token.items() if key != "id"}
                for token in added
            }
        ends = (special["cls_token"], special["sep_token"])
        normalizer = {json_name: getattr(self, name) for name, json_name in NORMALIZER.items()}
        file = {
            **{"version": "1.0", "truncation": None, "padding": None, "added_tokens": added},
            "normalizer": {**PARTS["normalizer"], **normalizer},
            "pre_tokenizer": PARTS["pre_tokenizer"],
            "post_processor": _template(ends, map(self.vocab.get, ends)),
            "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
            "model": {**PARTS["model"], "unk_token": special["unk_token"], "vocab": self.words},
        }
        with atomic_directory(directory) as staging:
            write_text(staging / "vocab.txt", "".join(f"{word}\n" for word in self.words))
            write_json(staging / "tokenizer.json", file)
            write_json(staging / "tokenizer_config.json", config)
            write_json(staging / "special_tokens_map.json", special)


def _template(names: tuple[str, str], ids: Iterable[int]) -> dict:
    """``[CLS] A [SEP]`` and ``[CLS] A [SEP] B [SEP]`` as ``tokenizer.json`` spells them."""
    cls, sep = names
    parts = [(cls, 0), ("A", 0), (sep, 0), ("B", 1), (sep, 1)]  # with the number of the segment
    pair = [
        {"SpecialToken" if i % 2 == 0 else "Sequence": {"id": name, "type_id": segment}}
        for i, (name, segment) in enumerate(parts)
    ]
    tokens = {
        name: {"id": name, "ids": [number], "tokens": [name]}
        for name, number in zip(names, ids, strict=True)
    }
    form = {"type": "TemplateProcessing", "single": pair[:3], "pair": pair}
    return {**form, "special_tokens": tokens}
