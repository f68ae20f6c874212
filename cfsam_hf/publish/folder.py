"""The contents of a self-describing folder, and the check that a folder is one."""

import importlib.metadata
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard
from transformers.dynamic_module_utils import get_imports

from ..model.adapter_files import ADAPTER_FILE, WEIGHTS_FILE
from ..model.configuration_cfsam import CfSamConfig
from ..model.image_processing_cfsam import CfSamImageProcessor
from ..model.modeling_cfsam import CfSamForNucleiSegmentation
from ..model.pipeline_cfsam import NucleiSegmentationPipeline
from ..model.processing_cfsam import CfSamProcessor

CONFIG, PROCESSOR, WEIGHTS = "config.json", "processor_config.json", "model.safetensors"
CARD, HANDLER, REQUIREMENTS = "README.md", "handler.py", "requirements.txt"
CARD_FIELDS = ("license", "library_name", "pipeline_tag")
MODEL_CODE = Path(__file__).parents[1] / "model"
# Files that can run code when they are read.
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".npy", ".npz", ".joblib", ".h5")


def _reference(kind: type) -> str:
    """A class as a folder's JSON files name it: `module.Class`."""
    return f"{kind.__module__.rpartition('.')[2]}.{kind.__name__}"


MODEL_AUTO_MAP = {
    "AutoConfig": _reference(CfSamConfig),
    "AutoModel": _reference(CfSamForNucleiSegmentation),
    "AutoModelForImageSegmentation": _reference(CfSamForNucleiSegmentation),
}
PROCESSOR_AUTO_MAP = {
    "AutoImageProcessor": _reference(CfSamImageProcessor),
    "AutoProcessor": _reference(CfSamProcessor),
}
CUSTOM_PIPELINES: dict[str, dict[str, Any]] = {
    "nuclei-segmentation": {
        "impl": _reference(NucleiSegmentationPipeline),
        "pt": ["AutoModelForImageSegmentation"],
        "type": "image",
    }
}


def code_files() -> list[Path]:
    """The files of this package that a checkpoint needs to run, all from one folder."""
    return sorted(path for path in MODEL_CODE.glob("*.py") if path.name != "__init__.py")


NEEDED_BY = {"tifffile": ("imagecodecs",)}
"""What packages import without requiring it: tifffile decodes the compressions of most slides by imagecodecs."""


def code_requirements(files: list[Path]) -> list[str]:
    """The requirements of this package (such as `"numpy>=1.26"`) that the given files import, directly or through
    packages that need others to do all that they are used for.

    Raises:
        OSError: this package is not installed.
    """
    try:
        declared = importlib.metadata.requires("cfsam_hf") or []
    except importlib.metadata.PackageNotFoundError as error:
        raise OSError("cfsam_hf is not installed, so its requirements are unknown: pip install it first") from error
    providers = importlib.metadata.packages_distributions()
    needed = {
        _normalised(name) for file in files for module in get_imports(file) for name in providers.get(module, [])
    }
    needed |= {_normalised(other) for name in needed & set(NEEDED_BY) for other in NEEDED_BY[name]}
    lines = [line for line in declared if ";" not in line]
    return sorted(line for line in lines if _normalised(re.split(r"[^\w.-]", line, maxsplit=1)[0]) in needed)


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def check_folder(folder: Path, card_fields: Sequence[str] = CARD_FIELDS) -> None:
    """Checks that a folder describes itself: it has everything that loading it elsewhere needs, and a card.

    Args:
        folder: the folder.
        card_fields: what the card's metadata must state.

    Raises:
        OSError: there is no such folder.
        ValueError: the folder is an adapter, or something is missing or wrong; the message lists everything.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise OSError(f"{folder}: no such folder")
    if (folder / ADAPTER_FILE).is_file() and not (folder / CONFIG).is_file():
        raise ValueError(
            f"{folder} is an adapter without its base, not a checkpoint. To publish the whole model: "
            f"`model = CfSamForNucleiSegmentation.from_adapter({str(folder)!r})`, then `export_for_hub(model, NEW)`. "
            "To publish the adapter alone, which others then load with from_adapter: huggingface_hub's "
            f"upload_folder(repo_id=..., folder_path={str(folder)!r}, allow_patterns=['{ADAPTER_FILE}', "
            f"'{WEIGHTS_FILE}', '{CARD}']), which sends these files and no others."
        )
    problems = [*_config_problems(folder), *_code_problems(folder), *_card_problems(folder, card_fields)]
    pickles = sorted(path.name for path in folder.rglob("*") if path.suffix.lower() in PICKLES)
    if pickles:
        problems.append(f"{', '.join(pickles)} can run code when read; weights are published as safetensors only")
    if problems:
        raise ValueError(
            f"{folder} is not ready to be published: {'; '.join(problems)}. `cfsam export CHECKPOINT FOLDER` writes a "
            "folder that is."
        )


def _config_problems(folder: Path) -> list[str]:
    problems: list[str] = []
    config = _read_json(folder / CONFIG, problems)
    if config is not None and config.get("model_type") != CfSamConfig.model_type:
        problems.append(f"{CONFIG} is for the model type {config.get('model_type')!r}, not {CfSamConfig.model_type!r}")
    elif config is not None and (missing := set(MODEL_AUTO_MAP) - set(config.get("auto_map") or {})):
        problems.append(f"{CONFIG} does not name the code of {', '.join(sorted(missing))}")
    elif config is not None and not config.get("custom_pipelines"):
        problems.append(f"{CONFIG} does not name the code of the pipeline")
    processor = _read_json(folder / PROCESSOR, problems)
    if processor is not None:
        inner = processor.get("image_processor")
        named = {"AutoProcessor": processor, "AutoImageProcessor": inner if isinstance(inner, dict) else {}}
        unnamed = [name for name, record in named.items() if name not in (record.get("auto_map") or {})]
        problems += [f"{PROCESSOR} does not name the code of {name}" for name in unnamed]
    index = folder / f"{WEIGHTS}.index.json"
    if index.is_file():
        record = _read_json(index, problems) or {}
        wanted = sorted(set(record.get("weight_map", {}).values()))
    else:
        wanted = [WEIGHTS]
    return problems + [f"{name} is missing" for name in wanted if not (folder / name).is_file()]


def code_names(folder: Path) -> set[str]:
    """Names of the code that belongs in a folder: the handler, the entry points and what they import, whether or not
    these files are there, and all code that this version exports.
    """
    return {HANDLER, *_needed_code(folder), *(path.name for path in code_files())}


def _needed_code(folder: Path) -> set[str]:
    modules = {name.split(".")[0] for name in (*MODEL_AUTO_MAP.values(), *PROCESSOR_AUTO_MAP.values())}
    modules |= {info["impl"].split(".")[0] for info in CUSTOM_PIPELINES.values()}
    waiting, seen = [f"{module}.py" for module in sorted(modules)], set()
    while waiting:
        name = waiting.pop()
        if name not in seen and (folder / name).is_file():
            text = (folder / name).read_text(encoding="utf-8")
            waiting += [f"{module}.py" for module in re.findall(r"^\s*from\s+\.(\w+)\s+import", text, re.MULTILINE)]
        seen.add(name)
    return seen


def _code_problems(folder: Path) -> list[str]:
    """Files of code that are missing: the entry points, what they import, the handler."""
    wanted = [*sorted(_needed_code(folder)), HANDLER, REQUIREMENTS]
    return [f"{name} is missing" for name in wanted if not (folder / name).is_file()]


def _card_problems(folder: Path, fields: Sequence[str]) -> list[str]:
    path = folder / CARD
    if not path.is_file():
        return [f"{CARD}, the card, is missing"]
    try:
        card = ModelCard.load(path)
    # Damaged YAML, or results without what a result needs.
    except Exception as error:
        return [f"{CARD}: its metadata cannot be read ({' '.join(str(error).split())})"]
    missing = [name for name in fields if not getattr(card.data, name, None)]
    return [f"{CARD} does not state {', '.join(missing)} in its metadata (at its top)"] if missing else []


def _read_json(path: Path, problems: list[str]) -> dict | None:
    if not path.is_file():
        problems.append(f"{path.name} is missing")
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        problems.append(f"{path.name} is not JSON ({error})")
        return None
    return record if isinstance(record, dict) else {}
