"""One picture in the files of scanners: Aperio with JPEG and JPEG 2000, OME-TIFF, BigTIFF, QPTIFF, DICOM."""

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import pydicom
import tifffile
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit

from cfsam_hf.slides import demo_slide, open_slide

MPP = 0.499
TILE = 128
WSI_STORAGE = "1.2.840.10008.5.1.4.1.1.77.1.6"
TILED = {"photometric": "rgb", "tile": (TILE, TILE), "metadata": None}
PER_CENTIMETRE = {"resolution": (10_000 / MPP, 10_000 / MPP), "resolutionunit": "CENTIMETER"}
JPEG = {"compression": "jpeg", "compressionargs": {"level": 95}, "subsampling": (1, 1)}

Levels = Sequence[np.ndarray]


def picture_levels(x: int = 900, y: int = 1900, width: int = 512, height: int = 384) -> list[np.ndarray]:
    """A part of the demo slide, and the same at a half and at a quarter of its size."""
    with open_slide(demo_slide()) as slide:
        pixels = slide.read_region(x, y, width, height)
    return [pixels, *(cv2.resize(pixels, (width // k, height // k), interpolation=cv2.INTER_AREA) for k in (2, 4))]


def aperio(path: Path, levels: Levels, **compression) -> None:
    """Levels, a thumbnail after the first as in Aperio's files, a label and a macro image."""
    height, width = levels[0].shape[:2]
    text = f"Aperio Image Library v12.0.15\r\n{width}x{height} ({TILE}x{TILE})"
    plain = {"photometric": "rgb", "metadata": None}
    with tifffile.TiffWriter(path) as writer:
        writer.write(levels[0], description=f"{text}|AppMag = 20|MPP = {MPP}", **TILED, **compression)
        writer.write(levels[-1][:, :80], description=f"{text} -> thumbnail", photometric="rgb", metadata=None)
        for level in levels[1:]:
            writer.write(level, description=f"{text} -> {level.shape[1]}x{level.shape[0]}", **TILED, **compression)
        writer.write(
            levels[0][:40, :50], description="Aperio Image Library v12.0.15\r\nlabel 50x40", subfiletype=1, **plain
        )
        writer.write(
            levels[0][:30, :90], description="Aperio Image Library v12.0.15\r\nmacro 90x30", subfiletype=9, **plain
        )


def aperio_jpeg(path: Path, levels: Levels) -> None:
    aperio(path, levels, **JPEG)


def aperio_jpeg2000(path: Path, levels: Levels) -> None:
    aperio(path, levels, compression="aperio_jp2000_rgb", compressionargs={"level": 90})


def ome_tiff(path: Path, levels: Levels) -> None:
    """A pyramid in SubIFDs, with the pixel size in millimetres."""
    size = {f"PhysicalSize{axis}": MPP / 1000 for axis in "XY"}
    units = {f"PhysicalSize{axis}Unit": "mm" for axis in "XY"}
    options = {**TILED, **JPEG}
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(levels[0], **{**options, "metadata": {"axes": "YXS", **size, **units}}, subifds=len(levels) - 1)
        for level in levels[1:]:
            writer.write(level, subfiletype=1, **options)


def big_tiff(path: Path, levels: Levels) -> None:
    """Levels in pages of their own, without any vendor's marks."""
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        for number, level in enumerate(levels):
            resolution = PER_CENTIMETRE if number == 0 else {}
            writer.write(level, subfiletype=min(number, 1), **TILED, **JPEG, **resolution)


def qptiff(path: Path, levels: Levels) -> None:
    """A brightfield slide of PerkinElmer's (Akoya's) scanners: full resolution, thumbnail, levels, overview, label."""

    def described(kind: str) -> dict[str, str]:
        text = (
            '<?xml version="1.0" encoding="utf-16"?>\r\n<PerkinElmer-QPI-ImageDescription>'
            f"<ImageType>{kind}</ImageType><IsUnmixedComponent>False</IsUnmixedComponent>"
            "<ScanProfile><root><Mode>im_Brightfield</Mode></root></ScanProfile><Objective>20x</Objective>"
            "</PerkinElmer-QPI-ImageDescription>"
        )
        return {"description": text, "software": "PerkinElmer-QPI 2.0.0"}

    plain = {"photometric": "rgb", "metadata": None}
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        writer.write(levels[0], **TILED, **JPEG, **PER_CENTIMETRE, **described("FullResolution"))
        writer.write(levels[-1][:, :80], **plain, **described("Thumbnail"))
        for level in levels[1:]:
            writer.write(level, **TILED, **JPEG, **described("ReducedResolution"))
        writer.write(levels[0][:30, :90], **plain, **described("Overview"))
        writer.write(levels[0][:40, :50], **plain, **described("Label"))


def dicom(folder: Path, levels: Levels, series: str = "1.2.826.0.1.3680043.8.498.1", mpp: float | None = MPP) -> Path:
    """A folder with one file for each level, as DICOM lays slides out; returns the first file."""
    folder.mkdir(exist_ok=True)
    paths = []
    for number, level in enumerate(levels):
        height, width = level.shape[:2]
        rows, columns = -(-height // TILE), -(-width // TILE)
        padded = np.pad(level, ((0, rows * TILE - height), (0, columns * TILE - width), (0, 0)), mode="edge")
        tiles = padded.reshape(rows, TILE, columns, TILE, 3).swapaxes(1, 2).reshape(-1, TILE, TILE, 3)
        frames = [imagecodecs.jpeg_encode(tile, level=95, subsampling="444") for tile in tiles]
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = WSI_STORAGE
        meta.MediaStorageSOPInstanceUID = f"{series}.{number + 1}"
        meta.TransferSyntaxUID = JPEGBaseline8Bit
        path = folder / f"{series}.{number}.dcm"
        data = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
        data.SOPClassUID, data.SOPInstanceUID = WSI_STORAGE, meta.MediaStorageSOPInstanceUID
        data.StudyInstanceUID, data.SeriesInstanceUID = "1.2.826.0.1.3680043.8.498.9", series
        data.FrameOfReferenceUID = f"{series}.99"
        data.Modality, data.Manufacturer = "SM", "cfsam tests"
        derived = ["DERIVED", "PRIMARY", "VOLUME", "RESAMPLED"]
        data.ImageType = derived if number else ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
        data.Rows = data.Columns = TILE
        data.TotalPixelMatrixColumns, data.TotalPixelMatrixRows = width, height
        data.NumberOfFrames = len(frames)
        data.DimensionOrganizationType = "TILED_FULL"
        data.SamplesPerPixel, data.PlanarConfiguration, data.PixelRepresentation = 3, 0, 0
        data.PhotometricInterpretation = "YBR_FULL_422"
        data.BitsAllocated = data.BitsStored = 8
        data.HighBit = 7
        data.TotalPixelMatrixFocalPlanes, data.NumberOfOpticalPaths = 1, 1
        optical = Dataset()
        optical.OpticalPathIdentifier = "1"
        optical.ObjectiveLensPower = 20
        data.OpticalPathSequence = [optical]
        groups = Dataset()
        if mpp is not None:
            measures = Dataset()
            spacing = mpp / 1000 * levels[0].shape[1] / width
            measures.PixelSpacing, measures.SliceThickness = [f"{spacing:.10f}"] * 2, 0.001
            groups.PixelMeasuresSequence = [measures]
        data.SharedFunctionalGroupsSequence = [groups]
        data.PixelData = encapsulate(frames)
        data["PixelData"].is_undefined_length = True
        pydicom.dcmwrite(path, data, enforce_file_format=True)
        paths.append(path)
    return paths[0]


WRITERS: dict[str, Callable[[Path, Levels], Path | None]] = {
    "Aperio, JPEG": aperio_jpeg,
    "Aperio, JPEG 2000": aperio_jpeg2000,
    "OME-TIFF": ome_tiff,
    "BigTIFF": big_tiff,
    "QPTIFF": qptiff,
    "DICOM": lambda path, levels: dicom(path.with_suffix(""), levels),
}


def write_slide(kind: str, path: Path, levels: Levels) -> Path:
    """Writes a slide of one of `WRITERS`; returns the path to open."""
    return WRITERS[kind](path, levels) or path
