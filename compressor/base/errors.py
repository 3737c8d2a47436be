"""Errors that a user can cause. Each is one line: what is wrong, where, the value, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import metadata


class SrkdError(Exception):
    """A failure that is shown to the user as one line; the command ends with `exit_code`."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        text = " ".join(message.split())
        # Control characters are escaped: a name from a file must not send commands to the terminal.
        super().__init__("".join(each if each.isprintable() else ascii(each)[1:-1] for each in text))


class TookTooLong(SrkdError):
    """A program had no result in the time that it was given."""


class UsageError(SrkdError):
    """An error in the command line or in a setting, found before any work was done."""

    exit_code = 2


class MissingExtra(SrkdError):
    """An optional dependency is not installed; the message holds the pip command."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} is not installed: {self.command(extra)}")

    @staticmethod
    def command(extra: str) -> str:
        """The pip command that installs `extra` and keeps the installed torch.

        Without the pin a newer torchvision of an extra replaces a CPU build of torch by one with gigabytes of CUDA.
        """
        try:
            return f"pip install 'srkd[{extra}]' torch=={metadata.version('torch')}"
        except metadata.PackageNotFoundError:
            return f"pip install 'srkd[{extra}]'"


class Unwritable(SrkdError):
    """A file that could not be written: a full disk, no permission, a broken disk."""

    def __init__(self, path: object, error: OSError) -> None:
        super().__init__(f"cannot write {path}: {error.strerror or error}")


def describe_os_error(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}"


@contextmanager
def report_unwritable(path: object) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unwritable(path, error) from error


@contextmanager
def report_unreadable(path: object) -> Iterator[None]:
    """Report as one line that a file cannot be read: no permission, a folder of that name, a broken disk."""
    try:
        yield
    except OSError as error:
        raise SrkdError(f"{path} cannot be read: {error.strerror or error}") from error


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if memory ran out: torch, ONNX Runtime and Python each report this differently."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    phrases = ("out of memory", "allocate memory", "not enough memory", "bad_alloc", "bad allocation")
    return any(phrase in str(error).lower() for phrase in phrases)


@contextmanager
def one_line(what: str, *, first: bool = False) -> Iterator[None]:
    """Turn any error of a library into one line: `what`, then the last line of its message (the first if `first`).

    Interpreters put the cause into the last line. Out of memory passes unchanged: tiling retries with smaller tiles.
    """
    try:
        yield
    except SrkdError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise SrkdError(f"{what}: {reason_of(error, first=first)}") from error


def reason_of(error: BaseException, *, first: bool = False) -> str:
    """Return the last (or first) line of an error's message, or the name of its type if the message is empty."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[0 if first else -1][:300]


def shorten(text: str, most: int = 60) -> str:
    """Return `text` cut to `most` characters, with "..." at the end if it was longer."""
    return text if len(text) <= most else text[: most - 3] + "..."


def nearest(name: str, names: Iterable[str]) -> str:
    """Return the end of an error message about an unknown name: the closest name, and all names."""
    names = list(names)
    matches = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {matches[0]!r}? " if matches else ""
    return f"{hint}there are {', '.join(names)}" if names else "there are none"
