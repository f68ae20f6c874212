"""MALA as a PEFT method for a plain `SamModel`: `get_peft_model(SamModel, MalaConfig())`.

Importing this module registers the method; without it, PEFT cannot read the adapters it saved (`KeyError: 'MALA'`).
The computation and initialisation are those of `mala.py`. [`to_peft_state_dict`] and [`from_peft_state_dict`] convert
weights between PEFT's adapters and those of [`CfSamForNucleiSegmentation`].

Tested with PEFT 0.21.0, 0.21.1 and 0.21.2. Older versions (0.18, 0.19 and 0.20 were tried) save and load only PEFT's
built-in methods.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import torch
from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING, PeftConfig
from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import nn

from .model.configuration_cfsam import CfSamConfig
from .model.mala import AdapterLinear, MultiScaleAdapter, MultiScaleKernel, fuse_kernels, mala, scales_and_gates

PREFIX = "mala_"

if not hasattr(BaseTuner, "_get_adapter_state_dict"):
    raise ImportError("MALA as a PEFT method needs peft>=0.21; older versions save only their built-in methods.")


class MalaPeftType(StrEnum):
    """The name of the method in `adapter_config.json`. PEFT's own `PeftType` cannot be extended from outside."""

    MALA = "MALA"


@dataclass
class MalaConfig(PeftConfig):
    """Configuration of MALA as a PEFT method.

    Args:
        adapter_dim (`int`, defaults to 64): bottleneck width r.
        context_dim (`int`, defaults to 16): context width q.
        kernel_sizes (`list[int]`, *optional*): odd kernel sizes; default 3, 5, 7.
        dynamic (`bool`, defaults to `True`): whether kernels and gates are made for each image or fixed.
        layers (`list[int]`, *optional*): encoder layers that get an adapter, unless `target_modules` is given; default
            all.
        target_modules (`str` or `list[str]`, *optional*):
            The MLP blocks, as elsewhere in PEFT. Default: those of SAM's vision encoder, without those of its mask
            decoder, which have the same class.
        exclude_modules, modules_to_save (`str` or `list[str]`, *optional*):
            As elsewhere in PEFT. `modules_to_save` matches the ends of names.

    Raises:
        ValueError: a size is not positive, a kernel size is even, or both `layers` and `target_modules` are given.
    """

    adapter_dim: int = field(default=64)
    context_dim: int = field(default=16)
    kernel_sizes: list[int] | None = field(default=None)
    dynamic: bool = field(default=True)
    layers: list[int] | None = field(default=None)
    target_modules: list[str] | str | None = field(default=None)
    exclude_modules: list[str] | str | None = field(default=None)
    modules_to_save: list[str] | None = field(default=None)

    def __post_init__(self):
        super().__post_init__()
        self.peft_type = MalaPeftType.MALA
        self.kernel_sizes = self.sizes
        if not self.kernel_sizes or any(size < 1 or size % 2 == 0 for size in self.kernel_sizes):
            raise ValueError(f"kernel_sizes must be odd and positive, got {self.kernel_sizes}.")
        for name in ("adapter_dim", "context_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}.")
        if self.layers is not None:
            if self.target_modules not in (None, encoder_mlps(self.layers)):
                raise ValueError("Give either layers or target_modules, not both.")
            if not self.layers:
                raise ValueError("layers is empty, so there would be no adapter; leave it out for all layers.")
        if isinstance(self.target_modules, list):
            # As in PEFT's own methods: saved as a list, compared as a set.
            self.target_modules = set(self.target_modules)

    @property
    def sizes(self) -> list[int]:
        """The kernel sizes, or the default ones if none were given."""
        return [3, 5, 7] if self.kernel_sizes is None else [int(size) for size in self.kernel_sizes]

    @classmethod
    def from_cfsam(cls, config: CfSamConfig, **options: Any) -> "MalaConfig":
        """The configuration of the adapters that a [`CfSamForNucleiSegmentation`] with this configuration has."""
        return cls(
            adapter_dim=config.adapter_dim,
            context_dim=config.adapter_context_dim,
            kernel_sizes=list(config.adapter_kernel_sizes),
            dynamic=config.adapter_dynamic,
            layers=list(config.adapter_layers or ()),
            **options,
        )


def encoder_mlps(layers: list[int] | None = None) -> str:
    """A pattern for the names of the MLP blocks in SAM's vision encoder, in all of its layers or in some."""
    number = r"\d+" if layers is None else f"({'|'.join(str(int(layer)) for layer in layers)})"
    return rf"(.*\.)?vision_encoder\.layers\.{number}\.mlp"


class MalaLayer(nn.Module, BaseTunerLayer):
    """A SAM MLP block with MALA beside it: `MLP(x)` plus the output of every active adapter.

    PEFT looks for the name of an adapter in the last or second-to-last part of a parameter's name. Each leaf of a
    [`MultiScaleAdapter`] therefore has its own dict, keyed by adapter name: `kernel.gate` of the adapter "a" is
    `mala_kernel_gate["a"]`.

    Args:
        base_layer (`nn.Module`): the MLP block (`SamMLPBlock`).
        adapter_name (`str`): name of the first adapter.
        config (`MalaConfig`): its configuration.

    Raises:
        ValueError: `base_layer` is not an MLP block of SAM.
    """

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: MalaConfig):
        super().__init__()
        if not isinstance(getattr(self._plain(base_layer), "lin1", None), nn.Module):
            name = type(base_layer).__name__
            raise ValueError(f"MALA runs beside an MLP block of SAM (SamMLPBlock), not beside a {name}.")
        self.base_layer = base_layer
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self._kernel_sizes: dict[str, list[int]] = {}
        self.adapter_layer_names: tuple[str, ...] = ()
        self.update_layer(adapter_name, config)

    @staticmethod
    def _plain(base_layer: Any) -> Any:
        while hasattr(base_layer, "base_layer"):
            base_layer = base_layer.base_layer
        return base_layer

    def update_layer(self, adapter_name: str, config: MalaConfig) -> None:
        """Adds an adapter that starts as zero."""
        first = self._plain(self.get_base_layer().lin1)
        adapter = MultiScaleAdapter(
            first.in_features, config.adapter_dim, config.context_dim, config.sizes, config.dynamic
        )
        for module in adapter.modules():
            if isinstance(module, AdapterLinear | MultiScaleKernel | MultiScaleAdapter):
                module.reset()
        self._kernel_sizes[adapter_name] = config.sizes
        for path, leaf in leaves(adapter):
            name = PREFIX + path.replace(".", "_")
            if name not in self.adapter_layer_names:
                setattr(self, name, nn.ModuleDict() if isinstance(leaf, nn.Module) else nn.ParameterDict())
                self.adapter_layer_names = (*self.adapter_layer_names, name)
            getattr(self, name)[adapter_name] = leaf
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters)

    def delete_adapter(self, adapter_name: str) -> None:
        super().delete_adapter(adapter_name)
        self._kernel_sizes.pop(adapter_name, None)

    def _get_base_layer_device_and_dtype(self, base_layer: nn.Module) -> tuple[torch.device, torch.dtype]:
        # PEFT looks for a weight of the block itself, which SAM's MLP block does not have.
        weight = next(base_layer.parameters())
        return weight.device, weight.dtype

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        raise NotImplementedError(CANNOT_MERGE)

    def unmerge(self) -> None:
        """Does nothing, since MALA is never merged."""

    def correction(self, adapter_name: str, hidden_states: torch.Tensor) -> torch.Tensor:
        """What one adapter adds to a token map (B, h, w, C), in the adapter's dtype."""

        def leaf(path: str) -> Any:
            held = getattr(self, PREFIX + path, {})
            # A ModuleDict has no `get`.
            return held[adapter_name] if adapter_name in held else None  # noqa: SIM401

        def kernel(context: torch.Tensor) -> torch.Tensor:
            return fuse_kernels(*scales_and_gates(context, base_kernels, gate, generators))

        sizes = self._kernel_sizes[adapter_name]
        base_kernels = [leaf(f"kernel_base_{size}") for size in sizes]
        generators = [leaf(f"kernel_generators_{i}") for i in range(len(sizes))]
        gate = leaf("kernel_gate")
        if gate is None:
            gate, generators = leaf("kernel_gate_logits"), []
        down = leaf("down")
        hidden_states = self._cast_input_dtype(hidden_states, down.weight.dtype)
        return mala(hidden_states, leaf("scale"), down, leaf("context"), kernel, leaf("up"))

    def forward(self, hidden_states: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        """Maps a token map (B, h, w, C) to a token map of the same shape."""
        result = self.base_layer(hidden_states, *args, **kwargs)
        if self.disable_adapters:
            return result
        for name in self.active_adapters:
            if name in self._kernel_sizes:
                result = result + self.correction(name, hidden_states).to(result.dtype)
        return result

    def __repr__(self) -> str:
        return "mala." + super().__repr__()


class MalaModel(BaseTuner):
    """Puts [`MalaLayer`]s into a model. `get_peft_model` creates it; see `MalaConfig` for the options."""

    prefix = PREFIX
    tuner_layer_cls = MalaLayer
    # A pattern, where PEFT's own methods have lists of names.
    target_module_mapping: Any = dict.fromkeys(("sam", "sam_vision_model", "cfsam"), encoder_mlps())

    def _prepare_adapter_config(self, peft_config: MalaConfig, model_config: dict) -> MalaConfig:
        if peft_config.target_modules is None and peft_config.layers is not None:
            peft_config.target_modules = encoder_mlps(peft_config.layers)
        return super()._prepare_adapter_config(peft_config, model_config)

    def _create_and_replace(  # type: ignore[override]
        self,
        peft_config: MalaConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        **kwargs,
    ) -> None:
        if isinstance(target, MalaLayer):
            target.update_layer(adapter_name, peft_config)
        else:
            self._replace_module(parent, target_name, MalaLayer(target, adapter_name, peft_config), target)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        # PEFT's version looks for `weight`, which a block of two layers lacks. `update_layer` has set the device.
        setattr(parent, child_name, new_module)

    @contextmanager
    def _enable_peft_forward_hooks(self, *args, **kwargs) -> Iterator[None]:
        # PEFT removes the argument from the call before the model sees it, so without this it would be ignored.
        if kwargs.get("adapter_names") is not None:
            raise ValueError(
                f"adapter_names={kwargs['adapter_names']}: MALA runs the active adapter for a whole batch and cannot "
                "choose one for each sample; call set_adapter(name) and run the samples of each adapter together."
            )
        yield

    def _check_merge_allowed(self) -> None:
        raise NotImplementedError(CANNOT_MERGE)


CANNOT_MERGE = (
    "MALA cannot be merged into the model's weights: its kernels are made for each image and it is not linear. Keep "
    "the adapter beside the model, or remove it with unload()."
)


def leaves(adapter: MultiScaleAdapter) -> Iterator[tuple[str, nn.Module | nn.Parameter]]:
    """The linear layers of an adapter, and its other parameters, by their path in the adapter."""
    linear = {path: module for path, module in adapter.named_modules() if isinstance(module, AdapterLinear)}
    yield from linear.items()
    for path, parameter in adapter.named_parameters():
        if path.rpartition(".")[0] not in linear:
            yield path, parameter


def to_peft_state_dict(state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """MALA weights of a [`CfSamForNucleiSegmentation`] under the names of a PEFT adapter for a `SamModel`.

    Args:
        state_dict: of the model; everything except MALA is left out.

    Returns:
        What `peft.set_peft_model_state_dict` takes and `adapter_model.safetensors` holds.

    Example:

        >>> peft_model = get_peft_model(sam, MalaConfig.from_cfsam(model.config))
        >>> set_peft_model_state_dict(peft_model, to_peft_state_dict(model.state_dict()))
    """

    def renamed(match: re.Match) -> str:
        path, _, last = match["path"].rpartition(".")
        leaf, end = (match["path"], "") if last not in ("weight", "bias") else (path, f".{last}")
        return f"base_model.model.{match['layer']}.mlp.{PREFIX}{leaf.replace('.', '_')}{end}"

    return _renamed(state_dict, r"(sam\.)?(?P<layer>vision_encoder\.layers\.\d+)\.adapter\.(?P<path>.+)", renamed)


def from_peft_state_dict(state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights of a PEFT adapter of MALA on a `SamModel` or `SamVisionModel` under their names in CF-SAM.

    Args:
        state_dict: as `peft.get_peft_model_state_dict` returns it and `adapter_model.safetensors` holds it; everything
            except MALA (`modules_to_save`) is left out.

    Returns:
        What `model.load_state_dict(..., strict=False)` takes.
    """

    def renamed(match: re.Match) -> str:
        path = re.sub(r"^kernel_(generators_)?", lambda m: m[0].replace("_", "."), match["path"])
        return f"sam.{match['layer']}.adapter.{path}"

    pattern = rf"(base_model\.model\.)?(sam\.)?(?P<layer>vision_encoder\.layers\.\d+)\.mlp\.{PREFIX}(?P<path>.+)"
    return _renamed(state_dict, pattern, renamed)


def _renamed(state_dict: Mapping[str, torch.Tensor], pattern: str, rename) -> dict[str, torch.Tensor]:
    matches = {name: re.fullmatch(pattern, name) for name in state_dict}
    return {rename(match): state_dict[name] for name, match in matches.items() if match}


def _register() -> None:
    """Does what `peft.utils.register_peft_method` does for PEFT's built-in methods, and refuses to do for others."""
    # PEFT's dictionaries are typed for its built-in methods.
    registers: tuple[tuple[Any, Any], ...] = (
        (PEFT_TYPE_TO_CONFIG_MAPPING, MalaConfig),
        (PEFT_TYPE_TO_TUNER_MAPPING, MalaModel),
        (PEFT_TYPE_TO_PREFIX_MAPPING, PREFIX),
    )
    for register, entry in registers:
        register[MalaPeftType.MALA] = entry


_register()
