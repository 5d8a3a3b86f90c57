"""Writes the page as a Space, starts it as Hugging Face does, and asks it for the name of a drawing. Usage: space.py"""

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import httpx

import cnnzoo
from cnnzoo.cli import main
from cnnzoo.drawings import garments

assert "site-packages" in cnnzoo.__file__, cnnzoo.__file__
main(["app", "--space", "space"], standalone_mode=False)
print((Path("space") / "README.md").read_text(encoding="utf-8"))
# Where this says "spaces", Gradio also begins to reload what changes. That needs a package that Hugging Face installs;
# here it ends in a thread of its own, with a message.
hosted = dict(SYSTEM="spaces", SPACE_ID="somebody/garments", GRADIO_SERVER_NAME="0.0.0.0", HF_HUB_OFFLINE="1")
started = subprocess.Popen([sys.executable, "app.py"], cwd="space", env=dict(os.environ, **hosted))
try:
    http = httpx.Client(base_url="http://127.0.0.1:7860", timeout=60, trust_env=False)
    deadline = time.monotonic() + 300
    while True:
        try:
            config = http.get("/config").json()
            break
        except httpx.TransportError:
            assert started.poll() is None and time.monotonic() < deadline, "the Space does not start"
            time.sleep(0.5)
    kinds = {c["id"]: c["type"] for c in config["components"]}
    needs = ["image", "dropdown", "checkbox"]
    question = next(d for d in config["dependencies"] if [kinds[i] for i in d["inputs"]] == needs)
    garments()["Bag"].save(file := io.BytesIO(), "PNG")
    (path,) = http.post("/gradio_api/upload", files=dict(files=("bag.png", file.getvalue()))).json()
    picture = dict(path=path, meta=dict(_type="gradio.FileData"))
    asked = dict(data=[picture, "resnext_small", False], fn_index=question["id"], session_hash="ci")
    assert http.post("/gradio_api/queue/join", json=asked).status_code == 200
    with http.stream("GET", "/gradio_api/queue/data", params=dict(session_hash="ci")) as lines:
        messages = (json.loads(line.removeprefix("data:")) for line in lines.iter_lines() if line.startswith("data:"))
        done = next(m for m in messages if m["msg"] == "process_completed")
    assert "<h2 role='status'>Bag</h2>" in done["output"]["data"][1], done
    print("The Space, started from the wheel, names the drawing of a bag.")
finally:
    started.terminate()
    started.wait(60)
