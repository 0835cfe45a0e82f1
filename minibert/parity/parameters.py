"""Somebody's parameters: which weights of ours belong into each, and in which layout.

A mapping says it in a line for each, of modules or of single parameters::

    {"W_q": "query", "qkv": "query, key, value", "heads.*.q": "query", "W": "query (in, out)"}

that is another name; three in one; a matrix for each head, * being its number; another layout.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from minibert.parity.layouts import Layout, layouts, weight_axes

CALLED = {  # how others call ours: words in the names of their modules
    "query": "q queries wq qs", "key": "k keys wk ks", "value": "v values wv vs",
    "output": "o out wo proj dense", "expand": "fc1 w1 lin1 linear1 up intermediate",
    "contract": "fc2 w2 lin2 linear2 down output", "attention_norm": "norm1 ln1",
    "feed_forward_norm": "norm2 ln2", "norm": "layernorm ln", "word": "words token tokens tok",
    "position": "positions pos", "segment": "segments type types seg", "weight": "w gamma",
    "bias": "b beta",
}  # fmt: skip
FUSED = ("query", "key", "value")


class DoNotFit(ValueError):
    """Weights that do not fit a module.

    ``mappings``: with which they may, the likeliest first; ``clear``: the names leave no doubt.
    """

    def __init__(
        self, problem: str, mappings: Sequence[Mapping[str, str]] = (), clear: bool = False
    ) -> None:
        self.problem, self.mappings, self.clear = problem, mappings, clear
        example = dict(mappings[0]) if mappings else {"W_q": "query", "qkv": ", ".join(FUSED)}
        said = "Perhaps this is which" if mappings else "Say which is which"
        super().__init__(
            f"{problem}\n{said}; put it into the class, or the part in braces into a file for "
            f"--names:\n    {written(example)}"
            + ('\nWhere a matrix M is used as x @ M, add its order: "query.weight (in, out)".'
               if len(mappings) > 1 else "")
        )


class Place(NamedTuple):
    """What belongs into a parameter: one of our weights or several in one, of a head or of all."""

    ours: tuple[str, ...]
    layout: str = ""  # as in a docstring; "" = as ours, or the nearest that there is
    head: int | None = None


def look_up(name: str, dims: int, names: Mapping[str, str], known: Collection[str]) -> Place:
    """What a mapping says of a parameter; without a word in it, the weight of the same name."""
    for theirs, said in [(name, names[name])] if name in names else names.items():
        pattern = re.escape(theirs).replace(r"\*", r"(\d+)")
        if found := re.fullmatch(rf"{pattern}(?P<rest>|\..+)", name):
            ours, _, layout = said.partition("(")
            parts = [part.strip() + found["rest"] for part in ours.split(",")]
            kind = "bias" if dims < 2 else "weight"  # of a module, for a parameter of its own
            parts = [p if p in known or f"{p}.{kind}" not in known else f"{p}.{kind}"
                     for p in parts]
            head = int(found[1]) if "*" in theirs else None
            return Place(tuple(parts), f"({layout}" if layout else "", head)
    return Place((name,))


def fitting(
    shape: Sequence[int], place: Place, weights: Mapping[str, Tensor], where: str, heads: int
) -> Iterator[tuple[Layout, Tensor]]:
    """The layouts in which these weights fit into a shape, with what is to be laid out so.

    Heads are never taken apart, nor mixed with what is beside them, unless it is said.
    """
    first = weights[place.ours[0]]
    axes = weight_axes(f"{where}.{place.ours[0]}", first.shape, heads)
    value = torch.stack([weights[name].reshape(tuple(axes.values())) for name in place.ours])
    sizes = {"part": len(place.ours), **axes}
    if place.head is not None:
        if "head" not in axes or place.head >= heads:
            return
        value = value.select(1 + list(axes).index("head"), place.head)
        del sizes["head"]
    for layout in layouts(shape, sizes):
        said = re.sub(r"\bq/k/v\b", "query/key/value", place.layout)
        plain = re.sub(r"(head \* )?feature", "in" if "out" in axes else "out", str(layout))
        usual = all(
            list(group) == [axis for axis in sizes if axis in group]
            and not {"part", "in"} <= set(group) for group in layout.dims
        )
        if said in (str(layout), plain) or not said and usual:
            yield layout, value


def copy_weights(
    module: nn.Module,
    weights: Mapping[str, Tensor],
    names: Mapping[str, str] | None = None,
    where: str = "",
    heads: int = 1,
) -> None:
    """Give a module its weights, by our names or through a mapping from its names to ours.

    Args:
        module: somebody's, with parameters of any shape.
        weights: ours, by their names in our module of this kind.
        names: the mapping; None = the module's own ``names``, if it has any.
        where: the name of our module.
        heads: how many the model has.

    Raises:
        DoNotFit: parameters that have no weight, weights that have no parameter, other shapes;
            all of them named, with a mapping that may do.
    """
    if hasattr(module, "take_weights"):
        with torch.no_grad():
            return module.take_weights(dict(weights))
    names = names or getattr(module, "names", None) or {}
    parameters = dict(module.named_parameters())
    places = {name: look_up(name, p.dim(), names, weights) for name, p in parameters.items()}
    used = {own for place in places.values() for own in place.ours}
    found, shapes = {}, []
    for name, place in places.items():
        if not set(place.ours) <= weights.keys():
            continue
        shape = tuple(parameters[name].shape)
        found[name] = next(fitting(shape, place, weights, where, heads), None)
        if found[name] is None:
            ours = " and ".join(str(tuple(weights[own].shape)) for own in place.ours)
            shapes.append(f"{name} is {shape}, ours is {ours}")
    lacking = in_short([name for name in weights if name not in used], weights)
    unknown = in_short([name for name in places if name not in found], parameters)
    wrong = [f"it has nothing called {lacking}"] if lacking else []
    wrong += [f"it has {unknown}" + ("" if lacking else ", which ours does not")] if unknown else []
    strange = [own for name, place in places.items() for own in place.ours
               if own not in weights and own != name]
    wrong += [f"names has {in_short(strange, strange)}, which ours does not"] if strange else []
    wrong += shapes[:3]
    wrong += [f"{len(shapes) - 3} more have another shape"] if len(shapes) > 3 else []
    if wrong:
        problem = f"the weights do not fit {type(module).__name__}: {'; '.join(wrong)}"
        raise DoNotFit(problem, *propose(module, weights, where, heads))
    with torch.no_grad():
        for name, (layout, value) in found.items():
            parameters[name].copy_(layout.lay(value).reshape(parameters[name].shape))


def in_short(some: Collection[str], everything: Collection[str]) -> str:
    """Names of weights in a line; a module all of whose weights are meant by its own name alone."""
    short = []
    for name in some:
        module = name.rpartition(".")[0]
        whole = {other for other in everything if other.rpartition(".")[0] == module}
        short.append(module if module and whole <= set(some) else name)
    return ", ".join(dict.fromkeys(short))


# ------------------------------------------------------------------------------------- proposing


def words_in(name: str) -> set[str]:
    """The words that a name is made of, in small letters: "selfAttn.W_q" → self, attn, w, q."""
    return set(re.findall(r"[a-z]+\d*", re.sub(r"([a-z])([A-Z])", r"\1 \2", name).lower()))


def propose(
    module: nn.Module, weights: Mapping[str, Tensor], where: str, heads: int
) -> tuple[list[dict[str, str]], bool]:
    """Mappings that may fit a module, guessed from shapes, names and order; [] = there is none.

    Two where a square matrix that is no linear layer of torch's may be (out, in) or (in, out).

    Returns: the mappings, and whether there is only one, in which order alone decided nothing.
    """
    left, guessed = list(weights), {}  # their name → the same with * for heads, and what it is
    turned: dict[str, str] = {}
    clear = True
    for name, parameter in module.named_parameters():
        fits = {}
        for theirs, place in places_of(name, left, list(guessed.values())):
            found = [layout for layout, _ in fitting(parameter.shape, place, weights, where, heads)]
            if found:
                fits[theirs, place] = found
        if not fits:
            return [], False
        likeness = [alike(name, place) for _, place in fits]
        clear &= likeness.count(max(likeness)) == 1
        best = list(fits)[likeness.index(max(likeness))]
        guessed[name] = best
        left = [own for own in left if own not in best[1].ours]
        holder = module.get_submodule(name.rpartition(".")[0])
        if len(fits[best]) > 1 and not isinstance(holder, nn.Linear | nn.Embedding):
            turned[name] = str(fits[best][1])
    both = [{}, turned] if turned else [{}]
    if left:
        return [], False
    return [in_lines(guessed, layout) for layout in both], clear and not turned


def places_of(
    name: str, left: Sequence[str], taken: Sequence[tuple[str, Place]]
) -> Iterator[tuple[str, Place]]:
    """What a parameter may be: any weight that is left, three in one, or a head's part of one."""
    starred = re.sub(r"\d+", "*", name, count=1)
    for own in left:
        yield name, Place((own,))
    for kind in ("weight", "bias"):
        three = tuple(own for own in left if own.endswith(kind) and words_in(own) & set(FUSED))
        if len(three) == 3:
            yield name, Place(three)
    if starred != name:
        head = int(re.search(r"\d+", name)[0])
        for own in [*(place.ours[0] for theirs, place in taken if theirs == starred), *left]:
            yield starred, Place((own,), head=head)


def called(word: str) -> set[str]:
    """A word of our names, and what others have for it."""
    return {word, *CALLED.get(word, "").split()}


def alike(theirs: str, place: Place) -> int:
    """How many words of our names stand in theirs, as others call them."""
    words = words_in(theirs)
    return sum(bool(words & called(word)) for word in set(".".join(place.ours).split(".")))


def in_lines(guessed: Mapping[str, tuple[str, Place]], turned: Mapping[str, str]) -> dict[str, str]:
    """A mapping as a person would write it: by modules where all of their weights go along."""
    short: dict[str, str] = {}
    by_module: dict[str, dict[str, tuple[Sequence[str], str]]] = {}
    for name, (theirs, place) in guessed.items():
        lines = by_module.setdefault(theirs.rpartition(".")[0], {})
        lines[theirs] = place.ours, turned.get(name, "")
    for module, lines in by_module.items():
        kinds = {name.rpartition(".")[2] for name in lines}
        bare = {", ".join(own.rpartition(".")[0] for own in ours) for ours, _ in lines.values()}
        same = all(own.endswith("." + name.rpartition(".")[2]) and not layout
                   for name, (ours, layout) in lines.items() for own in ours)
        if module and kinds <= {"weight", "bias"} and len(bare) == 1 and same:
            short[module] = bare.pop()
        else:
            short |= {name: f"{', '.join(ours)} {layout}".strip()
                      for name, (ours, layout) in lines.items()}
    return {theirs: ours for theirs, ours in short.items() if theirs != ours}


def written(mapping: Mapping[str, str]) -> str:
    """A mapping, to be pasted into a class."""
    return f"names = {json.dumps(mapping, ensure_ascii=False)}"
