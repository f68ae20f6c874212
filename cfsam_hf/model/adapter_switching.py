"""Several named adapters in one model: saved alone, loaded side by side, and switched without changing the base."""

import copy
import json
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.utils import logging

from .adapter_files import (
    ADAPTER_FILE,
    HUB_OPTIONS,
    AdapterFile,
    BaseIdentity,
    content_hashes,
    is_adapter,
    read_adapter,
    same_content,
    write_adapter,
)
from .checkpoint import READABLE_TYPES, check_values
from .configuration_cfsam import CfSamConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel as _Model
else:
    _Model = object

# The adapter that a model was created or loaded with. PEFT names its own first adapter "default".
INITIAL_ADAPTER = "initial"

# Parts of SAM's mask decoder, which are trained too unless the configuration disables it.
_DECODER_PARTS = tuple(
    f"sam.mask_decoder.{name}" for name in ("transformer", "upscale_conv1", "upscale_conv2", "upscale_layer_norm")
)
_HEADS = (
    "fusion",
    "neck_projection",
    "mask_features",
    "task_decoder",
    "refinement",
    "type_branch",
    "trunk",
    "trunk_tokens",
    "style",
)

# The fields of the configuration that belong to an adapter; the others belong to the base or to the format.
_FIELDS = [name for name in CfSamConfig.__annotations__ if name not in ("model_type", "train_encoder")]
_SETTINGS = [name for name in _FIELDS if name != "format_version"] + ["id2label", "label2id"]


@dataclass
class _HeldAdapter:
    """An adapter of a model; `parts` and `settings` hold its modules and settings while it is inactive."""

    base: BaseIdentity
    folder: str | None
    settings: dict[str, Any]
    parts: dict[str, nn.Module | None]


def names_without_peft(model: nn.Module, names: Iterable[str]) -> dict[str, str]:
    """A model's own parameters, by the names that they have inside PEFT's layers.

    Args:
        model (`nn.Module`): a model that may contain PEFT's layers (LoRA, ...).
        names: the names of parameters or buffers of `model`.

    Returns:
        The name without PEFT by the name in `model`. Parameters that PEFT added are left out.
    """
    wrappers = {}
    for path, module in model.named_modules():
        for inner in ("base_layer", "original_module"):
            if isinstance(getattr(module, inner, None), nn.Module):
                wrappers[path] = inner
    if not wrappers:
        return {name: name for name in names}
    own = {}
    for name in names:
        steps, is_own = name.split("."), True
        plain: list[str] = []
        for i, step in enumerate(steps):
            wrapped = wrappers.get(".".join(steps[:i]))
            if wrapped is None:
                plain.append(step)
            elif step != wrapped:
                is_own = False
        if is_own:
            own[name] = ".".join(plain)
    return own


class AdapterSwitchingMixin(_Model):
    """The adapters of a [`CfSamForNucleiSegmentation`].

    An adapter consists of everything that is trained: MALA, fusion, stem, task tokens and their hyper-networks,
    refinement, type branch, SAM's mask decoder if it is trained, and the types, colours, mpp and `checkpoint_info` of
    the configuration. One adapter is active. The others are kept beside the model, follow it to other devices and
    types, and are not part of its `state_dict`. Switching exchanges modules and copies nothing, so outputs are bit for
    bit those of a model that was loaded with the adapter alone.

    transformers gives every model PEFT's methods `load_adapter`, `set_adapter` and `delete_adapter`. These methods
    handle CF-SAM adapters here and pass all other files and names on to PEFT, so LoRA and similar methods work beside
    an adapter (`add_adapter(LoraConfig(...))`). If both have an adapter of the same name, the name means the CF-SAM
    adapter. PEFT's `active_adapters()`, `enable_adapters()` and `disable_adapters()` concern PEFT's adapters only.
    """

    _adapters: dict[str, _HeldAdapter]
    _active_adapter: str = INITIAL_ADAPTER

    @property
    def active_adapter(self) -> str:
        """Name of the active CF-SAM adapter; `"initial"` is the one that the model was created or loaded with."""
        return self._active_adapter

    @property
    def adapter_names(self) -> list[str]:
        """Names of the CF-SAM adapters, in the order in which they were added."""
        return list(self._held())

    @property
    def adapter_folder(self) -> str | None:
        """Folder that the active adapter was read from; `None` for the initial one."""
        return self._held()[self._active_adapter].folder

    def _held(self) -> dict[str, _HeldAdapter]:
        if "_adapters" not in self.__dict__:
            self._adapters = {INITIAL_ADAPTER: _HeldAdapter(BaseIdentity.of(self), None, {}, {})}
        return self._adapters

    def save_adapter(
        self,
        folder: str | os.PathLike,
        name: str | None = None,
        processor: Any = None,
        dtype: torch.dtype | None = None,
        base_name: str | None = None,
        base_revision: str | None = None,
    ) -> None:
        """Writes the active adapter: weights (`cfsam_adapter.safetensors`), base and settings (`cfsam_adapter.json`).

        Args:
            folder (`str` or `os.PathLike`): created if needed; an existing adapter is replaced.
            name (`str`, *optional*): default: the adapter's own name; for the initial one, the folder's.
            processor (*optional*):
                `CfSamImageProcessor` or `CfSamProcessor` to save beside it. It holds the decoding parameters; without
                it the pipeline uses the defaults.
            dtype (`torch.dtype`, *optional*): type of the stored weights, e.g. `torch.bfloat16`; default: the model's.
            base_name, base_revision (`str`, *optional*):
                Name and revision of the base in the file. Default: the base that this adapter was loaded with or
                trained from (the `base_model` in `checkpoint_info`, else `name_or_path`).

        Raises:
            ValueError: the encoder is trained, so there is no base; the trained parts contain PEFT's layers; the
                name is `"initial"`.
            OSError: the folder cannot be written to, or the disk is full.
        """
        if self.config.train_encoder:
            raise ValueError("With train_encoder=True there is no frozen base; use save_pretrained.")
        self._refuse_peft_in_parts()
        if added := sorted(getattr(self, "peft_config", None) or {}):
            warnings.warn(
                f"The PEFT adapters {added} are not part of a CF-SAM adapter; save_pretrained writes them.",
                stacklevel=2,
            )
        base = self._held()[self._active_adapter].base
        if base_name is not None or base_revision is not None:
            base = replace(base, name=base_name or base.name, revision=base_revision)
        base = replace(base, hashes=content_hashes(self._frozen_state(self.config)))
        if name is None:
            name = Path(folder).resolve().name if self._active_adapter == INITIAL_ADAPTER else self._active_adapter
        if name == INITIAL_ADAPTER:
            raise ValueError(f"{INITIAL_ADAPTER!r} is the name of a model's own first adapter; pass another name.")
        state = self.state_dict()
        trained = {key: state[key] for key in names_without_peft(self, state) if self.is_trainable(key)}
        settings = json.loads(self.config.to_json_string(use_diff=False))
        write_adapter(
            folder,
            name=name,
            base=base,
            config={key: settings[key] for key in _SETTINGS if key in settings},
            tensors={key: value.to(dtype or value.dtype) for key, value in trained.items()},
            processor=processor,
        )

    def load_adapter(
        self,
        peft_model_id: str | os.PathLike | None = None,
        adapter_name: str | None = None,
        peft_config: Any = None,
        adapter_state_dict: dict[str, torch.Tensor] | None = None,
        **kwargs,
    ) -> Any:
        """Adds an adapter and activates it, as transformers does with PEFT's.

        Overrides `PeftAdapterMixin.load_adapter`, and passes everything that is not a CF-SAM adapter on to it.

        Args:
            peft_model_id (`str` or `os.PathLike`): folder or Hub id of an adapter of CF-SAM or PEFT.
            adapter_name (`str`, *optional*): default: the name in the file (PEFT: `"default"`).
            peft_config, adapter_state_dict: for PEFT's adapters only.
            kwargs: the Hub's options (`revision`, `token`, `cache_dir`, ...); for PEFT's adapters, as in transformers.

        Returns:
            The adapter's name; for an adapter of PEFT, what transformers returns.

        Raises:
            OSError: there is no adapter, or it is damaged.
            ValueError: the adapter belongs to another base, its name is taken, or its weights and settings do not fit
                each other.
            TypeError: an option is only for PEFT's adapters.
        """
        peft_only = peft_config is not None or adapter_state_dict is not None
        hub_options = {key: value for key, value in kwargs.items() if key in HUB_OPTIONS}
        if peft_only or peft_model_id is None or not is_adapter(peft_model_id, **hub_options):
            return super().load_adapter(peft_model_id, adapter_name, peft_config, adapter_state_dict, **kwargs)
        if foreign := sorted(set(kwargs) - set(hub_options)):
            raise TypeError(f"{foreign} are options for PEFT's adapters, but {peft_model_id} holds one of CF-SAM.")
        file = _read_checked(peft_model_id, hub_options)
        name = file.name if adapter_name is None else adapter_name
        if name in self._held():
            raise ValueError(
                f"The model already has an adapter {name!r}; pass another adapter_name, or delete_adapter({name!r})."
            )
        self._refuse_peft_in_parts()
        settings, config = self._settings_of(file)
        parts = self._parts_of(file, config, self._decoder_of(file, config))
        self._adapters[name] = _HeldAdapter(replace(file.base, hashes=None), file.folder, settings, parts)
        self.set_adapter(name)
        return name

    def set_adapter(self, adapter_name: str | list[str]) -> None:
        """Activates an adapter, with its types and settings.

        Overrides `PeftAdapterMixin.set_adapter`, and passes names of other adapters on to it. Afterwards,
        `requires_grad` is as the configuration says (see `freeze`); an optimiser keeps the parameters that it was
        created for.

        Raises:
            ValueError: there is no such adapter; the trained parts contain PEFT's layers.
        """
        held = self._held()
        if not isinstance(adapter_name, str) or adapter_name not in held:
            if getattr(self, "_hf_peft_config_loaded", False):
                super().set_adapter(adapter_name)
                return
            raise ValueError(f"There is no adapter {adapter_name!r}; the model has {self.adapter_names}.")
        if adapter_name == self._active_adapter:
            return
        self._refuse_peft_in_parts()
        leaving = held[self._active_adapter]
        leaving.parts = {path: _get_part(self, path) for path in self._part_paths()}
        leaving.settings = {field: getattr(self.config, field) for field in _SETTINGS}
        coming = held[adapter_name]
        for path, part in coming.parts.items():
            parent, _, leaf = path.rpartition(".")
            setattr(self.get_submodule(parent), leaf, part if part is None else part.train(self.training))
        # In place: SAM's parts, pipelines and others share this object.
        for field, value in coming.settings.items():
            setattr(self.config, field, value)
        coming.parts, coming.settings = {}, {}
        self._active_adapter = adapter_name
        self.read_settings()
        self.freeze()

    def delete_adapter(self, adapter_names: str | list[str]) -> None:
        """Deletes adapters that are not active.

        Overrides `PeftAdapterMixin.delete_adapter`, and passes names of other adapters on to it.

        Raises:
            ValueError: there is no such adapter, or it is the active one.
        """
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        held = self._held()
        others = [name for name in names if name not in held]
        if others and not getattr(self, "_hf_peft_config_loaded", False):
            raise ValueError(f"There is no adapter {others[0]!r}; the model has {self.adapter_names}.")
        if self._active_adapter in names:
            raise ValueError(f"{self._active_adapter!r} is the active adapter; set_adapter to another one first.")
        if others:
            super().delete_adapter(others)
        for name in set(names) - set(others):
            del held[name]

    @contextmanager
    def disable_adapter(self) -> Iterator[None]:
        """Within this context no MALA runs, and the encoder is exactly SAM's.

        Use it for the encoder's embedding, to compare it or for SAM's other purposes. The mask decoder, fusion and
        heads are still those of the active adapter, so the maps made in this context mean little.
        """
        layers = list(self.sam.vision_encoder.layers)
        before = [layer.adapter_enabled for layer in layers]
        try:
            for layer in layers:
                layer.adapter_enabled = False
            yield
        finally:
            for layer, enabled in zip(layers, before, strict=True):
                layer.adapter_enabled = enabled

    @classmethod
    def from_adapter(
        cls,
        folder: str | os.PathLike,
        base: str | os.PathLike | None = None,
        adapter_name: str | None = None,
        adapter_revision: str | None = None,
        adapter_subfolder: str | None = None,
        **kwargs,
    ):
        """Loads the base of an adapter, then the adapter, which is then the model's only one.

        Args:
            folder (`str` or `os.PathLike`): folder or Hub id of the adapter.
            base (`str` or `os.PathLike`, *optional*):
                Folder or Hub id of the base. Default: the base that the file names, at its revision.
            adapter_name (`str`, *optional*): default: the name in the file.
            adapter_revision (`str`, *optional*): revision of the adapter on the Hub; `revision` is that of the base.
            adapter_subfolder (`str`, *optional*): subfolder of the adapter; default: `subfolder`, that of the base.
            kwargs: options of `from_pretrained` for the base (`dtype`, `device_map`, ...). Those of the Hub (`token`,
                `cache_dir`, `local_files_only`, `force_download`, `proxies`) apply to the adapter, too.

        Raises:
            OSError: the base or the adapter is missing, cannot be reached, or is damaged.
            ValueError: the adapter belongs to another base.
        """
        hub_options = {key: kwargs[key] for key in HUB_OPTIONS if kwargs.get(key) is not None}
        own = {"revision": adapter_revision, "subfolder": adapter_subfolder}
        own["subfolder"] = hub_options.get("subfolder") if adapter_subfolder is None else adapter_subfolder
        shared = {key: value for key, value in hub_options.items() if key not in own}
        file = _read_checked(folder, shared | {key: value for key, value in own.items() if value is not None})
        if base is None:
            base = file.base.source
            kwargs.setdefault("revision", file.base.revision or "main")
        try:
            known_base = CfSamConfig.get_config_dict(base, **{**hub_options, "revision": kwargs.get("revision")})[0]
        except OSError as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise OSError(
                f"{folder} is an adapter of {file.base}, which cannot be loaded ({reason}); pass base=..."
            ) from error
        options = {}
        if known_base.get("model_type") != "cfsam":
            options = {field: value for field, value in file.config.items() if field in _SETTINGS[:-1]}
            if known_base.get("model_type") in READABLE_TYPES:
                # Before memory is allocated for heads of these sizes.
                cls._with_tensors(file, CfSamConfig.from_dict(known_base, **options), file.tensors)
        verbosity = logging.get_verbosity()
        # transformers warns that the heads of a plain SAM are new; the adapter replaces all of them.
        logging.set_verbosity_error()
        try:
            model = cls.from_pretrained(base, **options, **kwargs)
        finally:
            logging.set_verbosity(verbosity)
        model.load_adapter(file.folder, adapter_name=adapter_name)
        model.delete_adapter(INITIAL_ADAPTER)
        return model

    def _part_paths(self) -> list[str]:
        """The paths of an adapter's modules in the model."""
        layers = range(len(self.sam.vision_encoder.layers))
        return [*_HEADS, *_DECODER_PARTS, *(f"sam.vision_encoder.layers.{i}.adapter" for i in layers)]

    def _refuse_peft_in_parts(self) -> None:
        """Raises ValueError if PEFT wraps a module of an adapter, since switching would move PEFT's layers with it."""
        for path in self._part_paths():
            part = _get_part(self, path)
            inside = [] if part is None else part.modules()
            if any(hasattr(module, "base_layer") or hasattr(module, "original_module") for module in inside):
                raise ValueError(
                    f"{path}, a part of the adapter {self._active_adapter!r}, contains layers of PEFT: unload them, "
                    "or save everything with PEFT."
                )

    def _frozen_state(
        self, config: CfSamConfig, decoder: Mapping[str, nn.Module | None] | None = None
    ) -> dict[str, torch.Tensor]:
        """The weights, under SAM's own names, that an adapter of this configuration does not train."""
        state = self.sam.state_dict()
        plain = {name: state[key] for key, name in names_without_peft(self.sam, state).items()}
        for path, part in (decoder or {}).items():
            place = path.removeprefix("sam.")
            if part is not None:
                plain.update({f"{place}.{key}": value for key, value in part.state_dict().items()})
        return {name: value for name, value in plain.items() if not self.is_trainable(f"sam.{name}", config)}

    def _settings_of(self, file: AdapterFile) -> tuple[dict[str, Any], CfSamConfig]:
        """The settings of an adapter, and this model's configuration with these settings."""
        known = {name: value for name, value in file.config.items() if name in _SETTINGS}
        # The constructor checks and completes them.
        checked = CfSamConfig.from_dict({**self.config.to_dict(), "type_loss_weights": None, **known})
        config = copy.deepcopy(self.config)
        settings = {field: getattr(checked, field) for field in _SETTINGS}
        for field, value in {**settings, "train_encoder": False}.items():
            setattr(config, field, value)
        return settings, config

    def _decoder_of(self, file: AdapterFile, config: CfSamConfig) -> dict[str, nn.Module | None]:
        """Checks that this is the adapter's base; returns the base's mask decoder if the adapter has none."""
        candidates = [{path: _get_part(self, path) for path in _DECODER_PARTS}]
        if not config.train_mask_decoder:
            # The active adapter may have a decoder of its own, and an inactive one the base's.
            candidates += [
                {path: held.parts[path] for path in _DECODER_PARTS} for held in self._adapters.values() if held.parts
            ]
        for decoder in candidates:
            if same_content(self._frozen_state(config, decoder), file.base.hashes or {}):
                return {} if config.train_mask_decoder else copy.deepcopy(decoder)
        here = self._held()[self._active_adapter].base
        here = replace(here, hashes=content_hashes(self._frozen_state(config)))
        untrained = "" if config.train_mask_decoder else " Its mask decoder is the untrained one of the base."
        raise ValueError(
            f"{file.folder} is an adapter of {file.base}, but this model's base is {here}: load the adapter into a "
            f"model of its own base (from_adapter does so), or train an adapter on this base.{untrained}"
        )

    def _parts_of(
        self, file: AdapterFile, config: CfSamConfig, decoder: dict[str, nn.Module | None]
    ) -> dict[str, nn.Module | None]:
        """The modules of an adapter with their weights, in the base's type and on its device."""
        like = self.sam.vision_encoder.patch_embed.projection.weight
        # Copies: tensors of a memory-mapped file are aligned differently, and the rounding of kernels depends on it.
        tensors = {name: value.to(like.device, like.dtype, copy=True) for name, value in file.tensors.items()}
        skeleton = self._with_tensors(file, config, tensors)
        return {path: _get_part(skeleton, path) for path in self._part_paths()} | decoder

    @classmethod
    def _with_tensors(cls, file: AdapterFile, config: CfSamConfig, tensors: Mapping[str, torch.Tensor]) -> nn.Module:
        """A model that holds an adapter's tensors and no others; ValueError if they do not fit its configuration."""
        with torch.device("meta"):
            skeleton = cls(config)
        try:
            missing, unexpected = skeleton.load_state_dict(tensors, strict=False, assign=True)
        except RuntimeError as error:
            raise ValueError(f"{file.folder}: weights and settings do not fit each other ({error}).") from error
        wrong = [name for name in missing if skeleton.is_trainable(name)] + unexpected
        if wrong:
            raise ValueError(
                f"{file.folder}: {len(wrong)} weights are missing or unexpected, such as {wrong[0]!r}; the weights "
                f"and {ADAPTER_FILE} do not fit each other."
            )
        return skeleton

    def _apply(self, fn, recurse=True):
        """Extends `nn.Module._apply`, which `to`, `half` and `cuda` use, to the inactive adapters."""
        result = super()._apply(fn, recurse)
        for held in self.__dict__.get("_adapters", {}).values():
            for part in held.parts.values():
                if part is not None:
                    part._apply(fn, recurse)
        return result


def _get_part(model: nn.Module, path: str) -> nn.Module | None:
    parent, _, leaf = path.rpartition(".")
    return getattr(model.get_submodule(parent), leaf)


def _read_checked(source: str | os.PathLike, hub_options: Mapping[str, Any]) -> AdapterFile:
    """Reads an adapter; raises ValueError if its settings describe far more than its weights hold."""
    file = read_adapter(source, **hub_options)
    try:
        check_values(file.config, [tuple(value.shape) for value in file.tensors.values()], ADAPTER_FILE)
    except ValueError as error:
        raise ValueError(f"{file.folder}: {error}") from error
    return file
