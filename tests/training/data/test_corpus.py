"""Reading a corpus: documents of sentences."""

import gzip

import pytest

from minibert.training.data.corpus import hold_out, read_documents, sentences, split_documents


def test_a_sentence_a_line_and_a_blank_line_between_documents(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfOne.\r\n  Two. \r\n \r\n\r\nThree.\r\n")
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress("\nVier\u2028und f\u00fcnf.".encode()))
    documents = read_documents([tmp_path / "a.txt", tmp_path / "b.txt.gz"])
    assert documents == [["One.", "Two."], ["Three."], ["Vier\u2028und f\u00fcnf."]]
    assert sentences(documents) == ["One.", "Two.", "Three.", "Vier\u2028und f\u00fcnf."]
    assert read_documents(str(tmp_path / "a.txt")) == documents[:2]
    assert split_documents("\n \n") == []


def test_what_cannot_be_read_is_said(tmp_path):
    good, bad = tmp_path / "good.txt", tmp_path / "bad.txt"
    good.write_text("One.\n")
    for content, message in [
        (b"One.\nTw\xff.\n", "bad.txt, line 2: byte 0xff"),
        (b"\n \n", "corpus is empty.*bad.txt"),
    ]:
        bad.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            read_documents([bad])
    assert read_documents([good, bad]) == [["One."]], "one empty file among others does no harm"
    for paths, message in [
        ([], "corpus is empty.*no file"),
        ([tmp_path], "is a directory; name its files"),
        ([good, tmp_path / "." / "good.txt"], "given twice"),
    ]:
        with pytest.raises(ValueError, match=message):
            read_documents(paths)
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_documents([good, tmp_path / "missing.txt"])


def test_the_last_documents_are_held_out():
    documents = [[str(number)] for number in range(20)]
    kept, held_out = hold_out(documents)
    assert kept + held_out == documents and len(held_out) == 2
    assert hold_out(documents[:2]) == ([["0"]], [["1"]]), "at least one on either side"
    with pytest.raises(ValueError, match="one document"):
        hold_out(documents[:1])
