"""Writes the cards of the bundled checkpoints and the tables of `docs/accuracy.md` from results files.

No figure is typed by hand.

    python examples/tools/write_card.py

In `model_cards/NAME/` it reads `results.json` of the shipped weights and the results of other systems, all written by
`cfsam evaluate`, and for cfsam-tiny `ablation.json` of `ablate.py`, `refinement.json` of `refinement.py` and
`robustness.json` of `robustness.py`. The text is `card.md.jinja`. The script also writes each card into the folder of
its checkpoint, where `cfsam export` finds it, and the main scores into its configuration, for `cfsam info`.
"""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard

from cfsam_hf import CfSamConfig, bundled_checkpoint
from cfsam_hf.commands.messages import errors_in_one_line
from cfsam_hf.evaluation.tables import TYPE_F1, markdown_table, with_deviation
from cfsam_hf.files.json_files import write_json
from cfsam_hf.publish.card import card_metadata
from cfsam_hf.training.variants import READINGS

ROOT = Path(__file__).resolve().parents[2]
CARDS = ROOT / "model_cards"
TINY, OPEN = "cfsam-tiny", "cfsam-tiny-open"
BEGIN, END = "<!-- figures: written by examples/tools/write_card.py -->", "<!-- end of figures -->"

# Other systems, scored on the same tiles.
SYSTEMS = {
    "cfsam-tiny": "results.json",
    "four stages": "results_four_stages.json",
    "two stages": "results_two_stages.json",
    "U-Net": "results_unet.json",
    "classical": "results_classical.json",
}
# The same for cfsam-tiny-open.
OPEN_SYSTEMS = {OPEN: "results.json", TINY: "results_cfsam_tiny.json"}
STYLES = {"neutral": "results.json", "nuinsseg": "results_style_nuinsseg.json", "tnbc": "results_style_tnbc.json"}
NAMES = {"consep": "CoNSeP", "monuseg": "MoNuSeg", "nuinsseg": "NuInsSeg", "tnbc": "TNBC"}
TRANSFER_NAMES = {"dsb2018": "DSB2018, pink images"}
# The data sets of each checkpoint, as the Hub's metadata name them.
DATASETS = {TINY: ["consep", "monuseg", "bbbc038"], OPEN: ["nuinsseg", "tnbc", "bbbc038"]}
# Tissue that may be shown and has an address: scikit-image's `immunohistochemistry`.
EXAMPLE_IMAGE = "https://gitlab.com/scikit-image/data/-/raw/5c090b56df3988d988ff97928e2ef2d2cbe38e1b/ihc.png"
PQ, FD = "pq_mean_over_images", "detection_f1_pooled"
COLUMNS = {
    "Dice": "dice_mean_over_images",
    "AJI": "aji_mean_over_images",
    "DQ": "dq_mean_over_images",
    "SQ": "sq_mean_over_images",
    "PQ": PQ,
    "Fd": FD,
}

# The scores, beside those of the types, that the checkpoint's configuration states.
STATED = (
    "aji_mean_over_images",
    "detection_f1_pooled",
    "dice_mean_over_images",
    "pq_mean_over_images",
    "type_f1_pooled_mean_over_types",
)

# The scores of an ablation and the conditions of a robustness file that the card shows.
ABLATION_COLUMNS = {"AJI": "aji_mean_over_images", "PQ": PQ, "Fd": FD, "type F1": "type_f1_pooled_mean_over_types"}
CONDITIONS = (
    "plain",
    "haematoxylin and eosin x 0.6",
    "haematoxylin and eosin x 1.7",
    "haematoxylin x 0.77, eosin x 1.3",
    "blur, sigma 1 px",
    "blur, sigma 2 px",
    "JPEG, quality 70",
    "JPEG, quality 20",
    "brightness -40 grey values",
    "brightness +40 grey values",
    "noise, sigma 10 grey values",
    "noise, sigma 20 grey values",
    "20x (0.5 um per pixel), mpp given",
    "20x (0.5 um per pixel), mpp not given",
    "10x (1 um per pixel), mpp given",
)


def read_record(name: str, checkpoint: str = TINY) -> dict:
    """A results file beside a checkpoint's card."""
    return json.loads((CARDS / checkpoint / name).read_text())


def read_results(name: str, checkpoint: str = TINY) -> dict:
    """The scores by data set of one results file."""
    return {dataset: result["scores"] for dataset, result in read_record(name, checkpoint)["results"].items()}


def figures_table(rows: dict[str, dict]) -> str:
    """A Markdown table of the main scores with a row per name."""
    cells = [
        [
            name,
            str(scores["images"]),
            f"{scores['true_nuclei']:,}",
            *(f"{scores[key]:.3f}" for key in COLUMNS.values()),
        ]
        for name, scores in rows.items()
    ]
    return "\n".join(markdown_table(["", "tiles", "nuclei", *COLUMNS], cells))


def type_table(rows: dict[str, dict], types: list[str]) -> str:
    """A Markdown table of the F1 of each type with a row per name."""
    cells = [
        [name, *(f"{scores[f'{TYPE_F1}{type_name}']:.3f}" for type_name in types)] for name, scores in rows.items()
    ]
    return "\n".join(markdown_table(["type F1", *types], cells))


def ablation_table() -> str:
    """A table of the variants: means and standard deviations over the seeds."""
    rows = []
    for of in read_record("ablation.json")["variants"].values():
        for reading, scores in of["scores"].items():
            [of_dataset] = scores.values()
            values = [of_dataset[key] for key in ABLATION_COLUMNS.values()]
            first = reading == "refined"
            rows.append(
                [
                    of["title"] if first else f"{of['title']}, {READINGS[reading]}",
                    *(with_deviation(value["mean"], value["deviation"]) for value in values),
                    f"{of['trainable'] / 1e6:.2f} M" if first else "",
                    f"{of['peak_memory_mb']['mean']:,.0f} MB" if first else "",
                ]
            )
    return "\n".join(markdown_table(["", *ABLATION_COLUMNS, "trained", "memory"], rows))


def ablation_budget() -> tuple[str, str]:
    """The budget of each run of the ablation, and its seeds."""
    record = read_record("ablation.json")
    budget = record["budget"]
    [seeds] = {tuple(of["seeds"]) for of in record["variants"].values()}
    text = f"{budget['steps']} steps of {budget['crops_per_step']} crops of {budget['crop_size']} px"
    return text, " and ".join(map(str, seeds))


def refinement_table() -> str:
    """A table of the checkpoint's initial and refined maps, with and without the boundary map."""
    record = read_record("refinement.json")
    columns = [(dataset, key) for dataset in record["datasets"] for key in ("pq", "aji")]
    rows = [
        [name, *(f"{of['scores'][dataset][key]:.3f}" for dataset, key in columns)]
        for name, of in record["readings"].items()
    ]
    return "\n".join(markdown_table(["", *(f"{NAMES[dataset]} {key.upper()}" for dataset, key in columns)], rows))


def robustness_table() -> str:
    """PQ and Fd under some conditions, and on data that the checkpoint was not trained for."""
    record = read_record("robustness.json")
    results, transfer = record["results"], record["transfer"]
    head = [f"{NAMES[dataset]} {column}" for dataset in results for column in ("PQ", "Fd")]
    rows = [
        [
            condition,
            *(f"{of['conditions'][condition]['scores'][key]:.3f}" for of in results.values() for key in (PQ, FD)),
        ]
        for condition in CONDITIONS
    ]
    elsewhere = figures_table({TRANSFER_NAMES[name]: of["scores"] for name, of in transfer.items()})
    return "\n".join([*markdown_table(["", *head], rows), "", elsewhere])


def compared(systems: dict[str, dict], datasets: Sequence[str]) -> str:
    """A table of the main scores of several systems on each data set."""
    return figures_table({f"{NAMES[data]}, {name}": of[data] for data in datasets for name, of in systems.items()})


def tissue_table(checkpoint: str, systems: dict[str, str], dataset: str) -> str:
    """PQ of several systems for each tissue of a data set: mean over its tiles."""
    groups = {name: read_record(file, checkpoint)["results"][dataset]["tissues"] for name, file in systems.items()}
    tissues = next(iter(groups.values()))
    rows = [
        [tissue, str(of["scores"]["images"]), *(f"{group[tissue]['scores'][PQ]:.3f}" for group in groups.values())]
        for tissue, of in tissues.items()
    ]
    return "\n".join(markdown_table([f"{NAMES[dataset]}, PQ", "tiles", *groups], rows))


def eval_results(results: dict) -> list[EvalResult]:
    """The figures in the form of the Hub's model index."""
    return [
        EvalResult(
            task_type="image-segmentation",
            dataset_type=dataset,
            dataset_name=f"{NAMES[dataset]} (validation tiles)",
            metric_type=key,
            metric_name=name,
            metric_value=round(scores[key], 4),
        )
        for dataset, scores in results.items()
        for name, key in COLUMNS.items()
    ]


def tiny_tables() -> str:
    """The tables of cfsam-tiny beside other systems, of its card and `docs/accuracy.md`."""
    systems = {name: read_results(file) for name, file in SYSTEMS.items()}
    with_types = {name: of["consep"] for name, of in systems.items() if STATED[-1] in of["consep"]}
    types = list(CfSamConfig.from_pretrained(bundled_checkpoint()).type_names.values())
    typed = type_table({f"CoNSeP, {name}": scores for name, scores in with_types.items()}, types)
    return f"{compared(systems, list(read_results('results.json')))}\n\n{typed}"


def tiny_card() -> ModelCard:
    """The card of cfsam-tiny."""
    budget, seeds = ablation_budget()
    return make_card(
        TINY,
        # The licences of its data together are none that the Hub knows.
        {
            "license": "other",
            "license_name": "cc-by-nc-sa-4.0-and-research-only",
            "license_link": "https://creativecommons.org/licenses/by-nc-sa/4.0/",
        },
        figures=figures_table({NAMES[dataset]: scores for dataset, scores in read_results("results.json").items()}),
        unet=f"{read_record(SYSTEMS['U-Net'])['system']['parameters'] / 1e6:.1f} M parameters",
        compared=tiny_tables(),
        ablation=ablation_table(),
        ablation_budget=budget,
        ablation_seeds=seeds,
        refinement=refinement_table(),
        robustness=robustness_table(),
    )


def open_card() -> ModelCard:
    """The card of cfsam-tiny-open."""
    systems = {name: read_results(file, OPEN) for name, file in OPEN_SYSTEMS.items()}
    return make_card(
        OPEN,
        {"license": "cc-by-4.0"},
        compared=compared(systems, ["nuinsseg", "tnbc"]),
        tissues=tissue_table(OPEN, OPEN_SYSTEMS, "nuinsseg"),
        elsewhere=compared(systems, ["consep", "monuseg"]),
        styles=compared({name: read_results(file, OPEN) for name, file in STYLES.items()}, ["nuinsseg", "tnbc"]),
    )


def make_card(checkpoint: str, license_data: dict[str, str], **texts: str) -> ModelCard:
    """A card from a checkpoint's template, configuration and results.

    Args:
        checkpoint: its name.
        license_data: the Hub's metadata of its licence.
        texts: what only its own template has.
    """
    config = CfSamConfig.from_pretrained(bundled_checkpoint(checkpoint))
    info: dict[str, Any] = config.checkpoint_info
    # No base_model: the weights were trained from scratch.
    card_data = card_metadata(
        config,
        eval_results(read_results("results.json", checkpoint)),
        **license_data,
        datasets=DATASETS[checkpoint],
        widget=[{"src": EXAMPLE_IMAGE, "example_title": "Colon, haematoxylin and DAB (not H&E)"}],
    )
    return ModelCard.from_template(
        card_data,
        template_path=CARDS / checkpoint / "card.md.jinja",
        types=", ".join(config.type_names.values()),
        parameters=info["parameters"],
        data=bullets(info["data"]),
        license=info["license"],
        license_note=info["license_note"],
        training=bullets(f"{key}: {value}" for key, value in info["training"].items()),
        tuning_tiles=info["decoding_chosen_on"],
        decoding=settings_line(read_record("results.json", checkpoint)["system"]["decoding"]),
        limits=bullets(info["limits"]),
        **texts,
    )


def bullets(lines: Iterable[str]) -> str:
    """A Markdown list."""
    return "\n".join(f"- {line}" for line in lines)


def settings_line(settings: dict) -> str:
    """Names and values, nested groups in brackets."""
    return ", ".join(
        f"{name} ({settings_line(value)})" if isinstance(value, dict) else f"{name} {value}"
        for name, value in settings.items()
    )


def without_local_pictures(text: str) -> str:
    """A card without the lines that show a picture in its own folder, which other copies of the card lack."""
    return re.sub(r"^!\[[^\]]*\]\((?!https?://)[^)]*\)[ \t]*\n+", "", text, flags=re.MULTILINE)


def state_metrics(checkpoint: str) -> None:
    """Writes the main scores into the configuration of a bundled checkpoint, for `cfsam info`."""
    path = bundled_checkpoint(checkpoint) / "config.json"
    config = json.loads(path.read_text())
    config["checkpoint_info"]["metrics"] = {
        f"{dataset} ({scores['images']} validation tiles)": {
            name: round(scores[name], 4) for name in STATED if name in scores
        }
        for dataset, scores in read_results("results.json", checkpoint).items()
    }
    write_json(path, config)


CARD_MAKERS = {TINY: tiny_card, OPEN: open_card}


def main() -> None:
    for checkpoint, make in CARD_MAKERS.items():
        state_metrics(checkpoint)
        card = make()
        (CARDS / checkpoint / "README.md").write_text(card.content)
        (bundled_checkpoint(checkpoint) / "README.md").write_text(without_local_pictures(card.content))
    page = ROOT / "docs" / "accuracy.md"
    before, _, rest = page.read_text().partition(BEGIN)
    page.write_text(f"{before}{BEGIN}\n\n{tiny_tables()}\n\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    with errors_in_one_line():
        main()
