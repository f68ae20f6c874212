"""Why: exports mix nuclei with regions, tiles, cores and spots, which must not train as nuclei nor vanish silently."""

import numpy as np
import pytest

from cfsam_hf.data.readers.geojson_files import GeoFeature
from cfsam_hf.data.readers.object_roles import sort_objects


def block(x: float, y: float, width: float = 6, name: str | None = "Tumor", kind: str | None = "detection", **more):
    ring = np.array([(x, y), (x + width, y), (x + width, y + width), (x, y + width)], dtype=float)
    return GeoFeature(polygons=((ring,),), name=name, kind=kind, **more)


CELLS = [block(20 + 20 * number, 20) for number in range(5)]


def sort(*features: GeoFeature, size=(300, 300)):
    return sort_objects(features, "Region*", "Ignore*", size)


def test_objects_that_are_never_nuclei():
    roles = sort(*CELLS, block(0, 0, 90, kind="tile"), block(0, 0, 90, kind="tile"), block(0, 0, 200, kind="tma core"))
    assert (roles.nuclei, roles.regions) == (CELLS, [])
    assert roles.notes == ["QuPath's tiles left out: 2", "QuPath's tma cores left out: 1"]


def test_spots_within_cells():
    spots = [block(21, 21, 1, "Subcellular spot: Channel 2 object"), block(22, 22, 1, None, parent="cell")]
    roles = sort(*CELLS, *spots)
    assert roles.nuclei == CELLS
    assert roles.notes == ["objects within cells left out: 2"]


def test_annotations_of_the_size_of_nuclei_stay():
    by_hand = block(60, 60, 8, kind="annotation")
    roles = sort(*CELLS, by_hand)
    assert roles.nuclei == [*CELLS, by_hand]
    assert roles.notes == []


@pytest.mark.parametrize("width", [14, 40, 250])
def test_an_annotation_around_detections_is_a_region(width):
    region = block(18, 18, width, "Stroma", "annotation")
    roles = sort(region, *CELLS)
    assert roles.nuclei == CELLS
    assert len(roles.notes) == 1
    assert roles.regions == ([region] if width == 250 else [])


def test_an_empty_region_among_detections():
    regions = [block(18, 18, 100, "Tumor", "annotation"), block(150, 150, 100, "Stroma", "annotation")]
    roles = sort(*CELLS, *regions)
    assert (roles.nuclei, roles.regions) == (CELLS, regions)


def test_regions_by_class_go_first():
    region = block(0, 0, 200, "Region*", "annotation")
    around = block(18, 18, 100, "Tumor", "annotation")
    roles = sort(*CELLS, region, around, block(0, 0, 9, "Ignore*"))
    assert (roles.nuclei, roles.regions, len(roles.ignored)) == (CELLS, [region], 1)
    assert "left out, since there are regions of the class 'Region*'" in roles.notes[0]


@pytest.mark.parametrize("kind", ["annotation", None])
def test_files_that_do_not_tell_regions_from_nuclei_are_refused(kind):
    nuclei = [block(20 + 20 * number, 20, kind=kind) for number in range(3)]
    with pytest.raises(ValueError, match=r"the outline from .* \(class 'Tumor'\) encloses 1 others"):
        sort(nuclei[0], block(10, 10, 40, kind=kind))
    with pytest.raises(ValueError, match="has 278 times the median area"):
        sort(*nuclei, block(150, 150, 100, kind=kind))
    with pytest.raises(ValueError, match="covers most of the tile"):
        sort(block(0, 0, 290, kind=kind))
    large = block(150, 150, 40, kind=kind)
    assert sort(*nuclei, large).nuclei == [*nuclei, large]
    assert sort(block(0, 0, 50, kind=kind), size=(60, 60)).nuclei


def test_groups_come_apart():
    group = GeoFeature(polygons=tuple(cell.polygons[0] for cell in CELLS), name="Tumor", kind="annotation")
    roles = sort(group, block(200, 200))
    assert len(roles.nuclei) == 6
    assert {feature.name for feature in roles.nuclei} == {"Tumor"}
    assert roles.notes == ["1 MultiPolygon of 5 separate parts read as 5 objects"]
