"""Why: pictures come as files, addresses, data URLs, base64 and bytes; all must obey one set of rules and limits."""

import base64
import http.server
import io
import threading
from contextlib import contextmanager

import numpy as np
import PIL.Image
import pytest
import torch

from cfsam_hf.model.inputs import EncodedPicture, Form, encoded_picture, is_single_image, pixel_sizes, split_inputs
from cfsam_hf.model.pictures import TooManyPixelsError, read_rgb

from ..picture_cases import EMPTY_ALPHA, PICTURE, WHITE, huge_png, orientation


def png(pixels=PICTURE, **options) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, "PNG", **options)
    return buffer.getvalue()


@contextmanager
def served(content: bytes, length: int | None = None):
    """An address under which `content` lies, with a header that says `length`; gives it and the bytes sent so far."""
    sent = [0]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(404 if self.path == "/missing.png" else 200)
            if length is not None:
                self.send_header("Content-Length", str(length))
            self.end_headers()
            try:
                for start in range(0, len(content), 65536):
                    sent[0] += self.wfile.write(content[start : start + 65536])
            except OSError:  # the reader has gone
                pass

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", sent
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_every_form_gives_the_same_pixels(tmp_path):
    content = png(exif=orientation(6))
    (tmp_path / "a.png").write_bytes(content)
    text = base64.b64encode(content).decode()
    broken_in_lines = "\n".join(text[start : start + 76] for start in range(0, len(text), 76))
    forms = [str(tmp_path / "a.png"), tmp_path / "a.png", content, bytearray(content), memoryview(content)]
    forms += [text, broken_in_lines, f"data:image/png;base64,{text}", EncodedPicture("a", content=content)]
    forms += [io.BytesIO(content), {"bytes": content, "path": None}, {"bytes": None, "path": str(tmp_path / "a.png")}]
    for form in forms:
        assert split_inputs(form)[0] is Form.ONE
        np.testing.assert_array_equal(read_rgb(form), np.rot90(PICTURE, -1))
    with open(tmp_path / "a.png", "rb") as file:
        np.testing.assert_array_equal(read_rgb(file), np.rot90(PICTURE, -1))
    with served(content) as (address, _):
        np.testing.assert_array_equal(read_rgb(f"{address}/a.png"), np.rot90(PICTURE, -1))


def test_alpha_of_every_form_is_put_on_white():
    content = png(EMPTY_ALPHA)
    text = base64.b64encode(content).decode()
    for form in (content, text, f"data:image/png;base64,{text}"):
        np.testing.assert_array_equal(read_rgb(form), WHITE)
    with served(content) as (address, _):
        np.testing.assert_array_equal(read_rgb(f"{address}/a.png"), WHITE)


def test_the_limit_of_pixels_is_checked_before_decoding(tmp_path):
    huge_png(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    text = base64.b64encode(content).decode()
    for form in (content, text, f"data:image/png;base64,{text}"):
        with pytest.raises(TooManyPixelsError, match="100000x100000"):
            read_rgb(form)
    with served(content) as (address, _), pytest.raises(TooManyPixelsError, match=r"a\.png.*100000x100000"):
        read_rgb(f"{address}/a.png")


def test_long_downloads_are_given_up():
    content = bytes(8_000_000)
    with served(content, len(content)) as (address, _), pytest.raises(OSError, match=r"a\.png.* longer than 100000 "):
        encoded_picture(f"{address}/a.png", max_bytes=100_000)
    with served(content) as (address, sent), pytest.raises(OSError, match="longer than 100000 bytes"):
        encoded_picture(f"{address}/a.png", max_bytes=100_000)
    assert sent[0] < len(content)


def test_failed_downloads_name_the_address(tmp_path):
    with served(b"") as (address, _):
        with pytest.raises(OSError, match=r"cannot download '.*/missing\.png': Not Found"):
            read_rgb(f"{address}/missing.png")
        with pytest.raises(OSError, match=r"'.*/a\.png': it is empty"):
            read_rgb(f"{address}/a.png")
    with pytest.raises(OSError, match=r"cannot download 'http://127\.0\.0\.1:1/a\.png'"):
        read_rgb("http://127.0.0.1:1/a.png")
    with pytest.raises(OSError, match="cannot download 'http://'"):
        read_rgb("http://")


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ("data:image/png,abc", "expected 'data:image/...;base64,'"),
        ("data:image/png;base64,????", "is not base64"),
        (base64.b64encode(b"not a picture " * 9).decode(), "the base64 text as an image: not an image"),
        (b"not a picture", "the 13 bytes given as an image: not an image"),
        (b"", "it is empty"),
        ("", "the path is empty"),
        ("a" * 5000 + ".png", "too long"),
        ("missing.png", r"missing\.png"),
        ("AAAA", "'AAAA'"),
    ],
)
def test_what_is_no_picture_is_named(form, words):
    with pytest.raises(OSError, match=words):
        read_rgb(form)


def test_open_files(tmp_path):
    (tmp_path / "a.png").write_bytes(png())
    with open(tmp_path / "a.png", encoding="latin-1") as file, pytest.raises(TypeError, match=r"a\.png', .*mode 'rb'"):
        encoded_picture(file)
    with open(tmp_path / "a.png", "rb") as file, pytest.raises(OSError, match=r"a\.png': it is longer than 20 bytes"):
        encoded_picture(file, max_bytes=20)
    with open(tmp_path / "a.png", "rb") as file:
        assert encoded_picture(file).file_name == "a.png"
    with pytest.raises(OSError, match="the open file: it is empty"):
        read_rgb(io.BytesIO())


def test_a_file_whose_name_could_be_base64_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "A" * 80
    (tmp_path / name).write_bytes(png())
    np.testing.assert_array_equal(read_rgb(name), PICTURE)


def test_decoded_pictures_have_no_source():
    assert encoded_picture(PICTURE) is None
    assert encoded_picture(PIL.Image.fromarray(PICTURE)) is None
    assert encoded_picture(7) is None


def test_what_is_one_picture(tmp_path):
    pictures = ("a.png", tmp_path, b"", PICTURE, torch.zeros(3), PIL.Image.fromarray(PICTURE))
    assert all(is_single_image(picture) for picture in (*pictures, EncodedPicture("a")))
    assert not is_single_image([PICTURE])


def test_forms():
    class ThreeTimes(torch.utils.data.Dataset):
        """As most data sets are written: no `__iter__`, and an index past the end is no IndexError."""

        def __len__(self):
            return 3

        def __getitem__(self, index):
            return PICTURE

    assert split_inputs("a.png") == (Form.ONE, ["a.png"])
    form, images = split_inputs(ThreeTimes())
    assert form is Form.STREAM
    assert len(images) == len(list(images)) == 3
    sizes = pixel_sizes(None, ["a.png"])
    assert [next(sizes), next(sizes)] == [None, None]
