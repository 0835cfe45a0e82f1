"""``BertConfig``: the numbers that fix the shape of a BERT, as in the official ``config.json``.

The letters behind the fields are used for shapes in every file of this package:

    B batch, T tokens, H hidden, N heads, D = H / N one head, F feed-forward,
    V vocabulary, P positions, S segment types, C classes
"""

from __future__ import annotations

import dataclasses
import math
import os
from dataclasses import dataclass, field

from minibert.io.directory import open_directory
from minibert.io.files import atomic_directory, write_json

ACTIVATIONS = ("gelu", "relu", "gelu_new", "gelu_pytorch_tanh")
CHOICES = {"hidden_act": ACTIVATIONS, "position_embedding_type": ("absolute", "sinusoidal")}
SHAPES = {  # name → layers and width of the smaller BERTs of Turc 2019 (1908.08962), table 1
    "tiny": (2, 128), "mini": (4, 256), "small": (4, 512), "medium": (8, 512), "base": (12, 768),
}  # fmt: skip
LARGEST = 10_000_000  # of any size: far above every BERT, far below what fills a machine
# Keys whose other values would silently make another model: key -> the one value we implement.
ONLY = {
    "model_type": "bert",
    "is_decoder": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
}
TYPES = {  # of other keys that somebody reads; null is as good as none
    "architectures": (list, "a list"), "score_scale": (list, "a list"),
    "sentence_transformers": (dict, "an object"),
    "label_threshold": (int | float, "a number"), "no_answer_threshold": (int | float, "a number"),
}  # fmt: skip


@dataclass(frozen=True)
class BertConfig:
    """The shape of a BERT. Defaults are those of BERT-base (Devlin 2019, §3 and appendix A.2).

    Keys of a ``config.json`` that minibert has no use for are kept in ``extra`` and written back.

    Raises:
        ValueError: a value has the wrong type or range, or asks for something minibert does not
            implement; the message names the key, the value and what is allowed.

    Source: the official ``config.json`` of google-bert/bert-base-uncased.
    """

    vocab_size: int = 30522  # V
    hidden_size: int = 768  # H
    num_hidden_layers: int = 12
    num_attention_heads: int = 12  # N
    intermediate_size: int = 3072  # F
    max_position_embeddings: int = 512  # P
    type_vocab_size: int = 2  # S
    hidden_act: str = "gelu"  # one of ACTIVATIONS
    hidden_dropout_prob: float = 0.1  # after embeddings, attention and feed-forward; while training
    attention_probs_dropout_prob: float = 0.1  # on the attention probabilities; while training
    classifier_dropout: float | None = None  # before a classifier; None = hidden_dropout_prob
    layer_norm_eps: float = 1e-12  # added to the variance; torch's own default, 1e-5, is wrong here
    initializer_range: float = 0.02  # standard deviation of new weights
    pad_token_id: int | None = 0  # the row of the word table that lookups never train
    position_embedding_type: str = "absolute"  # learned; or "sinusoidal": how a new table starts
    id2label: dict[int, str] = field(default_factory=lambda: {0: "LABEL_0", 1: "LABEL_1"})
    extra: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what does not fit, by name."""
        for name in self.names():
            value = getattr(self, name)
            fits, allowed = True, ""
            if value is None and name in ("classifier_dropout", "pad_token_id"):
                continue
            if name.endswith("_size") or name.startswith(("num_", "max_")):
                fits, allowed = is_size(value), f"a whole number from 1 to {LARGEST:,}"
            elif "dropout" in name:
                fits, allowed = is_number(value) and 0 <= value < 1, "a probability below 1"
            elif name in ("layer_norm_eps", "initializer_range"):
                fits, allowed = is_number(value) and 0 < value < 1, "a number between 0 and 1"
            elif name == "pad_token_id":
                fits = type(value) is int and 0 <= value < self.vocab_size
                allowed = f"an id below {self.vocab_size}, or null"
            elif name in CHOICES:
                fits, allowed = value in CHOICES[name], f"implemented are: {CHOICES[name]}"
            if not fits:
                raise ValueError(f"{name} is {value!r}; {allowed}")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} does not divide into "
                f"{self.num_attention_heads} heads (num_attention_heads)"
            )
        keys = sorted(self.id2label)
        if not keys or keys != list(range(len(keys))):
            raise ValueError(f"id2label has the keys {keys}; 0, 1, 2, ... are needed")
        for key, only in ONLY.items():
            if self.extra.get(key, only) != only:
                raise ValueError(f"{key} is {self.extra[key]!r}; minibert implements {only!r} only")
        for key, (kind, allowed) in TYPES.items():
            if not isinstance(self.extra.get(key), kind | None):
                raise ValueError(f"{key} is {self.extra[key]!r}; {allowed} is needed")

    @classmethod
    def of_size(cls, size: str, **changes: object) -> BertConfig:
        """The config of a size of Turc 2019, such as ``"tiny"``, or of layers x width: ``"6x192"``.

        As there, a head is 64 wide and the feed-forward network four times the width.

        >>> BertConfig.of_size("mini", vocab_size=8000).hidden_size
        256

        Raises:
            ValueError: no such size.
        """
        layers, _, width = size.partition("x")
        if layers.isdecimal() and width.isdecimal() and int(width) % 64 == 0:
            layers, width = int(layers), int(width)
        elif size in SHAPES:
            layers, width = SHAPES[size]
        else:
            raise ValueError(
                f"no size is named {size!r}; there are {', '.join(SHAPES)}, or layers x width, "
                "such as 6x192 (a width that 64 divides)"
            )
        return cls.from_dict({
            "hidden_size": width, "num_hidden_layers": layers,
            "num_attention_heads": width // 64, "intermediate_size": 4 * width, **changes,
        })  # fmt: skip

    @classmethod
    def names(cls) -> list[str]:
        """The official keys that minibert knows, in the order of the fields."""
        return [item.name for item in dataclasses.fields(cls) if item.name != "extra"]

    @property
    def num_labels(self) -> int:
        """C, the number of classes: as in the official files, the length of ``id2label``."""
        return len(self.id2label)

    @classmethod
    def from_dict(cls, values: dict) -> BertConfig:
        """Build a config from the object in an official ``config.json``."""
        values = dict(values)
        labels = values.pop("num_labels", None)  # derived: never written, but people pass it
        named = values.get("id2label")
        if labels is not None and not (isinstance(named, dict) and len(named) == labels):
            if not is_size(labels):
                raise ValueError(f"num_labels is {labels!r}; a whole number from 1 to {LARGEST:,}")
            values["id2label"] = {i: f"LABEL_{i}" for i in range(labels)}
            values.pop("label2id", None)
        if "id2label" in values:
            try:
                values["id2label"] = {int(i): str(name) for i, name in values["id2label"].items()}
            except (AttributeError, ValueError):
                raise ValueError(
                    f"id2label is {values['id2label']!r}; an object of number: name is needed"
                ) from None
        known = {name: values.pop(name) for name in cls.names() if name in values}
        return cls(**known, extra=values)

    def to_dict(self) -> dict:
        """The object for an official ``config.json``, with every unknown key that came in.

        A sinusoidal table is written as ``absolute``: once it exists it is a table like any other,
        and other libraries would drop the positions of a type they do not know.
        """
        known = {name: getattr(self, name) for name in self.names()}
        known["position_embedding_type"] = "absolute"
        known["id2label"] = {str(i): name for i, name in self.id2label.items()}
        known["label2id"] = {name: i for i, name in self.id2label.items()}
        return {**self.extra, "model_type": "bert", **known}

    def replace(self, **changes: object) -> BertConfig:
        """A copy with some values changed, under the official keys (``num_labels`` too)."""
        known = {name: getattr(self, name) for name in self.names()}
        return self.from_dict({**self.extra, **known, **changes})

    @classmethod
    def from_pretrained(cls, name_or_path: str | os.PathLike, **hub: object) -> BertConfig:
        """Read ``config.json`` of a directory or of a hub name; ``hub``: see ``hub.locate``."""
        directory = open_directory(name_or_path, **hub)
        if not directory.has("config.json"):
            raise FileNotFoundError(f"{directory} has no config.json; is it a model directory?")
        values = directory.json("config.json")
        try:
            return cls.from_dict(values)
        except ValueError as error:
            raise ValueError(f"{directory.path / 'config.json'}: {error}") from None

    def save_pretrained(self, directory: str | os.PathLike) -> None:
        """Write ``config.json`` into a directory."""
        with atomic_directory(directory) as staging:
            write_json(staging / "config.json", self.to_dict())


def is_size(value: object) -> bool:
    """Whether a value is a whole number from 1 to LARGEST (and not a bool)."""
    return type(value) is int and 1 <= value <= LARGEST


def is_number(value: object) -> bool:
    """Whether a value is a finite int or float (and not a bool, which Python counts as an int)."""
    return type(value) in (int, float) and math.isfinite(value)
