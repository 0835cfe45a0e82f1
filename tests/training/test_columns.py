"""Columns that are not what they seem: times, names, numbers of sentences, parts of a data set."""


import pytest
from support.written import CLASSIFY, OPINIONS, WORDS, both, read, table

BELONG = ("text", "pair", "negative?")
LABELS = ("text", "pair?", "labels")
NAMES = "Anna Bea Cleo Dora Edda Fay Gina Hanna Ida Julia Kim Lea".split()
OTHER = {  # what stands beside a text, for row i
    "a time of Google Forms": lambda i: f"2024/11/{i + 1:02} 9:10:12 {'AP'[i % 2]}M GMT+1",
    "a time of Twitter": lambda i: f"Mon Apr {i + 6:02} 22:19:00 PDT 2009",
    "a time in words": lambda i: f"{'MTF'[i % 3]}, November {i + 1}, 2024 at 9:10 AM Eastern Time",
    "a date in Chinese": lambda i: f"2024年11月{i + 1}日 上午9:10",
    "a name": lambda i: f"{NAMES[i]} {'Maria ' * (i == 3)}Berg",
    "a name and an address": lambda i: f"{NAMES[i]} Berg <{NAMES[i]}@school.org>",
    "an address": lambda i: f"https://school.org/pages/{i}-a",
}


# --------------------------------------------------------------------------------------- texts


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("what", OTHER)
def test_what_stands_beside_a_text_is_no_text(tmp_path, what, header):
    rows = [(OTHER[what](i), text, label) for i, (text, label) in enumerate(OPINIONS)]
    content = "When or who,What did you think,Overall\n" * header + table(rows)
    found, said = read(tmp_path / "a.csv", content, CLASSIFY, header=header)
    assert both(found) == OPINIONS and "pair" not in found[0].values, said
    assert f"not used: {'When or who' if header else '1'!r}" in said


def test_two_columns_of_texts_are_asked_about_if_the_header_does_not_name_them(tmp_path):
    rows = [(text, other, label) for (text, label), (other, _) in zip(OPINIONS, OPINIONS[::-1],
                                                                      strict=True)]  # fmt: skip
    names = "What was good,What was bad,Overall\n"
    with pytest.raises(ValueError, match=r"which columns are text\?.* --columns text=1 "
                       r"\(or both texts: --columns text=1 pair=2\)"):
        read(tmp_path / "a.csv", names + table(rows), CLASSIFY)
    found, _ = read(tmp_path / "a.csv", "Title,Description,Class\n" + table(rows), CLASSIFY)
    assert found[0].texts == rows[0][:2]
    counted = [(str(i), *row) for i, row in enumerate(rows)]
    with pytest.raises(ValueError, match=r"--columns text=2 \(or both texts"):
        read(tmp_path / "a.csv", table(counted), CLASSIFY, header=False)


# --------------------------------------------------------------------------------------- tokens


@pytest.mark.parametrize(
    "first, at",
    [
        (lambda sentence, i: [f"doc{sentence}"], 2), (lambda sentence, i: [str(sentence)], 2),
        (lambda sentence, i: [str(i)], 2), (lambda sentence, i: [str(10 * sentence + i)], 2),
        (lambda sentence, i: ["doc1", str(sentence), str(i)], 4),
        (lambda sentence, i: [f"{sentence}-{i}"], 2), (lambda sentence, i: [f"{sentence}.{i}"], 2),
        (lambda sentence, i: [str(6 * i), str(6 * i + 5)], 3),
        (lambda sentence, i: [], 1),
    ],
)  # fmt: skip
def test_a_number_or_a_document_in_front_is_no_word(tmp_path, first, at):
    sentences = [[("Peter", "B-PER"), ("sings", "O")], [("Oslo", "B-LOC"), ("rests", "O")]]
    content = "\n".join("".join("\t".join([*first(n, i), word, tag]) + "\n"
                                for i, (word, tag) in enumerate(sentence))
                        for n, sentence in enumerate(sentences))  # fmt: skip
    found, said = read(tmp_path / "a.tsv", content, WORDS)
    assert [e.values["tokens"] for e in found] == [["Peter", "sings"], ["Oslo", "rests"]]
    assert found[0].values["tags"] == ["B-PER", "O"]
    assert at == 1 or f"the words are column {at}" in said
