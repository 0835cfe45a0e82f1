"""The command line, called in this process."""

from __future__ import annotations

from minibert.cli import main as cli


def run(capsys, *arguments) -> tuple[int, str, str]:
    """Exit status, stdout, stderr."""
    try:
        status = cli.main([str(a) for a in arguments])
    except SystemExit as stop:
        status = stop.code
    output = capsys.readouterr()
    return status, output.out, output.err

