"""Tables as people have them: each is read into the right rows, or refused with the way out."""

import gzip

import pytest
from support.written import (
    CLASSIFY,
    OPINIONS,
    PAIR,
    RATINGS,
    both,
    read,
    table,
)

from minibert.training import data

# --------------------------------------------------------------------------------------- header


@pytest.mark.parametrize(
    "name, first, reason",
    [
        ("a.csv", "comment,rating", "'rating' is none of the 2 values in the 12 rows below"),
        ("a.csv", "tweet,tone", "'tone' is none of"),
        ("a.csv", "v1,v2", "'v2' is none of"),
        ("a.csv", "Comment,Rating", "'Rating' is none of"),
        ("a.csv", "text,label", "it has the names 'text', 'label'"),
        ("a.csv", "TEXT,Sentiment", "it has the names 'TEXT', 'Sentiment'"),
        ("a.csv", "0,1", "as pandas names columns"),
        ("a.tsv", "Review\tmood", "'mood' is none of"),
        ("a.csv", "How did you like our new tea?,Mood", "'Mood' is none of"),
        ("a.csv", "How was our tea?,Mood", "is a question, and nothing below it is"),
    ],
)
def test_a_header_is_no_example(tmp_path, name, first, reason):
    delimiter = "\t" if name == "a.tsv" else ","
    found, said = read(tmp_path / name, first + "\n" + table(OPINIONS, delimiter), CLASSIFY)
    assert both(found) == OPINIONS and found[0].line == 2
    assert "the first row is a header: " in said and reason in said


@pytest.mark.parametrize("first", ["comment,rating", "v1,v2", "text,stars"])
def test_words_above_numbers_are_a_header_in_a_short_file(tmp_path, first):
    rows = [(text, RATINGS[label]) for text, label in OPINIONS[:6]]
    found, said = read(tmp_path / "a.csv", first + "\n" + table(rows), CLASSIFY,
                       columns={"text": "1", "label": "2"})  # fmt: skip
    assert both(found) == rows and "stands above numbers" in said


@pytest.mark.parametrize(
    "first, reason",
    [
        (("great cup", "good"), "'good' also stands below it"),
        (("text", "good"), "'good' also stands below it"),
        (("great cup of coffee, and so cheap", "good"), "is a text of 7 words"),
    ],
)
def test_a_first_example_is_not_lost(tmp_path, first, reason):
    for name, delimiter in (("a.csv", ","), ("a.tsv", "\t")):
        rows = [first, *OPINIONS]
        found, said = read(tmp_path / name, table(rows, delimiter), CLASSIFY)
        assert both(found) == rows and found[0].line == 1
        assert "the first row is data: " in said and reason in said


def test_a_class_that_is_a_column_name_somewhere(tmp_path):
    rows = [("great cup", "positive"), ("cold", "negative"), ("nice", "positive")]
    found, _ = read(tmp_path / "a.tsv", table(rows, "\t"), CLASSIFY,
                    columns={"text": "1", "label": "2"})  # fmt: skip
    assert both(found) == rows


def test_numbers_in_columns_are_the_places_of_columns(tmp_path):
    rows = [(str(i % 2 + 1), text) for i, (text, _) in enumerate(OPINIONS)]
    columns = {"label": "1", "text": "2"}
    found, said = read(tmp_path / "a.csv", table(rows), CLASSIFY, columns=columns)
    assert both(found) == [(text, label) for label, text in rows]
    assert "is a number, as all below it" in said
    with pytest.raises(ValueError, match="'1' is the number of a column and the name of another"):
        read(tmp_path / "b.csv", "2,1\n" + table(rows), CLASSIFY, columns=columns, header=True)
    with pytest.raises(ValueError, match="takes one column twice"):
        read(tmp_path / "c.csv", table(rows), CLASSIFY, columns={"label": "1", "text": "1"})


def test_a_doubtful_first_row_is_asked_about(tmp_path):
    content = "cup,fine\nmug,poor\npot,dear\n"
    columns = {"text": "1", "label": "2"}
    with pytest.raises(ValueError, match=r"\['cup', 'fine'\], a header\? Say --header or --no-h"):
        read(tmp_path / "a.csv", content, CLASSIFY, columns=columns)
    for header, rows in ((True, 2), (False, 3)):
        found, _ = read(tmp_path / "a.csv", content, CLASSIFY, columns=columns, header=header)
        assert len(found) == rows
    with pytest.raises(ValueError, match=r"'Mood' is none of .*, but 'What do .* 7 words"):
        read(tmp_path / "b.csv", "What do you think of our tea,Mood\n" + table(OPINIONS), CLASSIFY)
    with pytest.raises(ValueError, match=r"'age' stands above numbers, but 'what .* 7 words"):
        rows = [*[(f"a text of number {i}", str(i % 3)) for i in range(9)]]
        read(tmp_path / "b.csv", "what do you think of us here,age\n" + table(rows), CLASSIFY)


@pytest.mark.parametrize(
    "first, more",
    [(("comment", "rating"), [("a strange place", "odd")]), (("a rather fine cup", "fair"), [])],
)
def test_a_rare_class_may_be_that_of_the_first_row(tmp_path, first, more):
    with pytest.raises(ValueError, match="a header. Say --header or --no-header"):
        read(tmp_path / "a.csv", table([first, *OPINIONS, *more]), CLASSIFY)


def test_a_column_that_counts_is_no_score(tmp_path):
    rows = [(str(i + 1), text, label, str(i % 4)) for i, (text, label) in enumerate(OPINIONS)]
    columns = {"pair": "3"}
    found, _ = read(tmp_path / "a.csv", table(rows), PAIR, columns=columns)
    assert [example.values["score"] for example in found] == [i % 4 for i in range(12)]


def test_a_header_in_the_midst_is_refused(tmp_path):
    content = "text,label\n" + table(OPINIONS[:4]) + "text,label\n" + table(OPINIONS[4:])
    with pytest.raises(ValueError, match=r"1 of 13 rows .*the header again \(line 6\)"):
        read(tmp_path / "a.csv", content, CLASSIFY)
    found, _ = read(tmp_path / "a.csv", content, CLASSIFY, skip_incomplete=True)
    assert both(found) == OPINIONS


# -------------------------------------------------------------------------------------- columns


@pytest.mark.parametrize("name, delimiter", [("a.csv", ","), ("a.tsv", "\t"), ("a.txt", "\t")])
def test_label_first_text_second(tmp_path, name, delimiter):
    rows = [(str(i % 2), text) for i, (text, _) in enumerate(OPINIONS)]
    found, said = read(tmp_path / name, table(rows, delimiter), CLASSIFY)
    assert both(found) == [(text, label) for label, text in rows]
    assert "label = column '1', as seen from its 2 values 0, 1" in said
    assert "text = column '2'" in said


def test_class_title_description(tmp_path):
    rows = [(str(i % 3 + 1), f"News: {OPINIONS[-1 - i][0]}", f"{text}, {i} times")
            for i, (text, _) in enumerate(OPINIONS)]  # fmt: skip
    content = "".join(f'"{label}","{title}","{text}"\n' for label, title, text in rows)
    found, said = read(tmp_path / "a.csv", content, CLASSIFY)
    assert [tuple(e.values.values()) for e in found] == [(a, b, label) for label, a, b in rows]
    assert "all of them are read; for one alone: --columns text=2" in said


def test_columns_that_are_not_needed_are_named(tmp_path):
    content = "id,text,user,label\n" + table(
        [(str(i), text, f"u{i}", label) for i, (text, label) in enumerate(OPINIONS)]
    )
    found, said = read(tmp_path / "a.csv", content, CLASSIFY)
    assert both(found) == OPINIONS and "not used: 'id', 'user'" in said


def test_two_columns_that_may_be_the_label_are_asked_about(tmp_path):
    rows = [(text, label, "x" if i % 2 else "y") for i, (text, label) in enumerate(OPINIONS)]
    with pytest.raises(ValueError, match=r"which columns are label\?.*--columns label=2"):
        read(tmp_path / "a.csv", table(rows), CLASSIFY)


def test_a_class_for_every_row_is_refused():
    rows = [data.Example({"text": "a", "label": f"text {i}"}, f"a.csv, line {i}") for i in range(6)]
    with pytest.raises(ValueError, match=r"6 rows and 6 classes, such as 'text 0'.*--columns"):
        data.refuse_a_class_for_every_row(rows)
    data.refuse_a_class_for_every_row([*rows, rows[0]])
    long = [row._replace(values={"label": f"a text as label, not a class {i}"}) for i, row in
            enumerate(rows)]  # fmt: skip
    with pytest.raises(ValueError, match="7 rows and 6 classes"):
        data.refuse_a_class_for_every_row([*long, long[0]])
    assert "nothing to learn" in data.check([rows[0], rows[0]])[0]


def test_names_that_are_swapped(tmp_path):
    with pytest.raises(ValueError, match="'label' has texts and 'text' has 2 values"):
        read(tmp_path / "a.csv", "label,text\n" + table(OPINIONS), CLASSIFY)
    columns = {"text": "label", "label": "text"}
    content = "label,text\n" + table(OPINIONS)
    assert both(read(tmp_path / "a.csv", content, CLASSIFY, columns=columns)[0]) == OPINIONS


@pytest.mark.parametrize(
    "other", ["2020-01-{}", "user_{}", "3f2a-{}-77", "{}", "{}.5", "https://a.b/{}"]
)
def test_what_is_no_text_is_not_taken_for_one(tmp_path, other):
    rows = [(text, other.format(i), label) for i, (text, label) in enumerate(OPINIONS)]
    found, said = read(tmp_path / "a.csv", "comment,x,tone\n" + table(rows), CLASSIFY)
    assert both(found) == OPINIONS and "not used: 'x'" in said


# --------------------------------------------------------------------------------------- values


@pytest.mark.parametrize(
    "label, what",
    [
        ("null", "the label is empty"), ('""', "the label is empty"), ("NaN", "the label is empty"),
        ('["a", "b"]', r"several labels in a row \(.* multilabel\)"),
        ("\"['a', 'b']\"", "several labels in a row .*"),
        ("-100", "the label stands for a missing one"),
        ('"N/A"', "the label stands for a missing one"),
        ('"nan"', "the label stands for a missing one"),
    ],
)  # fmt: skip
def test_labels_that_are_none_are_refused_all_at_once(tmp_path, label, what):
    good = [f'{{"text": "text {i}", "label": "x"}}' for i in range(4)]
    bad = f'{{"text": "a", "label": {label}}}'
    content = "\n".join([good[0], bad, *good[1:], bad])
    with pytest.raises(ValueError, match=rf"2 of 6 rows cannot be used: {what} \(lines 2.*6"):
        read(tmp_path / "a.jsonl", content, CLASSIFY)
    found, said = read(tmp_path / "a.jsonl", content, CLASSIFY, skip_incomplete=True)
    assert [example.line for example in found] == [1, 3, 4, 5]
    assert "warning: a.jsonl: 2 of 6 rows cannot be used" in said


def test_many_bad_rows_are_told_in_one_message(tmp_path):
    content = "text,label\n,x\na,\na,N/A\na,b,c\na,x\n" + ",y\n" * 30
    with pytest.raises(ValueError) as error:
        read(tmp_path / "a.csv", content, CLASSIFY)
    for part in ("34 of 35 rows", "3 columns, not 2; a ',' in a text needs quotes around it (line",
                 "the label is empty (line 3)",
                 "(line 4: 'N/A')", "the text is empty (lines 2, 7, 8,", "and 11 more)",
                 "--skip-incomplete"):  # fmt: skip
        assert part in str(error.value)


def test_one_number_in_two_spellings_and_one_word_in_two(tmp_path):
    content = "text,label\na,1\nb,1.0\nc,1.0\nd,0\n"
    message = r"a.csv: the labels '1' \(line 2\) and '1.0' \(lines 3, 4\).*mean the same"
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "a.csv", content, CLASSIFY)
    alike = ("Good", "good"), ("caf\u00e9", "cafe\u0301"), ("a", "\u200ba"), ("a b", "a  b")
    for one, other in alike:
        found, said = read(tmp_path / "b.csv", f"text,label\na,{one}\nb,{other}\n", CLASSIFY)
        assert both(found) == [("a", one), ("b", other)]
        assert f"labels that look alike or say the same are different classes: {one!r}" in said
        assert "if they are one, write them alike in the data" in said


def test_odd_texts_are_remarked_on(tmp_path):
    rows = [*OPINIONS, ("N/A", "good"), ("caf\ufffd", "bad")]
    found, said = read(tmp_path / "a.csv", "text,label\n" + table(rows), CLASSIFY)
    assert both(found) == rows
    assert "warning: a.csv: a text that says only N/A, nan or null (line 14)" in said
    assert "broken characters" in said and "(line 15)" in said
    _, said = read(tmp_path / "b.csv", "text,label\na,None\nb,y\nc,None\n", CLASSIFY)
    assert "the label 'None' may stand for a missing one (lines 2, 4)" in said
    with pytest.raises(ValueError, match=r"the text is no text \(line 1: \['a'\]\)"):
        read(tmp_path / "a.jsonl", '{"text": ["a"], "label": 1}', CLASSIFY)


def test_lists_of_labels(tmp_path):
    roles = ("text", "labels")
    content = '{"text": "a", "labels": ["x", "y"]}\n{"text": "b", "labels": []}\n'
    found, _ = read(tmp_path / "a.jsonl", content, roles)
    assert [example.values["labels"] for example in found] == [["x", "y"], []]
    found, said = read(tmp_path / "a.csv", "text,labels\na,x|y\nb,x\n", roles)
    assert [example.values["labels"] for example in found] == [["x", "y"], ["x"]]
    assert "the labels of a row are separated by '|'" in said
    found, _ = read(tmp_path / "b.csv", "text,labels\na,\"['x', 'y']\"\n", roles)
    assert found[0].values["labels"] == ["x", "y"]


def test_scores_from_1_to_5():
    def scores(*values):
        return [data.Example({"score": value}, "a") for value in values]

    assert data.score_scale(scores(1, 3, 5)) == (1, 5)
    assert data.scaled_score(scores(3)[0], (1, 5)) == 0.5
    assert data.score_scale(scores(1, 6, 7)) == (1, 7)
    assert data.score_scale(scores(0, 5)) == data.score_scale(scores(1.2, 5)) == (0, 5)


# --------------------------------------------------------------------- delimiters and encodings


@pytest.mark.parametrize("delimiter, name", [(";", "a semicolon"), ("|", "a bar"), ("\t", "a tab")])
def test_other_delimiters(tmp_path, delimiter, name):
    content = table([("text", "label"), *OPINIONS], delimiter)
    found, said = read(tmp_path / "a.csv", content, CLASSIFY)
    assert both(found) == OPINIONS and f"separated by {name}" in said
    quoted = "".join(f'"{text}"{delimiter}"{label}"\n' for text, label in OPINIONS)
    found, _ = read(tmp_path / "b.csv", quoted, CLASSIFY)
    assert both(found) == OPINIONS


def test_delimiters_that_are_not_certain_or_rare(tmp_path):
    content = "a;b,c\nd;e,f\n"
    with pytest.raises(ValueError, match="by a comma or a semicolon.*--delimiter"):
        read(tmp_path / "a.csv", content, CLASSIFY)
    options = {"columns": {"text": "1", "label": "2"}, "header": False}
    found, _ = read(tmp_path / "a.csv", content, CLASSIFY, delimiter=";", **options)
    assert both(found) == [("a", "b,c"), ("d", "e,f")]
    found, _ = read(tmp_path / "a.tsv", content, CLASSIFY, delimiter=";", **options)
    assert both(found) == [("a", "b,c"), ("d", "e,f")]
    found, _ = read(tmp_path / "b.csv", "a:b\nc:d\n", CLASSIFY, delimiter=":", **options)
    assert both(found) == [("a", "b"), ("c", "d")]
    for name in ("tab", "\\t"):
        found, _ = read(tmp_path / "c.csv", "a\tb\n", CLASSIFY, delimiter=name, **options)
        assert both(found) == [("a", "b")]
    with pytest.raises(ValueError, match=r"if these are several, what separates them \(--delim"):
        read(tmp_path / "a.tsv", "text,label\na,b\n", CLASSIFY, header=True)
    with pytest.raises(ValueError, match="one character, or tab"):
        read(tmp_path / "c.csv", "a\tb\n", CLASSIFY, delimiter="||")
    found, _ = read(tmp_path / "e.csv", 'text, label\n"a, b", "x"\n', CLASSIFY)
    assert both(found) == [("a, b", "x")]
    found, _ = read(tmp_path / "f.csv", "text,label\n a tea,x\n", CLASSIFY)
    assert both(found) == [(" a tea", "x")]
    with pytest.raises(ValueError, match=r"a.csv, line 1: .*quote.*--delimiter"):
        read(tmp_path / "a.csv", '"a"x\n', CLASSIFY)
    found, _ = read(tmp_path / "d.csv", "sep=;\ntext;label\na,b;x\n", CLASSIFY)
    assert both(found) == [("a,b", "x")] and found[0].line == 3


def test_unequal_rows_are_refused_whatever_the_delimiter(tmp_path):
    content = table([("text", "label"), *OPINIONS], ";") + "one;two;three\n"
    with pytest.raises(ValueError, match=r"3 columns, not 2; a ';' in a text needs .*\(line 14\)"):
        read(tmp_path / "a.csv", content, CLASSIFY)
    with pytest.raises(ValueError, match="not 2 as below; do texts .* comma .*remove the fi"):
        read(tmp_path / "a.csv", "Survey\n" + table(OPINIONS), CLASSIFY, skip_incomplete=True)


def test_gzip_and_byte_order_marks(tmp_path):
    content = table([("text", "label"), *OPINIONS, ("ein schönes Café", "good")])
    rows = [*OPINIONS, ("ein schönes Café", "good")]
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32"):
        assert both(read(tmp_path / "a.csv", content.encode(encoding), CLASSIFY)[0]) == rows
    packed = gzip.compress(content.encode())
    assert both(read(tmp_path / "a.csv.gz", gzip.compress(packed), CLASSIFY)[0]) == rows
    for name in ("a.csv.gz", "a.csv"):
        assert both(read(tmp_path / name, packed, CLASSIFY)[0]) == rows
    with pytest.raises(ValueError, match="damaged gzip"):
        read(tmp_path / "a.csv.gz", packed[:-20], CLASSIFY)
    assert both(read(tmp_path / "a.csv", content.replace("\n", "\r"), CLASSIFY)[0]) == rows
    tabbed = table([("text", "label"), *OPINIONS], "\t")
    assert both(read(tmp_path / "a.tsv", tabbed.replace("\n", "\r"), CLASSIFY)[0]) == OPINIONS


@pytest.mark.parametrize(
    "content, message",
    [
        ("text,label\n很好,好\n".encode("gbk"), r"line 2: byte.*'很好': iconv -f GB18030 -t"),
        ("text,label\nun café,x\n".encode("cp1252"), r"'café': iconv -f WINDOWS-1252"),
        ("text,label\ncaяю,x\n".encode("cp1251"), r"convert it: if it says 'ca"),
        ("text,label\na,b\n".encode("utf-16-le"), "iconv -f UTF-16LE"),
        ("text,label\na,b\n".encode("utf-16-be"), "iconv -f UTF-16BE"),
        (b"PK\x03\x04rest", "an Excel workbook or a zip"),
        (b"<!DOCTYPE html><html>", "is a web page"),
    ],
)
def test_what_cannot_be_decoded_for_certain_tells_how_to_convert(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "a.csv", content, CLASSIFY)


@pytest.mark.parametrize(
    "encoding, name, text",
    [
        ("cp1254", "WINDOWS-1254", "Ders çok hızlı, grup çalışmasını sevdim. Şu ödevi açıklamadı"),
        ("cp1256", "WINDOWS-1256", "كان الدرس سريعا جدا اليوم أحببت العمل الجماعي في الساحة"),
        ("koi8_r", "KOI8-R", "Урок прошёл слишком быстро. Мне понравилась работа"),
        ("cp1251", "WINDOWS-1251", "Урок прошёл слишком быстро. Мне понравилась работа"),
        ("cp1250", "WINDOWS-1250", "Lekcja była za szybka, nie zrozumiałem nic. Ćwiczenie źle"),
        ("cp949", "CP949", "수업이 너무 빨라서 이해를 못 했어요 조별 활동이 정말 좋았어요"),
        ("cp932", "CP932", "今日の授業は速すぎました 誰も宿題を説明してくれなかった"),
        ("euc_jp", "EUC-JP", "今日の授業は速すぎました 誰も宿題を説明してくれなかった"),
        ("gb18030", "GB18030", "今天的课讲得太快了，我喜欢在院子里的小组活动"),
        ("mac_roman", "MACINTOSH", "Le cours était trop rapide, élève français"),
    ],
)
def test_the_encoding_of_a_language_is_among_those_offered(tmp_path, encoding, name, text):
    with pytest.raises(ValueError, match="is not UTF-8") as refused:
        read(tmp_path / "a.csv", f"text,label\n{text},a\n".encode(encoding), CLASSIFY)
    offered = {command.split()[0]: sample for sample, command in
               (way.split(": iconv -f ") for way in str(refused.value).split("if it says ")[1:-1])}
    assert name in offered and len(offered) <= 5
    words = offered[name].strip("'").split()
    assert words and all(word in text for word in words)


def test_a_long_cell_and_a_lost_quote(tmp_path):
    text = "word " * 40_000 + "end"
    found, _ = read(tmp_path / "a.csv", f'text,label\n"{text}",x\n', CLASSIFY)
    assert both(found) == [(text, "x")]
    lost = 'text,label\n"a,x\n' + "b,y\n" * 30 + 'c",y\n'
    _, said = read(tmp_path / "a.csv", lost, CLASSIFY)
    assert "warning: a.csv: one row runs over lines 2 to 33; is a quote not closed?" in said
    _, said = read(tmp_path / "a.tsv", 'text\tlabel\n"a ""b"""\tx\n', CLASSIFY)
    assert "warning: a.tsv: line 2: cells in quotes; a tsv has no quoting" in said
