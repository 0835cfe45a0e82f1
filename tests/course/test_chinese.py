"""What is said in Chinese: everything, with the same numbers and names; English where it is not."""

import ast
import json
import re
from pathlib import Path

import pytest
from support.chinese import english_in
from support.command import run

import minibert
from minibert.course import exercises, text_mistakes
from minibert.course.formats import FORMATS
from minibert.io import language
from minibert.io.language import CHINESE, say
from minibert.parity import catalogue

HOME = Path(minibert.__file__).parent
MISTAKES = [Path(catalogue.__file__).with_name("mistakes.md"),
            Path(text_mistakes.__file__).with_suffix(".md")]
SPEAKING = ("course/checks", "course/cases", "course/exercises", "course/grading", "course/runner",
            "course/run_submission", "parity/differences", "parity/diagnosis")
UNSAID = ("mount", "(.*)")  # in a shell script, and in a regular expression
IDEOGRAPH = re.compile("[\u4e00-\u9fff]")


@pytest.fixture(autouse=True)
def in_chinese(monkeypatch):
    monkeypatch.setenv("MINIBERT_LANG", "zh")


def names_and_numbers(text: str) -> set[str]:
    """What a translation must keep: placeholders, code, numbers with a point."""
    return set(re.findall(r"\{\w+\}|\w+(?:\.\w+)*\(|\w*_\w+|\[[A-Z]+\]|\d\.\d+|√\w|§[\d.]+", text))


@pytest.mark.parametrize("path", MISTAKES, ids=lambda path: path.stem)
def test_every_mistake_is_told_in_chinese(path):
    english, chinese = (catalogue.texts_in(p) for p in (path, path.with_suffix(".zh.md")))
    assert list(chinese) == list(english)
    for key, texts in english.items():
        assert {*texts} - {"source"} <= {*chinese[key]} <= {*texts}, key
        assert not english_in(say(texts.get("source", ""))), key
        for name, text in chinese[key].items():
            assert say(texts[name]) == text, f"{texts[name]!r} is translated in two ways"
            assert name == "section" or IDEOGRAPH.search(text), (key, text)
            assert names_and_numbers(texts[name]) <= names_and_numbers(text), (key, texts[name])
            assert not english_in(text), (key, text)


@pytest.mark.parametrize("exercise", exercises.EXERCISES.values(), ids=lambda one: one.name)
def test_every_exercise_is_set_in_chinese(exercise):
    """Titles and hints are; the code is the same but for its docstring."""

    def without_docstring(code):
        tree = ast.parse(code)
        function = tree.body[-1]
        assert ast.get_docstring(function)
        function.body.pop(0)
        return ast.dump(tree)

    told = [part["title"] for part in exercise.parts]
    told += [f"1 % {words}; it should be 2 %"
             for part in exercise.parts for words in part.get("shares", {}).values()]
    told += [f"returned a str; it should be {exercise.settings.get('what', 'a tensor')}"]
    for text in (exercise.title, exercise.code, *exercise.hints, *told):
        assert IDEOGRAPH.search(say(text)) and not english_in(say(text).split("raise")[0]), text
    assert without_docstring(say(exercise.code)) == without_docstring(exercise.code)
    assert max(map(len, say(exercise.code).splitlines())) <= 100


def said_by(module: str) -> set[str]:
    """The texts in a module that have words, with � for values; no docstrings, no errors raised."""
    tree, skipped = ast.parse((HOME / f"{module}.py").read_text(encoding="utf-8")), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr | ast.JoinedStr):
            skipped |= {*ast.walk(node)} - {node}
        if isinstance(node, ast.Raise) and "Error(" in ast.unparse(node):
            skipped |= {*ast.walk(node)}
    texts = set()
    for node in {*ast.walk(tree)} - skipped:
        if isinstance(node, ast.JoinedStr):
            texts.add("".join(getattr(part, "value", "�") if isinstance(part, ast.Constant) else "�"
                              for part in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            texts.add(node.value)
    lines = {line.strip() for text in texts for line in text.splitlines()}
    return {line for line in lines if re.search("[a-z]{2,} [a-z]{2,}", line)}


@pytest.mark.parametrize("module", SPEAKING)
def test_every_message_has_a_translation(module):
    """As it is, or as a part of a line in a file of phrases that has these words in this order."""
    phrases = "\n".join(CHINESE)
    for text in said_by(module):
        words = ".*".join(map(re.escape, filter(None, text.split("�"))))
        known = IDEOGRAPH.search(say(text)) or re.search(words, phrases)
        assert known or any(map(text.count, UNSAID)), f"{text!r} is not in phrases.zh.txt"


@pytest.mark.parametrize("path", sorted(HOME.rglob("phrases.zh.txt")), ids=lambda p: p.parent.name)
def test_a_phrase_has_the_same_placeholders_in_both_languages(path):
    for english, chinese in language.phrases(path).items():
        assert names_and_numbers(english) == names_and_numbers(chinese), english
        assert IDEOGRAPH.search(chinese) or english.startswith(("{title}", "-  ", "minibert: "))


# ------------------------------------------------------------------------------ as it is used


def test_a_wrong_answer_is_judged_in_chinese(tmp_path, capsys):
    """With the same points; what the learner prints is left alone."""
    path = tmp_path / "cosine_similarity.py"
    path.write_text("def cosine_similarity(a, b):\n    print('padding')\n    return a @ b.T\n")
    status, out, _ = run(capsys, "check", "cosine_similarity", path, "--lang", "zh")
    assert status == 1 and "什么都没有归一化：这是点积  [dot-product]" in out and "后果：" in out
    parts = exercises.grade("cosine_similarity", lambda a, b: a @ b.T).parts
    marks = [f"{part.points}/{part.out_of}" for part in parts]
    assert re.findall(r" (\d/\d) ", out) == marks
    assert "\n  padding\n" in out and not english_in(out)


def test_machines_read_english_names_and_people_chinese_reasons(monkeypatch):
    grades = {"cosine_similarity": exercises.grade("cosine_similarity", lambda a, b: a @ b.T)}
    chinese = {name: write(grades) for name, write in FORMATS.items()}
    as_json = json.dumps(grades["cosine_similarity"].to_dict())
    monkeypatch.setenv("MINIBERT_LANG", "en")
    assert json.dumps(grades["cosine_similarity"].to_dict()) == as_json
    assert FORMATS["otter"](grades) == chinese["otter"]
    one, other = map(json.loads, (FORMATS["gradescope"](grades), chinese["gradescope"]))
    assert "这是点积" in other["tests"][0].pop("output") != one["tests"][0].pop("output")
    assert one == other
    assert 'name="vectors of any length (0/4)"' in chinese["junit"]
    assert "这是点积" in chinese["junit"]


def test_hints_and_files_to_start_from_are_chinese(tmp_path, capsys):
    _, out, _ = run(capsys, "check", "attention", "--hint", "1")
    assert out.startswith("提示 1，共 3 条：\n四步")
    _, out, _ = run(capsys, "check", "attention", "--start", tmp_path / "attention.py")
    assert "已写入" in out
    text = (tmp_path / "attention.py").read_text(encoding="utf-8")
    assert "评分：minibert check attention" in text and "形状：query 和 key" in text
    compile(text, "attention.py", "exec")
    assert "没有 'x' 这个练习" in run(capsys, "check", "x", "--hint", "1")[2]


@pytest.mark.parametrize("variables, expected", [
    ({}, "en"),
    ({"LANG": "zh_CN.UTF-8"}, "zh"),
    ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}, "en"),
    ({"LANG": "de_DE.UTF-8", "LANGUAGE": "zh:en"}, "zh"),
    ({"LC_MESSAGES": "zh_TW"}, "zh"),
    ({"LANG": "zh_CN.UTF-8", "MINIBERT_LANG": "en"}, "en"),
    ({"MINIBERT_LANG": "ZH"}, "zh"),
])
def test_the_language_is_that_of_the_locale_unless_said(variables, expected, monkeypatch):
    for name in ("MINIBERT_LANG", "LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert language.language() == expected


def test_what_has_no_translation_is_said_in_english(monkeypatch):
    monkeypatch.delitem(CHINESE, "padding")
    assert say("  padding\neverywhere") == "  padding\n到处都有"
    monkeypatch.setenv("MINIBERT_LANG", "en")
    assert say("everywhere") == "everywhere"

