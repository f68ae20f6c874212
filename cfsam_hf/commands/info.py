"""`cfsam info`: describes a checkpoint, or a slide or picture."""

import argparse
import json
import os
from typing import Any

from .loading import naming_checkpoint, resolve_checkpoint
from .messages import printable
from .options import add_debug_option
from .terminal import EXIT_OK

CODE_LICENSE = "Apache-2.0"
# The part that a parameter belongs to, by the beginning of its name; the first match counts. MALA is in the encoder.
PARTS = (
    ("sam.vision_encoder.", "SAM encoder"),
    ("sam.mask_decoder.", "SAM mask decoder"),
    ("sam.", "SAM, other"),
)
# In the file of weights, but not parameters.
BUFFERS = ("type_branch.mean", "type_branch.deviation")


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Declares `cfsam info` and its options."""
    parser = subparsers.add_parser(
        "info",
        help="describe a checkpoint or a slide",
        description="Describes a checkpoint (architecture, types, pixel size, training data, metrics, licences), or a "
        "slide (format, size, levels, pixel size, objective, associated images).",
    )
    parser.add_argument(
        "checkpoint",
        nargs="?",
        metavar="CHECKPOINT|SLIDE",
        help="a bundled checkpoint (cfsam-tiny, the default, or cfsam-tiny-open), the folder or Hugging Face Hub id "
        "of another, or a slide's file",
    )
    parser.add_argument("--json", action="store_true", help="print as JSON")
    add_debug_option(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the description; returns the exit status."""
    if args.checkpoint is not None and os.path.isfile(args.checkpoint):
        from ..slides import describe_slide, format_slide

        record, text = describe_slide(args.checkpoint), format_slide
    else:
        record, text = describe_checkpoint(resolve_checkpoint(args.checkpoint)), format_record
    print(json.dumps(record, indent=2, ensure_ascii=False) if args.json else printable(text(record)))
    return EXIT_OK


def describe_checkpoint(source: str) -> dict[str, Any]:
    """Describes a checkpoint by its configuration and the header of its weights.

    Args:
        source: a folder or a Hub id.

    Returns:
        A JSON-ready record. What the checkpoint does not state is None.

    Raises:
        OSError: there is no such checkpoint, or it has no safetensors weights.
        ValueError: it is another kind of model.
    """
    from ..model.checkpoint import NO_CONFIG, check_place, check_type, read_config
    from ..model.configuration_cfsam import NEUTRAL_STYLE, CfSamConfig

    with naming_checkpoint(source):
        check_place(source)
        values = read_config(source)
        if not values:
            raise OSError(NO_CONFIG)
        check_type(values, [CfSamConfig.model_type])
        config = CfSamConfig.from_dict(values)
    about = dict(config.checkpoint_info or {})
    vision = config.vision_config
    names = config.type_names
    colors = dict(zip(range(1, len(config.type_colors) + 1), config.type_colors, strict=True))
    return {
        "checkpoint": source,
        "name": about.pop("name", None) or os.path.basename(source.rstrip("/")),
        "description": about.pop("description", None),
        "types": [{"id": i, "name": name, "color": colors[i]} for i, name in names.items()],
        "mpp": config.mpp,
        "architecture": {
            "encoder": {
                "layers": vision.num_hidden_layers,
                "width": vision.hidden_size,
                "heads": vision.num_attention_heads,
                "patch_size": vision.patch_size,
                "image_size": vision.image_size,
                "window_size": vision.window_size,
                "global_attention_layers": list(vision.global_attn_indexes),
            },
            "mala": {
                "layers": config.adapter_layers,
                "dim": config.adapter_dim,
                "kernel_sizes": config.adapter_kernel_sizes,
                "dynamic": config.adapter_dynamic,
                "window": config.adapter_window,
            }
            if config.use_mala
            else None,
            "hmfm": {"layers": config.fusion_layers, "dim": config.fusion_dim} if config.use_hmfm else None,
            "detail_stem": config.use_detail_stem and config.detail_trunk is None,
            "detail_trunk": config.detail_trunk,
            "trunk_tokens": config.trunk_tokens,
            "join": config.join,
            "bgmr": {"dilations": config.refinement_dilations, "dim": config.refinement_dim}
            if config.use_bgmr
            else None,
            "mask_stride": config.mask_stride,
            "map_upscale": config.map_upscale,
            "type_trunk": config.type_trunk if config.has_type_branch else None,
        },
        "styles": [NEUTRAL_STYLE, *config.styles],
        "parameters": count_parameters(source),
        "base_model": about.pop("base_model", None),
        "training": about.pop("training", None),
        "data": about.pop("data", None),
        "metrics": about.pop("metrics", None),
        "license": {
            "weights": about.pop("license", None),
            "weights_note": about.pop("license_note", None),
            "code": CODE_LICENSE,
        },
        "format_version": config.format_version,
        "more": about,
    }


def count_parameters(source: str) -> dict[str, int]:
    """Counts the parameters by part and in total, from the header of the safetensors weights.

    Raises:
        OSError: there are no safetensors weights, or the file is damaged.
    """
    from huggingface_hub import errors, get_local_safetensors_metadata, get_safetensors_metadata

    try:
        if os.path.isdir(source):
            metadata = get_local_safetensors_metadata(source)
        else:
            metadata = get_safetensors_metadata(source)
    except (errors.NotASafetensorsRepoError, FileNotFoundError) as error:
        raise OSError(f"{source} has no model.safetensors; only safetensors weights are read") from error
    except errors.SafetensorsParsingError as error:
        raise OSError(f"{source}: its safetensors file is damaged or cut short; get it again") from error
    counts: dict[str, int] = {}
    for file in metadata.files_metadata.values():
        for name, tensor in file.tensors.items():
            if name in BUFFERS:
                continue
            part = part_of(name)
            counts[part] = counts.get(part, 0) + tensor.parameter_count
    return counts | {"total": sum(counts.values())}


def part_of(name: str) -> str:
    """The part of the model that a parameter belongs to: one of SAM's, the adapters, or the module's own name.

    >>> part_of("sam.vision_encoder.layers.0.adapter.down.weight"), part_of("fusion.levels.0.weight")
    ('MALA adapters', 'fusion')
    """
    if "adapter" in name:
        return "MALA adapters"
    return next((part for prefix, part in PARTS if name.startswith(prefix)), name.split(".")[0])


def format_record(record: dict[str, Any]) -> str:
    """Formats the record of [`describe_checkpoint`] as a page of text."""
    architecture = record["architecture"]
    encoder, mala, hmfm, bgmr = (architecture[key] for key in ("encoder", "mala", "hmfm", "bgmr"))
    lines = [
        record["name"],
        *_indented(record["description"]),
        f"  at {record['checkpoint']}",
        "",
        f"Pixel size   {record['mpp']:g} µm per pixel",
        "Types        "
        + (
            "\n             ".join(f"{t['id']} {t['name']} {t['color']}" for t in record["types"])
            or "none: nuclei are found, not typed"
        ),
        "",
        f"Encoder      SAM ViT, {encoder['layers']} layers of width {encoder['width']}, "
        f"patch {encoder['patch_size']}, window {encoder['window_size']}",
        "MALA         " + (_mala_line(mala) if mala else "off"),
        "HMFM         " + (f"layers {_numbers(hmfm['layers'])}, width {hmfm['dim']}" if hmfm else "off"),
        "BGMR         " + (f"dilations {_numbers(bgmr['dilations'])}" if bgmr else "off"),
        f"Details      {architecture['detail_trunk'] or ('stem' if architecture['detail_stem'] else 'none')}",
        f"Map stride   {architecture['mask_stride'] // architecture['map_upscale']} px",
        f"Types from   {architecture['type_trunk'] or 'the mask decoder' if record['types'] else 'nothing'}",
        *([f"Styles       {', '.join(record['styles'])}"] if len(record["styles"]) > 1 else []),
        "",
        f"Parameters   {record['parameters']['total']:,}",
        *(f"             {n:>12,}  {part}" for part, n in record["parameters"].items() if part != "total"),
    ]
    for title, key in (
        ("Base model", "base_model"),
        ("Training", "training"),
        ("Data", "data"),
        ("Metrics", "metrics"),
    ):
        lines += ["", title, *(_indented(record[key]) or ["  not stated"])]
    licenses = record["license"]
    lines += [
        "",
        "Licences",
        f"  weights: {licenses['weights'] or 'not stated; ask who made them'}",
        *_indented(licenses["weights_note"], depth=2),
        f"  code (cfsam_hf): {licenses['code']}",
    ]
    if record["more"]:
        lines += ["", "More", *_indented(record["more"])]
    return "\n".join(lines)


def _mala_line(mala: dict[str, Any]) -> str:
    kind = "dynamic" if mala["dynamic"] else "fixed"
    windows = f" for windows of {mala['window']} x {mala['window']} tokens" if mala["window"] else ""
    return (
        f"in layers {_numbers(mala['layers'])}, width {mala['dim']}, {kind} kernels {_numbers(mala['kernel_sizes'])}"
        f"{windows}"
    )


def _numbers(values: list[int]) -> str:
    """Formats numbers; more than three consecutive ones as a range, "0-7"."""
    if len(values) > 3 and values == list(range(values[0], values[-1] + 1)):
        return f"{values[0]}-{values[-1]}"
    return " ".join(map(str, values))


def _indented(value: Any, depth: int = 1) -> list[str]:
    """Formats a JSON value as indented lines, members as `name: value`."""
    pad = "  " * depth
    if value is None or value == {} or value == []:
        return []
    if isinstance(value, dict):
        lines = []
        # Configuration files are sorted by key, but a name is most useful as the first line.
        for key, item in sorted(value.items(), key=lambda member: member[0] != "name"):
            nested = isinstance(item, (dict, list)) and item
            lines += [f"{pad}{key}:", *_indented(item, depth + 1)] if nested else [f"{pad}{key}: {_scalar(item)}"]
        return lines
    if isinstance(value, list):
        return [line for item in value for line in _list_item(item, depth)]
    return [f"{pad}{line}" for line in str(value).splitlines()]


def _list_item(item: Any, depth: int) -> list[str]:
    lines = _indented(item, depth + 1) or [f"{'  ' * (depth + 1)}{_scalar(item)}"]
    return [f"{'  ' * depth}- {lines[0].strip()}", *lines[1:]]


def _scalar(value: Any) -> str:
    return "not stated" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
