"""The page in a real browser: Chromium without a window, driven by Playwright, on a screen of a desktop and of a phone.

`pytest --accept -m slow tests/test_app_browser.py -k readme` takes the README's picture anew.
"""

import base64
import io
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image
from test_app import TROUSER, free_port
from test_photo import as_photo

import cnnzoo
from cnnzoo import app, checkpoints
from cnnzoo.drawings import garments

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("browser")]

MODEL, OTHER = "resnext_small", "nin_tiny"
SCREENS = dict(desktop=(1280, 900), phone=(390, 844))
PICTURE = Path(__file__).parent.parent / "hub_configs" / "page.png"
ARGUMENTS = [  # no window, nothing of its own on the network, and a camera that shows a test picture
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
]  # fmt: skip
PATIENCE = 180_000  # milliseconds for whatever is waited for; other tests run at the same time


@pytest.fixture(scope="module")
def browser():
    pytest.importorskip("gradio", reason="gradio is not installed (extra app)")
    driver = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra browser)")
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("chromium is not installed (apt-get install chromium)")
    with driver.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def site(browser):
    with app.serving(MODEL, port=free_port()) as url:
        yield url


@pytest.fixture
def opened(browser, site):
    """Opens the page on a screen of that name. Whatever the test does, nothing leaves the machine."""
    contexts, asked = [], []

    def open_page(screen: str = "desktop"):
        width, height = SCREENS[screen]
        contexts.append(
            browser.new_context(viewport=dict(width=width, height=height), permissions=["clipboard-read", "camera"])
        )
        page = contexts[-1].new_page()
        page.set_default_timeout(PATIENCE)
        page.on("request", lambda request: asked.append(request.url))
        page.goto(site)
        page.get_by_role("button", name="Sneaker", exact=True).wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert asked and [url for url in asked if not url.startswith((site, "data:", "blob:"))] == []


def as_png(image: Image.Image) -> bytes:
    image.save(file := io.BytesIO(), "PNG")
    return file.getvalue()


def drop(page, content: bytes, name: str = "picture.png") -> None:
    """What happens when a file is let go over the page's field."""
    files = page.evaluate_handle(
        """([content, name]) => {
          const bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0));
          const files = new DataTransfer();
          files.items.add(new File([bytes], name, { type: "image/png" }));
          return files;
        }""",
        [base64.b64encode(content).decode(), name],
    )
    page.locator(".picture button[aria-dropeffect]").dispatch_event("drop", dict(dataTransfer=files))


def wait_for_name(page, name: str) -> None:
    page.locator(".answer h2", has_text=re.compile(f"^{re.escape(name)}$")).wait_for()


def draw(page, points: list[tuple[int, int]]) -> None:
    page.get_by_role("tab", name="Draw").click()
    page.locator(".pad button[aria-label='Brush']").wait_for()
    page.locator(".pad .empty").wait_for(state="detached")  # the brush has been taken
    box = page.locator(".pad canvas").first.bounding_box()
    scale = min(box["width"], box["height"]) / 500  # the paper of 400 with some room
    places = [
        (box["x"] + box["width"] / 2 + (x - 200) * scale, box["y"] + box["height"] / 2 + (y - 200) * scale)
        for x, y in points
    ]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=2)
    page.mouse.up()


def runs_over(page) -> int:
    """By how many pixels the page is wider than the screen."""
    return page.evaluate("document.documentElement.scrollWidth - window.innerWidth")


@pytest.mark.parametrize("screen", SCREENS)
def test_each_drawing_that_is_dropped_is_named(opened, screen):
    page = opened(screen)
    for label, drawing in garments().items():
        drop(page, as_png(drawing))
        wait_for_name(page, label)
        assert page.locator(".answer li").count() == 5
        page.get_by_role("button", name="Remove Image").click()
        page.get_by_text("The answer will stand here.").wait_for()
    assert runs_over(page) <= 0


@pytest.mark.parametrize("screen", SCREENS)
def test_a_sketch_is_named(opened, screen):
    page = opened(screen)
    draw(page, TROUSER)
    wait_for_name(page, "Trouser")
    assert page.locator(".answer figure").count() == 4
    assert runs_over(page) <= 0


def test_another_model_answers_in_its_turn(opened):
    page = opened()
    page.get_by_role("button", name="Shirt", exact=True).click()
    wait_for_name(page, "Shirt")
    best = {}
    for name in (MODEL, OTHER):
        card = cnnzoo.info(name)
        if name == OTHER:
            page.get_by_role("combobox", name="Model").click()
            page.get_by_role("option", name=OTHER, exact=True).click()
        page.locator(".facts", has_text=f"{card['params']:,}").wait_for()
        best[name] = cnnzoo.predict(cnnzoo.create_model(name, pretrained=True), garments()["Shirt"])[0]
        page.locator(".answer li", has_text=re.compile(f"^{best[name][0]} {best[name][1]:.1%}")).wait_for()
    assert best[MODEL] != best[OTHER]


def test_a_text_file_called_png_is_one_line_in_the_page(opened):
    page = opened()
    drop(page, b"no picture")
    said = page.get_by_role("alert").filter(has_text="not an image")
    said.wait_for()
    assert said.inner_text() == "The file is not an image that Pillow can read. Convert it to PNG or JPEG."
    assert page.locator(".answer h2").count() == 0
    page.get_by_role("button", name="Coat", exact=True).click()
    wait_for_name(page, "Coat")


def test_the_keyboard_is_enough(opened):
    page = opened()

    def to(role: str, name: str) -> None:
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.innerText || document.activeElement.ariaLabel || ''").strip() == name:
                return
            if page.get_by_role(role, name=name, exact=True).first.evaluate("e => e === document.activeElement"):
                return
        raise AssertionError(f"no {role} called {name} is reached with the tabulator")

    to("button", "Bag")
    page.keyboard.press("Enter")
    wait_for_name(page, "Bag")
    to("checkbox", "Show the evidence (Grad-CAM)")
    page.keyboard.press("Space")
    page.get_by_alt_text("Where the evidence for Bag lies").wait_for()
    to("combobox", "Model")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    accuracy = checkpoints.metrics(f"{MODEL}.fashion_mnist")["top1"]  # two checkpoints of one model have as many parameters
    page.locator(".facts").filter(has_not_text=f"{accuracy:.2f} %").wait_for()


@pytest.mark.parametrize("tab", ["Picture", "Draw"])
def test_every_control_has_a_name_for_screen_readers(opened, tab):
    page = opened()
    page.get_by_role("button", name="Sandal", exact=True).click()
    wait_for_name(page, "Sandal")
    page.get_by_role("tab", name=tab).click()
    if tab == "Draw":
        page.locator(".pad button[aria-label='Brush']").wait_for()
    nodes = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    controls = ("button", "checkbox", "combobox", "link", "option", "slider", "spinbutton", "tab", "textbox")
    found = [(n["role"]["value"], n.get("name", {}).get("value", "")) for n in nodes if not n["ignored"]]
    found = [(role, name) for role, name in found if role in controls]
    assert len(found) > 10 and [pair for pair in found if not pair[1].strip()] == []
    assert page.locator("img:visible").evaluate_all("images => images.every((image) => image.alt)")


def test_a_picture_is_pasted(opened):
    page = opened()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.evaluate(
        """async (content) => {
          const bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0));
          await navigator.clipboard.write([new ClipboardItem({ "image/png": new Blob([bytes], { type: "image/png" }) })]);
        }""",
        base64.b64encode(as_png(garments()["Dress"])).decode(),
    )
    page.get_by_role("button", name="Paste from clipboard").click()
    wait_for_name(page, "Dress")


def test_the_camera_takes_a_photo(opened):
    page = opened()
    page.get_by_role("button", name="Capture from camera").click()
    page.get_by_text("Click to Access Webcam").click()
    # The button is there before the camera's first picture is, and then takes nothing.
    page.wait_for_function("() => [...document.querySelectorAll('video')].some((video) => video.videoWidth > 0)")
    page.get_by_role("button", name=re.compile("capture photo", re.IGNORECASE)).click()
    page.locator(".answer h2, .answer [role=alert]").first.wait_for()  # the test picture is no garment


def test_the_readme_shows_the_page_as_it_is(opened, request):
    assert "(hub_configs/page.png)" in (PICTURE.parent.parent / "README.md").read_text(encoding="utf-8")
    page = opened()
    drop(page, as_png(as_photo(garments()["Ankle boot"], light=True)))
    wait_for_name(page, "Ankle boot")
    page.get_by_role("checkbox").check()
    page.get_by_alt_text("Where the evidence for Ankle boot lies").wait_for()
    page.mouse.move(0, 0)
    page.wait_for_timeout(500)  # for what fades
    taken = page.screenshot(full_page=True)
    if request.config.getoption("--accept"):
        Image.open(io.BytesIO(taken)).convert("P", palette=Image.Palette.ADAPTIVE).save(PICTURE, optimize=True)
    with Image.open(PICTURE) as shown, Image.open(io.BytesIO(taken)) as fresh:
        assert shown.width == fresh.width and abs(shown.height - fresh.height) < 100
    assert PICTURE.stat().st_size < 200_000
    assert checkpoints.root() in PICTURE.parents
