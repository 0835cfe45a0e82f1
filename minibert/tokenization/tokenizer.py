"""BertTokenizer: text → clean → split → WordPiece → ids.

Read it from the top. A text is a list of characters, each with its place in the original text;
every cleaning rule takes such a list and returns a new one; `split` cuts it into words, `wordpiece`
cuts a word into pieces of the vocabulary. `BertTokenizer.pieces` puts that together and is the
definition. `BertTokenizer.ids` is the same made fast; ``explain.py`` tells every step.

Ids and offsets are those of the ``tokenizers`` library with the official ``tokenizer.json``, on
every Unicode character.

Source: Devlin 2019 §3 (the input, [CLS] and [SEP]); Wu 2016 §4.1 (the WordPiece vocabulary); the
normalizer, pre_tokenizer, model and post_processor named in the official ``tokenizer.json``.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

from minibert.tokenization import unicode_tables as unicode
from minibert.tokenization.files import (
    LONGEST_WORD,
    PretrainedTokenizer,
    collect_added_tokens,
    numbered_words,
)

if TYPE_CHECKING:
    from torch import Tensor

CACHED_SPANS = 50_000  # how many spans of text are remembered with their ids
CACHED_LENGTH = 50  # characters; a longer span is unlikely to come again

ASCII_WORD = re.compile(r"[A-Za-z0-9]+|[^A-Za-z0-9 ]")  # what `split` does to printable ASCII
BLANKS = re.escape("".join(sorted(unicode.SPACE)))
SPAN = re.compile(f"[^{BLANKS}]+")
SPAN_OR_IDEOGRAPH = re.compile(f"[{unicode.CJK.regex()}]|[^{BLANKS}{unicode.CJK.regex()}]+")
SURROGATE = re.compile("[\ud800-\udfff]")

# What `decode` tidies in a token, as the decoder named in tokenizer.json does.
TIDY = [(f" {mark}", mark) for mark in (".", "?", "!", ",", "n't", "'m", "'s", "'ve", "'re")]

Character = tuple[str, int]  # one character, and its place in the original text
Rule = Callable[[list[Character]], list[Character]]


# ------------------------------------------------------------------------------------------ clean


def clean(text: list[Character]) -> list[Character]:
    """Drop control characters; make a blank of every other kind of white space."""
    kept = [(c, place) for c, place in text if not unicode.is_dropped(c)]
    return [(" " if c in unicode.SPACE else c, place) for c, place in kept]


def space_cjk(text: list[Character]) -> list[Character]:
    """Put blanks around every CJK ideograph, which makes it a word of its own."""
    spaced = []
    for c, place in text:
        spaced += [(" ", place), (c, place), (" ", place)] if unicode.is_cjk(c) else [(c, place)]
    return spaced


def strip_accents(text: list[Character]) -> list[Character]:
    """Take characters apart (NFD), then drop the non-spacing marks: é → e, U+0301 → e.

    NFD also sorts the marks behind a letter by their combining class (``rank``; 0 begins a new
    group, counted in ``letters``). The reference assigns the original places only after that sort,
    from left to right: it moves on at each part that was the first of its character. This shows
    only in the offsets of the rare marks that stay.
    """
    parts = [part for c, _ in text for part in unicode.decompose(c)]
    if any(rank for _, rank, _ in parts):
        letters = accumulate(rank == 0 for _, rank, _ in parts)  # which letter a mark belongs to
        ordered = sorted(zip(letters, parts, strict=True), key=lambda pair: (pair[0], pair[1][1]))
        parts = [part for _, part in ordered]  # marks of one class have kept their order
    stripped = []
    index = -1
    for c, _, begins in parts:
        index += begins
        if c not in unicode.MARK:
            stripped.append((c, text[index][1]))
    return stripped


def lower_case(text: list[Character]) -> list[Character]:
    """Lower-case each character by itself; İ becomes two."""
    return [(small, place) for c, place in text for small in unicode.lower(c)]


# ------------------------------------------------------------------------------------------ split


def split(text: list[Character]) -> list[list[Character]]:
    """Cut into words at blanks; every punctuation character is a word of its own."""
    words = [[]]
    for character in text:
        c = character[0]
        if c == " ":
            words.append([])
        elif c in unicode.PUNCTUATION:
            words += [[character], []]
        else:
            words[-1].append(character)
    return [word for word in words if word]


# -------------------------------------------------------------------------------------- WordPiece


def wordpiece(word: str, vocab: Mapping[str, int]) -> tuple[list[str], str]:
    """Cut a word into pieces of the vocabulary, taking the longest that fits each time.

    A piece that does not begin the word is written with ``##`` before it. Returns the pieces, and
    the rest of the word if no piece fits there. A word with such a rest is [UNK] as a whole, and so
    is one of more than 100 characters.

    Source: WordpieceTokenizer of google-research/bert (with its limit of 200 characters), whose
    vocabulary was learnt as in Wu 2016 §4.1; the limit of 100 is that of ``tokenizer.json``.
    """
    if len(word) > LONGEST_WORD:
        return [], word
    pieces = []
    start = 0
    while start < len(word):
        for end in range(len(word), start, -1):
            piece = ("##" if start else "") + word[start:end]
            if piece in vocab:
                break
        else:
            break  # nothing fits here
        pieces.append(piece)
        start = end
    return pieces, word[start:]


def cut(segments: list[list[int]], room: int) -> list[list[int]]:
    """Cut one or two segments to ``room`` tokens: the longer one first, then both alike.

    Source: ``_truncate_seq_pair`` of google-research/bert; of an odd room, equals give the second
    one more, as the reference does.
    """
    if len(segments) == 1:
        return [segments[0][:room]]
    first, second = map(len, segments)
    short = min(first, second, room // 2)
    keep = (short, room - short) if first <= second else (room - short, short)
    return [segment[:length] for segment, length in zip(segments, keep, strict=True)]


# ---------------------------------------------------------------------------------- the tokenizer


class Piece(NamedTuple):
    """A token, and the span ``text[start:end]`` it was made from."""

    token: str
    id: int
    start: int
    end: int


class Batch(NamedTuple):
    """Tokenised texts: with special tokens, cut to the maximal length, not padded."""

    ids: list[list[int]]
    type_ids: list[list[int]]  # 0 in [CLS] first [SEP], 1 in second [SEP]
    lengths: list[int]  # how many tokens there were before cutting, special tokens counted

    @property
    def truncated(self) -> int:
        """How many texts were cut."""
        return sum(len(row) < length for row, length in zip(self.ids, self.lengths, strict=True))


class Inputs(dict):
    """What a model takes, by name; ``inputs.input_ids`` is ``inputs["input_ids"]``."""

    def __getattr__(self, name: str) -> Tensor:
        """The tensor of that name."""
        if name in self:
            return self[name]
        raise AttributeError(f"{name!r} is not there; there are {', '.join(self)}")

    def to(self, device: object) -> Inputs:
        """The same on a device."""
        return Inputs({name: tensor.to(device) for name, tensor in self.items()})


class BertTokenizer(PretrainedTokenizer):
    """Text to ids and back; `from_pretrained` and `save_pretrained` are in ``files.py``.

    Args:
        vocab: the tokens in the order of their ids, or a dict token → id.
        do_lower_case: lower-case the text, as an uncased vocabulary needs it.
        strip_accents: drop accents; None does so when ``do_lower_case``.
        tokenize_chinese_chars: make every CJK ideograph a word.
        model_max_length: how many tokens the model takes; kept and saved, never applied.
        segments: number the tokens of a second segment 1; False: 0, as all others.
        unk_token, sep_token, pad_token, cls_token, mask_token: the special tokens; each must be in
            the vocabulary (for a model that never saw a [MASK], ``mask_token=None``).
        added_tokens: further tokens to take from the text as they stand, as dicts of the form in
            ``tokenizer.json``: ``content``, and if need be ``id`` and ``special``.

    Raises:
        ValueError: the vocabulary is empty, has a token twice or gaps in its ids, or lacks a
            special token.
    """

    def __init__(
        self,
        vocab: Sequence[str] | Mapping[str, int],
        *,
        do_lower_case: bool = True,
        strip_accents: bool | None = None,
        tokenize_chinese_chars: bool = True,
        model_max_length: int | None = None,
        segments: bool = True,
        unk_token: str = "[UNK]",
        sep_token: str = "[SEP]",
        pad_token: str = "[PAD]",
        cls_token: str = "[CLS]",
        mask_token: str | None = "[MASK]",
        added_tokens: Iterable[Mapping] = (),
    ) -> None:
        self.do_lower_case = do_lower_case
        self.strip_accents = strip_accents
        self.tokenize_chinese_chars = tokenize_chinese_chars
        self.model_max_length = model_max_length
        self.segments = segments
        self.rules = cleaning_rules(do_lower_case, strip_accents, tokenize_chinese_chars)
        self.special_tokens_map = {
            "unk_token": unk_token,
            "sep_token": sep_token,
            "pad_token": pad_token,
            "cls_token": cls_token,
            "mask_token": mask_token,
        }
        self.words = numbered_words(vocab)  # all that WordPiece may find
        self.added_tokens = collect_added_tokens(self.special_tokens_map, added_tokens, self.words)
        self.vocab = self.words | {token["content"]: token["id"] for token in self.added_tokens}
        self._tokens = list(self.vocab)  # in the order of their ids
        self.unk_token, self.unk_token_id = unk_token, self.vocab[unk_token]
        self.sep_token, self.sep_token_id = sep_token, self.vocab[sep_token]
        self.pad_token, self.pad_token_id = pad_token, self.vocab[pad_token]
        self.cls_token, self.cls_token_id = cls_token, self.vocab[cls_token]
        self.mask_token, self.mask_token_id = mask_token, self.vocab.get(mask_token)
        self.all_special_ids = [token["id"] for token in self.added_tokens if token["special"]]

        literals = sorted((token["content"] for token in self.added_tokens), key=len, reverse=True)
        self._literals = re.compile("|".join(map(re.escape, literals)))  # the longest comes first
        # `ids` cuts at white space and ideographs, so it must not be able to cut a literal.
        self._by_span = not any(c in unicode.SPACE or unicode.is_cjk(c) for c in "".join(literals))
        self._cache: dict[str, list[int]] = {}
        self._warned = False
        plain = self.words.keys() - literals
        if not do_lower_case and plain == {word.lower() for word in plain}:
            warnings.warn(
                "no word of this vocabulary has a capital letter, yet do_lower_case is False: "
                "capitalised words become [UNK]; an uncased vocabulary needs do_lower_case=True",
                stacklevel=2,
            )
        capitals = sum(word != word.lower() for word in plain) if do_lower_case else 0
        if capitals > max(20, len(plain) / 20):  # uncased vocabularies have a few of them, too
            warnings.warn(
                f"{capitals} of the {len(plain)} words of this vocabulary have capital letters, "
                "yet do_lower_case is True: no text has them then; a cased vocabulary needs "
                "do_lower_case=False",
                stacklevel=2,
            )

    # ------------------------------------------------------------------- text → pieces

    def pieces(self, text: str) -> list[Piece]:
        """Return the tokens of a text with their ids and places, without [CLS] and [SEP].

        Raises:
            TypeError: not a str.
            ValueError: the text has an unpaired surrogate.
        """
        found = []
        for span, literal in self.cut_out_literals(text):
            if literal:
                found.append(self._piece(literal, span))
                continue
            for rule in self.rules:
                span = rule(span)
            for word in split(span):
                found += self._pieces_of_word(word)
        return found

    def cut_out_literals(self, text: str) -> Iterator[tuple[list[Character], str | None]]:
        """The text as characters, cut where a special token is spelt out: exact case, anywhere."""
        _check_text(text)
        characters = list(zip(text, range(len(text)), strict=True))
        start = 0
        for match in self._literals.finditer(text):
            yield characters[start : match.start()], None
            yield characters[match.start() : match.end()], match.group()
            start = match.end()
        yield characters[start:], None

    def _pieces_of_word(self, word: list[Character]) -> list[Piece]:
        tokens, rest = wordpiece("".join(c for c, _ in word), self.words)
        if rest:
            return [self._piece(self.unk_token, word)]
        ends = list(accumulate(len(token.removeprefix("##")) for token in tokens))
        places = zip(tokens, [0, *ends[:-1]], ends, strict=True)  # the ## is not in the text
        return [self._piece(token, word[start:end]) for token, start, end in places]

    def _piece(self, token: str, characters: list[Character]) -> Piece:
        return Piece(token, self.vocab[token], characters[0][1], characters[-1][1] + 1)

    # ------------------------------------------------------------------- the same, fast

    def ids(self, text: str) -> list[int]:
        """Return the ids of a text, without [CLS] and [SEP]: those of `pieces`, but faster.

        No rule looks across white space or past a CJK ideograph, so a span between two of them
        always gives the same ids, and they are remembered.
        """
        if isinstance(text, str) and text.isascii() and text.isprintable() and self._by_span:
            spans = text.split()
        else:
            _check_text(text)
            pattern = SPAN_OR_IDEOGRAPH if self.tokenize_chinese_chars else SPAN
            spans = pattern.findall(text) if self._by_span else [text]
        ids = []
        for span in spans:
            known = self._cache.get(span)
            ids += self._ids_of_span(span) if known is None else known
        if not self._warned and self.unk_token_id in ids:
            self._warn_if_mostly_unknown(text, ids)
        return ids

    def _ids_of_span(self, span: str) -> list[int]:
        if span.isascii() and span.isprintable() and not self._literals.search(span):
            ids = []
            for word in ASCII_WORD.findall(span.lower() if self.do_lower_case else span):
                tokens, rest = wordpiece(word, self.words)
                ids += [self.unk_token_id] if rest else [self.words[token] for token in tokens]
        else:
            ids = [piece.id for piece in self.pieces(span)]
        if len(span) <= CACHED_LENGTH:
            if len(self._cache) >= CACHED_SPANS:
                self._cache.clear()
            self._cache[span] = ids
        return ids

    def _warn_if_mostly_unknown(self, text: str, ids: list[int]) -> None:
        unknown = ids.count(self.unk_token_id)
        if 2 * unknown > len(ids):
            self._warned = True
            warnings.warn(
                f"the vocabulary knows {'little' if unknown < len(ids) else 'nothing'} of "
                f"{text[:60]!r}: {unknown} of {len(ids)} tokens are {self.unk_token} "
                "(said once; minibert explain TEXT tells why)",
                stacklevel=3,
            )

    # ------------------------------------------------------------------- with special tokens

    def tokenize(self, text: str) -> list[str]:
        """Return the tokens of a text, without [CLS] and [SEP]."""
        return self.convert_ids_to_tokens(self.ids(text))

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """Return ``(start, end)`` in the original text for each of ``ids(text)``."""
        return [(piece.start, piece.end) for piece in self.pieces(text)]

    def encode(
        self, text: str, text_pair: str | None = None, *, max_length: int | None = None
    ) -> list[int]:
        """Return the ids of ``[CLS] text [SEP]``, or of ``[CLS] text [SEP] text_pair [SEP]``.

        ``text_pair=""`` is no pair here (in a batch it is). See `encode_batch` for ``max_length``.
        """
        return self.encode_batch([text], [text_pair or None], max_length=max_length).ids[0]

    def encode_batch(
        self,
        texts: str | Sequence[str],
        pairs: str | Sequence[str | None] | None = None,
        *,
        max_length: int | None = None,
    ) -> Batch:
        """Tokenise texts, each with its second segment if it has one; nothing is padded.

        A second segment of ``""`` is one without tokens, as in transformers: ``[CLS] text [SEP]
        [SEP]``; None is no second segment, and so is ``""`` beside a single ``str``. What is longer
        than ``max_length`` is cut at the end, in a pair the longer segment first.

        Raises:
            ValueError: not as many pairs as texts, or no room for the special tokens.
        """
        texts = [texts] if isinstance(texts, str) else texts
        pairs = [pairs or None] if isinstance(pairs, str) else pairs
        pairs = [None] * len(texts) if pairs is None else pairs
        if len(pairs) != len(texts):
            raise ValueError(f"{len(texts)} texts, {len(pairs)} pairs; give each its own or None")
        batch = Batch([], [], [])
        for text, pair in zip(texts, pairs, strict=True):
            segments = [self.ids(text)] if pair is None else [self.ids(text), self.ids(pair)]
            specials = len(segments) + 1
            length = sum(map(len, segments)) + specials
            if max_length is not None and length > max_length:
                if max_length < specials:
                    raise ValueError(
                        f"max_length={max_length} has no room for {specials} special tokens; "
                        "give more, or None not to cut"
                    )
                segments = cut(segments, max_length - specials)
            batch.ids.append([self.cls_token_id])
            batch.type_ids.append([0])
            for number, segment in enumerate(segments):
                batch.ids[-1] += [*segment, self.sep_token_id]
                batch.type_ids[-1] += [number if self.segments else 0] * (len(segment) + 1)
            batch.lengths.append(length)
        return batch

    def __call__(
        self,
        texts: str | Sequence[str],
        pairs: str | Sequence[str | None] | None = None,
        *,
        max_length: int | None = None,
        padding: str | bool = "longest",
        truncation: bool = False,
        return_tensors: str = "pt",
    ) -> Inputs:
        """Return what a model takes: ``input_ids``, ``attention_mask``, ``token_type_ids``.

        A str is a batch of one. ``padding="longest"`` pads to the longest text of the batch,
        ``padding="max_length"`` to ``max_length``. ``truncation=True`` cuts to ``max_length``, or
        else to ``model_max_length``; a ``max_length`` cuts without it, too.

        Shapes: each (B, T) int64; the mask is 1 on tokens, 0 on padding.
        """
        padding = "longest" if padding is True else padding
        if return_tensors != "pt":
            raise ValueError(f"return_tensors is {return_tensors!r}; 'pt' is what is returned")
        if truncation and max_length is None:
            max_length = self.model_max_length
        if padding not in ("longest", "max_length"):
            raise ValueError(f"padding is {padding!r}; give 'longest' or 'max_length'")
        if padding == "max_length" and max_length is None:
            raise ValueError("padding='max_length' needs a max_length")
        batch = self.encode_batch(texts, pairs, max_length=max_length)
        return self.pad(batch.ids, batch.type_ids, max_length if padding == "max_length" else None)

    def pad(
        self,
        ids: Sequence[Sequence[int]],
        type_ids: Sequence[Sequence[int]] | None = None,
        length: int | None = None,
    ) -> Inputs:
        """Make tensors of rows of ids, padded to the longest row or to ``length``.

        The mask is made from the lengths: a [PAD] spelt out in a text is a token like any other.

        Shapes: each (B, T) int64.
        """
        import torch  # here, so that tokenising alone needs no torch

        width = max(map(len, ids), default=0) if length is None else length
        rows_and_padding = {
            "input_ids": (ids, self.pad_token_id),
            "attention_mask": ([[1] * len(row) for row in ids], 0),
            "token_type_ids": (type_ids or [[0] * len(row) for row in ids], 0),
        }
        return Inputs({
            name: torch.tensor(
                [[*row, *[padding] * (width - len(row))] for row in rows], dtype=torch.int64
            ).reshape(len(rows), width)  # (B, T)
            for name, (rows, padding) in rows_and_padding.items()
        })

    # ------------------------------------------------------------------- ids → text

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = False) -> str:
        """Return the text of ids: pieces joined, no blank before punctuation.

        Case, accents and white space that the rules took away do not come back.
        """
        if skip_special_tokens:
            ids = [number for number in ids if number not in self.all_special_ids]
        text = ""
        for number, token in enumerate(self.convert_ids_to_tokens(ids)):
            if number:
                token = token[2:] if token.startswith("##") else " " + token
            for untidy, tidy in TIDY:
                token = token.replace(untidy, tidy)
            text += token
        return text

    def convert_ids_to_tokens(self, ids: int | Iterable[int]) -> str | list[str]:
        """Return the token of an id, or the tokens of many.

        Raises:
            ValueError: an id outside the vocabulary.
        """
        if not isinstance(ids, int):
            return [self.convert_ids_to_tokens(int(number)) for number in ids]
        if not 0 <= ids < len(self._tokens):
            raise ValueError(f"id {ids}: this vocabulary has the ids 0 to {len(self._tokens) - 1}")
        return self._tokens[ids]

    def convert_tokens_to_ids(self, tokens: str | Iterable[str]) -> int | list[int]:
        """Return the id of a token, or the ids of many; what is not there has the id of [UNK]."""
        if isinstance(tokens, str):
            return self.vocab.get(tokens, self.unk_token_id)
        return [self.vocab.get(token, self.unk_token_id) for token in tokens]

    def __len__(self) -> int:
        """The number of tokens, added ones counted."""
        return len(self._tokens)

    def __repr__(self) -> str:
        """The size and the rules in force."""
        return f"BertTokenizer({len(self)} tokens; {', '.join(r.__name__ for r in self.rules)})"


def cleaning_rules(lower: bool, strip: bool | None = None, cjk: bool = True) -> list[Rule]:
    """The cleaning rules in force, in their order."""
    rules = [
        (clean, True),
        (space_cjk, cjk),
        (strip_accents, lower if strip is None else strip),
        (lower_case, lower),
    ]
    return [rule for rule, in_force in rules if in_force]


def _check_text(text: str) -> None:
    if not isinstance(text, str):
        raise TypeError(f"a text must be a str, not {type(text).__name__}: {text!r:.60}")
    if surrogate := SURROGATE.search(text):
        raise ValueError(
            f"character {surrogate.start()} of the text is U+{ord(surrogate.group()):04X}, half of "
            "a surrogate pair and no character; was the text decoded with the wrong codec?"
        )
