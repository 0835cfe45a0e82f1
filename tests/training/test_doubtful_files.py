"""Files in which something is doubtful: it is asked, refused or said, never guessed in silence."""

import re

import pytest
from support.written import CLASSIFY, OPINIONS, WORDS, both, read, table

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
    with pytest.raises(ValueError, match=f"columns {columns} each have tags.*s tags={last}"):
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


def test_a_list_without_quotes_is_no_class(tmp_path):
    with pytest.raises(ValueError, match=r"several labels in a row .*line 2: \['joy', 'fear'\]"):
        read(tmp_path / "a.csv", 'text,label\na,"(joy, fear)"\nb,joy\n', CLASSIFY)
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
        (("VRAI", "1"), "'VRAI' .* and '1' .* mean the same"),
        (("1,000", "1"), None),
        (("1,0", "1,3"), None),
        (("TRUE", "FALSE"), None),
    ],
)
def test_one_number_in_two_spellings(tmp_path, labels, what):
    content = table([("text", "label"), *zip("abcd", labels, strict=False)], ";")
    if what is None:
        assert [label for _, label in both(read(tmp_path / "a.csv", content, CLASSIFY)[0])] == [
            *labels
        ]
    else:
        with pytest.raises(ValueError, match=what):
            read(tmp_path / "a.csv", content, CLASSIFY)
