"""Why: results in an object store must be those of a folder, and whole, when connections break in mid-write."""

import contextlib
import socket
import threading
import urllib.request

import pytest

from cfsam_hf.files.remote_folder import RemoteFolder
from cfsam_hf.inference.cluster.cohort_files import write_cohort
from cfsam_hf.inference.remote_output import RemoteRecord, RemoteSlideSink
from cfsam_hf.inference.run import Current, Failed
from cfsam_hf.inference.slide_run import SlideDone, SlideProgress, run_slides

from ..slide_cases import SIDE, painted_pipeline
from .cases import EVERYWHERE, files_of, ray_outcomes, run_plain, write_slides

pytestmark = pytest.mark.slow

pytest.importorskip("s3fs")
moto_server = pytest.importorskip("moto.server")


class CuttingProxy:
    """Passes connections on, and cuts those that write certain objects in the middle of the body.

    Attributes:
        cuts: how many more connections are cut, by a text that is in the name of the object.
        done: how many were cut.
    """

    def __init__(self, port: int):
        self.target = port
        self.cuts: dict[bytes, int] = {}
        self.done = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            server = socket.create_connection(("127.0.0.1", self.target))
            threading.Thread(target=self._pass, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self._pass, args=(server, client, False), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, watch: bool) -> None:
        text = None
        with contextlib.suppress(OSError):
            while data := source.recv(512 if watch else 65536):
                if watch and data.startswith(b"PUT "):
                    line = data.split(b"\r")[0]
                    text = next((text for text, left in self.cuts.items() if left and text in line), None)
                elif text is not None:
                    self.done += 1
                    self.cuts[text] -= 1
                    target.sendall(data[: len(data) // 2])
                    break
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@pytest.fixture(scope="module")
def proxy():
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    yield CuttingProxy(server.get_host_and_port()[1])
    server.stop()


@pytest.fixture
def folder(proxy, request):
    """An empty bucket behind the proxy; a connection that is cut is tried a second time."""
    options = {
        "key": "key",
        "secret": "secret",
        "endpoint_url": f"http://127.0.0.1:{proxy.port}",
        "config_kwargs": {"retries": {"max_attempts": 2, "mode": "standard"}},
        "client_kwargs": {"region_name": "us-east-1"},
    }
    name = request.node.name.replace("_", "-")[:40]
    urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{proxy.target}/{name}", method="PUT")).close()
    return RemoteFolder(f"s3://{name}/study", options)


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    return write_slides(tmp_path_factory.mktemp("slides"), big=(2, 2))


@pytest.fixture(scope="module")
def expected(jobs, tmp_path_factory):
    out = tmp_path_factory.mktemp("plain")
    run_plain(jobs, out)
    return files_of(out)


def run_remote(jobs, folder, *, resume=False):
    """The plain loop into a remote folder."""
    with RemoteRecord(folder) as record:
        outcomes = run_slides(
            jobs, painted_pipeline(), RemoteSlideSink(folder), record, where=EVERYWHERE, side=SIDE, resume=resume
        )
        return list(outcomes)


def contents(folder):
    """The files of slides in the folder; those of the study have tests of their own."""
    names = (name for name in folder.sizes("") if not name.startswith((".cfsam", "nuclei", "cohort")))
    return {name: folder.read(name) for name in names}


def test_cuts_in_mid_write_change_nothing(jobs, expected, folder, proxy):
    pytest.importorskip("ray", reason="the extra cluster is not installed")
    proxy.cuts, proxy.done = {b"0001_0000.parquet": 2, b"big.geojson": 1}, 0
    outcomes = list(ray_outcomes(jobs, folder, workers=1))
    assert proxy.done == 3
    assert [type(o) for o in outcomes if not isinstance(o, SlideProgress)] == [SlideDone, SlideDone]
    assert contents(folder) == expected
    assert not [name for name in folder.sizes("") if "regions" in name or "lock" in name]
    assert [type(outcome) for outcome in ray_outcomes(jobs, folder, resume=True)] == [Current, Current]


def test_a_store_that_stays_away_loses_no_region_that_is_done(jobs, expected, folder, proxy):
    proxy.cuts, proxy.done = {b"0001_0000.parquet": 10**6}, 0
    outcomes = run_remote(jobs, folder)
    failed = [outcome for outcome in outcomes if isinstance(outcome, Failed)]
    assert [outcome.job.target.name for outcome in failed] == ["big", "small"]
    assert all("0001_0000.parquet" in str(outcome.error) for outcome in failed)
    # Each of the two is tried twice.
    assert proxy.done >= 4
    # Nothing half: neither the region nor a slide.
    assert not contents(folder)
    kept = [name for name in folder.sizes("") if name.endswith(".parquet")]
    assert kept
    assert not [name for name in kept if name.endswith("0001_0000.parquet")]
    proxy.cuts = {}
    outcomes = run_remote(jobs, folder, resume=True)
    assert sum(isinstance(outcome, SlideProgress) for outcome in outcomes) == 6 - len(kept)
    assert contents(folder) == expected
    # The files of the study lie beside those of its slides.
    record = RemoteRecord(folder)
    record.finish()
    write_cohort(RemoteSlideSink(folder).place, record.entries, {}, str(folder))
    names = {name for name in folder.sizes("") if name.startswith(("nuclei", "cohort"))}
    parts = {f"nuclei/slide={name}.ome.tif/nuclei.parquet" for name in ("big", "small")}
    assert names == {"cohort.csv", "cohort.html", *parts}
    assert folder.read("nuclei/slide=big.ome.tif/nuclei.parquet") == folder.read("big.parquet")


def test_two_drivers_do_not_write_into_one_folder(jobs, folder, proxy, monkeypatch):
    proxy.cuts = {}
    monkeypatch.setattr("cfsam_hf.files.remote_folder.SIGN_OF_LIFE", 0.2)
    monkeypatch.setattr("cfsam_hf.files.remote_folder.PATIENCE", 2.0)
    with (
        RemoteSlideSink(folder).alone(),
        pytest.raises(OSError, match="study: another run on a cluster writes into this folder"),
    ):
        list(ray_outcomes(jobs, folder))
