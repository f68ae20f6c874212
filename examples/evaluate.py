"""Evaluate a checkpoint, a baseline or label maps, on one CPU, one GPU or several.

    accelerate launch examples/evaluate.py --checkpoint runs/sam-b/model -o results/sam-b \
        --data reader=consep,path=CoNSeP,split=examples/splits/consep.json

This is the command `cfsam evaluate`, with all of its options, as a script that `accelerate launch` can start: each
process takes its share of the tiles, and the first one writes the results, which are those of a single process.
"""

import sys

from cfsam_hf.commands.terminal import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
