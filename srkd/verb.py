"""What every verb has in common: -v, -q, --json, and how a failure is told."""

from __future__ import annotations

import functools
import logging
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from types import FrameType
from typing import NoReturn

import click

from compressor.base.errors import SrkdError, is_out_of_memory
from srkd.console import Console, stdout_for_json
from srkd.options import Options, command_line_options, from_command_line

Body = Callable[..., None]
"""The function of a verb: body(console, options), and click options of its own by name."""


def verb(
    name: str, options: type[Options] | None = None, *, figures: bool = True, epilog: str = ""
) -> Callable[[Body], click.Command]:
    """Make a click command of a function that takes the console and an object of `options`.

    Options of click that the function has beside them are passed by name. `figures`: the verb prints numbers, so it
    has --json.
    """

    def decorate(body: Body) -> click.Command:
        @functools.wraps(body)
        def run(*, verbose: bool, quiet: bool, as_json: bool = False, **values: object) -> None:
            inherited = click.get_current_context().find_object(Console) or Console()
            with ExitStack() as stack:
                stream = stack.enter_context(stdout_for_json()) if as_json else None
                console = Console(verbose or inherited.verbose, quiet or inherited.quiet, stream)
                if options is None:
                    guarded(console, functools.partial(body, console, **values))
                else:
                    guarded(console, functools.partial(_with_options, body, console, options, values))

        command = click.command(name, epilog=epilog or None)(run)
        if options is not None:
            command.params = [*command_line_options(options), *command.params]
        command.params.extend(_common_options(figures))
        return command

    return decorate


def _with_options(body: Body, console: Console, options: type[Options], values: dict[str, object]) -> None:
    chosen = from_command_line(options, values)
    body(console, chosen, **values)


def guarded(console: Console, body: Callable[[], None]) -> None:
    """Run a verb's body; whatever goes wrong becomes one line and an exit code."""
    try:
        with _sigterm_unwinds(), nullcontext() if console.verbose else _libraries_hushed():
            body()
    except (click.ClickException, click.exceptions.Exit, click.Abort):
        raise
    except SrkdError as error:
        _finish(console, str(error), error.exit_code)
    except BrokenPipeError:
        raise
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _finish(console, f"{where}{error.strerror or error}", 1)
    except Exception as error:  # noqa: BLE001
        if is_out_of_memory(error):
            _finish(console, "not enough memory: try smaller images, tiles or batches, or another device", 1)
        else:
            told = " ".join(f"{type(error).__name__}: {error}".split())
            _finish(console, f"internal error: {told}; rerun with -v for the traceback", 1)


@contextmanager
def _sigterm_unwinds() -> Iterator[None]:
    """SIGTERM ends a verb by way of its `finally`, so that temporary files go; the code is a shell's, 143. What handles
    the signal itself (a training, a server) goes on to do so."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    def end(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def _libraries_hushed() -> Iterator[None]:
    """Libraries warn their programmers; a user sees that only under -v."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _finish(console: Console, message: str, exit_code: int) -> None:
    if console.verbose:
        traceback.print_exc(file=sys.stderr)
    if message:
        console.error(message)
    raise click.exceptions.Exit(exit_code)


def _common_options(figures: bool) -> list[click.Parameter]:
    options: list[click.Parameter] = [
        click.Option(["-v", "--verbose"], is_flag=True, help="Say more; show the traceback of an error."),
        click.Option(["-q", "--quiet"], is_flag=True, help="Only results, warnings and errors."),
    ]
    if figures:
        help_text = "One JSON object on stdout, everything else on stderr."
        options.insert(0, click.Option(["--json", "as_json"], is_flag=True, help=help_text))
    return options
