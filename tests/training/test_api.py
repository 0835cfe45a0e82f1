"""Fine-tuning and its results in Python: `finetune`, `FineTuned`, types of settings."""

import json
from pathlib import Path
from typing import NamedTuple

import pytest
from support import small
from support.tiny import WORDS, build, tiny_config

import minibert
from minibert import BertForSequenceClassification, BertTokenizer, FineTuned
from minibert.io.files import read_json
from minibert.training.api import in_python
from minibert.training.inference import evaluate_file, predict_file
from minibert.training.settings import Settings

ROWS = small.sentences(40, seed=0)
DEV = small.sentences(12, seed=1)


class Frame(NamedTuple):
    """As much of a pandas frame as `finetune` needs."""

    columns: list
    rows: list

    def itertuples(self, index=True, name="Pandas"):
        assert not index and name is None
        return iter(self.rows)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    home = small.world(tmp_path_factory.mktemp("api"))
    how = {"base": str(home / "base"), "lr": 1e-3, "epochs": 2, "max_length": 40, "device": "cpu"}
    return home, how


@pytest.fixture(scope="module")
def models(world):
    """A model for each task, all made in Python."""
    home, how = world
    words = [text.split() for text, _ in ROWS]
    tags = [["B-X" if w in small.GOOD + small.BAD else "O" for w in row] for row in words]
    questions = [(label, text, [[text.split()[0], 0]]) for text, label in ROWS]
    pairs = [(text, text, float(label == "good")) for text, label in ROWS]
    data = {
        "classify": ROWS, "tokens": list(zip(words, tags, strict=True)), "qa": questions,
        "regression": pairs, "mlm": [text for text, _ in ROWS],
        "multilabel": [(text, [label, "text"]) for text, label in ROWS],
    }  # fmt: skip
    for task, rows in data.items():
        minibert.finetune(rows, task, out=home / task, say=lambda line: None, **how)
    return {task: home / task for task in data}


@pytest.mark.parametrize("kind", ["pairs", "dicts", "frame", "mixed files"])
def test_every_kind_of_data_trains_the_model_of_the_file(world, tmp_path, kind, capsys):
    home, how = world
    of = {
        "pairs": lambda rows: iter(rows),
        "dicts": lambda rows: [{"text": text, "label": label} for text, label in rows],
        "frame": lambda rows: Frame(["text", "label"], rows),
    }.get(kind, lambda rows: rows)
    train, dev = home / "train.tsv", home / "dev.tsv"
    expected = minibert.finetune(train, out=tmp_path / "a", dev=dev, **how)
    printed = capsys.readouterr()
    assert "train: bad 20, good 20" in printed.out, "remarks are printed"
    dev = dev if kind == "mixed files" else of(DEV)
    found = minibert.finetune(of(ROWS), out=tmp_path / "b", dev=dev, say=[].append, **how)
    assert found == expected
    model = "model.safetensors"
    assert (tmp_path / "a" / model).read_bytes() == (tmp_path / "b" / model).read_bytes()
    assert minibert.finetune(resume=True, out=tmp_path / "b", say=print) == expected
    assert "finished already" in capsys.readouterr().out


def test_other_data_are_no_continuation(world, models):
    with pytest.raises(ValueError, match="train is not what the run began with"):
        minibert.finetune(ROWS[1:], out=models["classify"], resume=True)


def test_what_pandas_and_numpy_have_in_cells_arrives(tmp_path, world):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(ROWS, columns=["text", "label"])
    frame["label"] = (frame["label"] == "good").astype("int64")
    frame["unused"] = pandas.Series([1] * 39, dtype="Int64")  # the last is <NA>
    minibert.finetune(frame, out=tmp_path / "run", say=[].append, **world[1])
    rows = json.loads((tmp_path / "run" / "run" / "data" / "train.json").read_text())
    first, last = rows[0], rows[-1]
    assert first == {"text": ROWS[0][0], "label": int(ROWS[0][1] == "good"), "unused": 1}
    assert last["unused"] is None
    classes = minibert.Classifier.from_pretrained(tmp_path / "run").classes
    assert classes == ["0", "1"]


def test_a_classifier_gives_labels_and_probabilities(world, models):
    home, _ = world
    model = minibert.Classifier.from_pretrained(models["classify"], device="cpu")
    texts = [text for text, _ in DEV]
    answers = model.predict(texts)
    expected = predict_file(models["classify"], home / "dev.tsv")
    assert answers == [{k: row[k] for k in ("label", "probability")} for row in expected]
    assert [list(row) for row in model.predict({"text": t, "other": 1} for t in texts)] == [
        ["label", "probability"]] * 12  # fmt: skip
    probabilities = model.predict_proba(texts)
    assert probabilities.shape == (12, 2)
    assert [model.classes[n] for n in probabilities.argmax(1)] == [a["label"] for a in answers]
    (alone,) = model.predict(texts[0])
    assert alone["probability"] == pytest.approx(answers[0]["probability"]), "one text, no letters"
    assert model.predict([]) == [] and model.predict_proba([]).shape == (0, 2)
    assert len(model.predict([("a good film", "a bad film")])) == 1


def test_the_other_tasks_answer_too(models):
    tagger = minibert.TokenTagger.from_pretrained(models["tokens"])
    text = "the film is good"
    (found,) = tagger.predict([text])
    assert all(text[e["start"] : e["end"]] == e["text"] for e in found["entities"])
    (found,) = tagger.predict([text.split()])
    assert len(found["tags"]) == 4
    (found,) = minibert.Answerer.from_pretrained(models["qa"]).predict([("good", text)])
    assert found["answer"] in text and found["n_best"]
    scorer = minibert.FineTuned.from_pretrained(models["regression"])
    assert isinstance(scorer.predict([(text, text)])[0]["score"], float)
    assert minibert.Classifier.from_pretrained(models["multilabel"]).predict(text)
    assert minibert.FineTuned.from_pretrained(models["mlm"]).predict(text)[0]["hidden"] >= 1


@pytest.mark.parametrize("task, inputs, message", [
    ("classify", [3], "row 1: text is 3"),
    ("classify", ["a", ("b",), ("c", "d")], "row 3 has text, pair, but row 1 text"),
    ("classify", [("a", "b", "c")], r"row 1 is \('a', 'b', 'c'\).*possible: text, pair"),
    ("classify", [{"label": "a"}], "row 1 is .*needed: text"),
    ("classify", [{"text": 7}], "row 1: text is 7"),
    ("qa", ["who?"], "row 1 is 'who.'; needed: question, context"),
    ("tokens", [["a", 3]], r"row 1: tokens is \['a', 3\]"),
])  # fmt: skip
def test_inputs_that_cannot_be_are_refused(models, task, inputs, message):
    model = minibert.FineTuned.from_pretrained(models[task])
    with pytest.raises((ValueError, TypeError), match=message):
        model.predict(inputs)


def test_a_model_of_another_task_is_refused(models):
    with pytest.raises(ValueError, match="Classifier is for classify and multilabel, but .*Token"):
        minibert.Classifier.from_pretrained(models["tokens"])


@pytest.mark.parametrize("data, how, message", [
    (ROWS, {"learning_rate": 1}, "no setting 'learning_rate'"),
    (ROWS, {"epoch": 1}, "did you mean epochs"),
    (ROWS, {"task": "classification"}, "no task is named 'classification'; there are classify,"),
    (None, {}, "training data are needed"),
    (7, {}, "train is a int; a file, a pandas frame"),
    ([("a", "b", "c", "d")], {}, r"row 1 is .*\(text, pair, label\) or \(text, label\)"),
    (["text alone"], {}, r"row 1 is 'text alone'; .*\(text, label\)"),
    (ROWS, {"lr": "fast"}, "lr is 'fast'"),
    (ROWS[:5], {}, "too small"),
    (ROWS, {"freeze": 99}, "freeze is 99"),
])  # fmt: skip
def test_what_cannot_be_trained_is_refused_and_nothing_stays(world, tmp_path, data, how, message):
    how = {**world[1], **how}
    with pytest.raises((ValueError, TypeError), match=message):
        minibert.finetune(data, out=tmp_path / "run", say=[].append, **how)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name, value, allowed", [
    ("epochs", "3", "int"), ("epochs", 2.0, "int"), ("seed", True, "int"), ("lr", "2e-5", "float"),
    ("dev", 3, "str"), ("autocast", "yes", "bool"), ("columns", "text=1", "dict"),
    ("scale", 5, "tuple"), ("base", None, "str"), ("freeze", 1.5, "str or int"),
])  # fmt: skip
def test_settings_check_types(name, value, allowed):
    with pytest.raises(TypeError, match=f"{name} is {value!r}.*{allowed}"):
        Settings(**{"task": "classify", "train": "x", name: value})


def test_settings_of_the_right_types_pass_and_come_back(tmp_path, world, models):
    Settings("classify", "x", lr=1, scale=[0, 5], columns={"text": "1"}, freeze="encoder", seed=3)
    written = read_json(models["classify"] / "run" / "settings.json")
    assert Settings(**written).lr == 1e-3


@pytest.mark.parametrize("text, expected", [
    ("a/train.json: 2 rows (rows 3, 7)", "train: 2 rows (rows 3, 7)"),
    ("train.json, row 3: x. Say --header or --no-header", "train, row 3: x. Say header=True or "
     "header=False"),
    ("leave them out: --skip-incomplete", "leave them out: skip_incomplete=True"),
    ("--columns tokens=2 tags=1 (--delimiter)?", "columns={'tokens': '2', 'tags': '1'} "
     "(delimiter)?"),
    ("as in --scale 0 20", "as in scale=(0, 20)"),
])  # fmt: skip
def test_messages_in_python_name_rows_and_arguments(text, expected):
    assert in_python(text, [Path("a/train.json")]) == expected


def test_rows_that_cannot_be_used_are_named_as_they_were_given(world, tmp_path):
    data = [*ROWS, ("no label", ""), ("nor here", None)]
    said = []
    with pytest.raises(ValueError, match=r"^train: .*\(rows 41, 42\).*skip_incomplete=True$"):
        minibert.finetune(data, out=tmp_path / "run", say=said.append, **world[1])
    assert said[0].startswith("train: 42 rows;"), said
    minibert.finetune(ROWS, out=tmp_path / "run", say=said.append, **world[1])
    with pytest.raises(ValueError, match=r"continue it \(resume=True\)"):
        minibert.finetune(ROWS, out=tmp_path / "run", say=said.append, **world[1])


def test_an_empty_text_is_warned_of(models):
    model = minibert.Classifier.from_pretrained(models["classify"])
    for ask in (model.predict, model.predict_proba):
        with pytest.warns(UserWarning, match="1 of 2 inputs have an empty text.*: row 2"):
            ask(["a good film", " "])


def test_a_scale_is_that_of_the_training(models, tmp_path):
    """Scores of 0 and 1 were learnt; a file that goes to 5 is on another scale."""
    file = tmp_path / "scores.csv"
    file.write_text("sentence1,sentence2,score\na film,a film,5\na film,a song,0\n")
    with pytest.raises(ValueError, match="5.0 is not on the scale 0"):
        evaluate_file(models["regression"], file)


def test_numbers_that_are_none_and_one_answer_for_all_are_said(tmp_path):
    model = build(BertForSequenceClassification, tiny_config(vocab_size=len(WORDS), num_labels=3))
    model.classifier.bias.data[1] = 1e6
    model.save_pretrained(tmp_path)
    BertTokenizer(WORDS).save_pretrained(tmp_path)
    data = tmp_path / "data.tsv"
    data.write_text("text\tlabel\n" + "".join(f"a {'b' * i}\tLABEL_{i % 3}\n" for i in range(9)))
    said = []
    evaluate_file(tmp_path, data, say=said.append)
    assert any("every prediction is the same class" in line for line in said)
    model.classifier.bias.data[1] = float("nan")
    model.save_pretrained(tmp_path)
    for use in (
        lambda: FineTuned.from_pretrained(tmp_path, device="cpu").predict(["a", "b"]),
        lambda: predict_file(tmp_path, data),
        lambda: evaluate_file(tmp_path, data),
    ):
        with pytest.raises(ValueError, match=r"the model gives NaN for inputs \[0, 1.*damaged"):
            use()
