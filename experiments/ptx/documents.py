# SPDX-License-Identifier: Apache-2.0
"""Documents of the embedded world that pretraining has not read, as JSON lines.

python -m experiments.ptx.documents > runs/ptx/text.jsonl
"""

import itertools
import json

from alignjax import world
from alignjax.world import examples

COUNT = 200


def unread() -> list[str]:
    """Texts beyond the last one of the split that pretraining and ptx read."""
    first = examples.splits("nano")["pretrain"]
    source = world.load("nano", documents=first + COUNT)
    rest = itertools.islice(source.documents(), first, None)
    return [record.text for _, record in rest]


def main() -> None:
    for text in unread():
        print(json.dumps({"text": text}))


if __name__ == "__main__":
    main()
