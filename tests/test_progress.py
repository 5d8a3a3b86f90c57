"""What is shown of work that takes a while, on a terminal and elsewhere."""

import io
import sys

import pytest

from cnnzoo import progress as module
from cnnzoo.progress import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True, scope="module")
def no_lines_of_progress():
    """Here they are what is tested."""


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(module, "_EVERY", 0.0)


def test_without_a_terminal_there_is_a_line_now_and_then(impatient, capsys):
    assert list(progress("abc", "reading")) == ["a", "b", "c"]
    assert capsys.readouterr().err == "reading: 0 of 3\nreading: 1 of 3\nreading: 2 of 3\n"


def test_what_is_done_soon_says_nothing_without_a_terminal(capsys):
    assert list(progress(iter("abc"), "reading", total=3)) == ["a", "b", "c"]
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_there_is_a_bar(impatient, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert list(progress("abc", "reading")) == ["a", "b", "c"]
    assert "reading:" in sys.stderr.getvalue() and "0/3" in sys.stderr.getvalue()


class Full(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError("No space left on device")


@pytest.mark.parametrize("stderr", [Full(), None], ids=["full", "closed"])
def test_work_goes_on_when_nobody_can_read_the_lines(impatient, monkeypatch, capsys, stderr):
    monkeypatch.setattr(sys, "stderr", stderr)
    assert sum(progress(range(4), "adding")) == 6
    assert capsys.readouterr().out == ""
