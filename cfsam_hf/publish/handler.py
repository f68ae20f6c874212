"""The code that a Hugging Face Inference Endpoint runs for this model: an image in, a mask per nucleus out.

The server makes one `EndpointHandler` of the model's folder and calls it for each request. The answers are those of
the task image-segmentation, as `huggingface_hub.InferenceClient.image_segmentation` reads them. The file needs only
the packages in `requirements.txt`; the model's code is loaded from the folder.

Anybody may send a request, so the work that a request can cause is limited. `MAX_PIXELS` bounds the image as it is
sent (checked before decoding) and after resampling to the model's pixel size; `MAX_MASK_PIXELS` bounds the answer.
"""

import base64
import binascii
import io
import math
import os
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import PIL.Image
from transformers import pipeline

# 4,096 x 4,096: minutes on two cores.
MAX_PIXELS = 2**24
# Pixels of all masks together: 1,024 masks of the largest image, 17,000 of 1,000 x 1,000 px.
MAX_MASK_PIXELS = 2**34
# Micrometres per pixel of light microscopes, from oil immersion to overviews.
MPP_RANGE = (0.01, 10.0)
SUBTASKS = ("instance", "semantic")
# The stock value, which selects the checkpoint's own threshold.
DEFAULT_MASK_THRESHOLD = 0.5


class EndpointHandler:
    """
    Answers requests with the nuclei of the image.

    Args:
        path (`str`): the model's folder; default: the one that this file lies in.
    """

    def __init__(self, path: str = ""):
        self.pipe = pipeline("nuclei-segmentation", model=path or os.path.dirname(__file__), trust_remote_code=True)

    def __call__(self, data: dict[str, Any]) -> list[dict[str, Any]]:
        """
        Args:
            data (`dict`): the request. `inputs` is the image: a PIL image, the bytes of a file, or these in base64.
                `parameters` (*optional*) may hold

                - `threshold` (0): nuclei with a lower score are left out;
                - `mask_threshold` (.5: the checkpoint's own): smallest nuclei probability of a foreground pixel;
                - `subtask` ("instance"): "instance", a mask per nucleus, or "semantic", a mask per type;
                - `overlap_mask_area_threshold`: accepted but without effect, since nuclei do not overlap;
                - `mpp`: the image's micrometres per pixel; default: what the image's file states, or else the model's.

        Returns:
            A list of `{"label", "score", "mask"}`; the mask is a PNG of the image's size in base64, 255 inside. The
            score of a type ("semantic") is None.

        Raises:
            ValueError: the request is wrong, or its image or answer too large; the message says how.
        """
        if not isinstance(data, dict) or "inputs" not in data:
            raise ValueError('The request has no "inputs": send an image, or JSON with the image in base64 there.')
        image = read_image(data["inputs"])
        options = read_parameters(data.get("parameters"))
        subtask = options.pop("subtask")
        try:
            result = self.pipe(image, max_pixels=MAX_PIXELS, progress=False, **options)
        except OSError as error:  # what the image's decoder says
            raise ValueError(f'"inputs" is not an image that can be read: {error}') from error
        names = self.pipe.model.config.id2label
        # A model without types gives everything the name of id 1.
        labels = np.maximum(result.table["type"].to_numpy(dtype=np.int64), 1)
        if subtask == "semantic":
            types = np.concatenate([[0], labels])[result.instance_map]
            return [
                {"label": names[int(label)], "score": None, "mask": encode_mask(types == label)}
                for label in np.unique(types)
            ]
        if result.instance_map.size * len(result) > MAX_MASK_PIXELS:
            height, width = result.instance_map.shape
            raise ValueError(
                f"{len(result)} masks of {width}x{height} pixels are more than one answer holds; send a part of the "
                "image, raise threshold, or take the subtask semantic."
            )
        return [
            {"label": names[int(label)], "score": float(score), "mask": mask}
            for label, score, mask in zip(labels, result.table["score"], nucleus_masks(result), strict=True)
        ]


def read_image(inputs: Any) -> PIL.Image.Image | bytes:
    """The image of a request, not yet decoded: a PIL image, or the bytes of a file.

    Raises:
        ValueError: it is not an image, not in base64, or larger than `MAX_PIXELS`.
    """
    if isinstance(inputs, str):
        # "data:image/png;base64,..." as browsers write it.
        text = inputs.partition(",")[2] if inputs.startswith("data:") else inputs
        try:
            inputs = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise ValueError('"inputs" is text that is not base64; send the bytes of an image in base64.') from error
    if isinstance(inputs, PIL.Image.Image):
        check_size(inputs)
        return inputs
    if not isinstance(inputs, (bytes, bytearray)):
        raise ValueError(f'"inputs" must be an image or its bytes in base64, got {type(inputs).__name__}.')
    try:
        # The header alone; the pipeline decodes the image, and compares the size with the limit again.
        with PIL.Image.open(io.BytesIO(inputs)) as image:
            check_size(image)
    except PIL.Image.DecompressionBombError as error:
        raise ValueError(f'"inputs" is larger than the {MAX_PIXELS} pixels that are accepted: {error}') from error
    except (OSError, SyntaxError):
        pass  # Pillow does not know it; the pipeline may
    return bytes(inputs)


def check_size(image: PIL.Image.Image) -> None:
    """Raises ValueError if an image has more than `MAX_PIXELS` pixels."""
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(
            f'"inputs" has {image.width}x{image.height} pixels, more than the {MAX_PIXELS} that are accepted; send a '
            "part of it."
        )


def read_parameters(parameters: Any) -> dict[str, Any]:
    """The parameters of a request as options of the pipeline, and the `subtask`.

    Raises:
        ValueError: one is unknown or out of its range.
    """
    if parameters is None:
        parameters = {}
    if not isinstance(parameters, dict):
        raise ValueError(f'"parameters" must be an object of names and values, got {type(parameters).__name__}.')
    given = {name: value for name, value in parameters.items() if value is not None}
    known = ("threshold", "mask_threshold", "overlap_mask_area_threshold", "subtask", "mpp")
    if unknown := sorted(set(given) - set(known)):
        raise ValueError(f"Unknown parameters {unknown}; choose from {list(known)}.")
    subtask = given.get("subtask", "instance")
    if subtask not in SUBTASKS:
        hint = " Nuclei are countable objects on a plain background: use instance." if subtask == "panoptic" else ""
        raise ValueError(f"subtask must be one of {list(SUBTASKS)}, got {subtask!r}.{hint}")
    for name in ("threshold", "mask_threshold", "overlap_mask_area_threshold"):
        if name in given and not (_is_number(given[name]) and 0 <= given[name] <= 1):
            raise ValueError(f"{name} must be a number from 0 to 1, got {given[name]!r}.")
    if "mpp" in given and not (_is_number(given["mpp"]) and MPP_RANGE[0] <= given["mpp"] <= MPP_RANGE[1]):
        raise ValueError(
            f"mpp must be the image's micrometres per pixel, from {MPP_RANGE[0]} to {MPP_RANGE[1]}, got "
            f"{given['mpp']!r}."
        )
    options = {name: given[name] for name in ("threshold", "mpp") if name in given}
    if given.get("mask_threshold", DEFAULT_MASK_THRESHOLD) != DEFAULT_MASK_THRESHOLD:
        options["decoding"] = {"nuclei_threshold": given["mask_threshold"], "minimum_score": 0.0}
    return {"subtask": subtask, **options}


def nucleus_masks(result: Any) -> Iterator[str]:
    """A PNG in base64 for each nucleus, in the order of the table; only the pixels in its box are compared."""
    canvas = np.zeros(result.instance_map.shape, dtype=np.uint8)
    boxes = result.table[["bbox_x0", "bbox_y0", "bbox_x1", "bbox_y1"]].to_numpy()
    for index, (x0, y0, x1, y1) in zip(result.table["id"], boxes, strict=True):
        box = np.s_[y0:y1, x0:x1]
        canvas[box] = (result.instance_map[box] == index) * np.uint8(255)
        yield encode_mask(canvas)
        canvas[box] = 0


def encode_mask(mask: np.ndarray) -> str:
    """A mask (H, W), boolean or 0 and 255, as PNG in base64."""
    image = PIL.Image.fromarray(mask.astype(np.uint8) * 255 if mask.dtype == bool else mask)
    buffer = io.BytesIO()
    # Masks are long runs of zeros: this level is as fast as the lowest one and gives a quarter of its size.
    image.save(buffer, "PNG", compress_level=1, compress_type=zlib.Z_RLE)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
