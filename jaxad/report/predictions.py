"""The output of `--mode=predict`: predictions.csv, and an anomaly map and an overlay for every image."""

import contextlib
import csv
import hashlib
import io
import itertools
import math
import os
import shutil
import tempfile
from pathlib import Path, PurePosixPath
from types import EllipsisType, TracebackType
from typing import Literal, Self

import numpy as np
from jaxtyping import Float, UInt8

from jaxad.errors import UserError
from jaxad.files import cannot_write, replacing
from jaxad.report.overlay import write_map_npy, write_map_png16, write_overlay

COLUMNS = ("path", "score", "threshold", "decision")
MapFormat = Literal["png16", "npy"]
_NAME_BYTES = 255  # what Linux, macOS and Windows file systems allow


def decide(score: float, threshold: float | None) -> str:
    """Says "anomalous" above the threshold, else "normal"; "" without a threshold or with a NaN score."""
    if threshold is None or math.isnan(score):
        return ""
    return "anomalous" if score > threshold else "normal"


class PredictionWriter:
    """Writes predictions one by one; a complete predictions.csv appears if the `with` block ends without an exception.

    Below `directory`: `predictions.csv`, `maps/` and `overlays/`, both with the sub-folders of the images. Files have
    the stem of their image; where two images in a folder share it, the later one's extension is added ("tile.jpg" and
    "tile.png" become "tile.png" and "tile_png.png").

    Args:
      threshold: scores above it are anomalous; None where none was calibrated.
      map_format: "npy" keeps the exact values. "png16" is a picture too, see `write_map_png16`; nothing is clipped: a
        map that exceeds `scale` has a wider scale of its own in the text entries of its file.
      scale: (low, high) of the heat colours, the same for all images so that they can be compared.

    Raises:
      UserError: a file cannot be written.
    """

    def __init__(
        self,
        directory: Path | str,
        threshold: float | None,
        map_format: MapFormat = "png16",
        scale: tuple[float, float] = (0.0, 1.0),
    ):
        if map_format not in ("png16", "npy"):
            raise UserError(f"map format is {map_format!r}, expected 'png16' or 'npy'")
        self.directory = Path(directory)
        self.threshold = threshold
        self._map_format = map_format
        self._low, self._high = scale
        self._used: set[str] = set()

    def __enter__(self) -> Self:
        self.csv_path = self.directory / "predictions.csv"
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            rows = tempfile.TemporaryFile(dir=self.directory)
        except OSError as error:
            raise cannot_write(self.csv_path, error) from error
        self._rows = io.TextIOWrapper(rows, encoding="utf-8", errors="backslashreplace", newline="")
        self._csv = csv.writer(self._rows)
        self._write_row(COLUMNS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                with replacing(self.csv_path) as file:
                    self._rows.flush()
                    self._rows.buffer.seek(0)
                    shutil.copyfileobj(self._rows.buffer, file)
        finally:
            # on a full disk closing fails once more, for rows that are lost anyway
            with contextlib.suppress(OSError):
                self._rows.close()

    def add(
        self,
        path: Path | str,
        relative_path: Path | str,
        image: UInt8[np.ndarray, "h w 3"],
        map: Float[np.ndarray, "h w"],
        score: float,
        *,
        threshold: float | EllipsisType | None = ...,
    ) -> None:
        """Writes the map and the overlay of one image, and its row of the CSV file.

        Args:
          path: the image as the user gave it; the first column.
          relative_path: the image relative to the folder of images; gives its outputs their sub-folder and name.
          image: the photograph at its own size.
          map: the anomaly map at the same size; NaN outside the crop that the method saw.
          score: the image score.
          threshold: of this image, None for none; by default the writer's.

        Raises:
          UserError: the map holds infinite values or no number at all, `relative_path` leads out of the folder, or a
            file cannot be written.
          ValueError: image and map differ in size.
        """
        if image.shape[:2] != map.shape:
            raise ValueError(
                f"{path}: map of shape {map.shape} for an image of shape {image.shape}, expected the same size"
            )
        name = self._unique_name(PurePosixPath(Path(relative_path).as_posix()))
        if self._map_format == "npy":
            write_map_npy(self.directory / "maps" / f"{name}.npy", map)
        else:
            low, high = min(self._low, float(np.nanmin(map))), max(self._high, float(np.nanmax(map)))
            write_map_png16(self.directory / "maps" / f"{name}.png", map, low, high)
        write_overlay(self.directory / "overlays" / f"{name}.png", image, map, self._low, self._high)
        used = self.threshold if threshold is ... else threshold
        shown = "" if used is None else repr(float(used))
        self._write_row((os.fspath(path), repr(float(score)), shown, decide(float(score), used)))

    def _write_row(self, row: tuple[str, ...]) -> None:
        try:
            self._csv.writerow(row)
        except OSError as error:
            raise cannot_write(self.csv_path, error) from error

    def _unique_name(self, relative: PurePosixPath) -> PurePosixPath:
        if relative.is_absolute() or ".." in relative.parts or not relative.name:
            raise UserError(f"{relative}: expected the image's path below the folder of images, without '..'")
        extension = relative.suffix.removeprefix(".")
        endings = itertools.chain(("", f"_{extension}"), (f"_{extension}_{count}" for count in itertools.count(2)))
        names = (relative.with_name(_shortened(relative.stem + ending)) for ending in endings)
        # file systems of macOS and Windows do not distinguish upper and lower case
        name = next(name for name in names if str(name).casefold() not in self._used)
        self._used.add(str(name).casefold())
        return name


def _shortened(stem: str) -> str:
    """The stem; its beginning and a hash where the file name would be too long."""
    encoded = os.fsencode(stem)
    if len(encoded) + len(".png") <= _NAME_BYTES:
        return stem
    digest = "-" + hashlib.sha256(encoded).hexdigest()[:16]
    return encoded[: _NAME_BYTES - len(".png") - len(digest)].decode("utf-8", "ignore") + digest
