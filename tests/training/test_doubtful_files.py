"""Files in which something is doubtful: it is asked, refused or said, never guessed in silence."""

import pytest
from support.written import WORDS, read

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
