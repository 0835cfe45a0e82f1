"""What runs leave behind: tables, and several runs side by side."""

import csv
import io
import json
import shutil
from collections import Counter
from xml.etree import ElementTree

import pytest
from support import small
from support.command import run as command

from minibert.cli.runs import compare_text
from minibert.training.finetune import finetune
from minibert.training.history import as_csv, compare, draw, read_run, read_runs
from minibert.training.plots import curves, matrix
from minibert.training.settings import Settings


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs that differ in their rate, in one directory."""
    home = tmp_path_factory.mktemp("runs")
    base, train = small.base(home / "base"), small.classes(home / "train.tsv", 40, seed=0)
    dev = small.classes(home / "dev.tsv", 12, seed=1)
    for name, lr in (("slow", 1e-4), ("fast", 1e-3)):
        settings = Settings("classify", str(train), str(dev), base=str(base), lr=lr, max_length=40,
                            batch_size=8, epochs=2, device="cpu")  # fmt: skip
        finetune(settings, home / "out" / name)
    return home / "out"


def shapes(svg):
    return Counter(e.tag.rpartition("}")[2] for e in ElementTree.fromstring(svg).iter())


def test_the_log_as_a_table(runs):
    lines = read_run(runs / "slow").lines
    text = (runs / "slow" / "run" / "metrics.csv").read_text()
    assert text == as_csv(lines)
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["step"] for row in rows] == [*"012345", "5", *map(str, range(6, 11)), "10"]
    for row, line in zip(rows, lines, strict=True):
        assert {k: float(v) for k, v in row.items() if v} == line
    assert as_csv([{"step": 1}, {"step": 2, "dev_f1": None}]) == "step,dev_f1\n1,\n2,\n"


def test_runs_side_by_side(runs, tmp_path):
    value = compare([runs / "slow", runs / "fast"], tmp_path / "both.svg")
    files = [runs / name / "run" / "metrics.json" for name in ("slow", "fast")]
    results = [json.loads(file.read_text()) for file in files]
    assert [run["measures"] for run in value] == [result["after"] for result in results]
    assert [run["settings"] for run in value] == [{"lr": 1e-4}, {"lr": 1e-3}]
    assert {run["state"] for run in value} == {"finished"}
    picture = (tmp_path / "both.svg").read_text()
    assert shapes(picture)["polyline"] == 6  # train loss, dev loss, dev accuracy, of two runs
    assert "train loss: slow" in picture and "dev accuracy: fast" in picture
    assert picture == draw(read_runs([runs])[::-1]), "a directory of runs stands for them, sorted"


def test_a_run_that_is_going_on_or_has_failed(runs, tmp_path):
    shutil.copytree(runs, tmp_path, dirs_exist_ok=True)
    (tmp_path / "slow" / "run" / "metrics.json").unlink()
    log = tmp_path / "slow" / "run" / "log.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines[:9]) + lines[9][:20])  # killed while it wrote
    result = tmp_path / "fast" / "run" / "metrics.json"
    failed = {**json.loads(result.read_text()), "remarks": ["the run has failed"]}
    result.write_text(json.dumps(failed))
    failed, going = compare([tmp_path])
    assert (going["state"], failed["state"]) == ("unfinished, step 7", "failed")
    assert going["measures"]["dev_loss"] == json.loads(lines[6])["dev_loss"]
    log.write_text("")
    assert read_run(tmp_path / "slow").measures == {}
    with pytest.raises(ValueError, match="1 run; at least two"):
        compare([tmp_path / "fast", tmp_path / "fast"])
    with pytest.raises(FileNotFoundError, match="holds no run"):
        compare([tmp_path / "fast", tmp_path / "none"])
    with pytest.raises(ValueError, match="svg"):
        compare([tmp_path], tmp_path / "picture.png")


def test_the_command(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("compare", runs / "slow", runs / "fast")
    status, out, err = command(capsys, *words)
    assert not status, err
    rows = [line.split() for line in out.splitlines()]
    assert ["lr", "0.0001", "0.001"] in rows and ["state", "finished", "finished"] in rows
    value = json.loads(command(capsys, *words, "--svg", "x.svg", "--json")[1])
    assert value == {"runs": compare([runs / "slow", runs / "fast"]), "picture": "x.svg"}
    assert [path.name for path in tmp_path.iterdir()] == ["x.svg"]


def test_what_was_asked_for_and_what_was_done_are_one_row():
    run = {"run": "a", "state": "finished", "settings": {"steps": None, "seed": 1},
           "measures": {"steps": 6}}  # fmt: skip
    table = compare_text({"runs": [run], "picture": "x.svg"})
    names = [line.split()[0] for line in table.splitlines()[2:-1]]
    assert names == ["seed", "steps"] and "6" in table


def test_a_legend_of_many_curves_stays_inside(tmp_path):
    panel = {f"a run with a long name, {i}": [(0, 1.0), (1, i)] for i in range(9)}
    picture = ElementTree.fromstring(curves("many", "step", {"loss": panel, "score": panel}))
    texts = [e for e in picture.iter() if e.tag.endswith("text") and "run" in (e.text or "")]
    assert len(texts) == 18 and len({e.get("fill") for e in texts}) == 9
    places = [(float(e.get("x")), float(e.get("y"))) for e in texts]
    assert len({*places}) == 18, "none on top of another"
    assert all(x + 7 * len(e.text) < 640 for (x, _), e in zip(places, texts, strict=True))
    assert max(y for _, y in places) < float(picture.get("height"))


def test_the_picture_of_a_confusion_matrix(runs):
    names = ["good & fine", "bad"]
    svg = matrix("2 classes", names, [[3, 1], [0, 2]])
    assert "<title>good &amp; fine as bad: 1 (25%)</title>" in svg
    found = ElementTree.fromstring(svg)
    fields = [e for e in found.iter() if e.get("fill-opacity")]
    assert [e.get("fill-opacity") for e in fields] == ["0.750", "0.250", "0.000", "1.000"]
    first, right, down, _ = [(float(e.get("x")), float(e.get("y"))) for e in fields]
    assert right[0] > first[0] and right[1] == first[1] and down[1] > first[1], "true classes down"
    texts = [e.text for e in found.iter() if e.tag.endswith("text")]
    assert [text for text in texts if text.isdigit()] == ["3", "1", "2"]
    names = [f"class {i}" for i in range(60)]
    many = ElementTree.fromstring(matrix("many", names, [[1] * 60] * 60))
    assert not [e for e in many.iter() if e.tag.endswith("text") and e.text.isdigit()]
    assert float(many.get("width")) < 1000
    drawn = (runs / "slow" / "run" / "confusion.svg").read_text()
    table = list(csv.reader((runs / "slow" / "run" / "confusion.csv").open()))
    assert shapes(drawn)["title"] == 4 and f"good as bad: {table[2][1]} (" in drawn
