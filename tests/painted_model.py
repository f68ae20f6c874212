"""A model that reads its maps from the colours of an image, and a painter of such images: exact tests."""

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from cfsam_hf.model.configuration_cfsam import CfSamConfig
from cfsam_hf.model.image_processing_cfsam import CfSamImageProcessor
from cfsam_hf.model.modeling_cfsam import CfSamNucleiSegmentationOutput
from cfsam_hf.model.pipeline_cfsam import NucleiSegmentationPipeline

# Red of a nucleus by type; 0 is background.
RED = {0: 0, 1: 255, 2: 210}


def painted_config(num_types=2, **options):
    vision = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "output_channels": 16,
        "num_pos_feats": 8,
        "image_size": 64,
        "global_attn_indexes": [1],
        "initializer_range": 0.02,
    }
    names = {1: "inflammatory", 2: "epithelial"} if num_types else None
    return CfSamConfig(
        vision_config=vision,
        prompt_encoder_config={"hidden_size": 16, "image_size": 64},
        mask_decoder_config={"hidden_size": 16},
        num_types=num_types,
        id2label=names,
        checkpoint_info={"name": "painted"},
        **options,
    )


class PaintedModel(PreTrainedModel):
    """Red is the nuclei probability and the type, green and blue are the horizontal and vertical distance."""

    config_class = CfSamConfig
    main_input_name = "pixel_values"

    def __init__(self, config):
        super().__init__(config)
        self.gain = nn.Parameter(torch.tensor(20.0))
        self.tiles = []
        self.post_init()

    def forward(self, pixel_values):
        self.tiles.append(tuple(pixel_values.shape))
        mean = torch.tensor(IMAGENET_DEFAULT_MEAN).view(1, 3, 1, 1)
        std = torch.tensor(IMAGENET_DEFAULT_STD).view(1, 3, 1, 1)
        rgb = pixel_values.float() * std + mean
        red, hv = rgb[:, :1], (rgb[:, 1:] * 255 - 128) / 127
        types = None
        if self.config.num_types:
            first = 10 * torch.where(red > 0.92, 1.0, -1.0)
            types = torch.cat([(0.5 - red) * self.gain, first, -first], dim=1)
        return CfSamNucleiSegmentationOutput(nuclei_logits=(red - 0.5) * self.gain, hv_maps=hv, type_logits=types)


def painted_pipeline(num_types=2, tile_size=64, tile_overlap=32, **options):
    """The pipeline around a `PaintedModel`, on the CPU."""
    processor = CfSamImageProcessor(tile_size=tile_size, tile_overlap=tile_overlap)
    return NucleiSegmentationPipeline(
        PaintedModel(painted_config(num_types)), image_processor=processor, device="cpu", **options
    )


def paint(height, width, count=40, seed=0, radii=(5, 10), scale=1.0):
    """
    A picture of `count` discs (fewer where they do not fit), their label map (ids in raster order of first pixels) and
    types. `scale` magnifies everything but the number of discs, drawn anew at full sharpness.
    """
    rng = np.random.default_rng(seed)
    places = []
    for _ in range(50 * count):
        radius = rng.uniform(*radii)
        place = rng.uniform(radius, height - radius), rng.uniform(radius, width - radius), radius, rng.integers(1, 3)
        if all(np.hypot(place[0] - y, place[1] - x) > radius + other + 4 for y, x, other, _ in places):
            places.append(place)
        if len(places) == count:
            break
    height, width = round(height * scale), round(width * scale)
    rows, columns = np.mgrid[:height, :width] + 0.5
    image = np.full((height, width, 3), (0, 128, 128), np.uint8)
    instance_map = np.zeros((height, width), np.int32)
    for index, (y, x, radius, kind) in enumerate(places):
        y, x, radius = y * scale, x * scale, radius * scale
        inside = np.hypot(rows - y, columns - x) < radius
        instance_map[inside] = index + 1
        image[inside, 0] = RED[kind]
        image[inside, 1] = (128 + 127 * (columns - x) / radius)[inside]
        image[inside, 2] = (128 + 127 * (rows - y) / radius)[inside]
    ids = instance_map[instance_map > 0]
    order = list(dict.fromkeys(ids.tolist()))
    renumber = np.zeros(len(places) + 1, np.int32)
    renumber[order] = np.arange(1, len(order) + 1)
    return image, renumber[instance_map], np.array([places[index - 1][3] for index in order])
