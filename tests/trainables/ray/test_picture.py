"""The picture of reconstructions."""

from __future__ import annotations

import io

import pytest
import torch
from PIL import Image

from foldrace.trainables.ray.picture import strip_png


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_strip_shows_originals_above_their_reconstructions(channels):
    originals = torch.randint(0, 200, (3, channels, 6, 4), dtype=torch.uint8)
    below = torch.randint(0, 200, (3, channels, 6, 4), dtype=torch.uint8)
    png = strip_png(originals, below, scale=1, gap=2)
    picture = torch.tensor(list(Image.open(io.BytesIO(png)).getdata()), dtype=torch.uint8)
    picture = picture.reshape(2 * 6 + 2, 3 * 4 + 2 * 2, 3).permute(2, 0, 1)
    for column in range(3):
        for top, images in ((0, originals), (8, below)):
            tile = picture[:, top : top + 6, column * 6 : column * 6 + 4]
            assert torch.equal(
                tile, images[column, :3].expand(3, 6, 4) if channels == 1 else images[column, :3]
            )
    assert (picture[:, 6:8] == 255).all() and (picture[:, :, 4:6] == 255).all()


def test_a_scaled_strip_repeats_each_pixel():
    images = torch.randint(0, 200, (2, 3, 4, 5), dtype=torch.uint8)
    small, large = (
        torch.tensor(list(Image.open(io.BytesIO(strip_png(images, images, scale=s))).getdata()))
        for s in (1, 3)
    )
    small, large = small.reshape(10, 12, 3), large.reshape(30, 36, 3)
    assert torch.equal(small.repeat_interleave(3, 0).repeat_interleave(3, 1), large)
