"""A learner's file, run in a process of its own, with limits on time and memory.

The process gets the inputs of one call after the other and sends back what the function returned;
so what was done before an endless loop or a crash still counts, and no answer is ever in there.

Where the system has `unshare` and allows it, the process sees no network, every file system is
read-only except for a scratch directory, and all that it started ends with it. Anywhere, Python
itself refuses to start processes, to open connections, to write outside of the scratch directory,
and to read this package or the files of other learners. This keeps away accidents and what is
easily tried. It is no wall: code in the same process can reach below Python (a bug in a library;
without namespaces, torch's own writing of files), fill the memory of its own process, or forge what
is said about its own function, though no answer is there to be found. Whoever grades strangers'
code for a mark that counts does it in a container or a virtual machine.
"""

from __future__ import annotations

import json
import linecache
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from minibert.course.run_submission import BUSIEST, PRINTED, encode

STARTUP = 600  # seconds that starting Python and importing torch may take on a very busy machine
DAY = 24 * 60 * 60  # seconds
LONGEST = 64 << 20  # bytes of a reply
REPLY = {"got": str, "error": str, "stopped": str, "printed": str, "random": bool, "number": int,
         "changed": list}
# The first argument, a directory, stays writable; the rest is started without privileges. It does
# not replace the shell: what the first process of a namespace may do, it may not.
READ_ONLY = """
mounts=$(cut -d' ' -f5 /proc/self/mountinfo)
mount --bind "$1" "$1" && shift || exit 1
for mount in $mounts; do
    case $mount in (/proc*|/sys*|/dev*) ;; (*) mount -o remount,bind,ro "$mount" 2>/dev/null ;; esac
done
[ ! -w / ] && setpriv --bounding-set=-all --no-new-privs -- "$@"
exit $?
"""
APART = ["unshare", "--user", "--map-root-user", "--net", "--ipc", "--pid", "--mount", "--fork",
         "--kill-child", "sh", "-c", READ_ONLY, "sh"]


@cache
def isolation() -> list[str]:
    """What starts a process that sees no network, writes to the directory named first, and at whose
    end all ends that it started; [] = nothing."""
    with suppress(OSError, subprocess.TimeoutExpired), tempfile.TemporaryDirectory() as scratch:
        tried = subprocess.run([*APART, scratch, "true"], capture_output=True, timeout=60)
        return [] if tried.returncode else APART
    return []


def isolated() -> str:
    """How files are run here, in a sentence."""
    if isolation():
        return ("Run in a process of its own, without network, all but its scratch directory "
                "read-only; all that it starts ends with it.")
    return "Run in a process of its own, watched by Python alone: this system has no namespaces."


def valid(reply: dict) -> bool:
    """Whether it has the fields of a reply, each of its type."""
    return all(type(value) is REPLY.get(name) for name, value in reply.items()) and all(
        type(place) is int for place in reply.get("changed", ()))


class Submission:
    """A learner's file in a process of its own; a context manager, at whose end the process ends.

    Args:
        path: the file.
        name: of the function in it.
        seconds, megabytes: what the file may take; importing torch does not count.
    """

    def __init__(
        self, path: str | os.PathLike, name: str, *, seconds: float = 10, megabytes: int = 2000
    ) -> None:
        if not 0 < seconds <= DAY:
            raise ValueError(f"seconds is {seconds}; more than 0, at most {DAY} is allowed")
        self.path, self.name = Path(path).resolve(), name
        self.seconds, self.megabytes = seconds, megabytes
        self.stopped = ""  # why there are no more replies
        self.number = 0  # of the request
        self.printed = ""  # what the file printed

    def __enter__(self) -> Submission:
        """Start the process, and load the file in it."""
        self.scratch = tempfile.TemporaryDirectory(prefix="minibert-check-")
        self.trace = Path(self.scratch.name, ".trace")  # Python's last words
        paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
        apart = isolation() and [*isolation(), self.scratch.name]
        arguments = self.path, self.name, self.seconds, self.megabytes, self.trace, time.time()
        self.process = subprocess.Popen(
            [*apart, sys.executable, "-m", "minibert.course.run_submission", *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=self.scratch.name,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        self.receive(STARTUP)
        return self

    def __exit__(self, *_: object) -> None:
        """End the process, and leave nothing of it behind."""
        self.end()
        self.process.stdin.close()
        self.process.stdout.close()
        self.scratch.cleanup()

    def call(self, args: Sequence, **options: Any) -> dict:
        """Have the function called (`run_submission.call`); {"stopped": why} if it is gone."""
        if self.stopped:
            return {"stopped": self.stopped}
        self.number += 1
        with suppress(OSError):  # the process is gone: there will be no reply
            line = json.dumps({"args": encode(args), "number": self.number, **options})
            self.process.stdin.write(line.encode() + b"\n")
            self.process.stdin.flush()
        return self.receive()

    def receive(self, patience: float = 5) -> dict:
        """The next reply. The process watches its own time; this waits a little longer."""
        timer = threading.Timer(BUSIEST * self.seconds + patience, self.end)
        timer.start()
        try:
            reply = json.loads(self.process.stdout.readline(LONGEST))
            if not valid(reply) or reply.pop("number", 0) != self.number:
                raise ValueError("no reply to this request")
            self.printed = (self.printed + reply.pop("printed"))[:PRINTED]
        except (ValueError, RecursionError, AttributeError, TypeError, KeyError):  # none, nonsense
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
            self.end()
            trace = self.trace.read_text(errors="replace") if self.trace.exists() else ""
            reply = {"stopped": self.why_it_ended(trace)}
        finally:
            timer.cancel()
        self.stopped = str(reply.get("stopped", ""))
        return reply

    def end(self) -> None:
        """Make sure that the process and all that it started are gone."""
        with suppress(ProcessLookupError, PermissionError):
            if hasattr(os, "killpg"):
                os.killpg(self.process.pid, signal.SIGKILL)
            else:
                self.process.kill()
        self.process.wait()

    def why_it_ended(self, trace: str) -> str:
        """Why there is no reply, and at which line of the file."""
        at, status = "", self.process.returncode
        status = 128 - status if status > 128 else status  # as a shell reports a signal
        if line := re.search(rf'File "{re.escape(str(self.path))}", line (\d+)', trace):
            linecache.checkcache(str(self.path))
            source = linecache.getline(str(self.path), int(line[1])).strip()
            at = f" in line {line[1]}: {source}"
        if "Timeout" in trace:
            return f"stopped after {self.seconds:g} seconds{at}\n  an endless loop, or far too slow"
        if fatal := re.search(r"Fatal Python error: (.*)", trace):
            return f"Python itself crashed ({fatal[1]}){at}"
        if status < 0:
            return f"the process was killed by signal {-status}{at}"
        return f"the process ended in the middle, with status {status}: os._exit, or a crash"
