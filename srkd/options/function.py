"""The Python function of a verb: its keywords, signature and help are those of the verb's options."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from typing import ParamSpec, TypeVar, get_type_hints

from compressor.base.context import Context
from compressor.base.machine import let_forks_compute
from srkd.options.option import Options, OptionsT, declarations
from srkd.terminal.console import context_for_python

P = ParamSpec("P")
R = TypeVar("R")

let_forks_compute()


def public(
    keywords: Callable[P, object], options: type[OptionsT], run: Callable[[OptionsT, Context], R], name: str
) -> Callable[P, R]:
    """The Python function of a verb: `keywords` has its typed arguments, and `run` does the work with the options.

    For options in groups, `keywords` is the class that inherits from all of them; otherwise it is `options` itself.
    The function's docstring is that of `run` with a section that lists the arguments.
    """
    rows = (*declarations(options), *declarations(Options))
    signature = inspect.Signature(
        [
            inspect.Parameter(
                row.name,
                inspect.Parameter.POSITIONAL_OR_KEYWORD if row.is_positional else inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if row.is_required else row.default,
                annotation=row.field.annotation,
            )
            for row in rows
        ],
        return_annotation=get_type_hints(run, include_extras=True)["return"],
    )

    def function(*args: P.args, **kwargs: P.kwargs) -> R:
        given = options.of(**signature.bind(*args, **kwargs).arguments)
        with context_for_python(given.progress, given.announce) as context:
            return run(given, context)

    # The declarations are the only place where an option is named.
    function.__signature__ = signature  # type: ignore[attr-defined]
    function.__name__ = function.__qualname__ = name
    function.__module__ = run.__module__
    lines = []
    for row in rows:
        text = f"{row.name}: {row.help}" + (f" None: {row.option.unset}." if row.option.unset else "")
        lines.append(textwrap.fill(text, 100, initial_indent=" " * 4, subsequent_indent=" " * 8))
    function.__doc__ = "\n".join([inspect.cleandoc(run.__doc__ or ""), "", "Args:", *lines])
    return function
