"""Writers of unusual image files with the pixels that each must give; for the tests of reading and of the command."""

import io
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import PIL.ImageOps
import tifffile

from .painted_model import paint

PICTURE = paint(64, 80, count=8, seed=3)[0]
GREY = np.ascontiguousarray(PICTURE[:, :, 0])
DEEP, DEEP_GREY = PICTURE.astype(np.uint16) * 257, GREY.astype(np.uint16) * 257
WHITE = np.full_like(PICTURE, 255)


@dataclass(frozen=True)
class Case:
    """A file to write, and what must come of it: `answer` the RGB pixels it stands for, or words of the one error."""

    write: Callable[[Path], None]
    answer: np.ndarray | str
    ending: str = "png"


def as_rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[:, :, None], 3, axis=2)


def saved(pixels, mode=None, answer=None, ending="png", convert=None, **options) -> Case:
    """Saved by Pillow."""
    picture = PIL.Image.fromarray(pixels) if mode is None else PIL.Image.fromarray(pixels).convert(mode)
    if answer is None:
        data = io.BytesIO()
        picture.save(data, {"jpg": "jpeg", "tif": "tiff", "jp2": "jpeg2000"}.get(ending, ending), **options)
        answer = np.asarray(PIL.ImageOps.exif_transpose(PIL.Image.open(data)).convert("RGB"))
    return Case(lambda path: picture.save(path, **options), answer, ending)


def tiff(pixels, answer, **options) -> Case:
    """Saved by tifffile."""
    return Case(lambda path: tifffile.imwrite(path, pixels, **options), answer, "tif")


def by_opencv(pixels, answer, ending, *options) -> Case:
    """Saved by OpenCV, whose colours run backwards."""
    return Case(lambda path: cv2.imwrite(str(path), pixels[..., ::-1], list(options)), answer, ending)


def orientation(value: int) -> PIL.Image.Exif:
    exif = PIL.Image.Exif()
    exif[0x0112] = value
    return exif


def cut(share: float, words: str, ending="png", **options) -> Case:
    """The first part of a good file."""

    def write(path: Path) -> None:
        PIL.Image.fromarray(PICTURE).save(path, **options)
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])

    return Case(write, words, ending)


def levels(path: Path, *, below: bool) -> None:
    """A picture with two smaller copies, in pages of their own or below the first (`SubIFDs`)."""
    with tifffile.TiffWriter(path) as writer:
        options = {"photometric": "rgb", "metadata": None}
        writer.write(PICTURE, tile=(32, 32), subifds=2 if below else None, **options)
        for step in (2, 4):
            writer.write(PICTURE[::step, ::step], tile=(16, 16), subfiletype=1, **options)


def huge_png(path: Path) -> None:
    """A megapixel header, 100,000 squared, with data that no decoder takes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"x") + chunk(b"IEND", b""))


def with_tag(path: Path, tag: str, value: int, **options) -> None:
    """A TIFF in which one tag is overwritten."""
    tifffile.imwrite(path, PICTURE, photometric="rgb", **options)
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages[0].tags[tag].overwrite(value)


def huge_tiff(path: Path) -> None:
    with_tag(path, "ImageWidth", 1_000_000, compression="zlib", rowsperstrip=64)
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages[0].tags["ImageLength"].overwrite(1_000_000)


OTHER = PIL.Image.new("RGB", PICTURE.shape[1::-1])
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"
EMPTY_ALPHA = np.dstack([PICTURE, np.zeros_like(GREY)])
ONE_BIT = GREY > 99
PLANES = np.ascontiguousarray(PICTURE.transpose(2, 0, 1))
STACK = np.stack([GREY] * 5)
NAN = np.where(GREY > 99, np.nan, 0.5).astype(np.float32)
LONG = np.concatenate([PICTURE[:3]] * 63, axis=1)[:, :5000]
LZW, PREDICTOR = [int(cv2.IMWRITE_TIFF_COMPRESSION), 5], [int(cv2.IMWRITE_TIFF_PREDICTOR), 2]

CASES = {
    "1x1": saved(PICTURE[:1, :1]),
    "3x5,000": saved(LONG),
    "5,000x3": saved(np.ascontiguousarray(LONG.transpose(1, 0, 2))),
    "all white": saved(WHITE),
    "all black": saved(np.zeros_like(PICTURE)),
    "empty alpha": saved(EMPTY_ALPHA, answer=WHITE),
    "empty alpha, 16 bits": tiff(
        np.dstack([DEEP, DEEP_GREY * 0]), WHITE, photometric="rgb", extrasamples=["unassalpha"]
    ),
    "fourth channel without a meaning": tiff(
        np.dstack([DEEP, DEEP_GREY * 0]), PICTURE, photometric="rgb", extrasamples=[0]
    ),
    "palette": saved(PICTURE, "P"),
    "palette, gif": saved(PICTURE, "P", ending="gif"),
    "CMYK": saved(PICTURE, "CMYK", ending="jpg", quality=95),
    "CMYK, tiff": saved(PICTURE, "CMYK", ending="tif"),
    "CMYK, 16 bits": tiff(np.dstack([DEEP, DEEP_GREY]), "SEPARATED .* save it as RGB", photometric="separated"),
    "1 bit": saved(ONE_BIT, answer=as_rgb(ONE_BIT * np.uint8(255))),
    "1 bit, fax": saved(ONE_BIT, answer=as_rgb(ONE_BIT * np.uint8(255)), ending="tif", compression="group4"),
    "grey": saved(GREY),
    "16-bit grey": by_opencv(DEEP_GREY[:, :, None], as_rgb(GREY), "png"),
    "16-bit grey, tiff": tiff(DEEP_GREY, as_rgb(GREY)),
    "16-bit grey, white is 0": tiff(65535 - DEEP_GREY, as_rgb(GREY), photometric="miniswhite"),
    "16-bit RGB": by_opencv(DEEP, PICTURE, "png"),
    "16-bit RGB, tiff": tiff(DEEP, PICTURE, photometric="rgb"),
    "16-bit RGB, LZW": by_opencv(DEEP, PICTURE, "tif", *LZW),
    "16-bit RGB, LZW, differences": by_opencv(DEEP, PICTURE, "tif", *LZW, *PREDICTOR),
    "float": tiff((PICTURE / 255).astype(np.float32), PICTURE, photometric="rgb"),
    "float, LZW": by_opencv((PICTURE / 255).astype(np.float32), PICTURE, "tif", *LZW),
    "float with NaN": tiff(NAN, "NaN or infinite values; replace them"),
    "normalised float": tiff((PICTURE / 60 - 2).astype(np.float32), "scale it, or undo", photometric="rgb"),
    "channel first": tiff(PLANES, PICTURE, photometric="rgb", planarconfig="separate"),
    "channel first, 16 bits": tiff(PLANES * np.uint16(257), PICTURE, photometric="rgb", planarconfig="separate"),
    "channel first, said to be grey pages": tiff(PLANES, "3 pictures .* --page N", photometric="minisblack"),
    "two channels": tiff(np.dstack([GREY, GREY]), "2 channels", photometric="minisblack", planarconfig="contig"),
    "turned, jpeg": saved(PICTURE, ending="jpg", exif=orientation(6)),
    "turned, png": saved(PICTURE, answer=np.rot90(PICTURE, -1), exif=orientation(6)),
    "turned, 16 bits": tiff(DEEP, np.rot90(PICTURE, -1), photometric="rgb", extratags=[(274, 3, 1, 6, True)]),
    "truncated png": cut(0.6, "Truncated.* get it again"),
    "truncated jpeg": cut(0.6, "truncated.* get it again", "jpg"),
    "truncated tiff": cut(0.6, "cut short, get it again", "tif"),
    "truncated tiff, LZW": cut(0.6, "cut short; get it again", "tif", compression="tiff_lzw"),
    "truncated webp": cut(0.6, "get it again", "webp", lossless=True),
    "tiff without data": Case(lambda path: with_tag(path, "StripByteCounts", 0), "1 of its 1 parts are empty", "tif"),
    "text": Case(lambda path: path.write_text("not a picture"), "not an image"),
    "text, tif": Case(lambda path: path.write_bytes(b"II*\0 and nothing more"), "cannot read", "tif"),
    "PostScript": Case(lambda path: path.write_bytes(POSTSCRIPT), "PostScript is not an image of pixels; save it"),
    "zero bytes": Case(lambda path: path.write_bytes(b""), "empty, get it again"),
    "pipe": Case(os.mkfifo, "not a regular file"),
    "link to itself": Case(lambda path: path.symlink_to(path), "symbolic links"),
    "link to nothing": Case(lambda path: path.symlink_to("nothing.png"), "No such file"),
    "huge png": Case(huge_png, "100000x100000.* --max-pixels 268435456; raise it"),
    "huge tiff": Case(huge_tiff, "1000000x1000000.* --max-pixels", "tif"),
    "stack": tiff(STACK, "5 pictures of up to 80x64 px.*--page N, N from 1 to 5", photometric="minisblack"),
    "ImageJ stack": tiff(STACK, "5 pictures", imagej=True, metadata={"axes": "ZYX"}),
    "ImageJ stack in one page": tiff(STACK, "5 pictures", imagej=True, truncate=True, metadata={"axes": "ZYX"}),
    "stack in one page": tiff(STACK, "5 pictures.* save them apart", truncate=True, photometric="minisblack"),
    "OME channels": tiff(STACK[:3], "3 pictures", ome=True, photometric="minisblack", metadata={"axes": "CYX"}),
    "OME RGB": tiff(PICTURE, PICTURE, ome=True, photometric="rgb", metadata={"axes": "YXS"}),
    "pages of RGB": tiff(np.stack([PICTURE] * 2), "2 pictures", photometric="rgb"),
    "animation": saved(PICTURE, answer="2 pictures", ending="gif", save_all=True, append_images=[OTHER]),
    "pyramid of pages": Case(lambda path: levels(path, below=False), PICTURE, "tif"),
    "pyramid below the page": Case(lambda path: levels(path, below=True), PICTURE, "tif"),
    "tiles": tiff(PICTURE, PICTURE, photometric="rgb", tile=(32, 48)),
    "tiles, 16 bits, deflate": tiff(
        DEEP, PICTURE, photometric="rgb", tile=(32, 48), compression="zlib", predictor=True
    ),
    "LZW": saved(PICTURE, ending="tif", compression="tiff_lzw"),
    "JPEG in TIFF": saved(PICTURE, ending="tif", compression="jpeg", quality=95),
    "no JPEG 2000 in TIFF": Case(lambda path: with_tag(path, "Compression", 33005), "not a J2K or JP2 data", "tif"),
    "BigTIFF": tiff(PICTURE, PICTURE, photometric="rgb", bigtiff=True),
    "BigTIFF, big-endian, tiles": tiff(
        DEEP, PICTURE, photometric="rgb", bigtiff=True, byteorder=">", tile=(32, 48), compression="zlib"
    ),
    "JPEG 2000 tiles": tiff(PICTURE, PICTURE, photometric="rgb", tile=(64, 64), compression="jpeg2000"),
    "JPEG 2000": saved(PICTURE, answer=PICTURE, ending="jp2"),
}  # fmt: skip
