"""Writes a checkpoint's card and the tables of `docs/accuracy.md` from results files: no figure is typed by hand.

    python examples/tools/write_card.py

It reads these files in `model_cards/cfsam-tiny/`: `results.json` of the shipped weights and the results of other
systems, all written by `cfsam evaluate`; `ablation.json` of `ablate.py`; `refinement.json` of `refinement.py`;
`robustness.json` of `robustness.py`. The text is `card.md.jinja`. The script also writes the card into the folder of
the bundled checkpoint, where `cfsam export` finds it, and the main scores into its configuration, for `cfsam info`.
"""

import json
import re
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard

from cfsam_hf import CfSamConfig, bundled_checkpoint
from cfsam_hf.commands.messages import errors_in_one_line
from cfsam_hf.evaluation.tables import TYPE_F1, markdown_table, with_deviation
from cfsam_hf.files.json_files import write_json
from cfsam_hf.publish.card import card_metadata
from cfsam_hf.training.variants import READINGS

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "model_cards" / "cfsam-tiny"
BEGIN, END = "<!-- figures: written by examples/tools/write_card.py -->", "<!-- end of figures -->"

# Other systems, scored on the same tiles.
SYSTEMS = {
    "cfsam-tiny": "results.json",
    "four stages": "results_four_stages.json",
    "two stages": "results_two_stages.json",
    "U-Net": "results_unet.json",
    "classical": "results_classical.json",
}
NAMES = {"consep": "CoNSeP", "monuseg": "MoNuSeg"}
TRANSFER_NAMES = {"dsb2018": "DSB2018, pink images"}
DATASETS = ("consep", "monuseg", "bbbc038")
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


def read_record(name: str) -> dict:
    """A results file."""
    return json.loads((FOLDER / name).read_text())


def read_results(name: str) -> dict:
    """The scores by data set of one results file."""
    return {dataset: result["scores"] for dataset, result in read_record(name)["results"].items()}


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


def eval_results(results: dict) -> list[EvalResult]:
    """The figures in the form of the Hub's model index."""
    return [
        EvalResult(
            task_type="image-segmentation",
            dataset_type=dataset,
            dataset_name=f"{NAMES[dataset]} (validation tiles of the training split)",
            metric_type=key,
            metric_name=name,
            metric_value=round(scores[key], 4),
        )
        for dataset, scores in results.items()
        for name, key in COLUMNS.items()
    ]


def make_card() -> tuple[ModelCard, str]:
    """The card, and the tables of figures of `docs/accuracy.md`."""
    config = CfSamConfig.from_pretrained(bundled_checkpoint())
    info = config.checkpoint_info
    results = read_results("results.json")
    types = list(config.type_names.values())
    systems = {name: read_results(file) for name, file in SYSTEMS.items()}
    compared = figures_table(
        {f"{NAMES[dataset]}, {name}": of[dataset] for dataset in results for name, of in systems.items()}
    )
    with_types = {name: of["consep"] for name, of in systems.items() if STATED[-1] in of["consep"]}
    typed = type_table({f"CoNSeP, {name}": scores for name, scores in with_types.items()}, types)
    tables = f"{compared}\n\n{typed}"
    # No base_model: the weights were trained from scratch.
    card_data = card_metadata(
        config,
        eval_results(results),
        license="other",
        license_name="cc-by-nc-sa-4.0-and-research-only",
        license_link="https://creativecommons.org/licenses/by-nc-sa/4.0/",
        datasets=list(DATASETS),
        widget=[{"src": EXAMPLE_IMAGE, "example_title": "Colon, haematoxylin and DAB (not H&E)"}],
    )
    budget, seeds = ablation_budget()
    card = ModelCard.from_template(
        card_data,
        template_path=FOLDER / "card.md.jinja",
        types=", ".join(types),
        parameters=info["parameters"],
        data="\n".join(f"- {line}" for line in info["data"]),
        license=info["license"],
        license_note=info["license_note"],
        figures=figures_table({NAMES[dataset]: scores for dataset, scores in results.items()}),
        unet=f"{read_record(SYSTEMS['U-Net'])['system']['parameters'] / 1e6:.1f} M parameters",
        compared=tables,
        ablation=ablation_table(),
        ablation_budget=budget,
        ablation_seeds=seeds,
        refinement=refinement_table(),
        robustness=robustness_table(),
        training="\n".join(f"- {key}: {value}" for key, value in info["training"].items()),
        tuning_tiles=info["decoding_chosen_on"],
        decoding=settings_line(read_record("results.json")["system"]["decoding"]),
        limits="\n".join(f"- {line}" for line in info["limits"]),
    )
    return card, tables


def settings_line(settings: dict) -> str:
    """Names and values, nested groups in brackets."""
    return ", ".join(
        f"{name} ({settings_line(value)})" if isinstance(value, dict) else f"{name} {value}"
        for name, value in settings.items()
    )


def without_local_pictures(text: str) -> str:
    """A card without the lines that show a picture in its own folder, which other copies of the card lack."""
    return re.sub(r"^!\[[^\]]*\]\((?!https?://)[^)]*\)[ \t]*\n+", "", text, flags=re.MULTILINE)


def state_metrics() -> None:
    """Writes the main scores into the configuration of the bundled checkpoint, for `cfsam info`."""
    path = bundled_checkpoint() / "config.json"
    config = json.loads(path.read_text())
    config["checkpoint_info"]["metrics"] = {
        f"{dataset} ({scores['images']} validation tiles)": {
            name: round(scores[name], 4) for name in STATED if name in scores
        }
        for dataset, scores in read_results("results.json").items()
    }
    write_json(path, config)


def main() -> None:
    state_metrics()
    card, figures = make_card()
    (FOLDER / "README.md").write_text(card.content)
    (bundled_checkpoint() / "README.md").write_text(without_local_pictures(card.content))
    page = ROOT / "docs" / "accuracy.md"
    before, _, rest = page.read_text().partition(BEGIN)
    page.write_text(f"{before}{BEGIN}\n\n{figures}\n\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    with errors_in_one_line():
        main()
