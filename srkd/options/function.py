"""The Python function of a verb: its keywords, signature and help are those of the verb's options."""

from __future__ import annotations

import dataclasses
import inspect
import textwrap
from collections.abc import Callable
from typing import ParamSpec, TypeVar, get_type_hints

from compressor.base.context import Context
from compressor.base.errors import SrkdError, UsageError, describe_os_error
from compressor.base.machine import let_forks_compute
from srkd.options.option import CALLBACKS, OptionsT, declarations
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
    rows = declarations(options)
    older_names = {flag.lstrip("-").replace("-", "_"): row.name for row in rows for flag in row.option.aliases}

    def function(*args: P.args, **kwargs: P.kwargs) -> R:
        for older in older_names.keys() & kwargs.keys():
            if (newer := older_names[older]) in kwargs:
                raise UsageError(f"{older} is the older name of {newer}, and both are given: leave {older} out")
            kwargs[newer] = kwargs.pop(older)
        given = options.of(*args, **kwargs)
        with context_for_python(given.progress, given.announce) as context:
            try:
                return run(given, context)
            except OSError as error:
                raise SrkdError(describe_os_error(error)) from error

    positional, keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    callbacks = inspect.signature(options).parameters
    parameters = [
        inspect.Parameter(
            row.name,
            positional if row.is_positional else keyword,
            default=inspect.Parameter.empty if row.default is dataclasses.MISSING else row.default,
            annotation=row.annotation,
        )
        for row in rows
    ]
    hints = get_type_hints(options, localns={"KW_ONLY": object})
    parameters += [callbacks[each].replace(annotation=hints[each]) for each in CALLBACKS]
    returned = get_type_hints(run, include_extras=True)["return"]
    # The signature is made from the declarations: they are the only place where an option is named.
    vars(function)["__signature__"] = inspect.Signature(parameters, return_annotation=returned)
    function.__name__ = function.__qualname__ = name
    function.__module__ = run.__module__
    function.__annotations__ = {**{each.name: each.annotation for each in parameters}, "return": returned}
    unset = {row.name: f" None: {row.option.unset}." if row.option.unset else "" for row in rows}
    texts = {row.name: row.option.help + unset[row.name] for row in rows} | CALLBACKS
    lines = [
        textwrap.fill(f"{each}: {text}", 100, initial_indent=" " * 4, subsequent_indent=" " * 8)
        for each, text in texts.items()
    ]
    function.__doc__ = "\n".join([inspect.cleandoc(run.__doc__ or ""), "", "Args:", *lines])
    return function
