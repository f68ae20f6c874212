"""Choose a checkpoint's decoding parameters on training tiles, and write them into its processor.

    python examples/tune_decoding.py --checkpoint runs/tiny/model --tiles 12 \
        --data reader=consep,path=CoNSeP,split=examples/splits/consep.json

The network runs once per tile; then the parameters are searched one after the other, twice around, for the highest PQ
(mean over the tiles of a data set, then over the data sets). Validation tiles are not looked at.
"""

import dataclasses
import itertools
from dataclasses import dataclass, field

import numpy as np
from transformers import HfArgumentParser, pipeline

from cfsam_hf import DecodingParameters, decode_nuclei

# Imported to make the checkpoints of the U-Net known.
from cfsam_hf.baselines import unet  # noqa: F401
from cfsam_hf.data import Tile
from cfsam_hf.evaluation.tuning import training_tiles, write_processor_options
from cfsam_hf.maps_cfsam import NucleiMaps
from cfsam_hf.metrics import panoptic_quality
from cfsam_hf.pipeline_cfsam import NucleiSegmentationPipeline

# The candidates of each parameter, in the order in which they are searched.
GRID = {
    "nuclei_threshold": (0.35, 0.4, 0.45, 0.5, 0.55, 0.6),
    "marker_threshold": (0.2, 0.3, 0.4, 0.5, 0.6),
    "core_threshold": (0.65, 0.7, 0.75, 0.8, 0.85, 0.9),
    "boundary_weight": (0.5, 0.75, 1.0, 1.25, 1.5),
    "jump_weight": (0.0, 0.5, 1.0, 2.0, 3.0),
    "minimum_marker_area": (3, 5, 10, 20),
    "minimum_core_area": (20, 40, 60, 80),
    "minimum_area": (10, 20, 30, 45, 60),
}


@dataclass
class TuningOptions:
    checkpoint: str = field(metadata={"help": "folder of the checkpoint; its processor is written again"})
    data: list[str] = field(metadata={"help": "reader=NAME,path=FOLDER,split=FILE, once per folder"})
    tiles: int = field(default=12, metadata={"help": "training tiles per data set, evenly spread over the list"})
    rounds: int = field(default=2, metadata={"help": "times around all parameters"})


def tile_maps(pipe: NucleiSegmentationPipeline, tile: Tile) -> NucleiMaps:
    """The blended maps of a tile, as `pipe` decodes them."""
    return pipe.blended_maps(tile.image, mpp=tile.mpp)


def quality(cases: dict[str, list[tuple[NucleiMaps, np.ndarray]]], parameters: DecodingParameters) -> float:
    """Mean PQ over the tiles of each data set, then over the data sets."""
    by_dataset = []
    for pairs in cases.values():
        scores = []
        for maps, truth in pairs:
            decoded = decode_nuclei(maps.nuclei, maps.hv, None, maps.boundary, parameters)
            scores.append(panoptic_quality(truth, decoded.instance_map).pq)
        by_dataset.append(np.nanmean(scores))
    return float(np.mean(by_dataset))


def main() -> None:
    options = HfArgumentParser(TuningOptions).parse_args_into_dataclasses()[0]
    pipe = pipeline("nuclei-segmentation", model=options.checkpoint)
    cases = {}
    for name, records in training_tiles(options.data, options.tiles).items():
        tiles = [record.load() for record in records]
        cases[name] = [(tile_maps(pipe, tile), tile.instance_map) for tile in tiles]
        print(f"{name}: {', '.join(tile.id for tile in tiles)}", flush=True)

    parameters = DecodingParameters()
    best = quality(cases, parameters)
    print(f"{best:.4f} with the defaults", flush=True)
    for _, (name, candidates) in itertools.product(range(options.rounds), GRID.items()):
        for value in candidates:
            tried = dataclasses.replace(parameters, **{name: value})
            if tried != parameters and (score := quality(cases, tried)) > best:
                best, parameters = score, tried
                print(f"{best:.4f} with {name} {value}", flush=True)
    write_processor_options(options.checkpoint, pipe.image_processor, decoding=parameters.to_dict())
    print(parameters)


if __name__ == "__main__":
    main()
