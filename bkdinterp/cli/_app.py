"""The application, its errors and its exit codes: 0 nothing found, 1 something found, 2 an error."""

import logging
import os
import sys
import traceback
import warnings
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from bkdinterp.errors import BkdinterpError
from bkdinterp.reprs import cut
from bkdinterp.version import __version__

ERROR_LENGTH = 2000  # most characters of an error message; a suspect file must not fill the terminal
NOTHING, FOUND, ERROR = 0, 1, 2

# In the order of a newcomer's needs.
ORDER = (
    "audit",
    "scan",
    "rows",
    "report",
    "attribute",
    "probe",
    "vector",
    "evaluate",
    "poison",
    "doctor",
    "demo",
    "train-toys",
)


class _Commands(TyperGroup):
    def list_commands(self, ctx: Any) -> list[str]:
        known = super().list_commands(ctx)
        return sorted(known, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))


app = typer.Typer(
    cls=_Commands,
    add_completion=True,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _say_version(asked: bool) -> bool:
    if asked:
        typer.echo(f"bkdinterp {__version__}")
        raise typer.Exit
    return asked


@app.callback(epilog="Example: bkdinterp audit path/to/model --reference path/to/base")
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_say_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """Mechanistic interpretability of backdoored language models.

    Exit codes: 0 nothing found, 1 findings (or a check that failed), 2 an error.
    """


def main() -> None:
    """Entry point: every error ends with exit code 2; one of the user or the system, in one line on stderr."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not sys.stderr.isatty() or {"--quiet", "--json"} & set(sys.argv):
        # Bars of the libraries; tqdm reads this when it is imported.
        os.environ.setdefault("TQDM_DISABLE", "1")
    try:
        app()
    except (BkdinterpError, OSError) as error:
        _fail(error)
    except ModuleNotFoundError as error:
        if (error.name or "bkdinterp").partition(".")[0] == "bkdinterp":
            _fault()
        _fail(BkdinterpError(f"{error.name} is not installed: pip install 'bkdinterp[organisms,plot]'."))
    except Exception:
        _fault()


def _fault() -> NoReturn:
    """A fault of ours: the traceback, and not Python's exit code of 1, which would say that something was found."""
    traceback.print_exc()
    raise SystemExit(ERROR) from None


def _fail(error: Exception) -> NoReturn:
    """Print one line, whatever the message holds, because a name in it may come from a suspect file."""
    message = cut(" ".join(str(error).split()), ERROR_LENGTH)
    sys.stderr.write(f"{type(error).__name__}: {message}\n".encode("utf-8", "backslashreplace").decode())
    raise SystemExit(ERROR) from None
