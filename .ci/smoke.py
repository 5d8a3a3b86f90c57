"""What a user does first, with whatever versions are installed and without a network. Usage: smoke.py CHECKOUT"""

import os
import signal
import socket
import sys
from importlib.metadata import version
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from PIL import Image

import cnnzoo
from cnnzoo import hub, train
from cnnzoo.cli import main
from cnnzoo.recipes import get_recipe
from cnnzoo.train import _loop

assert not Path(cnnzoo.__file__).is_relative_to(Path(sys.argv[1]).resolve()), f"{cnnzoo.__file__} is the checkout's"
real_connect = socket.socket.connect


def refuse(self, address):
    if isinstance(address, tuple):  # others are pipes between processes
        raise OSError(f"no network here, and something tried to use it: {address}")
    return real_connect(self, address)


socket.socket.connect = refuse
names = ("torch", "torchvision", "timm", "huggingface_hub", "accelerate", "onnx")
print(*(f"{name} {version(name)}" for name in names), sep=", ")


def command(line: str) -> None:
    print(f"$ cnnzoo {line}", flush=True)
    main(line.split(), standalone_mode=False)


# Two classes of noisy pictures, dark and light.
for part, count in (("train", 16), ("test", 8)):
    for label, low in (("dark", 30), ("light", 160)):
        folder = Path("pictures", part, label)
        folder.mkdir(parents=True)
        for i in range(count):
            Image.effect_noise((30, 32), 40).point(lambda v, low=low: v // 4 + low).save(folder / f"{i}.png")

command("list --pretrained")
command("demo")
command("predict pictures/test/dark/0.png --model lenet_tiny")

fields = dict(dataset="folder", pretrained=True, epochs=6, batch_size=8, warmup_epochs=0, whiten=False, dirac=False)
recipe = get_recipe("fast", "lenet_tiny", **fields)
update, done = _loop._update, []


def stopping(state, *args):
    done.append(1)
    if len(done) == 2:
        os.kill(os.getpid(), signal.SIGTERM)
    return update(state, *args)


_loop._update = stopping
try:
    train.train(recipe, "run", data_dir="pictures", device="cpu")
except SystemExit as e:
    assert e.code == 143, e.code
else:
    raise AssertionError("the run was told to stop, and did not")
_loop._update = update
top1 = train.train(recipe, "run", data_dir="pictures", device="cpu", resume=True)["top1"]
assert top1 > 90, top1  # int8 and bf16 files are held against it
print("a run was stopped, and resumed", flush=True)

folder = hub.build("run", "out")
hub.verify(folder)
command(f"verify {folder}")
command(f"twin {folder} rgb")
model = cnnzoo.create_model(f"local-dir:{folder}", pretrained=True)
images = torch.randint(0, 256, (4, 1, 28, 28), dtype=torch.uint8).numpy()
for path, kind, options in (
    ("x.pt2", "torch_export", {}),
    ("bf16.pt2", "torch_export", dict(dtype="bf16", data_dir="pictures")),
    ("y.pt2", "aoti", {}),
    ("z.onnx", "onnx", {}),
    ("int8.onnx", "onnx", dict(quantize="int8", data_dir="pictures")),
):
    cnnzoo.export(model, path, kind, **options)
    labels, probabilities = cnnzoo.load_exported(path)(images)
    assert len(labels) == 4 and set(labels) <= {"dark", "light"} and probabilities.shape == (4, 2)
    print(f"exported as {kind} to {path}, and opened again", flush=True)
print("all good")
