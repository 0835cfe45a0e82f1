"""Columns that are not what they seem: times, names, numbers of sentences, parts of a data set."""


import json
import re

import pytest
from support.written import CLASSIFY, OPINIONS, PAIR, WORDS, both, read, table

LABELS = ("text", "labels")
BELONG = ("text", "pair", "negative?")
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
                       r"\(or with one text more: --columns text=1 pair=2\)"):
        read(tmp_path / "a.csv", names + table(rows), CLASSIFY)
    found, _ = read(tmp_path / "a.csv", "Title,Description,Class\n" + table(rows), CLASSIFY)
    assert found[0].texts == rows[0][:2]
    counted = [(str(i), *row) for i, row in enumerate(rows)]
    with pytest.raises(ValueError, match=r"--columns text=2 \(or with one text more"):
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


# ------------------------------------------------------------------- columns beside those needed


PAIRS = [("How old is he", "What is his age"), ("How old is he", "Where is he")]


@pytest.mark.parametrize(
    "name, yes, no",
    [
        ("is_duplicate", "1", "0"), ("paraphrase", "1.0", "0.0"), ("Score", "True", "False"),
        ("gold_label", "entailment", "contradiction"), ("label", "entailment", "neutral"),
        ("similar", "yes", "no"), ("quality", 1, 0), ("label", True, False),
    ],
)  # fmt: skip
def test_pairs_that_do_not_belong_together_are_left_out(tmp_path, name, yes, no):
    rows = [{"sentence1": a, "sentence2": b, name: yes if i % 3 else no}
            for i, (a, b) in enumerate(PAIRS * 3)]  # fmt: skip
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    found, said = read(tmp_path / "a.jsonl", lines, BELONG)
    assert [example.line for example in found] == [2, 3, 5, 6]
    assert f"2 of 6 pairs are left out: {name!r} says {no!s}, so they do not belong" in said
    with pytest.raises(ValueError, match=f"no pair belongs together: {name!r} says {no!s} of all"):
        read(tmp_path / "a.jsonl", json.dumps(rows[0]), BELONG)


@pytest.mark.parametrize(
    "names, values, message",
    [
        ("sentence1,sentence2,score", "4.5 0.5 3.0", "'score' has 3 values, .*finetune similarity"),
        ("premise,hypothesis,label", "0 1 2", "'label' has 3 values, such as 0, 1, 2: which say"),
        ("premise,hypothesis,label", "0 1 1", "'label' has 2 values, such as 1, 0: which"),
        ("question,sentence,label", "0 1 1", "as in RTE and QNLI, call it is_duplicate"),
        ("sentence1,sentence2,label", "0 1 1", "as in RTE and QNLI, call it is_duplicate"),
        ("sentence1,sentence2,relatedness_score", "1 5 2", "'relatedness_score' has 3 values"),
        *[(f"sentence1,sentence2,{name}", values, f"'{name}' has 2 values, such as .*take it out")
          for name, values in (("related", "1 1 0"), ("Urteil", "ja nein"), ("关系", "是 否 否"),
                               ("y", "same other same other"), ("target", "TRUE FALSE"))],
        *[(f"sentence1,sentence2,{name}", values, None)
          for name, values in (("language", "de fr de fr"), ("note", "so well"), ("round", "1 1"))],
    ],
)
def test_how_pairs_belong_together_is_asked(tmp_path, names, values, message):
    rows = [(f"this is text {i}", f"and another one, {i}", v) for i, v in enumerate(values.split())]
    content = names + "\n" + table(rows)
    if message is None:
        assert len(read(tmp_path / "a.csv", content, BELONG)[0]) == len(rows)
    else:
        with pytest.raises(ValueError, match=message):
            read(tmp_path / "a.csv", content, BELONG)


@pytest.mark.parametrize("parts", ["train dev test", "Training Validation", "train test_a",
                                   "1train", "训练集 测试集", "trainer developer"])  # fmt: skip
@pytest.mark.parametrize("roles", [CLASSIFY, ("text",)])
def test_parts_of_a_data_set_in_one_file(tmp_path, parts, roles):
    parts = parts.split()
    rows = [(text, label, parts[i % len(parts)]) for i, (text, label) in enumerate(OPINIONS)]
    content = "text,label,split\n" + table(rows)
    if parts[0] in ("1train", "trainer"):
        assert len(read(tmp_path / "a.csv", content, roles)[0]) == 12
    else:
        told = ", ".join(f"{part} {12 // len(parts)}" for part in parts)
        with pytest.raises(ValueError, match=f"'split' names parts: {told}.*a file of its own"):
            read(tmp_path / "a.csv", content, roles)
    assert len(read(tmp_path / "a.csv", content, roles, blank=True)[0]) == 12
    flags = "text,label,is_test\n" + table([(*row[:2], str(i % 2)) for i, row in enumerate(rows)])
    with pytest.raises(ValueError, match="'is_test' names parts: 0 6, 1 6"):
        read(tmp_path / "a.csv", flags, roles)


@pytest.mark.parametrize("name", ["distance", "Levenshtein", "edit_distance", "dissimilarity"])
def test_a_distance_is_no_similarity(tmp_path, name):
    content = f"sentence1,sentence2,{name}\na b,a b,0\na b,c d,0.9\nc d,c d,0.1\n"
    with pytest.raises(ValueError, match=f"is {name!r} small where .* alike.*score={name}"):
        read(tmp_path / "a.csv", content, PAIR)
    found, _ = read(tmp_path / "a.csv", content, PAIR, columns={"score": name})
    assert found[1].values["score"] == 0.9


@pytest.mark.parametrize("mark", [", ", "; "])
def test_a_free_answer_among_labels_is_seen(tmp_path, mark):
    free = ["Art", "I like chess", "too"]
    ticked = [["Art", "Sport"], ["Art"], ["Sport", "Music"], free, ["Music"]]
    content = "text,labels\n" + "".join(f'a,"{mark.join(row)}"\n' for row in ticked)
    _, said = read(tmp_path / "a.csv", content, LABELS)
    assert f"warning: a.csv: labels cut at '{mark[0]}' that only one row has: 'I like" in said
    assert "(line 5), 'too' (line 5); if they are parts of an answer" in said
    _, said = read(tmp_path / "a.csv", content.replace(f"{mark}I like chess{mark}too", ""), LABELS)
    assert "only one row" not in said


# ------------------------------------------------------------------------------------- Markdown


MARKDOWN = """| text | label |
|:-----|---|
| a cup \\| mug | good |
| cold   |bad|
"""


@pytest.mark.parametrize(
    "content, line",
    [
        (MARKDOWN, 3), (MARKDOWN.replace("\n|", "\n").replace("|\n", "\n"), 3),
        (MARKDOWN.replace("-|", "-+"), 3), (f"Answers\n\n{MARKDOWN}\n", 5),
        ("+--------+---+\n" + MARKDOWN.replace(":", "-") + "+--------+---+\n", 4),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.txt"])
def test_tables_drawn_with_bars(tmp_path, name, content, line):
    found, said = read(tmp_path / name, content, CLASSIFY)
    assert both(found) == [("a cup | mug", "good"), ("cold", "bad")]
    assert found[0].line == line and "read as a table drawn with bars" in said
    with pytest.raises(ValueError, match=r"1 of 2 rows .* 3 columns, not 2 \(line"):
        read(tmp_path / name, content.replace("cold", "cold | hot"), CLASSIFY)


# -------------------------------------------------------------------- found by inventing more files


@pytest.mark.parametrize("front", ["{s}\t", "doc1\t{s}\t{i}\t", "{s}-{i}\t{s}\t"])
def test_sentences_without_a_blank_line_between_are_told_by_their_numbers(tmp_path, front):
    words = [("Peter", "B-PER"), ("sings", "O"), ("here", "O")]
    content = "".join(f"{front.format(s=s, i=i)}{word}\t{tag}\n"
                      for s in (1, 2, 3) for i, (word, tag) in enumerate(words))  # fmt: skip
    found, said = read(tmp_path / "a.tsv", content, WORDS)
    assert [e.values["tokens"] for e in found] == [["Peter", "sings", "here"]] * 3
    assert [e.line for e in found] == [1, 4, 7] and "a sentence ends where column" in said


@pytest.mark.parametrize("front, where", [
    ("{d}\t{s}\t", "column 1 or column 2 changes"), ("{s}\t{d}\t", "column 1 or column 2 changes"),
    ("{i}\t", "column 1 begins anew"), ("{d}\t{i}\t", "column 2 begins anew"),
])  # fmt: skip
def test_sentences_whose_numbers_begin_anew(tmp_path, front, where):
    content = "".join(f"{front.format(d=d, s=s, i=i)}{word}\t{tag}\n"
                      for d in ("d1", "d2") for s in (1, 2)
                      for i, (word, tag) in enumerate([("Rom", "B-LOC"), ("is", "O"), ("hot", "O")])
                      )  # fmt: skip
    found, said = read(tmp_path / "a.tsv", content, WORDS)
    assert [e.values["tokens"] for e in found] == [["Rom", "is", "hot"]] * 4
    assert f"a sentence ends where {where}" in said


@pytest.mark.parametrize(
    "content, message",
    [
        ("BOS show flights EOS\tO O O O\tflight\nBOS list trains EOS\tO O B-x O\ttrain\n",
         "words with spaces in them, such as 'BOS show flights EOS'; a word and its tag a line"),
        ("#T_SP=webanno.custom.NE|value\n\n1-1\t0-5\tPeter\tPER\n", "looks like WebAnno"),
    ],
)  # fmt: skip
def test_what_is_no_word_a_line(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "a.tsv", content, WORDS)


def test_a_third_text_is_no_negative_unless_it_is_said(tmp_path):
    rows = [(a, f"{b}, or so", f"CC-BY 2.0 (France) Attribution: tatoeba.org {i} (CM)")
            for i, ((a, _), (b, _)) in enumerate(zip(OPINIONS, OPINIONS[::-1], strict=True))
            ]  # fmt: skip
    with pytest.raises(ValueError, match=r"--columns text=1 pair=2 \(or with one text more: "
                       "--columns text=1 pair=2 negative=3"):
        read(tmp_path / "a.tsv", table(rows, "\t"), BELONG)


@pytest.mark.parametrize(
    "name, content, roles, warning",
    [
        ("a.txt", "[01.11.24, 09:10:12] Anna Berg: hi\n11/1/24, 9:10 PM - Bo: <Media omitted>\n",
         ("text",), r"a time in front, .*'\[01.11.24, 09:10'.*take times and names .*lines 1, 2"),
        ("a.txt", "We met on 01.11.24, 09:10 o'clock\n9:10 was too early\n", ("text",), None),
        ("a.txt", "[00:10.50]so it is\n[00:12]and so\n", ("text",), "a time in front.*lines 1, 2"),
        ("a.txt", "2024/11/01(金)\n09:10\tAnna\tso it is\n", ("text",),
         "a time in front.*lines 1, 2"),
        ("a.txt", "@Begin\n*CHI:\tso it is .\n%mor:\tadv|so\n", ("text",),
         "mark of a transcript, such as '@Begin'.*lines 1, 2, 3"),
        ("a.csv", 'text,label\nso it is,"=""1"""\nit was,"=""2"""\n', CLASSIFY,
         "is a formula, with which Excel guards a value"),
        ("a.csv", "text,label\nso it is,İyi\nit was,iyi\nand so,Kötü\n", CLASSIFY,
         "labels that look alike .* 'İyi' .*'iyi'"),
        ("a.csv", "text,label\n??? ????? ????,a\nso it is???,b\n", CLASSIFY,
         r"question marks instead of letters.*\(line 2\)"),
        ("a.csv", "text,label\nDers çok h?zl?,a\nSee x.org/watch?v=3 Why? so,b\n", CLASSIFY,
         r"question marks instead of letters, such as 'h\?z'.*\(line 2\)"),
        ("a.csv", "text,pair\nso it is,So it is\nso it was,it was so\n", BELONG,
         r"belongs to itself.*\(line 2\)"),
        ("a.csv", "text,pair,negative\nso it is,it is so,it is so\nwe go,off we go,no\n", BELONG,
         r"a negative that is the text itself or the one .*\(line 2\)"),
        ("a.csv", "text,pair,score\nso it is,so it is,5\nwe go,off we go,1\n", PAIR, None),
        *[("a.csv", "text,pair,score\n" + "".join(f"a{i},b{i},{s}\n" for i, s in enumerate(scores)),
           PAIR, warning) for scores, warning in (
            ([1, 2, 3, 4, 5, 99], r"scores far from the others, 99; .*\(line 7"),
            ([1, 2, 3, 4, 5, 9, 9, 9], r"scores far from the others, 9; .*\(lines 7, 8, 9"),
            ([0.5, 2, 3, 4.2, 5, 42], r"scores far from the others, 42; .*\(line 7"),
            ([-99, 2, 3, 4.2, 5, 4], r"scores far from the others, -99; .*\(line 2"),
            ([0, 9, 10, 8, 3], None), ([-1, 0.2, 1, 0.7], None), ([0, 0, 0, 0, 0, 1], None))],
        ("a.txt", "so it is\nPage 1 of 18\nand so\n- 2 -\n", ("text",), r"number .lines 2, 4"),
        ("a.txt", "teachers ask feed\xad\nback of\xac\n", ("text",), r"by a hyphen.*lines 1, 2"),
        ("a.txt", "Now *** START OF\n*** START OF THE X\n", ("text",), r"a mark of .*\(line 2\)"),
        *[("a.txt", f"{mark}so it is\n{mark}it was\n{mark}so it goes\n{mark}bye\n", ("text",),
           "4 texts begin with a number, mark, name or time")
          for mark in ("Anna Berg: ", "学生：", "09:10 < anna> ", "Gen 1:18 ", " 1 ", "{100}{140}",
                       "<@U02> ", "[01-Nov-24 9:10 AM] ", "TY  - ", "## ", "2024-11-01T09:10:27Z ",
                       "\\item ", "0:10 ", "20th century: ")],
        *[("a.txt", f"{mark}so it is\n{mark}it was so\n" * 2, ("text",), None)
          for mark in ("- ", '"', "Well, ", "I think ")],
        ("a.csv", "text,label\n" + "0:10 so it is,a\n" * 4, CLASSIFY, None),
        ("a.csv", "text,label\n" + "so it...,a\nso it is,b\nit was...,a\n" * 2, CLASSIFY,
         r"4 texts end with '...'; were they cut short"),
        ("a.csv", "text,label\n'tis so,a\n'so it is,a\n'it was,b\n'it is','b'\n", CLASSIFY,
         r"3 texts begin with an apostrophe .*\(lines 2, 3, 4\)"),
        ("a.txt", "We went to the\nnext thing and\nit was so.\nThen we\nwent home.\n", ("text",),
         r"go on in the next line.*\(lines 1, 2, 4\)"),
        ("a.txt", "so it is\nwe go home\nthen we go\nwent off so\nAnna\n", ("text",), None),
        *[("a.txt", "".join(f"so it {word}{mark}x\n" for word in "is was goes went be".split()),
           ("text",), kind and f"a (comma|semicolon|tab) in every line.*{kind}")
          for mark, kind in ((",", ".csv"), (";", ".csv"), ("\t", ".tsv"), (" ", ""))],
        ("a.csv", 'text,label\na,"Art, Sport"\nb,Art\nc,Music\n', CLASSIFY,
         r"labels that may be several \(multilabel\): 'Art, Sport' \(line 2\)"),
        ("a.csv", "text,label\na,good#new\nb,bad#new\n", CLASSIFY, r"may be several .*lines 2, 3"),
        ("a.csv", 'text,label\na,Sci/Tech\nb,"Yes, often"\nc,"No, never"\n', CLASSIFY, None),
        ("a.csv", "text,label\na,1-Feb\nb,2E+10\nc,may\n", CLASSIFY, r"'1-Feb' looks .*\(line 2\)"),
        *[("a.txt", f"so it is{mark}and so\nit was{mark}of old\n" * 2, ("text",),
           "4 texts have '.*' between two parts") for mark in (" -> ", " = ", " :: ", " ....... ")],
        *[("a.csv", "text,label\n" + f"{text},a\n{text}b,c\n" * 3, CLASSIFY, warning)
          for text, warning in (
              ("so%20it%20is%20and%20so", "6 texts have no blanks"), ("caf=C3=A9", "as e-mail"),
              ("so_it_is_and_so_it_was", "6 texts have no blanks"))],
        ("a.csv", "text,label\n\"['so', 'it']\",a\nso,b\n", CLASSIFY, "a list of words.*line 2"),
        ("a.csv", "text,label\n101 2023 102,a\nso it is,b\n", CLASSIFY, "that is a number .line 2"),
        ("a.csv", "text,label\n" + "bad: so it is,bad\ngood; so,good\n" * 2, CLASSIFY,
         "their own label"),
        ("a.txt", "the les@@ son was\n\u2581so \u2581it\n", ("text",), "pieces of.*lines 1, 2"),
        ("a.txt", "The/DT cup/NN is/VB ./.\nIt/PR is/VB so/RB ./.\n" * 2, ("text",), "have tags"),
        ("a.txt", "Jo B-PER\nis O\nhere O\nnow O\n", ("text",), "4 texts have one or two words"),
        ("a.csv", "text,pair,score\n" + "".join(f"a {i},b {i},{i % 3}\n" for i in range(9)), PAIR,
         r"no other scores than 0, 1, 2; are these classes"),
        ("a.conll", "Jo b-per\nis o\n", WORDS, "tags in lower case"),
        ("a.conll", "Jo (PER*)\nis *\n", WORDS, "tags in brackets"),
        ("a.conll", "en:Jo\tB-PER\nen:is\tO\n", WORDS, "a language in front of each word"),
        ("a.csv", "text,pair\n" + "".join(f"so {i},yes\n" for i in range(9)), BELONG,
         r"only 1 different second texts; if they are labels"),
        ("a.txt", "teachers ask feed-\nback often\n", ("text",), r"cut by a hyphen.*\(line 1\)"),
        ("a.txt", "a mother-in-law\nthe end -\n", ("text",), None),
        ("a.txt", "(3 (2 It) (4 (2 is) (2 .)))\n(ROOT (S (NP We)))\n", ("text",),
         r"a tree in brackets .*\(lines 1, 2\)"),
        ("a.txt", "(so it is) here\n", ("text",), None),
        ("a.csv", "text,label\nso it\\n\\nis,a\ncaf\\u00e9,b\n", CLASSIFY,
         r"'\\\\n', which Python or JSON writes .* is read as it stands .*lines 2, 3"),
        ("a.txt", "a set \\notin b\n", ("text",), None),
        ("a.txt", "12\na cup\n", ("text",), r"a text that is a number .line 1"),
        ("a.txt", "<s id='1'>a cup</s>\n", ("text",), "HTML, such as '</s>'"),
        ("a.conll", "科0\tO\n技1\tO\n\n人0\tO\n", WORDS, "a number after each character"),
        ("a.conll", "Jo PER\nis O\n\nUlm location-GPE\nis O\n", WORDS,
         r"'PER' beside O, without B- or I-: .* no entities are counted"),
        ("a.conll", "Jo NOUN\nis VERB\n", WORDS, None),
        *[("a.csv", f"text,label\na,1\nb,2\nc,{label}\nd,3\n", CLASSIFY,
           f"{label!r}( beside small numbers)? may stand for a missing one .line 4")
          for label in ("99", "-9", "999", "no answer", "k.A.", "weiß nicht", "未知")],
        ("a.csv", "text,label\na,1\nb,98\nc,99\nd,57\n", CLASSIFY, None),
        ("a.csv", "text,label\na,1\nb,2\nc,10\nd,9\n", CLASSIFY, None),
    ],
)  # fmt: skip
def test_what_looks_odd_is_warned_of(tmp_path, name, content, roles, warning):
    _, said = read(tmp_path / name, content, roles)
    assert bool(re.search(warning or "warning", said, re.DOTALL)) == bool(warning), said


def test_the_further_header_rows_of_surveys_are_no_examples(tmp_path):
    rows = [(f"2024-11-{i + 1:02} 09:10:12", text, label) for i, (text, label) in
            enumerate(OPINIONS)]  # fmt: skip
    monkey = [("Start Date", "What did you like?", "Overall"), ("", "Open-Ended Response", "")]
    qualtrics = [("StartDate", "Q1", "Q2"), ("Start Date", "What did you like?", "Overall"),
                 tuple(f'{{"ImportId":"{name}"}}' for name in ("start", "Q1", "Q2"))]  # fmt: skip
    for top, lines in ((monkey, "line 2"), (qualtrics, "lines 2, 3")):
        content = table(top + rows).replace('"{"ImportId":"', '"{""ImportId"":""')
        content = content.replace('"}"', '""}"')  # as csv quotes it
        with pytest.raises(ValueError, match=rf"of a survey \({lines}\)"):
            read(tmp_path / "a.csv", content, CLASSIFY)
        found, _ = read(tmp_path / "a.csv", content, CLASSIFY, skip_incomplete=True)
        assert both(found) == OPINIONS


MARKDOWN_CELL = 'text,label\n"| a | b |\n|---|---|\n| 1 | 2 |",bad\n'


@pytest.mark.parametrize(
    "name, content, roles, message",
    [
        ("a.csv", "".join(f"{'AB'[i % 2]};'{text}; and'\n" for i, (text, _) in enumerate(OPINIONS)),
         CLASSIFY, "in single quotes.*double"),
        ("a.tsv", "query-id\tcorpus-id\tscore\n" + "".join(f"q{i}\td{i}\t1\n" for i in range(9)),
         BELONG, "which columns are text, pair"),
        ("a.jsonl", "".join(json.dumps({"premise": text, "choice1": "a b c", "choice2": "d e f",
                                        "label": i % 2}) + "\n"
                            for i, (text, _) in enumerate(OPINIONS)),
         CLASSIFY, "'choice1' and 'choice2' look like multiple choice.*a row for each"),
        ("a.csv", "text,day\n" + table([(text, f"2024-0{i % 2 + 1}-01")
                                        for i, (text, _) in enumerate(OPINIONS)]),
         CLASSIFY, "which columns are label"),
    ],
)  # fmt: skip
def test_what_only_looks_like_it(tmp_path, name, content, roles, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path / name, content, roles)


def test_a_drawn_table_inside_a_text_is_part_of_it(tmp_path):
    found, _ = read(tmp_path / "a.csv", MARKDOWN_CELL + table(OPINIONS), CLASSIFY)
    assert len(found) == 13 and found[0].values["text"].startswith("| a | b |")
    notes = MARKDOWN + "".join(f"{text}\n" for text, _ in OPINIONS)
    assert len(read(tmp_path / "a.txt", notes, ("text",))[0]) == 16


SENTENCES = [text for text, _ in OPINIONS]


def test_a_time_or_a_column_that_says_the_same_everywhere_is_never_proposed(tmp_path):
    rows = [(f"2024/09/01 8:{i}0:00 AM", "3", f"9a-{i}0-bc", SENTENCES[i], f"Kunst, {chr(97 + i)}")
            for i in range(6)]  # fmt: skip
    content = f"Zeitstempel,essay_set,uuid,Text,AGs\n{table(rows)}"
    with pytest.raises(ValueError, match="--columns labels=AGs$"):
        read(tmp_path / "a.csv", content, ("text", "labels"))


@pytest.mark.parametrize(
    "names, first, roles, message",
    [
        ("id,document,label", lambda i: f"810{i}", CLASSIFY, None),
        ("PairID,Text,Score", lambda i: f"ENG-{i}", PAIR,
         "two texts .*none looks like the pair; name it: --columns pair=NAME$"),
        ("set_id,sentence_id,paraphrase", lambda i: f"{i // 2}", BELONG, "like the text; name it"),
    ],
)  # fmt: skip
def test_an_id_is_never_proposed(tmp_path, names, first, roles, message):
    second = {"Text": lambda i: SENTENCES[i], "document": lambda i: SENTENCES[i]}
    middle = second.get(names.split(",")[1], lambda i: f"9a-{i}0-bc")
    last = {"label": lambda i: f"{i % 2}", "Score": lambda i: f"{i % 5}.5"}
    rows = [(first(i), middle(i), last.get(names.split(",")[2], lambda i: SENTENCES[i])(i))
            for i in range(12)]  # fmt: skip
    content = f"{names}\n{table(rows)}"
    if message is None:
        found, _ = read(tmp_path / "a.csv", content, roles)
        assert [example.values["text"] for example in found] == SENTENCES
    else:
        with pytest.raises(ValueError, match=message):
            read(tmp_path / "a.csv", content, roles)


def test_several_negatives_are_asked_about(tmp_path):
    content = "query,positive,negative_1,negative_2\nso it is,it is so,we go,they went\n"
    with pytest.raises(ValueError, match="'negative_1' and 'negative_2'.*--columns negative=nega"):
        read(tmp_path / "a.csv", content, BELONG)
    found, _ = read(tmp_path / "a.csv", content, BELONG, columns={"negative": "negative_2"})
    assert found[0].values["negative"] == "they went"
    rows = json.dumps({"query": "so it is", "positive": "it is so", "negatives": ["a b", "c d"]})
    with pytest.raises(ValueError, match="'negatives': texts that do not belong"):
        read(tmp_path / "a.jsonl", rows, BELONG)


def test_two_columns_may_be_the_label(tmp_path):
    rows = [(text, f"7{'ab'[i // 2 % 2]}", label) for i, (text, label) in enumerate(OPINIONS)]
    with pytest.raises(ValueError, match="is the label 'class' or 'mood'.*label=class or label="):
        read(tmp_path / "a.csv", "comment,class,mood\n" + table(rows), CLASSIFY)
    found, _ = read(tmp_path / "a.csv", "comment,class,label\n" + table(rows), CLASSIFY)
    assert both(found) == OPINIONS
