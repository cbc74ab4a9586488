"""Reconstruction of recorded frames: from their own pixel to the model's, and through the worker in order."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from livephase.errors import InferenceError, WorkerDiedError
from livephase.phase.preprocess import model_pixel_um, resample_area

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from concurrent.futures import Future

    from numpy.typing import NDArray

    from livephase.frames import PhaseResult
    from livephase.inference.client import InferenceClient
    from livephase.phase.modelfile import ModelCard

    Pixels = NDArray[np.uint8] | NDArray[np.uint16]

_WINDOW = 3
"""Frames submitted ahead: two lie in the worker's slots, one waits."""
_ATTEMPTS = 3
"""A frame that ends this many workers is given up."""
_RESAMPLED_BITS = 16
_MAX_COUNTS = 2**_RESAMPLED_BITS - 1


@dataclass(frozen=True, slots=True)
class FramePlan:
    """How recorded frames become the model's LR frames.

    Attributes
    ----------
    recorded_pixel_um, lr_pixel_um : float
        Pixel at the specimen before and after; different when the recorded one is finer than the model's range.
    lr_shape : (int, int)
        (Y, X) of an LR frame.
    dtype : str
        Of an LR frame: as recorded, or uint16 after resampling.
    bit_depth, recorded_bits : int
        Of an LR frame, and of a recorded one.
    gain : float
        LR counts per recorded count: averages of many pixels are finer than a count.
    """

    recorded_pixel_um: float
    lr_pixel_um: float
    lr_shape: tuple[int, int]
    dtype: str
    bit_depth: int
    recorded_bits: int
    gain: float

    @property
    def is_resampled(self) -> bool:
        """Whether frames are averaged onto coarser pixels."""
        return self.lr_pixel_um != self.recorded_pixel_um

    def convert(self, pixels: Pixels) -> Pixels:
        """Turn a recorded frame into the model's LR frame, (Y, X) counts.

        Raises
        ------
        InferenceError
            The frame is brighter than every frame that the plan was made for.
        """
        if not self.is_resampled:
            return pixels
        averaged = resample_area(pixels, self.recorded_pixel_um, self.lr_pixel_um)
        counts = np.round(averaged * self.gain)
        if counts.max() > _MAX_COUNTS:
            msg = (
                f"a resampled frame reaches {counts.max():.0f} counts, more than the {_MAX_COUNTS} of uint16; "
                "the recording changed while it was read: reconstruct it again"
            )
            raise InferenceError(msg)
        return counts.astype(np.uint16)

    def convert_reference(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Bring a dark frame or the light of a flat field to the pixels and counts of an LR frame."""
        if not self.is_resampled:
            return image
        return resample_area(image, self.recorded_pixel_um, self.lr_pixel_um) * np.float32(self.gain)


def plan_frames(card: ModelCard, frames: Iterable[Pixels], pixel_um: float) -> FramePlan:
    """Decide how frames are given to the model.

    Parameters
    ----------
    card : ModelCard
        The model; frames finer than its valid range are averaged (``preprocess.model_pixel_um``).
    frames : iterable of NDArray[uint8 or uint16]
        All frames (Y, X), at least one. The brightest pixel of the first tells the bit depth of uint16 frames; where
        they are resampled all are read, because the gain must not make any of them overflow.
    pixel_um : float
        Recorded pixel at the specimen.
    """
    remaining = iter(frames)
    first = next(remaining)
    height, width = first.shape
    target_um = model_pixel_um(card, pixel_um)
    brightest = int(first.max())
    if target_um != pixel_um and first.dtype != np.uint8:
        brightest = max([brightest, *(int(pixels.max()) for pixels in remaining)])
    bits = 8 if first.dtype == np.uint8 else max(8, brightest.bit_length())
    if target_um == pixel_um:
        return FramePlan(pixel_um, pixel_um, (height, width), first.dtype.name, bits, bits, 1.0)
    rows, columns = resample_area(np.zeros((height, width), np.uint8), pixel_um, target_um).shape
    gain = 2.0 ** (_RESAMPLED_BITS - bits)
    return FramePlan(pixel_um, target_um, (rows, columns), "uint16", _RESAMPLED_BITS, bits, gain)


def reconstruct(
    client: InferenceClient, frames: Iterable[Pixels], defocus_um: float, bit_depth: int
) -> Iterator[tuple[Pixels, PhaseResult | InferenceError]]:
    """Compute the phase of every frame, in order, a few frames ahead of the consumer.

    Parameters
    ----------
    client : InferenceClient
        Started.
    frames : iterable of NDArray[uint8 or uint16]
        LR frames (Y, X).
    defocus_um : float
        Of all frames.
    bit_depth : int
        Of all frames.

    Yields
    ------
    tuple
        The frame, and its phase or why it has none.
    """
    waiting: deque[tuple[Pixels, Future[PhaseResult]]] = deque()
    for pixels in frames:
        waiting.append((pixels, client.submit(pixels, defocus_um, bit_depth=bit_depth)))
        if len(waiting) >= _WINDOW:
            yield _finish(client, *waiting.popleft(), defocus_um, bit_depth)
    while waiting:
        yield _finish(client, *waiting.popleft(), defocus_um, bit_depth)


def _finish(
    client: InferenceClient, pixels: Pixels, future: Future[Any], defocus_um: float, bit_depth: int
) -> tuple[Pixels, PhaseResult | InferenceError]:
    attempts = 1
    while True:
        try:
            return pixels, future.result()
        except WorkerDiedError as error:
            if attempts == _ATTEMPTS:
                return pixels, error
            attempts += 1
            future = client.submit(pixels, defocus_um, bit_depth=bit_depth)
        except InferenceError as error:
            return pixels, error
