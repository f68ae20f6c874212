"""Draw augmented crops of a data set with the outlines of their labels, to check them before training.

    python examples/studies/show_augmentation.py --output sheet.png \
        --data reader=consep,path=CoNSeP --augmentation strong

The sheet has a row for each change alone, applied to every crop, and a last row as in training. In every row the
outlines must lie on the nuclei, and a nucleus must still look like one.
"""

import json
from dataclasses import dataclass, field

from PIL import Image
from transformers import HfArgumentParser

from cfsam_hf.commands.messages import errors_in_one_line
from cfsam_hf.data import AugmentationOptions
from cfsam_hf.data.data_items import DataItem
from cfsam_hf.drawing.contact_sheet import augmentation_sheet


@dataclass
class Arguments:
    """The options of the command line."""

    output: str = field(metadata={"help": "picture to write"})
    data: str = field(metadata={"help": "reader=NAME,path=FOLDER[,split=FILE], as in training"})
    augmentation: str = field(default="standard", metadata={"help": "none, light, standard or strong"})
    augmentation_options: str = field(default="{}", metadata={"help": "values to change, as JSON"})
    tiles: int = field(default=4, metadata={"help": "tiles to cut crops from, the first of the folder"})
    crop_size: int = field(default=256, metadata={"help": "side of the crops in pixels"})
    columns: int = field(default=6, metadata={"help": "crops per row"})
    mpp: float = field(default=0.25, metadata={"help": "micrometres per pixel of the crops"})
    seed: int = field(default=0, metadata={"help": "seed of places and changes"})


def main() -> None:
    arguments = HfArgumentParser(Arguments).parse_args_into_dataclasses()[0]
    options = AugmentationOptions.preset(arguments.augmentation, **json.loads(arguments.augmentation_options))
    tiles = [record.load() for record in DataItem.parse(arguments.data).records("train")[: arguments.tiles]]
    sheet = augmentation_sheet(
        tiles, options, arguments.crop_size, arguments.columns, arguments.seed, mpp=arguments.mpp
    )
    Image.fromarray(sheet).save(arguments.output)


if __name__ == "__main__":
    with errors_in_one_line():
        main()
