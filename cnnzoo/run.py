"""`python -m cnnzoo.run SCRIPT ARGS...`: a script of somebody else's, such as timm's validate.py, with the zoo registered.

The script finds `sys.argv`, `sys.path` and `__main__` as if it had been started by `python SCRIPT ARGS...`.
"""

import runpy
import sys
from pathlib import Path

USAGE = "python -m cnnzoo.run SCRIPT ARGS..."


def main(arguments: list[str]) -> None:
    """Runs the script `arguments[0]` with the rest as its arguments, after `import cnnzoo`.

    Raises:
        SystemExit: With one line, where there is no such script; else what the script exits with.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"Usage: {USAGE}\n\nRuns a Python script with cnnzoo's models registered in timm.")
        sys.exit(0 if arguments else 2)
    script = Path(arguments[0])
    if not script.is_file():
        sys.exit(f"Error: {script} was given as a script, but it is not a file. Name one: {USAGE}")
    sys.argv = arguments
    # Python put the current folder there for `-m`, or nothing if it was told not to; a script has its own folder there.
    if not getattr(sys.flags, "safe_path", False):  # Python 3.10 has none
        sys.path[0] = str(script.resolve().parent)
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
