"""`pipeline("nuclei-segmentation")`: from a picture of any size to its nuclei."""

import contextlib
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import Pipeline
from transformers.utils import IMAGE_PROCESSOR_NAME, PROCESSOR_NAME

from .colors_cfsam import rgb
from .image_io_cfsam import image_name, is_single_image, read_rgb
from .image_processing_cfsam import CfSamImageProcessor, select_nuclei
from .maps_cfsam import MapLayout, stack_maps
from .nuclei_cfsam import NucleiResult
from .resampling_cfsam import check_mpp, resample_nuclei
from .tiling_cfsam import MapBlender, Window, cut_window, tile_windows
from .version import __version__

# Tiles at once on an accelerator: enough to fill it with tiles of 256 px.
DEFAULT_BATCH_SIZE = 8

# Seconds after which a call that is still running shows how far it is.
PROGRESS_DELAY = 2.0


@dataclass
class _ImageRun:
    """One image on its way through the network."""

    image: np.ndarray  # (H, W, 3) uint8 in the model's pixels
    size: tuple[int, int]  # (height, width) of the image as given
    mpp: float | None
    name: str | None
    windows: list[Window] = field(default_factory=list)
    done: int = 0
    blender: MapBlender | None = None
    layout: MapLayout | None = None


class NucleiSegmentationPipeline(Pipeline):
    """
    Nuclei of pictures of any size, with [`CfSamForNucleiSegmentation`].

    An image is resampled to the model's micrometres per pixel, cut into overlapping tiles, the maps of the tiles are
    blended, decoded once as a whole, and the nuclei are brought back to the pixels of the image.

    Example:

    ```python
    >>> from transformers import pipeline
    >>> import cfsam_hf

    >>> pipe = pipeline("nuclei-segmentation")  # or model="folder or Hub id"
    >>> result = pipe("tile.png", mpp=0.25)
    >>> result.table[["type_name", "score", "x", "y", "area_um2"]]
    ```

    Args:
        model (`CfSamForNucleiSegmentation`): the model; `pipeline` loads it where it is given by name.
        image_processor (`CfSamImageProcessor`, *optional*): default: the one saved with the model, or one made for its
            configuration.
        kwargs: as for any transformers pipeline (`device`, `batch_size`, ...), and any option of `__call__`.
    """

    _load_processor = False
    _load_image_processor = None
    _load_video_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    def __init__(self, model, image_processor=None, processor=None, **kwargs):
        if image_processor is None:
            image_processor = _default_image_processor(model) if processor is None else processor.image_processor
        super().__init__(model=model, image_processor=image_processor, **kwargs)
        self.model.eval()

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs) -> None:
        """As any pipeline; the default model, a folder of this installation, is not named in what is saved."""
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
        max_pixels=None,
        input_data_format=None,
        autocast_dtype=None,
        progress=None,
        timeout=None,
        **unknown,
    ):
        if unknown:
            raise TypeError(f"unknown options {sorted(unknown)} for the nuclei-segmentation pipeline")
        parameters = (
            {"mpp": mpp, "max_pixels": max_pixels, "input_data_format": input_data_format},
            {
                "tile_size": tile_size,
                "tile_overlap": tile_overlap,
                "autocast_dtype": autocast_dtype,
                "progress": progress,
            },
            {"threshold": threshold},
        )
        return tuple({name: value for name, value in part.items() if value is not None} for part in parameters)

    def __call__(self, inputs: Any, *, batch_size: int | None = None, **kwargs):
        """
        Find the nuclei of one image or of several.

        Args:
            inputs: a path, an http(s) address, a PIL image, an array or a tensor (see `read_rgb`), or a list of them;
                an iterator of them gives an iterator of results.
            mpp (`float` or list of them, *optional*): micrometres per pixel of the image or of each image. Unknown,
                the model's is assumed, with one warning, and `area_um2` is NaN.
            batch_size (`int`, *optional*): tiles that pass through the network at once on an accelerator; default 8.
                On a CPU tiles go one by one, which is as fast and gives the very same nuclei for any `batch_size`; on
                an accelerator another `batch_size` changes the maps by rounding errors.
            threshold (`float`, defaults to 0): nuclei with a lower score are left out.
            tile_size, tile_overlap (`int`, *optional*): in the model's pixels; default: the processor's.
            max_pixels (`int`, *optional*): larger images are refused; default: the processor's.
            input_data_format (`str`, *optional*): `"channels_first"` or `"channels_last"`, where both would do.
            autocast_dtype (`str` or `torch.dtype`, *optional*): run the network in mixed precision, e.g. `"bfloat16"`.
            progress (`bool`, *optional*): show a bar; default: on a terminal, after two seconds.

        Returns:
            `NucleiResult` for one image, a list of them for a list.

        Raises:
            OSError: a file is missing or no readable image.
            TypeError: an input is no picture.
            ValueError: an image is impossible or too large, or an option is out of its range.
        """
        kwargs.pop("num_workers", None)
        preprocess, forward, postprocess = self._sanitize_parameters(**kwargs)
        preprocess = {**self._preprocess_params, **preprocess}
        if batch_size is None:
            batch_size = self._batch_size or DEFAULT_BATCH_SIZE
        forward = {**self._forward_params, **forward, "batch_size": batch_size}
        postprocess = {**self._postprocess_params, **postprocess}
        if batch_size < 1:
            raise ValueError(f"batch_size must be positive, got {batch_size}")

        single = is_single_image(inputs)
        if not single and not isinstance(inputs, Iterable):
            raise TypeError(f"cannot read an image from {type(inputs).__name__}: pass a picture or a list of pictures")
        images = [inputs] if single else inputs
        runs = self._prepare(images, preprocess.pop("mpp", None), preprocess)
        total = None if single or not isinstance(images, Sequence) else len(images)
        results = (self.postprocess(run, **postprocess) for run in self._predict(runs, total=total, **forward))
        if single:
            [result] = results
            return result
        return list(results) if isinstance(images, Sequence) else results

    def _prepare(self, images: Iterable, mpp: Any, options: dict) -> Iterator[_ImageRun]:
        """Read the images one by one, each with its mpp; warns once where that is not known."""
        if isinstance(mpp, (list, tuple, np.ndarray)):
            if isinstance(images, Sequence) and len(mpp) != len(images):
                raise ValueError(f"mpp has {len(mpp)} values for {len(images)} images")
            pixel_sizes = iter(mpp)
        else:
            pixel_sizes = None
        if mpp is None or (pixel_sizes is not None and any(value is None for value in mpp)):
            warnings.warn(
                f"mpp is not given: the model's {self.image_processor.mpp:g} micrometres per pixel is assumed and "
                "area_um2 is NaN; pass mpp=...",
                stacklevel=3,
            )
        return (
            self.preprocess(image, mpp=mpp if pixel_sizes is None else next(pixel_sizes), **options)
            for image in images
        )

    def preprocess(
        self,
        image: Any,
        mpp: float | None = None,
        max_pixels: int | None = None,
        input_data_format: str | None = None,
    ) -> _ImageRun:
        """Read one picture and resample it to the model's mpp."""
        if mpp is not None:
            mpp = check_mpp(mpp)
        max_pixels = self.image_processor.max_pixels if max_pixels is None else max_pixels
        pixels = read_rgb(image, max_pixels, input_data_format)
        return _ImageRun(
            image=self.image_processor.to_model_pixels(pixels, mpp, max_pixels),
            size=pixels.shape[:2],
            mpp=mpp,
            name=image_name(image),
        )

    def _forward(self, model_inputs: _ImageRun, **options) -> _ImageRun:
        [run] = self._predict(iter([model_inputs]), **options)
        return run

    def _predict(
        self,
        runs: Iterator[_ImageRun],
        batch_size: int = DEFAULT_BATCH_SIZE,
        tile_size: int | None = None,
        tile_overlap: int | None = None,
        autocast_dtype: str | torch.dtype | None = None,
        progress: bool | None = None,
        total: int | None = None,
    ) -> Iterator[_ImageRun]:
        """
        Run the network over the tiles of one image after the other, filling batches across images, and give each image
        back when its maps are complete. The bar counts images where there are several, else tiles.
        """
        tile_size = self.image_processor.tile_size if tile_size is None else tile_size
        tile_overlap = min(self.image_processor.tile_overlap, tile_size // 2) if tile_overlap is None else tile_overlap
        if tile_size % self.image_processor.pad_multiple:
            raise ValueError(
                f"tile_size must be a multiple of the patch size {self.image_processor.pad_multiple}, got {tile_size}"
            )
        counts_images = total is not None and total > 1
        pending: list[_ImageRun] = []
        batch: list[tuple[_ImageRun, Window]] = []
        hide = None if progress is None else not progress  # None: hidden unless on a terminal
        bar = tqdm(
            total=total if counts_images else 0,
            unit="image" if counts_images else "tile",
            delay=PROGRESS_DELAY,
            disable=hide,
            leave=False,
        )

        def flush() -> Iterator[_ImageRun]:
            self._predict_batch(batch, batch_size, tile_overlap, autocast_dtype)
            if not counts_images:
                bar.update(len(batch))
            batch.clear()
            while pending and pending[0].done == len(pending[0].windows):
                if counts_images:
                    bar.update()
                yield pending.pop(0)

        with bar:
            for run in runs:
                run.windows = tile_windows(*run.image.shape[:2], tile_size, tile_overlap)
                if not counts_images:
                    bar.total += len(run.windows)
                pending.append(run)
                for window in run.windows:
                    batch.append((run, window))
                    if len(batch) == batch_size:
                        yield from flush()
            if batch:
                yield from flush()

    def _predict_batch(
        self,
        batch: list[tuple[_ImageRun, Window]],
        batch_size: int,
        tile_overlap: int,
        autocast_dtype: str | torch.dtype | None,
    ) -> None:
        """
        Run the network over the tiles and add the maps to their images.

        Matrix kernels round differently for different batch shapes. So that the nuclei of an image do not depend on
        the images beside it, every batch on an accelerator is filled up to `batch_size`; on a CPU, where larger
        batches gain nothing, tiles go alone.
        """
        tiles = np.stack([cut_window(run.image, window) for run, window in batch])
        if self.device.type == "cpu":
            parts = [self._tile_maps(tile[None], autocast_dtype) for tile in tiles]
        else:
            filled = np.concatenate([tiles, np.repeat(tiles[-1:], batch_size - len(tiles), axis=0)])
            parts = [self._tile_maps(filled, autocast_dtype)]
        layout = parts[0][1]
        maps = np.concatenate([part for part, _ in parts])[: len(tiles)]
        for (run, window), tile_maps in zip(batch, maps, strict=True):
            if run.blender is None:
                run.layout = layout
                run.blender = MapBlender(layout.channels, *run.image.shape[:2], window.size, tile_overlap)
            run.blender.add(window, tile_maps)
            run.done += 1

    def _tile_maps(self, tiles: np.ndarray, autocast_dtype: str | torch.dtype | None) -> tuple[np.ndarray, MapLayout]:
        """Maps (B, C, size, size) of tiles (B, size, size, 3)."""
        values = self.image_processor.pixel_values(tiles)
        with self.device_placement(), torch.inference_mode(), self._autocast(autocast_dtype):
            outputs = self.model(pixel_values=torch.from_numpy(values).to(self.device, self.dtype))
            return stack_maps(outputs).cpu().numpy(), MapLayout.of(outputs)

    def _autocast(self, dtype: str | torch.dtype | None):
        if dtype is None:
            return contextlib.nullcontext()
        resolved = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
        if not isinstance(resolved, torch.dtype) or not resolved.is_floating_point:
            raise ValueError(f"autocast_dtype must be a floating type such as 'bfloat16', got {dtype!r}")
        return torch.autocast(self.device.type, dtype=resolved)

    def postprocess(self, model_outputs: _ImageRun, threshold: float = 0.0) -> NucleiResult:
        """Decode the blended maps of one image, in its own pixels."""
        run = model_outputs
        maps = run.layout.split(run.blender.result())
        run.blender = None
        decoded = self.image_processor.decode_maps(maps)
        decoded = select_nuclei(resample_nuclei(decoded, *run.size), threshold)
        config = self.model.config
        return NucleiResult.from_decoded(
            decoded,
            mpp=run.mpp,
            type_names=config.type_names,
            type_colors=_type_colors(config),
            image_name=run.name,
            checkpoint=_checkpoint_name(self.model),
            version=__version__,
        )


def _default_image_processor(model) -> CfSamImageProcessor:
    """The processor saved with the model; one made for its configuration where there is none."""
    folder = getattr(model, "name_or_path", "") or ""
    if any(os.path.isfile(os.path.join(folder, name)) for name in (PROCESSOR_NAME, IMAGE_PROCESSOR_NAME)):
        return CfSamImageProcessor.from_pretrained(folder)
    patch_size = model.config.vision_config.patch_size
    tile_size = -(-CfSamImageProcessor.tile_size // patch_size) * patch_size
    return CfSamImageProcessor(mpp=model.config.mpp, pad_multiple=patch_size, tile_size=tile_size)


def _type_colors(config) -> dict[int, tuple[int, int, int]]:
    """RGB colours of the types by id, of id 0 for a model without types."""
    first = 1 if config.num_types else 0
    return {first + index: rgb(color) for index, color in enumerate(config.type_colors or [])}


def _checkpoint_name(model) -> str:
    info = model.config.checkpoint_info or {}
    return str(info.get("name") or Path(getattr(model, "name_or_path", "") or "").name or type(model).__name__)
