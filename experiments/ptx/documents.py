# SPDX-License-Identifier: Apache-2.0
"""Documents of the embedded world that pretraining has not read, as JSON lines.

python -m experiments.ptx.documents > runs/ptx/text.jsonl
"""

import itertools
import json

from alignjax import world
from alignjax.data import records
from alignjax.world import examples

COUNT = 200


def unread() -> list[str]:
    """Prose beyond the last document of the split that pretraining and ptx read."""
    first = examples.splits("nano")["pretrain"]
    source = world.load("nano", documents=first + 3 * COUNT, dialogues="chat")
    rest = itertools.islice(source.documents(), first, None)
    prose = (record.text for _, record in rest if isinstance(record, records.Text))
    return list(itertools.islice(prose, COUNT))


def main() -> None:
    for text in unread():
        print(json.dumps({"text": text}))


if __name__ == "__main__":
    main()
