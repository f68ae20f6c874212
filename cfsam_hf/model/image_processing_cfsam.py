"""The image processor of CF-SAM: pictures to tensors, and a model's outputs to nuclei."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from transformers.processing_utils import ImagesKwargs, Unpack
from transformers.utils import IMAGE_PROCESSOR_NAME, PROCESSOR_NAME

from .checkpoint import find_file, naming_checkpoint, shown
from .decoding import DecodingParameters, decode_nuclei
from .inputs import Form, split_inputs
from .maps import MapLayout, NucleiMaps, stack_maps
from .pictures import DEFAULT_MAX_PIXELS, TooManyPixelsError, read_rgb
from .pixel_size import check_mpp, resample_image, resample_nuclei, resampled_size
from .result import DecodedNuclei, NucleiResult
from .tiling import check_tiling, pad_right_bottom, padded_size

try:
    from transformers.image_processing_outputs import SemanticSegmentationPostProcessorOutput
except ImportError:  # older transformers, where nothing asks for this class
    SemanticSegmentationPostProcessorOutput = BatchFeature


# The largest tile: with 8 maps, blending one takes half a gigabyte.
MAX_TILE_SIZE = 4096

# Options that are numbers of pixels, with the smallest and the largest.
_PIXELS = {
    "tile_size": (1, MAX_TILE_SIZE),
    "smallest_tile_size": (1, MAX_TILE_SIZE),
    "tile_overlap": (0, MAX_TILE_SIZE),
    "pad_multiple": (1, MAX_TILE_SIZE),
    "max_pixels": (1, 2**63),
    "max_pass_pixels": (1, 2**63),
}
_SWITCHES = ("do_convert_rgb", "do_rescale", "do_normalize", "do_pad")

# Processors of a plain SAM, which hold nothing that this model needs.
SAM_PROCESSORS = ("SamImageProcessor", "SamImageProcessorFast")


class CfSamImageProcessorKwargs(ImagesKwargs, total=False):  # type: ignore[call-arg]
    r"""
    mpp (`float`, *optional*, defaults to `self.mpp`):
        Micrometres per pixel. For the processor, the pixel size at which the model works. In a call, the pixel size of
        the images, which are resampled if it differs from the model's by more than 2 %; default: the model's.
    tile_size (`int`, *optional*, defaults to `self.tile_size`):
        Side in pixels of the square tiles that larger images are cut into.
    smallest_tile_size (`int`, *optional*, defaults to `self.smallest_tile_size`):
        The nuclei-segmentation pipeline makes tiles smaller, down to this size, if no more of them are needed to cover
        an image; on an accelerator images whose tiles differ in size do not share a batch. By default all tiles have
        `tile_size`.
    tile_overlap (`int`, *optional*, defaults to `self.tile_overlap`):
        Minimum number of pixels that neighbouring tiles share.
    pad_multiple (`int`, *optional*, defaults to `self.pad_multiple`):
        Height and width of `pixel_values` are multiples of this, the model's patch size.
    pad_size (`dict[str, int]`, *optional*, defaults to `self.pad_size`):
        Height and width to which images of all calls are padded; by default those of the largest image of a call.
    max_pixels (`int`, *optional*, defaults to `self.max_pixels`):
        Larger images are refused, files before they are decoded.
    max_pass_pixels (`int`, *optional*, defaults to `self.max_pass_pixels`):
        Larger images are refused by `preprocess`, which turns an image into one tensor: the memory for attention grows
        with the square of its area. The nuclei-segmentation pipeline cuts tiles and has no such limit.
    decoding (`dict`, *optional*, defaults to `self.decoding`):
        Fields of `DecodingParameters` that differ from its defaults, as its `to_dict` writes them. `score_weights`
        replace the whole set: weights left out take their defaults.
    """

    mpp: float | int | None
    tile_size: int
    smallest_tile_size: int | None
    tile_overlap: int
    pad_multiple: int
    max_pixels: int | None
    max_pass_pixels: int | None
    decoding: dict[str, Any] | None


class CfSamImageProcessor(PilBackend):
    """
    Prepares images for [`CfSamForNucleiSegmentation`] and turns its outputs into nuclei.

    It accepts any picture: paths, PIL images, arrays and tensors; grey, RGB, RGBA; 8 bits, 16 bits or float.
    `pictures.py` documents how each is scaled. Images are padded by reflection at the right and at the bottom. The
    options, described in `CfSamImageProcessorKwargs`, are saved with the checkpoint and restored from it.
    """

    valid_kwargs = CfSamImageProcessorKwargs
    model_input_names = ("pixel_values",)

    do_convert_rgb = True
    do_rescale = True
    do_normalize = True
    do_pad = True
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    mpp = 0.25
    tile_size = 256
    smallest_tile_size: int | None = None
    tile_overlap = 64
    pad_multiple = 16
    max_pixels = DEFAULT_MAX_PIXELS
    max_pass_pixels = 1024 * 1024
    decoding: Mapping[str, Any] | None = None

    def __init__(self, **kwargs: Unpack[CfSamImageProcessorKwargs]) -> None:
        if kwargs.get("score_calibration") is not None:
            raise ValueError(
                f"score_calibration is {shown(kwargs['score_calibration'])}: it is part of decoding now; "
                '[SLOPE, INTERCEPT] is "score_weights": {"intercept": INTERCEPT, "probability": SLOPE} in decoding'
            )
        for name in kwargs:
            # transformers makes an attribute of every name, which would replace the method of that name.
            if hasattr(type(self), name) and name not in CfSamImageProcessorKwargs.__annotations__:
                raise ValueError(f"{name} is not an option of the image processor but a part of its code; remove it")
        super().__init__(**kwargs)
        self._check_values()
        check_mpp(self.mpp)
        check_tiling(self.tile_size, self.tile_overlap)
        if self.pad_multiple < 1 or self.tile_size % self.pad_multiple:
            raise ValueError(
                f"tile_size must be a multiple of pad_multiple, got tile_size={self.tile_size} and "
                f"pad_multiple={self.pad_multiple}"
            )
        if self.tile_overlap > self.tile_size * 3 // 4:
            raise ValueError(
                f"tile_overlap is {self.tile_overlap}: it must be at most 3/4 of tile_size, {self.tile_size}"
            )
        smallest = self.smallest_tile_size
        if smallest is not None and (smallest % self.pad_multiple or not 0 < smallest <= self.tile_size):
            raise ValueError(
                f"smallest_tile_size must be a multiple of pad_multiple, {self.pad_multiple}, and at most tile_size, "
                f"{self.tile_size}; got {smallest}"
            )
        self.decoding_parameters()

    def _check_values(self) -> None:
        """Raises TypeError or ValueError for an option that no image can be prepared with."""
        for name in _SWITCHES:
            if not isinstance(value := getattr(self, name), bool):
                raise TypeError(f"{name} is {shown(value)}: it must be true or false")
        for name, (smallest, largest) in _PIXELS.items():
            value = getattr(self, name)
            if value is None and name == "smallest_tile_size":
                continue
            if isinstance(value, bool) or not isinstance(value, int | np.integer):
                raise TypeError(f"{name} is {shown(value)}: it must be a whole number of pixels")
            if not smallest <= value <= largest:
                raise ValueError(f"{name} is {shown(value)}: it must lie in {smallest}..{largest}")
        for name, least in (("rescale_factor", 0.0), ("image_mean", -math.inf), ("image_std", 0.0)):
            value = getattr(self, name)
            numbers = list(value) if isinstance(value, list | tuple | np.ndarray) else [value]
            lengths = (1,) if name == "rescale_factor" else (1, 3)
            if len(numbers) not in lengths or any(isinstance(x, bool) or not isinstance(x, Real) for x in numbers):
                raise TypeError(f"{name} is {shown(value)}: it must be one number{' or three' * (3 in lengths)}")
            if not all(least < number < math.inf for number in numbers):
                raise ValueError(f"{name} is {shown(value)}: it must be finite{' and positive' * (least == 0)}")

    @classmethod
    def get_image_processor_dict(
        cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """
        The saved options, as transformers' image processors read them, and the rest of `kwargs`.

        Raises:
            OSError: there is no file with options, it is damaged, or the checkpoint is not available.
            TypeError, ValueError: an option is wrong; the sentence names the checkpoint, the file and the option.
        """
        source = pretrained_model_name_or_path
        with naming_checkpoint(source):
            saved = None if os.path.isfile(source) else read_options(source, kwargs)
            values, rest = super().get_image_processor_dict(source, **kwargs)
            if saved is None:
                return values, rest
            file, kind = saved[0], saved[1].get("image_processor_type", CfSamImageProcessor.__name__)
            if kind not in (CfSamImageProcessor.__name__, *SAM_PROCESSORS):
                raise ValueError(
                    f"its {file} is wrong: image_processor_type is {shown(kind)}, but the model needs a "
                    f"{CfSamImageProcessor.__name__}; save one in its place, or remove the file for the defaults"
                )
            try:
                cls.from_dict(values, **rest)
            except (TypeError, ValueError) as error:
                same = TypeError if isinstance(error, TypeError) else ValueError
                raise same(f"its {file} is wrong: {error}") from error
            return values, rest

    def preprocess(self, images: Any, **kwargs: Unpack[CfSamImageProcessorKwargs]) -> BatchFeature:
        """
        Turn images into one tensor.

        Args:
            images: a picture as `read_rgb` accepts it (path, PIL image, array, tensor), or a list-like of them: list,
                tuple, pandas Series, column of a data set, torch data set, array or tensor with a batch dimension.
            mpp (`float`, *optional*): micrometres per pixel of these images; they are resampled to the model's.
            return_tensors (`str`, *optional*): `"pt"` for torch tensors, `"np"` for arrays.
            kwargs: any other option of the processor, for this call only.

        Returns:
            `BatchFeature` with `pixel_values` (B, 3, H, W) float32, where H and W are those of the largest image,
            rounded up to `pad_multiple`. `post_process_nuclei` removes the padding if it gets `target_sizes`.

        Raises:
            ValueError: there is no image, or one cannot be used or is larger than `max_pass_pixels`.
            TypeError: `images` is neither a picture nor a list-like of pictures.
        """
        return super().preprocess(images, **kwargs)

    def _prepare_images_structure(self, images: Any, expected_ndims: int = 3) -> list[Any]:
        form, pictures = split_inputs(images)
        if form is Form.ONE:
            return list(pictures)
        found = [image for item in pictures for image in self._prepare_images_structure(item, expected_ndims)]
        if not found:
            raise ValueError(f"images is an empty {type(images).__name__}: pass a picture or a list of pictures")
        return found

    def process_image(
        self,
        image: Any,
        input_data_format: str | None = None,
        mpp: float | None = None,
        max_pixels: int | None = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """Read one picture and resample it to the model's `mpp`: (H, W, 3) uint8."""
        return self.to_model_pixels(read_rgb(image, max_pixels, input_data_format), mpp, max_pixels)

    def to_model_pixels(self, image: np.ndarray, mpp: float | None, max_pixels: int | None = None) -> np.ndarray:
        """
        Resample (H, W, 3) uint8 of pixel size `mpp` (None: unknown, assumed to be the model's) to the model's.

        Raises:
            ValueError: `mpp` is out of range.
            TooManyPixelsError: the resampled image has more than `max_pixels` pixels.
        """
        height, width = resampled_size(image.shape[0], image.shape[1], mpp, self.mpp)
        if max_pixels is not None and height * width > max_pixels:
            raise TooManyPixelsError(
                f"an image of {image.shape[1]}x{image.shape[0]} px at mpp {mpp:g} becomes {width}x{height} px at the "
                f"model's mpp {self.mpp:g}, more than max_pixels={max_pixels}; check the mpp or raise the limit"
            )
        return resample_image(image, height, width)

    def _preprocess(
        self,
        images: list[np.ndarray],
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean: Sequence[float],
        image_std: Sequence[float],
        pad_multiple: int,
        max_pass_pixels: int | None,
        pad_size: Mapping[str, Any] | None = None,
        return_tensors: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        height, width = padded_size(images, pad_multiple, pad_size)
        if max_pass_pixels is not None and height * width > max_pass_pixels:
            raise ValueError(
                f"an image of {width}x{height} px is too large for one pass of the network "
                f"(max_pass_pixels={max_pass_pixels}): use pipeline('nuclei-segmentation'), which works in tiles"
            )
        pixels = np.stack([pad_right_bottom(image, height, width) for image in images])
        values = _scaled_pixels(
            pixels,
            rescale_factor if do_rescale else 1.0,
            image_mean if do_normalize else 0.0,
            image_std if do_normalize else 1.0,
        )
        return BatchFeature({"pixel_values": values}, tensor_type=return_tensors)

    def pixel_values(self, tiles: np.ndarray) -> np.ndarray:
        """Tiles (B, H, W, 3) uint8 as the model's input (B, 3, H, W) float32, scaled as by `preprocess`, unpadded."""
        return _scaled_pixels(
            tiles,
            self.rescale_factor if self.do_rescale else 1.0,
            self.image_mean if self.do_normalize else 0.0,
            self.image_std if self.do_normalize else 1.0,
        )

    def decoding_parameters(self, **overrides: Any) -> DecodingParameters:
        """The processor's parameters of decoding, with `overrides` replacing some."""
        if not isinstance(self.decoding, Mapping | None):
            raise ValueError(f"decoding is {self.decoding!r}: it must be a dictionary of decoding parameters")
        return DecodingParameters.from_dict({**(self.decoding or {}), **overrides})

    def decode_maps(self, maps: NucleiMaps, **overrides: Any) -> DecodedNuclei:
        """
        Nuclei of the maps of one image, in the model's pixels.

        Args:
            maps (`NucleiMaps`): the maps of the whole image.
            overrides: fields of `DecodingParameters`.
        """
        return decode_nuclei(
            maps.nuclei, maps.hv, maps.types, maps.boundary, parameters=self.decoding_parameters(**overrides)
        )

    def post_process_nuclei(
        self,
        outputs: Any,
        target_sizes: Sequence[tuple[int, int]] | None = None,
        mpp: float | None = None,
        threshold: float = 0.0,
        type_names: Mapping[int, str] | None = None,
        type_colors: Mapping[int, tuple[int, int, int]] | None = None,
    ) -> list[NucleiResult]:
        """
        Nuclei of each image of a batch.

        Args:
            outputs (`CfSamNucleiSegmentationOutput`): what the model returned.
            target_sizes (`list[tuple[int, int]]`, *optional*): (height, width) in pixels of the images as they were
                given to `preprocess`; the rest is padding and removed. Default: the size of the maps.
            mpp (`float`, *optional*): micrometres per pixel of the images, if it was given to `preprocess`: nuclei are
                returned in the images' pixels.
            threshold (`float`, defaults to 0): nuclei with a lower score are left out.
            type_names, type_colors (*optional*): names and RGB colours of the types, as `config.type_names` has them.

        Raises:
            ValueError: `target_sizes` does not fit the outputs.
        """
        return [
            NucleiResult.from_decoded(decoded, mpp=mpp, type_names=type_names, type_colors=type_colors)
            for decoded in self._decode_batch(outputs, target_sizes, mpp, threshold)
        ]

    def post_process_instance_segmentation(
        self,
        outputs: Any,
        threshold: float = 0.0,
        mask_threshold: float = 0.5,
        overlap_mask_area_threshold: float = 0.8,
        target_sizes: Sequence[tuple[int, int]] | None = None,
    ) -> list[dict[str, Any]]:
        """
        Nuclei in the form of transformers' `pipeline("image-segmentation")`.

        Args:
            outputs (`CfSamNucleiSegmentationOutput`): what the model returned.
            threshold (`float`, defaults to 0): nuclei with a lower score are left out. That pipeline's own default is
                .9, which keeps only nuclei with the highest scores: call it with `threshold=0.0` for all.
            mask_threshold (`float`, defaults to 0.5): nuclei probability from which a pixel is foreground, 0 to 1. At
                .5, the stock pipeline's default, the checkpoint's own threshold and `minimum_score` apply.
            overlap_mask_area_threshold (`float`): has no effect, since nuclei do not overlap.
            target_sizes (`list[tuple[int, int]]`, *optional*): (height, width) of the images; padding is removed.

        Returns:
            For each image `segmentation`, an int32 tensor (height, width) with 0 for background, and `segments_info`,
            a list of `{"id", "label_id", "score"}`; `label_id` is a key of the model's `id2label`.

        Raises:
            ValueError: `target_sizes` does not fit the outputs, or a threshold is not a number from 0 to 1.
        """
        check_fraction(mask_threshold, "mask_threshold")
        overrides = {} if mask_threshold == 0.5 else {"nuclei_threshold": mask_threshold, "minimum_score": 0.0}
        return [
            {
                "segmentation": torch.from_numpy(decoded.instance_map),
                "segments_info": [
                    {"id": index + 1, "label_id": int(label), "score": float(score)}
                    for index, (label, score) in enumerate(zip(_labels(decoded), decoded.scores, strict=True))
                ],
            }
            for decoded in self._decode_batch(outputs, target_sizes, None, threshold, **overrides)
        ]

    def post_process_semantic_segmentation(
        self,
        outputs: Any,
        target_sizes: Sequence[tuple[int, int]] | None = None,
        return_segmentation_scores: bool = False,
    ) -> list[Any]:
        """
        The type of each pixel's nucleus: for each image an int64 tensor (height, width) of keys of the model's
        `id2label`, 0 for background. All pixels of a nucleus have the same type.

        Args:
            outputs (`CfSamNucleiSegmentationOutput`): what the model returned.
            target_sizes (`list[tuple[int, int]]`, *optional*): (height, width) of the images; padding is removed.
            return_segmentation_scores (`bool`, defaults to `False`): whether to return, for each image, a
                `SemanticSegmentationPostProcessorOutput` with `segmentation` and `segmentation_scores`, a float32
                tensor (labels, height, width): the probabilities of background and of each label at each pixel. Where
                they are highest may differ from `segmentation`, which has one type per nucleus.
        """
        segmentations = [
            torch.from_numpy(np.concatenate([[0], _labels(decoded)]).astype(np.int64)[decoded.instance_map])
            for decoded in self._decode_batch(outputs, target_sizes, None, 0.0)
        ]
        if not return_segmentation_scores:
            return segmentations
        layout = MapLayout.of(outputs)
        scored = []
        for maps, segmentation in zip(stack_maps(outputs).cpu().numpy(), segmentations, strict=True):
            named = layout.split(maps).crop(*segmentation.shape)
            scores = np.stack([1 - named.nuclei, named.nuclei]) if named.types is None else named.types
            data = {"segmentation": segmentation, "segmentation_scores": torch.from_numpy(scores.copy())}
            scored.append(SemanticSegmentationPostProcessorOutput(data))
        return scored

    def _decode_batch(
        self,
        outputs: Any,
        target_sizes: Sequence[tuple[int, int]] | None,
        mpp: float | None,
        threshold: float,
        **overrides: Any,
    ) -> list[DecodedNuclei]:
        check_fraction(threshold, "threshold")
        maps = stack_maps(outputs).cpu().numpy()
        layout = MapLayout.of(outputs)
        if target_sizes is None:
            size = int(maps.shape[2]), int(maps.shape[3])
            if mpp is not None and resampled_size(*size, mpp, self.mpp) != size:
                raise ValueError(f"mpp={mpp:g} needs target_sizes, the sizes of the images before resampling")
            target_sizes = [size] * len(maps)
        if len(target_sizes) != len(maps):
            raise ValueError(f"target_sizes has {len(target_sizes)} sizes for {len(maps)} images")
        nuclei = []
        for image_maps, target_size in zip(maps, target_sizes, strict=True):
            height, width = (int(length) for length in target_size)
            model_height, model_width = resampled_size(height, width, mpp, self.mpp)
            if not (0 < model_height <= maps.shape[2] and 0 < model_width <= maps.shape[3]):
                raise ValueError(
                    f"the target size {height}x{width} (height x width) does not fit the maps of "
                    f"{maps.shape[2]}x{maps.shape[3]} px; pass the sizes of the images, and mpp if they were resampled"
                )
            decoded = self.decode_maps(layout.split(image_maps).crop(model_height, model_width), **overrides)
            resampled = resample_nuclei(decoded, height, width)
            nuclei.append(resampled.select(resampled.scores >= threshold))
        return nuclei


def _scaled_pixels(
    pixels: np.ndarray, scale: float, mean: float | Sequence[float], std: float | Sequence[float]
) -> np.ndarray:
    """(B, H, W, 3) uint8 to (B, 3, H, W) float32: `(pixels * scale - mean) / std` per channel."""
    means, stds = (np.broadcast_to(np.asarray(value, dtype=np.float32), 3) for value in (mean, std))
    levels = np.arange(256, dtype=np.float32) * np.float32(scale)
    values = np.empty((pixels.shape[0], 3, *pixels.shape[1:3]), dtype=np.float32)
    for channel in range(3):
        # There are only 256 values to compute.
        values[:, channel] = ((levels - means[channel]) / stds[channel])[pixels[..., channel]]
    return values


def read_options(source: str | os.PathLike, options: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]] | None:
    """The name of the file that holds a checkpoint's image processor, and the processor's options.

    Args:
        source: folder or Hub id.
        options: options of `from_pretrained`.

    Returns:
        None if the checkpoint has no such file.

    Raises:
        OSError: the file is damaged, or the checkpoint is not available.
        ValueError: the file does not hold an object with options.
    """
    for name in (PROCESSOR_NAME, IMAGE_PROCESSOR_NAME):
        path = find_file(source, name, options)
        if path is None:
            continue
        try:
            with open(path, encoding="utf-8") as file:
                values = json.load(file)
        except (ValueError, RecursionError) as error:
            raise OSError(f"its {name} is not a valid JSON file.") from error
        if not isinstance(values, Mapping):
            raise ValueError(f"its {name} is wrong: it holds {shown(values)}, not an object")
        found = values.get("image_processor") if name == PROCESSOR_NAME else values
        if found is not None and not isinstance(found, Mapping):
            raise ValueError(f"its {name} is wrong: image_processor is {shown(found)}, not an object")
        if found is not None:
            return name, found
    return None


def check_fraction(value: Any, name: str) -> None:
    """Raises ValueError unless the value is a number from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) <= 1:
        raise ValueError(f"{name} is {value!r}: it must be a number from 0 to 1")


def _labels(decoded: DecodedNuclei) -> np.ndarray:
    """Key of `id2label` per nucleus: its type, or 1 ("nucleus") for a model without types."""
    return np.maximum(decoded.type_ids, 1)
