"""Command lines in processes of their own, as another user: `python apart.py USER < cases > outcomes`, JSON both.

The package is imported once, since that takes seconds; each command is a fork of this process that has become the user.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

NOBODY = 65534  # an id that no files belong to


class Outcome(NamedTuple):
    """How a command ended."""

    code: int
    stdout: str
    stderr: str


def run_apart(lines: list[list[str]], work: Path, *, user: int = NOBODY, **environment: str) -> list[Outcome]:
    """Runs each line of arguments of `cnnzoo` in the folder `work` as `user`, in turn.

    Args:
        lines: Arguments, without the program's name.
        work: The current folder of each.
        user: Its number.
        environment: Variables that are set, beside those of this process.
    """
    job = dict(lines=lines, work=str(work), user=user, environment=environment)
    started = [sys.executable, __file__]
    done = subprocess.run(started, input=json.dumps(job), stdout=subprocess.PIPE, text=True, timeout=900, check=True)
    return [Outcome(*one) for one in json.loads(done.stdout)]


def _outcome(line: list[str], job: dict) -> list:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if not child:
            _become(line, job, out.fileno(), err.fileno())
        _, status = os.waitpid(child, 0)
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read().decode())
        return [os.waitstatus_to_exitcode(status), *texts]


def _become(line: list[str], job: dict, out: int, err: int) -> None:
    """In the fork: takes the user's place, runs the command, and ends."""
    from cnnzoo.cli import main

    code = 70  # of what never came to an end of its own
    try:
        for number, target in ((os.open(os.devnull, os.O_RDONLY), 0), (out, 1), (err, 2)):
            os.dup2(number, target)
        os.chdir(job["work"])
        os.environ.update(job["environment"])
        os.setgroups([])
        os.setgid(job["user"])
        os.setuid(job["user"])
        sys.argv = ["cnnzoo", *line]
        main(line, prog_name="cnnzoo")
    except SystemExit as e:
        code = e.code or 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    # All that a command imports when it runs, since the user may not be allowed to read Python's own files.
    from PIL import Image

    import cnnzoo.bench
    import cnnzoo.cli
    import cnnzoo.exporting
    import cnnzoo.hub
    import cnnzoo.plots
    import cnnzoo.train

    cnnzoo.plots.grad_cam(cnnzoo.create_model("lenet_tiny", pretrained=True), Image.effect_noise((64, 64), 50))
    task = json.load(sys.stdin)
    found = [_outcome(one, task) for one in task["lines"]]
    json.dump(found, sys.stdout)
