"""Batches of pictures for an image tower, decoded by Pillow or torchcodec, in threads ahead of the tower where that helps."""

import io
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor

from xvoken import commands
from xvoken.errors import UserError, one_line, out_of_memory
from xvoken.machine import ON_GPU, cores
from xvoken.pictures.decode import MAX_PIXELS, BrokenPicture, at_fault, load_picture
from xvoken.pictures.sources import Member
from xvoken.pictures.view import PixelsView

PIXELS_AT_ONCE = 1 << 26  # limit of what torchcodec decodes together: 1 GB as float32, whatever the pictures' sizes
LONGEST = 4  # a picture longer than this many times its shorter side is left to Pillow, which scales only the crop
JPEG_END = b"\xff\xd9"


class Pictures(torch.utils.data.Dataset):
    """Item i: the view of picture i as uint8 (3, H, W), or as `view` makes it, or why the picture can't be used (str)."""

    def __init__(self, paths: list[str | Member], view: PixelsView):
        self.paths, self.view = paths, view

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor | str:
        try:
            return self.view(load_picture(self.paths[index], self.view.resize))
        except BrokenPicture as error:
            return str(error)


class TorchcodecPictures(Pictures):
    """Items as of `Pictures`, made a batch at a time: JPEG files are decoded, scaled and cut on the device (on a GPU by nvJPEG).

    Only files that torchcodec decodes to the same picture as Pillow are given to it; all others (other formats, CMYK, cut-off or
    very long pictures) are left to Pillow. Which of the two decodes a picture depends on the picture alone, not on the batch.
    On a CPU torchcodec's pixels equal Pillow's bit for bit; after bilinear scaling they differ by at most one grey level.
    """

    def __init__(self, paths: list[str | Member], view: PixelsView, device: str):
        super().__init__(paths, view)
        self.device = torch.device(device)
        self.stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None

    @torch.inference_mode()
    def __getitems__(self, rows: Sequence[int]) -> list[Tensor | str]:
        items: list[Tensor | str | None] = [None] * len(rows)
        waiting: list[tuple[int, bytes]] = []
        pixels = 0
        for place, row in enumerate(rows):
            data, size = self._jpeg(self.paths[row])
            if pixels + size > PIXELS_AT_ONCE:
                self._decode(waiting, items)
                waiting, pixels = [], 0
            if data:
                waiting.append((place, data))
                pixels += size
        self._decode(waiting, items)
        return [self._by_pillow(row) if item is None else item for row, item in zip(rows, items, strict=True)]

    def _by_pillow(self, row: int) -> Tensor | str:
        item = self[row]
        return item if isinstance(item, str) else item.to(self.device)

    def _jpeg(self, path: str | Member) -> tuple[bytes, int]:
        """Content and number of pixels of a file that is given to torchcodec; no bytes and 0 for a file left to Pillow."""
        try:
            with path.open() if isinstance(path, Member) else open(path, "rb") as file:
                data = file.read()
            with Image.open(io.BytesIO(data), formats=["JPEG"]) as header:
                (width, height), mode = header.size, header.mode
        except Exception as error:  # Pillow reports what is wrong with the file
            if not at_fault(error):
                raise
            return b"", 0
        usual = mode in ("RGB", "L") and width * height <= MAX_PIXELS and max(width, height) <= LONGEST * min(width, height)
        return (data, width * height) if usual and data.rstrip(b"\0").endswith(JPEG_END) else (b"", 0)

    def _decode(self, waiting: list[tuple[int, bytes]], items: list[Tensor | str | None]) -> None:
        """Decode the pictures (place, content) and put each view at items[place]; pictures of one size are scaled together."""
        with torch.cuda.stream(self.stream):  # on a CPU the stream is None, and this does nothing
            by_size: dict[torch.Size, list[tuple[int, Tensor]]] = {}
            for place, picture in self._decoded(waiting):
                by_size.setdefault(picture.shape, []).append((place, picture))
            for same_size in by_size.values():
                views = self.view.of_pixels(torch.stack([picture for _, picture in same_size]))
                for (place, _), view in zip(same_size, views, strict=True):
                    items[place] = view
            if self.stream:  # the tower's stream uses the views: finish them first, and reuse their memory only after the tower
                self.stream.synchronize()
                for place, _ in waiting:
                    if isinstance(view := items[place], Tensor):
                        view.record_stream(torch.cuda.default_stream(self.device))

    def _decoded(self, waiting: list[tuple[int, bytes]]) -> list[tuple[int, Tensor]]:
        from torchcodec.decoders import decode_jpeg

        if not waiting:
            return []
        try:
            return list(zip([place for place, _ in waiting], decode_jpeg([data for _, data in waiting], device=self.device), strict=True))
        except RuntimeError as error:  # one broken file fails its whole batch
            if out_of_memory(error):
                raise
            if len(waiting) == 1:
                return []
            return [found for one in waiting for found in self._decoded([one])]


def open_pictures(paths: list[str | Member], view: PixelsView, decoder: str, device: str) -> Pictures:
    """The dataset of pictures for a decoder: "pillow" or "torchcodec"."""
    return TorchcodecPictures(paths, view, device) if decoder == "torchcodec" else Pictures(paths, view)


def require_decoder(decoder: str) -> None:
    """Raise UserError if the decoder's package is missing, or made for another torch."""
    if decoder == "torchcodec":
        try:
            import torchcodec.decoders  # noqa: F401
        except (ImportError, OSError, RuntimeError) as error:
            mend = commands.install("torchcodec")
            raise UserError(f"--decoder torchcodec: can't be loaded ({one_line(error)[:120]}); run: {mend}") from None


class Items(Protocol):
    """A dataset that knows its length."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


Batch = tuple[int, list[Any]]  # number of the first item, items


def batch_readers(pictures: Items, size: int, threads: ThreadPoolExecutor | None) -> Iterator[Callable[[], Batch]]:
    """A function for each batch that gives it: without `threads` it decodes, with them it waits for those that do.

    With `threads`, two batches are decoded while the caller uses another. A dataset with __getitems__ (torch's protocol) makes a whole
    batch in one thread. Threads do as well as processes here: decoders and scalers release Python's lock, and no pixels have to be
    copied between processes.
    """
    together = getattr(pictures, "__getitems__", None)
    batches = [range(first, min(first + size, len(pictures))) for first in range(0, len(pictures), size)]

    def read(rows: range) -> Batch:
        return rows.start, together(rows) if together else [pictures[i] for i in rows]

    if threads is None:
        yield from (partial(read, rows) for rows in batches)
        return
    coming: deque[tuple[int, list[Future]]] = deque()
    for rows in batches:
        futures = [threads.submit(together, rows)] if together else [threads.submit(lambda i: [pictures[i]], i) for i in rows]
        coming.append((rows.start, futures))
        if len(coming) > 2:
            yield partial(_finished, *coming.popleft())
    yield from (partial(_finished, first, futures) for first, futures in coming)


def batches_ahead(pictures: Items, size: int, threads: ThreadPoolExecutor | None) -> Iterator[Batch]:
    """The batches of `batch_readers`, one after another."""
    return (read() for read in batch_readers(pictures, size, threads))


def _finished(first: int, futures: list[Future]) -> Batch:
    return first, [item for future in futures for item in future.result()]


def on_device(device: str, batch_size: int, workers: int) -> tuple[int, ThreadPoolExecutor | None]:
    """Pictures a batch, and the threads that decode for a worker process; on a CPU None, the worker decodes by itself.

    batch_size: pictures a batch on a CPU; workers: number of processes that share the machine's cores.
    """
    return (batch_size, None) if device == "cpu" else (batch_size * ON_GPU, ThreadPoolExecutor(max(1, cores() // workers)))
