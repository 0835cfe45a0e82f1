"""A learner's solution: character by character."""

import string
import unicodedata

CJK = [
    (0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F),
    (0x2B920, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F),
]  # fmt: skip


def clean_and_split(text):
    clean = ""
    for c in text:
        category = unicodedata.category(c)
        if c in "\t\n\r" or category == "Zs":
            clean += " "
        elif category in ("Cc", "Cf"):
            continue
        elif any(first <= ord(c) <= last for first, last in CJK):
            clean += f" {c} "
        else:
            clean += c
    plain = ""
    for c in unicodedata.normalize("NFD", clean):
        if unicodedata.category(c) == "Mn":
            continue
        if c in string.punctuation or unicodedata.category(c).startswith("P"):
            plain += f" {c} "
        else:
            plain += c.lower()
    return plain.split()
