"""The formats of the well-known data sets, read as they come."""

import json
import re
import textwrap
from pathlib import Path

import pytest
from support.written import (
    CLASSIFY,
    OPINIONS,
    PAIR,
    QUESTIONS,
    WORDS,
    both,
    read,
    table,
)

from minibert.io.files import read_text
from minibert.training import data

# ------------------------------------------------------------------------------ original formats

CONLL = """-DOCSTART- -X- -X- O

EU NNP I-NP B-ORG
rejects VBZ I-VP O

Peter NNP I-NP B-PER
Blackburn NNP I-NP I-PER
"""
SENTENCES = [
    {"tokens": ["EU", "rejects"], "tags": ["B-ORG", "O"]},
    {"tokens": ["Peter", "Blackburn"], "tags": ["B-PER", "I-PER"]},
]


@pytest.mark.parametrize("name", ["a.txt", "a.conll", "a.iob2", "a.iob", "a.tsv", "a.annotated"])
def test_conll_columns(tmp_path, name):
    found, said = read(tmp_path / name, CONLL, WORDS)
    assert [example.values for example in found] == SENTENCES
    assert [example.line for example in found] == [3, 6]
    assert "4 columns: the words are column 1, the tags the last one" in said
    tabs = CONLL.replace(" ", "\t").replace("\n", "\r\n") + "\t\r\n\r\n"
    found, _ = read(tmp_path / name, tabs, WORDS)
    assert [example.values for example in found] == SENTENCES
    found, _ = read(tmp_path / name, CONLL, WORDS, columns={"tokens": "1", "tags": "2"})
    assert found[0].values == {"tokens": ["EU", "rejects"], "tags": ["NNP", "VBZ"]}


def test_conll_with_numbers_comments_and_other_schemes(tmp_path):
    german = "#\tsource\n1\tBerlin\tB-LOC\n2\t#\tO\n\n1\tNa\tO\n\n"
    found, said = read(tmp_path / "a.tsv", german, WORDS)
    assert [e.values["tokens"] for e in found] == [["Berlin", "#"], ["Na"]]
    assert found[0].values["tags"] == ["B-LOC", "O"]
    assert "the words are column 2" in said and "1 comments left out (line 1)" in said
    for tags in (["I-PER", "I-PER", "B-PER"], ["B-PER", "E-PER", "S-PER"], ["NN", "VB", "."]):
        content = "".join(f"w {tag}\n" for tag in tags)
        assert read(tmp_path / "a.conll", content, WORDS)[0][0].values["tags"] == tags
    alone, _ = read(tmp_path / "a.conll", "one\ntwo\n\nthree\n", ("tokens",))
    assert [e.values["tokens"] for e in alone] == [["one", "two"], ["three"]]
    named, said = read(tmp_path / "a.tsv", "Wort\tTag\nBerlin\tB-LOC\n", WORDS)
    assert named[0].values == {"tokens": ["Berlin"], "tags": ["B-LOC"]} and "header" in said


def test_conll_lines_that_do_not_fit(tmp_path):
    content = "a O\nb\nc O\n\nd O\n\ne O O\n"
    with pytest.raises(ValueError, match=r"1 column, not 2 \(line 2\); 3 columns, not 2 \(line 7"):
        read(tmp_path / "a.conll", content, WORDS)
    found, _ = read(tmp_path / "a.conll", content, WORDS, skip_incomplete=True)
    assert [example.values["tokens"] for example in found] == [["d"]]
    sentence = "".join(f"{i} word _\n" for i in range(1, 6))
    _, said = read(tmp_path / "a.txt", f"{sentence}\n" * 3, WORDS)
    assert "all words have the tag '_'; are the tags in another column (--columns)?" in said
    _, said = read(tmp_path / "a.jsonl", '{"tokens": ["a", "b"], "ner_tags": [0, 3]}', WORDS)
    assert "the tags are numbers; entities need names" in said
    prose = "".join(f"the day {i} was fine {i}\n" for i in range(12))
    with pytest.raises(ValueError, match="12 different tags for 12 words"):
        read(tmp_path / "a.txt", prose, WORDS)
    words = "tokens,tags\nBerlin,[B-LOC]\n"
    with pytest.raises(ValueError, match="a list is needed: in jsonl, or a word a line in CoNLL"):
        read(tmp_path / "a.csv", words, WORDS)
    with pytest.raises(ValueError, match="lines of 3 to 6 words or columns; a word and its tag"):
        read(tmp_path / "a.txt", "a b c\na b c d\na b c d e\na b c d e f\na b c\n", WORDS)
    with pytest.raises(ValueError, match="words over several lines .line 3.; a word that is a qu"):
        read(tmp_path / "a.csv", 'token,label\nJo,O\n",O\nhi,O\n",O\nis,O\n', WORDS)
    with pytest.raises(ValueError, match="for task tokens"):
        read(tmp_path / "a.conll", content, CLASSIFY)
    with pytest.raises(ValueError, match=r"not as many tags as tokens \(line 1: '2 tokens'\)"):
        read(tmp_path / "a.jsonl", '{"tokens": ["a", "b"], "tags": ["O"]}', WORDS)
    with pytest.raises(ValueError, match="empty tags, or -100"):
        read(tmp_path / "a.jsonl", '{"tokens": ["a", "b"], "tags": ["O", -100]}', WORDS)


def test_a_word_a_row_and_the_number_of_its_sentence_once(tmp_path):
    content = """Sentence #,Word,POS,Tag
Sentence: 1,Peter,NNP,B-per
,sings,VBZ,O
Sentence: 2,Oslo,NNP,B-geo
,"1,000",CD,O
,rests,VBZ,O
"""
    for name in ("a.csv", "a.tsv"):
        rows = content if name == "a.csv" else content.replace('"1,000"', "1000").replace(",", "\t")
        found, said = read(tmp_path / name, rows, WORDS)
        assert [len(example.values["tokens"]) for example in found] == [2, 3]
        assert found[0].values == {"tokens": ["Peter", "sings"], "tags": ["B-per", "O"]}
        assert "the first row is a header" in said and "ends where column 1 changes" in said
    assert read(tmp_path / "a.csv", "a,O\nb,O\n\nc,O\n", WORDS)[0][1].values["tokens"] == ["c"]


def test_tags_with_an_underscore(tmp_path):
    found, said = read(tmp_path / "a.txt", "a NN B_PER NN\nb VV O VV\n\n", WORDS)
    assert found[0].values["tags"] == ["B-PER", "O"] and "B_ and I_ are read as B- and I-" in said
    with pytest.raises(ValueError, match="columns 3 and 4 each have tags"):
        read(tmp_path / "a.txt", "a NN B_PER B_CLS\nb VV O I_CLS\n\n", WORDS)


def test_a_plain_text_or_words_for_a_model_of_tags(tmp_path):
    roles = ("tokens?", "text?", "tags?")
    found, _ = read(tmp_path / "a.txt", "Peter was here\nand there\n", roles, blank=True)
    assert [e.values for e in found] == [{"text": "Peter was here"}, {"text": "and there"}]
    found, _ = read(tmp_path / "a.txt", CONLL, roles, blank=True)
    assert [e.values for e in found] == [{"tokens": row["tokens"]} for row in SENTENCES]


def squad(*questions):
    context = "Minibert was written in autumn."
    return json.dumps({"version": "x", "data": [
        {"title": "t", "paragraphs": [{"context": context, "qas": list(questions)}]}
    ]})  # fmt: skip


def test_squad(tmp_path):
    content = squad(
        {"id": "1", "question": "When?", "answers": [
            {"text": "autumn", "answer_start": 24}, {"text": "in autumn", "answer_start": 21}]},
        {"id": "2", "question": "By whom?", "is_impossible": True, "answers": [],
         "plausible_answers": [{"text": "autumn", "answer_start": 24}]},
        {"id": "3", "question": "Why?", "is_impossible": True},
    )  # fmt: skip
    found, said = read(tmp_path / "dev.json", content, QUESTIONS)
    assert [e.values["answers"] for e in found] == [[["autumn", 24], ["in autumn", 21]], [], []]
    assert [e.values["id"] for e in found] == ["1", "2", "3"] and "3 questions" in said
    assert found[1].where == "dev.json, question 2"
    wrong = squad({"id": "1", "question": "When?",
                   "answers": [{"text": "autumn", "answer_start": 3}]})  # fmt: skip
    with pytest.raises(ValueError, match=r"not at its place in the context \(question 1: 'autumn"):
        read(tmp_path / "dev.json", wrong, QUESTIONS)


@pytest.mark.parametrize(
    "answers, expected",
    [
        ({"text": ["b", "b c"], "answer_start": [2, 2]}, [["b", 2], ["b c", 2]]),
        ({"text": [], "answer_start": []}, []),
        ([{"text": "b", "answer_start": 2}], [["b", 2]]),
        ([["b", 2]], [["b", 2]]),
        ([{"text": "b", "answer_start": "2"}], [["b", 2]]),
    ],
)
def test_questions_of_the_hub(tmp_path, answers, expected):
    row = {"id": "7", "title": "t", "context": "a b c", "question": "q", "answers": answers}
    found, said = read(tmp_path / "a.jsonl", json.dumps(row), QUESTIONS)
    assert found[0].values["answers"] == expected and "not used: 'title'" in said
    found, _ = read(tmp_path / "a.json", json.dumps([row]), QUESTIONS)
    assert found[0].values["answers"] == expected


def test_questions_in_columns(tmp_path):
    content = "question,context,answer,start\nq,a b c,b,2\nq,a b c,,-1\n"
    found, _ = read(tmp_path / "a.csv", content, QUESTIONS)
    assert [e.values["answers"] for e in found] == [[["b", 2]], []]
    with pytest.raises(ValueError, match=r"no answer with its start .*\(line 2"):
        read(tmp_path / "a.csv", "question,context,answer,start\nq,a b c,,\n", QUESTIONS)
    content = "question,context,answer\nq,May is warm,{}\n"
    found, said = read(tmp_path / "a.csv", content.format("is"), QUESTIONS)
    assert found[0].values["answers"] == [["is", 4]] and "each is looked for in its text" in said
    for answer, message in (("a", "stands several times"), ("MAY", "context, but in another case"),
                            ("arm", "stands only inside a word"), ("Ma", "only inside a word"),
                            ("May|warm", "does not stand in the context .line")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            read(tmp_path / "a.csv", content.format(answer), QUESTIONS)
    row = {"question": "q", "context": "a b c", "answer": ""}
    with pytest.raises(ValueError, match=r"no answer with its start .*\(line 1"):
        read(tmp_path / "a.jsonl", json.dumps(row), QUESTIONS)


def test_keys_that_only_some_rows_have(tmp_path):
    content = '{"text": "a", "label": "x", "note": 1}\n{"label": "y", "text": "b"}\n'
    found, said = read(tmp_path / "a.jsonl", content, CLASSIFY)
    assert both(found) == [("a", "x"), ("b", "y")]
    assert "no key 'note' in 1 rows (line 2)" in said
    found, _ = read(tmp_path / "a.json", content, CLASSIFY)  # an object a line, named otherwise
    assert both(found) == [("a", "x"), ("b", "y")]
    rows = json.dumps([["text", "label"], ["a", "x"]])
    assert both(read(tmp_path / "a.json", rows, CLASSIFY)[0]) == [("a", "x")]
    lists = json.dumps({"text": ["a", "b"], "label": ["x", "y"]})
    assert both(read(tmp_path / "a.json", lists, CLASSIFY)[0]) == [("a", "x"), ("b", "y")]
    listed = json.dumps([{"text": "a", "label": "x"}], indent=1)
    assert both(read(tmp_path / "a.jsonl", listed, CLASSIFY)[0]) == [("a", "x")]
    with pytest.raises(ValueError, match="orient="):
        read(tmp_path / "a.json", '{"text": {"0": "a"}, "label": {"0": "x"}}', CLASSIFY)


GLUE = {
    "cola": (CLASSIFY, [["gj04", "1", "", "They drank the pub dry."], ["b", "0", "*", "Cats the"]],
             {"text": "They drank the pub dry.", "label": "1"}),
    "sst2": (CLASSIFY, [["sentence", "label"], ['hide new "secretions', "0"]],
             {"text": 'hide new "secretions', "label": "0"}),
    "mrpc": (CLASSIFY, [["Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"],
                        ["1", "702876", "702977", 'Amrozi accused "the witness', "Referring to"]],
             {"text": 'Amrozi accused "the witness', "pair": "Referring to", "label": "1"}),
    "stsb": (PAIR, ["index genre filename year old_index source1 source2 sentence1 sentence2 score"
                    .split(), ["0", "news", "f", "2012", "1", "n", "n", "A plane.", "Two.", "5.0"]],
             {"text": "A plane.", "pair": "Two.", "score": 5.0}),
    "qqp": (CLASSIFY, ["id qid1 qid2 question1 question2 is_duplicate".split(),
                       ["1", "2", "3", '"How is it?"', "Why?", "0"]],
            {"text": '"How is it?"', "pair": "Why?", "label": "0"}),
    "qnli": (CLASSIFY, ["index question sentence label".split(), ["0", "When?", "In May.", "x"]],
             {"text": "When?", "pair": "In May.", "label": "x"}),
    "mnli": (CLASSIFY, ["index promptID genre sentence1 sentence2 label1 gold_label".split(),
                        ["0", "31", "x", "One.", "Two.", "neutral", "neutral"]],
             {"text": "One.", "pair": "Two.", "label": "neutral"}),
}  # fmt: skip


@pytest.mark.parametrize("name", GLUE)
def test_the_files_of_glue(tmp_path, name):
    roles, rows, expected = GLUE[name]
    content = "".join("\t".join(row) + "\n" for row in rows)
    options = {"header": False} if name == "cola" else {}
    found, _ = read(tmp_path / "train.tsv", content, roles, **options)
    assert found[0].values == expected


def test_cola_needs_no_option(tmp_path):
    rows = [[f"gj{i % 2}", str(i % 2), "*" * (i % 2), text] for i, (text, _) in enumerate(OPINIONS)]
    found, said = read(tmp_path / "train.tsv", table(rows, "\t"), CLASSIFY)
    assert both(found) == [(text, str(i % 2)) for i, (text, _) in enumerate(OPINIONS)]
    assert "GLUE's CoLA" in said


def test_a_label_in_front_of_each_line(tmp_path):
    content = "__label__good a fine cup\n__label__bad  cold\n"
    found, _ = read(tmp_path / "a.txt", content, CLASSIFY)
    assert both(found) == [("a fine cup", "good"), ("cold", "bad")]
    several = "__label__a __label__b one two\n__label__a three\n"
    found, _ = read(tmp_path / "a.txt", several, ("text", "labels"))
    assert [e.values for e in found] == [
        {"text": "one two", "labels": ["a", "b"]}, {"text": "three", "labels": ["a"]}
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"several labels in a row .*\(line 1: \['a', 'b'\]\)"):
        read(tmp_path / "a.txt", several, CLASSIFY)
    with pytest.raises(ValueError, match=r"no __label__ \(line 3\)"):
        read(tmp_path / "a.txt", content + "none\n", CLASSIFY)


def test_a_short_cell_above_many_texts_is_a_header_if_nothing_else_speaks(tmp_path):
    texts = [f"{text}, {i}" for i in range(5) for text, _ in OPINIONS]
    for rows, header in ((texts, True), (texts[:9], None)):
        content = "remark\n" + "".join(f'"{text}"\n' for text in rows)
        if header is None:
            with pytest.raises(ValueError, match="Say --header or --no-header"):
                read(tmp_path / "a.csv", content, ("text",))
        else:
            found, _ = read(tmp_path / "a.csv", content, ("text",))
            assert [example.values["text"] for example in found] == texts


def test_one_text_a_line_or_columns(tmp_path):
    content = "one\ttwo\nthree\tfour\n"
    found, said = read(tmp_path / "a.txt", content, ("text",))
    assert [e.values["text"] for e in found] == ["one\ttwo", "three\tfour"]
    assert "warning: a.txt: there is a tab in every line" in said


def test_the_examples_of_the_course(tmp_path):
    page = read_text(Path(__file__).resolve().parents[3] / "notebooks" / "files.md")
    table, words, questions = page.split("```\n")[1::2]
    found, _ = read(tmp_path / "a.csv", table, CLASSIFY)
    assert both(found) == [("warm, and very good", "good"), ("cold", "bad")]
    found, _ = read(tmp_path / "a.conll", words, WORDS)
    assert [len(example.values["tags"]) for example in found] == [4, 1]
    found, _ = read(tmp_path / "a.jsonl", questions, QUESTIONS)
    assert [example.values["answers"] for example in found] == [[["May", 13]], []]


# ------------------------------------------------------------------------------------ real files


@pytest.fixture
def data_home(request):
    """The directory with the data sets (here, ``data`` is the module)."""
    home = request.getfixturevalue("data")
    if not (home / "wnut17").exists() or not (home / "xquad").exists():
        pytest.skip("set MINIBERT_DATA to a directory with wnut17, xquad and banking77 to run this")
    return home


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, roles, rows",
    [
        ("wnut17/wnut17train.conll", WORDS, 3394), ("wnut17/emerging.dev.conll", WORDS, 1009),
        ("wnut17/emerging.test.annotated", WORDS, 1287),
        ("xquad/xquad.en.json", QUESTIONS, 1190), ("xquad/xquad.zh.json", QUESTIONS, 1190),
        ("banking77/train.csv", CLASSIFY, 10003), ("banking77/test.csv", CLASSIFY, 3080),
        ("stsb/train.csv", PAIR, 5749), ("stsb/test.csv", PAIR, 1379),
        ("sst5/train.tsv", CLASSIFY, 8544), ("sst5/dev.tsv", CLASSIFY, 1101),
    ],
)  # fmt: skip
def test_real_files(data_home, name, roles, rows):
    assert len(data.read(data_home / name, roles)) == rows


@pytest.mark.slow
def test_real_tags_are_those_of_the_file(data_home):
    path = data_home / "wnut17" / "emerging.dev.conll"
    lines = [line.split("\t") for line in read_text(path).splitlines() if line.strip()]
    found = data.read(path, WORDS)
    words = [list(pair) for e in found
             for pair in zip(e.values["tokens"], e.values["tags"], strict=True)]  # fmt: skip
    assert words == lines


# ------------------------------------------------------------------ found by somebody else's files


LABELS, TEXTS = ("text", "labels"), "text,labels\n"
SQUAD = '{"data": [{"paragraphs": [{"context": "It rained.", "qas": %s}]}]}'


@pytest.mark.parametrize(
    "name, content, roles, message",
    [
        ("a.csv", TEXTS + "a tea,\"['x' 'y']\"\n", LABELS, "as numpy writes it"),
        ("a.csv", "tokens,tags\n\"['a' 'b']\",\"['O' 'O']\"\n", WORDS, "as numpy writes it"),
        ("a.csv", TEXTS + "a tea,nan\nb tea,a|b\n", LABELS, "stand for missing ones"),
        ("a.jsonl", '{"text": "a", "labels": [1, 0, 1]}\n', LABELS, "0 or 1 for every label"),
        ("a.jsonl", '{"tokens": ["a"], "tags": ["NaN"]}\n', WORDS, "stand for missing ones"),
        ("a.csv", "text,label\n" + "a tea,#REF!\nb tea,x\n" * 3, CLASSIFY, "for a missing one"),
        ("a.csv", "text,pair,score\na,b,1_0\nc,d,2\n", PAIR, "not a number"),
        ("a.conll", "B-PER\tJohn\nO\tlives\n\nB-PER\tAnna\nO\tleft\n", WORDS, "tags stand first"),
        ("a.conll", "Jo/B-PER lives/O\n\nAnna/B-PER left/O\n", WORDS, "word/TAG"),
        ("a.conll", "Jo_NNP sings_VBZ ._.\n\nJo_NNP is_VBZ ._.\n", WORDS, "word/TAG"),
        ("a.txt", "{\\rtf1 a}", ("text",), "this is RTF"),
        ("a.csv", "@RELATION x\n@DATA\n'a',b\n", CLASSIFY, "this is ARFF"),
        ("a.json", SQUAD % "null", QUESTIONS, "no rows|question"),
        ("a.conll", "#begin document (x)\na\tO\n", WORDS, "looks like OntoNotes"),
        ("a.tsv", "#FORMAT=WebAnno TSV 3.2\n1-1\tO\n", WORDS, "looks like WebAnno"),
        ("a.ann", "T1\tPerson 0 4\tAnna\n", WORDS, "looks like brat"),
        ("a.txt", "Here is <PER>Anna</PER>.\n", WORDS, "looks like markup"),
        ("a.jsonl", '{\n "text": "a"\n}\n', CLASSIFY, "several lines; one a line: jq -c"),
        ("a.txt", "__label__a,__label__b tea\n", LABELS, "need a space between them .line 1"),
        ("a.jsonl", '{"tokens": ["a"], "tags": {"O": 1}}\n', WORDS, "no tags"),
        ("a.jsonl", '{"text": "a", "labels": {"x": 0.7}}\n', LABELS, "else than 0 or 1"),
        ("a.jsonl", '{"text": "a", "label": {"x": 1, "y": 1}}\n', CLASSIFY, "several labels"),
        ("a.jsonl", '{"text": "a", "label": {"x": 0, "y": 0}}\n', CLASSIFY, "label is empty"),
        ("a.csv", TEXTS + "a,x|y\nb,\n", LABELS,
         r"labels are empty \(where there are none: \[\]\)"),
        ("a.txt", '{"text": "a"}\n\n{"text": "b"}\n', ("text",), "name the file .jsonl"),
        ("a.csv", '{"text": "a", "label": "b"}\n' * 2, CLASSIFY, "name the file .jsonl"),
        ("a.csv", "text,label\na,-1\nb,-1\n", CLASSIFY,
         r"-1 stands for a missing one \(lines 2, 3"),
        ("a.csv", "text,label\na,0\nb,1\nc,-1\nd,2\n", CLASSIFY, r"-1 stands .* \(line 4"),
        ("a.jsonl", '{"tokens": ["a"], "tags": ["-100.0"]}\n', WORDS, "or -100"),
        ("a.jsonl", '{"text": "a", "label": "b", "answer": "reject"}\n', CLASSIFY,
         r"'answer' says 'reject': not to be used \(line 1"),
        ("a.csv", "text,label,status\na,b,discarded\nc,b,valid\n", CLASSIFY, r"1 of 2 .*\(line 2"),
        ("a.csv", "text,label,was_cancelled\na,b,False\nc,b,True\n", CLASSIFY,
         r"1 of 2 .*\(line 3"),
        ("a.csv", "text,Label,label\na,b,c\n", CLASSIFY,
         "columns 2 and 3 are both called .Label.*--columns label=2 or label=3"),
        ("a.jsonl", '{"text": "a", "label": "b", "label": "c"}\n', CLASSIFY,
         r"'label' stands twice in an object\) \(line 1"),
        ("a.json", '[{"text": "a", "label": "b", "label": "c"}]', CLASSIFY, "'label' stands twice"),
        ("a.json", SQUAD % '[{"id": 1, "question": "q", "is_impossible": true, "answers": '
         '[{"text": "It", "answer_start": 0}]}]', QUESTIONS, r"yet it has answers \(question 1"),
        ("a.jsonl", '{"text": "a", "label": true}\n{"text": "b", "label": 1}\n', CLASSIFY,
         "mean the same"),
        ("a.jsonl", '{"text": "a", "labels": ["1", "x"]}\n{"text": "b", "labels": ["1.0"]}\n',
         LABELS,
         "the labels '1' .* mean the same"),
        ("a.json", '{"train": [["a", "b"]], "test": []}', CLASSIFY,
         "lists in it, 'train', 'test'; .* jq"),
        ("a.json", 'window.YTD.tweets.part0 = [{"text": "a"}]', ("text",), "JavaScript, as in an"),
        ("a.csv", "<table><tr><td>text</td></tr></table>\n", CLASSIFY, "HTML or XML"),
        ("a.txt", '"text" "label"\n"1" "a" "b"\n', CLASSIFY, "R's write.table"),
        ("a.csv", '"text" "label"\n"1" "a" "b"\n', CLASSIFY, "R's write.table"),
        ("a.txt", "text\tlabel\n1\ta\tb\n2\tc\td\n", CLASSIFY, "a number stands first, as R's"),
        ("a.jsonl", '{"text": "a", "pair": "b", "labels": {"score": 4, "binary": 1}}', PAIR,
         "not a number, but several values; one, under a key"),
        ("a.jsonl", '{"text": "a \\ud83d", "label": "b"}\n', CLASSIFY,
         "half a character in the text"),
        ("a.jsonl", '{"text": "a", "label": "\\ude00"}\n', CLASSIFY,
         "half a character in the label"),
        ("a.jsonl", '{"tokens": ["a", "\\ude00"], "tags": ["O", "O"]}\n', WORDS,
         "half a character"),
    ],
)
def test_what_cannot_be_right_is_refused(tmp_path, name, content, roles, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path / name, content, roles)


@pytest.mark.parametrize(
    "name, content, labels, remark",
    [
        ("a.csv", TEXTS + "a,joy\nb,fear\nc,joy/fear\n", [["joy"], ["fear"], ["joy", "fear"]],
         "separated by '/', as all parts are labels of other rows"),
        ("a.csv", TEXTS + "a,joy\nb,fear\nc,joy fear\n", [["joy"], ["fear"], ["joy", "fear"]],
         "separated by ' ', as"),
        ("a.csv", TEXTS + "a,joy\nb,fear\nc,joy & fear\n", [["joy"], ["fear"], ["joy", "fear"]],
         "separated by '&', as"),
        ("a.csv", TEXTS + "a,joy\nb,very good\n", [["joy"], ["very good"]],
         "warning: a.csv: every row has exactly one label"),
        ("a.csv", TEXTS + 'a,"joy\nfear"\nb,joy\n', [["joy", "fear"], ["joy"]], r"by '\\n'"),
        ("a.csv", TEXTS + "a,\"{'x', 'y'}\"\nb,\"('x',)\"\nc,{}\n", [["x", "y"], ["x"], []], ""),
        ("a.csv", TEXTS + "a,(x)\nb,x|y\n", [["(x)"], ["x", "y"]], ""),
        ("a.jsonl", '{"text": "a", "labels": {"x": 1, "y": 0.0, "z": true}}\n', [["x", "z"]], ""),
        ("a.txt", "a cup __label__x\n__label__x __label__y of  tea\n", [["x"], ["x", "y"]], ""),
    ],
)
def test_several_labels_as_people_write_them(tmp_path, name, content, labels, remark):
    found, said = read(tmp_path / name, content, LABELS)
    assert [example.values["labels"] for example in found] == labels and re.search(remark, said)


def test_marked_words_anywhere_are_labels(tmp_path):
    content = "a  cup __label__x\n__label__y of  tea\nmy __label__x cup\n"
    found, _ = read(tmp_path / "a.txt", content, CLASSIFY)
    assert both(found) == [("a  cup", "x"), ("of  tea", "y"), ("my  cup", "x")]
    found, _ = read(tmp_path / "a.jsonl", '{"text": "a", "label": {"x": 0, "y": 1}}', CLASSIFY)
    assert both(found) == [("a", "y")]


GERMAN = (
    "Am Ende des Jahres, das allen lang geworden war, gingen die Kinder noch einmal durch die Räume"
    " ihrer Schule und nahmen die Bilder von den Wänden, die sie selbst gemalt hatten. Die "
    "Lehrerin stand am Fenster und sah hinaus auf den Hof, wo der Hausmeister das Laub kehrte. "
    "Niemand sagte etwas, denn alle wussten von dem Brief. Erst dann lachten alle. "
)
ENGLISH = (
    "It was early when Mr. Hale left his house and walked, as he had done for thirty years, down "
    "to the river, where the boats lay with their keels in the mud and the herons stood about."
)
JAPANESE = "実験が楽しかったので、また受けたいです。教室が暑くて困りました。" * 5


def filled(text, width, paragraphs=1):
    """A text cut into lines as an editor fills them, or at equal lengths; several of them."""
    lines = textwrap.wrap(text, width) if " " in text else re.findall(f".{{1,{width}}}", text)
    return "\n\n".join(["\n".join(lines)] * paragraphs) + "\n"


@pytest.mark.parametrize(
    "name, content, roles, warning",
    [
        ("a.csv", "text,label\na,0\nb,1\nc,-1\n", CLASSIFY, r"'-1' beside small .*\(line 4\)"),
        ("a.csv", "text,label\na,1\nb,-1\n", CLASSIFY, None),
        ("a.csv", "text,label\na,-1\nb,0\nc,-2\nd,1\ne,2\n", CLASSIFY, None),
        ("a.csv", "text,label\na,0\nb,-1\n", CLASSIFY, None),
        ("a.csv", TEXTS + "a,good|new\nb,Good\n", LABELS, "look alike .*'good'.*'Good'"),
        ("a.conll", "Jo B-PER\nis O\nin O\n\nUlm B-LOC\nAnn b-per\n", WORDS,
         "tags that look alike"),
        *[("a.csv", f"text,label\nso it is,pos\nit was,neg\nand so,pos\n{end}", CLASSIFY, said)
          for end, said in (("Total pos,2\nTotal neg,1\n", r"rows of totals .*\(lines 5, 6\)"),
                            ("Total,neg\n", r"totals .*\(line 5\)"), ("合计,2\n", "totals"),
                            ("Total waste of time,neg\n", None), ("Mean people,pos\n", None),
                            ("so,mean\n", "totals"), ("Total,neg\nso it was,pos\n", None))],
        ("a.csv", "text,pair,score\na b,c d,5\nb c,d e,2\nMean,Mean,3.2\nSD,all of them,1.5\n",
         PAIR, r"totals or means at the end.*\(lines 4, 5\)"),
        *[("a.txt", filled(*how), ("text",), "sentences that go on in the next line")
          for how in ((GERMAN, 50), (GERMAN, 60, 2), (JAPANESE, 20), (ENGLISH, 72, 2))],
        *[("a.txt", text * 3, ("text",), None) for text in (
            GERMAN.replace(". ", ".\n"), JAPANESE.replace("。", "。\n"),
            "Die Schule im Dorf\nAnna und der Hund. Teil 2\nLied der Kinder im Winter\n")],
        ("a.conll", "Jo B-PER\nis O\n\nUlm LOC\n", WORDS, r"'B-PER' mark .*'LOC' \(line 4\) not"),
        ("a.conll", "Jo B-PER\nMay I-PER\n", WORDS, "'B-PER' mark entities, but there is no O"),
        ("a.conll", "Jo NOUN\nis VERB\n", WORDS, None),
        ("a.csv", "text,label\ncafÃ©,x\ndonâ€™t,y\nðŸ˜€,x\nÉÃO café,y\n", CLASSIFY,
         r"another encoding.* \(lines 2, 3, 4\)"),
    ],
)
def test_what_may_be_wrong_is_warned_of(tmp_path, name, content, roles, warning):
    _, said = read(tmp_path / name, content, roles)
    found = re.search(warning or "warning", said)
    assert bool(found) == bool(warning), said


def test_what_does_not_count_is_left_out_or_foretold(tmp_path):
    content = "text,label,answer\na,0,\nb,1,reject\nc,1,accept\nd,-1,accept\ne,2,accept\n"
    found, _ = read(tmp_path / "a.csv", content, CLASSIFY, skip_incomplete=True)
    assert both(found) == [("a", "0"), ("c", "1"), ("e", "2")]
    found, _ = read(tmp_path / "a.csv", content, ("text",), blank=True)
    assert len(found) == 5
    twice = "text,label,label\na,b,c\n"
    found, _ = read(tmp_path / "b.csv", twice, CLASSIFY, columns={"label": "3"})
    assert both(found) == [("a", "c")]


@pytest.mark.parametrize("answer, start", [("", 0), (" ", 2), ("It", 0.7), ("It", float("inf"))])
def test_answers_that_are_none(tmp_path, answer, start):
    row = {"question": "When?", "context": "It rained.",
           "answers": {"text": [answer], "answer_start": [start]}}  # fmt: skip
    with pytest.raises(ValueError, match="line 1"):
        read(tmp_path / "a.jsonl", json.dumps(row) + "\n", QUESTIONS)


def test_a_number_without_end_names_its_line(tmp_path):
    with pytest.raises(ValueError, match="line 2"):
        read(tmp_path / "a.jsonl", '{"text": "a", "label": "b"}\n{"label": ' + "9" * 5000 + "}\n",
             CLASSIFY)  # fmt: skip


def test_impossible_is_what_says_so(tmp_path):
    qa = {"id": "1", "question": "When?", "is_impossible": "false",
          "answers": [{"text": "It", "answer_start": 0}]}  # fmt: skip
    none = {"id": "2", "question": "Why?", "is_impossible": True, "answers": []}
    found, _ = read(tmp_path / "a.json", SQUAD % json.dumps([qa, none]), QUESTIONS)
    assert [example.values["answers"] for example in found] == [[["It", 0]], []]


def test_a_comment_with_as_many_columns_as_the_words(tmp_path):
    content = "# id\nJohn B-PER\n# O\nlives O\n\n# 2\nAnna B-PER\nleft O\n#1 O\n"
    found, said = read(tmp_path / "a.conll", content, WORDS)
    words = [example.values["tokens"] for example in found]
    assert words == [["John", "#", "lives"], ["Anna", "left", "#1"]] and "2 comments" in said


UD = """# text = Am Ort {}
1-2\tAm\t_\t_\t_\t_\t_\t_\t_\t_
1\tan\tan\tADP\t_\t_\t3\tcase\t_\ta={}
2\tdem\tder\tDET\t_\t_\t3\tdet\t_\tb={}
3\tOrt\tOrt\tNOUN\t_\t_\t0\troot\t_\tc={}
3.1\tist\tsein\tAUX\t_\t_\t_\t_\t_\t_

"""


@pytest.mark.parametrize(
    "content, tokens, tags, remark",
    [
        ("".join(UD.format(*[i] * 4) for i in range(5)), ["an", "dem", "Ort"],
         ["ADP", "DET", "NOUN"], "column 2, the tags column 4 .*CoNLL-U"),
        ("Jo\tB-PER\t0.9\nis\tO\t0.7\n", ["Jo", "is"], ["B-PER", "O"], "the tags column 2"),
        ("Jo\tNOUN\tB-PER\nis\tVERB\tO\n", ["Jo", "is"], ["B-PER", "O"], "the tags the last one"),
        ("Jo\tB-PER\t\nis\tO\t\n", ["Jo", "is"], ["B-PER", "O"], "tags = column 'tags'"),
    ],
)
def test_the_column_of_the_tags(tmp_path, content, tokens, tags, remark):
    found, said = read(tmp_path / "a.conll", content, WORDS)
    assert found[0].values == {"tokens": tokens, "tags": tags}
    assert re.search(remark, said, re.DOTALL), said


def test_tags_that_stand_first_are_read_if_asked_for(tmp_path):
    content = "".join(f"B-PER\tname{i}\nO\tword{i}\n\n" for i in range(6))
    with pytest.raises(ValueError, match="stand first; give --columns tokens=2 tags=1"):
        read(tmp_path / "a.conll", content, WORDS)
    columns = {"tokens": "2", "tags": "1"}
    found, said = read(tmp_path / "a.conll", content, WORDS, columns=columns)
    assert found[0].values == {"tokens": ["name0", "word0"], "tags": ["B-PER", "O"]}
    assert "tokens = column 2, tags = column 1" in said
