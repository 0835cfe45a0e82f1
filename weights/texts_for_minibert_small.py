"""The texts that minibert-small learned from: python texts_for_minibert_small.py DATA OUT.

Writes OUT/*.txt, a text a line; the same bytes every time. Needs Python only. DATA holds:

    corpus/wordnet/glosses.tsv   WordNet 3.0 (wordnet.princeton.edu; also Debian's wordnet-base), a
                                 synset a line: lemmas joined by ", ", tab, part of speech (noun,
                                 verb, adj..., adv), tab, definition; the order of the data files
    corpus/wordnet/examples.txt  its example sentences of four words or more, one a line
    corpus/books/*.txt           books of Project Gutenberg (gutenberg.org), a sentence a line;
                                 README.md of minibert-small lists the sixty
    sst5/train.tsv               Stanford Sentiment Treebank (nlp.stanford.edu/sentiment; as in
                                 github.com/neubig/minbert-assignment): sentence, tab, label; header
    banking77/train.csv          github.com/PolyAI-LDN/task-specific-datasets, as it is there
    wnut17/wnut17train.conll     github.com/leondz/emerging_entities_17, as it is there

Only training parts are read, and of them the texts, never the labels. No text of the STS benchmark
is among them. A part of the texts is made by rule, of words of WordNet: captions, headlines and
questions, most of them nonsense. They need not make sense: the teacher has a vector for anything.
"""

import csv
import random
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import accumulate
from pathlib import Path

DRAW = random.Random(0)

PEOPLE = "man woman boy girl child person men women people dog cat baby group player couple"
PEOPLE = [*PEOPLE.split(), "horse", "bird"]
PLURALS = {"man": "men", "woman": "women", "child": "children", "person": "people"}
MANY = ("men", "women", "people")
NUMBERS = "two three four five several many some 10 12 20 50 100".split()
PLACES = "in on at near with under by over behind beside into through outside across".split()
QUESTIONS = [
    "what is {n}?",
    "what is the {n} of {n2}?",
    "how do I {v} a {n}?",
    "how to {v} {n}",
    "why does the {n} {v}?",
    "where can I find {a}{n}",
    "who is {x}?",
    "where is {x}?",
    "is it possible to {v} my {n}?",
    "can you {v} the {n} for me",
    "my {n} does not {v}",
    "when did {x} {v} the {n}?",
    "difference between {n} and {n2}",
    "best {n} for {n2}",
    "I want to {v} my {n}",
    "should I {v} {a}{n} or {n2}?",
    "{n} {n2}",
    "{x} {n}",
    "{v} {n}",
    "which {n} is {adj}?",
    "the {n} is {adj}",
    "{n} and {n2}",
]


def main(data: Path, out: Path) -> None:
    """Read DATA, write OUT. The order of the draws is part of the result."""
    out.mkdir(exist_ok=True, parents=True)
    rows = [line.split("\t") for line in read_lines(data / "corpus/wordnet/glosses.tsv")]
    glosses = [row[2] for row in rows]
    examples = read_lines(data / "corpus/wordnet/examples.txt")
    write(out / "glosses.txt", glosses)
    write(out / "examples.txt", examples)
    write(out / "lemmas.txt", [lemma for row in rows for lemma in row[0].split(", ")])
    write(out / "definitions.txt", definitions(rows))
    books = book_sentences(data / "corpus/books")
    write(out / "books.txt", DRAW.sample(books, min(150000, len(books))))
    write(out / "spans.txt", spans(DRAW.sample(books, 40000) + DRAW.sample(glosses, 30000)))
    reviews = [line.split("\t")[0] for line in read_lines(data / "sst5/train.tsv")[1:]]
    write(out / "sst5.txt", [text.replace("\\/", "/") for text in reviews])
    with open(data / "banking77/train.csv", newline="", encoding="utf-8") as file:
        write(out / "banking77.txt", [row["text"] for row in csv.DictReader(file)])
    write(out / "wnut17.txt", conll_sentences(data / "wnut17/wnut17train.conll"))
    words = Words(rows, examples, books)
    write(out / "captions.txt", [caption(words) for _ in range(60000)])
    write(out / "headlines.txt", [headline(words) for _ in range(40000)])
    write(out / "questions.txt", [question(words) for _ in range(60000)])


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file."""
    return path.read_text(encoding="utf-8").splitlines()


def write(path: Path, texts: Iterable[str]) -> None:
    """A text a line, each one once, runs of white space as one blank."""
    texts = list(dict.fromkeys(" ".join(text.split()) for text in texts if text.strip()))
    path.write_text("\n".join(texts) + "\n", encoding="utf-8", newline="\n")
    print(f"{path.name}: {len(texts):,} texts")


# ----------------------------------------------------------------------------- texts that are found


def definitions(rows: list[list[str]]) -> list[str]:
    """Words with their definitions: ``dog: a member of the genus Canis``."""
    forms = ("{}: {}", "{} means {}", "{} is {}")
    drawn = DRAW.sample(rows, 40000)
    return [DRAW.choice(forms).format(row[0].split(", ")[0], row[2]) for row in drawn]


def book_sentences(directory: Path) -> list[str]:
    """The sentences of 3 to 32 words."""
    paths = sorted(directory.glob("*.txt"))
    lines = [line.strip() for path in paths for line in read_lines(path)]
    return [line for line in lines if 3 <= len(line.split()) <= 32]


def spans(texts: list[str]) -> list[str]:
    """Two to seven words out of each text, as phrases and search queries are."""
    found = []
    for text in texts:
        words = text.split()
        if len(words) > 5:
            length = DRAW.randint(2, 7)
            start = DRAW.randint(0, len(words) - length if len(words) > length else 0)
            found.append(" ".join(words[start : start + length]).strip(" ,;:.\"'()-"))
    return found


def conll_sentences(path: Path) -> list[str]:
    """The sentences of a file of columns: the first column, joined by blanks."""
    sentence, found = [], []
    for line in [*read_lines(path), ""]:
        if line.strip():
            sentence.append(line.split("\t")[0])
        elif sentence:
            found.append(" ".join(sentence))
            sentence = []
    return found


# -------------------------------------------------------------------------- texts that are made up


class Words:
    """Words of WordNet to make texts of; the more often one is used, the more often it is drawn.

    Used: in WordNet's own examples and definitions; for names, in the books as well.
    """

    def __init__(self, rows: list[list[str]], examples: list[str], books: list[str]) -> None:
        text = " ".join([*examples, *(row[2] for row in rows)])
        used = Counter(re.findall(r"[a-z]+", text.lower()))
        lemmas = [(row[0].split(", ")[0], row[1]) for row in rows]
        nouns = list(dict.fromkeys(word for word, part in lemmas if part == "noun"))
        verbs = list(dict.fromkeys(word for word, part in lemmas if part == "verb"))
        adjectives = list(dict.fromkeys(word for word, part in lemmas if part.startswith("adj")))
        single = [n for n in nouns if n.islower() and n.isalpha() and used[n] >= 5]
        phrases = [n for n in nouns if n.islower() and " " in n]
        phrases = [n for n in phrases if all(used[word] >= 10 for word in n.split())]
        verbs = [v for v in verbs if v.isalpha() and used[v] >= 5]
        adjectives = [a for a in adjectives if a.isalpha() and used[a] >= 8]
        alike = dict.fromkeys(phrases, 5)
        self.single_noun, self.phrase = weighted(single, used), weighted(phrases, alike)
        self.verb, self.adjective = weighted(verbs, used), weighted(adjectives, used)

        seen = Counter(re.findall(r"[A-Z][a-z]+", " ".join([text, *books])))
        names = [n for n in nouns if n[:1].isupper() and len(n.split()) <= 2 and "." not in n]
        capitals = {n: [seen[word] for word in n.split() if word[0].isupper()] for n in names}
        names = [n for n in names if min(capitals[n]) >= 3]
        self.name = weighted(names, {n: min(capitals[n]) for n in names}, power=0.5)

    def noun(self) -> str:
        """A noun, sometimes of several words."""
        return self.single_noun() if DRAW.random() < 0.85 else self.phrase()

    def maybe_adjective(self) -> str:
        """An adjective and a blank, or nothing."""
        return self.adjective() + " " if DRAW.random() < 0.35 else ""


def weighted(words: list[str], used: dict[str, int], power: float = 0.7) -> Callable[[], str]:
    """A function that draws one of the words, each as often as its use to this power."""
    sums = list(accumulate(float(max(used[word], 1)) ** power for word in words))
    return lambda: DRAW.choices(words, cum_weights=sums)[0]


def ing(verb: str) -> str:
    """The verb with -ing, by rule."""
    if verb.endswith("ie"):
        return verb[:-2] + "ying"
    if verb.endswith("e") and not verb.endswith(("ee", "ye", "oe")):
        return verb[:-1] + "ing"
    if re.fullmatch(r"[^aeiou]*[aeiou][bdgmnprt]", verb):
        return verb + verb[-1] + "ing"
    return verb + "ing"


def with_s(word: str) -> str:
    """The plural of a noun, the third person of a verb, by rule."""
    if word.endswith(("s", "sh", "ch", "x", "z", "o")):
        return word + "es"
    return word[:-1] + "ies" if re.search("[^aeiou]y$", word) else word + "s"


def ed(verb: str) -> str:
    """The past of a verb, by rule."""
    if verb.endswith("e"):
        return verb + "d"
    return verb[:-1] + "ied" if re.search("[^aeiou]y$", verb) else verb + "ed"


def subject(words: Words) -> str:
    """Who does something: ``two old women are``."""
    who = DRAW.choice(PEOPLE)
    if who in MANY or DRAW.random() < 0.2:
        number = DRAW.choice(["", "the ", DRAW.choice(NUMBERS) + " "])
        plural = who if who in MANY else PLURALS.get(who, with_s(who))
        return f"{number}{words.maybe_adjective()}{plural} are"
    return f"{DRAW.choice(['a', 'the'])} {words.maybe_adjective()}{who} is"


def caption(words: Words) -> str:
    """What might stand below a picture: ``A man is sawing the heavy door.``"""
    noun, adjective, verb = words.noun, words.maybe_adjective, words.verb
    articles = ["a", "the"]
    pick, kind = DRAW.choice, DRAW.random()
    if kind < 0.4:
        text = f"{subject(words)} {ing(verb())} {pick([*articles, 'some'])} {adjective()}{noun()}"
    elif kind < 0.6:
        text = f"{subject(words)} {ing(verb())} {pick(PLACES)} {pick(articles)} "
        text += f"{adjective()}{noun()}"
    elif kind < 0.8:
        text = f"{pick(articles)} {adjective()}{noun()} {pick(PLACES)} "
        text += f"{pick(articles)} {adjective()}{noun()}"
    else:
        text = f"{subject(words)} {ing(verb())} and {ing(verb())} {pick(articles)} {noun()} "
        text += f"{pick(PLACES)} {pick(articles)} {noun()}"
    text = text.replace(" a a", " an a") if DRAW.random() < 0.5 else text
    return text[0].upper() + text[1:] + pick([".", ".", ""])


def headline(words: Words) -> str:
    """What might stand above news: ``Madrid: strike may end drought``."""
    noun, verb, name = words.noun, words.verb, words.name
    pick, kind = DRAW.choice, DRAW.random()
    if kind < 0.3:
        text = f"{name()} {with_s(verb())} {pick(['', 'new ', words.adjective() + ' '])}{noun()} "
        return text + f"{pick(['in', 'after', 'over', 'for'])} {pick([name(), noun()])}"
    if kind < 0.5:
        text = f"{name()} {noun()} {ed(verb())} {pick(['by', 'in', 'after', 'with'])} "
        return text + f"{words.maybe_adjective()}{noun()}"
    if kind < 0.7:
        return f"{pick(NUMBERS)} {with_s(noun())} {ed(verb())} in {name()} {noun()}"
    if kind < 0.85:
        return f"{name()}: {noun()} {pick(['to', 'will', 'may'])} {verb()} {noun()}"
    return f"{name()} and {name()} {verb()} {words.maybe_adjective()}{noun()}"


def question(words: Words) -> str:
    """A question or a search query."""
    return DRAW.choice(QUESTIONS).format(
        n=words.noun(),
        n2=words.noun(),
        v=words.verb(),
        x=words.name(),
        a=words.maybe_adjective(),
        adj=words.adjective(),
    )


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
