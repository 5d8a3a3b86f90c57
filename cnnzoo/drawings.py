"""Ten garments that the project draws itself, one per Fashion-MNIST class, so that examples need no data set.

In the manner of the data set: inverted photographs that fill the frame, toes to the left. No pixel of it is in them. They
were redrawn until small classifiers named them all: they show what a model does, and measure nothing about it.
"""

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .datasets import FASHION_MNIST

SIZE = 28  # pixels of a finished drawing along one axis
FINE = 8  # drawn that much larger, then averaged down: smooth edges without a vector library
MIDDLE = 14.0  # the axis of symmetric garments

Points = Sequence[tuple[float, float]]


# -- the drawing board -----------------------------------------------------------------------------------------------


class _Board:
    """A drawing in progress. Coordinates and widths are in pixels of the finished drawing, tones from 0 to 1.

    Attributes:
        light: float64, `(SIZE * FINE, SIZE * FINE)`.
    """

    def __init__(self, seed: int) -> None:
        self.light = np.zeros((SIZE * FINE, SIZE * FINE))
        self.rng = np.random.default_rng(seed)

    def fill(self, outline: Points, tone: float, *, rim: float = 0.12, rounding: float = 0.3) -> np.ndarray:
        """Lays a piece of cloth over what is there and returns where it lies, a mask of zeros and ones.

        Args:
            outline: Corners of a polygon.
            tone: Brightness in the middle of the piece.
            rim: How much brighter it gets towards its edge, where cloth turns from the light: the picture is inverted.
            rounding: Radius that takes the edge off the corners.
        """
        mask = _blur(_plot(outline), rounding) > 0.5
        depth = _blur(mask, 1.2)  # 0.5 at the edge, 1 well inside
        self.light = np.where(mask, tone + rim * (1.6 - 2 * depth), self.light)
        return mask.astype(float)

    def drawn(self) -> np.ndarray:
        """Where anything lies so far, a mask of zeros and ones."""
        return (self.light > 0).astype(float)

    def line(self, points: Points, width: float, change: float, *, blur: float = 0.1, on: np.ndarray | float = 1) -> None:
        """Brightens, or with a negative `change` darkens, along a line: a seam or strap if sharp, a fold if blurred."""
        self.light += change * on * _blur(_plot(points, width), blur)

    def lines(self, many: Sequence[Points], width: float, change: float, **how) -> None:
        """Several lines alike."""
        for points in many:
            self.line(points, width, change, **how)

    def weave(self, on: np.ndarray, amount: float, grain: float = 0.7) -> None:
        """Roughens the cloth with noise of standard deviation `amount` and spots about `grain` wide."""
        noise = _blur(self.rng.standard_normal(self.light.shape), grain)
        self.light += on * amount * noise / noise.std()

    def image(self) -> Image.Image:
        """The finished drawing, mode 'L'."""
        small = self.light.clip(0, 1).reshape(SIZE, FINE, SIZE, FINE).mean(axis=(1, 3))
        return Image.fromarray((small * 255).round().astype(np.uint8))


def _plot(points: Points, width: float | None = None) -> np.ndarray:
    # Ones inside the polygon or, given a width, on the line; zeros elsewhere.
    canvas = Image.new("L", (SIZE * FINE, SIZE * FINE))
    draw, scaled = ImageDraw.Draw(canvas), [(x * FINE, y * FINE) for x, y in points]
    if width is None:
        draw.polygon(scaled, fill=1)
    else:
        draw.line(scaled, fill=1, width=max(1, round(width * FINE)), joint="curve")
    return np.asarray(canvas, dtype=float)


def _blur(field: np.ndarray, radius: float) -> np.ndarray:
    # Not by Pillow, which blurs 8-bit images only: eight bits show as steps in soft shading.
    from scipy import ndimage

    sigma = radius * FINE
    return ndimage.gaussian_filter(field.astype(float), sigma, mode="constant", radius=int(3 * sigma) + 1)


def _both(half: Points) -> list[tuple[float, float]]:
    """A symmetric outline from its right half, points (distance from the middle, y) from the top to the bottom."""
    return [(MIDDLE + x, y) for x, y in half] + [(MIDDLE - x, y) for x, y in reversed(half)]


def _pair(points: Points) -> list[list[tuple[float, float]]]:
    """The right and the left copy of something, given as (distance from the middle, y)."""
    return [[(MIDDLE + x, y) for x, y in points], [(MIDDLE - x, y) for x, y in points]]


def _arc(x: float, y: float, across: float, down: float, start: float, stop: float) -> list[tuple[float, float]]:
    """Part of an ellipse around (x, y) with those radii; angles in degrees, clockwise from the right."""
    angles = np.radians(np.linspace(start, stop, 25))
    return [(x + across * float(np.cos(a)), y + down * float(np.sin(a))) for a in angles]


# -- the garments ------------------------------------------------------------------------------------------------------


def _t_shirt(b: _Board) -> None:
    for sleeve in _pair([(4.5, 0.9), (7.4, 2.2), (10.3, 8.2), (7.3, 9.9), (5.0, 6.0)]):
        b.fill(sleeve, 0.70)
    b.lines(_pair([(9.8, 7.4), (7.0, 9.0)]), 0.3, -0.2)  # hems of the sleeves
    body = b.fill(_both([(0, 2.6), (1.7, 2.1), (2.7, 0.4), (5.4, 1.1), (6.2, 5), (5.9, 10), (6.0, 27.2)]), 0.76, rim=0.06)
    b.lines(_pair([(6.1, 2.0), (5.7, 9.0)]), 0.35, -0.14, blur=0.2)
    b.line(_arc(MIDDLE, 0.4, 2.9, 2.5, 0, 180), 0.6, 0.16, on=body)  # neck band
    b.lines([*_pair([(5.2, 9.5), (2.5, 12.0)]), [(11, 26), (12.5, 17)]], 0.9, 0.10, blur=0.6, on=body)  # folds
    b.line([(7, 26.4), (21, 26.4)], 0.3, -0.15, on=body)
    for radius, tone in ((2.7, 0.30), (1.3, 0.85)):  # print on the chest
        b.fill(_arc(MIDDLE, 9.0, radius, radius, 0, 360), tone, rim=0.0)
    b.weave(body, 0.015)


def _trouser(b: _Board) -> None:
    half = [(0, 0.4), (4.2, 0.4), (5.2, 6), (5.4, 14), (5.0, 27.5), (1.9, 27.5), (1.3, 17), (0.5, 10.0), (0, 9.6)]
    cloth = b.fill(_both(half), 0.62, rim=0.22)
    b.lines(_pair([(3.0, 9), (3.4, 27)]), 1.0, -0.10, blur=0.6, on=cloth)  # light on the shins, dark once inverted
    waistband, fly, pocket = [(9, 2.2), (19, 2.2)], [(14, 2.6), (14, 8)], [(2.4, 2.6), (3.2, 4.6), (5.0, 5.6)]
    b.lines([waistband, fly, *_pair(pocket)], 0.4, -0.28, on=cloth)
    for crease in ([(0.6, 9.8), (3.6, 8.0)], [(1.6, 17.0), (4.8, 18.0)]):  # at the crotch and the knees
        b.lines(_pair(crease), 0.6, 0.14, blur=0.4, on=cloth)
    b.weave(cloth, 0.02)


def _pullover(b: _Board) -> None:
    for sleeve in _pair([(4.8, 1.6), (7.8, 3.2), (9.8, 9), (11.3, 26.4), (8.4, 27.2), (7.2, 13), (5.5, 7)]):
        b.weave(b.fill(sleeve, 0.68, rim=0.16), 0.02)
    b.lines(_pair([(11.8, 24.2), (7.6, 24.8)]), 0.4, -0.2)  # cuffs
    body = b.fill(_both([(0, 2.6), (2.4, 2.0), (3.1, 0.9), (5.6, 1.9), (6.8, 8), (6.7, 25.4)]), 0.72, rim=0.06)
    for y, change in ((8.6, 0.2), (10.4, -0.34), (12.2, 0.2)):  # bands across the chest and the sleeves
        b.line([(0, y), (28, y)], 1.1, change, on=b.drawn())
    b.lines(_pair([(6.4, 3), (7.1, 12), (7.2, 25.4)]), 0.4, -0.35, blur=0.15)  # between sleeve and body
    b.line(_arc(MIDDLE, 0.9, 3.3, 2.9, 0, 180), 0.9, 0.26, on=body)  # neck rib
    b.line(_arc(MIDDLE, 0.9, 4.2, 3.9, 0, 180), 0.35, -0.2, on=body)
    b.line([(6, 22.8), (22, 22.8)], 0.4, -0.25, on=body)
    b.lines([[(MIDDLE + x, 23.2), (MIDDLE + x, 26)] for x in np.arange(-6, 6.5, 2.0)], 0.6, -0.2, on=body)  # hem rib
    b.weave(body, 0.02, grain=0.4)


def _dress(b: _Board) -> None:
    bodice = [(0, 4.0), (1.4, 3.2), (2.0, 0.4), (3.2, 0.4), (3.3, 4.4), (4.3, 6.6), (3.3, 11.6)]
    cloth = b.fill(_both([*bodice, (4.8, 18), (6.6, 27.4), (0, 27.6)]), 0.72, rim=0.1)
    b.line([(10, 11.8), (18, 11.8)], 0.7, -0.25, on=cloth)  # waist seam
    for seam in ([(1.0, 12.5), (1.7, 27)], [(2.6, 12.5), (4.4, 27)], [(2.8, 6.0), (1.6, 11)]):  # pleats and darts
        b.lines(_pair(seam), 0.6, -0.2, blur=0.3, on=cloth)
    b.weave(cloth, 0.02)


def _coat(b: _Board) -> None:
    for sleeve in _pair([(4.4, 1.8), (6.8, 3.2), (8.7, 9), (9.7, 23.2), (6.8, 24.0), (6.2, 13), (5.3, 7)]):
        b.weave(b.fill(sleeve, 0.54, rim=0.18), 0.02)
    b.lines(_pair([(10.0, 21.4), (6.4, 22.0)]), 0.35, -0.2)  # cuffs
    body = b.fill(_both([(0, 1.0), (2.6, 0.8), (5.2, 2.2), (5.9, 8), (5.7, 13), (6.5, 27.4)]), 0.60, rim=0.08)
    b.lines(_pair([(5.8, 4), (6.2, 12), (6.7, 24)]), 0.35, -0.35, blur=0.15)  # between sleeve and body
    b.line([(14.4, 7), (14.4, 27.6)], 0.6, -0.6, on=body)  # where it closes
    b.fill(_both([(0, 1.2), (1.4, 1.2), (0, 7.2)]), 0.25, rim=0)  # lining
    for lapel in _pair([(1.2, 0.5), (2.9, 1.0), (3.8, 4.4), (2.6, 5.2), (0.1, 8.4), (1.0, 4.2)]):
        b.fill(lapel, 0.82, rim=0.1, rounding=0.15)
    b.lines(_pair([(2.6, 18.2), (5.2, 17.2)]), 0.6, -0.3, on=body)  # pockets
    b.lines([[(16.1, y), (16.9, y)] for y in (10.5, 14.5, 18.5)], 0.8, -0.35)  # buttons
    b.weave(body, 0.02)


def _sandal(b: _Board) -> None:
    b.fill([(23.4, 13.6), (26.6, 12.0), (26.2, 18), (25.6, 26.8), (24.2, 26.8), (24.4, 19)], 0.62)  # heel
    sole = [(0.6, 25.4), (4, 25.0), (9, 24.0), (13, 20.4), (18, 14.8), (22, 12.2), (26.0, 11.0), (26.7, 12.8), (22.6, 14.6)]
    b.fill([*sole, (18.6, 18.0), (14, 23.4), (10.4, 26.4), (6, 26.9), (0.8, 26.9)], 0.70, rounding=0.2)
    toes = [(2.8, 25.2), (4.0, 21.4), (6.0, 20.4), (8.0, 24.6)]
    b.lines([toes, [(7.0, 24.8), (8.6, 18.2), (10.6, 17.8), (12.0, 21.6)]], 1.2, 0.75)
    b.line([(25.8, 11.8), (25.4, 8.0), (24.4, 3.4)], 1.4, 0.7)  # behind the heel
    b.line(_arc(20.4, 5.4, 4.4, 2.2, 0, 360), 1.0, 0.7)  # around the ankle
    b.line([(16.0, 4.6), (16.6, 6.4)], 1.2, 0.2)  # buckle


def _shirt(b: _Board) -> None:
    for sleeve in _pair([(5.4, 2.0), (7.8, 3.0), (11.5, 13.0), (8.2, 15.0), (6.2, 7)]):
        b.fill(sleeve, 0.38)
    half = [(0, 1.8), (2.6, 1.2), (6.2, 2.2), (6.9, 8), (6.7, 14), (7.1, 24.0), (5.5, 25.8), (0, 26.6)]
    body = b.fill(_both(half), 0.38, rim=0.06)
    cloth = b.drawn()
    b.lines([[(x, 0), (x, 28)] for x in np.arange(2.6, 27, 3.8)], 1.2, 0.25, on=cloth)  # checks
    b.lines([[(0, y), (28, y)] for y in np.arange(4.6, 28, 3.8)], 1.2, 0.25, on=cloth)
    b.lines(_pair([(11.3, 11.7), (7.6, 13.8)]), 0.4, -0.2)  # hems of the sleeves
    b.lines(_pair([(6.8, 3.4), (7.0, 13.5)]), 0.4, -0.3, blur=0.15)
    b.line([(14.5, 4.5), (14.5, 26.5)], 1.0, 0.14, on=body)  # placket, and the shadow beside it
    b.line([(13.5, 4.5), (13.5, 26.5)], 0.7, -0.4, on=body)
    b.lines([[(14.1, y), (14.9, y)] for y in (8.5, 12.5, 16.5, 20.5, 24.5)], 0.8, -0.45, on=body)  # buttons
    for collar in _pair([(0.1, 4.4), (1.3, 0.4), (2.9, 0.9), (3.4, 4.2), (2.2, 5.6)]):
        b.fill(collar, 0.85, rim=0.05, rounding=0.12)
    b.weave(body, 0.02)


def _sneaker(b: _Board) -> None:
    upper = [(0.9, 18.4), (1.4, 16.4), (4.6, 15.2), (8.6, 13.9), (13.0, 11.0), (16.0, 9.4), (17.6, 9.0), (18.4, 10.6)]
    cloth = b.fill([*upper, (22.0, 10.8), (25.6, 8.8), (26.8, 9.6), (26.6, 13), (27.2, 18.6)], 0.62)
    b.fill([(0.6, 18.0), (27.4, 17.8), (27.3, 20.2), (20, 20.5), (3, 20.3), (0.7, 19.4)], 0.88, rim=0.05)  # sole
    b.lines([[(0.6, 18.0), (27.4, 17.9)], [(1.0, 20.4), (27.0, 20.4)]], 0.4, -0.35, on=b.drawn())
    b.lines([[(x, 11.6 - k), (x + 2.2, 13.6 - k)] for k, x in enumerate((10.6, 12.6, 14.6))], 0.6, 0.3, on=cloth)  # laces
    b.lines([[(12 + x, 17.6), (14.8 + x, 12.6)] for x in (0, 2.2, 4.4)], 0.8, -0.3, on=cloth)  # stripes
    b.lines([[(6.0, 14.4), (7.4, 17.8)], [(22.6, 10.8), (23.4, 17.8)]], 0.4, -0.25, on=cloth)  # toe cap, heel cap
    b.weave(cloth, 0.02)


def _bag(b: _Board) -> None:
    b.line(_arc(MIDDLE, 10.4, 6.0, 8.6, 180, 360), 1.2, 0.75, blur=0.05)  # handle
    body = b.fill([(3.4, 9.6), (24.6, 9.6), (26.8, 25.6), (25.8, 27.2), (2.2, 27.2), (1.2, 25.6)], 0.66, rim=0.12)
    b.fill([(3.2, 9.4), (24.8, 9.4), (25.4, 15.4), (14, 18.2), (2.6, 15.4)], 0.78, rim=0.08)  # flap
    b.lines([[(2.6, 15.6), (14, 18.4), (25.4, 15.6)], [(2.0, 25.4), (26.0, 25.4)]], 0.5, -0.3, on=body)  # seams
    b.fill(_arc(MIDDLE, 17.4, 1.3, 1.3, 0, 360), 0.25, rim=0.0)  # clasp
    b.weave(body, 0.02)


def _ankle_boot(b: _Board) -> None:
    shaft = [(13.0, 2.0), (24.4, 1.4), (24.6, 10), (26.2, 15), (26.4, 22.4)]
    cloth = b.fill([*shaft, (1.0, 23.4), (1.2, 20.4), (4.0, 17.6), (9.4, 15.2), (12.8, 11.6)], 0.70)
    b.fill([(0.8, 22.6), (26.6, 22.0), (26.6, 26.8), (19.4, 26.8), (18.6, 24.4), (12, 24.6), (1.2, 24.6)], 0.9, rim=0.04)
    b.line([(0.8, 22.8), (26.6, 22.2)], 0.4, -0.4)
    b.fill([(16.0, 3.4), (21.0, 3.4), (19.8, 12.8), (17.4, 12.8)], 0.42, rim=0.05)  # elastic
    b.line([(13.0, 3.2), (24.6, 2.6)], 0.4, -0.2, on=cloth)
    b.lines([[(12.6, 12.6), (16, 15)], [(11.2, 14), (14.2, 17.4)]], 0.6, 0.14, blur=0.3, on=cloth)  # where it bends
    b.lines([[(17.6, 13), (13.4, 22)], [(24.2, 4.0), (24.8, 21)]], 0.4, -0.22, on=cloth)  # seams
    b.weave(cloth, 0.02)


_DRAWN: tuple[Callable[[_Board], None], ...] = (
    _t_shirt, _trouser, _pullover, _dress, _coat, _sandal, _shirt, _sneaker, _bag, _ankle_boot,
)  # fmt: skip


def garments() -> dict[str, Image.Image]:
    """Label to drawing, 28x28, mode 'L', in class order; the same bytes every time."""
    drawings = {}
    for seed, (label, draw) in enumerate(zip(FASHION_MNIST.labels, _DRAWN, strict=True)):
        draw(board := _Board(seed))
        drawings[label] = board.image()
    return drawings


# -- the contact sheet -------------------------------------------------------------------------------------------------

ZOOM = 6
COLUMNS = 5
CELL = (SIZE * ZOOM + 24, SIZE * ZOOM + 40)  # a drawing, its caption, and air
HEADER = 64
_TITLE = "Drawings made by the project: not photographs, and not images of the data set"
_BLUE, _VERMILLION = (0, 90, 160), (200, 80, 0)  # told apart by the colour-blind, too


def contact_sheet(rows: Sequence[tuple[Image.Image, str, bool]]) -> Image.Image:
    """A sheet to look at: every drawing enlarged, five in a line, its caption below behind a tick or a cross.

    Args:
        rows: Drawing, caption such as `"Bag 98 %"`, and whether the caption names what is drawn.

    Returns:
        Mode 'RGB'. Drawing `i` lies at `sheet_position(i)`, `SIZE * ZOOM` pixels wide and high.
    """
    lines = -(-len(rows) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * CELL[0], HEADER + lines * CELL[1]), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((12, 12), _TITLE, "black", ImageFont.load_default(size=20))
    draw.text((12, 38), "Tick: named rightly. Cross: named wrongly.", (70, 70, 70), ImageFont.load_default(size=15))
    side = SIZE * ZOOM
    for i, (image, caption, ok) in enumerate(rows):
        x, y = sheet_position(i)
        sheet.paste(image.convert("RGB").resize((side, side), Image.Resampling.NEAREST), (x, y))
        _mark(sheet, x, y + side + 8, ok)
        length = ImageFont.load_default(size=17).getlength(caption)
        font = ImageFont.load_default(size=17 * min(1, (side - 20) / max(1, length)))  # a long caption gets smaller
        draw.text((x + 20, y + side + 6), caption, "black", font)
    return sheet


def sheet_position(index: int) -> tuple[int, int]:
    """Left and upper edge of a drawing on the contact sheet, in pixels of the sheet."""
    return index % COLUMNS * CELL[0] + 12, index // COLUMNS * CELL[1] + HEADER


def _mark(sheet: Image.Image, x: int, y: int, ok: bool) -> None:
    # By shape first: a mark that differs by colour alone is lost on some readers and on grey prints. Drawn large and made
    # smaller, so that its slopes are smooth.
    fine, size = 8, 18
    mark = Image.new("L", (size * fine, size * fine))
    strokes = [((2, 9), (6, 14), (15, 2))] if ok else [((2, 2), (14, 14)), ((2, 14), (14, 2))]
    for stroke in strokes:
        points = [(fine * px, fine * py) for px, py in stroke]
        ImageDraw.Draw(mark).line(points, 255, 3 * fine, joint="curve")
    mark = mark.resize((size, size), Image.Resampling.LANCZOS)
    sheet.paste(Image.new("RGB", mark.size, _BLUE if ok else _VERMILLION), (x - 2, y - 2), mark)
