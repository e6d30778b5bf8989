"""The command line: one file per command, each a thin layer over the public API.

Exit codes: 0 fine; 1 the answer is no; 2 bad input or failed; 3 architecture not supported;
4 usage; 5 no answer can be given, which `audit` alone says.
"""

from __future__ import annotations

import sys
import traceback
from importlib import import_module

import click

from unmergeable.cli.output import notice, print_document, print_error
from unmergeable.cli.streams import guarded, hold, lost
from unmergeable.errors import UnmergeableError
from unmergeable.version import __version__

USAGE = 4
FAILED = 2
INTERRUPTED = 130

COMMANDS = (
    "keygen",
    "inspect",
    "protect",
    "verify",
    "unlock",
    "relock",
    "merge",
    "align",
    "audit",
    "trace",
    "sign",
    "licensees",
    "train",
    "relocate",
    "bench",
    "demo",
)


class _Commands(click.Group):
    """Loads a command's file when the command is asked for."""

    def list_commands(self, context: click.Context) -> list[str]:
        """The names in the order a user needs them."""
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """The command of that name."""
        if name not in COMMANDS:
            return None
        command: click.Command = import_module(f"unmergeable.cli.{name}").command
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="unmergeable")
def cli() -> None:
    """Publish open weights that work for users and are worthless to mergers.

    \b
      unmergeable keygen owner.key
      unmergeable protect my-model my-model-locked --key owner.key
      unmergeable verify my-model my-model-locked --key owner.key
      unmergeable unlock my-model-locked my-model-again --key owner.key

    A lock stops unmodified merge tools. It does not stop an attacker who first aligns the model to
    its public base, which takes seconds: README.md says what was measured.
    """


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code of the contract."""
    arguments = sys.argv[1:] if arguments is None else arguments
    as_json = "--json" in arguments
    with guarded() as (out, _):
        code = _run(arguments, as_json)
        out.flush()
        if (why := lost(out)) and code not in (USAGE, FAILED):
            notice(f"unmergeable: the result could not be printed: {why}. The work itself is done.")
    return code


def _run(arguments: list[str], as_json: bool) -> int:
    try:
        result = cli.main(arguments, prog_name="unmergeable", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.UsageError as error:
        error.show()
        print_document(error.format_message(), as_json, "UsageError")
        return USAGE
    except (click.exceptions.Abort, KeyboardInterrupt):
        print_error("interrupted. Run the same command again to go on.", as_json)
        return INTERRUPTED
    except click.ClickException as error:
        print_error(error.format_message(), as_json)
        return FAILED
    except UnmergeableError as error:
        print_error(str(error), as_json, type(error).__name__)
        return error.exit_code
    except OSError as error:
        what = error.strerror or error
        print_error(f"{error.filename or 'input or output'}: {what}.", as_json)
        return FAILED
    except SystemExit:  # click's way out when some pipe breaks; its exit code is 1
        print_error("stopped: a pipe or connection that it needs was closed.", as_json)
        return FAILED
    except Exception as error:  # Python's own exit code for it is 1, which is an answer here
        traceback.print_exc()
        sentence = f"{type(error).__name__}: {error}. This is a fault of unmergeable: report it."
        print_error(sentence, as_json, type(error).__name__)
        return FAILED


def entry_point() -> None:
    """The installed command."""
    hold()
    sys.exit(main())
