"""Speed of this package compared with a reference in the same run, as ratios.

    python examples/benchmarks/benchmark.py backends   # the network in ONNX Runtime and OpenVINO, versus torch
    python examples/benchmarks/benchmark.py decode     # maps to nuclei, versus the usual HoVer-Net recipe
    python examples/benchmarks/benchmark.py metrics    # all metrics of a tile, versus the usual loop over nuclei
    python examples/benchmarks/benchmark.py model      # the network: heads, threads, precision, compile, batches
    python examples/benchmarks/benchmark.py overlap    # overlaps of the windows: time, PQ, nuclei near seams
    python examples/benchmarks/benchmark.py regions    # a slide region by region, versus in one piece
    python examples/benchmarks/benchmark.py seams      # the same image under shifted tiles
    python examples/benchmarks/benchmark.py sparse     # a large slide with little tissue: memory and time
    python examples/benchmarks/benchmark.py train      # a training step with each option: time and peak memory

Each has its own options: `python examples/benchmarks/benchmark.py decode --help`.
"""

import argparse
import importlib
import sys

COMMANDS = ("backends", "decode", "metrics", "model", "overlap", "regions", "seams", "sparse", "train")


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        sys.exit(__doc__.strip())
    # Imported late: the decoding benchmark must set the number of threads before its libraries load.
    benchmark = importlib.import_module(sys.argv[1])
    parser = argparse.ArgumentParser(prog=f"benchmark.py {sys.argv[1]}", description=benchmark.__doc__)
    benchmark.add_arguments(parser)
    args = parser.parse_args(sys.argv[2:])
    from cfsam_hf.commands.messages import errors_in_one_line

    with errors_in_one_line():
        benchmark.run(args)


if __name__ == "__main__":
    main()
