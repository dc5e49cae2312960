"""Images on their way to the device: from its own memory, or from the host's while it computes.

A set that does not fit on the device stays where it is, usually in memory-mapped files. One
thread reads the rows of the next batches; towards a GPU they go through pinned memory, on a
stream of their own, so that neither the disk nor the copy is waited for.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager

import numpy as np
import torch
from torch import Tensor

from raysearch.data.parallel import in_order
from raysearch.data.reading import ImageStack

Rows = Tensor | slice


class HostImages:
    """uint8 ``[N, C, H, W]`` that stay on the host and reach ``device`` by batches.

    Where training and evaluation read images, it stands for the tensor: it has a length and a
    shape, a slice is a view, and rows by number are a tensor on the device.
    """

    def __init__(
        self,
        images_NCHW: np.ndarray | ImageStack,
        device: torch.device | str = "cpu",
        rows: range | None = None,
    ):
        self._images_NCHW = images_NCHW
        self.device = torch.device(device)
        self._rows = range(len(images_NCHW)) if rows is None else rows
        self._stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (len(self), *self._images_NCHW.shape[1:])

    def __getitem__(self, rows: Rows) -> "Tensor | HostImages":
        if isinstance(rows, slice):
            return HostImages(self._images_NCHW, self.device, self._rows[rows])
        return self.arrive(self.send(rows))

    def send(self, rows: Rows) -> tuple[Tensor, torch.cuda.Event | None]:
        """Read ``rows`` and start copying them; any thread may. Pass the result to `arrive`."""
        images = torch.from_numpy(self._read(rows))
        if self._stream is None:
            return images.to(self.device), None
        with torch.cuda.stream(self._stream):
            copy = images.pin_memory().to(self.device, non_blocking=True)
            return copy, self._stream.record_event()

    def arrive(self, sent: tuple[Tensor, torch.cuda.Event | None]) -> Tensor:
        """The images of a `send`, which the current stream may use from now on."""
        images, copied = sent
        if copied is not None:
            current = torch.cuda.current_stream(self.device)
            current.wait_event(copied)
            images.record_stream(current)
        return images

    def _read(self, rows: Rows) -> np.ndarray:
        """The rows in memory of our own: torch takes no read-only memory."""
        if isinstance(rows, slice):
            part = self._rows[rows]
            numbers = slice(part.start, part.stop, part.step)
        else:
            numbers = self._rows.start + self._rows.step * rows.cpu().numpy()
        return np.require(self._images_NCHW[numbers], requirements=["C", "W"])


@contextmanager
def fed(
    images_NCHW: Tensor | HostImages, row_batches: Iterable[Rows]
) -> Iterator[Iterable[Tensor]]:
    """The images of each of ``row_batches``, on their device, in turn.

    What reading them raises is raised where they are due. No thread outlives the block.
    """
    if isinstance(images_NCHW, Tensor):
        yield (_pick(images_NCHW, rows) for rows in row_batches)
        return
    with closing(in_order(images_NCHW.send, row_batches, workers=1)) as batches:
        yield (images_NCHW.arrive(sent) for sent in batches)


def in_slices(count: int, size: int) -> Sequence[slice]:
    """Slices of at most ``size`` that cover ``count`` rows; one empty one for none."""
    return [slice(start, min(start + size, count)) for start in range(0, max(count, 1), size)]


def _pick(images_NCHW: Tensor, rows: Rows) -> Tensor:
    if isinstance(rows, slice):
        return images_NCHW[rows]
    # Not `images_NCHW[rows]`, which takes four times as long on a CPU.
    return images_NCHW.index_select(0, rows.to(images_NCHW.device, non_blocking=True))
