"""The command line, called in this process."""

from __future__ import annotations

import argparse

from minibert.cli import main as cli


def run(capsys, *arguments) -> tuple[int, str, str]:
    """Exit status, stdout, stderr."""
    try:
        status = cli.main([str(a) for a in arguments])
    except SystemExit as stop:
        status = stop.code
    output = capsys.readouterr()
    return status, output.out, output.err



def parser_of(command: str) -> argparse.ArgumentParser:
    """The parser of a command, such as "evaluate similarity"."""
    parser = cli.build_parser()
    for word in command.split():
        (group,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
        parser = group.choices[word]
    return parser
