# SPDX-License-Identifier: Apache-2.0
"""Models by family and size: `build(section, vocab_size) -> types.Model`.

`families/` has a file for each family. Only this folder knows Flax modules.
"""

from __future__ import annotations

from collections.abc import Mapping

from alignjax import config, errors, registry, types
from alignjax.models import decoder, decoder_config, families
from alignjax.models import kernels as kernels  # registers its backends


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
    if family not in families.names():
        remedy = registry.closest(str(family), families.names())
        raise errors.ConfigError(f"{path}.family: unknown family {family!r}; {remedy}")
    module = families.module(family)
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
