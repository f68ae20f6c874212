"""Why: people stop or continue a training run by these pictures, so they must show what the model really found."""

import numpy as np
import pytest
import torch

from cfsam_hf import CfSamImageProcessor
from cfsam_hf.model.result import UNTYPED_COLOR
from cfsam_hf.training.pictures import UNKNOWN_COLOR, Example, colored_nuclei, comparison_picture

from ..data_cases import nuclei, painted
from ..tiny import SIZE, tiny_test_model


def test_nuclei_have_the_colours_of_their_types():
    label_map = nuclei(ids=(4, 9, 30))
    colors = {1: (255, 0, 0), 2: (0, 255, 0)}
    typed = colored_nuclei(label_map, {4: 2, 9: 1, 30: 0}, colors)
    assert typed.colors == {4: colors[2], 9: colors[1], 30: UNKNOWN_COLOR}
    assert colored_nuclei(label_map, None, colors).colors == dict.fromkeys((4, 9, 30), colors[1])
    assert colored_nuclei(label_map, None, {}).colors == dict.fromkeys((4, 9, 30), UNTYPED_COLOR)


def test_annotated_nuclei_of_unknown_type_are_grey():
    label_map = nuclei()[:32, :48]
    example = Example(painted(label_map), label_map, np.where(label_map > 0, -100, 0))
    side = 32
    example = Example(example.image[:side, :side], label_map[:side, :side], example.type_map[:side, :side])
    processor = CfSamImageProcessor(tile_size=SIZE, tile_overlap=16)
    picture = np.asarray(comparison_picture(tiny_test_model(), processor, [example], torch.device("cpu")))
    truth = picture[24 : 24 + 256, 268 : 268 + 256]
    assert (truth == UNKNOWN_COLOR).all(axis=-1).sum() > 50


@pytest.mark.parametrize("options", [{}, {"num_types": 0}, {"use_bgmr": False}])
def test_a_comparison_has_a_row_per_example(options):
    instance_map = nuclei()
    side = instance_map.shape[0] // 16 * 16
    instance_map = instance_map[:side, :side]
    examples = [Example(painted(instance_map), instance_map, np.minimum(instance_map, 1))] * 2
    processor = CfSamImageProcessor(tile_size=SIZE, tile_overlap=16)
    picture = np.asarray(comparison_picture(tiny_test_model(**options), processor, examples, torch.device("cpu")))
    scale = 1
    while side * scale < 192:
        scale *= 2
    assert picture.shape == (2 * (side * scale + 6) + 6 + 18, 4 * (side * scale + 6) + 6, 3)
    # The first column is the unchanged input.
    first = picture[18 + 6 : 18 + 6 + side * scale : scale, 6 : 6 + side * scale : scale]
    assert np.array_equal(first, examples[0].image)
    boundary = picture[18 + 6 : 18 + 6 + side * scale, -6 - side * scale : -6]
    assert boundary.any() == (options != {"use_bgmr": False})
