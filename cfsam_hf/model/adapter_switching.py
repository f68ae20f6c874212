"""Several named adapters in one model: saved alone, loaded beside each other, switched without touching the base."""

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
from transformers.utils import cached_file, logging

from .adapter_files import (
    ADAPTER_FILE,
    HUB_OPTIONS,
    AdapterFile,
    BaseIdentity,
    content_hashes,
    find_adapter,
    read_adapter,
    same_content,
    write_adapter,
)
from .configuration_cfsam import CfSamConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel as _Model
else:
    _Model = object

# What a model was made or loaded with. Not "default": that is PEFT's name for the first adapter of its own.
INITIAL_ADAPTER = "initial"

# SAM's mask decoder is trained too, unless the configuration says otherwise.
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

_PEFT_FILE = "adapter_config.json"

# Checkpoints that are part of the installed package go by their name, which is the same on every machine.
_BUNDLED = Path(__file__).resolve().parents[1] / "checkpoints"

# An adapter's own fields of the configuration; the others are the base's or the format's.
_FIELDS = [name for name in CfSamConfig.__annotations__ if name not in ("model_type", "train_encoder")]
_SETTINGS = [name for name in _FIELDS if name != "format_version"] + ["id2label", "label2id"]


@dataclass
class _HeldAdapter:
    """An adapter of a model; `parts` and `settings` are those of the last time that it was put away."""

    base: BaseIdentity
    folder: str | None
    settings: dict[str, Any]
    parts: dict[str, nn.Module | None]


def names_without_peft(model: nn.Module, names: Iterable[str]) -> dict[str, str]:
    """The parameters that are a model's own, by the names they have with PEFT's layers around them.

    Args:
        model (`nn.Module`): PEFT may have put layers into it (LoRA, ...).
        names: of parameters or buffers of `model`.

    Returns:
        Name in `model` to the name without PEFT; what PEFT added is left out.
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

    An adapter is all that is trained: MALA, fusion, stem, task tokens and their hyper-networks, refinement, type
    branch, SAM's mask decoder if it is trained, and with them the types, colours, mpp and `checkpoint_info` of the
    configuration. One is active; the others are kept beside the model, follow it to other devices and types, and are
    no part of its `state_dict`. Switching exchanges modules and copies nothing, so outputs are bit for bit those of a
    model that was loaded with the adapter alone.

    transformers gives every model PEFT's methods `load_adapter`, `set_adapter` and `delete_adapter`. Here they serve
    both: files and names of CF-SAM adapters are handled here, all others are passed on, so that LoRA and its like work
    beside an adapter (`add_adapter(LoraConfig(...))`). A name that both have means the CF-SAM adapter. PEFT's
    `active_adapters()`, `enable_adapters()` and `disable_adapters()` are about PEFT's alone.
    """

    _adapters: dict[str, _HeldAdapter]
    _active_adapter: str = INITIAL_ADAPTER

    @property
    def active_adapter(self) -> str:
        """Name of the active CF-SAM adapter; `"initial"` is what the model was made or loaded with."""
        return self._active_adapter

    @property
    def adapter_names(self) -> list[str]:
        """Names of the CF-SAM adapters, in the order in which they came."""
        return list(self._held())

    @property
    def adapter_folder(self) -> str | None:
        """Folder that the active adapter was read from; `None` for the initial one."""
        return self._held()[self._active_adapter].folder

    def _held(self) -> dict[str, _HeldAdapter]:
        if "_adapters" not in self.__dict__:
            self._adapters = {INITIAL_ADAPTER: _HeldAdapter(_base_of(self), None, {}, {})}
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
            folder (`str` or `os.PathLike`): made if needed; an adapter that is there is replaced, both files together.
            name (`str`, *optional*): default: the adapter's own, for the initial one the folder's.
            processor (*optional*):
                `CfSamImageProcessor` or `CfSamProcessor` to save beside it. It holds the decoding parameters; without
                it the pipeline takes the default ones.
            dtype (`torch.dtype`, *optional*): of the file, such as `torch.bfloat16`; default: the model's.
            base_name, base_revision (`str`, *optional*):
                What the file calls its base. Default: what this adapter was loaded with or trained from (the
                `base_model` in `checkpoint_info`, else `name_or_path`).

        Raises:
            ValueError: the encoder is trained, so there is no base; PEFT holds layers inside the trained parts; the
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
            raise ValueError(f"{INITIAL_ADAPTER!r} is what a model calls its own first adapter; pass another name.")
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
        """Adds an adapter and makes it the active one, as transformers does with PEFT's.

        Overrides `PeftAdapterMixin.load_adapter`, to which everything that is not a CF-SAM adapter goes.

        Args:
            peft_model_id (`str` or `os.PathLike`): folder or Hub id that [`save_adapter`] wrote, or one of PEFT's.
            adapter_name (`str`, *optional*): default: the name in the file (PEFT: `"default"`).
            peft_config, adapter_state_dict: PEFT's alone.
            kwargs: `revision`, `token`, `cache_dir`, ... for the Hub; for PEFT's adapters as in transformers.

        Returns:
            The adapter's name; for one of PEFT's what transformers returns.

        Raises:
            OSError: no adapter is there, or it is damaged.
            ValueError: it belongs to another base; the name is taken; it does not fit.
            TypeError: an option that only PEFT's adapters have.
        """
        peft_only = peft_config is not None or adapter_state_dict is not None
        hub_options = {key: value for key, value in kwargs.items() if key in HUB_OPTIONS}
        if peft_only or peft_model_id is None or not _is_ours(peft_model_id, hub_options):
            return super().load_adapter(peft_model_id, adapter_name, peft_config, adapter_state_dict, **kwargs)
        if foreign := sorted(set(kwargs) - set(hub_options)):
            raise TypeError(f"{foreign} are options for PEFT's adapters; {peft_model_id} holds one of CF-SAM.")
        file = read_adapter(peft_model_id, **hub_options)
        name = file.name if adapter_name is None else adapter_name
        if name in self._held():
            raise ValueError(
                f"The model already has an adapter {name!r}; give another adapter_name, or delete_adapter({name!r})."
            )
        self._refuse_peft_in_parts()
        settings, config = self._settings_of(file)
        parts = self._parts_of(file, config, self._decoder_of(file, config))
        self._adapters[name] = _HeldAdapter(replace(file.base, hashes=None), file.folder, settings, parts)
        self.set_adapter(name)
        return name

    def set_adapter(self, adapter_name: str | list[str]) -> None:
        """Makes an adapter the active one, its types and settings with it.

        Overrides `PeftAdapterMixin.set_adapter`, to which names that are not of CF-SAM adapters go. `requires_grad` is
        then as the configuration says (see `freeze`); an optimiser goes on holding the parameters it was made for.

        Raises:
            ValueError: there is no such adapter; PEFT holds layers inside the trained parts.
        """
        held = self._held()
        if not isinstance(adapter_name, str) or adapter_name not in held:
            if getattr(self, "_hf_peft_config_loaded", False):
                super().set_adapter(adapter_name)
                return
            raise ValueError(f"There is no adapter {adapter_name!r}; there are {self.adapter_names}.")
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
        # In place: SAM's parts, a pipeline and others hold the same object.
        for field, value in coming.settings.items():
            setattr(self.config, field, value)
        coming.parts, coming.settings = {}, {}
        self._active_adapter = adapter_name
        self.read_settings()
        self.freeze()

    def delete_adapter(self, adapter_names: str | list[str]) -> None:
        """Forgets adapters that are not active.

        Overrides `PeftAdapterMixin.delete_adapter`, to which names that are not of CF-SAM adapters go.

        Raises:
            ValueError: there is no such adapter, or it is the active one.
        """
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        held = self._held()
        others = [name for name in names if name not in held]
        if others and not getattr(self, "_hf_peft_config_loaded", False):
            raise ValueError(f"There is no adapter {others[0]!r}; there are {self.adapter_names}.")
        if self._active_adapter in names:
            raise ValueError(f"{self._active_adapter!r} is the active adapter; set_adapter another one first.")
        if others:
            super().delete_adapter(others)
        for name in set(names) - set(others):
            del held[name]

    @contextmanager
    def disable_adapter(self) -> Iterator[None]:
        """Within this context no MALA runs, and the encoder is SAM's exactly.

        The rest (mask decoder, fusion, heads) stays the active adapter's, so the maps made then mean little; what is
        meant is the encoder's embedding, to compare with or to use for SAM's other purposes.
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
        """A model with one adapter: its base is loaded, then the adapter, which is the only one of the model.

        Args:
            folder (`str` or `os.PathLike`): folder or Hub id that [`save_adapter`] wrote.
            base (`str` or `os.PathLike`, *optional*):
                Folder or Hub id of the base. Default: the one named in the file, at its revision.
            adapter_name (`str`, *optional*): default: the name in the file.
            adapter_revision (`str`, *optional*): of the adapter on the Hub; `revision` is the base's.
            adapter_subfolder (`str`, *optional*): of the adapter; default: `subfolder`, which is the base's too.
            kwargs: of `from_pretrained` for the base (`dtype`, `device_map`, ...). Those for the Hub (`token`,
                `cache_dir`, `local_files_only`, `force_download`, `proxies`) hold for the adapter, too.

        Raises:
            OSError: the base or the adapter is not there, not to be reached, or damaged.
            ValueError: the base is not the one that the adapter belongs to.
        """
        hub_options = {key: kwargs[key] for key in HUB_OPTIONS if kwargs.get(key) is not None}
        own = {"revision": adapter_revision, "subfolder": adapter_subfolder}
        own["subfolder"] = hub_options.get("subfolder") if adapter_subfolder is None else adapter_subfolder
        shared = {key: value for key, value in hub_options.items() if key not in own}
        file = read_adapter(folder, **shared, **{key: value for key, value in own.items() if value is not None})
        if base is None:
            bundled = _BUNDLED / file.base.name
            base = bundled if bundled.parent == _BUNDLED and bundled.is_dir() else file.base.name
            kwargs.setdefault("revision", file.base.revision or "main")
        try:
            known_base = CfSamConfig.get_config_dict(base, **{**hub_options, "revision": kwargs.get("revision")})[0]
        except OSError as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise OSError(
                f"{folder} is an adapter of {file.base}, which cannot be had here ({reason}); pass base=..."
            ) from error
        options = {}
        if known_base.get("model_type") != "cfsam":
            options = {field: value for field, value in file.config.items() if field in _SETTINGS[:-1]}
        verbosity = logging.get_verbosity()
        # The heads of a plain SAM are new, of which transformers warns; the adapter brings all of them.
        logging.set_verbosity_error()
        try:
            model = cls.from_pretrained(base, **options, **kwargs)
        finally:
            logging.set_verbosity(verbosity)
        model.load_adapter(file.folder, adapter_name=adapter_name)
        model.delete_adapter(INITIAL_ADAPTER)
        return model

    def _part_paths(self) -> list[str]:
        """Where in the model the modules of an adapter are."""
        layers = range(len(self.sam.vision_encoder.layers))
        return [*_HEADS, *_DECODER_PARTS, *(f"sam.vision_encoder.layers.{i}.adapter" for i in layers)]

    def _refuse_peft_in_parts(self) -> None:
        """Raises where PEFT wraps a module that belongs to an adapter: it would go, or stay, with it."""
        for path in self._part_paths():
            part = _get_part(self, path)
            inside = [] if part is None else part.modules()
            if any(hasattr(module, "base_layer") or hasattr(module, "original_module") for module in inside):
                raise ValueError(
                    f"PEFT holds layers inside {path}, which belongs to the adapter {self._active_adapter!r}: unload "
                    "them, or save everything with PEFT."
                )

    def _frozen_state(
        self, config: CfSamConfig, decoder: Mapping[str, nn.Module | None] | None = None
    ) -> dict[str, torch.Tensor]:
        """The weights under SAM's own names that an adapter of this configuration leaves as they are."""
        state = self.sam.state_dict()
        plain = {name: state[key] for key, name in names_without_peft(self.sam, state).items()}
        for path, part in (decoder or {}).items():
            place = path.removeprefix("sam.")
            if part is not None:
                plain.update({f"{place}.{key}": value for key, value in part.state_dict().items()})
        return {name: value for name, value in plain.items() if not self.is_trainable(f"sam.{name}", config)}

    def _settings_of(self, file: AdapterFile) -> tuple[dict[str, Any], CfSamConfig]:
        """The settings of an adapter, and this model's configuration with them."""
        known = {name: value for name, value in file.config.items() if name in _SETTINGS}
        # Once through the constructor, which checks and completes them.
        checked = CfSamConfig.from_dict({**self.config.to_dict(), "type_loss_weights": None, **known})
        config = copy.deepcopy(self.config)
        settings = {field: getattr(checked, field) for field in _SETTINGS}
        for field, value in {**settings, "train_encoder": False}.items():
            setattr(config, field, value)
        return settings, config

    def _decoder_of(self, file: AdapterFile, config: CfSamConfig) -> dict[str, nn.Module | None]:
        """Checks that the base is the adapter's; gives the base's mask decoder if the adapter brings none."""
        candidates = [{path: _get_part(self, path) for path in _DECODER_PARTS}]
        if not config.train_mask_decoder:
            # Another adapter may have brought a decoder of its own while one that is put away has the base's.
            candidates += [
                {path: held.parts[path] for path in _DECODER_PARTS} for held in self._adapters.values() if held.parts
            ]
        for decoder in candidates:
            if same_content(self._frozen_state(config, decoder), file.base.hashes or {}):
                return {} if config.train_mask_decoder else copy.deepcopy(decoder)
        here = self._held()[self._active_adapter].base
        here = replace(here, hashes=content_hashes(self._frozen_state(config)))
        untrained = "" if config.train_mask_decoder else " Its mask decoder is the base's own, untrained."
        raise ValueError(
            f"{file.folder} is an adapter of {file.base}, but this model's base is {here}: load the adapter into a "
            f"model made from its base (from_adapter does), or train one on this base.{untrained}"
        )

    def _parts_of(
        self, file: AdapterFile, config: CfSamConfig, decoder: dict[str, nn.Module | None]
    ) -> dict[str, nn.Module | None]:
        """The modules of an adapter, filled, in the base's type and on its device."""
        with torch.device("meta"):
            skeleton = type(self)(config)
        like = self.sam.vision_encoder.patch_embed.projection.weight
        # Copies: a tensor that lies in a file is not aligned as one of torch's own, and kernels round by alignment.
        tensors = {name: value.to(like.device, like.dtype, copy=True) for name, value in file.tensors.items()}
        try:
            missing, unexpected = skeleton.load_state_dict(tensors, strict=False, assign=True)
        except RuntimeError as error:
            raise ValueError(f"{file.folder}: weights and settings do not fit each other ({error}).") from error
        wrong = [name for name in missing if skeleton.is_trainable(name)] + unexpected
        if wrong:
            raise ValueError(
                f"{file.folder}: {len(wrong)} weights are missing or superfluous, such as {wrong[0]!r}; the weights "
                f"and {ADAPTER_FILE} do not fit each other."
            )
        return {path: _get_part(skeleton, path) for path in self._part_paths()} | decoder

    def _apply(self, fn, recurse=True):
        """As `nn.Module._apply`, on which `to`, `half`, `cuda` rest; adapters that are put away come along."""
        result = super()._apply(fn, recurse)
        for held in self.__dict__.get("_adapters", {}).values():
            for part in held.parts.values():
                if part is not None:
                    part._apply(fn, recurse)
        return result


def _get_part(model: nn.Module, path: str) -> nn.Module | None:
    parent, _, leaf = path.rpartition(".")
    return getattr(model.get_submodule(parent), leaf)


def _base_of(model: Any) -> BaseIdentity:
    """What the frozen part of a freshly made or loaded model is called."""
    info = model.config.checkpoint_info or {}
    training = info.get("training") or {}
    if info.get("base_model") and not training.get("train_encoder"):
        return BaseIdentity(str(info["base_model"]), info.get("base_revision"))
    source = str(getattr(model, "name_or_path", "") or "")
    if source and Path(source).resolve().parent == _BUNDLED:
        return BaseIdentity(Path(source).name)
    return BaseIdentity(source or "a model with random weights", getattr(model.config, "_commit_hash", None))


def _is_ours(source: str | os.PathLike, hub_options: dict[str, Any]) -> bool:
    """Whether a source is to be read as a CF-SAM adapter; a folder without any adapter is, for the error's sake."""
    try:
        if find_adapter(source, **hub_options) is not None:
            return True
    except OSError:
        # Without a network, PEFT's adapters are still loaded from the cache.
        offline = {**hub_options, "force_download": False, "local_files_only": True}
        if cached_file(source, _PEFT_FILE, _raise_exceptions_for_missing_entries=False, **offline) is None:
            raise
        return False
    return os.path.isdir(source) and not os.path.isfile(os.path.join(source, _PEFT_FILE))
