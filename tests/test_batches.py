"""Batches: what augmentation does to images, and what an epoch is made of."""

import random
from dataclasses import replace

import pytest
import torch
from hypothesis import given, strategies as st

from cnnzoo import data
from cnnzoo.data import Augment, _distort, epoch_batches, normalize

# -- augmentation --------------------------------------------------------------------------------------------------------

augments = st.builds(
    Augment, flip=st.booleans(), shift=st.integers(0, 5), cutout=st.integers(0, 12), randaugment=st.integers(0, 3),
    magnitude=st.floats(0, 1), photo=st.sampled_from([0.0, 0.5, 1.0]),
)  # fmt: skip


def random_images(batch: int, chans: int, height: int, width: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, 256, (batch, chans, height, width), generator=generator).to(torch.uint8)  # no black pixel


batches = st.builds(
    random_images, st.integers(1, 6), st.sampled_from([1, 3]), st.integers(4, 32), st.integers(4, 32), st.integers(0, 2**31)
)
seeds = st.integers(0, 2**31)


def draw(augment: Augment, images: torch.Tensor, seed: int) -> dict[str, torch.Tensor]:
    return augment.draw(len(images), tuple(images.shape[2:]), torch.Generator().manual_seed(seed))


@given(augments, batches, seeds)
def test_augmentation_keeps_shape_and_type_and_leaves_its_input_alone(augment, images, seed):
    before = images.clone()
    choices = draw(augment, images, seed)
    out = augment.apply(images, choices)
    assert out.shape == images.shape
    assert out.dtype == torch.uint8
    floats = normalize(out, (0.3,), (0.5,))
    blanked = augment.blank(floats, choices)
    assert blanked.shape == floats.shape
    assert blanked.dtype == torch.float32
    assert torch.equal(images, before)


@given(batches, seeds)
def test_settings_of_zero_change_nothing(images, seed):
    augment = Augment()
    choices = draw(augment, images, seed)
    assert torch.equal(augment.apply(images, choices), images)
    assert torch.equal(augment.blank(images.float(), choices), images.float())


@given(augments, batches, seeds)
def test_a_seed_fixes_what_is_drawn(augment, images, seed):
    first, second = draw(augment, images, seed), draw(augment, images, seed)
    assert all(torch.equal(first[k], second[k]) for k in first)
    torch.manual_seed(random.randrange(2**31))  # the global generator has no say
    assert torch.equal(augment.apply(images, first), augment.apply(images, draw(augment, images, seed)))


@given(st.integers(1, 5), batches, seeds)
def test_a_shift_moves_each_image_by_what_was_drawn_and_black_comes_in(shift, images, seed):
    augment = Augment(shift=shift)
    choices = draw(augment, images, seed)
    out = augment.apply(images, choices)
    height, width = images.shape[2:]
    for i, (dy, dx) in enumerate(zip(choices["dy"].tolist(), choices["dx"].tolist(), strict=True)):
        assert abs(dy) <= shift and abs(dx) <= shift
        expected = torch.zeros_like(images[i])
        for y in range(height):
            for x in range(max(0, -dx), min(width, width - dx)):
                if 0 <= y + dy < height:
                    expected[:, y, x] = images[i, :, y + dy, x + dx]
        assert torch.equal(out[i], expected)


@given(batches, seeds)
def test_a_flip_mirrors_exactly_the_images_drawn(images, seed):
    augment = Augment(flip=True)
    choices = draw(augment, images, seed)
    out = augment.apply(images, choices)
    for i, flipped in enumerate(choices["flip"].tolist()):
        assert torch.equal(out[i], images[i].flip(2) if flipped else images[i])


@given(st.integers(1, 40), batches, seeds)
def test_cutout_blanks_one_square_at_the_place_drawn_and_nothing_else(cutout, images, seed):
    augment = Augment(cutout=cutout)
    choices = draw(augment, images, seed)
    floats = images.float()
    out = augment.blank(floats, choices)
    for i, (top, left) in enumerate(zip(choices["top"].tolist(), choices["left"].tolist(), strict=True)):
        expected = floats[i].clone()
        expected[:, max(top, 0) : max(top + cutout, 0), max(left, 0) : max(left + cutout, 0)] = 0
        assert torch.equal(out[i], expected)
        assert (expected == 0).any()  # the centre of the square is always inside


def test_operations_of_no_magnitude_change_only_what_autocontrast_does(tiny_split):
    images = tiny_split.images[:8]
    for operation, name in enumerate(_distort.OPERATIONS):
        which, sign = torch.full((8, 1), operation), torch.ones(8, 1, dtype=torch.int64)
        same = torch.equal(_distort.randaugment(images, which, sign, 0.0), images)
        assert same or name == "autocontrast"
        assert torch.equal(_distort.photo(images, torch.rand(8, 17), torch.randn(8, 1, 28, 28), 0.0), images)


def test_geometry_moves_an_image_by_what_its_operation_says():
    images = torch.zeros(2, 1, 20, 20, dtype=torch.uint8)
    images[:, :, 8:12, 8:12] = 200
    which = torch.tensor([[_distort.OPERATIONS.index("translate_x")], [_distort.OPERATIONS.index("translate_y")]])
    out = _distort.randaugment(images, which, torch.tensor([[-1], [1]]), 4 / 9)  # 0.45 of the side, of that 4 / 9: 4 pixels
    assert torch.equal(out[0], images[0].roll(4, 2))
    assert torch.equal(out[1], images[1].roll(-4, 1))
    quarter = torch.full((2, 3), _distort.OPERATIONS.index("rotate")), torch.ones(2, 3).long()  # 3 x 30 degrees
    turned = _distort.randaugment(images, *quarter, 1.0)
    assert (turned.int() - images.int()).abs().max() <= 2


def test_each_image_of_a_batch_is_distorted_as_it_would_be_alone(tiny_split):
    augment = Augment(randaugment=2, magnitude=0.5, photo=0.7)
    choices = draw(augment, tiny_split.images, 0)
    together = augment.apply(tiny_split.images, choices)
    for i in (0, 7, 39):
        alone = augment.apply(tiny_split.images[i : i + 1], {k: v[i : i + 1] for k, v in choices.items()})
        assert (alone[0].int() - together[i].int()).abs().max() <= 1  # a sum in another order may round otherwise


def test_a_photo_has_a_background_noise_blur_and_less_contrast():
    images = torch.zeros(400, 1, 28, 28, dtype=torch.uint8)
    images[:, :, 8:20, 8:20] = 220
    augment = Augment(photo=1.0)
    out = augment.apply(images, draw(augment, images, 0)).float()
    assert 0.25 < (out == images).all(3).all(2).float().mean() < 0.45  # a third stays as it is
    corner = out[:, 0, :3, :3]
    assert 0.2 < (corner.mean((1, 2)) > 12).float().mean() < 0.9  # a background, or light
    assert 0.2 < (corner.std((1, 2)) > 3).float().mean() < 0.5  # noise, in half of two thirds
    contrast = out[:, 0, 12:16, 12:16].mean((1, 2)) - corner.mean((1, 2))
    assert (contrast > 0).float().mean() > 0.97  # the garment stays the brighter
    assert contrast.std() > 20


def test_two_views_of_an_image_are_alike_but_for_what_is_blanked(tiny_split):
    one, two = (epoch(tiny_split, augment=Augment(flip=True, shift=1, cutout=8, views=v)) for v in (1, 2))
    for (images, labels), (pairs, twice) in zip(one[:1], two[:1], strict=True):
        assert len(pairs) == 2 * len(images) == len(twice)
        first, second = pairs[0::2], pairs[1::2]
        assert torch.equal(first, images) and torch.equal(twice[0::2], labels) and torch.equal(twice[1::2], labels)
        different = first != second
        assert different.any()
        assert ((first == 0) | (second == 0))[different].all()


def test_views_are_mixed_alike(tiny_split):
    (pairs, labels), *_ = epoch(tiny_split, augment=Augment(cutmix=1.0, views=2))
    assert torch.equal(pairs[0::2], pairs[1::2]) and torch.equal(labels[0::2], labels[1::2])


@pytest.mark.parametrize("world", [1, 3])
def test_so_many_batches_are_mixed_as_the_probability_says(tiny_split, world):
    def mixed(probability: float) -> list[bool]:
        augment = Augment(cutmix=1.0, mix_prob=probability)
        batches = [b for e in range(20) for b in epoch(tiny_split, 3, augment, epoch=e, rank=world - 1, world=world)]
        return [labels.dim() == 2 for _, labels in batches]

    assert all(mixed(1.0)) and not any(mixed(0.0))
    assert 0.4 < sum(mixed(0.5)) / len(mixed(0.5)) < 0.6


def test_over_many_draws_every_choice_comes_up():
    choices = Augment(flip=True, shift=2, cutout=8).draw(2_000, (28, 28), torch.Generator().manual_seed(0))
    assert 0.45 < choices["flip"].float().mean() < 0.55
    assert set(choices["dy"].tolist()) == set(choices["dx"].tolist()) == {-2, -1, 0, 1, 2}
    assert set(choices["top"].tolist()) == set(choices["left"].tolist()) == set(range(-4, 24))


@given(st.integers(0, 2**31), st.floats(0.01, 0.99), st.floats(0.01, 2.0))
def test_normalising_is_undone_by_its_inverse(seed, mean, std):
    images = random_images(2, 1, 5, 6, seed)
    out = normalize(images, (mean,), (std,))
    assert torch.equal(((out * std + mean) * 255).round().to(torch.uint8), images)


# -- batches -------------------------------------------------------------------------------------------------------------

FULL = Augment(flip=True, shift=2, cutout=8)


def epoch(split: data.Split, batch_size: int = 12, augment: Augment = FULL, **kwargs) -> list:
    return list(epoch_batches(split, batch_size, augment, **{"seed": 3, "epoch": 0, **kwargs}))


DISTORTED = replace(FULL, randaugment=2, cutmix=1.0, mix_prob=0.5)


@pytest.mark.parametrize("world", [1, 2, 3, 4, 6, 12])
@pytest.mark.parametrize("augment", [FULL, DISTORTED], ids=["usual", "distorted"])
def test_any_number_of_processes_shares_out_the_same_global_batches(tiny_split, world, augment):
    alone = epoch(tiny_split, augment=augment)
    parts = [epoch(tiny_split, augment=augment, rank=rank, world=world) for rank in range(world)]
    assert all(len(part) == len(alone) == 3 for part in parts)
    for step, (images, labels) in enumerate(alone):
        for rank, part in enumerate(parts):
            assert torch.equal(part[step][0], images[rank::world])
            assert torch.equal(part[step][1], labels[rank::world])


def test_an_epoch_takes_every_image_at_most_once_and_leaves_out_only_a_last_smaller_batch(tiny_split):
    numbered = replace(tiny_split, labels=torch.arange(40))
    seen = torch.cat([labels for _, labels in epoch(numbered)]).tolist()
    assert len(seen) == len(set(seen)) == 36
    assert sorted(torch.cat([labels for _, labels in epoch(numbered, 8)]).tolist()) == list(range(40))


def test_seed_and_epoch_alone_decide_order_and_augmentation(tiny_split):
    def first(**kwargs) -> torch.Tensor:
        return epoch(tiny_split, **kwargs)[0][0]

    assert torch.equal(first(), first())
    assert not torch.equal(first(), first(epoch=1))
    assert not torch.equal(first(), first(seed=4))


def test_batches_are_the_images_normalised_in_channels_last_order(tiny_split):
    numbered = replace(tiny_split, labels=torch.arange(40))
    for images, labels in epoch(numbered, augment=Augment()):
        assert images.dtype == torch.float32
        assert images.is_contiguous(memory_format=torch.channels_last)
        info = tiny_split.info
        expected = (tiny_split.images[labels].double() / 255 - info.mean[0]) / info.std[0]
        torch.testing.assert_close(images.double(), expected, rtol=1e-5, atol=1e-6)


def test_labels_stay_with_their_images(tiny_split):
    painted = replace(tiny_split, images=torch.arange(40).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 28, 28).clone())
    painted = replace(painted, labels=torch.arange(40))
    for images, labels in epoch(painted, augment=Augment(flip=True)):
        back = (images[:, 0, 0, 0] * 0.3530 + 0.2860) * 255
        assert back.round().long().tolist() == labels.tolist()
