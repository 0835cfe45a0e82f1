"""Which tensor of somebody's model is which of ours: found by its numbers, in their order.

Every tensor they computed is held against what should come out of *their own* tensors before it,
in any layout. Where nothing fits any more, something went wrong: the tensor that does not fit is
the one from which, taken as the result of a step, what comes after it follows.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from minibert.parity.diagnosis import MASKED, Judge
from minibert.parity.layouts import QKV, Layout, layouts
from minibert.parity.recording import Seen
from minibert.parity.steps import Computation, Inputs, parse_name

SAME = 1e-3  # of the length of a tensor: the same step, though perhaps not quite right
EXACT = 1e-5  # what is as near as this needs no comparison with other steps
NEAR = 0.05  # the same, if its weights or its place say so, too
AHEAD = 40  # tensors that may fit nothing before something must have gone wrong
HEADS = tuple(f"{name}_heads" for name in QKV)
COPIES = ("attention.weights", "embeddings", "attention.context", "pooler.first", *HEADS)
LEFT_OUT = ("embeddings.position_ids", "attention.mask", "pooling.mask", "pooling.count")


def sites_of(inputs: Inputs) -> list[str]:
    """The steps of ours that a tensor of theirs can be, in the order of computation."""
    there = {name.partition(".")[0] for name in inputs.weights} | {"pooling", "sentence"}
    return [name for name in Computation(inputs).steps()
            if name.partition(".")[0] in there and not name.endswith(LEFT_OUT)]


def axes_of(name: str, value: Tensor) -> dict[str, int]:
    """The axes of a step's result, with their sizes."""
    names = {2: ("text", "feature"), 3: ("text", "token", "feature"),
             4: ("text", "head", "token", "feature")}[value.dim()]
    if name == "embeddings.position":
        names = "token", "feature"
    if parse_name(name)[2] in ("attention.products", "attention.scaled", "attention.scores",
                               "attention.probabilities", "attention.weights"):
        names = "text", "head", "query", "key"
    return dict(zip(names, value.shape, strict=True))


def is_layout(layout: Layout) -> bool:
    """Whether a way to read a tensor is one that people have.

    Queries come before keys: the other way round is a mistake. And heads side by side again are no
    heads.
    """
    order = sum(layout.dims, ())
    if "key" in order:
        return order.index("query") < order.index("key")
    return not any(group[-2:] == ("head", "feature") for group in layout.dims)


class Walk:
    """The walk through somebody's tensors.

    ``known``: our name → theirs in our layout; ``source``: our name → which tensor it is;
    ``layout``: our name → how it lies; ``guessed``: those that fit nothing, and are taken as
    something because of what follows from them, or of their weights.
    """

    def __init__(
        self,
        inputs: Inputs,
        seen: Sequence[Seen],
        roles: Mapping[int, str] | None = None,
        names: Mapping[str, str] | None = None,
    ) -> None:
        self.inputs, self.seen, self.roles, self.names = inputs, seen, roles or {}, names or {}
        self.cache: dict = {}
        self.known: dict[str, Tensor] = {}
        self.source: dict[str, int] = {}
        self.layout: dict[str, Layout] = {}
        self.guessed: list[str] = []
        self.placed: dict[int, str] = {}  # tensor → our name, of copies too
        self.learnt: dict[str, str] = {}  # a name without numbers → the step it was taken as
        self.barren: set[str] = set()  # names without numbers that were taken as nothing
        self.sites = sites_of(inputs)
        self.order = {name: i for i, name in enumerate(self.sites)}
        right = Computation(inputs, cache=self.cache)
        self.axes = {name: axes_of(name, right[name]) for name in self.sites}
        self.shapes = {name: right[name].shape for name in self.sites}
        self.run = self.start(self.known)
        self.judge = Judge(inputs, {})
        self.real = inputs.batch["attention_mask"].bool()
        self.possible: dict[tuple, list[Layout]] = {}

    def start(self, known: Mapping[str, Tensor]) -> Computation:
        """A computation from what is known."""
        return Computation(self.inputs, known, cache=self.cache)

    # -- one tensor and one step

    def readings(self, number: int, site: str) -> Iterator[tuple[Layout, Tensor]]:
        """A tensor of theirs as the result of a step, in every layout that its shape allows."""
        value = self.seen[number].value
        if site == "embeddings.position" and value.dim() == 3 and len(value) > 1:
            packed = self.seen[number].packed
            one = value[self.real.sum(1).argmax() if packed else 0]
            same = (value == one).all(-1)
            value = one if bool((same | ~self.real if packed else same).all()) else value
        key = (tuple(value.shape), tuple(self.axes[site].items()))
        if key not in self.possible:
            ways = (way for way in layouts(key[0], self.axes[site]) if is_layout(way))
            self.possible[key] = list(itertools.islice(ways, 8))
        for layout in self.possible[key]:
            yield layout, layout.read(value)

    def distance(self, site: str, value: Tensor, expected: Tensor) -> float:
        """How far a tensor is from what is expected, as a share of its length; real tokens only."""
        value, expected = value.double(), expected.double()
        counts = self.judge.counts(site, expected).expand_as(expected)
        if "key" in self.axes[site]:  # what is masked, is: by which number does not matter
            masked = value <= MASKED
            if bool(((masked != (expected <= MASKED)) & counts).any()):
                return 10.0
            counts = counts & ~masked
        off = torch.where(counts, value - expected, 0.0)
        size = torch.where(counts, expected, 0.0)
        share = float(off.norm() / size.norm().clamp(min=1e-30))
        return share if share == share else 10.0

    def fit(
        self, number: int, site: str, expected: Tensor, shifted: bool = False
    ) -> tuple[float, Layout, Tensor] | None:
        """The reading in which a tensor is what is expected, and how far it is from that.

        ``shifted``: or less the largest.
        """
        for layout, value in self.readings(number, site):
            far = self.distance(site, value, expected)
            if far >= SAME and shifted:
                far = self.distance(site, value, expected - expected.amax(-1, True))
            if far < SAME:
                return far, layout, value
        return None

    def take(self, number: int, site: str, layout: Layout, value: Tensor) -> None:
        """Let a tensor be the result of a step: all that follows is computed from it."""
        if self.seen[number].packed:  # no padding, so none that could be wrong
            expected = self.run[site].to(value.dtype)
            value = torch.where(self.judge.counts(site, expected), value, expected)
        self.known[site], self.source[site], self.layout[site] = value, number, layout
        self.placed[number] = site
        place = self.order[site]
        kept = {name: old for name, old in self.run.values.items()
                if name in self.known or self.order.get(name, -1) < place}
        self.run.values = kept | {site: self.run.cast(value)}

    # -- in their order

    @property
    def front(self) -> int:
        """The layer that they are in; -1 = the embeddings."""
        layers = [parse_name(name)[1] for name in self.known if name.startswith("layers.")]
        front = max(layers, default=-1)
        done = "embeddings.norm" if front < 0 else f"layers.{front}.feed_forward_norm"
        return front + (done in self.known)

    def open_sites(self, wide: bool = True) -> list[str]:
        """The steps that may come next: of this layer, and if ``wide``, of the next one."""
        front, last = self.front, self.inputs.config.num_hidden_layers
        found = []
        for name in self.sites:
            group, number, _ = parse_name(name)
            at = number if group else -1 if name.startswith("embeddings") else last
            if front <= at <= front + wide and name not in self.known:
                found.append(name)
        return found

    def place(self, number: int) -> bool:
        """Find a tensor among what may come next, or among copies of what was there."""
        if (site := self.names.get(self.seen[number].name)) in self.order:
            for found in self.readings(number, site):
                self.take(number, site, *found)
                return True
        best: tuple[str, float, Layout, Tensor] | None = None
        for site in (*reversed(self.latest(14)), *self.open_sites()):
            known = site in self.known
            if known or self.allowed(number, site) and self.can_be(number, site):
                # A softmax subtracts the largest before it takes exponents.
                found = self.fit(number, site, self.run[site], known and "key" in self.axes[site])
                best = (site, *found) if found and (not best or found[0] < EXACT) else best
            if best and best[1] < EXACT:
                break
        if best is None:
            return False
        site, _, *found = best
        if site in self.known:
            self.placed[number] = site
        else:
            self.take(number, site, *found)
        return True

    def can_be(self, number: int, site: str) -> bool:
        """Whether the shape of a tensor allows that it is the result of a step."""
        return any(True for _ in self.readings(number, site))

    def allowed(self, number: int, site: str) -> bool:
        """What is called query is not taken as key, though it may have its weights; and what is
        made with the weights of a layer is not taken as a step of another one."""
        group, layer, role = parse_name(self.roles.get(number, ""))
        other_group, other_layer, step = parse_name(site)
        role, step = role.removesuffix("_heads"), step.removesuffix("_heads")
        elsewhere = group and other_group and layer != other_layer
        return not (elsewhere or role in QKV and step in QKV and role != step)

    def walk(self) -> None:
        """Go through all tensors; where nothing fits, find out which one is to blame."""
        at = 0
        for _ in range(len(self.sites)):
            last = at
            for number in range(at, len(self.seen)):
                if number in self.placed or self.place(number):
                    last = number
                elif self.is_nearly(number):
                    last = self.guess(number, self.roles[number])
                elif number - last > AHEAD:
                    break
            if self.finished():
                break
            at = self.resolve(last)
            if at is None:
                break
        if self.guessed:
            self.fill_in()
        self.end()

    def is_nearly(self, number: int) -> bool:
        """Whether a tensor is what its weights say, but for a small difference."""
        site = self.roles.get(number, "")
        if site not in self.open_sites() or not self.can_be(number, site) or (
                not self.in_order(number)):
            return False
        _, value = next(self.readings(number, site))
        return self.distance(site, value, self.run[site]) < NEAR

    def finished(self) -> bool:
        """Whether what the model returns is known."""
        return all(i in self.placed for i, seen in enumerate(self.seen) if seen.result)

    # -- where nothing fits

    def window(self, last: int) -> list[int]:
        """The tensors that fit nothing, or are copies, since the layer began."""
        return self.unused(max(self.ends(), default=0), min(last + AHEAD, len(self.seen)))

    def ends(self) -> list[int]:
        """The tensors with which the embeddings and the layers end."""
        return [number for name, number in self.source.items()
                if name.endswith(("feed_forward_norm", "embeddings.norm"))]

    def coming(self, number: int) -> range:
        """The tensors that come next after one."""
        return range(number + 1, min(number + AHEAD, len(self.seen)))

    def unused(self, start: int, end: int) -> list[int]:
        """The tensors in a range that are the result of no step, or of one of the last: what they
        left out gives the same tensor twice."""
        used = set(self.source.values()) - set(self.latest(3).values())
        return [i for i in range(start, end) if i not in used]

    def latest(self, count: int) -> dict[str, int]:
        """The last results of steps: our name → tensor."""
        return dict(sorted(self.source.items(), key=lambda item: item[1])[-count:])

    def resolve(self, last: int) -> int | None:
        """Take one of the tensors that fit nothing as the result of a step; returns which one."""
        window = self.window(last)
        fresh = [i for i in window if nameless(self.seen[i].name) not in self.barren]
        for number in (*fresh, *window):
            role = self.roles.get(number, "")
            if self.order.get(role) and role not in self.known and self.in_order(number) and (
                    self.can_be(number, role)):
                return self.guess(number, role)
            for site in self.candidates(number):
                if self.follows(number, site):
                    return self.guess(number, site)
            self.barren.add(nameless(self.seen[number].name))
        return None

    def in_order(self, number: int) -> bool:
        """Whether a tensor's weights agree with its place: none of an earlier step come later."""
        def rank(site: str) -> int:
            step = "attention.query" if parse_name(site)[2] in QKV else parse_name(site)[2]
            return self.order[site.replace(parse_name(site)[2], step)]

        later = [self.roles[i] for i in self.coming(number) if i in self.roles]
        role = self.roles[number]
        return all(rank(other) >= rank(role) for other in later
                   if parse_name(other)[:2] == parse_name(role)[:2])

    def candidates(self, number: int) -> list[str]:
        """The steps whose result a tensor may be, the likely ones first."""
        sites = [site for site in (*self.open_sites(wide=False), *self.latest(3))
                 if self.allowed(number, site) and self.source.get(site) != number]
        near = []
        for site in sites:
            for _, value in itertools.islice(self.readings(number, site), 1):
                far = min(self.distance(site, value, self.run[site]), 1.0)
                learnt = self.learnt.get(nameless(self.seen[number].name)) == parse_name(site)[2]
                likely = not learnt, site in self.known, round(far, 1)
                near.append((*likely, self.order[site], site))
        return [site for *_, site in sorted(near)[:10]]

    def follows(self, number: int, site: str) -> bool:
        """Whether something that fits nothing would follow from a tensor as the result of a step.

        Copies do not count: they follow from anything.
        """
        _, value = next(self.readings(number, site))
        run, changed = self.start(self.known | {site: value}), 0
        later = [i for i in self.coming(number) if i not in self.placed]
        for other in self.sites[self.order[site] + 1 :]:
            if other in self.known or parse_name(other)[2] in COPIES:
                continue
            if parse_name(other)[0] and parse_name(other)[1] > self.front + 1 or changed == 6:
                return False
            if torch.equal(run[other], self.run[other]):
                continue
            changed += 1
            if any(self.allowed(i, other) and self.fit(i, other, run[other]) for i in later):
                return True
        return False

    def guess(self, number: int, site: str) -> int:
        """Take a tensor as the result of a step, though it is another one."""
        self.take(number, site, *next(self.readings(number, site)))
        self.guessed.append(site)
        self.learnt[nameless(self.seen[number].name)] = parse_name(site)[2]
        return number

    # -- afterwards

    def fill_in(self) -> None:
        """What was passed over, because something after it was found first: by its weights, or
        because what was found first follows from it."""
        for number, site in self.roles.items():
            if number not in self.placed and site not in self.known and (
                    self.can_be(number, site) and self.in_order(number)):
                self.guess(number, site)
        for site in list(self.guessed):
            before = [name for name in self.sites[: self.order[site]]
                      if name not in self.known and parse_name(name)[:2] == parse_name(site)[:2]]
            if self.distance(site, self.known[site], self.from_before(site, {})) > SAME:
                self.explain(site, before)

    def from_before(self, site: str, more: Mapping[str, Tensor]) -> Tensor:
        """What a step should give, by what is known before it, and some more."""
        known = {name: value for name, value in self.known.items()
                 if self.order[name] < self.order[site]}
        return self.start(known | more)[site]

    def explain(self, site: str, before: Sequence[str]) -> None:
        """Take tensors as query, key and value, or one as a step, from which a guess follows."""
        start = max((end for end in self.ends() if end < self.source[site]), default=-1)
        numbers = self.unused(start + 1, self.source[site])
        trios = [[name for name in before if parse_name(name)[2] in some] for some in (QKV, HEADS)]
        for names in (*([name] for name in before), *trios):
            fitting = [i for i in numbers if names and self.can_be(i, names[0])][:5]
            for chosen in itertools.permutations(fitting, len(names)) if names else ():
                values = {name: next(self.readings(i, name))[1]
                          for name, i in zip(names, chosen, strict=True)}
                if self.distance(site, self.known[site], self.from_before(site, values)) < SAME:
                    for name, i in zip(names, chosen, strict=True):
                        self.guess(i, name)
                    return

    def end(self) -> None:
        """What the model returns is the last layer's output, even if it is another one; and the
        pooler's, if nothing but its linear layer is known."""
        last = f"layers.{self.inputs.config.num_hidden_layers - 1}.feed_forward_norm"
        results = [i for i, seen in enumerate(self.seen) if seen.result and self.can_be(i, last)]
        if results and not any(self.placed.get(i) == last for i in results):
            if last in self.known:
                del self.placed[self.source[last]]
            self.guess(results[0], last)
        if "pooler.dense" in self.known and "pooler" not in self.known:
            for i, seen in enumerate(self.seen):
                linear = self.placed.get(i, "pooler.dense") == "pooler.dense"
                if seen.result and linear and self.can_be(i, "pooler"):
                    self.guess(i, "pooler")
                    return

    def lost(self) -> list[int]:
        """What the model returns and is still unknown."""
        return [i for i, seen in enumerate(self.seen) if seen.result and i not in self.placed]


def nameless(name: str) -> str:
    """A name without its numbers."""
    return re.sub(r"\d+", "{}", name)


def roles_of(
    seen: Iterable[Seen], modules: Mapping[str, tuple[str, tuple[str, ...]]], layers: int
) -> dict[int, str]:
    """Which tensor is which of ours by the weights that made it, and their order: number → name.

    The first module of its kind that runs belongs to the first layer, whatever its name.
    """
    runs: dict[tuple[str, str], list[int]] = {}
    for number, one in enumerate(seen):
        for path in one.output_of:
            kind, steps = modules.get(path, ("", ()))
            if len(steps) == 1:
                runs.setdefault((kind, steps[0]), []).append(number)
    found: dict[int, str] = {}
    for (_, step), numbers in runs.items():
        each = 1 if len(numbers) % layers else len(numbers) // layers  # times in a layer
        for i, number in enumerate(numbers if "{}" not in step else numbers[: each * layers]):
            found.setdefault(number, step.format(i // each))
    return dict(sorted(found.items()))
