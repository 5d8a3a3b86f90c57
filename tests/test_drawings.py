"""The garments the project draws itself, and the sheet that shows them."""

import numpy as np
import pytest
from PIL import Image

from cnnzoo.datasets import FASHION_MNIST
from cnnzoo.drawings import SIZE, ZOOM, contact_sheet, garments, sheet_position


@pytest.fixture(scope="module")
def drawn() -> dict[str, Image.Image]:
    return garments()


def test_there_is_one_drawing_per_class_in_class_order(drawn):
    assert tuple(drawn) == FASHION_MNIST.labels


def test_drawings_are_28x28_grayscale_and_the_same_every_time(drawn):
    assert all(image.mode == "L" and image.size == (28, 28) for image in drawn.values())
    assert [image.tobytes() for image in garments().values()] == [image.tobytes() for image in drawn.values()]


def test_no_two_drawings_resemble_each_other(drawn):
    pixels = [np.asarray(image, dtype=float) for image in drawn.values()]
    for i, one in enumerate(pixels):
        for other in pixels[:i]:
            assert np.abs(one - other).mean() > 20


@pytest.mark.parametrize("label", FASHION_MNIST.labels)
def test_a_garment_fills_the_frame_one_way_on_a_black_ground(drawn, label):
    pixels = np.asarray(drawn[label])
    height, width = (np.ptp(np.flatnonzero((pixels > 25).any(axis))) + 1 for axis in (1, 0))
    assert max(height, width) >= 26
    assert 0.2 < (pixels == 0).mean() < 0.85
    assert pixels.max() > 180


@pytest.mark.parametrize("label", ["Sneaker", "Ankle boot"])
def test_toes_point_left_as_in_the_data_set(drawn, label):
    cloth = np.asarray(drawn[label]) > 25
    assert cloth[:, :9].sum() < cloth[:, -9:].sum() / 1.5


def test_the_sheet_shows_every_drawing_with_its_caption(drawn):
    rows = [(image, f"{label} 98 %", True) for label, image in drawn.items()]
    sheet = contact_sheet(rows)
    bare = contact_sheet([(image, "", True) for image in drawn.values()])
    assert sheet.mode == "RGB"
    assert sheet.size == bare.size
    side = SIZE * ZOOM
    for i, image in enumerate(drawn.values()):
        x, y = sheet_position(i)
        enlarged = np.asarray(sheet.crop((x, y, x + side, y + side)))
        assert (enlarged == np.asarray(image).repeat(ZOOM, 0).repeat(ZOOM, 1)[..., None]).all()
        below = (x, y + side, x + side, y + side + 28)
        assert sheet.crop(below).tobytes() != bare.crop(below).tobytes()


def test_a_caption_stays_within_its_cell_however_long(drawn):
    image = drawn["Bag"]
    sheets = [contact_sheet([(image, text, True)] * 2) for text in ("Bag", "Bag 46 %, no, Ankle boot 45 %, or a Sandal")]
    (x, y), gap = sheet_position(1), 6
    margin = (x - gap, y, x, y + SIZE * ZOOM + 30)
    assert sheets[0].crop(margin).tobytes() == sheets[1].crop(margin).tobytes()


def test_right_and_wrong_differ_without_colour(drawn):
    right, wrong = (contact_sheet([(drawn["Bag"], "Bag", ok)]).convert("L") for ok in (True, False))
    in_two_tones = [sheet.point(lambda v: 255 if v > 200 else 0).tobytes() for sheet in (right, wrong)]
    assert in_two_tones[0] != in_two_tones[1]


def test_a_sheet_grows_by_a_line_for_every_five_drawings(drawn):
    heights = [contact_sheet([(drawn["Bag"], "Bag", True)] * n).height for n in (1, 5, 6, 10, 11)]
    assert heights[0] == heights[1] < heights[2] == heights[3] < heights[4]
    assert heights[4] - heights[2] == heights[2] - heights[0]
