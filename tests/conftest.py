"""Fixtures shared by all tests: tiny models, the official weights, the data sets.

A skip says why and how to un-skip it; in CI (``CI=true``) a skipped parity, weights, data or
browser test is a failure.
"""

import os
import subprocess
from pathlib import Path

# One thread: most models here are tiny, and threads that wait for each other would cost more than
# they bring. Set before torch is imported. Results do not depend on it (measured: bitwise equal).
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["MINIBERT_LANG"] = "en"  # whatever the locale; tests that want Chinese say so

import pytest  # noqa: E402

CHECKOUT = Path(__file__).resolve().parent.parent
OFFICIAL = "sentence-transformers/all-MiniLM-L6-v2"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    must_run = any(map(item.get_closest_marker, ("parity", "weights", "data", "browser")))
    if report.skipped and must_run and os.environ.get("CI") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"CI skips no parity, weights, data or browser test: {report.longrepr}"


@pytest.fixture(scope="session")
def official() -> Path:
    """The directory of the official all-MiniLM-L6-v2."""
    from minibert.io.hub import locate

    try:
        return locate(OFFICIAL)
    except FileNotFoundError as error:
        pytest.skip(f"no official weights: run `minibert download {OFFICIAL}` first ({error})")


@pytest.fixture(scope="session")
def data() -> Path:
    """The directory with ``stsb/*.csv`` and ``sst5/*.tsv``."""
    path = Path(os.environ.get("MINIBERT_DATA", CHECKOUT.parent / "shared" / "data"))
    if not (path / "stsb" / "test.csv").exists():
        pytest.skip("set MINIBERT_DATA to a directory with stsb/{train,dev,test}.csv to run this")
    return path


@pytest.fixture(scope="module")
def tiny():
    """A tiny sentence encoder whose tokens are letters."""
    import torch
    from support.tiny import WORDS, tiny_config

    from minibert import BertModel, BertTokenizer, SentenceEncoder

    torch.manual_seed(0)
    config = tiny_config(
        vocab_size=len(WORDS),
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    return SentenceEncoder(BertModel(config), BertTokenizer(WORDS), max_length=16)


@pytest.fixture(scope="module")
def model(tiny, tmp_path_factory):
    directory = tmp_path_factory.mktemp("model")
    tiny.save_pretrained(directory)
    return str(directory)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 64 kB, mounted: a real one that is really full."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a small disk needs root; the tests with a file size limit run anyway")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)
