"""The stages through which an image passes: reading, tiles in batches, their maps, and the nuclei decoded from these.

`read_ahead` lets each stage run ahead of its consumer, in a thread of its own.
"""

import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from .decoding import BandDecoder, DecodingParameters
from .image_processing_cfsam import CfSamImageProcessor
from .inputs import EncodedPicture, encoded_picture
from .maps import MapLayout, NucleiMaps, as_float32
from .pictures import TooManyPixelsError, image_name, is_grey, read_rgb
from .pixel_size import check_mpp, choose_mpp, disagreement, read_pixel_size
from .result import DecodedNuclei
from .tiling import MapBlender, Part, Window, cut_window, tile_windows, turn_tiles, turn_tiles_back

UNKNOWN_MPP_WARNING = (
    "mpp is not given and no file states it: the model's {:g} micrometres per pixel is assumed and area_um2 is NaN; "
    "pass mpp=..."
)

Item = TypeVar("Item")

# How often a stage whose consumer is busy checks whether it is still needed, in seconds.
CHECK_INTERVAL = 0.1
# How long to wait, in seconds, for the item that a stage is making when it is no longer needed.
LONGEST_ITEM = 60.0
_END = object()


def read_ahead(items: Iterable[Item], depth: int) -> Generator[Item, None, None]:
    """
    The items in their order, made in a thread while the consumer is busy with earlier ones.

    The thread starts when the first item is requested. At most `depth` finished items wait while one more is being
    made, so memory is bounded. An exception is raised in place of the item that failed. When the consumer stops, by an
    error, Ctrl-C or `close()`, so does the thread, after its current item.

    Args:
        items (`Iterable`): a generator is closed in the thread in which it ran.
        depth (`int`): at least 1.
    """
    if depth < 1:
        raise ValueError(f"depth must be at least 1, got {depth}")
    return _read_ahead(items, depth)


def _read_ahead(items: Iterable[Item], depth: int) -> Generator[Item, None, None]:
    finished: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(maxsize=depth)
    unwanted = threading.Event()

    def pass_on(item: Any, error: BaseException | None = None) -> bool:
        while not unwanted.is_set():
            try:
                finished.put((item, error), timeout=CHECK_INTERVAL)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not pass_on(item):
                    return
            pass_on(_END)
        except BaseException as error:  # raised in the consumer, as if it had happened there
            pass_on(_END, error)
        finally:
            if hasattr(items, "close"):
                items.close()

    thread = threading.Thread(target=work, name="cfsam-read-ahead", daemon=True)
    thread.start()
    try:
        while True:
            item, error = finished.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
    finally:
        unwanted.set()
        thread.join(LONGEST_ITEM)


@dataclass
class ImageRun:
    """
    One image on its way through the stages.

    Attributes:
        image: (H, W, 3) uint8 in the model's pixels, until its last tile is cut.
        size: (height, width) of the image as given.
        mpp: micrometres per pixel of the image as given.
        mpp_source: where that value comes from, as in `NucleiResult`.
        name: the name of its file.
        model_size: (height, width) in the model's pixels.
        is_grey: whether it has no colour.
        tiling: size, overlap and views of its tiles, as for `tile_windows`, once they are known.
        part: the part of a larger image that it is; its `tiling` is then the larger image's and known from the start.
        tiles: number of its tiles, once it is known.
        done: how many of them are blended.
        bands: the blended maps, if they are kept.
        decoded: the nuclei in the model's pixels, once all tiles are blended.
        error: why there are none.
        warnings: warnings for the caller, by kind; one of each kind per call is enough.
    """

    image: np.ndarray | None = None
    size: tuple[int, int] = (0, 0)
    mpp: float | None = None
    mpp_source: str | None = None
    name: str | None = None
    model_size: tuple[int, int] = (0, 0)
    is_grey: bool = False
    tiling: tuple[int, int, int] | None = None
    part: Part | None = None
    tiles: int | None = None
    done: int = 0
    bands: list[NucleiMaps] = field(default_factory=list)
    decoded: DecodedNuclei | None = None
    error: Exception | None = None
    warnings: dict[str, str] = field(default_factory=dict)
    _blender: MapBlender | None = None
    _decoder: BandDecoder | None = None

    @property
    def is_finished(self) -> bool:
        """Whether there is a result or an error."""
        return self.error is not None or self.done == self.tiles

    @property
    def decoded_size(self) -> tuple[int, int]:
        """(height, width) of the pixels that are decoded, in the model's pixels."""
        if self.part is None:
            return self.model_size
        top, left, bottom, right = self.part.inside
        return bottom - top, right - left

    @property
    def held_rows(self) -> int:
        """Rows whose blended maps are held for decoding at present."""
        return 0 if self._decoder is None else self._decoder.held_rows

    def take_decoded(self) -> DecodedNuclei:
        """The decoded nuclei, which are no longer held here afterwards."""
        decoded, self.decoded = self.decoded, None
        if decoded is None:
            raise RuntimeError(f"the image {self.name} has not passed through the network")
        return decoded

    def add_tile(
        self,
        window: Window,
        maps: np.ndarray,
        layout: MapLayout,
        parameters: DecodingParameters,
        keep_maps: bool = False,
    ) -> None:
        """
        Blend the maps (C, size, size) of a tile, and decode the rows that are complete with it.

        Args:
            parameters: thresholds of decoding.
            keep_maps: collect the blended maps in `bands` and decode nothing.
        """
        try:
            blender = self._blender or self._start_blending(layout, parameters, keep_maps)
            blender.add(window, maps)
            self.done += 1
            if self.done == self.tiles:
                blender.finish()
                self.decoded = None if self._decoder is None else self._decoder.result()
                self._blender = self._decoder = None
        except Exception as error:
            self.error = error

    def _start_blending(self, layout: MapLayout, parameters: DecodingParameters, keep_maps: bool) -> MapBlender:
        """The blender that passes bands of rows on to `bands` or to the decoder."""
        if self.tiling is None:
            raise ValueError("an image needs its tiling before its first tile")
        keep: Callable[[NucleiMaps], None] = self.bands.append
        if not keep_maps:
            self._decoder = BandDecoder(*self.decoded_size, parameters)
            keep = self._decoder.add

        def sink(rows: np.ndarray) -> None:
            keep(layout.split(rows))

        self._blender = MapBlender(
            layout.channels,
            *self.model_size,
            *self.tiling,
            sink=sink if self.part is None else self.part.crop_rows(sink),
            part=self.part,
        )
        return self._blender


def read_image(
    image: Any,
    image_processor: CfSamImageProcessor,
    mpp: float | None = None,
    max_pixels: int | None = None,
    input_data_format: str | None = None,
    page: int | None = None,
    timeout: float | None = None,
) -> ImageRun:
    """
    Reads one picture and resamples it to the model's micrometres per pixel.

    Args:
        image: a picture, as for the pipeline.
        image_processor: its `mpp` is the model's.
        mpp: micrometres per pixel of the picture; default: what its file states.
        max_pixels: default: the processor's.
        input_data_format, page, timeout: as for the pipeline.

    Raises:
        OSError, TypeError, ValueError: as for the pipeline.
    """
    source = encoded_picture(image, timeout)
    try:
        return _read_image(image, source, image_processor, mpp, max_pixels, input_data_format, page)
    except TooManyPixelsError as error:
        if source is None:
            raise
        text = str(error) if source.name in str(error) else f"{source.name}: {error}"
        raise TooManyPixelsError(f"{text}; cfsam_hf.segment_slide works on whole slides part by part") from error


def _read_image(
    image: Any,
    source: EncodedPicture | None,
    image_processor: CfSamImageProcessor,
    mpp: float | None,
    max_pixels: int | None,
    input_data_format: str | None,
    page: int | None,
) -> ImageRun:
    if mpp is not None:
        mpp = check_mpp(mpp)
    max_pixels = image_processor.max_pixels if max_pixels is None else max_pixels
    pixels = read_rgb(image if source is None else source, max_pixels, input_data_format, page)
    stated = None
    if source is not None:
        with source.open() as file:
            stated = read_pixel_size(file, page)
    notes = {}
    if mpp is not None and source is not None and (sentence := disagreement(mpp, stated)):
        notes["disagreement"] = f"{source.name}: {sentence}"
    mpp, mpp_source = choose_mpp(mpp, stated)
    if mpp is None:
        notes["unknown"] = UNKNOWN_MPP_WARNING.format(image_processor.mpp)
    size = pixels.shape[:2]
    pixels = image_processor.to_model_pixels(pixels, mpp, max_pixels)
    return ImageRun(
        image=pixels,
        size=size,
        mpp=mpp,
        mpp_source=mpp_source,
        name=image_name(image if source is None else source),
        model_size=pixels.shape[:2],
        is_grey=is_grey(pixels),
        warnings=notes,
    )


@dataclass
class Batch:
    """
    Tiles that pass through the network together.

    Attributes:
        started: images whose first tile is in this batch, and images that failed before.
        tiles: image and window of each of the B tiles.
        values: (B, 3, size, size) float32, or uint8 for a GPU, the input of the network, each tile in its view.
        maps: (B, C, size, size) float32 or float16, its output, turned back; None if it failed.
        layout: order of the maps.
    """

    started: list[ImageRun] = field(default_factory=list)
    tiles: list[tuple[ImageRun, Window]] = field(default_factory=list)
    values: np.ndarray | None = None
    maps: np.ndarray | None = None
    layout: MapLayout | None = None

    def fail(self, error: Exception) -> None:
        """Gives the images of all tiles this error, unless they have one."""
        for run, _ in self.tiles:
            run.error = run.error or error

    def blend(self, parameters: DecodingParameters, keep_maps: bool = False) -> None:
        """Blends the maps of all tiles, except those of images that failed; arguments as in `ImageRun.add_tile`."""
        if self.maps is None or self.layout is None:
            return
        for (run, window), maps in zip(self.tiles, self.maps, strict=False):
            if run.error is None:
                run.add_tile(window, as_float32(maps), self.layout, parameters, keep_maps)


@dataclass
class NetworkClock:
    """
    How much of the latest call the network was busy.

    Attributes:
        busy (`float`): seconds in the network.
        span (`float`): seconds from its first batch to the end of its last.
    """

    busy: float = 0.0
    span: float = 0.0

    @property
    def waiting_share(self) -> float:
        """Share of the span in which the network waited for tiles or for room for its maps."""
        return 1 - self.busy / self.span if self.span else 0.0


def make_batches(
    runs: Iterator[ImageRun],
    batch_size: int,
    tiling_for: Callable[[int, int], tuple[int, int, int]],
    pixel_values: Callable[[np.ndarray], np.ndarray],
) -> Generator[Batch, None, None]:
    """The tiles of the images in batches, ready for the network. The last may be smaller, and so may a batch before
    tiles of another size.

    Args:
        runs: images, or errors in place of them.
        batch_size: tiles in a batch, possibly of several images.
        tiling_for: height and width of an image to size, overlap and views of its tiles, as for `tile_windows`.
        pixel_values: tiles (B, size, size, 3) uint8 to (B, 3, size, size), the input of the network.
    """

    def filled(batch: Batch) -> Batch:
        pixels = [cut_window(run.image, window) for run, window in batch.tiles if run.image is not None]
        if pixels:
            batch.values = pixel_values(np.stack(pixels))
            turn_tiles(batch.values, [window.view for _, window in batch.tiles])
        return batch

    batch = Batch()
    for run in runs:
        batch.started.append(run)
        if run.error is not None:
            continue
        if run.part is None or run.tiling is None:
            run.tiling = tiling_for(*run.model_size)
        windows = run.part.windows if run.part is not None else tile_windows(*run.model_size, *run.tiling)
        run.tiles = len(windows)
        if batch.tiles and batch.tiles[0][1].size != run.tiling[0]:
            yield filled(batch)
            batch = Batch()
        for window in windows:
            if run.error is not None:  # the network failed on an earlier tile
                break
            batch.tiles.append((run, window))
            if len(batch.tiles) == batch_size:
                yield filled(batch)
                batch = Batch()
        if not any(other is run for other, _ in batch.tiles):
            run.image = None
    if batch.started or batch.tiles:
        yield filled(batch)


def run_network(
    batches: Generator[Batch, None, None],
    launch: Callable[[np.ndarray], Callable[[], tuple[np.ndarray, MapLayout]]],
    clock: NetworkClock,
    in_flight: int = 0,
) -> Generator[Batch, None, None]:
    """Fills in the maps of batches; if a batch fails, its images get the error.

    Args:
        batches: a generator, which is closed at the end.
        launch: starts a batch (B, 3, size, size) and returns a function that waits for its maps (B, C, size, size) and
            returns them with their layout.
        clock: updated after each batch.
        in_flight: batches that are launched before an earlier one is waited for.
    """
    launched: deque[tuple[Batch, float, Callable[[], tuple[np.ndarray, MapLayout]] | None]] = deque()
    first: float | None = None
    finished = 0.0

    def finish() -> Batch:
        nonlocal finished
        batch, began, wait = launched.popleft()
        try:
            if wait is not None:
                batch.maps, batch.layout = wait()
                turn_tiles_back(batch.maps, [window.view for _, window in batch.tiles])
        except Exception as error:
            batch.fail(error)
        now = time.perf_counter()
        # A batch that was launched beside an earlier one counts from the end of that one.
        clock.busy += now - max(began, finished)
        clock.span = now - (began if first is None else first)
        finished = now
        return batch

    with contextlib.closing(batches):
        for batch in batches:
            began = time.perf_counter()
            first = began if first is None else first
            wait = None
            try:
                if batch.values is not None:
                    wait = launch(batch.values)
            except Exception as error:
                batch.fail(error)
            batch.values = None
            launched.append((batch, began, wait))
            while len(launched) > in_flight:
                yield finish()
        while launched:
            yield finish()
