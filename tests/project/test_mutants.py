"""The changes of benchmarks/mutants.py are of what a file computes; those of break_on_purpose.py still apply."""

from __future__ import annotations

import ast

from benchmarks.break_on_purpose import BREAKS, outcome
from benchmarks.mutants import CORE, ROOT, mutants_of, mutated

SOURCE = '''
def f(x: int = 1) -> int:
    """The number 7."""
    if not x >= 2:
        raise ValueError(f"{x + 1}")
    return -x * 3 + 1
'''
EXPECTED = {
    "1 becomes 2": {"x: int=2", "-x * 3 + 2"},
    "Not is left out": {"if x >= 2"},
    "GtE becomes Gt": {"not x > 2"},
    "2 becomes 3": {"not x >= 3"},
    "USub is left out": {"return x * 3 + 1"},
    "Mult becomes Add": {"-x + 3 + 1"},
    "3 becomes 4": {"-x * 4 + 1"},
    "Add becomes Sub": {"-x * 3 - 1"},
}


def test_each_change_is_one_of_what_is_computed() -> None:
    plain = ast.unparse(ast.parse(SOURCE))
    texts: dict[str, set[str]] = {}
    for mutant in mutants_of("f.py", SOURCE):
        text = mutated(SOURCE, mutant)
        assert text != plain and "The number 7." in text and "{x + 1}" in text
        texts.setdefault(mutant.change, set()).add(text)
    assert texts.keys() == EXPECTED.keys()
    for change, parts in EXPECTED.items():
        assert all(any(part in text for text in texts[change]) for part in parts) and len(texts[change]) == len(parts)


def test_the_files_of_the_core_and_their_tests_exist() -> None:
    for file, tests in CORE.items():
        source = (ROOT / file).read_text(encoding="utf-8")
        mutants = list(mutants_of(file, source))
        assert mutants and all((ROOT / "tests" / name).is_file() for name in tests.split()), file
        ast.parse(mutated(source, mutants[0]))


def test_every_text_to_replace_exists_and_so_do_the_tests_that_must_fail() -> None:
    for change in BREAKS:
        text = (ROOT / change.file).read_text(encoding="utf-8")
        assert change.old in text and text.replace(change.old, change.new, 1) != text, change.what
        assert change.tests and all((ROOT / "tests" / name).is_file() for name in change.tests), change.what


def test_every_loss_of_a_method_has_a_break() -> None:
    broken = {change.file for change in BREAKS}
    assert {f"recipes/methods/{name}.py" for name in ("lfd", "facd", "ds", "fakd", "hkdsr", "dukd", "dckd")} <= broken
    assert {f"recipes/terms/{name}.py" for name in ("gating", "contrast", "perceptual")} <= broken
    assert len({change.what for change in BREAKS}) == len(BREAKS)


def test_failures_are_counted_and_the_first_is_named() -> None:
    output = "FAILED tests/a.py::test_b - assert 1 == 2\nERROR tests/c.py\n1 failed, 3 passed, 1 error in 2.0s\n"
    assert outcome(1, output) == {"failed": 2, "passed": 3, "first": "a.py::test_b"}
    assert outcome(0, "4 passed in 1.0s") == {"failed": 0, "passed": 4, "first": ""}
    assert outcome(2, "no tests ran") == {"failed": 1, "passed": 0, "first": "exit 2"}
