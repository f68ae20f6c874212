"""The effect of boundary-guided refinement: nuclei of one checkpoint with and without it, each decoded at its best.

    python examples/studies/refinement.py --output_dir results/refinement \
        --data reader=consep,path=CoNSeP,split=examples/splits/consep.json

The script decodes the initial and the refined maps of the same network, with and without the boundary map. Decoding
thresholds suit the maps for which they were chosen, so the script chooses them for each of these on tuning tiles, as
`tune_decoding.py` does, and scores the validation tiles. It writes `refinement.json` and `refinement.md`. For networks
trained without BGMR see `ablate.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers import HfArgumentParser

from cfsam_hf import DecodingParameters, decode_nuclei
from cfsam_hf.commands.loading import load_pipeline, resolve_checkpoint
from cfsam_hf.commands.messages import errors_in_one_line
from cfsam_hf.data import Tile, TileRecord
from cfsam_hf.data.data_items import DataItem, records_by_dataset
from cfsam_hf.evaluation import checkpoint_system, results_record
from cfsam_hf.evaluation.decoding_search import Cases, search_decoding, tuning_case
from cfsam_hf.evaluation.environment import environment
from cfsam_hf.evaluation.tables import markdown_table
from cfsam_hf.evaluation.tuning import tuning_tiles
from cfsam_hf.files.atomic import staged_folder
from cfsam_hf.files.json_files import write_json
from cfsam_hf.files.writable import check_writable
from cfsam_hf.metrics import aggregated_jaccard_index, defined_mean, panoptic_quality
from cfsam_hf.model.maps import NucleiMaps
from cfsam_hf.model.pipeline_cfsam import NucleiSegmentationPipeline
from cfsam_hf.training.variants import reading

FORMAT = "cfsam_hf refinement 1"
# What is decoded: which maps, and whether with the boundary map.
READINGS = {
    "refined masks, boundary map": ("refined", True),
    "initial masks, boundary map": ("initial_with_boundary", True),
    "refined masks alone": ("refined", False),
    "initial masks alone": ("initial_with_boundary", False),
}
SCORES = ("pq", "dq", "sq", "aji")


@dataclass
class RefinementOptions:
    data: list[str] = field(metadata={"help": "one or several of reader=NAME,path=FOLDER,split=FILE"})
    output_dir: str = field(metadata={"help": "folder of refinement.json and refinement.md"})
    checkpoint: str | None = field(
        default=None, metadata={"help": "bundled checkpoint, folder or Hub id (default: cfsam-tiny)"}
    )
    tiles: int = field(
        default=10,
        metadata={"help": "tuning tiles per data set for the thresholds"},
    )
    rounds: int = field(default=1, metadata={"help": "passes over all thresholds"})
    device: str | None = field(default=None, metadata={"help": "such as cuda or cpu"})


def read_maps(pipe: NucleiSegmentationPipeline, tile: Tile) -> dict[str, tuple[NucleiMaps, np.ndarray]]:
    """The maps of a tile by reading, each with the truth; both readings have the same boundary map."""
    found, by_name = {}, {}
    for name, (source, with_boundary) in READINGS.items():
        if source not in by_name:
            with reading(pipe.model, source):
                by_name[source] = tuning_case(pipe, tile)
        maps, truth = by_name[source]
        found[name] = (maps if with_boundary else replace(maps, boundary=None), truth)
    return found


def cases_by_reading(pipe: NucleiSegmentationPipeline, groups: Mapping[str, Sequence[TileRecord]]) -> dict[str, Cases]:
    """Maps and true label maps of all tiles, by reading and data set."""
    cases = {name: {dataset: [] for dataset in groups} for name in READINGS}
    for dataset, records in groups.items():
        for record in records:
            for name, case in read_maps(pipe, record.load()).items():
                cases[name][dataset].append(case)
    return cases


def score(pairs: Sequence[tuple[NucleiMaps, np.ndarray]], parameters: DecodingParameters) -> dict[str, float]:
    """Means over the tiles of one data set."""
    rows = []
    for maps, truth in pairs:
        found = decode_nuclei(maps.nuclei, maps.hv, None, maps.boundary, parameters).instance_map
        quality = panoptic_quality(truth, found)
        rows.append((quality.pq, quality.dq, quality.sq, aggregated_jaccard_index(truth, found)))
    return {name: defined_mean(values) for name, values in zip(SCORES, zip(*rows, strict=True), strict=True)}


def report(record: dict[str, Any]) -> str:
    """The table as Markdown."""
    datasets = record["datasets"]
    head = ["", *(f"{dataset} {name.upper()}" for dataset in datasets for name in SCORES)]
    rows = [
        [name, *(f"{of['scores'][dataset][key]:.3f}" for dataset in datasets for key in SCORES)]
        for name, of in record["readings"].items()
    ]
    lines = [f"# {record['system']['name']}: the effect of refinement", "", *markdown_table(head, rows), ""]
    lines.append("Means over the validation tiles; decoding thresholds chosen for each row on tuning tiles.")
    return "\n".join(lines) + "\n"


def main() -> None:
    options = HfArgumentParser(RefinementOptions).parse_args_into_dataclasses()[0]
    folder = Path(options.output_dir)
    check_writable(folder, "choose another folder with --output_dir")
    items = [DataItem.parse(text) for text in options.data]
    groups = records_by_dataset(items, "validation")
    if not groups:
        raise ValueError(f"there are no validation tiles in {', '.join(options.data)}; name them with split=FILE")
    training = tuning_tiles(options.data, options.tiles)
    pipe = load_pipeline(options.checkpoint, options.device)
    if not getattr(pipe.model.config, "use_bgmr", False):
        raise ValueError(f"{resolve_checkpoint(options.checkpoint)} has no boundary-guided refinement")
    tuning, judged = cases_by_reading(pipe, training), cases_by_reading(pipe, groups)
    readings = {}
    for name, of_training in tuning.items():
        parameters, on_tuning = search_decoding(
            of_training, pipe.image_processor.decoding_parameters(), options.rounds
        )
        scores = {dataset: score(pairs, parameters) for dataset, pairs in judged[name].items()}
        readings[name] = {"decoding": parameters.to_dict(), "pq_on_tuning_tiles": on_tuning, "scores": scores}
        print(f"{name}: {on_tuning:.4f} on tuning tiles; {scores}", flush=True)
    system = checkpoint_system(pipe, resolve_checkpoint(options.checkpoint))
    record = results_record(system, "validation", environment(str(pipe.device)), {})
    del record["results"]
    record |= {
        "format": FORMAT,
        "datasets": {dataset: [r.id for r in records] for dataset, records in groups.items()},
        "tuning_tiles": {dataset: [r.id for r in records] for dataset, records in training.items()},
        "readings": readings,
    }
    with staged_folder(folder) as stage:
        write_json(stage / "refinement.json", record)
        (stage / "refinement.md").write_text(report(record), encoding="utf-8")
    print(report(record))


if __name__ == "__main__":
    with errors_in_one_line():
        main()
