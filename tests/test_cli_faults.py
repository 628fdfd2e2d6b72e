"""What goes wrong around the command line costs one line and exit code 2, never a traceback and never exit code 1."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import jaxsoftmax
from jaxsoftmax import _startup, _terminal, cli, verify
from jaxsoftmax.verify._record import Report, Row

ROOT = Path(__file__).parents[1]
ERROR_OF_A_VERDICT = {0: 0.5, 1: 9.0}  # of 4 ulps, by exit code


@pytest.fixture
def here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return tmp_path


@pytest.fixture
def certify(monkeypatch):
    """Has certificates hold one row, with the error that is handed over."""

    def with_error(error):
        row = Row("M5", "softmax", "value", "mpmath, 50 digits", "jit", "float32", "ordinary", error, 4.0)
        report = Report("jaxsoftmax", ("softmax",), (), (row,), (), "cpu", {}, 1.0)
        monkeypatch.setattr(verify, "certify", lambda *arguments, **options: report)

    with_error(0.5)
    return with_error


@pytest.fixture
def closed_pipe():
    reader, writer = os.pipe()
    os.close(reader)
    with contextlib.suppress(BrokenPipeError), open(writer, "w") as stream:
        yield stream


@pytest.fixture
def full_device():
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    with contextlib.suppress(OSError), open("/dev/full", "w") as stream:
        yield stream


@pytest.fixture
def run(monkeypatch):
    """Runs the command line as a program, with stdout and stderr where they are given; returns its exit code."""

    def exit_code(*argv, **streams):
        for name in ("stdout", "stderr"):
            monkeypatch.setattr(sys, name, streams.get(name, getattr(sys, name)))
        for owner, name in ((sys, "argv"), (sys, "excepthook")):
            monkeypatch.setattr(owner, name, getattr(owner, name))
        sys.argv = ["jaxsoftmax", *argv]
        with pytest.raises(SystemExit) as left:
            cli.command()
        return left.value.code

    monkeypatch.setattr(cli.os, "_exit", sys.exit)
    handler = signal.getsignal(signal.SIGINT)
    yield exit_code
    signal.signal(signal.SIGINT, handler)


@pytest.mark.parametrize("argv", [["info"], ["--help"], ["--version"], ["bench", "--help"]])
def test_a_reader_who_has_gone_costs_no_line_and_no_code(run, closed_pipe, capsys, argv):
    assert run(*argv, stdout=closed_pipe) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("code", [0, 1])
def test_the_verdict_stands_where_its_reader_has_gone(run, certify, here, closed_pipe, capsys, code):
    certify(ERROR_OF_A_VERDICT[code])
    assert run("verify", "--json", "f.json", stdout=closed_pipe) == code
    assert capsys.readouterr().err == ""
    assert Path("f.json").exists()


@pytest.mark.parametrize("argv", [["info"], ["verify"], ["--help"], ["--version"]])
def test_a_full_device_is_told_in_one_line(run, certify, full_device, capsys, argv):
    assert run(*argv, stdout=full_device) == 2
    program = " ".join(["jaxsoftmax", *(word for word in argv if word[0] != "-")])
    assert capsys.readouterr().err == f"{program}: cannot write to stdout: No space left on device\n"


def test_what_a_module_has_printed_fails_no_later_than_the_certificate(run, certify, here, full_device, capsys):
    Path("prints.py").write_text("print('hello'); softmax = abs")
    assert run("verify", "--against", "prints", stdout=full_device) == 2
    assert capsys.readouterr().err == "jaxsoftmax verify: cannot write to stdout: No space left on device\n"


def test_a_stderr_that_fails_changes_no_exit_code(run, certify, full_device):
    assert run("--nonsense", stderr=full_device) == 2
    assert run("verify", stderr=full_device) == 0


def test_closed_streams_change_no_exit_code(run, certify):
    assert run("verify", stdout=None, stderr=None) == 0
    assert run("--nonsense", stdout=None, stderr=None) == 2


def test_a_module_that_closes_stdout_takes_no_verdict_away(run, certify, here, capsys):
    Path("closes_stdout.py").write_text("import sys; sys.stdout.close(); softmax = abs")
    assert run("verify", "--against", "closes_stdout") == 0
    assert capsys.readouterr().out.startswith("Certificate of closes_stdout\n")


RAISES = "class Error({base}):\n    def __str__(self):\n        {answer}\n"
ANY = "def __getattr__(name): raise Error"
HOSTILE = {
    "raises_at_import": "raise RuntimeError('two\\nlines')",
    "exits_at_import": "import sys; sys.exit('done')",
    "raises_base_exception": RAISES.format(base="BaseException", answer="return 'no'") + "raise Error",
    "raises_what_has_no_text": RAISES.format(base="Exception", answer="raise self") + "raise Error",
    "raises_what_has_no_string": RAISES.format(base="BaseException", answer="return 5") + "raise Error",
    "raises_at_attributes": RAISES.format(base="BaseException", answer="raise self") + ANY,
}


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("raises_at_import", "cannot import 'raises_at_import': RuntimeError: two lines"),
        ("exits_at_import", "cannot import 'exits_at_import': SystemExit: done"),
        ("raises_base_exception", "cannot import 'raises_base_exception': Error: no"),
        ("raises_what_has_no_text", "cannot import 'raises_what_has_no_text': Error: <exception str() failed>"),
        ("raises_what_has_no_string", "cannot import 'raises_what_has_no_string': Error: <exception str() failed>"),
        ("raises_at_attributes", "cannot read 'softmax': Error: <exception str() failed>"),
        ("raises_at_attributes:losses", "cannot read 'losses': Error: <exception str() failed>"),
    ],
)
def test_a_hostile_module_is_refused_in_one_line(here, capsys, module, line):
    name = module.partition(":")[0]
    Path(f"{name}.py").write_text(HOSTILE[name])
    assert cli.main(["verify", "--theorem", "M5", "--against", module]) == 2
    assert capsys.readouterr() == ("", f"jaxsoftmax verify: --against: {line}\n")


@pytest.mark.parametrize(
    ("path", "reason"), [("loop", "Too many levels of symbolic links"), ("n" * 300, "File name too long")]
)
def test_a_path_that_leads_nowhere_is_refused_before_the_run(here, capsys, path, reason):
    Path("loop").symlink_to("loop")
    assert cli.main(["verify", "--json", path]) == 2
    assert capsys.readouterr().err == f"jaxsoftmax verify: cannot write {path}: {reason}\n"
    assert [entry.name for entry in here.iterdir()] == ["loop"]


def test_a_full_device_is_told_before_the_run_and_keeps_no_part(here, capsys, monkeypatch):
    def write_nothing(path, content):
        path.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(_terminal.Path, "write_bytes", write_nothing)
    assert cli.main(["verify", "--json", "f"]) == 2
    assert capsys.readouterr().err == "jaxsoftmax verify: cannot write f: No space left on device\n"
    assert list(here.iterdir()) == []


@pytest.mark.skipif(not os.path.exists("/dev/fd"), reason="this system names no open files")
def test_a_file_that_is_a_pipe_may_lose_its_reader(certify, closed_pipe, capsys):
    assert cli.main(["verify", "--json", f"/dev/fd/{closed_pipe.fileno()}"]) == 0
    assert capsys.readouterr().err == ""


def test_a_package_that_is_broken_is_told_in_one_line(here, capsys, monkeypatch):
    Path("rich.py").write_text("raise ImportError('libc.so.0: no such file')")
    monkeypatch.syspath_prepend(here)
    monkeypatch.delitem(sys.modules, "rich")
    assert cli.main(["verify"]) == 2
    assert capsys.readouterr().err == "jaxsoftmax verify: cannot import rich: libc.so.0: no such file\n"


@pytest.mark.parametrize("error", [RuntimeError("a bug"), BaseException("a bug")])
def test_an_error_of_the_library_shows_its_traceback_and_exits_with_70(run, capsys, monkeypatch, error):
    def fail(*arguments):
        raise error

    monkeypatch.setattr(cli, "_info", fail)
    assert run("info") == 70
    assert capsys.readouterr().err.startswith("Traceback (most recent call last):\n")


def test_a_second_ctrl_c_is_no_traceback_either(run, capsys, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_info", interrupt)
    monkeypatch.setattr(cli, "_complain", interrupt)
    assert run("info") == 130
    assert capsys.readouterr().err == ""


def test_ctrl_c_that_python_drops_in_a_callback_comes_again():
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012, the interrupt comes during a sleep
        _startup._raise_again(SimpleNamespace(exc_type=KeyboardInterrupt))
        for _ in range(100):  # one long sleep would be waited for to its end
            time.sleep(0.1)


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT as a terminal does")
@pytest.mark.skipif(signal.getsignal(signal.SIGINT) is signal.SIG_IGN, reason="children inherit the ignored SIGINT")
def test_ctrl_c_while_jax_is_imported_costs_one_line():
    command = [sys.executable, "-X", "importtime", "-m", "jaxsoftmax", "info"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    while "jax.version" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    said = [line for line in process.communicate(timeout=60)[1].splitlines() if not line.startswith("import time:")]
    assert (process.returncode, said) == (130, ["jaxsoftmax: interrupted"])


def test_a_jax_that_cannot_be_imported_costs_one_line():
    command = [sys.executable, "-m", "jaxsoftmax", "info"]
    environment = os.environ | {"JAX_ENABLE_X64": "banana"}
    finished = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    assert (finished.returncode, finished.stdout, finished.stderr.count("\n")) == (2, "", 1)
    assert finished.stderr.startswith("jaxsoftmax: cannot be imported: ValueError: invalid truth value 'banana'")


@pytest.mark.parametrize(
    ("argv", "orig_argv", "is_program"),
    [
        (["/bin/jaxsoftmax", "info"], ["python", "/bin/jaxsoftmax", "info"], True),
        (["-m", "info"], ["python", "-X", "dev", "-m", "jaxsoftmax", "info"], True),
        (["-m"], ["python", "-m", "my_package", "jaxsoftmax"], False),  # it imports jaxsoftmax
        (["/bin/jaxsoftmax", "bench"], ["python", "-c", "from multiprocessing.spawn import spawn_main"], False),
        (["train.py", "jaxsoftmax"], ["python", "train.py", "jaxsoftmax"], False),
        ([""], ["python"], False),
        ([], [], False),
    ],
)
def test_startup_knows_the_program_from_others_that_import_the_package(argv, orig_argv, is_program):
    assert _startup._is_program(argv, orig_argv) == is_program


def test_importing_the_package_leaves_ctrl_c_and_errors_to_the_program():
    assert jaxsoftmax.__version__
    assert sys.excepthook is not _startup._failed
    assert sys.unraisablehook is not _startup._raise_again
    assert signal.getsignal(signal.SIGINT) is not _startup._interrupted
