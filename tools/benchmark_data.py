# SPDX-License-Identifier: Apache-2.0
"""How fast the data layer is, and whether its memory stays flat as a corpus grows.

    python tools/benchmark_data.py [--path=FILE.jsonl] [--megabytes=64]

Without a path the corpus is the Python source and documentation installed here, prose
and code in documents of about 4 kB. Figures, one a line: tokenising with SentencePiece
through the cache, in one process and in several, by the clock and by processor time
(which other programs disturb less); peak memory for a quarter of the corpus and for
all of it; packing a million documents; finding the batch of step a million.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import resource
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

import numpy as np

from alignjax import cli, errors
from alignjax.data import loader, packing
from alignjax.data.tokenizers import base
from alignjax.data.tokens import cache, tokenizing

LENGTH = 1024
DOCUMENT = 4000


def write_corpus(path: Path, megabytes: int) -> None:
    """Installed text, cut into documents; repeated if there is too little."""
    left = megabytes * 1_000_000
    root = Path(sysconfig.get_paths()["stdlib"])
    names = [p for p in sorted(root.rglob("*")) if p.suffix in (".py", ".txt", ".rst")]
    with open(path, "w", encoding="utf-8") as file:
        while left > 0:
            for name in names:
                text = name.read_bytes().decode("utf-8", errors="ignore")
                text = text.replace("\0", "")
                for at in range(0, len(text) if left > 0 else 0, DOCUMENT):
                    if document := text[at : at + DOCUMENT].strip():
                        file.write(json.dumps({"text": document}) + "\n")
                        left -= len(document)


def config(path: Path) -> loader.DataConfig:
    return loader.DataConfig(sources={"text": {"kind": "jsonl", "path": str(path)}})


def sources(path: Path) -> list:
    return list(loader.load_sources(config(path).sources, "sources").values())


def write_quarter(corpus: Path, path: Path) -> int:
    """The first quarter of its lines; returns the bytes of the whole."""
    content = corpus.read_bytes()
    path.write_bytes(content[: content.rfind(b"\n", 0, len(content) // 4) + 1])
    return len(content)


def train(corpus: Path, folder: Path, model_type: str) -> base.Tokenizer:
    settings = dict(vocab_size=8192, model_type=model_type, train_bytes=8_000_000)
    cfg = base.TokenizerConfig(**settings)
    try:
        return base.build(cfg, sources(corpus), folder)
    except errors.ConfigError as error:
        raise errors.DataError(
            f"path: {corpus} is too small to learn {cfg.vocab_size} tokens from; name "
            "a larger file"
        ) from error


def peak_memory(process: int | str = "self") -> float:
    """The most memory that a process has held, in MB; Linux only."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(re.search(r"VmHWM:\s*(\d+)", status).group(1)) / 1e3


def tokenise(corpus: Path, saved: Path, workers: int) -> dict[str, float]:
    """Builds a cache from nothing: seconds, and peak memory in MB."""
    tok = base.load(saved)
    worker_peak = 0.0

    def watch(done: int, total: int | None) -> None:
        nonlocal worker_peak
        for child in multiprocessing.active_children():
            worker_peak = max(worker_peak, peak_memory(child.pid))

    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        cache.build(*sources(corpus), tok, folder, workers=workers, progress=watch)
        seconds = time.perf_counter() - start
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {
        "seconds": seconds,
        "processor": sum(usage.ru_utime + usage.ru_stime for usage in usages),
        "peak": peak_memory(),
        "worker_peak": worker_peak,
    }


def tokenise_afresh(corpus: Path, saved: Path, workers: int) -> dict[str, float]:
    """The same in a new process, whose time and memory are its own."""
    command = [sys.executable, __file__, "--tokenise", corpus, saved, str(workers)]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def report_tokenising(corpus: Path, quarter: Path, saved: Path, name: str) -> None:
    texts = (record.text for _, record in sources(corpus)[0].documents())
    size = sum(len(text.encode()) for text in texts) / 1e6
    several = max(2, tokenizing.cpus())
    for workers in (1, several):
        whole = tokenise_afresh(corpus, saved, workers)
        print(
            f"tokenising, {name}, processes {workers}: {size / whole['seconds']:.1f} "
            f"MB/s, {size / whole['processor']:.1f} MB per second of processor time"
        )
    part = tokenise_afresh(quarter, saved, several)
    print(
        f"peak memory, {name}, for a quarter of the corpus and for all: "
        f"{part['peak']:.0f} and {whole['peak']:.0f} MB, of a worker "
        f"{part['worker_peak']:.0f} and {whole['worker_peak']:.0f} MB"
    )


def report_packing() -> None:
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(5.5, 1.2, 10**6), 1, LENGTH).astype(np.int64)
    start = time.perf_counter()
    rows = packing.best_fit(lengths, LENGTH)
    seconds = time.perf_counter() - start
    full = lengths.sum() / (LENGTH * (rows.max() + 1))
    print(f"packing 10^6 documents: {seconds:.2f} s, rows {100 * full:.2f} % full")


def report_seeking(corpus: Path, tok: base.Tokenizer, folder: Path) -> None:
    options = dict(length=LENGTH, seed=0, cache_dir=folder)
    loader.build(config(corpus), tok, **options)
    start = time.perf_counter()
    dataset = loader.build(config(corpus), tok, **options)
    opened = time.perf_counter()
    dataset.rows(np.arange(32) + 32 * 10**6)
    sought = time.perf_counter()
    for step in range(20):
        dataset.rows(np.arange(32) + 32 * step)
    each = (time.perf_counter() - sought) / 20
    print(
        f"open the cache: {opened - start:.3f} s; the batch of step 10^6, "
        f"32 x {LENGTH}: {sought - opened:.4f} s; others: {each:.4f} s each"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--path", type=Path, help="rows with a field text")
    parser.add_argument("--megabytes", type=int, default=64, help="of the corpus made")
    parser.add_argument("--tokenise", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.tokenise:
        corpus, saved, workers = options.tokenise
        print(json.dumps(tokenise(Path(corpus), Path(saved), int(workers))))
        return 0
    if options.megabytes < 1:
        parser.error(f"--megabytes: {options.megabytes} must be at least 1")
    if options.path is not None and not options.path.is_file():
        parser.error(f"--path: {options.path} is no file")
    return cli.exit_code(lambda: report(options))


def report(options: argparse.Namespace) -> None:
    """Measures it all. Raises DataError where there is too little of a corpus."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus, quarter = options.path or folder / "a.jsonl", folder / "b.jsonl"
        if options.path is None:
            write_corpus(corpus, options.megabytes)
        size = write_quarter(corpus, quarter)
        print(f"corpus: {size / 1e6:.1f} MB; {tokenizing.cpus()} processors")
        for model_type in ("bpe", "unigram"):
            tok = train(corpus, folder, model_type)
            tok.save(folder / model_type)
            report_tokenising(corpus, quarter, folder / model_type, model_type)
        report_packing()
        report_seeking(corpus, tok, folder)


if __name__ == "__main__":
    sys.exit(main())
