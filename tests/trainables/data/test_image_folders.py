"""Folders of images as data sets."""

from __future__ import annotations

import os
import shutil
import struct
from pathlib import Path
from typing import Any
from zlib import compress, crc32

import numpy as np
import pytest
from PIL import Image

from foldrace.errors import DataError
from foldrace.trainables.data.arrays import Dataset
from foldrace.trainables.data.datasets import load_dataset

_FORMATS = {
    ".JPG": "JPEG",
    ".TIFF": "TIFF",
    ".dib": "DIB",
    ".gif": "GIF",
    ".jfif": "JPEG",
    ".jpe": "JPEG",
    ".webp": "WEBP",
}


def put(path: Path, value: int, mode: str = "L", size: tuple[int, int] = (5, 6)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(
        mode, size, value if mode in ("L", "I", "I;16") else (value, 0, 0)[: len(mode)]
    ).save(path)


def load(root: Path, **options: Any) -> Dataset:
    return load_dataset(str(root), data_dir=root / "unused", **options)


def refusal(root: Path, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        load(root, **options)
    return str(caught.value)


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    for label, base in (("dog", 100), ("cat", 0)):
        for i in range(10):
            put(tmp_path / "train" / label / f"{i:02}.png", base + i)
    for label, base in (("cat", 50), ("dog", 150)):
        put(tmp_path / "test" / label / "0.png", base)
    return tmp_path


def test_class_folders_give_labels_in_sorted_order(classes):
    data = load(classes)
    assert data.class_names == ("cat", "dog") and data.sample_shape == (1, 6, 5)
    assert data.images[:, 0, 0, 0].tolist() == [*range(10), *range(100, 110)]
    assert data.labels is not None and data.labels.tolist() == [0] * 10 + [1] * 10
    assert data.test_images[:, 0, 0, 0].tolist() == [50, 150]
    assert data.test_labels is not None and data.test_labels.tolist() == [0, 1]


def test_a_flat_folder_has_no_labels_and_a_held_out_tenth(tmp_path):
    for i in range(20):
        put(tmp_path / f"{i:02}.png", i)
    data = load(tmp_path)
    assert data.labels is None and data.test_labels is None and data.class_names == ()
    assert (len(data), len(data.test_images)) == (18, 2)
    assert (np.diff(data.images[:, 0, 0, 0].astype(int)) > 0).all()


def test_deeper_folders_belong_to_their_class_and_others_are_ignored(classes):
    before = load(classes).digest
    (classes / "train" / "cat" / "notes.txt").write_text("not an image")
    (classes / "train" / "empty").mkdir()
    put(classes / "train" / "cat" / ".thumbnails" / "0.png", 9)
    put(classes / "train" / "cat" / "._00.png", 9)
    assert load(classes).digest == before
    put(classes / "train" / "cat" / "older" / "1.png", 77)
    data = load(classes)
    assert data.labels is not None and data.labels.tolist().count(0) == 11


def test_a_class_folder_may_be_a_link_and_hidden_folders_are_left_out(classes, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "mice"
    put(elsewhere / "0.png", 30)
    (classes / "train" / "mouse").symlink_to(elsewhere)
    put(classes / "train" / ".cache" / "0.png", 9)
    put(classes / ".cache" / "0.png", 9)
    data = load(classes)
    assert data.class_names == ("cat", "dog", "mouse")
    assert data.labels is not None and data.labels.tolist() == [0] * 10 + [1] * 10 + [2]


def test_one_coloured_image_makes_all_of_them_rgb(classes):
    put(classes / "test" / "dog" / "1.png", 200, "RGBA")
    data = load(classes)
    assert data.sample_shape == (3, 6, 5)
    assert (data.images[3] == 3).all()
    assert data.test_images[-1, :, 0, 0].tolist() == [200, 0, 0]


def test_images_of_different_sizes_need_a_size(classes):
    put(classes / "train" / "dog" / "05.png", 105, size=(7, 9))
    message = refusal(classes)
    assert "05.png" in message and "7×9" in message and "5×6" in message and "size" in message
    data = load(classes, size=(4, 3))
    assert data.sample_shape == (1, 4, 3) and (data.images[15] == 105).all()


def test_a_broken_file_is_named(classes):
    whole = (classes / "train" / "cat" / "03.png").read_bytes()
    (classes / "train" / "cat" / "03.png").write_bytes(whole[: len(whole) // 2])
    assert "03.png: cannot be read as an image" in refusal(classes)
    (classes / "train" / "cat" / "03.png").write_text("no image")
    assert "03.png: cannot be read as an image" in refusal(classes)


def test_sixteen_bits_are_refused_rather_than_clipped(classes):
    put(classes / "train" / "cat" / "03.png", 3000, "I;16")
    assert "03.png" in refusal(classes) and "8 bits" in refusal(classes)


# --- every file is used or named


def png16(pixels: np.ndarray) -> bytes:
    """A PNG of 16 bits a channel, which Pillow cannot write for colours."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc32(kind + data))

    height, width, *channels = pixels.shape
    colour = {(): 0, (3,): 2, (2,): 4, (4,): 6}[tuple(channels)]
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.parametrize("channels", [(), (2,), (3,), (4,)])
def test_more_than_eight_bits_are_refused_in_grey_and_in_colour(tmp_path, channels):
    for i in range(4):
        (tmp_path / f"{i}.png").write_bytes(png16(np.full((6, 5, *channels), 200)))
    message = refusal(tmp_path)
    assert "0.png" in message and "more than 8 bits" in message and "4 such files of 4" in message
    assert "value / 257" in message


def test_more_than_eight_bits_are_refused_in_any_format(tmp_path):
    """Also where Pillow's mode is that of 8 bits: a TIFF of separate planes, a PPM."""
    planes = b"".join(np.full((4, 4), value, "<u2").tobytes() for value in (300, 600, 65535))
    at = [8 + 32 * index for index in range(3)]
    extra = (
        struct.pack("<HHH", 16, 16, 16)
        + struct.pack("<III", *at)
        + struct.pack("<III", 32, 32, 32)
    )
    bits, offsets, sizes = 104, 110, 122
    tags = [(256, 3, 1, 4), (257, 3, 1, 4), (258, 3, 3, bits), (259, 3, 1, 1), (262, 3, 1, 2)]
    tags += [
        (273, 4, 3, offsets),
        (277, 3, 1, 3),
        (278, 3, 1, 4),
        (279, 4, 3, sizes),
        (284, 3, 1, 2),
    ]
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
    header = b"II*\0" + struct.pack("<I", 8 + len(planes) + len(extra))
    deep = {
        "planes.tif": header + planes + extra + directory + bytes(4),
        "raw.ppm": b"P6\n4 4\n65535\n" + bytes(96),
        "text.ppm": b"P3\n1 1\n1023\n1 2 3\n",
    }
    for name, content in deep.items():
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        (folder / name).write_bytes(content)
        assert "more than 8 bits per channel" in refusal(folder)
    (tmp_path / "eight").mkdir()
    for name in "abc":
        (tmp_path / "eight" / f"{name}.ppm").write_bytes(b"P6\n4 4\n255\n" + bytes(48))
    assert load(tmp_path / "eight").images.shape[1:] == (3, 4, 4)


def test_sixteen_bits_for_all_channels_together_are_read(tmp_path):
    header = struct.pack("<IiiHHIIiiII", 40, 8, 6, 1, 16, 3, 96, 0, 0, 0, 0)
    header += struct.pack("<III", 0xF800, 0x07E0, 0x001F)
    start = struct.pack("<2sIHHI", b"BM", 14 + len(header) + 96, 0, 0, 14 + len(header))
    for i in range(4):
        (tmp_path / f"{i}.bmp").write_bytes(start + header + struct.pack("<H", 0xF81F) * 48)
    assert load(tmp_path).images[0, :, 0, 0].tolist() == [255, 0, 255]


@pytest.mark.parametrize("mode", ["L", "1", "LA", "P"])
def test_grey_images_have_one_channel_however_they_are_stored(tmp_path, mode):
    for i in range(10):
        grey = Image.new("L", (5, 6), 255 * (i % 2))
        grey.putpixel((0, 0), 255)
        grey.convert(mode).save(tmp_path / f"{i}.png")
    data = load(tmp_path)
    assert data.sample_shape == (1, 6, 5)
    assert set(np.unique(data.images)) == {0, 255}


def test_one_palette_of_colours_makes_all_images_rgb(tmp_path):
    for i in range(10):
        picture = Image.new("RGB", (5, 6), (i, i, i + 100 * (i == 7)))
        picture.convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / f"{i}.png")
    data = load(tmp_path)
    assert data.sample_shape == (3, 6, 5)
    everything = np.concatenate([data.images, data.test_images])
    assert (everything[:, 2] - everything[:, 0]).max() == 100


@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "webp"])
def test_images_are_turned_upright(tmp_path, ending):
    upright = np.zeros((8, 16, 3), dtype=np.uint8)
    upright[:, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90° clockwise
    for i in range(4):
        turned = Image.fromarray(np.rot90(upright))
        turned.save(tmp_path / f"{i}.{ending}", exif=exif, quality=100)
    data = load(tmp_path)
    assert data.sample_shape[1:] == (8, 16)
    assert abs(data.images[0].astype(int) - upright.transpose(2, 0, 1)).max() < 9


def test_what_is_used_in_part_is_named(tmp_path, caplog):
    for i in range(4):
        put(tmp_path / f"{i}.png", 100 + i)
    page = Image.new("L", (5, 6), 50)
    page.save(tmp_path / "pages.tif", save_all=True, append_images=[page, page])
    Image.new("LA", (5, 6), (60, 9)).save(tmp_path / "clear.png")
    for i in range(6):
        Image.new("LA", (5, 6), (60, 9)).save(tmp_path / f"more{i}.png")
    Image.new("L", (5, 6), 70).save(tmp_path / "exif.png", exif=b"Exif\0\0MM\0*\0\0")
    data = load(tmp_path)
    values = np.concatenate([data.images, data.test_images])[:, 0, 0, 0]
    assert set(values.tolist()) == {50, 60, 70, 100, 101, 102, 103}
    assert "several pages, of which the first is used (1): pages.tif" in caplog.text
    listed = "clear.png, more0.png, more1.png, more2.png, more3.png and 2 more"
    assert f"transparency, which is left out (7): {listed}" in caplog.text
    assert "damaged EXIF data, so not turned upright (1): exif.png" in caplog.text


def test_what_is_left_out_is_named_and_counted(classes, caplog):
    (classes / "train" / "labels.csv").write_text("0,cat")
    (classes / "train" / "cat" / "b\nad\udcff.txt").write_text("")
    put(classes / "train" / "cat" / "._00.png", 9)
    put(classes / "train" / "cat" / ".thumbnails" / "0.png", 9)
    (classes / "train" / "dog" / "loop").symlink_to(classes)
    (classes / "notes").symlink_to(classes / "nowhere")
    load(classes)
    text = caplog.text
    assert "left out, hidden (2): train/cat/._00.png, train/cat/.thumbnails" in text
    assert "left out, not an image by the ending of the name (3): notes, train/cat/b\\nad" in text
    assert "left out, a link to a folder above (1): train/dog/loop" in text


@pytest.mark.parametrize("ending", [".JPG", ".jfif", ".jpe", ".webp", ".TIFF", ".gif", ".dib"])
def test_every_usual_ending_counts(tmp_path, ending):
    for i in range(3):
        put(tmp_path / f"{i}.png", 100)
        Image.new("L", (5, 6), 100).save(tmp_path / f"more{i}{ending}", format=_FORMATS[ending])
    data = load(tmp_path)
    assert len(data) + len(data.test_images) == 6


def test_images_that_cannot_be_read_are_counted(classes):
    (classes / "train" / "cat" / "03.png").write_text("no image")
    (classes / "train" / "dog" / "gone.png").symlink_to(classes / "nowhere.png")
    os.mkfifo(classes / "train" / "dog" / "pipe.png")
    assert "03.png: cannot be read as an image" in refusal(classes)
    assert "(3 such files of 24)" in refusal(classes)
    (classes / "train" / "cat" / "03.png").unlink()
    assert "gone.png: is a link that leads nowhere (2 such files of 23)" in refusal(classes)
    (classes / "train" / "dog" / "gone.png").unlink()
    assert "pipe.png: is not a regular file; repair it" in refusal(classes)


def test_almost_black_images_are_not_used_without_a_word(tmp_path, caplog):
    for i in range(4):
        put(tmp_path / f"{i}.png", i % 2)
    load(tmp_path)
    assert "almost black: no value exceeds 1 of 255" in caplog.text


def test_a_test_image_that_is_a_training_image_is_named(classes, caplog):
    (classes / "test" / "cat" / "1.png").symlink_to(classes / "train" / "cat" / "01.png")
    shutil.copy(classes / "train" / "cat" / "02.png", classes / "test" / "cat" / "2.png")
    load(classes)
    said = "test images that are training images too (2): test/cat/1.png, test/cat/2.png"
    assert said in caplog.text


def test_a_folder_without_images_is_named(classes, caplog):
    (classes / "train" / "bird" / "deeper").mkdir(parents=True)
    load(classes)
    assert "left out, a folder without images (1): train/bird" in caplog.text
