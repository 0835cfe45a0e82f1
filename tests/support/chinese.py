"""What is left in English in a Chinese text."""

import re


def english_in(text: str) -> list[str]:
    """Runs of four words or more: shorter ones are names, commands or code. No quotations."""
    text = re.sub(r"'[^'\n]*'|\"[^\"\n]*\"|\[.*\]", "", text)
    return re.findall(r"(?<![\w.])[A-Za-z]{2,}(?:,? [a-z]+){3,}", text)
