"""Unicode as the official BERT tokenizer knows it, frozen.

Which characters are marks, punctuation or control characters depends on the edition of Unicode, and
every Python brings another edition. The vocabulary of BERT was looked up through one reader, the
``tokenizers`` library, so its tables are the ones that give the official ids. They were measured
from tokenizers 0.23.3, one code point at a time:

- the categories are those of Unicode 8.0 as it was published (the later corrections of U+166D,
  U+1734, U+1885, U+1886, U+A9BD and U+111C9 are not in it);
- the decompositions are those of Unicode 9.0, the lower case that of Unicode 17.

A test repeats the measurement on all 1,112,064 characters. Python's own ``unicodedata`` gives the
decompositions (an assigned character never changes its own), less what is newer than Unicode 9.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from collections.abc import Callable


def spans(text: str) -> list[tuple[int, int]]:
    """Read hexadecimal ranges, ``"41-5A 5F"``, as pairs of first and last code point."""
    parts = (span.partition("-") for span in text.split())
    return [(int(first, 16), int(last or first, 16)) for first, _, last in parts]


def characters(text: str) -> frozenset[str]:
    """The set of all characters in hexadecimal ranges."""
    return frozenset(chr(code) for first, last in spans(text) for code in range(first, last + 1))


class Ranges:
    """The same for great sets, of which only the bounds are kept."""

    def __init__(self, text: str) -> None:
        self.spans = spans(text)
        self.bounds = [bound for first, last in self.spans for bound in (first, last + 1)]

    def __contains__(self, character: str) -> bool:
        """Inside a range if an odd number of bounds lie at or below the character."""
        return bisect_right(self.bounds, ord(character)) % 2 == 1

    def regex(self) -> str:
        """The set as the inside of a regular expression's ``[...]``."""
        return "".join(rf"\U{first:08x}-\U{last:08x}" for first, last in self.spans)


class Remembered(dict):
    """A function of one character, ``table[c]``, that remembers its last answers."""

    def __init__(self, function: Callable[[str], object]) -> None:
        super().__init__()
        self.function = function

    def __missing__(self, character: str) -> object:
        """Ask the function once; forget all when 5,000 answers are there."""
        if len(self) >= 5_000:
            self.clear()
        answer = self[character] = self.function(character)
        return answer


# White_Space, less the control characters among it, which are dropped.
SPACE = characters("9-A D 20 A0 1680 2000-200A 2028-2029 202F 205F 3000")

# Categories Cc (without tab, newline, return), Cf and Co, and the replacement character U+FFFD.
DROPPED = Ranges(
    """
    0-8 B-C E-1F 7F-9F AD 600-605 61C 6DD 70F 180E 200B-200F 202A-202E 2060-2064 2066-206F
    E000-F8FF FEFF FFF9-FFFB FFFD 110BD 1BCA0-1BCA3 1D173-1D17A E0001 E0020-E007F F0000-FFFFD
    100000-10FFFD
    """
)

# CJK ideographs. Extension E begins at U+2B820; the reference says 2B920, and so do we.
CJK = Ranges("3400-4DBF 4E00-9FFF F900-FAFF 20000-2A6DF 2A700-2B81F 2B920-2CEAF 2F800-2FA1F")

# Category Mn: the non-spacing marks, accents among them.
MARK = characters(
    """
    300-36F 483-487 591-5BD 5BF 5C1-5C2 5C4-5C5 5C7 610-61A 64B-65F 670 6D6-6DC 6DF-6E4 6E7-6E8
    6EA-6ED 711 730-74A 7A6-7B0 7EB-7F3 816-819 81B-823 825-827 829-82D 859-85B 8E3-902 93A 93C
    941-948 94D 951-957 962-963 981 9BC 9C1-9C4 9CD 9E2-9E3 A01-A02 A3C A41-A42 A47-A48 A4B-A4D
    A51 A70-A71 A75 A81-A82 ABC AC1-AC5 AC7-AC8 ACD AE2-AE3 B01 B3C B3F B41-B44 B4D B56 B62-B63
    B82 BC0 BCD C00 C3E-C40 C46-C48 C4A-C4D C55-C56 C62-C63 C81 CBC CBF CC6 CCC-CCD CE2-CE3 D01
    D41-D44 D4D D62-D63 DCA DD2-DD4 DD6 E31 E34-E3A E47-E4E EB1 EB4-EB9 EBB-EBC EC8-ECD F18-F19
    F35 F37 F39 F71-F7E F80-F84 F86-F87 F8D-F97 F99-FBC FC6 102D-1030 1032-1037 1039-103A
    103D-103E 1058-1059 105E-1060 1071-1074 1082 1085-1086 108D 109D 135D-135F 1712-1714
    1732-1734 1752-1753 1772-1773 17B4-17B5 17B7-17BD 17C6 17C9-17D3 17DD 180B-180D 18A9
    1920-1922 1927-1928 1932 1939-193B 1A17-1A18 1A1B 1A56 1A58-1A5E 1A60 1A62 1A65-1A6C
    1A73-1A7C 1A7F 1AB0-1ABD 1B00-1B03 1B34 1B36-1B3A 1B3C 1B42 1B6B-1B73 1B80-1B81 1BA2-1BA5
    1BA8-1BA9 1BAB-1BAD 1BE6 1BE8-1BE9 1BED 1BEF-1BF1 1C2C-1C33 1C36-1C37 1CD0-1CD2 1CD4-1CE0
    1CE2-1CE8 1CED 1CF4 1CF8-1CF9 1DC0-1DF5 1DFC-1DFF 20D0-20DC 20E1 20E5-20F0 2CEF-2CF1 2D7F
    2DE0-2DFF 302A-302D 3099-309A A66F A674-A67D A69E-A69F A6F0-A6F1 A802 A806 A80B A825-A826
    A8C4 A8E0-A8F1 A926-A92D A947-A951 A980-A982 A9B3 A9B6-A9B9 A9BC A9E5 AA29-AA2E AA31-AA32
    AA35-AA36 AA43 AA4C AA7C AAB0 AAB2-AAB4 AAB7-AAB8 AABE-AABF AAC1 AAEC-AAED AAF6 ABE5 ABE8
    ABED FB1E FE00-FE0F FE20-FE2F 101FD 102E0 10376-1037A 10A01-10A03 10A05-10A06 10A0C-10A0F
    10A38-10A3A 10A3F 10AE5-10AE6 11001 11038-11046 1107F-11081 110B3-110B6 110B9-110BA
    11100-11102 11127-1112B 1112D-11134 11173 11180-11181 111B6-111BE 111CA-111CC 1122F-11231
    11234 11236-11237 112DF 112E3-112EA 11300-11301 1133C 11340 11366-1136C 11370-11374
    114B3-114B8 114BA 114BF-114C0 114C2-114C3 115B2-115B5 115BC-115BD 115BF-115C0 115DC-115DD
    11633-1163A 1163D 1163F-11640 116AB 116AD 116B0-116B5 116B7 1171D-1171F 11722-11725
    11727-1172B 16AF0-16AF4 16B30-16B36 16F8F-16F92 1BC9D-1BC9E 1D167-1D169 1D17B-1D182
    1D185-1D18B 1D1AA-1D1AD 1D242-1D244 1DA00-1DA36 1DA3B-1DA6C 1DA75 1DA84 1DA9B-1DA9F
    1DAA1-1DAAF 1E8D0-1E8D6 E0100-E01EF
    """
)

# Categories P* and the ASCII symbols $ + < = > ^ ` | ~
PUNCTUATION = characters(
    """
    21-2F 3A-40 5B-60 7B-7E A1 A7 AB B6-B7 BB BF 37E 387 55A-55F 589-58A 5BE 5C0 5C3 5C6 5F3-5F4
    609-60A 60C-60D 61B 61E-61F 66A-66D 6D4 700-70D 7F7-7F9 830-83E 85E 964-965 970 AF0 DF4 E4F
    E5A-E5B F04-F12 F14 F3A-F3D F85 FD0-FD4 FD9-FDA 104A-104F 10FB 1360-1368 1400 166D-166E
    169B-169C 16EB-16ED 1735-1736 17D4-17D6 17D8-17DA 1800-180A 1944-1945 1A1E-1A1F 1AA0-1AA6
    1AA8-1AAD 1B5A-1B60 1BFC-1BFF 1C3B-1C3F 1C7E-1C7F 1CC0-1CC7 1CD3 2010-2027 2030-2043
    2045-2051 2053-205E 207D-207E 208D-208E 2308-230B 2329-232A 2768-2775 27C5-27C6 27E6-27EF
    2983-2998 29D8-29DB 29FC-29FD 2CF9-2CFC 2CFE-2CFF 2D70 2E00-2E2E 2E30-2E42 3001-3003
    3008-3011 3014-301F 3030 303D 30A0 30FB A4FE-A4FF A60D-A60F A673 A67E A6F2-A6F7 A874-A877
    A8CE-A8CF A8F8-A8FA A8FC A92E-A92F A95F A9C1-A9CD A9DE-A9DF AA5C-AA5F AADE-AADF AAF0-AAF1
    ABEB FD3E-FD3F FE10-FE19 FE30-FE52 FE54-FE61 FE63 FE68 FE6A-FE6B FF01-FF03 FF05-FF0A
    FF0C-FF0F FF1A-FF1B FF1F-FF20 FF3B-FF3D FF3F FF5B FF5D FF5F-FF65 10100-10102 1039F 103D0
    1056F 10857 1091F 1093F 10A50-10A58 10A7F 10AF0-10AF6 10B39-10B3F 10B99-10B9C 11047-1104D
    110BB-110BC 110BE-110C1 11140-11143 11174-11175 111C5-111C9 111CD 111DB 111DD-111DF
    11238-1123D 112A9 114C6 115C1-115D7 11641-11643 1173C-1173E 12470-12474 16A6E-16A6F 16AF5
    16B37-16B3B 16B44 1BC9F 1DA87-1DA8B
    """
)

# Combining or decomposing, but newer than Unicode 9: the reference takes them as they come.
# (Complete up to Unicode 18.)
NEWER_THAN_NFD = characters(
    """
    5C8-5C9 7FD 897-89F 8CA-8D3 9FE C3C D3B-D3C EBA 1715 1ABF-1AF0 1DF6-1DFA A82C 105C9 105E4
    10D24-10D27 10D69-10D6D 10EAB-10EAC 10ECB-10ECF 10EF0-10EFB 10EFD-10EFF 10F46-10F50
    10F82-10F85 11070 1133B 11383 11385 1138E 11391 113C5 113C7-113C8 113CE-113D0 1145E
    11839-1183A 11938 1193D-1193E 11943 119E0 11A34 11A47 11A99 11D42 11D44-11D45 11D97
    11F41-11F42 16121-16128 1612F 16D68-16D6A 16FF0-16FF1 1D127-1D128 1D250-1D252 1D25B-1D25C
    1D25F 1D280-1D281 1E08F 1E130-1E136 1E2AE 1E2EC-1E2EF 1E4EC-1E4EF 1E5EE-1E5EF 1E6E3 1E6E6
    1E6EE-1E6EF 1E6F5
    """
)

# Capital letters newer than Unicode 13, the edition of the oldest Python we run on:
# "first-last>lower case of the first".
NEW_CAPITALS = """
    1C89>1C8A 2C2F>2C5F A7C0>A7C1 A7CB>264 A7CC>A7CD A7CE>A7CF A7D0>A7D1 A7D2>A7D3 A7D4>A7D5
    A7D6>A7D7 A7D8>A7D9 A7DA>A7DB A7DC>19B 10570-1057A>10597 1057C-1058A>105A3 1058C-10592>105B3
    10594-10595>105BB 10D50-10D65>10D70 16EA0-16EB8>16EBB
"""


def _new_capitals() -> dict[str, str]:
    lower_case = {}
    for entry in NEW_CAPITALS.split():
        capitals, _, small = entry.partition(">")
        ((first, last),) = spans(capitals)
        for code in range(first, last + 1):
            lower_case[chr(code)] = chr(int(small, 16) + code - first)
    return lower_case


_NEW_CAPITALS = _new_capitals()


def lower(character: str) -> str:
    """The lower case of one character by itself: Σ is always σ, never the final ς."""
    return _NEW_CAPITALS.get(character) or character.lower()


def decompose(character: str) -> list[tuple[str, int, bool]]:
    """The canonical decomposition (NFD) of one character: parts, their rank, which is the first.

    The rank is the combining class, by which the marks behind a letter are sorted; a letter has 0.
    é is e with 0 and U+0301 with 230.
    """
    if character in NEWER_THAN_NFD:
        return [(character, 0, True)]
    parts = unicodedata.normalize("NFD", character)
    return [(part, unicodedata.combining(part), number == 0) for number, part in enumerate(parts)]


IS_DROPPED = Remembered(DROPPED.__contains__)
IS_CJK = Remembered(CJK.__contains__)
LOWER = Remembered(lower)
DECOMPOSED = Remembered(decompose)
