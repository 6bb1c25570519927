"""Images as the fields of a data set, for the tests that have no more than an array of them."""

from __future__ import annotations

from typing import Any

from foldrace.trainables.data.arrays import describe
from foldrace.trainables.data.sample import FieldInfo, Roles, Sample


def image_fields(images: Any) -> tuple[dict[str, Any], Sample]:
    """The fields and the description of samples that are one image."""
    fields = {"images": images}
    return fields, describe(fields, {}, Roles(), {})


def image_sample(*shape: int) -> Sample:
    """Samples that are one image of (channels, height, width)."""
    return Sample({"images": FieldInfo("images", shape, "uint8", 0.0, 255.0)})
