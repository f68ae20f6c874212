"""Why: another runtime must give the pipeline the same nuclei, and never run with the weights of another model."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cfsam_hf.commands.loading import apply_backend
from cfsam_hf.inference import backends, use_backend
from cfsam_hf.inference.backends import OnnxFacts, describe_network, imported, load_network, weights_digest
from cfsam_hf.inference.run import made_by
from cfsam_hf.model.maps import stack_maps

from ..painted_model import paint, painted_pipeline
from ..tiny import tiny_test_model


class FakeSession:
    """Stands in for ONNX Runtime: it runs a pipeline's own model."""

    calls: list

    def __init__(self, model, options):
        self.model, self.options, self.calls = model, options, []

    def run(self, names, inputs):
        self.calls.append((names, {name: value.shape for name, value in inputs.items()}))
        with torch.inference_mode():
            return [stack_maps(self.model(pixel_values=torch.from_numpy(inputs["pixel_values"]))).numpy()]


@pytest.fixture
def runtimes(monkeypatch):
    """Replaces the packages of the backends: files are facts by their names, and sessions run a model."""
    state = SimpleNamespace(facts={}, model=None, sessions=[])

    def load(file):
        entries = state.facts[file].to_metadata() if state.facts.get(file) else {}
        return SimpleNamespace(
            metadata_props=[SimpleNamespace(key=key, value=value) for key, value in entries.items()]
        )

    def session(file, options, providers):
        state.sessions.append(FakeSession(state.model, options))
        return state.sessions[-1]

    modules = {
        "onnx": SimpleNamespace(load=load),
        "onnxruntime": SimpleNamespace(SessionOptions=SimpleNamespace, InferenceSession=session),
    }
    monkeypatch.setattr(backends, "imported", lambda module, extra: modules[module])
    return state


def facts_of(pipe, **changes):
    """What a file of a painted model states."""
    values = {"weights": weights_digest(pipe.model), "num_types": 2, "has_boundary": False, "num_styles": 0}
    return OnnxFacts(**{**values, **changes})


def test_the_runtime_replaces_the_network_and_nothing_else(runtimes):
    pipe = painted_pipeline()
    image, instance_map, _ = paint(150, 130)
    expected = pipe(image, mpp=0.25)
    runtimes.facts["net.onnx"], runtimes.model = facts_of(pipe), pipe.model
    use_backend(pipe, "onnxruntime", "net.onnx")
    found = pipe(image, mpp=0.25)
    assert np.array_equal(found.instance_map, expected.instance_map)
    assert np.array_equal(found.instance_map > 0, instance_map > 0)
    assert found.table.equals(expected.table)
    [session] = runtimes.sessions
    assert session.options.intra_op_num_threads == torch.get_num_threads()
    # One tile at a time, as torch gets them on a CPU.
    assert {inputs["pixel_values"][0] for _, inputs in session.calls} == {1}
    assert all("style_ids" not in inputs for _, inputs in session.calls)


def test_the_backend_counts_for_resume_and_torch_is_as_before(runtimes):
    pipe = painted_pipeline()
    before = made_by(pipe, ["table"], {})
    runtimes.facts["net.onnx"], runtimes.model = facts_of(pipe), pipe.model
    use_backend(pipe, "onnxruntime", "net.onnx")
    assert made_by(pipe, ["table"], {}) == before | {"backend": "onnxruntime"}
    with pytest.raises(ValueError, match="mixed precision is for the backend torch"):
        pipe(paint(64, 64)[0], mpp=0.25, autocast_dtype="bfloat16")
    runtimes.facts["int8.onnx"] = facts_of(pipe, precision="int8", calibration="c0ffee")
    use_backend(pipe, "onnxruntime", "int8.onnx")
    in_int8 = {"backend": "onnxruntime", "precision": "int8", "calibration": "c0ffee"}
    assert made_by(pipe, ["table"], {}) == before | in_int8
    use_backend(pipe, "torch")
    assert made_by(pipe, ["table"], {}) == before
    assert pipe.engine is None


def test_the_style_reaches_the_runtime(runtimes):
    pipe = painted_pipeline()
    runtimes.facts["net.onnx"], runtimes.model = facts_of(pipe, num_styles=2), pipe.model
    use_backend(pipe, "onnxruntime", "net.onnx")
    seen = []
    run = runtimes.sessions[0].run
    runtimes.sessions[0].run = lambda names, inputs: seen.append(inputs["style_ids"].tolist()) or run(names, inputs)
    pipe.engine(np.zeros((3, 3, 64, 64), np.float32), 2)
    assert seen == [[2, 2, 2]]


def test_what_does_not_fit_is_refused(runtimes):
    pipe = painted_pipeline()
    runtimes.facts["other.onnx"] = facts_of(pipe, weights="0" * 64)
    runtimes.facts["foreign.onnx"] = None
    for backend, file, message in (
        ("tensorrt", "net.onnx", "'tensorrt': it must be one of torch, onnxruntime, openvino"),
        ("onnxruntime", None, "needs the file that export_onnx wrote"),
        ("onnxruntime", "other.onnx", "other.onnx: holds other weights"),
        ("onnxruntime", "foreign.onnx", "foreign.onnx: cfsam export --onnx did not write this file"),
    ):
        with pytest.raises(ValueError, match=message):
            use_backend(pipe, backend, file)
    elsewhere = SimpleNamespace(device=torch.device("cuda:0"))
    with pytest.raises(ValueError, match="on the CPU, and the pipeline is on cuda:0"):
        use_backend(elsewhere, "openvino", "net.onnx")
    assert pipe.engine is None


def test_the_commands_run_a_given_file_if_it_is_the_checkpoints(runtimes):
    pipe = painted_pipeline()
    runtimes.facts |= {"net.onnx": facts_of(pipe), "other.onnx": facts_of(pipe, weights="0" * 64)}
    with pytest.raises(ValueError, match=r"other\.onnx: holds other weights"):
        apply_backend("onnxruntime", pipe, "other.onnx")
    assert pipe.engine is None
    apply_backend("onnxruntime", pipe, "net.onnx")
    assert pipe.settings == {"backend": "onnxruntime"}


def test_a_missing_package_is_named_with_its_extra():
    with pytest.raises(ImportError, match=r"pip install 'cfsam_hf\[openvino\]'"):
        imported("no_such_runtime", "openvino")


def test_facts_follow_the_model_and_its_weights():
    model = tiny_test_model(num_types=3, styles=["a", "b"])
    facts = describe_network(model)
    assert (facts.num_types, facts.has_boundary, facts.num_styles) == (3, True, 2)
    assert facts.layout.channels == 8
    assert weights_digest(model) == facts.weights
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1
    assert weights_digest(model) != facts.weights


def test_a_damaged_file_is_named(tmp_path):
    pytest.importorskip("onnx")
    (tmp_path / "net.onnx").write_bytes(b"no graph")
    with pytest.raises(OSError, match=r"net\.onnx: not an ONNX file"):
        OnnxFacts.read(tmp_path / "net.onnx")
    with pytest.raises(FileNotFoundError):
        OnnxFacts.read(tmp_path / "missing.onnx")


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_each_runtime_runs_a_file_with_inputs_of_several_shapes(backend, tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip(backend)
    helper, number = onnx.helper, onnx.TensorProto
    # Maps are twice the pixels plus the number of the style.
    nodes = [
        helper.make_node("Cast", ["style_ids"], ["styles"], to=number.FLOAT),
        helper.make_node("Unsqueeze", ["styles", "axes"], ["spread"]),
        helper.make_node("Add", ["pixel_values", "pixel_values"], ["twice"]),
        helper.make_node("Add", ["twice", "spread"], ["maps"]),
    ]
    graph = helper.make_graph(
        nodes,
        "double",
        [
            helper.make_tensor_value_info("pixel_values", number.FLOAT, ["batch", 3, "height", "width"]),
            helper.make_tensor_value_info("style_ids", number.INT64, ["batch"]),
        ],
        [helper.make_tensor_value_info("maps", number.FLOAT, ["batch", 3, "height", "width"])],
        [helper.make_tensor("axes", number.INT64, [3], [1, 2, 3])],
    )
    file = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), file)
    network = load_network(backend, file, OnnxFacts("0", 0, False, 2))
    for shape in ((1, 3, 4, 6), (2, 3, 5, 4), (1, 3, 4, 6)):
        values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        styles = np.arange(shape[0])
        maps = network(values, styles)
        np.testing.assert_allclose(maps, 2 * values + styles[:, None, None, None], rtol=1e-6)
