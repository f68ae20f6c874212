"""Makes the card of a checkpoint, metadata for the Hub and a text for people, from its configuration."""

import re
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..model.configuration_cfsam import CfSamConfig

TEMPLATE = Path(__file__).with_name("card.md.jinja")
TASK = "image-segmentation"
TAGS = ("pathology", "histology", "nuclei", "instance-segmentation", "cfsam")
# The licences that the Hub knows; any other is listed there as "other", with its own name.
HUB_LICENSES = frozenset(
    (
        "apache-2.0",
        "mit",
        "bsd-3-clause",
        "cc0-1.0",
        "cc-by-4.0",
        "cc-by-sa-4.0",
        "cc-by-nc-4.0",
        "cc-by-nc-sa-4.0",
        "cc-by-nc-nd-4.0",
    )
)
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def card_metadata(config: CfSamConfig, eval_results: list[EvalResult] | None = None, **fields: Any) -> ModelCardData:
    """The metadata of a checkpoint's card.

    Args:
        config: of the checkpoint; its `checkpoint_info` may hold `name`, `license`, `license_link`, `base_model`,
            `datasets` and `widget`.
        eval_results (*optional*): figures, each with its data and average.
        fields: further metadata, which takes precedence over the configuration's.

    Returns:
        The metadata, without unknown fields. A push requires the licence.
    """
    info = config.checkpoint_info or {}
    base = str(info.get("base_model") or "")
    known: dict[str, Any] = {
        **_license_fields(info),
        # A base may also be a folder, which means nothing to others.
        "base_model": base if _HUB_ID.fullmatch(base) else None,
        "datasets": info.get("datasets"),
        "metrics": sorted({result.metric_type for result in eval_results}) if eval_results else None,
        "widget": info.get("widget"),
        "library_name": "transformers",
        "pipeline_tag": TASK,
        "tags": list(TAGS),
        "model_name": info.get("name") or "cfsam",
        "eval_results": eval_results or None,
    }
    return ModelCardData(**{name: value for name, value in (known | fields).items() if value is not None})


def checkpoint_card(config: CfSamConfig) -> ModelCard:
    """A card from the configuration alone, with the figures, data and limits in `checkpoint_info`."""
    info = config.checkpoint_info or {}
    metrics = info.get("metrics") or {}
    results = [
        EvalResult(
            task_type=TASK,
            dataset_type=_slug(dataset),
            dataset_name=dataset,
            metric_type=name,
            metric_name=name,
            metric_value=value,
        )
        for dataset, scores in metrics.items()
        for name, value in scores.items()
    ]
    metadata = card_metadata(config, results)
    return ModelCard.from_template(
        metadata,
        template_path=str(TEMPLATE),
        name=metadata.model_name,
        description=info.get("description"),
        types=list(config.type_names.values()),
        mpp=f"{config.mpp:g}",
        base=info.get("base_model"),
        data=info.get("data") or [],
        license_text=info.get("license"),
        license_note=info.get("license_note"),
        figures=metrics,
        training=info.get("training") or {},
        limits=info.get("limits") or [],
    )


def _license_fields(info: dict[str, Any]) -> dict[str, str]:
    text = str(info.get("license") or "")
    link = {"license_link": info["license_link"]} if info.get("license_link") else {}
    if not text:
        return {}
    if _slug(text) in HUB_LICENSES:
        return {"license": _slug(text), **link}
    return {"license": "other", "license_name": info.get("license_name") or _slug(text), **link}


def _slug(text: str) -> str:
    """Converts a name to the form that the Hub uses.

    >>> _slug("CC BY-NC-SA 4.0 (from MoNuSeg)")
    'cc-by-nc-sa-4.0-from-monuseg'
    """
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")
