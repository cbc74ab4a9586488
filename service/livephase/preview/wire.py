"""The binary message of a preview: magic, length of the header, JSON header, float16 pixels.

::

    bytes 0-3      b"LPH1"
    bytes 4-7      uint32 little-endian: length of the header, a multiple of 8 (padded with spaces)
    header         JSON, UTF-8
    the rest       float16 little-endian, rows x columns = header["height"] x header["width"]
"""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any, cast

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from livephase.preview.frame import Kind, PreviewFrame
    from livephase.preview.render import Region

MAGIC = b"LPH1"
_PREFIX = struct.Struct("<4sI")


def header_of(frame: PreviewFrame, kind: Kind, region: Region, *, age_ms: float, dropped: int) -> dict[str, Any]:
    """Return the header of a message.

    Parameters
    ----------
    frame : PreviewFrame
        The frame that is sent; it has an image of `kind`.
    kind : {"phase", "raw"}
        Which of its images.
    region : Region
        The part of the image that is sent.
    age_ms : float
        Time since the exposure began.
    dropped : int
        Frames that this viewer was not sent because it was busy with earlier ones.

    Returns
    -------
    dict
        ``x``, ``y``, ``full_width`` and ``full_height`` count pixels of the image of `kind`, of side
        ``pixel_um``; ``width`` and ``height`` count bins of ``bin`` x ``bin`` such pixels.
    """
    image = frame.image(kind)
    if image is None:
        raise ValueError(f"frame {frame.sequence} has no image of kind {kind!r}")
    return {
        "seq": frame.sequence,
        "kind": kind,
        "x": region.x,
        "y": region.y,
        "bin": region.bin,
        "width": region.columns,
        "height": region.rows,
        "hr_pixel_um": frame.hr_pixel_um,
        "pixel_um": frame.pixel_um(kind),
        "full_width": image.shape[1],
        "full_height": image.shape[0],
        "bit_depth": frame.bit_depth,
        # nanoseconds since 1970 do not fit the 53 bits of a JSON number in JavaScript
        "time_utc_ns": str(frame.time_utc_ns),
        "age_ms": round(age_ms, 1),
        "defocus_um": frame.defocus_um,
        "source": frame.source,
        "run_id": frame.run_id,
        "time_point": frame.time_point,
        "out_of_range": frame.out_of_range,
        "saturated_fraction": frame.saturated_fraction,
        "misfit": _number(frame.misfit),
        "misfit_threshold": _number(frame.misfit_threshold),
        "dropped": dropped,
    }


def _number(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def encode(header: dict[str, Any], pixels: bytes | memoryview) -> bytes:
    """Return the message of a header and the bytes of its pixels."""
    text = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
    text += b" " * (-len(text) % 8)
    return b"".join((_PREFIX.pack(MAGIC, len(text)), text, pixels))


def decode(message: bytes) -> tuple[dict[str, Any], NDArray[np.float16]]:
    """Return header and pixels (rows, columns) of a message.

    Raises
    ------
    ValueError
        The bytes are not one whole message.
    """
    if len(message) < _PREFIX.size:
        raise ValueError(f"{len(message)} bytes are too short for a preview message")
    magic, length = _PREFIX.unpack_from(message)
    if magic != MAGIC or length % 8 or _PREFIX.size + length > len(message):
        raise ValueError("not a preview message: wrong magic or header length")
    header = cast("dict[str, Any]", json.loads(message[_PREFIX.size : _PREFIX.size + length]))
    try:
        rows, columns = int(header["height"]), int(header["width"])
    except (KeyError, TypeError) as error:
        raise ValueError("not a preview message: its header states no size") from error
    start = _PREFIX.size + length
    if len(message) - start != 2 * rows * columns:
        raise ValueError(f"{len(message) - start} bytes of pixels, expected {rows} x {columns} of 2 bytes")
    return header, np.frombuffer(message, "<f2", offset=start).reshape(rows, columns)
