"""What the READMEs and the pages behind them say is so: code, tables and commands are run."""

import json
import re
import shlex
import shutil
from functools import partial

import numpy as np
import pytest
from conftest import CHECKOUT
from safetensors.numpy import load_file
from support.tiny import tiny_config

import minibert
from minibert import BertForMaskedLM, BertTokenizer
from minibert.cli import main as cli
from minibert.parity import replace
from minibert.parity.catalogue import BY_KEY

NOTEBOOKS = CHECKOUT / "notebooks"
MAIN, COURSE = (
    [where / name for name in ("README.md", "README.zh-CN.md")] for where in (CHECKOUT, NOTEBOOKS)
)
DETAILS = [NOTEBOOKS / f"{name}.md" for name in ("commands", "proofs", "fine_tuning")]
OTHERS = [NOTEBOOKS / f"{name}.md" for name in ("speed", "files", "grading", "little_data")]
OTHERS += [NOTEBOOKS / "zh" / "README.md"]
CONTRIBUTING = CHECKOUT / ".github" / "CONTRIBUTING.md"
TINY = "bert-base-uncased"  # by this name, a small model in `somewhere`
README = MAIN[0].read_text(encoding="utf-8")


def blocks(language: str, page: str = README) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    return [text for name, text in found if name == language]


def commands(page: str) -> list[list[str]]:
    """The words of every `minibert` command in the blocks of a page."""
    lines = [c for b in blocks("bash", page) for c in b.replace("\\\n", " ").splitlines()]
    return [shlex.split(c.partition("#")[0]) for c in lines if c.startswith("minibert ")]


def test_the_readme_has_at_most_150_lines():
    assert [len(path.read_text("utf-8").splitlines()) <= 150 for path in MAIN] == [True, True]


def test_the_lines_that_look_inside_print_what_stands_behind_them():
    names: dict = {}
    for line in (looking := blocks("python")[1]).splitlines():
        code, _, said = line.partition("  # => ")
        if not said:
            names["lines"] = [*names.get("lines", []), line]
            continue
        exec("\n".join(names.pop("lines")), names)  # noqa: S102  our own README
        numbers = [float(n) for n in re.findall(r"-?\d+(?:\.\d+)?", said.partition(":")[0])]
        assert np.allclose(np.round(eval(code, names), 4), numbers, atol=1e-9), line
    assert looking.count("# => ") == 2


def test_the_attention_has_the_mistake_that_the_report_names(tmp_path, monkeypatch, capsys):
    """Of all it knows; the command prints the same report."""
    (tmp_path / "mine.py").write_text(blocks("python")[0])
    monkeypatch.syspath_prepend(tmp_path)
    quick = partial(replace.examine_code, pairs=False)  # the answer is the same
    monkeypatch.setattr(replace, "examine_code", quick)
    exec(blocks("python")[2], {})  # noqa: S102
    said = capsys.readouterr().out.splitlines()
    report = blocks("")[0].splitlines()
    assert [line for line in said if line in report and line] == [line for line in report if line]
    assert f"It knows {len(BY_KEY)} of them" in README
    assert f"which of {len(BY_KEY)} mistakes" in CONTRIBUTING.read_text("utf-8")


@pytest.mark.parametrize(
    "path", [MAIN[0], pytest.param(DETAILS[0], marks=pytest.mark.weights)], ids=lambda p: p.name
)
def test_the_table_is_what_the_command_prints(capsys, request, monkeypatch, path):
    """The first needs nothing but what is installed; the second is about the official model."""
    page = path.read_text(encoding="utf-8")
    (command,) = [b for b in blocks("bash", page) if "minibert similarity" in b]
    words = shlex.split(command[command.index("minibert similarity") :])
    if "--model" in words:
        request.getfixturevalue("official")
    else:
        monkeypatch.setattr("minibert.io.hub._from_hub", lambda *a: pytest.fail("hub asked"))
        monkeypatch.setenv("MINIBERT_WEIGHTS", "nowhere")
        windows = blocks("powershell")[0]
        assert shlex.split(windows[windows.index("minibert similarity") :]) == words
    assert cli.main(words[1:]) == 0
    assert capsys.readouterr().out.strip() == blocks("", page)[-1].strip()


@pytest.fixture(scope="module")
def somewhere(official, tmp_path_factory):
    """A directory with the files that the commands speak of, and small models by big names."""
    place = tmp_path_factory.mktemp("readme")
    weights = place / "weights"
    weights.mkdir()
    (weights / official.name).symlink_to(official)
    for name in (TINY, "bert-base-chinese", "my-chinese-model"):
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *"aiprs北京中国釉料"]
        config = tiny_config(vocab_size=len(words))
        BertForMaskedLM(config).save_pretrained(weights / name)
        BertTokenizer(words, model_max_length=40).save_pretrained(weights / name)
    shutil.copytree(CHECKOUT / "notebooks" / "data", place / "notebooks" / "data")
    for name, kept in (("train", slice(0, None, 5)), ("dev", slice(13)), ("test", slice(13))):
        for path in place.glob(f"notebooks/data/*/{name}.?sv"):  # fewer lines
            lines = path.read_text("utf-8").splitlines(keepends=True)[kept]
            path.write_text("".join(lines), "utf-8")
    (place / "article.txt").write_text("A kiln is hot. Clay is soft. A bowl is round. It rains.\n")
    (place / "lines.txt").write_text("one line\nanother line\n")
    (place / "questions.txt").write_text("Is this glaze safe?\n")
    (place / "问题.txt").write_text("怎样调釉料\n", encoding="utf-8")
    part = "from minibert.attention import MultiHeadSelfAttention as MyAttention\n"
    whole = "from minibert import BertModel\nbuild = lambda: BertModel.from_pretrained(NAME)\n"
    (place / "mine.py").write_text(part + whole.replace("NAME", "'all-MiniLM-L6-v2'"))
    (place / "class" / "anna").mkdir(parents=True)
    right = CHECKOUT / "tests" / "learners" / "right" / "attention.py"
    shutil.copy(right, place / "class" / "anna")
    return place


@pytest.mark.weights
@pytest.mark.parametrize("pages", [
    MAIN, pytest.param([*DETAILS, *COURSE], marks=pytest.mark.slow)
], ids=["README", "behind it"])
def test_every_command_runs(somewhere, pages, monkeypatch, capsys):
    """One after the other, as they stand; only what takes minutes is cut short.

    The Chinese pages have the same commands (`test_both_languages_have_the_same_commands`) and some
    of their own, which are run, too.
    """
    found = [tuple(words) for path in pages for words in commands(path.read_text("utf-8"))]
    shorter = {"finetune": ["--steps", "2", "--batch-size", "4"]}
    shorter["bench"] = ["--number", "4", "--rounds", "1", "--alone", "--no-start", "--model", TINY]
    monkeypatch.chdir(somewhere)
    monkeypatch.setenv("MINIBERT_WEIGHTS", str(somewhere / "weights"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for _, *words in dict.fromkeys(found):
        if "mine.npz" in words:  # a dump of one's own; here, a copy of the trace
            np.savez("mine.npz", **load_file("trace.safetensors"))
        for option in {"--out", "--start"}.intersection(words):
            made = somewhere / words[words.index(option) + 1]  # by a command before
            shutil.rmtree(made) if made.is_dir() else made.unlink(missing_ok=True)
        status = cli.main([*words, *shorter.get(words[0], [])])
        unsolved = words[:2] == ["check", "attention"] and words[-1] == "attention.py"
        unsolved |= words[:2] == ["check", "all"]  # eleven of the twelve are missing
        expected = 1 if unsolved and "--start" not in words else 0
        assert status == expected, (words, capsys.readouterr().err)
        assert capsys.readouterr().out or "--start" in words


def test_fine_tuning_takes_the_lines_of_python(somewhere, tmp_path, monkeypatch):
    lines = blocks("python")[3]
    monkeypatch.setattr(minibert, "finetune", partial(minibert.finetune, steps=2, batch_size=4))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notebooks").symlink_to(somewhere / "notebooks")
    answers: dict = {}
    exec(lines.replace("Classifier.from", "answers = Classifier.from"), answers)  # noqa: S102
    assert answers["answers"][0]["label"]


def test_the_fine_tuning_in_python_is_that_of_the_command(monkeypatch):
    page, asked = DETAILS[2].read_text("utf-8"), []

    def begin(settings, out, **how):
        asked.append((settings, out))
        raise EOFError("enough")

    monkeypatch.setattr("minibert.training.finetune.finetune", begin)
    (code,) = blocks("python", page)
    for start in (lambda: cli.main(commands(page)[0][1:]), lambda: exec(code, {})):  # noqa: S102
        with pytest.raises(EOFError):
            start()
    assert asked[0] == asked[1] and len(asked) == 2


def test_the_proofs_name_the_versions_that_ci_has():
    pins = (CHECKOUT / ".ci" / "constraints.txt").read_text("utf-8")
    named = re.findall(r"(transformers|torch) (\d[\d.]*\d)", DETAILS[1].read_text("utf-8"))
    assert len(named) == 2
    for name, version in named:
        assert re.search(rf"^{name}=={re.escape(version)}(;|$)", pins, re.MULTILINE), name


def test_the_tree_names_what_stands_at_the_top():
    page = CONTRIBUTING.read_text(encoding="utf-8")
    tree = page[page.index("minibert/\n") : page.index("tests/  ")]
    named = re.findall(r"^  (\w+(?:\.py|/)) ", tree, re.MULTILINE)
    there = {
        path.name + "/" * path.is_dir()
        for path in (CHECKOUT / "minibert").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert sorted(named) == sorted(there - {"__init__.py", "__main__.py"})


def test_the_core_and_the_rest_are_as_long_as_it_says():
    """Short enough to read in one sitting is said of the reader's path, and in lines."""
    package = CHECKOUT / "minibert"
    names = "config tokenization/tokenizer embeddings attention encoder model".split()
    lines = {path: len(path.read_text("utf-8").splitlines()) for path in package.rglob("*.py")}
    core = sum(lines[package / f"{name}.py"] for name in names)
    said = [int(number.replace(",", "")) for number in re.findall(r"([\d,]+) lines", README)]
    assert said == [pytest.approx(core, rel=0.03), pytest.approx(sum(lines.values()), rel=0.1)]
    chinese = re.findall(r"([\d,]+) 行", MAIN[1].read_text("utf-8"))
    assert chinese == [f"{number:,}" for number in said]


@pytest.mark.parametrize("path", [*MAIN, *COURSE, *DETAILS, *OTHERS, CONTRIBUTING], ids=str)
def test_every_link_leads_somewhere(path):
    page = path.read_text(encoding="utf-8")
    assert "![](" not in page  # a picture is described for those who do not see it
    for target in re.findall(r"\]\(([^)]+)\)", page):
        name, _, heading = target.partition("#")
        assert target.startswith("https://") or (path.parent / name).exists(), target
        if heading:
            headings = re.findall(r"^#+ (.*)$", (path.parent / name).read_text("utf-8"), re.M)
            assert heading in [text.lower().replace(" ", "-") for text in headings], target


def test_the_commands_for_the_chinese_data_can_be_typed():
    for words in (found := commands(OTHERS[-1].read_text(encoding="utf-8"))):
        cli.build_parser().parse_args(words[1:])  # exits where there is no such option
    assert len(found) == 6


@pytest.mark.parametrize("path", COURSE)
def test_the_files_that_the_course_runs_are_there(path):
    found = re.findall(r'`python (?:-m pytest -m "" )?([^`]+)`', path.read_text(encoding="utf-8"))
    assert len(found) == 2
    for name in " ".join(found).split():
        assert (CHECKOUT / name).is_file(), name


def chinese_example(words: list[str]) -> bool:
    """Whether a command is about a Chinese text: those stand in the Chinese pages only."""
    return any("\u4e00" <= c <= "\u9fff" for word in words for c in word)


@pytest.mark.parametrize("pages", [MAIN, COURSE], ids=["README", "course"])
def test_both_languages_have_the_same_commands(pages):
    english, chinese = (commands(path.read_text(encoding="utf-8")) for path in pages)
    assert len(english) >= 3
    assert [words for words in chinese if not chinese_example(words)] == english
    assert len(chinese) > len(english)  # Chinese texts are shown, too


def test_both_languages_have_the_same_code_and_tables():
    pages = [re.sub(r" *# .*", "", path.read_text(encoding="utf-8")) for path in MAIN]
    for language in ("python", "powershell", ""):
        english, chinese = (blocks(language, page) for page in pages)
        assert english == chinese and english
    row = r"^\| (\w[\w -]*) \| ([\d.]+) "
    english, chinese = (re.findall(row, page, re.MULTILINE) for page in pages)
    assert english == chinese and len(english) == 4


def test_the_course_is_the_same_in_both_languages():
    english, chinese = (path.read_text(encoding="utf-8") for path in COURSE)
    for pattern in (r"^#+ ", r"\]\((?:zh/)?(\d_\w+.ipynb)\)", r"`(\w+_\w+)`"):
        one, other = (re.findall(pattern, page, re.MULTILINE) for page in (english, chinese))
        assert one == other, pattern


@pytest.mark.parametrize("path", COURSE)
def test_the_table_of_the_course_names_the_exercises_of_each_notebook(path):
    rows = re.findall(r"^\| \[.*?\]\((\S+)\) \|.*\| (.*)\|$", path.read_text("utf-8"), re.MULTILINE)
    assert [name.removeprefix("zh/")[0] for name, _ in rows] == list("0123456789")
    for name, named in rows:
        cells = json.loads((path.parent / name).read_text(encoding="utf-8"))["cells"]
        judged = [c for c in cells if "judged" in c["metadata"].get("tags", [])]
        source = "".join("".join(cell["source"]) for cell in judged)
        assert re.findall(r"`(\w+)`", named) == re.findall(r'check\("(\w+)"', source), name
