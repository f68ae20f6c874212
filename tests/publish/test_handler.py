"""Why: an Inference Endpoint must answer what Hugging Face's client sends, and explain a wrong request."""

import base64
import io
import json
from http.server import BaseHTTPRequestHandler

import huggingface_hub
import numpy as np
import PIL.Image
import pytest
from huggingface_hub import InferenceClient

from cfsam_hf import bundled_checkpoint
from cfsam_hf.model.image_processing_cfsam import CfSamImageProcessor
from cfsam_hf.model.pipeline_cfsam import NucleiSegmentationPipeline
from cfsam_hf.publish import handler as handler_module
from cfsam_hf.publish.handler import EndpointHandler

from ..hub_server import serving
from ..painted_model import PaintedModel, paint, painted_config
from ..picture_cases import huge_png


def painted_handler(num_types: int = 2) -> EndpointHandler:
    """A handler whose model reads the nuclei off a painted picture."""
    handler = EndpointHandler.__new__(EndpointHandler)
    model = PaintedModel(painted_config(num_types))
    handler.pipe = NucleiSegmentationPipeline(model, CfSamImageProcessor())
    return handler


@pytest.fixture
def painted() -> tuple[np.ndarray, np.ndarray, np.ndarray, bytes]:
    """A picture larger than a tile, its label map and types, and the picture as a PNG file."""
    image, instance_map, types = paint(200, 330, 12)
    buffer = io.BytesIO()
    PIL.Image.fromarray(image).save(buffer, "PNG")
    return image, instance_map, types, buffer.getvalue()


def served(handler: EndpointHandler) -> type[BaseHTTPRequestHandler]:
    """A server that does with requests what an Inference Endpoint does."""

    class Server(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            kind = self.headers.get("Content-Type", "")
            if kind.startswith("application/json"):
                data = json.loads(body)
            elif kind.startswith("image/"):
                data = {"inputs": PIL.Image.open(io.BytesIO(body)).convert("RGB")}
            else:
                data = {"inputs": body}
            try:
                status, answer = 200, handler(data)
            except ValueError as error:
                status, answer = 400, {"error": str(error)}
            text = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *args):
            pass

    return Server


@pytest.fixture
def online(monkeypatch):
    """The tests run offline; a server on this machine may be reached all the same."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)


@pytest.mark.filterwarnings("ignore:mpp is not given")
def test_the_client_of_the_hub_gets_a_mask_per_nucleus(painted, online):
    _, instance_map, types, file = painted
    names = painted_config().id2label
    with serving(served(painted_handler())) as address:
        client = InferenceClient(address)
        raw = client.image_segmentation(file)
        with_parameters = client.image_segmentation(file, threshold=0.5, mask_threshold=0.4, subtask="instance")
        semantic = client.image_segmentation(file, subtask="semantic")
    assert len(raw) == instance_map.max() == 12
    for answer in (raw, with_parameters):
        assert [item.label for item in answer] == [names[t] for t in types]
        assert all(0 < item.score <= 1 for item in answer)
    for index, item in enumerate(raw, start=1):
        assert item.mask.mode == "L"
        assert np.array_equal(np.asarray(item.mask), 255 * (instance_map == index))
    type_map = np.r_[0, types][instance_map]
    assert {item.label for item in semantic} == {"background", "inflammatory", "epithelial"}
    for item in semantic:
        assert item.score is None
        [label] = [key for key, name in names.items() if name == item.label]
        assert np.array_equal(np.asarray(item.mask) == 255, type_map == label)


@pytest.mark.filterwarnings("ignore:mpp is not given")
def test_a_wrong_request_is_answered_in_the_clients_error(painted, online):
    with serving(served(painted_handler())) as address:
        client = InferenceClient(address)
        with pytest.raises(huggingface_hub.errors.BadRequestError, match="instance"):
            client.image_segmentation(painted[3], subtask="panoptic")
        with pytest.raises(huggingface_hub.errors.BadRequestError, match="not an image"):
            client.image_segmentation(b"\x89PNG but not really")


@pytest.mark.filterwarnings("ignore:mpp is not given")
def test_all_forms_of_an_image_give_the_same(painted):
    image, _, _, file = painted
    handler = painted_handler()
    text = base64.b64encode(file).decode()
    forms = [PIL.Image.fromarray(image), file, text, f"data:image/png;base64,{text}"]
    answers = [handler({"inputs": form}) for form in forms]
    assert all(answer == answers[0] for answer in answers)
    assert json.loads(json.dumps(answers[0])) == answers[0]


def test_parameters_act(painted):
    file = painted[3]
    handler = painted_handler()
    every = handler({"inputs": file, "parameters": {"mpp": 0.25}})
    scores = sorted(item["score"] for item in every)
    middle = handler({"inputs": file, "parameters": {"mpp": 0.25, "threshold": scores[6]}})
    assert [item["score"] for item in middle] == [item["score"] for item in every if item["score"] >= scores[6]]
    assert len(middle) < len(every)
    seen = {}
    handler.pipe = lambda image, **options: seen.update(options) or 1 / 0
    given = {"mask_threshold": 0.7, "threshold": 0.2, "mpp": 0.5, "overlap_mask_area_threshold": 0.3, "subtask": None}
    with pytest.raises(ZeroDivisionError):
        handler({"inputs": file, "parameters": given})
    assert (seen.pop("max_pixels"), seen.pop("progress")) == (2**24, False)
    assert seen == {"threshold": 0.2, "mpp": 0.5, "decoding": {"nuclei_threshold": 0.7, "minimum_score": 0.0}}


def test_the_mask_threshold_moves_the_outlines():
    # Red falls from the middle to the edge of one disc, and with it the nuclei probability.
    rows, columns = np.mgrid[:64, :64] + 0.5
    distance = np.hypot(rows - 32, columns - 32)
    image = np.full((64, 64, 3), (0, 128, 128), np.uint8)
    image[..., 0] = np.clip(255 - distance * 9, 0, 255)
    inside = distance < 28
    image[..., 1] = np.where(inside, 128 + 127 * (columns - 32) / 28, 128)
    image[..., 2] = np.where(inside, 128 + 127 * (rows - 32) / 28, 128)
    areas = []
    for threshold in (0.2, 0.5, 0.95):
        parameters = {"mask_threshold": threshold, "mpp": 0.25}
        [nucleus] = painted_handler(0)({"inputs": PIL.Image.fromarray(image), "parameters": parameters})
        assert nucleus["label"] == "nucleus"
        mask = PIL.Image.open(io.BytesIO(base64.b64decode(nucleus["mask"])))
        areas.append(np.count_nonzero(np.asarray(mask)))
    assert areas[0] > areas[1] > areas[2] > 0


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, 'no "inputs"'),
        ({}, 'no "inputs"'),
        ({"inputs": "not base64!"}, "not base64"),
        ({"inputs": base64.b64encode(b"text").decode()}, "not an image"),
        ({"inputs": 7}, "got int"),
        ({"inputs": b""}, "not an image"),
        ({"parameters": [1]}, "got list"),
        ({"parameters": {"treshold": 0.5}}, "treshold"),
        ({"parameters": {"threshold": 2}}, "threshold must be a number from 0 to 1, got 2"),
        ({"parameters": {"threshold": "high"}}, "'high'"),
        ({"parameters": {"threshold": True}}, "True"),
        ({"parameters": {"mask_threshold": float("nan")}}, "mask_threshold"),
        ({"parameters": {"subtask": "panoptic"}}, "use instance"),
        ({"parameters": {"subtask": "depth"}}, "'depth'"),
        ({"parameters": {"mpp": 0}}, "mpp"),
        ({"parameters": {"mpp": 1000}}, "mpp"),
    ],
)
def test_wrong_requests_raise_a_sentence(painted, data, message):
    if isinstance(data, dict) and "parameters" in data:
        data = {"inputs": painted[3], **data}
    with pytest.raises(ValueError, match=message):
        painted_handler()(data)


def png(*size: int) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.new("RGB", size, "white").save(buffer, "PNG")
    return buffer.getvalue()


def test_large_images_are_refused_before_they_are_decoded(tmp_path):
    huge_png(tmp_path / "a.png")  # nothing could decode it
    large, huge = png(4097, 4096), (tmp_path / "a.png").read_bytes()
    for form in (large, PIL.Image.open(io.BytesIO(large)), huge, base64.b64encode(huge).decode()):
        with pytest.raises(ValueError, match="16777216"):
            painted_handler()({"inputs": form})


@pytest.mark.parametrize("mpp", [1, 10])
def test_the_limit_holds_after_resampling(mpp):
    with pytest.raises(ValueError, match="max_pixels=16777216"):
        painted_handler()({"inputs": png(1200, 1000), "parameters": {"mpp": mpp}})


@pytest.mark.parametrize("mpp", [1e-300, 0.00025, 250, 1e300])
def test_pixel_sizes_in_other_units_are_refused(mpp):
    with pytest.raises(ValueError, match="micrometres per pixel, from"):
        painted_handler()({"inputs": png(8, 8), "parameters": {"mpp": mpp}})


def test_the_answer_is_limited(painted, monkeypatch):
    monkeypatch.setattr(handler_module, "MAX_MASK_PIXELS", 12 * 200 * 330 - 1)
    request = {"inputs": painted[3], "parameters": {"mpp": 0.25}}
    with pytest.raises(ValueError, match="12 masks of 330x200 pixels are more than one answer holds"):
        painted_handler()(request)
    request["parameters"]["subtask"] = "semantic"
    assert len(painted_handler()(request)) == 3


def test_a_picture_without_nuclei(painted):
    blank = PIL.Image.new("RGB", (40, 30), (0, 128, 128))
    handler = painted_handler()
    assert handler({"inputs": blank, "parameters": {"mpp": 0.25}}) == []
    [background] = handler({"inputs": blank, "parameters": {"mpp": 0.25, "subtask": "semantic"}})
    assert background["label"] == "background"


def test_the_handler_loads_the_folder_it_lies_in():
    handler = EndpointHandler(str(bundled_checkpoint()))
    assert handler.pipe.task == "nuclei-segmentation"
    assert handler.pipe.model.config.checkpoint_info["name"] == "cfsam-tiny"
