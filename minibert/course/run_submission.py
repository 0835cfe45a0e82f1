"""What runs in the process of a submission: it calls the learner's function and sends back results.

The inputs come in, and what the function returned goes out, as lines of JSON. No answer is known
here: of minibert, this file imports only what loads somebody's file, and a submission can import
nothing else of it.
"""

from __future__ import annotations

import copy
import faulthandler
import io
import json
import linecache
import os
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from minibert.parity.user_code import blame, load_object

PRINTED = 2000  # characters of the learner's own output that are kept
BUSIEST = 10  # times as long may a file take on a machine that does other things, too
LARGEST = 1_000_000  # numbers that a returned tensor may have
LARGEST_FILE = 64 << 20  # bytes that the process may write to a file
# What no exercise needs: other processes, the network, and files other than the learner's own.
REFUSED = ("os.", "shutil.", "socket.", "subprocess.", "pty.", "signal.pthread_kill", "resource.",
           "ctypes.dlopen", "ctypes.dlsym", "sqlite3.")
HARMLESS = ("os.listdir", "os.scandir", "os.walk", "os.fwalk", "os.putenv", "os.unsetenv")
PACKAGE = Path(__file__).resolve().parents[1]
DTYPES = {str(d): d for d in (torch.float32, torch.float64, torch.int64, torch.bool)}


class Refused(BaseException):
    """The learner's code did something that no exercise needs. ``except Exception`` passes it."""


class InvalidReturn(Exception):
    """What a function returned is not of the type that is asked for."""


# -------------------------------------------------------------------------- values as JSON


def encode(value: Any) -> str:
    """A value as JSON; tensors and numpy arrays alike become type, shape and numbers.

    Raises:
        ValueError: a tensor is far too large.
    """
    return json.dumps(value, default=as_plain)


def as_plain(value: Any) -> dict:
    """What stands in JSON for a value that it does not know."""
    if isinstance(value, (np.ndarray, np.generic)):
        value = torch.from_numpy(np.array(value))
    if not isinstance(value, Tensor):
        return {"object": type(value).__name__}
    if value.numel() > LARGEST:
        raise ValueError(f"returned a tensor of shape {tuple(value.shape)}: far too large")
    if str(value.dtype) not in DTYPES:
        value = value.double() if value.is_floating_point() else value.long()
    return {"tensor": [str(value.dtype), value.shape, value.detach().flatten().tolist()]}


def decode(text: str) -> Any:
    """The value that `encode` was given; tuples come back as lists.

    Raises:
        InvalidReturn: it was nothing that JSON can carry.
    """
    try:
        return json.loads(text, object_hook=from_plain)
    except (TypeError, ValueError, RuntimeError, LookupError, OverflowError):  # nonsense was sent
        raise InvalidReturn("returned something that is not numbers") from None


def from_plain(value: dict) -> Any:
    """The value that `as_plain` was given."""
    if "object" in value:
        raise InvalidReturn(f"returned an object of type {value['object']}")
    if "tensor" not in value:
        return value
    dtype, shape, numbers = value["tensor"]
    return torch.tensor(numbers, dtype=DTYPES[dtype]).reshape(shape)


# -------------------------------------------------------------------------- calling the function


def call(
    function: Callable, args: Sequence, *, seed: int = 0, repeat: bool = True, path: str = ""
) -> dict:
    """Call a function once, or twice with the same arguments; returns what can be seen of it.

    Returns: "got", encoded, or "error", in words; "changed", the positions of the arguments that
    were written to; "random", whether the second call gave something else.
    """
    for set_seed in (torch.manual_seed, random.seed, np.random.seed):
        set_seed(seed)
    given = copy.deepcopy(args)
    try:
        got = encode(function(*given))
        again = encode(function(*copy.deepcopy(args))) if repeat else got
        seen = {"got": got, "random": again != got}
    except NotImplementedError:
        seen = {"error": "not written yet"}
    except (Exception, SystemExit, Refused) as error:  # an interrupt goes through
        seen = {"error": blame(error, path or None)}
    pairs = enumerate(zip(args, given, strict=True))
    changed = [place for place, (before, after) in pairs if encode(before) != encode(after)]
    return {**seen, "changed": changed}


class Classifier(nn.Module):
    """A small text classifier: mean of the word and segment vectors, a hidden layer, logits."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.weights = nn.ParameterDict(copy.deepcopy(weights))

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Any:
        """Shapes: all (B, T) → ``logits`` (B, C)."""
        table, real = self.weights, attention_mask[..., None].double()  # (B, T, 1)
        vectors = (table["word"][input_ids] + table["segment"][token_type_ids]) * real  # (B, T, H)
        hidden = (vectors.sum(1) / real.sum(1) @ table["hidden"]).tanh()  # (B, H)
        return SimpleNamespace(logits=hidden @ table["classifier"] + table["bias"])


class Descent:
    """Plain gradient descent with learning rate 1, used as any optimizer of torch.

    So a step is the gradient itself. (torch's own loads its compiler, which takes seconds.)
    """

    def __init__(self, model: nn.Module) -> None:
        self.param_groups = [{"params": list(model.parameters()), "lr": 1.0}]
        self.taken = 0

    @torch.no_grad()
    def step(self) -> None:
        """Subtract the gradients."""
        self.taken += 1
        for parameter in self.param_groups[0]["params"]:
            if parameter.grad is not None:
                parameter -= parameter.grad

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients."""
        for parameter in self.param_groups[0]["params"]:
            parameter.grad = None


def training_steps(
    function: Callable, weights: Mapping[str, Tensor], batches: list, limits: Sequence[float]
) -> dict:
    """What training steps do: the gradients (steps, n), what they returned, the modes, the steps.

    Every step begins with the same parameters; what an earlier one left in .grad stays there.
    """
    model = Classifier(weights)
    optimizer, start = Descent(model), parameters_to_vector(model.parameters()).detach()
    gradients, returned, modes, taken = [], [], [], []
    model.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    for batch, max_norm in zip(batches, limits, strict=True):
        model.eval()
        optimizer.taken = 0
        got = function(model, [tuple(pair) for pair in batch], optimizer, max_norm)
        number = got is None or isinstance(got, (int, float, np.generic, Tensor))
        returned.append(got if number else type(got).__name__)
        taken.append(optimizer.taken)
        gradients.append(start - parameters_to_vector(model.parameters()).detach())
        vector_to_parameters(start.clone(), model.parameters())
    return {"near": torch.stack(gradients), "mean_loss": returned, "training_mode": [modes, taken]}


def wrapped(name: str, function: Callable) -> Callable:
    """The function of an exercise as it is called with the inputs of a part."""
    return partial(training_steps, function) if name == "training_step" else function


# -------------------------------------------------------------------------------- the process


class Printed(io.TextIOBase):
    """Stands in for stdout and stderr: keeps the beginning, drops the rest."""

    text = ""

    def write(self, text: str) -> int:
        """Keep as much as there is room for."""
        self.text += text[: PRINTED - len(self.text)]
        return len(text)


def limit(megabytes: int) -> None:
    """Limit the size of files, and the memory to so much more than is in use now."""
    with suppress(ImportError, OSError, ValueError):  # Windows; a system without such a limit
        import resource

        used, pages = 4 << 30, Path("/proc/self/statm")
        if pages.exists():
            used = int(pages.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_FILE, LARGEST_FILE))
        resource.setrlimit(resource.RLIMIT_AS, (used + (megabytes << 20),) * 2)


def guard(path: str, scratch: str) -> Callable[[str, tuple], None]:
    """What refuses all that no exercise needs, as an audit hook, which cannot be taken away again.

    Files are written in the scratch directory only. Not to be read are this package, what is beside
    it, and the directories beside that of the learner's file: those are other learners'.
    """
    home, scratch = Path(path).resolve().parent, Path(scratch).resolve()
    libraries = [Path(p).resolve() for p in (sys.prefix, sys.base_prefix, *sys.path)]
    libraries = [p for p in libraries if p not in (PACKAGE.parent, Path.cwd())]
    hidden = [PACKAGE, PACKAGE.parent / "tests"]
    hidden += [home.parent] if home.parent != home.parent.parent else []
    for source in ("course/run_submission.py", "parity/user_code.py"):
        linecache.getlines(str(PACKAGE / source))  # they stand in every traceback
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

    def depth(places: Sequence[Path], file: Path) -> int:
        return max((len(place.parts) for place in places if place in file.parents), default=0)

    def check_file(name: Any, mode: Any, flags: Any) -> None:
        if isinstance(name, int):
            return
        file = Path(os.path.realpath(os.fsdecode(name)))
        if scratch in file.parents or file == Path(os.devnull):
            return
        if set(mode or "") & set("wax+") or (flags or 0) & writing:
            raise Refused(f"writing to {file} is not allowed here: no exercise needs it")
        if depth(hidden, file) > depth((home, *libraries), file):
            raise Refused(f"reading {file} is not allowed here: no exercise needs it")

    def refuse(event: str, arguments: tuple) -> None:
        if event == "open":
            check_file(*arguments)
        elif event.startswith(REFUSED) and event not in HARMLESS:
            raise Refused(f"{event} is not allowed here: no exercise needs it")
        elif event == "import" and arguments[0].partition(".")[0] == "minibert":
            raise Refused(f"import {arguments[0]} is not allowed here: write the function yourself")

    return refuse


def busy(elapsed: float, computed: float) -> float:
    """How many times as long as on an idle machine everything takes: by what starting took."""
    return min(BUSIEST, max(1.0, elapsed / computed))


def main(path: str, name: str, seconds: str, megabytes: str, trace: str, began: str) -> None:
    """Load the file, then answer each request: a line in, a line out."""
    left = float(seconds) * busy(time.time() - float(began), time.process_time())
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nowhere, stream)
    printed = sys.stdout = sys.stderr = Printed()
    last_words = open(trace, "w")
    torch.set_num_threads(1)
    sys.dont_write_bytecode = True
    faulthandler.enable(last_words)
    limit(int(megabytes))
    sys.addaudithook(guard(path, os.getcwd()))

    def timed(work: Callable) -> Any:
        nonlocal left
        faulthandler.dump_traceback_later(max(left, 0.01), exit=True, file=last_words)
        began = time.monotonic()
        try:
            return work()
        finally:
            faulthandler.cancel_dump_traceback_later()
            left -= time.monotonic() - began

    def reply(line: dict) -> None:
        replies.write(json.dumps({**line, "printed": printed.text}).encode() + b"\n")
        replies.flush()
        printed.text = ""

    try:
        function = wrapped(name, timed(lambda: load_object(path, name)))
    except BaseException as error:  # SystemExit and whatever else the file may raise
        return reply({"stopped": f"the file does not run: {blame(error, path)}"})
    reply({})
    for line in requests:
        request = json.loads(line)
        args, number = decode(request.pop("args")), request.pop("number")
        reply({"number": number} | timed(partial(call, function, args, path=path, **request)))


if __name__ == "__main__":
    main(*sys.argv[1:])
    os._exit(0)  # nothing that the file left behind may still run
