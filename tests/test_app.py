"""The page: what it says of pictures, and that strangers can do no harm. In a browser: test_app_browser.py."""

import concurrent.futures
import io
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image, ImageDraw, ImageOps

import cnnzoo
from cnnzoo import app, checkpoints, data
from cnnzoo.app._answers import LIMITS, NOTHING, PICTURE, SKETCH, answer
from cnnzoo.app._models import Loaded, Models, facts
from cnnzoo.app._page import _facts
from cnnzoo.cli import main
from cnnzoo.drawings import garments
from cnnzoo.errors import CnnzooError, InputError, UnknownNameError

MODEL = "lenet_tiny"
MINE = checkpoints.folder(f"{MODEL}.fashion_mnist")  # a checkpoint's folder, as one of somebody's own


def name_in(html: str) -> str | None:
    """The label that the page's answer gives."""
    found = re.search(r"<h2 role='status'>(.*?)</h2>", html)
    return found and found[1]


def message_in(html: str) -> str:
    found = re.search(r"<div class='message error' role='alert'><p>(.*?)</p></div>", html)
    assert found, html[:300]
    return found[1]


@pytest.fixture(scope="module")
def models():
    return Models(MODEL)


@pytest.fixture
def bag(tmp_path):
    garments()["Bag"].save(tmp_path / "bag.png")
    return str(tmp_path / "bag.png")


# -- answers ---------------------------------------------------------------------------------------------------------------


def test_the_page_offers_every_checkpoint_and_begins_with_the_model_that_was_named(models):
    assert models.first == MODEL
    named = {re.escape(name) for name in models.names}
    assert all(name.split(".")[0] in named or re.escape(name) in named for name in cnnzoo.list_pretrained())
    assert len(models.names) == len(cnnzoo.list_pretrained())


def test_the_answer_has_the_five_most_probable_labels_as_predict_gives_them(models, bag):
    html, evidence = answer(models, MODEL, PICTURE, bag)
    best = cnnzoo.predict(cnnzoo.create_model(MODEL, pretrained=True), bag, topk=5)
    assert name_in(html) == best[0][0] == "Bag"
    assert re.findall(r"<li><span>(.*?)</span> <span>(.*?)</span>", html) == [(n, f"{p:.1%}") for n, p in best]
    assert html.count("<figure>") == 1 and "28x28" in html
    assert evidence == ""


def test_a_photo_comes_with_its_steps_and_warnings(models, tmp_path):
    photo = Image.new("RGB", (300, 300), "white")
    photo.paste(ImageOps.invert(garments()["Bag"].resize((200, 200))), (50, 50))
    photo.paste("black", (0, 0, 20, 300))  # something at the edge
    photo.save(tmp_path / "photo.jpg")
    html, _ = answer(models, MODEL, PICTURE, str(tmp_path / "photo.jpg"))
    steps = data.photo_steps(photo)
    assert re.findall(r"<figcaption>(.*?)<br>", html) == list(steps.steps)
    found = cnnzoo.predict(cnnzoo.create_model(MODEL, pretrained=True), tmp_path / "photo.jpg")
    assert found.warnings and all(warning in html for warning in found.warnings)


def test_the_evidence_is_a_picture_on_request(models, bag):
    _, evidence = answer(models, MODEL, PICTURE, bag, evidence=True)
    assert "alt='Where the evidence for Bag lies'" in evidence and "data:image/png;base64," in evidence


def test_nothing_is_said_of_no_picture(models):
    assert answer(models, MODEL, PICTURE, None) == (NOTHING, "")


def test_what_a_stranger_names_is_no_way_to_another_model(models, bag):
    with pytest.raises(UnknownNameError):
        models.load("local-dir:/etc")
    assert "Unknown model" in message_in(answer(models, ["x"], PICTURE, bag)[0])


def test_labels_of_others_are_text_and_no_markup(models, bag):
    evil = cnnzoo.create_model(MODEL, pretrained=True)
    evil.labels = ("<script>alert(1)</script>", *evil.labels[1:8], "<img src=x onerror=alert(1)>", "b")
    loaded = models.load(MODEL)
    models._loaded["evil"] = Loaded(evil, None, loaded.facts, 1.0)
    models.names.append("evil")
    html, evidence = answer(models, "evil", PICTURE, bag, evidence=True)
    assert "&lt;img src=x" in html and not re.search("<script|<img src=x", html + evidence)
    models.names.remove("evil")


def test_a_model_that_cannot_be_loaded_says_so_where_its_facts_would_stand(models, monkeypatch):
    monkeypatch.setattr(models, "load", lambda name: (_ for _ in ()).throw(CnnzooError("The Hub cannot be reached.")))
    assert message_in(_facts(models, models.first)) == "The Hub cannot be reached."


def test_facts_are_those_of_the_card(models):
    html, card = facts(models.load(MODEL)), cnnzoo.info(MODEL)
    assert f"{card['checkpoints']['fashion_mnist']['top1']:.2f} %" in html
    assert f"{card['params']:,}" in html and re.search(r"<dd>\d+\.\d ms</dd>", html)


# -- sketches --------------------------------------------------------------------------------------------------------------

TROUSER = [(140, 80), (260, 80), (275, 330), (215, 330), (200, 170), (185, 330), (125, 330), (140, 80)]


def sketched(points=TROUSER) -> bytes:
    """What the pad sends: black lines on nothing."""
    pad = Image.new("RGBA", (400, 400))
    ImageDraw.Draw(pad).line(points, fill="black", width=10)
    pad.save(file := io.BytesIO(), "PNG")
    return file.getvalue()


def test_an_outline_is_filled_and_named(models):
    html, _ = answer(models, MODEL, SKETCH, sketched())
    assert name_in(html) == "Trouser"
    paper = data.on_paper(io.BytesIO(sketched()))
    gray = np.asarray(data.filled(paper))
    assert np.asarray(paper)[120, 200] == 255 > gray[120, 200] > 0  # inside
    assert gray[20, 20] == 255 and gray[80, 200] == 0  # paper and line


def test_a_sketch_of_other_models_stays_an_outline(models, monkeypatch):
    monkeypatch.setattr(Loaded, "knows_garments", False)
    monkeypatch.setattr(data, "filled", None)
    assert name_in(answer(models, MODEL, SKETCH, sketched())[0])


def test_an_empty_sketch_says_so(models):
    assert "The sketch is empty" in message_in(answer(models, MODEL, SKETCH, sketched([]))[0])


# -- hostile files ---------------------------------------------------------------------------------------------------------


def png(width: int, height: int) -> bytes:
    """A PNG that says it has so many pixels, in a few bytes."""
    file = io.BytesIO()
    Image.new("L", (1, 1)).save(file, "PNG")
    header = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 0, 0, 0, 0])
    return file.getvalue().replace(file.getvalue()[12:33], header + zlib.crc32(header).to_bytes(4, "big"))


HOSTILE = dict(
    text=b"no picture", empty=b"", script=b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
    postscript=b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n", cut=sketched()[:200],
    bomb=png(60_000, 60_000), large=png(9_000, 9_000), thin=png(5_000, 1),
)  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file_is_one_line_in_the_page(models, tmp_path, kind):
    path = tmp_path / "photo.png"
    path.write_bytes(HOSTILE[kind])
    for source in (str(path), HOSTILE[kind]):
        html, evidence = answer(models, MODEL, PICTURE, source, evidence=True)
        message = message_in(html)
        assert "\n" not in message and str(tmp_path) not in message and evidence == ""
        assert {"bomb": "too large", "large": "9000x9000"}.get(kind, "") in message


def test_a_file_that_is_gone_is_one_line_in_the_page(models):
    assert "no longer stored" in message_in(answer(models, MODEL, PICTURE, "/nowhere/x.png")[0])


def test_limits_are_the_callers_own(tmp_path):
    Image.new("L", (20, 20)).save(tmp_path / "x.gif")
    assert data.open_image(tmp_path / "x.gif", limits=LIMITS).size == (20, 20)
    with pytest.raises(InputError, match="20x20 pixels; at most 399 are allowed"):
        data.open_image(tmp_path / "x.gif", limits=data.Limits(399, ("GIF",)))
    with pytest.raises(InputError, match="not an image"):
        data.open_image(tmp_path / "x.gif", limits=data.Limits(400, ("PNG",)))


# -- the command -----------------------------------------------------------------------------------------------------------


def run(*args: str, code: int = 1) -> str:
    result = CliRunner().invoke(main, ["app", *args])
    assert result.exit_code == code, (result.output, result.exception)
    assert len(result.stderr.splitlines()) <= 1
    return result.stderr or result.stdout


@pytest.mark.parametrize("package", ["gradio", "matplotlib"])
def test_without_the_extra_one_line_says_what_to_type(monkeypatch, package, tmp_path):
    pytest.importorskip("gradio", reason="gradio is not installed (extra app)") if package != "gradio" else None
    monkeypatch.setitem(sys.modules, package, None)
    said = f'Error: The page needs {package}, which is not installed. Type: pip install "cnnzoo[app]"\n'
    assert run() == run("--space", str(tmp_path / "space")) == said
    assert not list(tmp_path.iterdir())


def test_a_port_in_use_and_other_addresses_that_cannot_be_are_one_line():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(CnnzooError, match=rf"Port {port} of 127.0.0.1 is in use.*--port {port % 65535 + 1}"):
            app.check_address("127.0.0.1", port)
    for host in ("192.0.2.1", "not a host", "x" * 300, "a\nb", "\0", "", "::1"):
        with pytest.raises(CnnzooError, match="cannot be served at") as caught:
            app.check_address(host, port)
        assert len(str(caught.value).splitlines()) == 1 and len(str(caught.value)) < 500


# -- the server, without a browser -----------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def site():
    pytest.importorskip("gradio", reason="gradio is not installed (extra app)")
    with app.serving(MODEL, port=free_port()) as url:
        yield url


class Visitor:
    """Does what the page's script does in a browser."""

    def __init__(self, site: str) -> None:
        import httpx  # which gradio brings

        self.http = httpx.Client(base_url=site, timeout=600, trust_env=False)
        config = self.http.get("/config").json()
        places = {c["id"]: c["type"] for c in config["components"]}
        self.question = next(
            d["id"] for d in config["dependencies"] if [places[i] for i in d["inputs"]] == ["image", "dropdown", "checkbox"]
        )

    def upload(self, content: bytes, name: str = "photo.png"):
        return self.http.post("/gradio_api/upload", files=dict(files=(name, content)))

    def ask(self, file: dict, model: str = MODEL) -> str | None:
        """The page's answer to a picture; None if there is none, because the question was refused."""
        session = secrets.token_hex(8)
        question = dict(data=[file, model, False], fn_index=self.question, session_hash=session)
        assert self.http.post("/gradio_api/queue/join", json=question).status_code == 200
        with self.http.stream("GET", "/gradio_api/queue/data", params=dict(session_hash=session)) as lines:
            for line in lines.iter_lines():
                message = json.loads(line.removeprefix("data:") or "{}") if line.startswith("data:") else {}
                if message.get("msg") == "process_completed":
                    return message["output"]["data"][1] if message["success"] else None
        raise AssertionError("the stream ended without an answer")

    def name(self, content: bytes, model: str = MODEL) -> str | None:
        (path,) = self.upload(content).json()
        return name_in(self.ask(sent(path), model))


def sent(path: str) -> dict:
    return dict(path=path, orig_name="photo.png", meta=dict(_type="gradio.FileData"))


def as_png(image: Image.Image) -> bytes:
    image.save(file := io.BytesIO(), "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def visitor(site):
    return Visitor(site)


def test_a_picture_that_is_sent_is_named(visitor):
    assert visitor.name(as_png(garments()["Bag"])) == "Bag"
    (path,) = visitor.upload(b"no picture").json()
    assert message_in(visitor.ask(sent(path))) == "The file is not an image that Pillow can read. Convert it to PNG or JPEG."


@pytest.mark.parametrize(
    "route",
    [
        "file=/etc/passwd", f"file={__file__}", "file=../../etc/passwd", "file=%2Fetc%2Fpasswd", "file=file:///etc/passwd",
        "file=http://127.0.0.1/", "file=https://example.org/x.png", "file/etc/passwd", "proxy=http://127.0.0.1/", "runs",
        "stream/x/y/1/playlist-file", "openapi.json", "vibe-code", "call/x/y", "queue/status", "file=",
    ],
)  # fmt: skip
def test_nothing_of_the_disk_and_of_other_hosts_can_be_had(visitor, route):
    found = visitor.http.get(f"/gradio_api/{route}")
    assert found.status_code in (403, 404) and "root:" not in found.text and "import" not in found.text


def test_a_link_in_the_folder_of_what_was_sent_leads_nowhere(visitor):
    (path,) = visitor.upload(as_png(garments()["Bag"])).json()
    assert visitor.http.get(f"/gradio_api/file={path}").content == as_png(garments()["Bag"])
    link = Path(path).parent / "link.png"
    link.symlink_to("/etc/passwd")
    assert visitor.http.get(f"/gradio_api/file={link}").status_code == 403
    assert visitor.http.get(f"/gradio_api/file={Path(path).parent}/../../../etc/passwd").status_code in (403, 404)


@pytest.mark.parametrize("path", ["/etc/passwd", __file__, "http://127.0.0.1:1/x.png", "HTTPS://example.org/x.png"])
def test_a_question_about_a_file_that_was_not_sent_has_no_answer(visitor, path, monkeypatch):
    asked = []
    monkeypatch.setattr("gradio.processing_utils.async_ssrf_protected_download", lambda *args, **kwargs: asked.append(args))
    assert visitor.ask(sent(path)) is None
    assert not asked


def test_a_page_of_another_model_is_not_to_be_had(visitor):
    (path,) = visitor.upload(as_png(garments()["Bag"])).json()
    assert visitor.ask(sent(path), "local-dir:/tmp") is None


def test_what_is_too_large_is_refused_before_it_is_read(visitor):
    assert visitor.upload(bytes(app.MAX_BYTES + 1)).status_code == 413
    assert visitor.http.post("/gradio_api/queue/join", content=bytes(3_000_000)).status_code == 413
    assert visitor.http.post("/gradio_api/upload", content=iter([b"x"])).status_code == 411  # of unknown length


def test_the_page_tells_browsers_to_load_nothing_from_elsewhere(visitor):
    for route in ("/", "/config", "/nothing"):
        assert visitor.http.get(route).headers["content-security-policy"].startswith("default-src 'self' data: blob:")


@pytest.mark.slow
def test_eight_clients_at_once_get_two_hundred_right_answers(site):
    drawings = {label: as_png(image) for label, image in garments().items()}
    names = (MODEL, "nin_tiny", "resnext_small")
    models = {name: cnnzoo.create_model(name, pretrained=True) for name in names}
    right = {(n, label): cnnzoo.predict(models[n], image)[0][0] for n in names for label, image in garments().items()}

    def visit(number: int) -> list[bool]:
        visitor, order = Visitor(site), list(drawings)
        np.random.default_rng(number).shuffle(order)
        asked = [(names[(number + i) % 3], order[i % 10]) for i in range(25)]
        return [visitor.name(drawings[label], name) == right[name, label] for name, label in asked]

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = [good for answers in pool.map(visit, range(8)) for good in answers]
    assert len(found) == 200 and all(found)


def test_a_proxy_that_needs_another_package_is_one_line(monkeypatch):
    pytest.importorskip("gradio", reason="gradio is not installed (extra app)")
    code = "import sys; sys.modules['socksio'] = None; from cnnzoo.app._page import gradio; gradio()"
    told = dict(os.environ, ALL_PROXY="socks5://127.0.0.1:1")
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=told).stderr
    assert said.splitlines()[-1].endswith("Unset ALL_PROXY, which the page does not need.")


@pytest.mark.slow
def test_the_command_serves_until_control_c_and_says_when_its_port_is_taken():
    pytest.importorskip("gradio", reason="gradio is not installed (extra app)")
    port = str(free_port())
    command = [sys.executable, "-m", "cnnzoo", "app", "--model", MODEL, "--port", port]
    proxy = {name: "http://127.0.0.1:1" for name in ("HTTP_PROXY", "http_proxy")}  # to nowhere, and without NO_PROXY
    told = {k: v for k, v in os.environ.items() if k.lower() != "no_proxy"} | proxy
    started = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=told,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a background job ignores it
    )  # fmt: skip
    try:
        assert started.stdout.readline() == f"The page is at http://127.0.0.1:{port}/ until Ctrl-C.\n"
        second = subprocess.run(command, capture_output=True, text=True)
        assert second.returncode == 1 and second.stdout == ""
        assert re.fullmatch(rf"Error: Port {port} of 127.0.0.1 is in use; .*--port \d+\n", second.stderr)
        assert Visitor(f"http://127.0.0.1:{port}").name(as_png(garments()["Bag"])) == "Bag"
        started.send_signal(signal.SIGINT)
        stdout, stderr = started.communicate(timeout=600)
    finally:
        started.kill()
    assert (started.returncode, stdout, stderr) == (130, "", "Error: stopped by Ctrl-C.\n")
