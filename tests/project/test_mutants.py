"""The random changes of benchmarks/mutants.py: each changes only what a file computes."""

from __future__ import annotations

import ast

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
