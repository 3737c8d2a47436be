"""The command line: verbs in the order a user meets them, each loaded when it is needed."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

import click

from srkd import __version__
from srkd.console import Console

VERBS = ("compress", "export", "profile", "evaluate", "upscale", "inspect", "recipes", "convert", "demo", "doctor")
"""In the order a user meets them; `srkd/commands/VERB.py` holds each as `command`."""

SHELLS = ("bash", "zsh", "fish")


class Verbs(click.Group):
    """A group whose commands are imported on demand."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command: click.Command = import_module(f"srkd.commands.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in VERBS and not name.startswith("-") and not ctx.resilient_parsing:
            near = difflib.get_close_matches(name, VERBS, n=1, cutoff=0.5)
            guess = f"did you mean '{near[0]}'?" if near else f"the verbs are {', '.join(VERBS)}"
            ctx.fail(f"no verb {name!r}: {guess}")
        return super().resolve_command(ctx, args)


def _print_completion(ctx: click.Context, parameter: click.Parameter, shell: str | None) -> None:
    if shell is None or ctx.resilient_parsing:
        return
    from click.shell_completion import get_completion_class

    completion = get_completion_class(shell)
    if completion is None:
        ctx.fail(f"no completion for {shell!r}: one of {', '.join(SHELLS)}")
    click.echo(completion(cli, {}, "srkd", "_SRKD_COMPLETE").source())
    ctx.exit()


@click.group(
    cls=Verbs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Every verb has its own --help. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.",
)
@click.version_option(__version__, "--version", message="srkd %(version)s")
@click.option(
    "--completion",
    type=click.Choice(SHELLS),
    is_eager=True,
    expose_value=False,
    callback=_print_completion,
    help='Print a shell\'s completion script: eval "$(srkd --completion bash)".',
)
@click.option("-v", "--verbose", is_flag=True, help="Say more; show the traceback of an error.")
@click.option("-q", "--quiet", is_flag=True, help="Only results, warnings and errors.")
@click.pass_context
def cli(ctx: click.Context, verbose: bool, quiet: bool) -> None:
    """Compress image super-resolution networks, export them, and measure what came out."""
    ctx.obj = Console(verbose=verbose, quiet=quiet)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The console script: run and leave with 0 done, 1 failed, 2 wrong usage or 130 interrupted."""
    code = run(arguments)
    if os.environ.get("WORLD_SIZE", "1") != "1" and "torch" in sys.modules:
        from compressor.base.rank import leave

        leave(code)
    sys.exit(code)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a sign gets a question mark, not a failure.
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
            Console().error(_usage_line(error))
        return error.exit_code
    except click.ClickException as error:
        Console().error(error.format_message())
        return error.exit_code
    except BrokenPipeError:
        return 1  # The reader of our output has gone (`srkd ... | head`): nothing is left to say.


def _usage_line(error: click.UsageError) -> str:
    message = " ".join(error.format_message().split()).rstrip(".")
    command = error.ctx.command_path if error.ctx else "srkd"
    return f"{message} (see '{command} --help')"
