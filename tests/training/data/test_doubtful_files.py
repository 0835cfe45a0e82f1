"""Files in which something is doubtful: it is asked, refused or said, never guessed in silence."""

import json
import re

import pytest
from support.written import CLASSIFY, OPINIONS, PAIR, QUESTIONS, WORDS, both, read, table

LABELS, TEXTS = ("text", "labels"), "text,labels\n"

# ----------------------------------------------------------------------------------------- tags


def sentences(*lines):
    return "".join(f"{line}\n" for line in lines).replace(" ", "\t") * 3


@pytest.mark.parametrize(
    "content, columns",
    [
        (sentences("Jo B-PER O", "sings O O", ""), "2 and 3"),
        (sentences("Jo B-PER B-ORG", "sings O O", ""), "2 and 3"),
        (sentences("1 Jo B-PER O", "2 sings O O", ""), "3 and 4"),
    ],
)
def test_two_columns_of_tags_are_asked_about(tmp_path, content, columns):
    first, last = columns[0], columns[-1]
    message = f"columns {columns} each have tags.*--columns tags={first} or tags={last}"
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "a.tsv", content, WORDS)
    found, said = read(tmp_path / "a.tsv", content, WORDS, columns={"tags": first})
    assert found[0].values == {"tokens": ["Jo", "sings"], "tags": ["B-PER", "O"]}
    assert "warning" not in said
    found, _ = read(tmp_path / "a.tsv", content, ("tokens?", "text?", "tags?"), blank=True)
    assert found[0].values == {"tokens": ["Jo", "sings"]}  # what is to be learnt is not asked for


def test_chunks_beside_entities_need_no_question(tmp_path):
    content = sentences("Jo NNP B-NP B-PER", "sings VBZ B-VP O", ". . O O", "")
    found, _ = read(tmp_path / "a.txt", content, WORDS)
    assert found[0].values["tags"] == ["B-PER", "O", "O"]
    found, _ = read(tmp_path / "a.txt", sentences("Jo B-PER B-NP", ". O O", ""), WORDS)
    assert found[0].values["tags"] == ["B-PER", "O"]
    found, _ = read(tmp_path / "a.txt", sentences("Jo NNP B-NP", ". . O", ""), WORDS)
    assert found[0].values["tags"] == ["B-NP", "O"]


def test_a_column_of_one_tag_is_named(tmp_path):
    content = sentences("1 Jo B-PER O", "2 sings O O", "") * 4
    _, said = read(tmp_path / "a.tsv", content, WORDS, columns={"tags": "4"})
    assert "warning: a.tsv: all words have the tag 'O'" in said
    _, said = read(tmp_path / "a.tsv", content, WORDS, columns={"tags": "3"})
    assert "all words" not in said


# --------------------------------------------------------------------------------------- labels


@pytest.mark.parametrize(
    "name, content, labels, remark",
    [
        ("a.csv", "a,joy|fear\nb,joy;fear\n", [["joy", "fear"], ["joy", "fear"]],
         "by '\\|'.*by ';', as all parts are labels of other rows"),
        ("a.csv", 'a,"Yes, often"\nb,"Yes, often|No, never"\n',
         [["Yes, often"], ["Yes, often", "No, never"]],
         "warning: a.csv: ',' is taken as part of a label, as in 'No, never'"),
        ("a.csv", 'a,"Yes, often\nNo, never"\nb,x\n', [["Yes, often", "No, never"], ["x"]], "by '"),
        ("a.csv", "a,joy|fear\nb,hope;rage\n", [["joy", "fear"], ["hope;rage"]],
         "warning: a.csv: ';' is taken as part of a label, as in 'hope;rage'"),
        ("a.csv", 'a,"(joy, fear)"\nb,"[joy, fear]"\nc,"{joy, fear}"\nd,[joy]\n',
         [["joy", "fear"]] * 3 + [["joy"]], ""),
        ("a.csv", 'a,Art\nb,"{""choices"": [""Art"", ""Sport""]}"\nc,"{""choices"":[""Sport""]}"\n',
         [["Art"], ["Art", "Sport"], ["Sport"]], ""),
        ("a.csv", 'a,"Art, Sport"\nb,None\nc,Art\n', [["Art", "Sport"], ["None"], ["Art"]],
         "warning: a.csv: the label 'None' may stand for a missing one .line 3"),
    ],
)
def test_labels_in_one_cell(tmp_path, name, content, labels, remark):
    found, said = read(tmp_path / name, TEXTS + content, LABELS)
    assert [example.values["labels"] for example in found] == labels
    assert re.search(remark, said, re.DOTALL), said


def test_rows_without_labels_beside_labels_in_one_cell(tmp_path):
    rows = [{"text": "a", "labels": labels} for labels in ("x, y", None, [{"x": 1}])]
    content = "".join(json.dumps(row) + "\n" for row in rows)
    with pytest.raises(ValueError, match=r"labels are empty .*line 2\).*lists among.*\(line 3"):
        read(tmp_path / "a.jsonl", content, LABELS)


def test_a_list_without_quotes_is_no_class(tmp_path):
    found, _ = read(tmp_path / "a.csv", "text,label\na,[UNK]\nb,joy\n", CLASSIFY)
    assert both(found) == [("a", "[UNK]"), ("b", "joy")]
    with pytest.raises(ValueError, match=r"several labels in a row .*line 2: \['joy', 'fear'\]"):
        read(tmp_path / "a.csv", 'text,label\na,"(joy, fear)"\nb,joy\n', CLASSIFY)
    with pytest.raises(ValueError, match=r"a number after each label; .*lines 2: .*3: "):
        read(tmp_path / "a.csv", TEXTS + "a,joy:3|anger:0\nb,anger=2|joy=1\n", LABELS)
    assert len(read(tmp_path / "a.csv", TEXTS + "a,SDG:1|SDG:13\nb,SDG:13\n", LABELS)[0]) == 2
    with pytest.raises(ValueError, match="no labels"):
        read(tmp_path / "a.csv", TEXTS + 'a,"{joy: 1, fear: 0}"\nb,[1 0]\n', LABELS)


def test_a_column_for_each_label(tmp_path):
    rows = [("id", "comment", "toxic", "insult", "threat"),
            *[(f"00{i}a", text, str(i % 2), str(i % 3 // 2), "FALSE")
              for i, (text, _) in enumerate(OPINIONS)]]  # fmt: skip
    with pytest.raises(ValueError, match=r"as in --columns labels=toxic\+insult\+threat$"):
        read(tmp_path / "a.csv", table(rows), LABELS, columns={"text": "comment"})
    expected = [["toxic"] * (i % 2) + ["insult"] * (i % 3 // 2) for i in range(len(OPINIONS))]
    columns = {"text": "comment", "labels": "toxic+insult+threat"}
    found, said = read(tmp_path / "a.csv", table(rows), LABELS, columns=columns)
    assert [example.values["labels"] for example in found] == expected
    assert "labels = column 'toxic+insult+threat'; not used: 'id'\n" in said + "\n"
    columns = {"text": "2", "labels": "3+4+5"}
    found, _ = read(tmp_path / "a.csv", table(rows[1:]), LABELS, columns=columns, header=False)
    assert found[5].values["labels"] == ["3", "4"]
    with pytest.raises(ValueError, match=r"no column 'rude' for labels; there are \['id', 'comm"):
        read(tmp_path / "a.csv", table(rows), LABELS, columns={"labels": "toxic+rude"})
    wrong = "text,a,b\nx,1,0\ny,1,2\n"
    with pytest.raises(ValueError, match="else than 0 or 1 .line 3"):
        read(tmp_path / "a.csv", wrong, LABELS, columns={"labels": "a+b"})
    _, said = read(tmp_path / "a.csv", table(rows), LABELS, columns={"labels": "toxic"})
    assert "every row has exactly one label" in said and "--columns labels=a+b+c" in said


@pytest.mark.parametrize(
    "labels, what",
    [
        (("2,0", "2", "1,3"), r"'2,0' \(line 2\) and '2' \(line 3\) mean the same"),
        (("TRUE", "FALSE", "WAHR", "FALSCH"),
         r"'TRUE' .line 2. and 'WAHR' .line 4.; 'FALSE' .line 3. and 'FALSCH' .line 5. mean the"),
        (("Yes", "No", "ja", "nein"), "warning: .*'Yes' .line 2. and 'ja' .line 4"),
        (("VRAI", "1"), "'VRAI' .* and '1' .* mean the same"),
        (("1,000", "1"), None),
        (("1,0", "1,3"), None),
        (("TRUE", "FALSE"), None),
    ],
)
def test_one_value_in_two_spellings(tmp_path, labels, what):
    content = table([("text", "label"), *zip("abcd", labels, strict=False)], ";")
    if what is None or "warning" in what:
        found, said = read(tmp_path / "a.csv", content, CLASSIFY)
        assert [label for _, label in both(found)] == [*labels]
        assert re.search(what or "^(?!.*warning)", said, re.DOTALL)
    else:
        with pytest.raises(ValueError, match=what):
            read(tmp_path / "a.csv", content, CLASSIFY)


# ---------------------------------------------------------------------------------------- texts


@pytest.mark.parametrize(
    "text, warning",
    [
        ("b'How are you?'", "bytes as Python prints them, b'...'"),
        ('b"It\'s me"', "bytes as Python prints them"),
        ("Tom &amp; Ann&#39;s cup", "HTML, such as '&amp;'"),
        ("so<br />what", "HTML, such as '<br />'"),
        ("so <p class=x>what</p>", "HTML, such as '<p class=x>'"),
        ("Ã‰cole", "UTF-8 that was read as another encoding"),
        ("SCHÃ–N", "UTF-8 that was read as another encoding"),
        ("Ã„rger und Ã–l", "UTF-8 that was read as another encoding"),
        ("AMANHÃ… talvez", None),
        ("black & white; R&B; if a<b and c>d", None),
        ("b' and b", None),
    ],
)
def test_texts_that_look_damaged(tmp_path, text, warning):
    _, said = read(tmp_path / "a.csv", f"text,label\nwell,x\n{text},y\n", CLASSIFY)
    assert f"warning: a.csv: {warning}" in said if warning else "warning" not in said, said
    assert not warning or re.search(r"\(line 3\)", said)
    row = {"question": "Why?", "context": text, "answers": []}
    _, said = read(tmp_path / "a.jsonl", json.dumps(row), QUESTIONS)
    assert bool(warning) == ("warning" in said)


SUBTITLES = "1\n00:00:01,000 --> 00:00:02,000\nHello there\n\n2\n00:02,000 --> 00:03,000\nBye\n"


@pytest.mark.parametrize("name", ["a.srt", "a.vtt", "a.txt"])
def test_subtitles_are_no_texts(tmp_path, name):
    content = SUBTITLES if name != "a.vtt" else "WEBVTT\n\n" + SUBTITLES.replace(",", ".")
    with pytest.raises(ValueError, match=r"subtitles, with a time above .* grep -vE"):
        read(tmp_path / name, content, ("text",))


# ---------------------------------------------------------------------------------------- tables


def test_a_title_above_the_header(tmp_path):
    for title in ("Feedback of our class in November,", "Feedback,"):
        content = f"{title}\ncomment,rating\n{table(OPINIONS)}"
        with pytest.raises(ValueError, match="in its first cell alone.*a title.*remove the line"):
            read(tmp_path / "a.csv", content, CLASSIFY)
    content = "Feedback, of us all\nTEXT,label\n" + table(OPINIONS)
    with pytest.raises(ValueError, match="'TEXT', 'label' .line 2. are names of columns; rem"):
        read(tmp_path / "a.csv", content, CLASSIFY)
    content = "text,\n" + table(OPINIONS)
    found, _ = read(tmp_path / "a.csv", content, CLASSIFY)
    assert both(found) == OPINIONS


@pytest.mark.parametrize(
    "name, content, roles",
    [
        ("a.csv", "text,label\n" + table(OPINIONS), CLASSIFY),
        ("a.txt", "one\ntwo\n", ("text",)),
        ("a.jsonl", '{"text": "one", "label": "x"}\n', CLASSIFY),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_files_that_were_put_together(tmp_path, name, content, roles, encoding):
    once, _ = read(tmp_path / name, content, roles)
    twice = content.encode(encoding) * 2
    found, _ = read(tmp_path / name, twice, roles, skip_incomplete=True)
    assert [e.values for e in found] == [e.values for e in once] * 2
    if name == "a.csv":
        with pytest.raises(ValueError, match=r"1 of 25 rows .*the header again \(line 14\)"):
            read(tmp_path / name, twice, roles)


def test_a_header_in_the_midst_that_is_not_quite_the_same(tmp_path):
    first = "text,label\n" + table(OPINIONS)
    again = first + " Text,LABEL\n" + table(OPINIONS)
    with pytest.raises(ValueError, match=r"1 of 25 rows .*the header again \(line 14\)"):
        read(tmp_path / "a.csv", again, CLASSIFY)
    turned = first + "label,text\n" + table([(label, text) for text, label in OPINIONS])
    with pytest.raises(ValueError, match=r"line 14 is the header in another order; read them apa"):
        read(tmp_path / "a.csv", turned, CLASSIFY, skip_incomplete=True)


def scored(*scores, delimiter=";", header=("Satz 1", "Satz 2", "Ähnlichkeit")):
    texts = [text for text, _ in OPINIONS]
    rows = [(text, f"{text} again", scores[i % len(scores)]) for i, text in enumerate(texts)]
    return table([header, *rows], delimiter)


@pytest.mark.parametrize(
    "name, content, scores, remark",
    [
        ("a.csv", scored("4,5", "3", "-0,25"), [4.5, 3, -0.25], "4,5 is read as 4.5"),
        ("a.tsv", scored("4,5", "3", delimiter="\t"), [4.5, 3], "4,5 is read as 4.5"),
        ("a.csv", scored("4,5", header=("a cup", "of tea", "2,5")), [2.5, 4.5], "is read as 4.5"),
        ("a.csv", scored("1.250", "1.900", "900"), [1.25, 1.9, 900],
         "warning: a.csv: column 3: 1.250 is read as 1.25; if the point separates thousands, take"),
        ("a.csv", scored("1.250", "1.900", delimiter=","), [1.25, 1.9], None),
        ("a.csv", scored("0.250", "1.900"), [0.25, 1.9], None),
        ("a.csv", scored("1.25", "1.900"), [1.25, 1.9], None),
    ],
)
def test_scores_as_other_countries_write_them(tmp_path, name, content, scores, remark):
    found, said = read(tmp_path / name, content, PAIR)
    assert [example.values["score"] for example in found[: len(scores)]] == scores
    assert remark in said if remark else "is read as" not in said, said


def test_commas_and_numbers_in_one_key(tmp_path):
    names = ("text", "pair", "score")
    content = scored("4,5", *["3,0"] * 9, "n. a.", "3", header=names)
    found, _ = read(tmp_path / "a.csv", content, PAIR, skip_incomplete=True)
    assert [example.values["score"] for example in found] == [4.5, *[3.0] * 9, 3]
    texts = table([names, ("4,5", "it is", "3"), ("so it is", "now", "4")], ";")
    assert read(tmp_path / "a.csv", texts, PAIR)[0][0].values["text"] == "4,5"
    rows = [{"text": "a", "pair": "b", "score": score} for score in ("4,5", 3, "2")]
    content = "".join(json.dumps(row) + "\n" for row in rows)
    found, _ = read(tmp_path / "a.jsonl", content, PAIR)
    assert [example.values["score"] for example in found] == [4.5, 3, 2]


@pytest.mark.parametrize("scores", [("1,250", "2,000"), ("1,250", "9")])
def test_a_comma_that_may_separate_thousands_is_refused(tmp_path, scores):
    for delimiter in ";,":
        with pytest.raises(ValueError, match="not a number; a comma in it is not read .*'1,250'"):
            read(tmp_path / "a.csv", scored(*scores, delimiter=delimiter,
                 header=("sentence1", "sentence2", "score")), PAIR)  # fmt: skip
    with pytest.raises(ValueError, match="not a number; a comma in it is not read .*'4,5'"):
        read(tmp_path / "a.csv", scored("4,5", "3.5", header=("text", "pair", "score")), PAIR)


# --------------------------------------------------------------------------------------- formats


def test_label_studio_in_full_is_not_read(tmp_path):
    content = '[{"id": 1, "data": {"text": "a"}, "annotations": [{"result": []}]}]'
    for name in ("a.json", "a.jsonl"):
        with pytest.raises(ValueError, match="Label Studio's JSON.*JSON-MIN or CSV"):
            read(tmp_path / name, content, CLASSIFY)


@pytest.mark.parametrize(
    "answers, expected",
    [
        ("{'text': array(['1296', 'in 1296'], dtype=object), "
         "'answer_start': array([24, 21], dtype=int32)}", [["1296", 24], ["in 1296", 21]]),
        ("{'text': ['1296'], 'answer_start': [24]}", [["1296", 24]]),
        ('{"text": ["1296"], "answer_start": [24]}', [["1296", 24]]),
        ("{'text': array([], dtype=object), 'answer_start': array([], dtype=int32)}", []),
        ("[{'text': '1296', 'answer_start': 24}]", [["1296", 24]]),
    ],
)
def test_answers_in_a_cell(tmp_path, answers, expected):
    quoted = '"{}"'.format(answers.replace('"', '""'))
    content = f"question,context,answers\nWhen?,The castle was built in 1296.,{quoted}\n"
    found, _ = read(tmp_path / "a.csv", content, QUESTIONS)
    assert [example.values["answers"] for example in found] == [expected]


@pytest.mark.parametrize(
    "row, expected",
    [
        ({"answer": "", "is_impossible": True}, []),
        ({"answer": None, "start": None, "is_impossible": True}, []),
        ({"answers": {"text": [], "answer_start": []}, "is_impossible": True}, []),
        ({"answers": {"text": ["It"], "answer_start": [0]}, "is_impossible": False}, [["It", 0]]),
        ({"answer": "It", "answer_start": 0, "is_impossible": "false"}, [["It", 0]]),
        ({"answer": "It", "answer_start": 0, "is_impossible": 1}, None),
        ({"answers": {"text": ["It"], "answer_start": [0]}, "is_impossible": "True"}, None),
        ({"answers": [], "is_impossible": False}, None),
        ({"answers": [], "is_impossible": None}, []),
        ({"answer": "It", "has_answer": False}, "'has_answer' says False: does it say which"),
        ({"answer": "It", "has_answer": True}, [["It", 0]]),
    ],
)
def test_questions_that_say_whether_they_have_an_answer(tmp_path, row, expected):
    content = json.dumps({"question": "When?", "context": "It rained.", **row})
    if expected is None or isinstance(expected, str):
        message = expected or r"is_impossible, and yet it has (no )?answers"
        with pytest.raises(ValueError, match=message):
            read(tmp_path / "a.jsonl", content, QUESTIONS)
    else:
        found, _ = read(tmp_path / "a.jsonl", content, QUESTIONS)
        assert [example.values["answers"] for example in found] == [expected]


def test_two_words_beside_answers_may_say_that_there_is_none(tmp_path):
    for name, said in (("answerable", "does it say which questions have no answer"), ("lang", "")):
        rows = [("question", "context", "answer", name), ("When?", "It rained.", "It", "no"),
                ("Who?", "Anna sang.", "Anna", "yes")]  # fmt: skip
        if said:
            with pytest.raises(ValueError, match=f"'{name}' says no or yes: {said}"):
                read(tmp_path / "a.csv", table(rows), QUESTIONS)
        else:
            assert len(read(tmp_path / "a.csv", table(rows), QUESTIONS)[0]) == 2
