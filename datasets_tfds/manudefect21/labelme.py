"""Masks from the polygons that LabelMe, an annotation tool, writes as JSON."""

import json
import math
from pathlib import Path

import numpy as np
from jaxtyping import Bool
from PIL import Image, ImageDraw

from datasets_tfds.core import read_bytes
from jaxad.errors import UserError


def draw_mask(file: Path, size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """The mask that a LabelMe file describes: True in its polygons, rectangles and circles, outlines included.

    Args:
      file: the JSON file.
      size: height and width of the image.

    Raises:
      UserError: not a LabelMe file, a shape without an area, or shapes drawn on an image of another size.
    """
    try:
        content = json.loads(read_bytes(file))
        drawn_on = (content.get("imageHeight") or size[0], content.get("imageWidth") or size[1])
        shapes = [
            (shape.get("shape_type") or "polygon", [(float(x), float(y)) for x, y in shape["points"]])
            for shape in content["shapes"]
        ]
        if not all(math.isfinite(value) for _, points in shapes for point in points for value in point):
            raise ValueError("a coordinate is not a finite number")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(
            f"{file} is not a LabelMe file ({reason}): expected an object with shapes and points"
        ) from error
    if drawn_on != size:
        raise UserError(
            f"mask {file} was drawn on an image of {drawn_on[1]}x{drawn_on[0]} pixels, but its image has "
            f"{size[1]}x{size[0]} (after EXIF rotation): redraw it on that image"
        )
    mask = Image.new("1", (size[1], size[0]))
    draw = ImageDraw.Draw(mask)
    for kind, points in shapes:
        if kind == "polygon" and len(points) > 2:
            draw.polygon(points, outline=1, fill=1)
        elif kind == "rectangle" and len(points) == 2:
            (left, right), (top, bottom) = (sorted(values) for values in zip(*points, strict=True))
            draw.rectangle((left, top, right, bottom), outline=1, fill=1)
        elif kind == "circle" and len(points) == 2:
            (x, y), rim = points
            radius = math.hypot(rim[0] - x, rim[1] - y)
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=1, fill=1)
        else:
            raise UserError(
                f"{file} holds the shape {kind!r} with {len(points)} points: expected polygons with three points or "
                "more, or rectangles and circles with two"
            )
    return np.asarray(mask)
