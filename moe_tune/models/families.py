"""Which family a model is of: one with a file, or one that is found by looking."""

from functools import cache
from pathlib import Path

import transformers
from transformers.models.auto.configuration_auto import model_type_to_module_name
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from moe_tune.base.errors import ModelError, did_you_mean
from moe_tune.base.plugins import concrete_subclasses
from moe_tune.models.family import ModelFamily
from moe_tune.models.found_family import FoundFamily

FUSED = "use_experts_implementation"
"""What stands over the experts of every model of transformers that has them in one module."""

IMAGES = "it holds images beside text, and its text part under another name: {} alone is served"
NOT_SERVED = {
    "dots3_note": IMAGES.format("dots3_note_text"),
    "gemma4": IMAGES.format("gemma4_text"),
    "inkling_text": "its gate has more rows than there are experts",
    "qwen3_5_moe": IMAGES.format("qwen3_5_moe_text"),
    "qwen4_exp": IMAGES.format("qwen4_exp_text"),
    "zaya": "its router also reads what that of the layer before has kept",
}
"""Model types with fused experts that cannot be served, and why."""


def families_with_files() -> dict[str, type[ModelFamily]]:
    """Return the families that have a file of their own, by ``model_type``."""
    kinds = concrete_subclasses(ModelFamily).values()
    return {kind.model_type: kind for kind in kinds if not issubclass(kind, FoundFamily)}


@cache
def found_types() -> tuple[str, ...]:
    """Return the types of causal language models of transformers that are served, sorted."""
    folder = Path(transformers.__file__).parent / "models"
    modules = {one: model_type_to_module_name(one) for one in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES}
    fused = {
        module
        for module in set(modules.values())
        if any(FUSED in file.read_text(encoding="utf-8") for file in (folder / module).glob("modeling_*.py"))
    }
    return tuple(sorted(one for one, module in modules.items() if module in fused and one not in NOT_SERVED))


def family_of(model_type: str) -> ModelFamily:
    """Return the family of a configuration's ``model_type``; whether its routers can be used shows at attach.

    Raises:
        ModelError: transformers has no causal language model of this type with fused experts.
    """
    files = families_with_files()
    if model_type in files:
        return files[model_type]()
    if model_type in NOT_SERVED:
        raise ModelError(
            f"expected a model whose routers can be replaced but got {model_type!r}: {NOT_SERVED[model_type]} "
            "(model.base.path). Hint: python -m moe_tune list families."
        )
    if model_type not in found_types():
        what = "one without" if model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES else "none that it knows"
        raise ModelError(
            f"expected the type of a causal language model of transformers with fused experts but got {model_type!r}, "
            f"{what} (model.base.path). Hint: {did_you_mean(model_type, {*files, *found_types()})} "
            "Or python -m moe_tune list families."
        )
    return FoundFamily(model_type)
