"""Why: bfloat16 halves the time on some processors and doubles it on others, so `auto` must tell them apart."""

import pytest
import torch

from cfsam_hf.model import precision
from cfsam_hf.model.precision import dtype_name, native_bfloat16, resolve_autocast

CPU = torch.device("cpu")
# The lines of two processors, shortened, and what they mean.
PROCESSORS = {
    "AMD EPYC 7003": ("flags\t\t: fpu sse2 avx2 fma f16c avx_vnni\n", False),
    "Xeon with AVX-512 alone": ("flags\t\t: fpu avx2 avx512f avx512_vnni\n", False),
    "Xeon with AVX512-BF16": ("flags\t\t: fpu avx2 avx512f avx512_bf16\n", True),
    "Xeon with AMX": ("flags\t\t: fpu avx2 avx512f amx_bf16 amx_tile amx_int8\n", True),
    "Graviton 2": ("Features\t: fp asimd asimddp\n", False),
    "Graviton 3": ("Features\t: fp asimd sve i8mm bf16 dgh\n", True),
    # Only whole names count.
    "a similar name": ("flags\t\t: xamx_bf16\nbugs\t\t: amx_bf16\n", False),
    "nothing": ("", False),
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_a_processor_is_judged_by_its_features(name, tmp_path):
    text, expected = PROCESSORS[name]
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nmodel name\t: {name}\n{text}")
    assert native_bfloat16(CPU, cpuinfo) is expected


def test_unknown_hardware_counts_as_without(tmp_path):
    assert not native_bfloat16(CPU, tmp_path / "missing")
    assert not native_bfloat16(torch.device("mps"))


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_a_gpu_is_judged_by_its_capability(capability, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert native_bfloat16(torch.device("cuda:0")) is expected


def test_auto_follows_the_hardware_and_all_else_is_as_given(monkeypatch):
    for native, expected in ((True, torch.bfloat16), (False, None)):
        monkeypatch.setattr(precision, "native_bfloat16", lambda device, native=native: native)
        assert resolve_autocast("auto", CPU) is expected
        assert resolve_autocast("bfloat16", CPU) is resolve_autocast(torch.bfloat16, CPU) is torch.bfloat16
        assert resolve_autocast(None, CPU) is None
    assert resolve_autocast(dtype_name(torch.float16), CPU) is torch.float16
    for wrong in ("int8", torch.int8, "Tensor", 3):
        with pytest.raises(ValueError, match="'auto' or a floating type"):
            resolve_autocast(wrong, CPU)
