"""Everything that somebody's model computes, in the order and under the names of their code.

Seen are what goes into and comes out of each module of torch, and the variables and results of the
functions in their own files: so a model that is a function, or computes with numpy, is seen too.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from types import FrameType

import numpy as np
import torch
from torch import Tensor, nn

LARGEST = 1 << 22  # numbers; what is larger is a table of weights
LIBRARIES = ("torch", "numpy", "jax", "jaxlib", "flax", "minibert")


@dataclass
class Seen:
    """A tensor that was computed.

    ``name``: in their names; ``line``: of their file, if it is a variable. ``output_of``,
    ``input_of``: modules that gave it or took it first. ``result``: part of what the model returns.
    ``packed``: it held the real tokens of all texts alone, one after the other.
    """

    name: str
    value: Tensor
    line: str = ""
    output_of: list[str] = field(default_factory=list)
    input_of: list[str] = field(default_factory=list)
    result: bool = False
    packed: bool = False


def as_tensor(value: object) -> Tensor | None:
    """A tensor or an array of any library as a tensor of ours; None if it is neither."""
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, type) or not all(hasattr(value, a) for a in ("__array__", "dtype")):
        return None
    try:
        return torch.from_numpy(np.array(value))
    except Exception:  # another library's: an array that has no numbers yet, a dtype of its own
        return None


def parts_of(value: object, name: str = "") -> Iterator[tuple[str, object]]:
    """Tensors and arrays in tuples, dicts and dataclasses, as NAME[0] and NAME.field."""
    if as_tensor(value) is not None:
        yield name, value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from parts_of(part, f"{name}.{key}".removeprefix("."))
    elif is_dataclass(value) and not isinstance(value, type):
        for one in fields(value):
            yield from parts_of(getattr(value, one.name), f"{name}.{one.name}".removeprefix("."))
    elif hasattr(value, "_asdict"):
        yield from parts_of(value._asdict(), name)
    elif isinstance(value, (list, tuple)):
        for number, part in enumerate(value):
            yield from parts_of(part, f"{name}[{number}]")


class Recorder:
    """Sees one run of a model: ``recorder.seen``, and what the model returned."""

    def __init__(self, model: Callable) -> None:
        self.model, self.seen = model, []
        self.modules = {} if not isinstance(model, nn.Module) else {
            id(module): path for path, module in model.named_modules()}
        self.kept: dict[int, tuple[object, Seen]] = {}
        self.calls: dict[tuple, int] = {}  # how often a function was called at its place
        self.frames: dict[FrameType, tuple] = {}  # → its place, and the variables seen in it
        modules = (sys.modules.get(type(part).__module__) for part in self.parts())
        self.own_files = {getattr(module, "__file__", None) for module in modules}
        self.theirs: dict[str, bool] = {}  # file → whether its variables are looked at

    def parts(self) -> list[nn.Module]:
        """The modules of the model, if it is one of torch."""
        return list(self.model.modules()) if self.modules else []

    def see(self, value: object, name: str | tuple, line: str = "") -> Seen | None:
        """Keep a copy of a tensor, once: what follows may write into it, and is seen again then."""
        old = self.kept.get(id(value))
        tensor = as_tensor(value)
        if tensor is None or not tensor.is_floating_point() or not 2 <= tensor.dim() <= 6 or (
                tensor.numel() > LARGEST):
            return None
        if old and old[1].value.shape == tensor.shape and same(old[1].value, tensor):
            return old[1]
        self.seen.append(Seen(name, tensor.clone(), line))
        self.kept[id(value)] = value, self.seen[-1]  # the value, so that no other gets its id
        return self.seen[-1]

    def run(self, *args: Tensor, **more: Tensor) -> object:
        """Call the model."""
        before = sys.gettrace()
        with torch.no_grad(), self.hooks():
            sys.settrace(self.enter)
            try:
                returned = self.model(*args, **more)
            finally:
                sys.settrace(before)
        for name, part in parts_of(returned):
            if found := self.see(part, f"output{name}" if name[:1] in ("", "[") else name):
                found.result = True
        self.frames.clear()
        for seen in self.seen:
            seen.name = self.in_words(seen.name)
        return returned

    # -- modules

    @contextmanager
    def hooks(self) -> Iterator[None]:
        """Look at what goes into each module and what comes out."""
        handles, times = [], {}

        def before(module: nn.Module, args: tuple, kwargs: dict) -> None:
            path = self.modules[id(module)]
            name = path + (f"#{times[path] + 1}" if path in times else "")
            for _, part in [*parts_of(args), *parts_of(kwargs)][:1]:
                if found := self.see(part, f"{name} (input)"):
                    found.input_of.append(path)

        def after(module: nn.Module, args: tuple, output: object) -> None:
            path = self.modules[id(module)]
            times[path] = times.get(path, 0) + 1
            name = path + (f"#{times[path]}" if times[path] > 1 else "")
            for number, (place, part) in enumerate(parts_of(output, name)):
                if (found := self.see(part, place)) and not number:
                    found.output_of.append(path)
                    if str(found.name[-1]).startswith("result") and not isinstance(found.name, str):
                        found.name = name  # of its forward: what the module gives

        for module in self.parts():
            if self.modules[id(module)]:
                handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
                handles.append(module.register_forward_hook(after))
        fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)  # it calls no submodule
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
            for handle in handles:
                handle.remove()

    # -- functions

    def is_theirs(self, path: str) -> bool:
        """Whether a file is their code, and no library that it uses."""
        if path not in self.theirs:
            libraries = [sysconfig.get_paths()[kind] for kind in ("stdlib", "purelib", "platlib")]
            inside = any(path.startswith(root + os.sep) for root in libraries)
            known = any(part in LIBRARIES for part in Path(path).parts)
            self.theirs[path] = path in self.own_files and not known or not (
                inside or known or path.startswith("<"))
        return self.theirs[path]

    def enter(self, frame: FrameType, event: str, _: object) -> Callable | None:
        """A function is called: look at its variables, if it is theirs."""
        name = frame.f_code.co_name.replace("<lambda>", "lambda")
        if not self.is_theirs(frame.f_code.co_filename) or name.startswith("<"):
            return None
        module = self.modules.get(id(frame.f_locals.get("self")))
        caller = frame.f_back
        while caller and caller not in self.frames:
            caller = caller.f_back
        place = self.frames[caller][0] if caller else ()
        if module is not None:
            place = (module or "model",) if name == "forward" else (module or "model", name)
        else:
            place = (*place, name)
        self.calls[place] = self.calls.get(place, -1) + 1
        place = (*place[:-1], (place[-1], self.calls[place]))
        self.frames[frame] = place, {}, [frame.f_lineno]
        return self.line

    def line(self, frame: FrameType, event: str, returned: object) -> Callable:
        """A line has run: look at what changed."""
        place, variables, last = self.frames[frame]
        where = f"{Path(frame.f_code.co_filename).name}, line {last[0]}"
        for name, value in frame.f_locals.items():
            known = id(value) in self.kept and variables.get(name) == id(value)
            if known and isinstance(value, Tensor) and not value.is_inference() and (
                    variables.get((name, "version")) == value._version):
                continue
            count = len(self.seen)
            if self.see(value, (*place, name), where):
                variables[name] = id(value)
                if isinstance(value, Tensor) and not value.is_inference():
                    variables[name, "version"] = value._version
            if len(self.seen) > count:
                key = (*place, name)
                self.calls[key] = self.calls.get(key, -1) + 1
                self.seen[-1].name = (*place, (name, self.calls[key]))
        if event == "return":
            for end, part in parts_of(returned, "result"):
                self.see(part, (*place, end), where)
        last[0] = frame.f_lineno
        return self.line

    def in_words(self, name: str | tuple) -> str:
        """A place as a name: functions and variables joined, numbered where there are several."""
        if isinstance(name, str):
            return name
        words, before = [], ()
        for part in name:
            if isinstance(part, tuple):
                several = self.calls.get((*before, part[0]), 0)
                words.append(f"{part[0]}[{part[1]}]" if several else part[0])
            else:
                words.append(part)
            before = (*before, part)
        return ".".join(words)


def same(one: Tensor, two: Tensor) -> bool:
    """Whether two tensors of one shape have the same numbers (NaN = NaN)."""
    return bool(((one == two) | (one.isnan() & two.isnan())).all())


# ------------------------------------------------------------------------------------ weights


def weights_of(model: object) -> dict[str, Tensor]:
    """The weights of a model by its names: a state dict, or the arrays in what it holds."""
    if isinstance(model, nn.Module):
        return {name: value.detach() for name, value in model.state_dict().items()
                if value.is_floating_point()}
    found: dict[str, Tensor] = {}
    visited: set[int] = set()

    def look(value: object, name: str, depth: int) -> None:
        if id(value) in visited or depth > 8:
            return
        visited.add(id(value))
        if isinstance(value, nn.Module):
            start = f"{name}." if name else ""
            found.update({start + key: one for key, one in weights_of(value).items()})
        elif (tensor := as_tensor(value)) is not None:
            if tensor.is_floating_point() and tensor.dim():
                found[name] = tensor
        else:
            for key, part in inside(value):
                look(part, f"{name}.{key}".removeprefix("."), depth + 1)

    look(model, "", 0)
    return found


def inside(value: object) -> Iterator[tuple[object, object]]:
    """What a container, an object, a partial or a closure holds, by name or number."""
    if hasattr(value, "_asdict"):
        yield from value._asdict().items()
    elif isinstance(value, Mapping):
        yield from value.items()
    elif isinstance(value, (list, tuple)):
        yield from enumerate(value)
    elif getattr(value, "__closure__", None):
        cells = (cell.cell_contents for cell in value.__closure__)
        yield from zip(value.__code__.co_freevars, cells, strict=True)
    elif hasattr(value, "func") and hasattr(value, "keywords"):  # a partial
        yield from [*enumerate(value.args), *value.keywords.items(), ("function", value.func)]
    elif hasattr(value, "__self__") and not isinstance(value, type):
        yield "", value.__self__
    elif type(value).__module__ not in ("builtins", "types") and hasattr(value, "__dict__") and (
            not isinstance(value, type)):
        yield from vars(value).items()
