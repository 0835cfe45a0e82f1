import json
from unittest.mock import Mock

import pytest

from minibert.training import data
from minibert.training.data import Example

TEXT = ("text", "pair?", "label")
PAIR = ("text", "pair", "score")


def write(path, text):
    path.write_bytes(text.encode())
    return path


ROWS = [{"review": "fine", "stars": 4, "id": 1}, {"id": 2, "stars": 1, "review": "no"}]
JSONL = "".join(json.dumps(row) + "\n" for row in ROWS)


@pytest.mark.parametrize(
    "name, text, roles, columns, first, lines",
    [
        ("header.tsv", 'sentence\tlabel\nsaid "no"\t1\n"quoted\t0\n', TEXT, None,
         {"text": 'said "no"', "label": "1"}, [2, 3]),  # a tsv has no quoting
        ("quoted.csv", '"one, two",b,5.0\r\n"over\r\ntwo lines",d,2\r\ne,f,0\r\n', PAIR, None,
         {"text": "one, two", "pair": "b", "score": 5.0}, [1, 2, 4]),  # no header: by order
        ("names.jsonl", JSONL, TEXT, {"text": "review", "label": "stars"},
         {"text": "fine", "label": "4"}, [1, 2]),
        ("numbers.tsv", "7\tgood\tfine text\n8\tbad\tno\n", TEXT, {"text": "3", "label": "2"},
         {"text": "fine text", "label": "good"}, [1, 2]),
        ("lines.txt", "one\n\nthree\n", ("text",), None, {"text": "one"}, [1, 3]),
    ],
)  # fmt: skip
def test_reading(tmp_path, name, text, roles, columns, first, lines):
    said = []
    found = data.read(write(tmp_path / name, text), roles, columns, said.append)
    assert found[0].values == first
    assert [example.where for example in found] == [f"{name}, line {line}" for line in lines]
    assert [example.line for example in found] == lines
    assert said[-1].startswith(f"{name}: {len(lines)} rows; text = column ")


def test_blank_lines_are_said_or_kept(tmp_path):
    path = write(tmp_path / "a.txt", "one\u2028still one\n\nthree\r\n \n")
    said = []
    found = data.read(path, ("text",), say=said.append)
    assert [e.where for e in found] == ["a.txt, line 1", "a.txt, line 3"]
    assert said[0] == "a.txt: 2 blank lines left out (lines 2, 4)"
    found = data.read(path, ("text",), say=said.append, blank=True)
    assert [e.values["text"] for e in found] == ["one\u2028still one", "", "three", ""]
    assert [e.where[-1] for e in found] == ["1", "2", "3", "4"]
    tables = {
        "b.csv": 'text,label\n\n"a\n\nb",x\n',
        "b.tsv": "text\tlabel\n\na\tx\n",
        "b.jsonl": '{"text": "a", "label": "x"}\n\n{"text": "b", "label": "x"}\n',
    }
    for name, text in tables.items():
        said = []
        data.read(write(tmp_path / name, text), TEXT, say=said.append)
        assert said[0] == f"{name}: 1 blank line left out (line 2)"
    found = data.read(write(tmp_path / "c.csv", "text,label\n,x\n"), TEXT, blank=True)
    assert found[0].values == {"text": ""}  # what is to be learnt is not looked at


@pytest.mark.parametrize(
    "name, text, roles, message",
    [
        ("a.csv", "text,label\na,b\nc\n", TEXT,
         r"a.csv: 1 of 2 rows cannot be used: 1 column, not 2 \(line 3\)"),
        ("a.csv", "text,label\n  ,b\n", TEXT, r"the text is empty \(line 2\)"),
        ("a.csv", "text,pair,score\na,b,1\nc,d,high\na,b,nan\n", PAIR,
         r"a.csv: 2 of 3 .* the score is not a number \(lines 3: 'high', 4: 'nan'\)"),
        ("a.csv", 'a,"b\n', TEXT, "a.csv, line 1: .*quote not closed"),
        ("a.csv", "a,b\na,d\n", PAIR, r"which columns are score\?.*none looks like the score"),
        ("a.csv", "a,b\nc,d\n", PAIR, r"a.csv: is its first row, \['a', 'b'\], a header\?"),
        ("a.csv", "", PAIR, "no rows"),
        ("a.csv", "text,label\n", TEXT, "a header and no rows"),
        ("a.jsonl", '{"text": "a"\n', TEXT, r"not JSON \(Expecting.*\(line 1\)"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text": "b"}\n', TEXT,
         r"the label is empty \(line 2\)"),
        ("a.jsonl", '{"tokens": "a b", "tags": ["x"]}\n', ("tokens", "tags"), "a list is needed"),
        ("a.parquet", "x", TEXT, "not '.parquet'"),
        ("a.jsonl", JSONL, TEXT, r"which columns are label\?.*stars.*--columns label="),
    ],
)
def test_what_is_wrong_is_told_with_file_and_line(tmp_path, name, text, roles, message):
    path = write(tmp_path / name, text)
    with pytest.raises(ValueError, match=message):
        data.read(path, roles)


def test_a_hub_file_is_fetched_by_the_hub_library(tmp_path, monkeypatch):
    path = write(tmp_path / "train.csv", "text,label\na,b\n")
    fetch = Mock(return_value=str(path))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch)
    with pytest.raises(ValueError, match="hub:owner/name/file"):
        data.read("hub:owner/name", TEXT)
    assert len(data.read("hub:me/my-data/sub/train.csv", TEXT)) == 1
    fetch.assert_called_once_with("me/my-data", "sub/train.csv", repo_type="dataset")


# -------------------------------------------------------------------------------------- checking


def labelled(*rows):
    values = [{"text": text, "label": label} for text, label in rows]
    return [Example(value, f"t, line {i}") for i, value in enumerate(values, 1)]


def test_classes_are_in_the_order_of_numbers_or_of_the_alphabet():
    assert data.class_names(labelled(("a", "10"), ("b", "2"), ("c", "2"))) == ["2", "10"]
    assert data.class_names(labelled(("a", "x"), ("b", "2"))) == ["2", "x"]
    assert data.count_classes(labelled(("a", "x"), ("b", "y"), ("c", "x"))) == {"x": 2, "y": 1}


def test_remarks():
    train = labelled(("a", "x"), ("A ", "x"), ("b", "y"), ("b", "x"), ("c", "z"))
    remarks = data.check(train, labelled(("C", "z"), ("d", "w")))
    expected = (
        "training rows that repeat another: 1 (t, line 2 = t, line 1)",
        "another label: 1 (t, line 4 = t, line 3)", "too good: 1 (t, line 1 = t, line 5)",
        "a single training example: 2 (y, z)", "without any training example: 1 (w)",
        "missing from the development data: 2 (x, y)",
    )  # fmt: skip
    assert all(map(str.endswith, remarks, expected)) and len(remarks) == len(expected)
    assert data.check(labelled("ax", "bx", "cy", "dy"), labelled("ex", "fy")) == []


def test_parts_of_a_sorted_file_are_noticed():
    rows = labelled(*[(f"t{i}", "bad" if i < 400 else "good") for i in range(800)])
    cut = {"train": rows[:500], "dev": rows[500:550], "test": rows[::10]}
    assert data.uneven(cut) == [
        "the class 'good' is 20% of train but 100% of dev; if both were cut from a file that is "
        "sorted, shuffle it before cutting"
    ]
    dev, train = data.split(rows, 100)
    assert data.uneven({"train": train, "dev": dev}) == []
    few = {"train": labelled(("a", "x"), ("b", "y"), ("c", "y")), "dev": labelled(("d", "x"))}
    assert data.uneven(few) == []  # chance


def scored(*scores):
    return [Example({"text": "a", "score": s}, f"s, line {i}") for i, s in enumerate(scores, 1)]


def test_scales():
    assert data.score_scale(scored(0.2, 0.9)) == (0, 1)
    assert data.score_scale(scored(-0.2, 0.9)) == (-1, 1)
    assert data.score_scale(scored(0, 4.8)) == (0, 5)
    assert data.scaled_score(scored(-0.5)[0], (-1, 1)) == 0.25
    assert data.score_scale(scored(1, 3, 4, 2, 6, 5)) == (1, 6)
    assert data.score_scale(scored(0, 3, 97)) == (0, 100)
    with pytest.raises(ValueError, match="fit none .*--scale 0 20"):
        data.score_scale(scored(0, 17, 20))
    with pytest.raises(ValueError, match="-7.*s, line 2.*120.*s, line 1.*--scale"):
        data.score_scale(scored(120, -7))
    with pytest.raises(ValueError, match="s, line 1: the score 6 is not on the scale 0 to 5"):
        data.scaled_score(scored(6)[0], (0, 5))


# --------------------------------------------------------------------------- splits-------------


def test_a_split_is_stratified_repeatable_and_loses_nothing():
    rows = labelled(*[(f"t{i}", "rare" if i % 10 == 0 else "often") for i in range(100)])
    drawn, rest = data.split(rows, 20, seed=3)
    assert data.count_classes(drawn) == {"often": 18, "rare": 2}
    assert sorted(e.where for e in rest + drawn) == sorted(e.where for e in rows)
    assert data.split(rows, 20, seed=3) == (drawn, rest) != data.split(rows, 20, seed=4)
    assert len(data.split(rows, 33)[0]) == 33 and data.split(rows, 200) == (rows, [])


def test_a_split_keeps_equal_texts_and_questions_about_one_context_together():
    twins = labelled(*[(f"T{i // 2}" if i % 2 else f"t{i // 2}", "x") for i in range(40)])
    drawn, rest = data.split(twins, 9)
    assert (len(drawn), len(rest)) == (10, 30)
    assert not any("too good" in remark for remark in data.check(rest, drawn))
    asked = [Example({"question": f"q{i}", "context": f"c{i % 4}"}, f"{i}") for i in range(20)]
    drawn, rest = data.split(asked, 2)
    assert {e.values["context"] for e in drawn} & {e.values["context"] for e in rest} == set()
    assert (len(drawn), len(rest)) == (5, 15)
    one = [e._replace(values={**e.values, "context": "c"}) for e in asked]
    assert len(data.split(one, 2)[0]) == 2
