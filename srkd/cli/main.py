"""The command line: a group of verbs that are imported when they are used."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

import click

from compressor.base.errors import nearest
from compressor.base.memory import collect_less_often, keep_freed_memory
from srkd import __version__
from srkd.cli.console_options import console_options
from srkd.terminal.console import Console, open_closed_streams
from srkd.terminal.package_names import hidden_package

VERBS = {
    "compress": "Train a student from a teacher with a recipe and write a run folder.",
    "plot": "Draw the curves of RUNs as a PNG picture.",
    "export": "Write MODEL in other formats, each compared with the network.",
    "hosts": "List the programs that srkd export --for writes for.",
    "profile": "Time MODELs beside their teacher, with cost, memory and quality.",
    "plan": "Find the largest student that meets a target on this machine.",
    "report": "Write RUNs as one HTML file with scores, speed and pictures.",
    "compare": "Compare the methods of RUNs, each over its seeds.",
    "evaluate": "Score models on benchmark images, and bicubic beside them.",
    "upscale": "Enlarge pictures, folders of pictures, films and globs with MODEL.",
    "inspect": "Show the network in MODEL, its cost, and what srkd assumed.",
    "data": "Show what a run would see of a folder of images.",
    "networks": "List the networks and their named sizes, with their cost.",
    "students": "List the students that come with srkd: what they follow, how well, how fast.",
    "recipes": "List, show, copy and check recipes.",
    "blend": "Write the network of a strength between two that were trained from one start.",
    "convert": "Write MODEL as a checkpoint of another code base.",
    "demo": "Show MODELs in an app that runs them in the browser.",
    "doctor": "Show what is installed, and how to get what is missing.",
}
"""The verbs in the order in which a user needs them, with help; `srkd/cli/verbs/VERB.py` holds each as `command`.

The texts are the first lines of their help: `srkd --help` shows them without importing the verbs.
"""


class Verbs(click.Group):
    """A group of commands that are imported on demand."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        obstacle = hidden_package()
        if obstacle is not None:
            raise click.ClickException(obstacle)
        command: click.Command = import_module(f"srkd.cli.verbs.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in VERBS and not name.startswith("-") and not ctx.resilient_parsing:
            ctx.fail(f"{name!r} is not a verb: {nearest(name, VERBS)}")
        return super().resolve_command(ctx, args)


@click.group(
    cls=Verbs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="MODEL is a file, a run folder, hf://OWNER/NAME or a name of `srkd students`. Every verb has its own "
    "--help. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.",
)
@click.version_option(__version__, "--version", message="srkd %(version)s")
@click.pass_context
def cli(ctx: click.Context, verbose: bool, quiet: bool) -> None:
    """Compress image super-resolution networks, export them, and measure the result."""
    ctx.obj = Console(verbose=verbose, quiet=quiet)


cli.params += console_options(json=False)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with 0 (done), 1 (failed), 2 (wrong usage) or 130 (interrupted)."""
    keep_freed_memory()
    collect_less_often()
    code = run(arguments)
    if os.environ.get("WORLD_SIZE", "1") != "1" and "torch" in sys.modules:
        from compressor.base.processes import exit_process

        exit_process(code)
    sys.exit(code)


def run(arguments: Sequence[str] | None = None) -> int:
    open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        # A terminal without a character shows a question mark instead of an error.
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")
    try:
        code = cli.main(args=None if arguments is None else list(arguments), prog_name="srkd", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except (click.Abort, KeyboardInterrupt):
        Console().error("interrupted")
        return 130
    except click.UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()
        else:
            message = " ".join(error.format_message().split()).rstrip(".")
            command = error.ctx.command_path if error.ctx else "srkd"
            Console().error(f"{message} (see '{command} --help')")
        return error.exit_code
    except click.ClickException as error:
        Console().error(error.format_message())
        return error.exit_code
    except BrokenPipeError:
        return 1  # the reader of the output has ended (`srkd ... | head`), so nothing can be printed
