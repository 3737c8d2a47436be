"""Common parts of all verbs: options, -v, -q, --json, and errors in one line."""

from __future__ import annotations

import functools
import logging
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib import import_module
from typing import Any

import click

from compressor.base.entry_points import package_at_fault
from compressor.base.errors import SrkdError, describe_os_error, is_out_of_memory
from compressor.base.interrupts import Ended, exit_on_signals
from srkd.cli.console_options import console_options
from srkd.options.command_line import from_command_line, parameters_of
from srkd.options.option import Options, declarations
from srkd.terminal.console import Console, stdout_for_data

Body = Callable[..., None]
"""Prints a verb's result: body(console, result); or does it all: body(console, options), and click options by name."""


class VerbCommand(click.Command):
    options: type[Options] | None = None

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options by group; a verb without groups has one section."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if isinstance(parameter, click.Option) and record is not None:
                sections.setdefault(getattr(parameter, "group", ""), []).append(record)
        others = sections.pop("", [])
        sections["output" if sections else ""] = others
        for group, records in sections.items():
            with formatter.section(f"{group} options".strip().capitalize()):
                formatter.write_dl(records)
        rare = sorted(parameter.opts[-1] for parameter in self.params if getattr(parameter, "hidden", False))
        if rare:
            with formatter.section(f"Rare options, explained by help(srkd.{self.name}) in Python"):
                formatter.write_text(", ".join(rare))


def verb(
    name: str,
    options: type[Options] | None = None,
    function: str = "",
    *,
    examples: Sequence[str] = (),
    csv: bool = False,
    rows: Callable[[Any], Iterable[object]] | None = None,
    latex: Callable[[Any], str] | None = None,
) -> Callable[[Body], click.Command]:
    """A decorator that makes a click command of a function.

    `function` is the dotted name of a function of srkd.api: it gets the object of `options`, and the decorated one
    prints its result, of which `rows` are for --csv and `latex` is the table for --latex. Without `function` the
    decorated one gets the object of `options`, and its own click options by name, and reports to the console; `csv`
    says that it has rows for --csv.
    """

    def decorate(body: Body) -> click.Command:
        @functools.wraps(body)
        def run(
            *, verbose: bool, quiet: bool, as_json: bool, as_csv: bool = False, as_latex: bool = False, **values: object
        ) -> None:
            takers = {"json": as_json, "csv": as_csv, "latex": as_latex}
            taking = [name for name, is_given in takers.items() if is_given]
            if len(taking) > 1:
                raise click.UsageError(f"--{taking[0]} and --{taking[1]} both take stdout: give one of them")
            inherited = click.get_current_context().find_object(Console) or Console()
            with stdout_for_data() if taking else nullcontext() as stream:
                console = Console(
                    verbose or inherited.verbose, quiet or inherited.quiet, data="".join(taking), stream=stream
                )

                def call() -> None:
                    arguments = () if options is None else (from_command_line(options, values),)
                    if not function:
                        body(console, *arguments, **values)
                        return
                    module, _, attribute = function.rpartition(".")
                    with console.context() as context:
                        result = getattr(import_module(module), attribute)(*arguments, context)
                    console.report(name, result, body, rows=rows, latex=latex)

                run_or_exit(console, call)

        command = click.command(name, cls=VerbCommand, epilog=format_examples(*examples))(run)
        command.options = options
        if options is not None:
            own = (parameter for row in declarations(options) for parameter in parameters_of(row))
            command.params = [*own, *command.params]
        command.params += console_options(json=True, csv=csv or rows is not None, latex=latex is not None)
        return command

    return decorate


def format_examples(*commands: str) -> str | None:
    """The end of a help text: command lines, which click must not wrap (`\\b`)."""
    return "\n".join(["Examples:\n\n\b", *(f"  {line}" for line in commands)]) if commands else None


def run_or_exit(console: Console, body: Callable[[], None]) -> None:
    """Run a verb's body; an error becomes one line and an exit code."""
    try:
        with exit_on_signals(), nullcontext() if console.verbose else _quiet_libraries():
            body()
    except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError, Ended):
        raise
    except (Exception, SystemExit) as error:  # a method of the user's own may call sys.exit(0)
        if console.verbose:
            traceback.print_exc(file=sys.stderr)
        message, code = (str(error), error.exit_code) if isinstance(error, SrkdError) else (_describe_error(error), 1)
        if message:
            console.error(message)
        raise click.exceptions.Exit(code) from error


def _describe_error(error: Exception | SystemExit) -> str:
    package = package_at_fault(error)
    if package is not None:
        return f"{package}; rerun with -v for the traceback"
    if isinstance(error, OSError):
        return describe_os_error(error)
    if is_out_of_memory(error):
        return "not enough memory: try smaller images, tiles or batches, or another device"
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    return f"internal error: {reason}; rerun with -v for the traceback"


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Silence the warnings of libraries, which are for developers; -v shows them."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
