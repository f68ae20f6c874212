"""How a slide is segmented: where to look for nuclei, at which pixel size, in which regions."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow

from ..model.pixel_size import PixelSize, resampled_size
from ..outputs.slide_table import nuclei_schema
from ..slides import Areas, Slide, TissueMask, find_tissue, read_areas, read_tissue, whole_slide
from ..slides.regions import REGION_SIDE, Box, Region, RegionGrid
from .slide_source import SlideSource
from .sources import file_digest

AUTO, ALL = "auto", "all"
"""Find the tissue, or look everywhere."""

# Options of the pipeline that its network and decoding take.
FORWARD_OPTIONS = ("batch_size", "tile_size", "tile_overlap", "views", "autocast_dtype", "decoding", "style")


@dataclass(frozen=True)
class WhereToLook:
    """
    Where to look for nuclei.

    Attributes:
        tissue: `"auto"` (found by its stain), `"all"`, or a file: a mask image or GeoJSON. None: `"all"` where there
            are regions of interest, else `"auto"`.
        roi: annotations (GeoJSON, as QuPath exports them) of the areas whose nuclei are wanted.
        exclude: annotations of areas whose nuclei are not wanted.
    """

    tissue: str | Path | None = None
    roi: Path | None = None
    exclude: Path | None = None

    @property
    def mode(self) -> str | Path:
        """`tissue`, or its default."""
        if self.tissue is not None:
            return self.tissue
        return AUTO if self.roi is None else ALL

    def identity(self) -> dict[str, Any]:
        """Everything that it depends on, as JSON-able values.

        Raises:
            OSError: a file cannot be read.
        """
        mode = self.mode
        return {
            "tissue": mode if mode in (AUTO, ALL) else file_digest(Path(mode)),
            "roi": None if self.roi is None else file_digest(self.roi),
            "exclude": None if self.exclude is None else file_digest(self.exclude),
        }


@dataclass(frozen=True)
class SlidePlan:
    """How a slide is segmented: everything that its regions share. It can be pickled.

    Attributes:
        source: the slide.
        size: (width, height) of level 0.
        grid: its regions.
        tissue: where to look for nuclei.
        mpp: micrometres per pixel of the model's pixels, None if the pixel size is not known.
        pixel_size: of level 0; None if it is not known.
        type_names: names of the types 1..T by id.
        areas: nuclei with centroids outside them are left out; None: there are no such areas.
        excluded: nuclei with centroids in these areas are left out.
        threshold: nuclei with a lower score are left out.
        options: options of `NucleiSegmentationPipeline.predict_runs`.
    """

    source: SlideSource
    size: tuple[int, int]
    grid: RegionGrid
    tissue: TissueMask
    mpp: float | None
    pixel_size: PixelSize | None
    type_names: Mapping[int, str]
    areas: Areas | None = None
    excluded: Areas | None = None
    threshold: float = 0.0
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def schema(self) -> pyarrow.Schema:
        """The columns of the slide's nuclei."""
        return nuclei_schema(self.type_names)

    def regions(self) -> list[Region]:
        """The regions that hold tissue, in raster order.

        Raises:
            ValueError: there are none.
        """
        regions = self.grid.regions(self.tissue.touches)
        if not regions:
            raise ValueError(
                f"no tissue was found on {self.source.name}; pass tissue=all to process the whole slide, or "
                "tissue=FILE with a mask of the tissue"
            )
        return regions

    def tissue_mm2(self, box: Box) -> float:
        """Square millimetres of tissue in a box of the model's pixels; 0.25 um pixels where the size is unknown."""
        x0, y0, x1, y1 = self.grid.level0(box)
        across, down = self.tissue.scale
        rows = slice(math.floor(y0 / down), math.ceil(y1 / down))
        columns = slice(math.floor(x0 / across), math.ceil(x1 / across))
        count = int(np.count_nonzero(self.tissue.mask[rows, columns]))
        area = self.tissue.pixel_area_um2
        return count * (across * down * 0.25**2 if area is None else area) / 1e6

    def wants(self, points: np.ndarray) -> np.ndarray:
        """Which centroids (N, 2), in pixels of level 0, lie in tissue and where nuclei are wanted: (N,) bool."""
        wanted: np.ndarray = self.tissue.contains(points)
        if self.areas is not None:
            wanted = wanted & self.areas.contains(points)
        if self.excluded is not None:
            wanted = wanted & ~self.excluded.contains(points)
        return wanted

    def identity(self) -> dict[str, Any]:
        """What the nuclei depend on besides the slide, the checkpoint and the options, as JSON-able values."""
        mask = hashlib.blake2b(np.packbits(self.tissue.mask).tobytes(), digest_size=16)
        grid = self.grid
        return {
            "mask": [*self.tissue.mask.shape, mask.hexdigest()],
            "grid": [grid.width, grid.height, *grid.tiling, *grid.scale, grid.side],
            "mpp": self.mpp,
        }


def plan_slide(
    source: SlideSource,
    slide: Slide,
    pipe: Any,
    options: Mapping[str, Any],
    where: WhereToLook | None = None,
    side: int = REGION_SIDE,
) -> SlidePlan:
    """
    Decides how a slide is segmented.

    Args:
        source: the slide.
        slide: the same, open.
        pipe: the pipeline.
        options: arguments of the pipeline.
        where: where to look for nuclei; default: in the tissue.
        side: approximate width and height of a region, in the model's pixels.

    Raises:
        OSError: the slide, or a file that says where to look, cannot be read; the message names it.
        ValueError: the slide states no pixel size and none is given, or such a file does not fit the slide.
    """
    size = slide.pixel_size
    width, height = slide.size
    if size is None:
        if slide.vendor != "picture":
            raise ValueError(f"{source.name} states no pixel size; pass mpp=..., such as 0.25 at 40x or 0.5 at 20x")
        model_size = (height, width)
    else:
        model_mpp = pipe.image_processor.mpp
        if size.is_square and resampled_size(height, width, size.mpp, model_mpp) == (height, width):
            model_size = (height, width)
        else:
            model_size = (max(1, round(height * size.y / model_mpp)), max(1, round(width * size.x / model_mpp)))
    scale = (width / model_size[1], height / model_size[0])
    tiling = {name: options[name] for name in ("tile_size", "tile_overlap", "views") if options.get(name) is not None}
    tissue, areas, excluded = _find(slide, where or WhereToLook())
    config = pipe.model.config
    return SlidePlan(
        source=source,
        size=slide.size,
        grid=RegionGrid(model_size[1], model_size[0], pipe.tiling_for(*model_size, **tiling), scale, side),
        tissue=tissue,
        mpp=None if size is None else math.sqrt(size.x * scale[0] * size.y * scale[1]),
        pixel_size=size,
        type_names=dict(config.type_names),
        areas=areas,
        excluded=excluded,
        threshold=float(options.get("threshold") or 0.0),
        options={name: options[name] for name in FORWARD_OPTIONS if options.get(name) is not None},
    )


def _find(slide: Slide, where: WhereToLook) -> tuple[TissueMask, Areas | None, Areas | None]:
    """The tissue, the areas of interest and the excluded areas."""
    mode = where.mode
    if mode == AUTO:
        tissue = find_tissue(slide)
    elif mode == ALL:
        tissue = whole_slide(slide)
    else:
        tissue = read_tissue(mode, slide)
    areas = None if where.roi is None else read_areas(where.roi, slide)
    excluded = None if where.exclude is None else read_areas(where.exclude, slide)
    if areas is not None:
        tissue = tissue.within(areas)
    if excluded is not None:
        tissue = tissue.without(excluded)
    return tissue, areas, excluded
