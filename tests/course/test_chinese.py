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
from minibert.io.hub import locate
from minibert.io.language import CHINESE, say
from minibert.parity import catalogue

HOME = Path(minibert.__file__).parent
MISTAKES = [Path(catalogue.__file__).with_name("mistakes.md"),
            Path(text_mistakes.__file__).with_suffix(".md")]
SPEAKING = ("course/checks", "course/cases", "course/exercises", "course/formats", "course/grading",
            "course/runner", "course/run_submission", "explore/explore", "io/files", "io/hub",
            "parity/differences", "parity/diagnosis", "parity/goldens", "parity/loaded",
            "parity/probes", "parity/replace", "parity/report", "parity/steps", "parity/user_code",
            "parity/whole")
UNSAID = {  # code, regular expressions, what only a mistake of ours could bring about, two texts
    "mount", "(.*)", "after \\d", "import credit", "import test_case", "no reply to this request",
    "no step is called", "the ETag", "The bank raised", "She sat on",
}  # fmt: skip
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
    """The texts in a module that have words, with � for values; no docstrings."""
    tree, skipped = ast.parse((HOME / f"{module}.py").read_text(encoding="utf-8")), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr | ast.JoinedStr):
            skipped |= {*ast.walk(node)} - {node}
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
        whole = say(text.replace("�", "1"))
        known = IDEOGRAPH.search(whole) and not re.search("[a-z]{3,} [a-z]{3,} [a-z]{2,}", whole)
        known = known or re.search(words, phrases)
        assert known or any(map(text.count, UNSAID)), f"{text!r} is not in phrases.zh.txt"


@pytest.mark.parametrize("path", sorted(HOME.rglob("phrases.zh.txt")), ids=lambda p: p.parent.name)
def test_a_phrase_has_the_same_placeholders_in_both_languages(path):
    for english, chinese in language.phrases(path).items():
        assert names_and_numbers(english) == names_and_numbers(chinese), english
        assert IDEOGRAPH.search(chinese) or english.startswith(("{title}", "-  ", "minibert: "))
        assert not english_in(chinese), chinese


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


@pytest.mark.parametrize("words, said", [
    ("check attention none.py", "minibert：none.py：没有这个文件（从 {here} 找起）"),
    ("check nothing mine.py", "minibert：没有 'nothing' 这个练习；有 clean_and_split"),
    ("check all .", "minibert：. 里没有练习；文件名是 clean_and_split.py 等等"),
    ("check attention mine.py --seconds 0", "minibert：seconds 是 0.0；允许大于 0"),
    ("check attention --hint 9", "check：用法错误：参数 --hint：没有 9 这个选项（可选：1, 2, 3）"),
    ("check attention mine.py --memory much", "参数 --memory：'much' 不是 int 类型的值"),
    ("check attention --hint", "参数 --hint：后面要有一个值"),
    ("check attention --start mine.py", "mine.py 已经存在；请换一个文件名，或者用 --force 覆盖"),
    ("check attention mine.py more.py", "minibert check：用法错误：无法识别的参数：more.py"),
    ("chek", "minibert：用法错误：参数 COMMAND：没有 'chek' 这个选项"),
    ("parity --whole mine.py", "minibert：'mine.py'；请给出文件和里面的名字"),
    ("parity --replace attention=mine.py:A", "minibert：mine.py 里没有 'A'；有 f"),
    ("parity --replace attention=bad.py:A", "minibert：bad.py 运行不了：OSError: 3（第 1 行："),
    ("parity --replace attention=mine.py:C", "权重装不进 C：里面没有叫 query, key, value, "
     "output 的；里面有 q\n请写明哪个是哪个；写进类里"),
    ("parity --replace a=mine.py:f", "minibert：['a'] 不能替换；可以替换的有：embeddings"),
    ("parity mine.py --names bad.json", "minibert：bad.json 第 1 行：不是合法的 JSON"),
    ("explore a --model no/such/name --out a.html", "'no/such/name'：没有这个目录（从 {here}"),
    ("explore a b c --model {model} --out a.html", "minibert：给了 3 段文本；页面可以看一段，或者"),
    ("explore a --out a.htm", "minibert：a.htm：请给出以 .html 结尾的文件名"),
    ("trace a", "minibert trace：用法错误：缺少必需的参数：--out"),
])
def test_wrong_use_is_explained_in_chinese(words, said, tmp_path, model, capsys, monkeypatch):
    """What a class meets with `check`, `parity` and `explore`; the help is English."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MINIBERT_LANG")
    Path("mine.py").write_text("import torch\ndef f(): return 3\nclass C(torch.nn.Module):\n  def "
                               "__init__(self, c):\n    super().__init__()\n    "
                               "self.q = torch.nn.Linear(2, 2)\n")
    Path("bad.py").write_text("raise OSError(3)")
    Path("bad.json").write_text("{")
    status, _, err = run(capsys, "--lang", "zh", *words.format(model=model).split())
    assert status == 2 and said.format(here=tmp_path) in err, err
    assert not re.search("[a-z]{2,} [a-z]{2,} [a-z]{2,}", re.sub("（.*）", "", err)), err


def test_where_a_model_was_looked_for_is_said_in_chinese(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as error:
        locate("none/such", local_files_only=True, cache_dir=tmp_path)
    lines = say(error.value).splitlines()
    assert lines[0] == "找不到模型 'none/such'。依次试过：" and len(lines) == 5
    assert lines[3] == f"  3. 问 hub：没有询问（离线）；缓存 {tmp_path} 里没有这个模型"
    assert all(map(IDEOGRAPH.search, lines)) and not english_in("\n".join(lines))


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

