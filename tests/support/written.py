"""Reading a file that a test has just written, and some rows to write."""

from minibert.training import data

CLASSIFY = ("text", "pair?", "label")
PAIR = ("text", "pair", "score")
WORDS = ("tokens", "tags")
QUESTIONS = ("id?", "question", "context", "answers")
OPINIONS = [  # enough of them to see what a column is
    ("the cup was lovely and warm", "good"), ("cold coffee, and late", "bad"),
    ("nobody smiled at us today", "bad"), ("a fine place to read in", "good"),
    ("we will come again soon", "good"), ("it rained on our cakes", "bad"),
    ("bright rooms and kind people", "good"), ("the worst tea in town", "bad"),
    ("music far too loud again", "bad"), ("best soup of the year", "good"),
    ("they forgot our order twice", "bad"), ("a very sweet little garden", "good"),
]  # fmt: skip
RATINGS = {"good": "5", "bad": "1"}


def table(rows, delimiter=","):
    quoted = [[f'"{c}"' if delimiter in c or '"' in c else c for c in row] for row in rows]
    return "".join(delimiter.join(row) + "\n" for row in quoted)


def read(path, content, roles, **options):
    """The examples of a file with this content, and what was said."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    said = []
    return data.read(path, roles, say=said.append, **options), "\n".join(said)


def both(examples):
    return [(example.values["text"], example.values["label"]) for example in examples]
