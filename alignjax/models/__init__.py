# SPDX-License-Identifier: Apache-2.0
"""Models by family and size: `build(section, vocab_size) -> types.Model`.

`families/` has a file for each family. Flax modules stay in this folder.
"""

from __future__ import annotations

from collections.abc import Mapping

from alignjax import config, errors, registry, types
from alignjax.models import decoder, decoder_config, families


def build(section: Mapping, vocab_size: int, path: str = "model") -> types.Model:
    """The model that a config's section describes.

    Args:
      section: `family`, `name` (a size of the family), and any field of
        `DecoderConfig`, which overrides that of the size; None overrides nothing.
        Without a name it has all fields for which the family has no default.
      vocab_size: tokens of the tokenizer; the section or the size may have more.
      path: of the section in the config, for error messages.

    Raises:
      ConfigError: an unknown family, size or field, a field that does not fit, or an
        embedding with fewer rows than the tokenizer has tokens.
    """
    fields = {k: v for k, v in section.items() if v is not None}
    family = families.find(fields.pop("family", None), f"{path}.family")
    name = fields.pop("name", None)
    if name is not None and name not in family.sizes:
        remedy = registry.closest(str(name), family.sizes)
        raise errors.ConfigError(
            f"{path}.name: {family.name} has no size {name!r}; {remedy}"
        )
    size = {} if name is None else family.sizes[name]
    fields = {"vocab_size": vocab_size, **family.defaults, **size, **fields}
    built = config.build(decoder_config.DecoderConfig, fields, path)
    if built.vocab_size < vocab_size:
        raise errors.ConfigError(
            f"{path}.vocab_size: {built.vocab_size} rows of embedding are too few for "
            f"the tokenizer's {vocab_size} tokens"
        )
    return decoder.build(built)
