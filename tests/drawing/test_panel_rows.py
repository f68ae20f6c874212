"""Why: panels of a row must show the same place, the one with the most nuclei, under the right heading."""

import numpy as np

from cfsam_hf.drawing.outlines import ColoredNuclei
from cfsam_hf.drawing.panel_rows import GAP, SCALE, TEXT, Panel, busiest_window, panel_rows

RED, BLUE = (250, 0, 0), (0, 0, 250)


def test_the_window_of_a_picture_lies_where_the_nuclei_are():
    labels = np.zeros((300, 400), np.int32)
    labels[200:260, 300:360] = 1
    rows, columns = busiest_window(labels, 100)
    assert labels[rows, columns].sum() == 3600
    assert labels[busiest_window(labels, 1000)].shape == (300, 400)


def test_each_panel_shows_its_nuclei():
    label_map = np.zeros((40, 60), np.int32)
    label_map[10:30, 10:50] = 5
    panels = [Panel("truth", ColoredNuclei(label_map, {5: RED})), Panel("after", ColoredNuclei(label_map, {5: BLUE}))]
    page = np.array(panel_rows([(np.full((40, 60, 3), 255, np.uint8), panels)] * 2, {"red": RED, "blue": BLUE}))
    width, height = round(60 * SCALE), round(40 * SCALE)
    for row in range(2):
        top = GAP + row * (height + 2 * TEXT + GAP) + 2 * TEXT
        for place, (own, other) in enumerate([(RED, BLUE), (BLUE, RED)]):
            left = GAP + place * (width + GAP)
            panel = page[top : top + height, left : left + width]
            assert (panel == own).all(axis=-1).sum() > 50
            assert not (panel == other).all(axis=-1).any()
