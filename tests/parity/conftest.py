"""Every report that a test here makes is asked for in Chinese, too."""

import re

import pytest

from minibert.parity.report import Report


@pytest.fixture(autouse=True)
def no_english_is_left_in_chinese_reports(monkeypatch):
    """But for names, code, and what torch says of a crash."""
    made, plain = [], Report.__init__

    def made_too(self, *given, **more):
        plain(self, *given, **more)
        made.append(self)

    monkeypatch.setattr(Report, "__init__", made_too)
    yield
    monkeypatch.setenv("MINIBERT_LANG", "zh")
    for report in made:
        text = re.sub(r"报错.*|names = .*|'[^'\n]*'", "", str(report))
        assert not re.findall(r"(?<![\w.`/（-])[a-z]{2,} [a-z]{2,}.*|\d, [a-z]+ \d.*", text), text
