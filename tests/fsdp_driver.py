"""Trains with sharded parameters in two CPU processes, as `torchrun --nproc_per_node 2 -m tests.fsdp_driver ROOT`.

Accelerate offers FSDP on accelerators only, so its state gets the values that a launch with `fsdp.yaml` on GPUs sets;
the sharding, on the CPU through Gloo, is torch's own.
"""

import sys
from pathlib import Path

import yaml
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from accelerate.utils import DistributedType

from cfsam_hf.training import launching

from . import REPOSITORY
from .training_cases import smoke_recipe, start_run

SETTINGS = REPOSITORY / "examples" / "accelerate" / "fsdp.yaml"


class ShardingAccelerator(Accelerator):
    """An accelerator with the settings of `fsdp.yaml`."""

    def __init__(self, **options):
        super().__init__(**options)
        settings = yaml.safe_load(SETTINGS.read_text())["fsdp_config"]
        self.state.distributed_type = DistributedType.FSDP
        self.state.fsdp_plugin = FullyShardedDataParallelPlugin(
            fsdp_version=settings["fsdp_version"],
            auto_wrap_policy=settings["fsdp_auto_wrap_policy"].lower(),
            transformer_cls_names_to_wrap=[settings["fsdp_transformer_layer_cls_to_wrap"]],
            reshard_after_forward=settings["fsdp_reshard_after_forward"],
            cpu_ram_efficient_loading=settings["fsdp_cpu_ram_efficient_loading"],
        )


def main() -> None:
    root = Path(sys.argv[1])
    launching.Accelerator = ShardingAccelerator
    training = start_run(
        smoke_recipe(root, output_dir=str(root / "sharded"), mixed_precision="no", batch_size=1, evaluate_every=2)
    )
    if not training.is_sharded:
        raise RuntimeError("the parameters are not sharded")
    training.train()
    training.finish()


if __name__ == "__main__":
    main()
