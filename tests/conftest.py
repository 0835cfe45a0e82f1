"""Fixtures shared by all tests: tiny models, the official weights, the data sets.

A skip says why and how to un-skip it; in CI (``CI=true``) a skipped parity, weights, data or
browser test is a failure.
"""

import os
from pathlib import Path

# One thread: most models here are tiny, and threads that wait for each other would cost more than
# they bring. Set before torch is imported. Results do not depend on it (measured: bitwise equal).
os.environ.setdefault("OMP_NUM_THREADS", "1")

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
    from minibert.hub import locate

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
