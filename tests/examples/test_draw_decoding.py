"""Why: the picture in the documentation must show the steps that decoding takes."""

import numpy as np


def test_every_step_has_a_panel_and_the_sheet_holds_them_all(load_example, monkeypatch):
    example = load_example("tools/draw_decoding")
    top, left = example.TOP // 2, example.LEFT // 2
    picture, size = example.demo_picture()
    monkeypatch.setattr(example, "demo_picture", lambda: (picture[top : top + 64, left : left + 64], size))
    monkeypatch.setattr(example, "TOP", 0)
    monkeypatch.setattr(example, "LEFT", 0)
    panels = example.panels()
    assert len(panels) == 8
    side = example.SIDE * example.SCALE
    assert {picture.size for _, picture in panels} == {(side, side)}
    pictures = {caption: np.asarray(picture) for caption, picture in panels}
    levels = {tuple(color) for color in pictures["5 foreground, markers, cores"].reshape(-1, 3).tolist()}
    assert levels == {tuple(color) for color in example.LEVELS.tolist()}
    assert not np.array_equal(pictures["6 nuclei"], pictures["image"])
    sheet = np.asarray(example.draw_sheet(panels))
    assert (sheet[-1] == 255).all()
    assert all(any((sheet == picture[side // 2, side // 2]).all(axis=2).ravel()) for picture in pictures.values())
