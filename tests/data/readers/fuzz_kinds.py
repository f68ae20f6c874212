"""The sound files that `fuzz.py` mutates: one or more of each kind that the readers read."""

import gzip
import json
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import scipy.io
import tifffile

from cfsam_hf.data import list_tiles, write_shards
from tests.data_cases import aperio_xml, geojson_polygon, nuclei, painted, save_image


@dataclass(frozen=True)
class Scene:
    """What the sound files show: an image in pixels, and its nuclei, all alike on a grid."""

    height: int
    width: int
    count: int

    def label_map(self) -> np.ndarray:
        """`(height, width)` int32."""
        return nuclei(self.height, self.width, range(1, self.count + 1))

    def squares(self) -> list[list[list[float]]]:
        """The outlines of the nuclei from the fourth one on, which only a large scene has."""
        places = [(x, y) for y in range(2, self.height - 5, 8) for x in range(2, self.width - 4, 8)]
        return [geojson_polygon(x, y, x + 4, y + 5)[0] for x, y in places[3 : self.count]]


SMALL, LARGE = Scene(40, 50, 3), Scene(720, 720, 3000)


@dataclass(frozen=True)
class Kind:
    """A kind of file: the reader, how its folder is made, and the file that is mutated."""

    reader: str
    make: Callable[[Path, Scene], None]
    file: str
    options: dict = field(default_factory=dict)


def _geojson(folder: Path, scene: Scene) -> None:
    save_image(folder / "a.png", painted(scene.label_map()))
    cell = {"type": "Polygon", "coordinates": geojson_polygon(20, 4, 24, 9)}
    features = [
        _feature({"type": "Polygon", "coordinates": geojson_polygon(2, 2, 6, 7)}, "detection", {"name": "Tumor"}),
        _feature({"type": "Polygon", "coordinates": geojson_polygon(18, 2, 28, 12)}, "cell", {"names": ["A", "B"]})
        | {"nucleusGeometry": cell},
        _feature(
            {"type": "MultiPolygon", "coordinates": [geojson_polygon(30, 2, 34, 7), geojson_polygon(30, 20, 34, 25)]},
            "annotation",
            "Tumor",
        ),
        _feature({"type": "Polygon", "coordinates": geojson_polygon(0, 0, 50, 40)}, "annotation", {"name": "Region*"}),
        _feature({"type": "Point", "coordinates": [1, 1]}, "annotation", None),
    ]
    features[3]["properties"]["childObjects"] = [features[0]]
    features += [_feature({"type": "Polygon", "coordinates": [ring]}, "detection", None) for ring in scene.squares()]
    (folder / "a.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))


def _feature(geometry: dict, kind: str, classification: object) -> dict:
    properties = {"objectType": kind, "classification": classification, "type": "x"}
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def _compressed(ending: str) -> Callable[[Path, Scene], None]:
    def make(folder: Path, scene: Scene) -> None:
        _geojson(folder, scene)
        path = folder / "a.geojson"
        if ending == ".gz":
            (folder / "a.geojson.gz").write_bytes(gzip.compress(path.read_bytes()))
        else:
            with zipfile.ZipFile(folder / "a.geojson.zip", "w", zipfile.ZIP_DEFLATED) as archive:
                archive.write(path, path.name)
        path.unlink()

    return make


def _labelme(folder: Path, scene: Scene) -> None:
    save_image(folder / "a.png", painted(scene.label_map()))
    shapes = [
        {"label": "a", "points": [[2, 2], [6, 2], [6, 7]], "shape_type": "polygon", "group_id": None},
        {"label": "b", "points": [[10, 2], [14, 7]], "shape_type": "rectangle", "group_id": 1},
        {"label": "b", "points": [[20, 20], [24, 20]], "shape_type": "circle", "group_id": 1},
    ]
    shapes += [{"label": "a", "points": ring, "shape_type": "polygon"} for ring in scene.squares()]
    size = {"imageHeight": scene.height, "imageWidth": scene.width}
    (folder / "a.json").write_text(json.dumps({"shapes": shapes, **size}))


def _hovernet(folder: Path, scene: Scene) -> None:
    save_image(folder / "a.png", painted(scene.label_map()))
    rings = [*(geojson_polygon(2, y, 6, y + 5)[0] for y in (2, 12)), *scene.squares()]
    found = {f"{n}": {"contour": ring, "centroid": ring[0], "type": n % 3} for n, ring in enumerate(rings)}
    (folder / "a.json").write_text(json.dumps({"mag": 40, "type_map": {"1": "a", "2": "b"}, "nuc": found}))


def _coco(folder: Path, scene: Scene) -> None:
    save_image(folder / "a.png", painted(scene.label_map()))
    height, width = scene.height, scene.width
    content = {
        "images": [{"id": 7, "file_name": "a.png", "width": width, "height": height, "mpp": 0.25}],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 1, "segmentation": [[2, 2, 6, 2, 6, 7, 2, 7]], "iscrowd": 0},
            {
                "id": 2,
                "image_id": 7,
                "category_id": 2,
                "segmentation": {"size": [height, width], "counts": _counts(scene)},
            },
            {
                "id": 3,
                "image_id": 7,
                "category_id": 2,
                "segmentation": {"size": [height, width], "counts": _text_of_counts(scene)},
            },
            {"id": 4, "image_id": 7, "category_id": 1, "segmentation": [[12, 2, 16, 2, 16, 7]], "iscrowd": 1},
        ],
    }
    content["annotations"] += [
        {
            "id": 10 + number,
            "image_id": 7,
            "category_id": 1,
            "segmentation": [[number for point in ring for number in point]],
        }
        for number, ring in enumerate(scene.squares())
    ]
    (folder / "coco.json").write_text(json.dumps(content))


def _counts(scene: Scene) -> list[int]:
    return [100, 9, scene.height * scene.width - 109]


def _text_of_counts(scene: Scene) -> str:
    """COCO's compressed form of the run lengths: five bits a character, the sixth for more to come."""
    text = ""
    for value in _counts(scene):
        more = True
        while more:
            bits, value = value & 0x1F, value >> 5
            more = value != (-1 if bits & 0x10 else 0)
            text += chr((bits | 0x20 if more else bits) + 48)
    return text


def _pair(ending: str, save: Callable[[Path, np.ndarray], object]) -> Callable[[Path, Scene], None]:
    def make(folder: Path, scene: Scene) -> None:
        save_image(folder / "a.png", painted(scene.label_map()))
        save(folder / f"a_instances{ending}", scene.label_map().astype(np.uint16))

    return make


def _index(folder: Path, scene: Scene) -> None:
    _pair(".png", save_image)(folder, scene)
    rows = "".join(f"c{number},Colon,0.25,train\n" for number in range(len(scene.squares())))
    (folder / "index.csv").write_text(f"id,tissue,mpp,split\na,Colon,0.25,train\nb,Liver,0.5,test\n{rows}")


def _points(folder: Path, scene: Scene) -> None:
    save_image(folder / "a.png", painted(scene.label_map()))
    rows = "".join(f"{ring[0][0]},{ring[0][1]},1\n" for ring in scene.squares())
    (folder / "a_points.csv").write_text(f"x,y,type\n5.5,6.0,1\n20,30,4\n33,21,0\n{rows}")


def _xml(folder: Path, scene: Scene) -> None:
    save_image(folder / "a.tif", painted(scene.label_map()))
    ring = [(1, 1), (9, 1), (9, 9), (1, 9)]
    more = {3 + number: square for number, square in enumerate(scene.squares())}
    (folder / "a.xml").write_text(aperio_xml({"": {1: ring, 2: [(20, 20), (30, 20), (25, 30)], **more}}))


def _mat(folder: Path, scene: Scene) -> None:
    label_map = scene.label_map()
    save_image(folder / "Train" / "Images" / "a.png", painted(label_map))
    (folder / "Train" / "Labels").mkdir()
    content = {"inst_map": label_map.astype(float), "type_map": (label_map > 0).astype(float)}
    content |= {"inst_type": np.ones((scene.count, 1)), "inst_centroid": np.ones((scene.count, 2))}
    scipy.io.savemat(folder / "Train" / "Labels" / "a.mat", content, do_compression=True)


def _text(folder: Path, scene: Scene) -> None:
    save_image(folder / "image01.png", painted(scene.label_map()))
    values = " ".join(map(str, scene.label_map().ravel()))
    (folder / "image01_mask.txt").write_text(f"{scene.width} {scene.height} {values}")


def _rois(name: str) -> Callable[[Path, Scene], None]:
    def make(folder: Path, scene: Scene) -> None:
        import roifile

        save_image(folder / "a.png", painted(scene.label_map()))
        rois = [
            roifile.ImagejRoi.frompoints(points) for points in ([[2, 2], [6, 2], [6, 7]], [[9.5, 2], [19, 11], [9, 9]])
        ]
        rois[0].properties = {"qupath.object.classification": "Tumor", "qupath.object.type": "detection"}
        rois.append(roifile.ImagejRoi(roitype=roifile.ROI_TYPE.OVAL, left=20, top=20, right=30, bottom=28))
        path = [0, 30, 2, 1, 40, 2, 1, 40, 12, 4, 0, 33, 4, 1, 36, 4, 1, 36, 7, 4]
        rois.append(roifile.ImagejRoi(roitype=roifile.ROI_TYPE.RECT, shape_roi_size=len(path)))
        rois[-1].multi_coordinates = np.array(path, dtype=np.float32)
        rois += [roifile.ImagejRoi.frompoints(ring) for ring in scene.squares()[:800]]
        if name.endswith(".zip"):
            roifile.roiwrite(folder / name, rois)
        else:
            (folder / name).write_bytes(rois[3].tobytes())

    return make


def _mask_folder(folder: Path, scene: Scene) -> None:
    save_image(folder / "case" / "images" / "a.png", painted(scene.label_map()))
    for label in (1, 2, 3):
        mask = np.where(scene.label_map() == label, 255, 0).astype(np.uint8)
        save_image(folder / "case" / "masks" / f"{label}.png", mask)


def _parquet(folder: Path, scene: Scene) -> None:
    with tempfile.TemporaryDirectory() as pairs:
        _pair(".png", save_image)(Path(pairs), scene)
        (shard,) = write_shards(list_tiles("instance_pairs", pairs), folder / "shards")
    shard.rename(folder / "a.parquet")


KINDS = {
    "geojson": Kind("qupath", _geojson, "a.geojson"),
    "geojson gzip": Kind("qupath", _compressed(".gz"), "a.geojson.gz"),
    "geojson archive": Kind("qupath", _compressed(".zip"), "a.geojson.zip"),
    "labelme": Kind("qupath", _labelme, "a.json"),
    "hovernet": Kind("qupath", _hovernet, "a.json"),
    "coco": Kind("coco", _coco, "coco.json"),
    "png": Kind("instance_pairs", _pair(".png", save_image), "a_instances.png"),
    "tiff": Kind("instance_pairs", _pair(".tif", save_image), "a_instances.tif"),
    "float tiff": Kind(
        "instance_pairs", _pair(".tif", lambda path, m: tifffile.imwrite(path, m.astype("f4"))), "a_instances.tif"
    ),
    "npy": Kind("instance_pairs", _pair(".npy", np.save), "a_instances.npy"),
    "index": Kind("instance_pairs", _index, "index.csv"),
    "points": Kind("crchisto", _points, "a_points.csv"),
    "xml": Kind("monuseg", _xml, "a.xml"),
    "mat": Kind("consep", _mat, "Train/Labels/a.mat", {"stored_types": "merged"}),
    "text": Kind("cpm15", _text, "image01_mask.txt"),
    "roi": Kind("qupath", _rois("a.roi"), "a.roi"),
    "roi archive": Kind("qupath", _rois("a.zip"), "a.zip"),
    "mask": Kind("mask_folders", _mask_folder, "case/masks/2.png"),
    "parquet": Kind("parquet", _parquet, "a.parquet"),
}
STRUCTURED = ("geojson", "labelme", "hovernet", "coco")
