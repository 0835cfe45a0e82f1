"""The command line: results on stdout, the rest on stderr, no traceback, no torch for --help."""

import io
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import CHECKOUT
from support.command import parser_of, run
from support.tiny import WORDS, build, tiny_config

import minibert
from minibert.cli import main as cli
from minibert.cli.models import SHOW
from minibert.course.exercises import EXERCISES
from minibert.heads import BertForMaskedLM, BertForSequenceClassification
from minibert.io import hub
from minibert.tokenization.tokenizer import BertTokenizer
from minibert.training.settings import GROUPS, DistilSettings, Settings


def commands() -> list[str]:
    """The name of each command, of those below ``evaluate`` too."""
    names = [run.__name__ for run in (*cli.COMMANDS, *cli.EVALUATE)]
    return [n.replace("evaluate_", "evaluate ").replace("_", "-") for n in names]


def test_help_imports_no_torch():
    """Nor anything else that takes time; neither that of `minibert` nor that of its commands."""
    code = (
        "import sys\nfrom minibert.cli.main import main\n"
        f"for words in {['', *commands()]}:\n"
        "    try:\n        main([*words.split(), '--help'])\n"
        "    except SystemExit as stop:\n        assert not stop.code\n"
        "slow = {'torch', 'numpy', 'huggingface_hub', 'safetensors'} & set(sys.modules)\n"
        "sys.exit(f'imported {slow}' if slow else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", commands())
def test_every_command_has_help_that_teaches(capsys, command):
    status, out, _ = run(capsys, *command.split(), "--help")
    assert status == 0
    assert f"Example: minibert {command} " in out and "--json" in out
    example = re.search("Example: (minibert .*)", out).group(1)
    cli.build_parser().parse_args(shlex.split(example)[1:])  # exits where there is no such option
    first = command.split()[0]
    assert re.search(rf"^    {first}\b", run(capsys, "--help")[1], re.MULTILINE)


@pytest.mark.parametrize("words, keys", [
    ("show pooler", {"topic", "file", "name", "source"}),
    ("check", set(EXERCISES)),
    ("check attention --hint 1", {"exercise", "hint"}),
    ("check attention --start NEW", {"exercise", "written"}),
    ("parity --replace pooling=minibert/pooling.py:mean_pooling", {"passed", "reports"}),
])
def test_json_says_what_the_text_says(capsys, monkeypatch, tmp_path, words, keys):
    monkeypatch.chdir(CHECKOUT)
    words = words.replace("NEW", str(tmp_path / "a.py")).split()
    status, out, _ = run(capsys, *words, "--json")
    assert status == 0 and set(json.loads(out)) == keys


def test_similarity(capsys, model, tiny):
    one, other = tiny.encode(["a b", "c"])
    words = ["similarity", "a b", "c", "--model", model]
    status, out, _ = run(capsys, *words)
    assert status == 0 and f"{one @ other:8.4f}" in out
    table = json.loads(run(capsys, *words, "--json")[1])["similarity"]
    assert np.allclose(table, [[1, one @ other], [one @ other, 1]], atol=1e-6)
    words += ["--measure", "euclidean", "--engine", "textbook", "--json"]
    found = json.loads(run(capsys, *words)[1])
    assert np.isclose(found["similarity"][0][1], -np.linalg.norm(one - other), atol=1e-5)
    assert found["measure"] == "euclidean"
    status, out, err = run(capsys, "similarity", "a", "--model", model)
    assert (status, out) == (2, "")
    assert err == "minibert: one text; at least two are needed to compare\n"


@pytest.fixture
def shipped(model, tmp_path, monkeypatch):
    """Small models where those that come with minibert are looked for, and files for commands."""
    monkeypatch.setattr(hub, "__file__", str(tmp_path / "minibert" / "io" / "hub.py"))
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "minibert-small").symlink_to(model)
    language = build(BertForMaskedLM, tiny_config(vocab_size=len(WORDS)))
    language.save_pretrained(tmp_path / "weights" / "minibert-tiny")
    BertTokenizer(WORDS).save_pretrained(tmp_path / "weights" / "minibert-tiny")
    (tmp_path / "lines.txt").write_text("a b c\nd e f\n")
    (tmp_path / "pairs.csv").write_text("a b,a c,4.0\nd e,f g,1.0\nh,h i,3.5\n")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("words", [
    "similarity a b", "embed lines.txt --out v.npy --force", "search a lines.txt",
    "keysentences lines.txt -n 1", "evaluate similarity --data pairs.csv", "inspect",
    "trace a --out t.safetensors --force", "explore a --out page.html --force", "explain a",
    "fill-mask a[MASK]",
])  # fmt: skip
def test_without_a_model_it_is_the_one_that_comes_along_and_it_is_named(capsys, shipped, words):
    expected = "minibert-tiny" if words.startswith("fill-mask") else "minibert-small"
    status, out, err = run(capsys, *words.split(), "--json")
    assert status == 0 and json.loads(out)["model"] == expected
    status, out, err = run(capsys, *words.split())
    assert status == 0 and (expected in out + err or words.startswith("explore"))


def test_what_official_figures_are_about_is_the_official_model():
    official = "sentence-transformers/all-MiniLM-L6-v2"
    assert cli.build_parser().parse_args(["bench"]).model == DistilSettings().teacher == official
    assert Settings("classify", "train.csv").base == "minibert-small"


def test_embed_then_search(capsys, model, tmp_path):
    (tmp_path / "lines.txt").write_text("a b c\nd e f\ng h i\n")
    lines, vectors = tmp_path / "lines.txt", tmp_path / "vectors.npy"
    status, out, err = run(capsys, "embed", lines, "--out", vectors, "--model", model)
    assert (status, out) == (0, f"{vectors}: 3 x 32 float32\n")
    assert f"model: {model}; 3 lines" in err
    arguments = ["search", "d e f", lines, "-k", "2", "--model", model]
    out = run(capsys, *arguments)[1]
    assert out.splitlines()[0].split() == ["1.0000", "line", "2", "d", "e", "f"]
    assert len(out.splitlines()) == 2
    assert run(capsys, *arguments, "--vectors", vectors)[1] == out
    assert json.loads(run(capsys, *arguments, "--json")[1])["hits"][0]["corpus_id"] == 1
    lines.write_text("a b c\n")
    status, _, err = run(capsys, *arguments, "--vectors", vectors)
    assert status == 2
    assert "has the shape (3, 32)" in err and "need floats in the shape (1, 32); write it" in err
    lines.write_text("a b c\ng h i\nd e f\n")
    assert "the vectors of other texts" in run(capsys, *arguments, "--vectors", vectors)[2]


@pytest.mark.parametrize("ending, head", [("txt", ""), ("tsv", "text\tlabel\n")])
def test_a_blank_line_is_no_hit_and_an_empty_query_no_query(
    capsys, model, tmp_path, ending, head
):
    file, vectors = tmp_path / f"lines.{ending}", tmp_path / "vectors.npy"
    end = "\tx\n" if head else "\n"
    file.write_text(head + end.join(["a b c", "", "d e f", " ", "g h i", ""]))
    ways = [[]] if head else [[], ["--vectors", vectors]]
    run(capsys, "embed", file, "--out", vectors, "--model", model)
    for given in ways:
        words = [file, *given, "--model", model]
        for k, count in ((1, 1), (3, 3), (9, 3)):
            out = run(capsys, "search", "d e f", *words, "-k", k)[1]
            assert len(out.splitlines()) == count and "d e f" in out.splitlines()[0]
        lines = {int(line.split()[2]) - bool(head): line.split()[3:] for line in out.splitlines()}
        assert lines == {1: ["a", "b", "c"], 3: ["d", "e", "f"], 5: ["g", "h", "i"]}
        for query in ("", " \t"):
            status, out, err = run(capsys, "search", query, *words)
            assert (status, out) == (2, "") and "the query is empty" in err


def test_the_engine_is_named_where_it_was_asked_for(capsys, model, tmp_path):
    (tmp_path / "lines.txt").write_text("a b c\nd e f\n")
    for words in (["similarity", "a", "b"], ["search", "a", tmp_path / "lines.txt"]):
        words += ["--model", model]
        said = "".join(run(capsys, *words)[1:])
        assert "engine" not in said + run(capsys, *words, "--json")[1]
        said = "".join(run(capsys, *words, "--engine", "textbook")[1:])
        assert ", engine textbook\n" in said
        out = run(capsys, *words, "--engine", "textbook", "--json")[1]
        assert json.loads(out)["engine"] == "textbook"


def test_keysentences(capsys, model, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("a b. c d e! f g?\nh i j k.\n")
    status, out, _ = run(capsys, "keysentences", text, "-n", "2", "--model", model)
    sentences, chosen = ["a b.", "c d e!", "f g?", "h i j k."], out.splitlines()
    assert status == 0 and len(chosen) == 2
    assert [s for s in sentences if s in chosen] == chosen  # in the order of the text
    _, out, _ = run(capsys, "keysentences", text, "-n", "9", "--lines", "--model", model)
    assert out.splitlines() == ["a b. c d e! f g?", "h i j k."]


def test_evaluate_similarity(capsys, model, tiny, tmp_path):
    from minibert.training.metrics import spearman

    pairs = [("a b", "a c", 4.0), ("d e", "f g", 1.0), ("h", "h i", 3.5), ("j", "a", 0.5)]
    data = tmp_path / "pairs.csv"
    data.write_text("".join(f"{a},{b},{score}\n" for a, b, score in pairs))
    cosines = [float(tiny.encode(a) @ tiny.encode(b)) for a, b, _ in pairs]
    expected = spearman(cosines, [score for _, _, score in pairs])
    arguments = ["evaluate", "similarity", "--data", data, "--model", model]
    status, out, _ = run(capsys, *arguments)
    assert status == 0
    assert f"Spearman {expected:.5f}" in out
    assert np.isclose(json.loads(run(capsys, *arguments, "--json")[1])["spearman"], expected)


def test_inspect_accounts_for_every_tensor(capsys, model, tiny):
    status, out, _ = run(capsys, "inspect", model, "--json")
    result = json.loads(out)
    assert status == 0
    assert result["parameters"] == sum(p.numel() for p in tiny.model.parameters())
    assert {row["ours"] for row in result["tensors"]} == set(tiny.model.state_dict())
    out = run(capsys, "inspect", model)[1]
    assert re.search(r"encoder.layer.1.attention.self.key.bias .* layers.1.attention.key.bias", out)


@pytest.mark.parametrize("kind", [BertForMaskedLM, BertForSequenceClassification])
def test_inspect_of_names_with_a_prefix(capsys, tmp_path, kind):
    """Every head's checkpoint has it: bert.encoder..., and our classifiers are saved so."""
    model = build(kind, tiny_config())
    model.save_pretrained(tmp_path)
    rows = json.loads(run(capsys, "inspect", tmp_path, "--json")[1])["tensors"]
    assert {row["ours"] for row in rows} == set(model.state_dict())
    status, out, _ = run(capsys, "inspect", tmp_path)
    assert status == 0 and re.search(r"bert.embeddings.LayerNorm.bias .* bert.embeddings.norm", out)


def test_fill_mask(capsys, model, tmp_path):
    language = build(BertForMaskedLM, tiny_config(vocab_size=len(WORDS)))
    language.predictions.bias.data[WORDS.index("q")] = 9.0  # so "q" is by far the likeliest
    language.save_pretrained(tmp_path)
    BertTokenizer(WORDS).save_pretrained(tmp_path)
    arguments = ["fill-mask", "a [MASK] b [MASK]", "--model", tmp_path, "-k", "2"]
    guesses = json.loads(run(capsys, *arguments, "--json")[1])["masks"]
    assert [row[0]["token"] for row in guesses] == ["q", "q"]
    logits = language(**BertTokenizer(WORDS)("a [MASK] b [MASK]")).logits[0, 2]
    assert np.isclose(guesses[0][0]["probability"], logits.softmax(-1).max().item())
    status, _, err = run(capsys, "fill-mask", "a b", "--model", tmp_path)
    assert status == 2
    assert err == "minibert: no [MASK] in the text; write it where a word is missing\n"
    status, out, err = run(capsys, "fill-mask", "a [MASK]", "--model", model)
    assert (status, out) == (2, "")
    assert err.startswith(f"minibert: {model} has no masked-LM head, so it cannot fill in words")


def test_trace(capsys, model, tiny, tmp_path):
    from safetensors import safe_open

    out_file = tmp_path / "trace.safetensors"
    status, out, _ = run(capsys, "trace", "a b", "c", "--out", out_file, "--model", model)
    assert status == 0
    assert "layers.1.attention.probabilities" in out
    with safe_open(out_file, framework="pt") as file:
        hidden = file.get_tensor("layers.1.feed_forward_norm")
        tokens = json.loads(file.metadata()["tokens"])
    assert tokens == [["[CLS]", "a", "b", "[SEP]"], ["[CLS]", "c", "[SEP]", "[PAD]"]]
    expected = tiny.model.eval()(**tiny.tokenizer(["a b", "c"])).last_hidden_state
    assert hidden.equal(expected)
    np.savez(tmp_path / "mine.npz", hidden=hidden.numpy())
    names = tmp_path / "names.json"
    names.write_text('{"hidden": "layers.1.feed_forward_norm"}')
    mine = [tmp_path / "mine.npz", "--trace", out_file, "--names", names]
    for dump in ([out_file], mine):  # compared with the model that was traced
        assert run(capsys, "parity", *dump)[0] == 0


def test_explain(capsys, model):
    status, out, _ = run(capsys, "explain", "A b", "--model", model)
    assert status == 0 and "lower_case" in out and "U+0041 LATIN CAPITAL LETTER A" in out
    result = json.loads(run(capsys, "explain", "A b", "--model", model, "--json")[1])
    assert [token["token"] for token in result["tokens"]] == ["a", "b"]
    assert result["steps"][0]["before"] == "A" and result["steps"][0]["after"] == "a"


def test_show_prints_the_source(capsys):
    for topic, (_, name) in SHOW.items():
        status, out, _ = run(capsys, "show", topic)
        assert status == 0 and (name or "from __future__") in out, topic
    status, out, _ = run(capsys, "show")
    assert [line.split()[0] for line in out.splitlines()] == list(SHOW)
    assert run(capsys, "show", "nonsense")[0] == 2


def test_bad_input_is_one_line_without_a_traceback(model, tmp_path):
    (tmp_path / "latin.txt").write_bytes("fünf\n".encode("latin-1"))
    command = [sys.executable, "-m", "minibert", "search", "a", "latin.txt", "--model", model]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch("minibert: latin.txt, line 1: byte 0xfc is not UTF-8.*\n", done.stderr)


def test_an_unknown_option_shows_the_usage_of_its_command(capsys):
    status, _, err = run(capsys, "similarity", "a", "b", "--mesure", "dot")
    assert status == 2
    assert "usage: minibert similarity" in err and "--measure" in err
    assert "unrecognized arguments: --mesure dot" in err


@pytest.mark.parametrize("name", ["similarity", "embed", "search", "keysentences"])
def test_advice_on_long_texts_fits_the_command_line(capsys, model, tmp_path, name):
    long = "a " * 20
    (tmp_path / "lines.txt").write_text(f"{long}\n{long}\n")
    file, out = tmp_path / "lines.txt", tmp_path / "out.npy"
    words = {
        "similarity": [long, long],
        "embed": [file, "--out", out, "--force"],
        "search": ["a", file],
        "keysentences": [file, "-n", 1],
    }
    command = [name, *words[name], "--model", model]
    status, _, errors = run(capsys, *command)
    assert "warning: " in errors and errors.count("\n") <= 2
    assert status == 0 and "cut off. on_long=\"window\" (--on-long window) reads" in errors
    status, _, errors = run(capsys, *command, "--on-long", "error")
    assert status == 2 and "shorten them, or use on_long=\"window\" (--on-long window)" in errors
    status, _, errors = run(capsys, *command, "--on-long", "window")
    assert status == 0 and "--on-long" not in errors


def test_advice_fits_the_command_line(capsys, model):
    _, _, err = run(capsys, "similarity", "??? !!! ???", "a", "--model", model)
    assert "(said once; minibert explain TEXT tells why)" in err
    _, _, err = run(capsys, "trace", "a " * 99, "--out", "x.safetensors", "--model", model)
    assert "tokens, but this model has 64 positions; shorten the text, " in err


def test_alone_it_shows_its_help_and_its_version(capsys):
    status, out, _ = run(capsys)
    assert status == 2 and "similarity" in out
    status, out, _ = run(capsys, "--version")
    assert status == 0 and out == f"minibert {minibert.__version__}\n"


def test_settings_stand_in_groups(capsys):
    _, out, _ = run(capsys, "finetune", "--help")
    titles = [out.index(f"\n{title}:") for title in GROUPS.values()]
    assert titles == sorted(titles)
    data, pace = out[titles[0] : titles[1]], out[titles[1] : titles[2]]
    assert "--dev FILE" in data and "--lr FLOAT" in pace


@pytest.mark.parametrize("words", [
    ["search", "a", "none.txt"],
    ["search", "a", "none.tsv"],
    ["embed", "none.txt", "--out", "v.npy"],
    ["keysentences", "none.txt"],
    ["predict", "none.txt"],
    ["evaluate", "similarity", "--data", "none.csv"],
    ["parity", "none.npz"],
    ["parity", "--trace", "none.safetensors"],
    ["parity", "--replace", "attention=none.txt:Mine"],
], ids=" ".join)
def test_a_missing_file_is_told_alike_by_all(capsys, model, words):
    status, out, err = run(capsys, *words, "--model", model)
    assert (status, out) == (2, "")
    name = next(word for word in words if "none." in word).split("=")[-1].split(":")[0]
    assert err == f"minibert: {name}: no such file (looked from {Path.cwd()})\n"


def test_search_takes_the_text_column_of_a_table(capsys, model, tmp_path):
    rows = [("a b c", "x"), ("d e f", "y"), ("g h i", "x")]
    tsv, csv, jsonl = (tmp_path / f"t.{kind}" for kind in ("tsv", "csv", "jsonl"))
    tsv.write_text("label\ttext\n" + "".join(f"{b}\t{a}\n" for a, b in rows))
    csv.write_text("text,label\n" + "".join(f'"{a}",{b}\n' for a, b in rows))
    jsonl.write_text("".join(json.dumps({"text": a, "label": b}) + "\n" for a, b in rows))
    for file, first in ((tsv, 2), (csv, 2), (jsonl, 1)):
        words = ["search", "d e f", file, "--model", model]
        _, out, err = run(capsys, *words)
        assert out.splitlines()[0].split() == ["1.0000", "line", str(first + 1), "d", "e", "f"]
        assert len(out.splitlines()) == 3, "the header is not a text"
        assert f"{file.name}: 3 rows; text = column 'text'" in err
        assert json.loads(run(capsys, *words, "--json")[1])["hits"][0]["corpus_id"] == first
    tsv.write_text("".join(f"{b}\t{a} {a}\n" for a, b in rows))
    for given in ([], ["--columns", "text=2"]):
        _, out, err = run(capsys, "search", "d e f d e f", tsv, *given, "--model", model)
        assert out.splitlines()[0].split() == ["1.0000", "line", "2", *"defdef"]
        assert given or "as seen from what is in them: text = column '2'" in err
    tsv.write_text("".join(f"{a}\t{a}\n" for a, _ in rows))  # two columns of texts
    status, _, err = run(capsys, "search", "d e f", tsv, "--no-header", "--model", model)
    assert status == 2 and "--columns text=1" in err


def test_embed_takes_whole_lines_of_a_table_and_says_so(capsys, model, tmp_path):
    file, vectors = tmp_path / "t.tsv", tmp_path / "v.npy"
    file.write_text("text\tlabel\na b\tx\nc d\ty\n")
    _, out, err = run(capsys, "embed", file, "--out", vectors, "--model", model)
    assert out == f"{vectors}: 3 x 32 float32\n"
    assert err.count("whole lines are encoded, with the header and all columns") == 1
    words = ["search", "c d\ty", file, "--vectors", vectors, "--model", model]
    _, out, _ = run(capsys, *words)
    assert out.splitlines()[0].split() == ["1.0000", "line", "3", "c", "d", "y"]


@pytest.mark.parametrize("words, file", [
    ("check mean-pooling --start", "mean_pooling.py"), ("explore a", "page.html"),
    ("explore a b --live", "page.html"),
])  # fmt: skip
def test_a_file_that_is_not_named_has_a_name_and_is_not_written_over(capsys, shipped, words, file):
    assert run(capsys, *words.split())[0] == 0
    written = Path(file).read_bytes()
    assert len(written) > 200
    Path(file).write_text("mine")
    status, _, err = run(capsys, *words.split())
    assert status == 2 and f"{file} exists" in err and Path(file).read_text() == "mine"
    assert run(capsys, *words.split(), "--force")[0] == 0 and Path(file).read_bytes() == written


@pytest.mark.parametrize("words, option, ending", [
    (["embed", "lines.txt"], "--out", ".npy"),
    (["vocabulary", "lines.txt", "--size", 60], "--out", ".txt"),
    (["compare", "run", "run"], "--svg", ".svg"),
    (["blend", "base", "tuned", "--data", "a.csv", "--keep", "b.csv"], "--svg", ".svg"),
    (["export", "model"], "--onnx", ".onnx"),
    (["trace", "a b"], "--out", ".safetensors"),
    (["explore", "a b"], "--out", ".html"),
    (["parity"], "--html", ".html"),
    (["check", "attention"], "--start", ".py"),
    (["bench"], "--svg", ".svg"),
], ids=lambda value: value[0] if isinstance(value, list) else "")  # fmt: skip
def test_no_file_is_written_over(capsys, tmp_path, monkeypatch, words, option, ending):
    monkeypatch.chdir(tmp_path)
    (tmp_path / f"room{ending}").mkdir()
    (tmp_path / "notes.md").write_text("mine")
    (tmp_path / f"mine{ending}").write_text("mine")
    for out in ("notes.md", f"room{ending}"):
        for force in ([], ["--force"]):
            status, _, err = run(capsys, *words, option, out, *force)
            assert status == 2 and f"{out}: give the name of a file that ends in {ending}\n" in err
    status, _, err = run(capsys, *words, option, f"mine{ending}")
    assert status == 2 and f"mine{ending} exists; name another file, or --force" in err
    assert [path.read_text() for path in tmp_path.iterdir() if path.is_file()] == ["mine"] * 2


def test_every_file_that_a_command_writes_is_under_this_rule():
    """The options above are all; --out of the others is a directory, refused where it exists."""
    written = {(name, option) for name in commands() if " " not in name
               for option in parser_of(name).get_default("written") or {}}  # fmt: skip
    assert {option for _, option in written} == {"out", "svg", "onnx", "html", "start"}
    assert len(written) == 10


def test_what_is_forced_is_replaced(capsys, model, tmp_path):
    (tmp_path / "v.npy").write_text("old")
    (tmp_path / "lines.txt").write_text("a b\n")
    words = ["embed", tmp_path / "lines.txt", "--out", tmp_path / "v.npy", "--model", model]
    assert run(capsys, *words, "--force")[0] == 0 and np.load(tmp_path / "v.npy").shape == (1, 32)
    (tmp_path / "a.py").write_text("old")
    run(capsys, "check", "attention", "--start", tmp_path / "a.py", "--force")
    assert "def attention" in (tmp_path / "a.py").read_text()


def test_predict_with_a_sentence_encoder_says_what_it_needs(capsys, model, tmp_path):
    (tmp_path / "q.tsv").write_text("text\tlabel\na b\tx\n")
    for words in (["predict"], ["evaluate", "classify", "--data"]):
        words = [*words, tmp_path / "q.tsv"]
        status, out, err = run(capsys, *words, "--model", model)
        assert (status, out) == (2, "")
        needed = "two texts in a row are needed (for one there is `minibert finetune classify`)"
        assert f"q.tsv: {needed}; which columns are pair? It has ['text', 'label']" in err
        status, _, err = run(capsys, *words)
        assert status == 2 and "required: --model" in err
    (tmp_path / "q.tsv").write_text("text\tpair\na b\t\n")
    _, _, err = run(capsys, "predict", tmp_path / "q.tsv", "--model", model)
    assert "the pair is empty (line 2)" in err, "another fault keeps its own message"


@pytest.mark.parametrize("encoding", ["ascii", "gbk", "latin-1"])
def test_a_terminal_with_fewer_characters_shows_all_lines(model, monkeypatch, encoding):
    words = ["similarity", "a naïve café", "東京 \U0001f600", "--model", model]
    for more in ([], ["--json"]):
        out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        monkeypatch.setattr(sys, "stdout", out)
        assert cli.main([*words, *more]) == 0
        out.flush()
        text = out.buffer.getvalue().decode(encoding)
        if more:
            assert json.loads(text)["texts"] == words[1:3]
        else:
            assert len(text.splitlines()) == 5 and "\\U0001f600" in text


def test_what_is_read_does_not_command_the_terminal(capsys, model, tmp_path):
    """A text in a file, an argument, the name of a file: none moves the cursor or colours it."""
    (tmp_path / "lines.txt").write_text("a \x1b[31mred\x1b[0m\x07\x9b2J b\n")
    for words in (
        ["search", "a", tmp_path / "lines.txt", "--model", model],
        ["search", "a", tmp_path / "lines.txt", "--model", model, "--json"],
        ["similarity", "\x1b[2J", "a", "--model", model], ["explain", "a", "--model", "\x1b[2J"],
        ["show", "\x1b[2J"], ["show", "loop", "\x1b[2J"], ["embed", "\x1b[2J", "--out", "x.npy"],
    ):  # fmt: skip
        _, out, err = run(capsys, *words)
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", out + err)
        assert re.search(r"\\(u00|x)1b", out + err)
        if "--json" in words:
            assert json.loads(out)["hits"][0]["text"] == (tmp_path / "lines.txt").read_text()[:-1]


@pytest.mark.parametrize("words, message", [
    ("fill-mask [MASK] -k -1", "argument -k: -1; 1 to 1000000000 is allowed"),
    ("search a lines.txt -k 0", "argument -k: 0; 1 to"),
    ("keysentences lines.txt -n x", "argument -n: invalid int value: 'x'"),
    ("bench --threads -1", "argument --threads: -1; 1 to 1024"),
    ("bench --rounds 0", "argument --rounds: 0"),
    ("check attention a.py --seed -3", "argument --seed: -3"),
    ("finetune classify a.csv --out x --seeds 0", "argument --seeds: 0"),
    ("finetune classify a.csv --out x --seed 99999999999999999999", "seed is 99999999999999999999"),
    ("finetune classify a.csv --out x --replay-share inf", "replay_share is inf; 0 to 1000"),
    ("finetune classify a.csv --out x --dropout nan", "dropout is nan; 0 to 1"),
    ("finetune classify a.csv --out x --lora 1000000000", "lora is 1000000000; 1 to 1024"),
    ("finetune classify a.csv --out x --epochs 1e23", "invalid int value: '1e23'"),
    ("finetune classify a.csv --out x --device x", "'x' is no device; auto or one of cpu"),
])  # fmt: skip
def test_a_number_that_cannot_be_is_told(capsys, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_text("text,label\n" + "a b,x\nb c,y\n" * 9)
    status, out, err = run(capsys, *words.split())
    assert (status, out) == (2, "") and message in err
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_too_little_memory_is_said(capsys, monkeypatch):
    for error in (MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: x")):
        monkeypatch.setattr(cli, "show", lambda *_, error=error: (_ for _ in ()).throw(error))
        status, _, err = run(capsys, "show", "loop")
        assert status == 2 and err.startswith("minibert: out of memory: ")
