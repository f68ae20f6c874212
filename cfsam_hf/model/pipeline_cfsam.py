"""`pipeline("nuclei-segmentation")`: from a picture of any size to its nuclei."""

import contextlib
import os
import sys
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sized
from numbers import Real
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import Pipeline

from .accelerator import AcceleratorNetwork
from .configuration_cfsam import rgb, style_number
from .inputs import Form, pixel_sizes, split_inputs
from .maps import MapLayout, NucleiMaps, join_rows, stack_maps
from .pixel_size import resample_nuclei
from .precision import resolve_autocast
from .processing_cfsam import image_processor_for
from .result import NucleiResult, __version__
from .stages import ImageRun, NetworkClock, make_batches, read_ahead, read_image, run_network
from .tiling import check_tiling, fitted_tile_size, views_of

# Tiles at once on an accelerator: enough to fill it with tiles of 256 px.
DEFAULT_BATCH_SIZE = 8
# Fitted tiles come in steps of so many patches, so that images of like size share batches on an accelerator.
TILE_STEP = 4

# Batches that wait on each side of the network; one would be enough if all took the same time.
BATCHES_AHEAD = 2
# On a CPU, where tiles pass alone, so many of them are ahead: enough to keep the network busy while rows are decoded.
TILES_AHEAD = 6

# Seconds after which a call that is still running shows its progress.
PROGRESS_DELAY = 2.0

GREY_WARNING = (
    "an image has no colour: the model was trained on stained (H&E) tissue in colour, so the types of its nuclei mean "
    "nothing, and many nuclei may be missed"
)


class NucleiSegmentationPipeline(Pipeline):
    """
    Nuclei of pictures of any size, with [`CfSamForNucleiSegmentation`].

    An image is resampled to the model's micrometres per pixel and cut into overlapping tiles; the tiles' maps are
    blended and decoded as those of one image, in bands of rows, so that the maps of a large image are never all in
    memory; and the nuclei are brought back to the pixels of the image. While the network works on a batch, the next
    tiles are read and the previous ones decoded (`network_clock` measures how long it waited).

    The pixel size of an image is the `mpp` given, or else what its file states (`read_pixel_size`).

    Example:

    ```python
    >>> from transformers import pipeline
    >>> import cfsam_hf

    >>> pipe = pipeline("nuclei-segmentation")  # or model="folder or Hub id"
    >>> result = pipe("tile.png", mpp=0.25)  # without mpp: as the file states it
    >>> result.table[["type_name", "score", "x", "y", "area_um2"]]
    ```

    Args:
        model (`CfSamForNucleiSegmentation`): the model; `pipeline` loads it where it is given by name.
        image_processor (`CfSamImageProcessor`, *optional*): default: the one saved with the model, or one with the
            defaults for its configuration.
        kwargs: as for any transformers pipeline (`device`, `batch_size`, ...), and any option of `__call__`.
    """

    _load_processor = False
    _load_image_processor = None
    _load_video_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    def __init__(self, model, image_processor=None, processor=None, **kwargs):
        if image_processor is None:
            image_processor = image_processor_for(model) if processor is None else processor.image_processor
        if not hasattr(image_processor, "decoding_parameters"):
            # Not by its class: one that was loaded as remote code is of another class with the same name.
            kind = type(image_processor).__name__
            raise TypeError(f"image_processor is a {kind}: pass a CfSamImageProcessor, or None for the one saved")
        super().__init__(model=model, image_processor=image_processor, **kwargs)
        self.model.eval()
        self.network_clock = NetworkClock()
        self.engine: Callable[[np.ndarray, int], tuple[np.ndarray, MapLayout]] | None = None
        """What computes the maps in place of the model, from pixels (B, 3, size, size) and the number of the style."""
        self.settings: dict[str, str] = {}
        """What the nuclei depend on besides the model and the options of a call, such as the engine's name."""

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs) -> None:
        """Saves the pipeline as transformers does, but without the default model, a folder of this installation."""
        registered = getattr(type(self), "_registered_impl", {})
        self._registered_impl = {
            task: {name: value for name, value in info.items() if name != "default"}
            for task, info in registered.items()
        }
        super().save_pretrained(save_directory, **kwargs)

    def _sanitize_parameters(
        self,
        mpp=None,
        threshold=None,
        tile_size=None,
        tile_overlap=None,
        views=None,
        max_pixels=None,
        input_data_format=None,
        page=None,
        autocast_dtype=None,
        decoding=None,
        style=None,
        progress=None,
        timeout=None,
        **unknown: Any,
    ):
        if unknown:
            raise TypeError(f"unknown options {sorted(unknown)} for the nuclei-segmentation pipeline")
        if threshold is not None and not (isinstance(threshold, Real) and 0 <= float(threshold) <= 1):
            raise ValueError(f"threshold is {threshold!r}: it must be a score, from 0 to 1")
        if decoding is not None and not isinstance(decoding, Mapping):
            raise ValueError(f"decoding is {decoding!r}: it must be a dictionary of decoding parameters")
        parameters = (
            {
                "mpp": mpp,
                "max_pixels": max_pixels,
                "input_data_format": input_data_format,
                "page": page,
                "timeout": timeout,
            },
            {
                "tile_size": tile_size,
                "tile_overlap": tile_overlap,
                "views": views,
                "autocast_dtype": autocast_dtype,
                "decoding": decoding,
                "style": style,
                "progress": progress,
            },
            {"threshold": threshold},
        )
        return tuple({name: value for name, value in part.items() if value is not None} for part in parameters)

    def __call__(self, inputs: Any, *, batch_size: int | None = None, **kwargs):
        """
        Find the nuclei of one image or of several.

        Args:
            inputs: a picture: a path, an http(s) address, a data URL, base64 text, the bytes of a file, a PIL image,
                an array or a tensor (see `read_rgb`); or several: a list or an object like one (pandas Series,
                column of a data set, stack of arrays), an iterator, or a torch data set such as `KeyDataset`. The
                last two are read some images ahead, in a thread.
            mpp (`float` or list-like of them, *optional*): micrometres per pixel of the image or of each image.
                Default: as the image's file states it; a given value that differs by a factor of 2 or more causes one
                warning. For an image of unknown pixel size the model's is assumed, with one warning, and `area_um2` is
                NaN.
            batch_size (`int`, *optional*): tiles that pass through the network at once on an accelerator; default 8.
                On a CPU tiles pass one by one, which is as fast and gives exactly the same nuclei for any
                `batch_size`; on an accelerator another `batch_size` changes the maps by rounding errors.
            threshold (`float`, defaults to 0): nuclei with a lower score are left out, in addition to those below the
                decoding's `minimum_score`.
            tile_size, tile_overlap (`int`, *optional*): in the model's pixels; default: the processor's, whose size is
                fitted to the image where it has a `smallest_tile_size`.
            views (`int`, defaults to 1): number of views of the image that the network sees, 1, 2 (also turned by 180
                degrees), 4 (all flips) or 8 (also with rows and columns swapped), each with a tile grid of its own;
                their maps are averaged with equal weights. It takes that many times as long, and more on small images
                (4 views of 1,000 px: 5.3 times the tiles).
            max_pixels (`int`, *optional*): larger images are refused, whether as given (files before they are decoded)
                or once they are resampled; default: the processor's.
            input_data_format (`str`, *optional*): `"channels_first"` or `"channels_last"`, where both would do.
            page (`int`, *optional*): which picture of a file that holds several, counted from 1.
            autocast_dtype (`str` or `torch.dtype`, *optional*): run the network in mixed precision, e.g. `"bfloat16"`,
                or `"auto"` for bfloat16 only where the device computes in it natively. Elsewhere it is much slower
                than float32.
            decoding (`dict`, *optional*): fields of `DecodingParameters` in place of the processor's.
            style (`str`, *optional*): the data set whose manner of outlining is reproduced, one of
                `model.config.styles`; default: `"neutral"`.
            progress (`bool`, *optional*): show a bar; default: on a terminal, after two seconds.
            timeout (`float`, *optional*): seconds without a byte after which a download fails; default 30.

        Returns:
            `NucleiResult` for one image, a list of them for a list-like, else an iterator of them.

        Raises:
            OSError: a file is missing or not a readable image.
            TypeError: an input is not a picture.
            ValueError: an image is impossible or too large, or an option is out of its range.
        """
        form, images = split_inputs(inputs)
        results = (_or_raise(result) for result in self.stream(images, batch_size, **kwargs))
        if form is Form.ONE:
            [result] = results
            return result
        return list(results) if form is Form.LIST else results

    def stream(self, images: Iterable, batch_size: int | None = None, **kwargs) -> Iterator[NucleiResult | Exception]:
        """
        The results of images one after the other; an image that fails yields its exception and does not affect the
        others.

        Args:
            images (`Iterable`): pictures, as for `__call__`; they are read ahead, in a thread.
            batch_size, kwargs: as for `__call__`.

        Raises:
            TypeError, ValueError: an option is unknown or out of its range.
        """
        kwargs.pop("num_workers", None)
        preprocess, forward, postprocess = self._sanitize_parameters(**kwargs)
        preprocess = {**self._preprocess_params, **preprocess}
        if batch_size is None:
            batch_size = self._batch_size or DEFAULT_BATCH_SIZE
        forward = {**self._forward_params, **forward, "batch_size": batch_size}
        postprocess = {**self._postprocess_params, **postprocess}
        self._check_forward(**forward)
        runs = self._prepare(images, pixel_sizes(preprocess.pop("mpp", None), images), preprocess)
        total = len(images) if isinstance(images, Sized) else None
        return self._finish(self.predict_runs(runs, total=total, **forward), postprocess)

    def blended_maps(self, image: Any, *, batch_size: int | None = None, **kwargs) -> NucleiMaps:
        """
        The maps of one image as they are decoded, in the model's pixels and float16, all in memory.

        Args:
            image: a picture, as for `__call__`.
            batch_size, kwargs: as for `__call__`.
        """
        preprocess, forward, _ = self._sanitize_parameters(**kwargs)
        forward["batch_size"] = batch_size or self._batch_size or DEFAULT_BATCH_SIZE
        run = self.preprocess(image, **{**self._preprocess_params, **preprocess})
        [run] = self.predict_runs(iter([run]), keep_maps=True, **{**self._forward_params, **forward})
        if run.error is not None:
            raise run.error
        return join_rows(run.bands)

    def _finish(self, runs: Generator[ImageRun], options: dict) -> Iterator[NucleiResult | Exception]:
        warned: set[str] = set()
        result: NucleiResult | Exception
        with contextlib.closing(runs):
            for run in runs:
                for kind, message in run.warnings.items():
                    if kind not in warned:
                        warned.add(kind)
                        _warn_caller(message)
                if run.error is None:
                    try:
                        result = self.postprocess(run, **options)
                    except Exception as error:
                        result = error
                else:
                    result = run.error
                yield result

    def _prepare(self, images: Iterable, mpp: Iterator[float | None], options: dict) -> Iterator[ImageRun]:
        """Reads the images one by one, each with its pixel size."""

        def prepare(image: Any) -> ImageRun:
            try:
                return self.preprocess(image, mpp=next(mpp), **options)
            except StopIteration:
                return ImageRun(error=ValueError("mpp has fewer values than there are images"))
            except Exception as error:
                return ImageRun(error=error)

        return map(prepare, images)

    def preprocess(self, image: Any, **options: Any) -> ImageRun:
        """Reads one picture and resamples it to the model's mpp; options as for `read_image`."""
        return read_image(image, self.image_processor, **options)

    def _forward(self, model_inputs: ImageRun, **options) -> ImageRun:
        [run] = self.predict_runs(iter([model_inputs]), **options)
        return run

    def _check_forward(
        self, batch_size: int, autocast_dtype=None, decoding=None, style=None, views=1, **tiling
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be positive, got {batch_size}")
        self._autocast(autocast_dtype)
        if self.engine is not None and autocast_dtype is not None:
            raise ValueError(f"autocast_dtype is {autocast_dtype!r}, but mixed precision is for the backend torch")
        views_of(views)
        style_number(self.model.config, style)
        self.image_processor.decoding_parameters(**(decoding or {}))
        self._tiling(tiling.get("tile_size"), tiling.get("tile_overlap"))

    def tiling_for(
        self, height: int, width: int, tile_size: int | None = None, tile_overlap: int | None = None, views: int = 1
    ) -> tuple[int, int, int]:
        """
        The tiles that an image of `height` x `width` of the model's pixels is cut into.

        Args:
            tile_size, tile_overlap, views: as given to `__call__`.

        Returns:
            Size, overlap and views, as for `tile_windows`: a size that is given is kept, the processor's is fitted.
        """
        size, overlap = self._tiling(tile_size, tile_overlap)
        smallest = self.image_processor.smallest_tile_size
        if tile_size is None and smallest is not None:
            size = fitted_tile_size(
                height, width, size, overlap, smallest, TILE_STEP * self.image_processor.pad_multiple
            )
            # Smaller than this only where a single tile overlaps none.
            overlap = min(overlap, size - 1)
        return size, overlap, views

    def _tiling(self, tile_size: int | None, tile_overlap: int | None) -> tuple[int, int]:
        """Size and overlap of the tiles, the processor's where they are not given."""
        tile_size = self.image_processor.tile_size if tile_size is None else tile_size
        tile_overlap = min(self.image_processor.tile_overlap, tile_size // 2) if tile_overlap is None else tile_overlap
        patch = self.image_processor.pad_multiple
        if tile_size % patch:
            raise ValueError(f"tile_size must be a multiple of the patch size {patch}, got {tile_size}")
        check_tiling(tile_size, tile_overlap)
        return tile_size, tile_overlap

    def predict_runs(
        self,
        runs: Iterator[ImageRun],
        batch_size: int = DEFAULT_BATCH_SIZE,
        tile_size: int | None = None,
        tile_overlap: int | None = None,
        views: int = 1,
        autocast_dtype: str | torch.dtype | None = None,
        decoding: dict[str, Any] | None = None,
        style: str | None = None,
        progress: bool | None = None,
        total: int | None = None,
        keep_maps: bool = False,
    ) -> Generator[ImageRun]:
        """
        Run the network over the tiles of one image (or part of one) after the other, on an accelerator in batches that
        are filled across images, and give each back when it is decoded, or with its error. The bar counts images where
        there are several, else tiles.

        Three stages work at once: reading and cutting tiles in a thread, the network in another, blending and decoding
        in the caller's.
        """
        parameters = self.image_processor.decoding_parameters(**(decoding or {}))
        style_id = style_number(self.model.config, style)
        accelerator = self._accelerator()
        # Tiles that pass alone are handed on alone, which holds less memory.
        together, ahead = (1, TILES_AHEAD) if self.device.type == "cpu" else (batch_size, BATCHES_AHEAD)
        counts_images = total is not None and total > 1
        pending: deque[ImageRun] = deque()
        hide = None if progress is None else not progress  # None: hidden unless on a terminal
        bar = tqdm(
            total=total if counts_images else 0,
            unit="image" if counts_images else "tile",
            delay=PROGRESS_DELAY,
            disable=hide,
            leave=False,
        )
        self.network_clock = NetworkClock()
        tiles = make_batches(
            runs,
            together,
            lambda height, width: self.tiling_for(height, width, tile_size, tile_overlap, views),
            self.image_processor.pixel_values if accelerator is None else accelerator.stage,
        )

        def launch(values: np.ndarray) -> Callable[[], tuple[np.ndarray, MapLayout]]:
            if accelerator is None:
                maps = self._batch_maps(values, batch_size, autocast_dtype, style_id)
                return lambda: maps
            return accelerator.launch(values, style_id, self._autocast(autocast_dtype), batch_size).wait

        network = run_network(
            read_ahead(tiles, ahead), launch, self.network_clock, in_flight=0 if accelerator is None else 1
        )
        batches = read_ahead(network, ahead)
        with bar, contextlib.closing(batches):
            for batch in batches:
                pending.extend(batch.started)
                if not counts_images:
                    bar.total = (bar.total or 0) + sum(run.tiles or 0 for run in batch.started)
                batch.blend(parameters, keep_maps)
                if not counts_images:
                    bar.update(len(batch.tiles))
                while pending and pending[0].is_finished:
                    if counts_images:
                        bar.update()
                    yield pending.popleft()

    def _accelerator(self) -> AcceleratorNetwork | None:
        """The model as it runs on a GPU; None on other devices."""
        return (
            AcceleratorNetwork(self.model, self.image_processor.pixel_values) if self.device.type == "cuda" else None
        )

    def _batch_maps(
        self, values: np.ndarray, batch_size: int, autocast_dtype: str | torch.dtype | None, style_id: int
    ) -> tuple[np.ndarray, MapLayout]:
        """
        Maps (B, C, size, size) of the tiles of a batch.

        Matrix kernels round differently for different batch shapes. So that the nuclei of an image do not depend on
        the images beside it, every batch on an accelerator is filled up to `batch_size`; on a CPU, where larger
        batches gain nothing, tiles go alone.
        """
        if self.device.type == "cpu":
            parts = [self._tile_maps(tile[None], autocast_dtype, style_id) for tile in values]
        else:
            filled = np.concatenate([values, np.repeat(values[-1:], batch_size - len(values), axis=0)])
            parts = [self._tile_maps(filled, autocast_dtype, style_id)]
        return np.concatenate([part for part, _ in parts])[: len(values)], parts[0][1]

    def _tile_maps(
        self, values: np.ndarray, autocast_dtype: str | torch.dtype | None, style_id: int
    ) -> tuple[np.ndarray, MapLayout]:
        """Maps (B, C, size, size) of tiles (B, 3, size, size) as the processor's `pixel_values` makes them."""
        if self.engine is not None:
            return self.engine(values, style_id)
        with self.device_placement(), torch.inference_mode(), self._autocast(autocast_dtype):
            inputs = {"pixel_values": torch.from_numpy(values).to(self.device, self.dtype)}
            if style_id:
                inputs["style_ids"] = torch.full((len(values),), style_id, device=self.device)
            outputs = self.model(**inputs)
            return stack_maps(outputs).cpu().numpy(), MapLayout.of(outputs)

    def _autocast(self, dtype: str | torch.dtype | None) -> contextlib.AbstractContextManager:
        resolved = resolve_autocast(dtype, self.device)
        return contextlib.nullcontext() if resolved is None else torch.autocast(self.device.type, dtype=resolved)

    def postprocess(self, model_outputs: ImageRun, threshold: float = 0.0) -> NucleiResult:
        """The nuclei of one image, in its own pixels."""
        run = model_outputs
        if run.error is not None:
            raise run.error
        resampled = resample_nuclei(run.take_decoded(), *run.size)
        decoded = resampled.select(resampled.scores >= threshold)
        config = self.model.config
        if run.is_grey and config.num_types and len(decoded):
            warnings.warn(GREY_WARNING, stacklevel=2)
        return NucleiResult.from_decoded(
            decoded,
            mpp=run.mpp,
            mpp_source=run.mpp_source,
            type_names=config.type_names,
            type_colors=type_colors(config),
            image_name=run.name,
            checkpoint=checkpoint_name(self.model),
            version=__version__,
        )


def _warn_caller(message: str) -> None:
    """Warns at the line outside this module that called it, however many generators lie between."""
    level = 2
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename == __file__:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)


def _or_raise(result: NucleiResult | Exception) -> NucleiResult:
    if isinstance(result, Exception):
        raise result
    return result


def type_colors(config) -> dict[int, tuple[int, int, int]]:
    """RGB colours of the types by id, of id 0 for a model without types."""
    return {index: rgb(color) for index, color in enumerate(config.type_colors or [], 1 if config.num_types else 0)}


def checkpoint_name(model) -> str:
    """What outputs call the checkpoint of a model."""
    info = model.config.checkpoint_info or {}
    folder = getattr(model, "adapter_folder", None) or getattr(model, "name_or_path", "") or ""
    return str(info.get("name") or Path(folder).name or type(model).__name__)
