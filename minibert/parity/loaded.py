"""Which weights a model was loaded with: somebody's parameters, matched with ours by their numbers.

Names are learnt, not guessed: what is called the same in every layer has one role, that of most of
them; a weight that has another layer's numbers, or none of ours, stands out before anything runs.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from minibert.parity.layouts import QKV, Match, match_weights, near
from minibert.parity.parameters import called, words_in
from minibert.parity.steps import Inputs, parse_name

Role = tuple[str, ...]  # ours, with {} for the layer: several where query, key and value are in one


@dataclass
class Loaded:
    """Whose weights theirs are.

    ``matches``: their name → ours; ``roles``: their name → what it should be, as far as that is
    known; ``findings``: what is wrong, in words; ``notes``: what is merely unusual.
    """

    matches: dict[str, list[Match]]
    places: dict[str, tuple[str, int | None]]  # their name → with {} for the layer, and the layer
    roles: dict[str, Role] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    wrong: dict[str, str] = field(default_factory=dict)  # their name → what is wrong with it

    def expected(self, name: str) -> Role:
        """Our names for a weight of theirs; () = it cannot be known."""
        template, number = self.places[name]
        return fill(self.roles.get(template, ()), number)

    def module_roles(self) -> dict[str, tuple[str, Role]]:
        """Their modules → the same with {} for the layer, and the steps of ours that they compute.

        What is called query, key or value is that, whatever weights it has.
        """
        found: dict[str, tuple[str, Role]] = {}
        for name, (template, _) in self.places.items():
            (path, _, _), kind = name.rpartition("."), template.rpartition(".")[0]
            steps = tuple(role.rpartition(".")[0] for role in self.roles.get(template, ()))
            said = f"layers.{{}}.{called_in_attention(template)}"
            if len(steps) == 1 and steps[0].endswith(QKV) and said.endswith(QKV):
                steps = (said,)
            if steps and path and found.setdefault(path, (kind, steps)) != (kind, steps):
                found[path] = kind, ()  # raw parameters of several steps in one module
        return {path: place for path, place in found.items() if place[1]}


def fill(role: Role, number: int | None) -> Role:
    """A role in a layer; () if it is one of a layer, and which is unknown."""
    if number is None and any("{}" in name for name in role):
        return ()
    return tuple(name.format(number) for name in role)


def template_of(name: str) -> tuple[str, int | None]:
    """Our name with {} for the layer, and the layer."""
    group, number, step = parse_name(name)
    return (f"layers.{{}}.{step}", number) if group == "layers" else (name, None)


def find_layers(names: Sequence[str], layers: int) -> dict[str, tuple[str, int | None]]:
    """Which number in a name is that of the layer: what stands before it has all of them behind."""
    numbers: dict[str, set[int]] = {}
    for name in names:
        for match in re.finditer(r"\d+", name):
            numbers.setdefault(name[: match.start()], set()).add(int(match[0]))

    def place(name: str) -> tuple[str, int | None]:
        for match in re.finditer(r"\d+", name):
            before = name[: match.start()]
            found, first = numbers[before], min(numbers[before])
            if found == set(range(first, first + layers)):
                return f"{before}{{}}{name[match.end():]}", int(match[0]) - first
        return name, None

    return {name: place(name) for name in names}


def examine_weights(theirs: Mapping[str, Tensor], inputs: Inputs) -> Loaded:
    """Match somebody's weights with ours, and say what is wrong with them.

    Args:
        theirs: a state dict: any names, any layout, the weights of all layers in one array, too.
        inputs: the model that they should be of.
    """
    config, L = inputs.config, inputs.config.num_hidden_layers
    heads, ours = config.num_attention_heads, inputs.weights
    theirs = dict(theirs)
    matches = match_weights(theirs, ours, heads)
    for name, value in list(theirs.items()):
        if not matches[name] and value.dim() > 1 and len(value) == L:
            pieces = {f"{name}[{i}]": piece for i, piece in enumerate(value)}
            found = match_weights(pieces, ours, heads)
            if any(found.values()):
                matches |= found
                theirs |= pieces
                del matches[name], theirs[name]
    loaded = Loaded(matches, find_layers(list(theirs), L))
    loaded.roles = learn_roles(loaded)
    judge_weights(loaded, theirs, ours)
    return loaded


def learn_roles(loaded: Loaded) -> dict[str, Role]:
    """Their names without the layer → ours: what most of them have the numbers of."""
    votes: dict[str, Counter] = {}
    for name, found in loaded.matches.items():
        template, number = loaded.places[name]
        here = [match for match in found
                if all(template_of(own)[1] in (number, None) for own in match.names)]
        for match in here or found:
            pairs = [template_of(own) for own in match.names]
            if number is None and pairs[0][1] is not None:
                role = match.names  # a layer of theirs that has no number
            else:
                role = tuple(own for own, _ in pairs)
            votes.setdefault(template, Counter())[role] += 1 / len(here or found)
    return {template: count.most_common(1)[0][0] for template, count in votes.items()}


def judge_weights(loaded: Loaded, theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> None:
    """Fill in the findings."""
    other_layers: dict[int, dict[str, int]] = {}  # layer → their names → the layer they are from
    in_layer = Counter(number for _, number in loaded.places.values() if number is not None)
    strangers = []
    for name, found in loaded.matches.items():
        expected, number = loaded.expected(name), loaded.places[name][1]
        if any(match.names == expected for match in found):
            continue
        if not found:
            strangers.append(name)
            continue
        names, role = found[0].names, loaded.roles[loaded.places[name][0]]
        come = template_of(names[0])[1]
        if tuple(template_of(own)[0] for own in names) == role and number is not None:
            other_layers.setdefault(number, {})[name] = come
            loaded.wrong[name] = f"has the weights of layer {come}"
        elif expected:
            loaded.wrong[name] = f"has the weights of {' and '.join(names)}"
            loaded.findings.append(
                f"`{name}` {loaded.wrong[name]}; in the other layers it is {said(expected)}")
    loaded.findings += said_of_layers(other_layers, in_layer)
    known = len(theirs) - len(strangers)
    if not theirs:
        return
    if known < len(theirs) / 2:
        loaded.findings.insert(0,
            f"{len(strangers)} of {len(theirs)} weights have none of the numbers of the reference: "
            "is it the same checkpoint? --model says which one yours is of")
    else:
        judge_strangers(loaded, strangers, theirs, ours)
    judge_names(loaded)
    judge_rounding(loaded)
    for template, role in loaded.roles.items():
        steps = [template_of(name)[0].split(".")[-2] for name in role]
        if len(steps) == 3 and steps != ["query", "key", "value"]:
            loaded.notes.append(f"`{template}` holds {', '.join(steps)}, in this order, instead of "
                                "query, key, value")


def said(names: Sequence[str]) -> str:
    """Our weights in words: "attention.key of layer 3"."""
    words = []
    for name in names:
        step, number = template_of(name)
        step = step.removeprefix("layers.{}.").rpartition(".")[0]
        words.append(step + (f" of layer {number}" if number is not None else ""))
    return " and ".join(dict.fromkeys(words))


def said_of_layers(found: Mapping[int, Mapping[str, int]], whole: Mapping[int, int]) -> list[str]:
    """Layers that have the weights of other ones: whole layers in a sentence, parts by name."""
    lines, moved = [], {}
    for number, names in found.items():
        origins = set(names.values())
        if len(names) > 0.7 * whole[number] and len(origins) == 1:
            moved[number] = origins.pop()
        else:
            modules = dict.fromkeys((n.rpartition(".")[0] or n, come) for n, come in names.items())
            lines += [f"`{module}` has the weights of layer {come}" for module, come in modules]
    for number, come in moved.items():
        if moved.get(come) == number:
            if number < come:
                lines.append(f"layers {number} and {come} have each other's weights")
        else:
            lines.append(f"layer {number} has the weights of layer {come}")
    return lines


def judge_strangers(
    loaded: Loaded,
    strangers: Sequence[str],
    theirs: Mapping[str, Tensor],
    ours: Mapping[str, Tensor],
) -> None:
    """What has no numbers of ours: new, as the library made it, or another parameter altogether."""
    used = {own for found in loaded.matches.values() for match in found for own in match.names}
    left = [name for name in ours if name not in used]
    sizes = Counter(ours[name].numel() for name in left)
    for name in strangers:
        value, expected = theirs[name], loaded.expected(name)
        constant = value.numel() > 1 and bool((value == value.flatten()[0]).all())
        what = f"is all {float(value.flatten()[0]):g}" if constant else "has none of our numbers"
        shuffled = [own for own in left if ours[own].numel() == value.numel() and not constant
                    and near(value.flatten().sort().values, ours[own].flatten().sort().values)]
        if shuffled:
            loaded.wrong[name] = f"has the numbers of {said(shuffled[:1])} in another order"
            loaded.findings.append(f"`{name}` {loaded.wrong[name]}")
            continue
        if not expected and not sizes[value.numel()]:
            loaded.notes.append(f"`{name}` {tuple(value.shape)} is no weight of ours")
            continue
        where = f"; by its place it should be {said(expected)}" if expected else ""
        loaded.wrong[name] = what
        loaded.findings.append(f"`{name}` {what}: not loaded{where}")
    heads = ("pooler", "predictions", "seq_relationship", "classifier", "qa_outputs")
    missing = [name for name in left if not name.startswith(heads)]
    if missing and not strangers:
        loaded.findings.append(
            f"nothing has the weights of {said(missing[:6])}: {len(missing)} of ours are missing")


def judge_names(loaded: Loaded) -> None:
    """What is called query, key or value, and has the weights of another of the three."""
    for template, role in loaded.roles.items():
        says = called_in_attention(template)
        steps = {template_of(name)[0].removeprefix("layers.{}.").rpartition(".")[0]
                 for name in role}
        if says and len(role) == 1 and steps < set(QKV) and steps != {says}:
            loaded.findings.append(f"`{template}` has the weights of {steps.pop()}")
            loaded.wrong |= {name: loaded.findings[-1] for name, (other, _) in
                             loaded.places.items() if other == template}


def called_in_attention(name: str) -> str:
    """Which of query, key and value a name says; "" = none, or not one alone."""
    words = {word.rstrip("0123456789") for word in words_in(name)}
    found = [step for step in QKV if words & called(step.removeprefix("attention."))]
    return found[0] if len(found) == 1 else ""


def judge_rounding(loaded: Loaded) -> None:
    """Weights that are ours to within half precision only."""
    rounded = [name for name, found in loaded.matches.items() if found and not any(
        match.exact for match in found)]
    if rounded:
        loaded.notes.append(
            f"{len(rounded)} weights are those of the reference only to within a rounding to half "
            f"precision, the first is `{rounded[0]}`")


def weights_in_modules(loaded: Loaded, linear: Sequence[str]) -> None:
    """Square weights of torch's linear layers that lie (in, out): it computes X Wᵀ.

    Args:
        linear: names of the weights that are those of an ``nn.Linear``.
    """
    turned = [name for name in linear if (found := loaded.matches.get(name)) and (
        found[0].head is None and not found[0].layout.as_ours)]
    for template in dict.fromkeys(loaded.places[name][0] for name in turned):
        same = [name for name in turned if loaded.places[name][0] == template]
        loaded.wrong |= dict.fromkeys(same, "is transposed")
        loaded.findings.append(
            f"`{template}` is transposed in {len(same)} layers: nn.Linear computes X Wᵀ, its "
            "weight is (out, in)")
