"""The base model of a run: where it comes from, how it is loaded, and what is refused."""

import errno
import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from safetensors import SafetensorError, safe_open

from moe_tune.base.errors import ConfigError, ModelError, require
from moe_tune.base.hub_snapshot import SETTINGS, WEIGHTS, hub_snapshot
from moe_tune.base.user_folders import user_folder
from moe_tune.base.wheel import olmo_tokenizer_path
from moe_tune.models.families import family_of
from moe_tune.models.family import ModelFamily
from moe_tune.models.packed_experts import install_all, pack_experts, packed_on_arrival
from moe_tune.models.recomputed_layers import allow_recomputation
from moe_tune.models.unmapped import unmapped_files

NANO = Path(__file__).parent / "nano"
MADE = "made:"
"""How the path of a model begins that a recipe has made here: its name is the same on every machine."""
NOT_RUN = ("auto_map", "_attn_implementation_internal")
"""Configuration fields that would make transformers run code of the model's author."""
READING_FAULTS = (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, SafetensorError)
"""What transformers and safetensors raise for files that are missing, broken or of another shape."""
EOS, PAD = "<|endoftext|>", "<|padding|>"
"""OLMoE's special tokens; a bare ``tokenizer.json`` holds them but does not say what they are for."""


@dataclass(frozen=True)
class BaseModel:
    """The base model and its tokenizer.

    Args:
        path: A Hub id such as ``allenai/OLMoE-1B-7B-0125-Instruct``, a local folder, ``nano`` (shipped with the
            package), ``random`` (random weights of a few million parameters: a wiring test, not a model), or
            ``made:NAME`` (a folder of ``$XDG_CACHE_HOME/moe_tune/models``, where an experiment's recipes put theirs).
        revision: A 40-digit commit, required for a Hub id so that a run names exactly what it used.
        tokenizer: Where the tokenizer is if not beside the model: a folder, a ``tokenizer.json``, or
            ``olmo-eval`` (OLMoE's own, from the installed wheel). ``null`` is beside the model.
        dtype: Dtype of the weights.
        experts_implementation: ``eager``, ``grouped_mm``, ``batched_mm``, or this program's ``blocked`` (for half
            precision on a CPU); ``auto`` measures once per machine, device, dtype and shape and keeps the answer.
        family: Family of a ``random`` model, a ``model_type`` such as ``olmoe`` (``list families``).
        seed: Seed of a ``random`` model's weights.
        gradient_checkpointing: Whether training on full prompts keeps each layer's input alone and computes the rest
            again for the gradient: less memory, one more forward pass. On the answer path it changes nothing.
        quantise: Bits of the experts' weights, 8 or 4, packed while they are read; all else keeps ``dtype``. ``null``
            leaves them as they are. Another value is another base model, and its runs are not compared.

    Raises:
        ConfigError: A place is empty, or the seed is below 0.
        ModelError: There is no such family.
    """

    path: str = "nano"
    revision: str | None = None
    tokenizer: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    experts_implementation: Literal["auto", "eager", "grouped_mm", "batched_mm", "blocked"] = "auto"
    family: str = "olmoe"
    seed: int = 0
    gradient_checkpointing: bool = False
    quantise: Literal[8, 4] | None = None

    def __post_init__(self) -> None:
        for key in ("path", "tokenizer"):
            place = getattr(self, key)
            require(place != "", "a place", place, f"model.base.{key}", "nano comes with the package.")
        if self.path == "random":
            family_of(self.family)
        require(0 <= self.seed < 2**63, "a seed from 0", self.seed, "model.base.seed", "the default is 0.")

    @property
    def source(self) -> str:
        """The path transformers loads from."""
        if self.path.startswith(MADE):
            return str(made_models() / self.path.removeprefix(MADE))
        return str(NANO) if self.path == "nano" else self.path

    def load_tokenizer(self) -> "transformers.PreTrainedTokenizerBase":
        """Return the tokenizer."""
        if self.tokenizer is None and self.path == "random":
            raise ConfigError(
                "expected a tokenizer for a random model but got none (model.base.tokenizer). Hint: olmo-eval."
            )
        place = self.tokenizer or self.source
        if place == "olmo-eval":
            place = str(olmo_tokenizer_path())
        if place.endswith(".json"):
            hint = "give a path that exists, or olmo-eval."
            require(Path(place).is_file(), "a tokenizer.json", place, "model.base.tokenizer", hint)
            with _translated(self, "tokenizer"):
                tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=place)
            for name, token in (("eos_token", EOS), ("pad_token", PAD)):
                if token in tokenizer.get_vocab():
                    setattr(tokenizer, name, token)
            return tokenizer
        folder = self._local(place)
        with _translated(self, "tokenizer"):
            return transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)

    def folder(self) -> Path:
        """Return the folder of the model's files, weights among them; from the Hub they come at the pinned commit.

        Raises:
            ConfigError: It is a ``random`` model, which has none.
        """
        hint = "save it to a folder first."
        require(self.path != "random", "a model with files", self.path, "model.base.path", hint)
        return Path(self._local(self.source, weights=True))

    def load_config(self) -> "transformers.PretrainedConfig":
        """Return the model's configuration, without loading weights."""
        if self.path == "random":
            return family_of(self.family).small_config(len(self.load_tokenizer()))
        folder = self._local(self.source)
        if Path(folder).is_dir() and not Path(folder, "config.json").is_file():
            raise ModelError(
                f"expected a config.json but found none ({self.path}). Hint: model.base.path names a model's folder, "
                "or a Hub id at whose revision there is a model."
            )
        with _translated(self, "config.json"):
            raw, _ = transformers.AutoConfig.for_model("olmoe").get_config_dict(folder)
        for field in NOT_RUN:
            if field in raw:
                raise ModelError(
                    f"expected a model of transformers' own code but got {field!r} in its config ({self.path}). "
                    "Hint: remote code is never run."
                )
        family_of(raw.get("model_type", "unknown"))
        with _translated(self, "config.json"):
            return transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)

    def load(self) -> tuple["transformers.PreTrainedModel", ModelFamily]:
        """Return the model in evaluation mode and its family; every weight must be there, and none beside."""
        if self.quantise:
            asked, hint = "auto for quantised experts", "auto: they have an implementation of their own."
            come = self.experts_implementation
            require(come == "auto", asked, come, "model.base.experts_implementation", hint)
        config = self.load_config()
        implementation = "eager" if self.experts_implementation == "auto" else self.experts_implementation
        options: dict[str, Any] = {"experts_implementation": implementation, "dtype": getattr(torch, self.dtype)}
        family = family_of(config.model_type)
        if self.path == "random":
            # On the CPU whatever the default device, so that a seed gives the same weights on every machine.
            with torch.device("cpu"), torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(self.seed)
                model = transformers.AutoModelForCausalLM.from_config(config, **options)
                # Stock initialisation leaves the router weight at zero: every token would choose the same experts.
                for layer, block in family.moe_layers(model).items():
                    replay = family.replay(block, layer)
                    torch.nn.init.normal_(replay.weight(replay.gate), std=0.1)
                if self.quantise:
                    pack_experts(model, self.quantise)
            return self._ready(model), family
        folder = self._local(self.source, weights=True)
        with _translated(self, "weights", folder), unmapped_files(), packed_on_arrival(self.quantise) as packed:
            options |= {"config": config, "use_safetensors": True, "trust_remote_code": False}
            model, report = transformers.AutoModelForCausalLM.from_pretrained(
                folder, output_loading_info=True, **options
            )
        for key in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            if report.get(key):
                names = sorted(str(name) for name in report[key])
                raise ModelError(
                    f"expected exactly the model's weights but got {len(names)} {key.replace('_', ' ')} ({self.path}): "
                    f"{names[:6]}. Hint: the files are not those of this architecture, or incomplete."
                )
        if packed:
            install_all(model, packed)
        return self._ready(model), family

    def without_weights(self) -> tuple["transformers.PreTrainedModel", ModelFamily]:
        """Return the model as its configuration says, with no memory for weights, and its family."""
        config = self.load_config()
        with torch.device("meta"):
            made = transformers.AutoModelForCausalLM.from_config(config, dtype=getattr(torch, self.dtype))
        return made, family_of(config.model_type)

    def content_hash(self) -> str:
        """Return a hash of what the weights come from: the files of configuration and weights, dtype and bits."""
        digest = hashlib.sha256(f"{self.dtype} {self.quantise}\n".encode())
        if self.path == "random":
            digest.update(repr((self.family, self.seed, self.tokenizer)).encode())
            return digest.hexdigest()
        folder = Path(self._local(self.source, weights=True))
        for file in sorted([folder / "config.json", *folder.glob("*.safetensors")]):
            with file.open("rb") as opened:
                digest.update(f"{file.name} {hashlib.file_digest(opened, 'sha256').hexdigest()}\n".encode())
        return digest.hexdigest()

    def confirm(self, hashes: Mapping[str, str]) -> None:
        """Note the frozen tensors that a run starts from; a model that runs share refuses others than at first."""

    def _ready(self, model: "transformers.PreTrainedModel") -> "transformers.PreTrainedModel":
        """Return the model in evaluation mode, its layers prepared for gradient checkpointing if that is asked for."""
        if self.gradient_checkpointing:
            allow_recomputation(model)
        return model.eval()

    def _local(self, place: str, weights: bool = False) -> str:
        """Return the folder of a model or tokenizer; from the Hub it comes at the pinned commit, and only once."""
        if Path(place).exists():
            return place
        if self.revision is None or len(self.revision) != 40:
            raise ConfigError(
                f"expected a local folder, or a Hub id with a 40-digit revision, but got {place!r}, which is no folder "
                f"here, and revision {self.revision!r} (model.base). Hint: the path of a folder; or of a Hub id the "
                "commit from the model's page."
            )
        patterns = (*SETTINGS, *WEIGHTS) if weights else SETTINGS
        what = "the weights" if weights else "config.json and the tokenizer"
        return str(hub_snapshot(place, self.revision, patterns, what))


def made_models() -> Path:
    """Return the folder of models that recipes have made here."""
    return user_folder("XDG_CACHE_HOME", "~/.cache") / "models"


@contextmanager
def _translated(base: BaseModel, what: str, folder: str | None = None) -> Iterator[None]:
    """Turn what transformers raises into one message with a remedy."""
    try:
        yield
    except Exception as fault:
        # The tokenizers library raises bare Exception for a file it cannot parse.
        if not (isinstance(fault, READING_FAULTS) or type(fault) is Exception) or _exhausted(fault):
            raise
        text = " ".join(str(fault).split())[:300]
        where = base.path + (f" at {base.revision}" if base.revision else "")
        if folder and (damaged := _damaged(folder)):
            # In the Hub's cache the name is a link: the content behind it has to go.
            raise ModelError(
                f"expected readable {what} but {damaged.name} is damaged or incomplete: {text} ({where}). "
                f"Hint: delete {damaged.resolve()} and get it anew: from the Hub it comes with the next run."
            ) from fault
        raise ModelError(f"expected a readable {what} but got: {text} ({where}). Hint: check model.base.") from fault


def _damaged(folder: str) -> Path | None:
    """Return the first file of weights that cannot be opened."""
    for file in sorted(Path(folder).glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt"):
                pass
        except (SafetensorError, OSError):
            return file
    return None


def _exhausted(fault: Exception) -> bool:
    """Return whether memory or disk ran out, which is no fault of the model's files."""
    full = getattr(fault, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM)
    return full or isinstance(fault, torch.OutOfMemoryError)
