# SPDX-License-Identifier: Apache-2.0
"""Models by family and size: `build(section, vocab_size) -> types.Model`.

A family is a module here: `CONFIGS` are its sizes by name, `DEFAULTS` what all of them
share, both fields of `settings.DecoderConfig`; and it knows the tensors and the
config.json of its checkpoints elsewhere, as `names` says. Only this folder knows Flax
modules.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping

from alignjax import config, errors, registry, types
from alignjax.models import decoder, decoder_config
from alignjax.models import kernels as kernels  # registers its backends

_PARTS = {
    "attention",
    "block",
    "cache",
    "decoder",
    "dora",
    "grouped",
    "kernels",
    "layers",
    "lora",
    "moe",
    "names",
    "noise",
    "projection",
    "published",
    "quantized",
    "rope",
    "scaling",
    "settings",
    "states",
    "validation",
}


def families() -> list[str]:
    """The names of the families, which are the modules that are not parts."""
    return sorted({m.name for m in pkgutil.iter_modules(__path__)} - _PARTS)


def build(section: Mapping, vocab_size: int, path: str = "model") -> types.Model:
    """The model that a config's section describes.

    Args:
      section: `family`, `name` (a size of the family), and any field of
        `DecoderConfig`, which overrides the size's own; None overrides nothing. Without
        a name it gives all the fields that the family has no default for.
      vocab_size: what the tokenizer needs, unless the section or its size says more.
      path: where the section stands in the config, for error messages.

    Raises:
      ConfigError: an unknown family, size or field, a field that does not fit, or an
        embedding with fewer rows than the tokenizer has tokens.
    """
    fields = {k: v for k, v in section.items() if v is not None}
    family, name = fields.pop("family", None), fields.pop("name", None)
    if family not in families():
        remedy = registry.closest(str(family), families())
        raise errors.ConfigError(f"{path}.family: unknown family {family!r}; {remedy}")
    module = importlib.import_module(f"alignjax.models.{family}")
    if name is not None and name not in module.CONFIGS:
        remedy = registry.closest(str(name), module.CONFIGS)
        raise errors.ConfigError(
            f"{path}.name: {family} has no size {name!r}; {remedy}"
        )
    size = {} if name is None else module.CONFIGS[name]
    fields = {"vocab_size": vocab_size, **module.DEFAULTS, **size, **fields}
    built = config.build(decoder_config.DecoderConfig, fields, path)
    if built.vocab_size < vocab_size:
        raise errors.ConfigError(
            f"{path}.vocab_size: {built.vocab_size} rows of embedding are too few for "
            f"the tokenizer's {vocab_size} tokens"
        )
    return decoder.build(built)
