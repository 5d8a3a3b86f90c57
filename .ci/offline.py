"""Runs `cnnzoo demo` and the README's Python example, with every connection refused. Usage: offline.py README.md"""

import re
import socket
import sys
import time
from pathlib import Path


def refuse(*args, **kwargs):
    raise OSError(f"no network here, and something tried to use it: {args[-1:]}")


for name in ("connect", "connect_ex"):
    setattr(socket.socket, name, refuse)
for name in ("getaddrinfo", "create_connection"):
    setattr(socket, name, refuse)

import timm  # noqa: E402, F401

began = time.process_time()
import cnnzoo  # noqa: E402

print(f"import cnnzoo takes {time.process_time() - began:.2f} s of processor time after import timm")
from cnnzoo.cli import main  # noqa: E402

assert not Path(cnnzoo.__file__).is_relative_to(Path(sys.argv[1]).resolve().parent), cnnzoo.__file__
assert "site-packages" in cnnzoo.__file__, cnnzoo.__file__
assert not list((Path(cnnzoo.__file__).parent / "hub_configs").glob("*.png")), "README's picture is in the wheel"

main(["demo"], standalone_mode=False)
assert Path("cnnzoo_demo.png").stat().st_size > 0

example = re.search(r"```python\n(.*?)```", Path(sys.argv[1]).read_text(encoding="utf-8"), re.DOTALL).group(1)
print(example)
exec(example)
