import torch

from omniforcing_model.codecs.pixels import from_pixels, to_pixels


def test_black_is_minus_one_and_white_is_one():
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(1, 1, 1, 3)
    pictures = from_pixels(pixels)
    assert pictures.shape == (1, 3, 1, 1)
    assert pictures.dtype == torch.float32
    assert torch.equal(pictures.flatten(), torch.tensor([-1.0, -0.6, 1.0]))


def test_every_grey_level_comes_back():
    levels = torch.arange(256, dtype=torch.uint8).reshape(2, 8, 16, 1).expand(-1, -1, -1, 3)
    assert torch.equal(to_pixels(from_pixels(levels)), levels)


def test_colours_stay_in_their_places():
    pixels = torch.arange(2 * 4 * 5 * 3, dtype=torch.uint8).reshape(1, 2, 4, 5, 3)
    pictures = from_pixels(pixels)
    assert pictures.shape == (1, 2, 3, 4, 5)
    assert pictures[0, 1, 2, 3, 4] == pixels[0, 1, 3, 4, 2] / 127.5 - 1
    assert torch.equal(to_pixels(pictures), pixels)
    assert to_pixels(pictures).is_contiguous()


def test_numbers_are_rounded_and_cut_at_black_and_white():
    numbers = torch.tensor([-1.5, -1 + 0.4 / 127.5, -1 + 0.6 / 127.5, 0.999, 2.0, 0.0])
    pixels = to_pixels(numbers.reshape(2, 3, 1, 1))
    assert pixels.flatten().tolist() == [0, 0, 1, 255, 255, 128]


def test_half_precision_is_rounded_as_float32_is():
    pictures = torch.tensor([0.5, -0.25, 0.75], dtype=torch.bfloat16).reshape(1, 3, 1, 1)
    assert to_pixels(pictures).flatten().tolist() == [191, 96, 223]
