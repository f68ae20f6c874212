"""Draw what the augmentation does to a data set's crops, with the outlines of the labels, before training on them.

    python examples/studies/show_augmentation.py --output sheet.png \
        --data reader=consep,path=CoNSeP --augmentation strong

One row for each change alone at full probability, and a last row as training sees the crops. Outlines must lie on the
nuclei in every row, and a nucleus must still be one to the eye.
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
    """What to draw."""

    output: str = field(metadata={"help": "picture to write"})
    data: str = field(metadata={"help": "reader=NAME,path=FOLDER[,split=FILE], as for training"})
    augmentation: str = field(default="standard", metadata={"help": "none, light, standard or strong"})
    augmentation_options: str = field(default="{}", metadata={"help": "JSON of single values to change"})
    tiles: int = field(default=4, metadata={"help": "tiles to draw from, the first of the folder"})
    crop_size: int = field(default=256, metadata={"help": "pixels"})
    columns: int = field(default=6, metadata={"help": "crops in a row"})
    mpp: float = field(default=0.25, metadata={"help": "micrometres per pixel of the crops"})
    seed: int = field(default=0, metadata={"help": "other places, other changes"})


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
