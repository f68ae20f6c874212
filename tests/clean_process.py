"""Run as a script by the tests: loads a self-describing checkpoint where `cfsam_hf` cannot be imported.

    python -I clean_process.py CHECKPOINT IMAGE.npy OUTPUT.npz [COPY]

Writes what the model, the processor and the pipeline return; saves the loaded parts again to COPY. It must not import
anything of the tests or of the package.
"""

import importlib.abc
import sys


class Forbidden(importlib.abc.MetaPathFinder):
    """Makes `cfsam_hf` look as if it were not installed, however it is installed."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname.partition(".")[0] == "cfsam_hf":
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


sys.meta_path.insert(0, Forbidden())
try:
    import cfsam_hf  # noqa: F401
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("cfsam_hf is importable: this shows nothing")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from transformers import AutoConfig, AutoModel, AutoModelForImageSegmentation, AutoProcessor, pipeline  # noqa: E402
from transformers.models.auto.image_processing_auto import AutoImageProcessor  # noqa: E402


def main(checkpoint: str, image_file: str, output: str, copy: str | None = None) -> None:
    torch.manual_seed(0)
    image = np.load(image_file)
    trust = {"trust_remote_code": True}
    config = AutoConfig.from_pretrained(checkpoint, **trust)
    model = AutoModelForImageSegmentation.from_pretrained(checkpoint, **trust)
    image_processor = AutoImageProcessor.from_pretrained(checkpoint, **trust)
    processor = AutoProcessor.from_pretrained(checkpoint, **trust)
    same = AutoModel.from_pretrained(checkpoint, **trust).state_dict()
    inputs = processor(images=image, return_tensors="pt")
    with torch.inference_mode():
        outputs = model(**inputs)
    pipe = pipeline("nuclei-segmentation", model=checkpoint, **trust)
    result = pipe(image, mpp=config.mpp)
    [decoded] = image_processor.post_process_nuclei(outputs, target_sizes=[image.shape[:2]])
    objects = {
        "config": config,
        "model": model,
        "image processor": image_processor,
        "processor": processor,
        "pipeline": pipe,
    }
    for name, value in objects.items():
        module = type(value).__module__
        if not module.startswith("transformers_modules."):
            raise SystemExit(f"the {name} comes from {module}, not from the checkpoint")
        print(f"{name}: {type(value).__name__} of {module.rpartition('.')[2]}.py")
    print(repr(result))
    if any(not torch.equal(value, same[name]) for name, value in model.state_dict().items()):
        raise SystemExit("AutoModel and AutoModelForImageSegmentation load different weights")
    np.savez(
        output,
        pixel_values=inputs["pixel_values"].numpy(),
        nuclei_logits=outputs.nuclei_logits.numpy(),
        type_logits=outputs.type_logits.numpy(),
        instance_map=result.instance_map,
        scores=result.table["score"].to_numpy(),
        types=result.table["type"].to_numpy(),
        decoded_map=decoded.instance_map,
        id2label=np.array([f"{key}:{value}" for key, value in config.id2label.items()]),
        type_colors=np.array(config.type_colors),
        version=np.array(result.version),
    )
    if copy is not None:
        model.save_pretrained(copy)
        processor.save_pretrained(copy)
    assert "cfsam_hf" not in sys.modules


if __name__ == "__main__":
    main(*sys.argv[1:])
