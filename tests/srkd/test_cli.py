"""The common parts of the command line: speed, help, exit codes, errors, signals, completion, JSON."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest

import srkd as api
from compressor.base.errors import SrkdError, UsageError
from srkd.cli.main import VERBS, cli, run
from srkd.cli.verb import run_or_exit
from srkd.options.values import BYTES, DEVICE, SETTING, SIZE, SIZES, parse_setting
from srkd.terminal.console import Console
from tests.support.commands import ROOT, python, srkd

HEAVY = ("torch", "numpy", "onnx", "onnxruntime", "rich", "pydantic", "PIL")


def test_help_lists_the_verbs_in_order() -> None:
    shown = srkd("--help").out
    positions = [shown.index(f"\n  {verb} ") for verb in VERBS]
    assert positions == sorted(positions)


@pytest.mark.ci
def test_help_loads_nothing_heavy() -> None:
    """One process prints every help: what one of them imported would still be there after the others.

    pydantic checks the options of verbs; `srkd --help` shows none.
    """
    program = (
        "import sys\nfrom srkd.cli.main import run\n"
        f"for words in {[['--help'], ['--version'], *([verb, '--help'] for verb in VERBS)]!r}:\n"
        f"    print('LOADED', words[0], run(words), *[m for m in {HEAVY!r} if m in sys.modules])"
    )
    lines = [line.split() for line in python("-c", program).out.splitlines() if line.startswith("LOADED")]
    assert lines[:2] == [["LOADED", word, "0"] for word in ("--help", "--version")]
    assert lines[2:] == [["LOADED", word, "0", "pydantic"] for word in VERBS]


def test_importing_the_api_loads_nothing_heavy() -> None:
    outcome = python("-c", f"import sys, srkd; dir(srkd); print([m for m in {HEAVY!r} if m in sys.modules])")
    assert outcome.out.strip() == "[]"


def test_every_public_name_exists() -> None:
    for name in api.__all__:
        assert getattr(api, name) is not None
    assert set(api.__all__) <= set(dir(api))
    # Importing a package of that name would replace the function.
    assert not {path.stem for path in (ROOT / "srkd").iterdir()} & set(api.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'distil'"):
        _ = api.distil  # type: ignore[attr-defined]


def test_the_version_is_declared_once() -> None:
    assert srkd("--version").out.strip() == f"srkd {api.__version__}"
    text = (ROOT / "pyproject.toml").read_text()
    assert 'dynamic = ["version"]' in text and f'"{api.__version__}"' not in text


def test_every_verb_has_the_common_options() -> None:
    for verb, line in VERBS.items():
        command = cli.get_command(click.Context(cli), verb)
        assert command is not None and command.help
        assert command.get_short_help_str(limit=200) == line, "srkd --help shows its first line"
        for action in command.commands.values() if isinstance(command, click.Group) else [command]:
            names = {option for parameter in action.params for option in parameter.opts}
            assert action.help and {"-v", "-q", "--verbose", "--quiet", "--json"} <= names


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["evaluat"], "did you mean 'evaluate'?"),
        (["evaluate", "--dta", "x"], "--data"),
        (["frobnicate"], "there are compress, plot, export"),
        (["evaluate", "x", "--device", "tpu"], "cpu, cuda"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    output = capsys.readouterr()
    assert output.out == "" and len(output.err.splitlines()) == 1
    assert expected in output.err


@pytest.mark.parametrize(
    ("raised", "code", "line"),
    [
        (SrkdError("x.pt: not a checkpoint"), 1, "srkd: x.pt: not a checkpoint"),
        (UsageError("width=2 is outside (0, 1]"), 2, "srkd: width=2"),
        (KeyError("k"), 1, "srkd: internal error: KeyError: 'k'; rerun with -v for the traceback"),
        (SystemExit(0), 1, "srkd: internal error: SystemExit: 0"),
        (MemoryError(), 1, "srkd: not enough memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), 1, "srkd: not enough memory"),
    ],
)
def test_errors_become_one_line(
    raised: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def body() -> None:
        raise raised

    for verbose in (False, True):
        with pytest.raises(click.exceptions.Exit) as exit_error:
            run_or_exit(Console(verbose=verbose), body)
        assert exit_error.value.exit_code == code
        lines = capsys.readouterr().err.splitlines()
        assert lines[-1].startswith(line) and ("Traceback" in lines[0]) == verbose
        assert verbose or len(lines) == 1


def test_a_closed_pipe_is_not_an_error_message() -> None:
    shell = f"{sys.executable} -m srkd hosts | true"
    done = subprocess.run(["bash", "-c", shell], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr == ""


@pytest.mark.ci
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&- <&-"])
def test_a_stream_that_the_caller_closed_is_no_mistake(closed: str) -> None:
    shell = f"{sys.executable} -m srkd networks --json {closed}"
    done = subprocess.run(["bash", "-c", shell], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "") and bool(done.stdout) == (closed == "2>&-")


@pytest.mark.ci
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
@pytest.mark.parametrize("option", ["", "--json"])
def test_a_full_disk_is_one_line(option: str) -> None:
    """/dev/full is always full; the program must not write again at exit."""
    program = (
        "from srkd.cli.verb import verb\nfrom srkd.cli import main as cli\n@verb('tell')\ndef tell(console):\n"
        "    'Tell.'\n"
        "    console.report('tell', {}, lambda console, _: console.result('x'))\n"
        "cli.cli.get_command = lambda ctx, name: tell\ncli.VERBS = ('tell',)\n"
        f"cli.main(['tell', *{[option] if option else []!r}])\n"
    )
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (1, "srkd: No space left on device\n")


@pytest.mark.ci
def test_completion() -> None:
    names = {"COMP_WORDS": "srkd ", "COMP_CWORD": "1", "_SRKD_COMPLETE": "bash_complete"}
    program = "import sys; sys.argv = ['srkd']; from srkd.cli.main import main; main()"
    completions = python("-c", program, **names)
    assert all(verb in completions.out for verb in VERBS)


@pytest.mark.ci
def test_json_keeps_stdout_for_itself() -> None:
    program = (
        "import os, subprocess\nfrom srkd.cli import main as cli\nfrom srkd.cli.verb import verb\n"
        "from srkd.terminal.tables import Table\n"
        "@verb('noisy')\ndef noisy(console):\n    'Be noisy.'\n    print('from Python')\n"
        "    os.write(1, b'from C\\n')\n    subprocess.run(['echo', 'from a child'])\n    console.say('a line')\n"
        "    console.table(Table(['a'], [['1']]))\n"
        "    console.report('noisy', {'value': float('inf'), 'size': (1, 2)}, print)\n"
        "cli.cli.get_command = lambda ctx, name: noisy\ncli.VERBS = ('noisy',)\ncli.main(['noisy', '--json'])\n"
    )
    outcome = python("-c", program)
    assert outcome.code == 0
    document = outcome.json
    assert list(document) == ["schema", "value", "size", "machine"]
    assert (document["schema"], document["value"], document["size"]) == ("srkd.noisy/1", None, [1, 2])
    assert {"cpu", "physical_cores", "logical_cores", "torch_threads", "os", "python", "torch", "gpu"} <= set(
        document["machine"]
    )
    for line in ("from Python", "from C", "from a child", "a line"):
        assert line in outcome.err


def test_parameters() -> None:
    assert SIZE.read("320x180") == (320, 180)
    assert SIZES.read("64x64,320x180,64x64") == ((64, 64), (320, 180))
    assert parse_setting("res_scale=0.1") == ("res_scale", 0.1)
    assert parse_setting("a=true") == ("a", True)
    assert parse_setting("a=b=c") == ("a", "b=c")
    assert SIZE.read((3, 2)) == (3, 2)
    for word in ("cpu", "cuda", "cuda:1", "mps", "openvino:GPU.1"):
        assert DEVICE.read(word) == word
    bad_devices = [(DEVICE, word) for word in ("gpu", "cuda:", "cuda:x", "cpu:0", "mps:1", "openvino:TPU")]
    for kind, bad in [(SIZE, "320"), (SIZE, "0x5"), (SIZES, "1x1,"), (SETTING, "x"), (BYTES, "lots"), *bad_devices]:
        with pytest.raises(UsageError, match=re.escape(repr(bad.split(",")[-1]))):
            kind.read(bad)


@pytest.mark.parametrize("module", ["compressor.base.errors", "click", "srkd.cli.main", "srkd.terminal.console"])
def test_ctrl_c_while_the_command_is_imported_is_one_line(module: str) -> None:
    stopped = python(
        "-c",
        "import os, signal, sys\n"
        "class Stop:\n"
        "    def find_spec(self, name, path, target=None):\n"
        f"        if name == {module!r}: os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Stop())\n"
        "from srkd.__main__ import main\n"
        "main()\n",
    )
    assert (stopped.code, stopped.out, stopped.err) == (130, "", "srkd: interrupted\n")


ENDLESS = """
import signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a program in the background ignores it
from srkd.terminal.console import Console
from srkd.cli.verb import run_or_exit

def body():
    try:
        print('busy', flush=True)
        time.sleep(60)
    finally:
        print('cleaned', flush=True)

try:
    run_or_exit(Console(), body)
except KeyboardInterrupt:
    raise SystemExit(130)
"""


@pytest.mark.ci
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_it_through_its_finally_blocks(number: signal.Signals, code: int) -> None:
    environment, pipe = {**os.environ, "PYTHONPATH": str(ROOT)}, subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", ENDLESS], env=environment, stdout=pipe, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "busy\n"
        process.send_signal(number)
        assert process.communicate(timeout=20)[0].split() == ["cleaned"]
        assert process.returncode == code
