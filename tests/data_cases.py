"""Small nuclei and pictures that the tests of the readers write to disk in the data sets' official layouts."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

REGION_HEADERS = "".join(
    f'<AttributeHeader Id="{number}" Name="{name}" ColumnWidth="-1"/>'
    for number, name in ((9999, "Region"), (9997, "Length"), (9996, "Area"), (9998, "Text"), (1, "Description"))
)


def nuclei(height: int = 40, width: int = 50, ids: Iterable[int] = (1, 2, 3)) -> np.ndarray:
    """`(height, width)` int32: one 5 x 4 block (rows x columns) per id, on a grid of 8 pixels, never touching."""
    label_map = np.zeros((height, width), dtype=np.int32)
    places = ((row, column) for row in range(2, height - 5, 8) for column in range(2, width - 4, 8))
    for label, (row, column) in zip(ids, places, strict=False):
        label_map[row : row + 5, column : column + 4] = label
    return label_map


def painted(label_map: np.ndarray) -> np.ndarray:
    """Image `(H, W, 3)` uint8 whose red is seven times the id (modulo 256): it shows a turned or shifted label map."""
    image = np.full((*label_map.shape, 3), (0, 60, 200), dtype=np.uint8)
    image[..., 0] = label_map * 7 % 256
    return image


def save_image(path: Path, image: np.ndarray, **options) -> Path:
    """Write `image` by Pillow, with the folders it needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, **options)
    return path


def truncate(path: Path, share: float = 0.5) -> Path:
    """Cut a file to `share` of its length, as an interrupted download leaves it."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def types_by_id(instance_map: np.ndarray, type_map: np.ndarray) -> dict[int, list[int]]:
    """All types found at each nucleus."""
    return {
        label: np.unique(type_map[instance_map == label]).tolist()
        for label in np.unique(instance_map).tolist()
        if label
    }


def aperio_xml(layers: dict[str, dict[int, list[tuple[float, float]]]], mpp: str | None = "0.252000") -> str:
    """An annotation file as Aperio ImageScope writes it: by attribute name, (x, y) vertices by region id."""
    scale = "" if mpp is None else f' MicronsPerPixel="{mpp}"'
    return f"<Annotations{scale}>{''.join(_layer(name, regions) for name, regions in layers.items())}</Annotations>"


def _layer(attribute: str, regions: dict[int, list[tuple[float, float]]]) -> str:
    body = "".join(
        f'<Region Id="{number}" Type="0" Zoom="1" Selected="0" ImageLocation="" ImageFocus="0" Length="5.2" '
        'Area="25.3" LengthMicrons="1.3" AreaMicrons="1.6" Text="" NegativeROA="0" InputRegionId="0" DisplayId="1">'
        "<Attributes/><Vertices>"
        + "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in vertices)
        + "</Vertices></Region>"
        for number, vertices in regions.items()
    )
    return (
        '<Annotation Id="1" Name="" ReadOnly="0" NameReadOnly="0" LineColorReadOnly="0" Incremental="0" Type="4" '
        'LineColor="65280" Visible="1" Selected="1" MarkupImagePath="" MacroName="">'
        f'<Attributes><Attribute Name="{attribute}" Id="0" Value=""/></Attributes>'
        f"<Regions><RegionAttributeHeaders>{REGION_HEADERS}</RegionAttributeHeaders>{body}</Regions><Plots/>"
        "</Annotation>"
    )


def geojson_polygon(x0: float, y0: float, x1: float, y1: float) -> list[list[list[float]]]:
    """The coordinates of a rectangle as a GeoJSON Polygon: one closed ring."""
    return [[[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]]
