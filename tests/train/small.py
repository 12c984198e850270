# SPDX-License-Identifier: Apache-2.0
"""The smoke config on a corpus of ragged documents that each test can change."""

import json
import pathlib
import random

from alignjax import config
from configs.smoke import pretrain

WORDS = "a ab the sea ship river hill went came saw old small and then".split()


def write_corpus(path: pathlib.Path) -> pathlib.Path:
    """Paragraphs of 1 to 60 words: rows hold several, or parts of one."""
    rng = random.Random(0)
    lengths = [rng.choice([1, 2, 3, 5, 8, 20, 60]) for _ in range(200)]
    texts = (" ".join(rng.choices(WORDS, k=n)) for n in lengths)
    path.write_text("\n\n".join(texts))
    return path


def get_config():
    """For `--config=tests/train/small.py`; a flag names the corpus."""
    c = pretrain.get_config()
    c.data.sources.text = dict(kind="text", path="", document="paragraph", weight=1.0)
    c.model.max_length = 64
    c.tokenizer.control_tokens = ()
    c.log.tensorboard = False
    c.sample.every = None
    return c


def section(corpus: pathlib.Path, cache: pathlib.Path, **changes) -> dict:
    """The config as JSON, changed: `section(corpus, cache, **{"mesh.data": 2})`."""
    c = config.to_json(get_config())
    c["data"]["sources"]["text"]["path"] = str(corpus)
    c["cache_dir"] = str(cache)
    return change(c, changes)


def change(section: dict, changes: dict) -> dict:
    """The section as plain JSON, with other values at some dotted fields."""
    for name, value in changes.items():
        *parents, last = name.split(".")
        inner = section
        for parent in parents:
            inner = inner[parent]
        inner[last] = value
    return json.loads(json.dumps(section))
