"""A corpus: plain text files as documents of sentences.

A sentence a line, a blank line between documents, as the pre-training code of google-research/bert
reads them; a new file begins a new document. What a sentence is, whoever writes the file decides.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

from minibert.io.files import no_such_file
from minibert.training.data.files import text_of

Document = list[str]  # its sentences


def read_documents(paths: str | os.PathLike | Iterable[str | os.PathLike]) -> list[Document]:
    """Read the documents of one or more files, which may be gzipped.

    Blanks around a sentence are dropped.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not UTF-8 (the message names the file and the line), a file given twice, or
            no sentence in any of them.
    """
    paths = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    documents, seen = [], set()
    for path in map(Path, paths):
        if not path.is_file():
            if path.is_dir():
                raise ValueError(f"{path} is a directory; name its files, as in {path}/*.txt")
            raise no_such_file(path)
        if path.resolve() in seen:
            raise ValueError(f"{path} is given twice: its text would count double")
        seen.add(path.resolve())
        documents += split_documents(text_of(path))
    if not documents:
        named = ", ".join(map(str, paths)) or "no file"
        raise ValueError(f"the corpus is empty: no sentence in {named}; a sentence a line is read")
    return documents


def split_documents(text: str) -> list[Document]:
    """The documents of a text, cut at its blank lines; none of them is empty."""
    documents: list[Document] = [[]]
    for line in text.split("\n"):  # not splitlines, which cuts at U+2028 and the like too
        if sentence := line.strip():
            documents[-1].append(sentence)
        elif documents[-1]:
            documents.append([])
    return documents if documents[-1] else documents[:-1]


def sentences(documents: Iterable[Document]) -> list[str]:
    """All sentences, in their order."""
    return list(chain.from_iterable(documents))


def hold_out(
    documents: Sequence[Document], share: float = 0.1
) -> tuple[list[Document], list[Document]]:
    """Cut off the last documents, this share of their number, to measure on: (others, held out).

    The last ones and not some at random: neighbours are chapters of one book, and what was seen of
    it would help with what is held out.

    Raises:
        ValueError: there is one document, so that nothing would be left.
    """
    if len(documents) < 2:
        raise ValueError(
            "the corpus is one document, so none can be held out: put a blank line between "
            "documents, or give more files"
        )
    cut = len(documents) - max(1, round(share * len(documents)))
    return list(documents[:cut]), list(documents[cut:])
