"""What the operating system refuses, and what Ctrl-C ends, is one line; nothing but files is replaced."""

import errno
import functools
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from hub_helpers import fault
from safetensors.torch import save_file

import cnnzoo
from cnnzoo import checkpoints, data, hub
from cnnzoo.cli import main
from cnnzoo.errors import CnnzooError, from_system, system_errors
from cnnzoo.files import atomic, write_json

LONG = "n" * 300  # bytes; no file system of today takes more than 255
COMMAND = [sys.executable, "-m", "cnnzoo"]


def run(*args, code=1):
    result = CliRunner().invoke(main, [str(a) for a in args])
    assert result.exit_code == code, (result.output, result.exception)
    assert len(result.stderr.splitlines()) <= 1
    return result


# -- only files are replaced ----------------------------------------------------------------------------------------------


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(str(path))


def make_device(path):
    try:
        os.mknod(path, 0o600 | 0o020000, os.makedev(1, 3))  # another /dev/null
    except OSError:
        pytest.skip("this user may not make a device")


KINDS = dict(pipe=os.mkfifo, socket=make_socket, folder=os.mkdir, device=make_device)


@fault("the name of an output is a pipe, a socket, a device or a folder", "an error; it is not replaced")
@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_is_not_replaced(tmp_path, monkeypatch, kind, linked):
    monkeypatch.chdir(tmp_path)  # the name of a socket must be short
    KINDS[kind]("thing")
    before = os.stat("thing")
    if linked:
        os.symlink("thing", "link")
    with pytest.raises(CnnzooError, match=f"is a {kind}; only a file can be replaced"):
        write_json("link" if linked else "thing", {})
    assert os.stat("thing").st_mode == before.st_mode
    assert sorted(os.listdir()) == ["link", "thing"][1 - linked :]


def test_demo_does_not_replace_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "sheet.png")
    assert "is a pipe" in run("demo", "--model", "lenet_tiny", "--sheet", tmp_path / "sheet.png").stderr
    assert (tmp_path / "sheet.png").is_fifo()


def test_a_link_to_a_file_stays_a_link(tmp_path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to("file")
    write_json(tmp_path / "link", {"new": 1})
    assert (tmp_path / "link").is_symlink() and "new" in (tmp_path / "file").read_text()


# -- what the system refuses ----------------------------------------------------------------------------------------------

WRITERS = dict(
    torch=lambda path: torch.save({str(i): torch.zeros(50_000) for i in range(40)}, path),
    safetensors=lambda path: save_file(dict(a=torch.zeros(1_000_000)), path),
    python=lambda path: path.write_bytes(bytes(4_000_000)),
)


@fault("the disk is full while anything is written", "one line; the old file is as it was, and nothing half-written stays")
@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_said_in_one_line_whichever_library_writes(tmp_path, writer):
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=700k", "none", place], capture_output=True).returncode:
        pytest.skip("this user may not mount a disk of 700 kB")
    try:
        with pytest.raises(CnnzooError, match="could not be written .* Free some space") as caught:
            with atomic(place / "file") as temporary:
                WRITERS[writer](temporary)
        assert len(str(caught.value).splitlines()) == 1
        assert os.listdir(place) == []
    finally:
        subprocess.run(["umount", "-l", place], check=True)  # torch may still hold its half file


NAMED = [
    ["predict", LONG], ["predict", f"{LONG}/x.png", "--model", f"local-dir:{LONG}"], ["verify", LONG], ["measure", LONG],
    ["build", LONG], ["push", LONG, "a/b"], ["export", "lenet_tiny", f"{LONG}.pt2"], ["plot", "curves", LONG],
    ["plot", "features", "lenet_tiny", LONG], ["demo", "--model", "lenet_tiny", "--sheet", LONG],
    ["eval", "lenet_tiny", "--data-dir", LONG], ["eval", "lenet_tiny", "--data-dir", "~nosuchuser/x"],
    ["train", "lenet_tiny", "--out", "x", "--data-dir", "~nosuchuser"],
    ["train", "lenet_tiny", "--out", "x", "--data-dir", LONG],
]  # fmt: skip


@fault("a name of over 255 bytes, `~nosuchuser`, no permission", "one line that names it")
@pytest.mark.parametrize("args", NAMED, ids=lambda args: " ".join(a[:12] for a in args))
def test_names_that_the_system_refuses_are_one_short_line(args, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(*args)
    assert len(result.stderr) < 700 and result.stderr.startswith("Error: ")
    assert os.listdir() == []


def test_functions_of_the_package_name_what_the_system_refuses_too(tmp_path):
    for function in (
        lambda: cnnzoo.load_exported(LONG),
        lambda: cnnzoo.export("lenet_tiny", f"{tmp_path}/{LONG}.pt2"),
        lambda: hub.verify(LONG),
        lambda: hub.measure(LONG),
        lambda: data.load_split(data_dir="~nosuchuser"),
        lambda: checkpoints.read_json(Path(LONG)),
    ):
        with pytest.raises(CnnzooError):
            function()


def test_every_refusal_names_the_path_the_reason_and_a_way_out():
    for number in (errno.EACCES, errno.ENAMETOOLONG, errno.ENOSPC, errno.EMFILE, errno.EIO):
        text = str(from_system(OSError(number, os.strerror(number), "some/place")))
        assert "some/place" in text and os.strerror(number) in text and text.count(". ") == 1
    with pytest.raises(CnnzooError, match="two.nlines"), system_errors():
        open("two\nlines/x")


# -- streams and signals, in processes of their own -------------------------------------------------------------------------


@fault("standard output or standard error is closed or full", "exit code 0 or 1; no traceback")
def test_a_closed_or_full_stream_changes_no_exit_code_to_a_traceback(tmp_path):
    def shell(command):
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=tmp_path, timeout=600)
        return done.returncode, done.stdout, done.stderr

    python = f"{sys.executable} -m cnnzoo"
    assert shell(f"{python} info nope 2>/dev/full")[0] == 1
    assert shell(f"{python} info nope 2>&-")[0] == 1
    assert shell(f"{python} info lenet_tiny 2>&-")[0] == 0
    code, _, stderr = shell(f"{python} info lenet_tiny >/dev/full")
    assert code == 1 and len(stderr.splitlines()) == 1 and "No space left" in stderr
    assert os.listdir(tmp_path) == []


def started_command(*args):
    """A command that has got as far as to import torch."""
    if not sys.platform.startswith("linux"):
        pytest.skip("how far a process is can be seen on Linux only")
    started = subprocess.Popen(
        [*COMMAND, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a background job ignores it
    )  # fmt: skip
    while f"{os.sep}torch" not in Path(f"/proc/{started.pid}/maps").read_text():
        time.sleep(0.01)
    return started


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("seconds", [0.3, 0.8, 1.5, 3, 6])
def test_control_c_is_one_line_and_130_from_the_first_moment(tmp_path, seconds, fashion_mnist_dir):
    started = started_command("train", "resnext_small", "--out", tmp_path / "run", "--data-dir", fashion_mnist_dir)
    time.sleep(seconds)
    started.send_signal(signal.SIGINT)
    _, stderr = started.communicate(timeout=600)
    assert started.returncode == 130, stderr
    assert "Traceback" not in stderr and stderr.splitlines()[-1].startswith("Error: stopped")


def test_control_c_while_the_package_is_imported_is_one_line_and_130():
    started = started_command("list")
    started.send_signal(signal.SIGINT)
    _, stderr = started.communicate(timeout=600)
    assert (started.returncode, stderr) == (130, "Error: stopped by Ctrl-C.\n")


@fault("SIGTERM, in a command", "exit code 143; nothing half-written stays, and a run holds its state")
def test_sigterm_in_a_command_undoes_what_was_begun(tmp_path):
    code = """if True:
        import sys, time
        sys.argv = ["cnnzoo", "summary", "lenet_tiny"]
        from cnnzoo import files, registry
        from cnnzoo.cli import main

        def begin(*args, **kwargs):
            with files.atomic("file"):
                print("begun", flush=True)
                time.sleep(600)

        registry.create_model = begin
        main(prog_name="cnnzoo")
    """
    kwargs = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    with subprocess.Popen([sys.executable, "-c", code], **kwargs) as started:
        assert started.stdout.readline() == "begun\n" and len(os.listdir(tmp_path)) == 1
        started.terminate()
        _, stderr = started.communicate(timeout=600)
    assert (started.returncode, stderr, os.listdir(tmp_path)) == (143, "", [])


@fault("Ctrl-C, in a command or while it starts", "one line, exit code 130")
def test_control_c_in_a_command_is_one_line_and_130(monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("cnnzoo.registry.create_model", interrupted)
    assert run("summary", "lenet_tiny", code=130).stderr == "Error: stopped by Ctrl-C.\n"


def test_who_only_imports_the_package_keeps_the_usual_answer_to_control_c():
    code = "import signal, cnnzoo; assert signal.getsignal(signal.SIGINT) is signal.default_int_handler"
    usual = functools.partial(signal.signal, signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    subprocess.run([sys.executable, "-c", code], check=True, preexec_fn=usual)
