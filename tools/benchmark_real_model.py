# SPDX-License-Identifier: Apache-2.0
r"""Times a real chat model beside transformers, TRL with PEFT, and llama.cpp.

    python tools/benchmark_real_model.py runs/smollm2 --data=hh.jsonl --gguf=FILE.gguf
    python tools/benchmark_real_model.py runs/smollm2 --cases=rows --alone

The run is one of `tools/real_model.sh`, a Llama, and the file the one that it was
imported from. All sides have the same float32 weights: the others' are an export of the
run. They take turns in one call, so that a machine whose speed drifts slows all, and
each has `--cores` processors and as many threads. A figure is that of the fastest turn
by seconds of processor time of all threads, which neighbours on a busy machine change
less than time by the clock, given beside it. The first turn, in which programs are
compiled, does not count. The cases:

- `greedy`: the most probable reply of `--tokens` tokens to one prompt, beside
  transformers' `generate` and, where cyllama is installed, llama.cpp;
- `rows`: 16 of them at one time, beside transformers;
- `dpo`: a step of `configs/dpo/smollm2.py` on the first `--pairs` pairs of `--data`
  that fit `--length`, beside TRL's trainer with PEFT's adapters of all projections on
  the same token ids. Here responses share their prompt in rows, as in the recipe, and
  there pairs are padded by TRL's collator;
- `open`: a process that opens the run and writes a first token, beside one that does so
  with transformers and the exported folder;
- `import`: a process that imports `--gguf`, and the memory that it takes at most beside
  the bytes of the parameters.

Needs torch and transformers, `dpo` also datasets, trl and peft; none of them `--alone`,
which leaves the others out. Only Linux lets a process choose its processors.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
import numpy as np

from alignjax import analysis, cli, config, errors, sampling, trees, types
from alignjax.analysis import conversion
from alignjax.distributed import sharding
from alignjax.experiment import build, running
from configs.dpo import smollm2
from tools import pair_batches, requires, timing

CASES = ("greedy", "rows", "dpo", "open", "import")
ROWS = {"greedy": 1, "rows": 16}
QUESTIONS = ("What is the capital of France?", "How do I bake bread?", "Who was Bach?")
FIRST_TOKEN = """
import sys, torch, transformers
folder, prompt = sys.argv[1:]
tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
turns = [{"role": "user", "content": prompt}]
ids = tokenizer.apply_chat_template(
    turns, add_generation_prompt=True, return_tensors="pt", return_dict=True
)
print(model.generate(**ids, max_new_tokens=1, do_sample=False))
"""

Side = Callable[[], dict[str, float]]


def in_turns(sides: Mapping[str, Side], turns: int) -> dict[str, dict[str, float]]:
    """Figures of the fastest turn of each side by processor time.

    A side returns what it did. Those that run in other processes return their own
    `cpu_s` and `wall_s`, others are timed here.
    """
    figures: dict[str, dict[str, float]] = {}
    for turn in range(turns + 1):
        for name, run in sides.items():
            cpu, wall = time.process_time(), time.perf_counter()
            facts = run()
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            facts = {"cpu_s": cpu, "wall_s": wall} | facts
            best = figures.get(name)
            if turn and (best is None or facts["cpu_s"] < best["cpu_s"]):
                figures[name] = facts
    return figures


class Replies:
    """Replies of so many tokens to prompts, by each side.

    Attributes:
      tokens: `{side: ids of its last replies, [rows, tokens]}`.
    """

    def __init__(self, run: analysis.Run, rows: int, tokens: int):
        self.run, self.count, self.tokens = run, tokens, {}
        turns = (QUESTIONS[i % len(QUESTIONS)] for i in range(rows))
        prompts = [run.prompt_ids(question) for question in turns]
        width = max(map(len, prompts))
        self.prompts_GP = np.array([[0] * (width - len(p)) + p for p in prompts])
        self.mask_GP = np.array([np.arange(width) >= width - len(p) for p in prompts])
        self.one = prompts[0]

    def alignjax(self) -> Side:
        run, vocab = self.run, self.run.model.config.vocab_size
        draw = sampling.Draw(
            jax.random.split(jax.random.key(0), len(self.prompts_GP)),
            jnp.ones(vocab, bool),
            jnp.zeros(vocab, bool),
            sampling.settings(temperature=0.0),
        )
        prompts_GP, params = self.prompts_GP.astype(np.int32), run.weights()
        arguments = (run.model, params, prompts_GP, self.mask_GP, draw, self.count)
        reply = functools.partial(sampling.respond, *arguments)
        return lambda: self._did("alignjax", reply().tokens_BR)

    def transformers(self, model) -> Side:
        import torch

        ids = torch.tensor(self.prompts_GP)
        options = dict(max_new_tokens=self.count, do_sample=False, use_cache=True)
        options |= dict(attention_mask=torch.tensor(self.mask_GP.astype(np.int64)))
        model.generation_config.eos_token_id = None  # replies go on, as elsewhere
        model.generation_config.pad_token_id = 0

        def reply() -> dict[str, float]:
            with torch.inference_mode():
                out = model.generate(ids, **options)[:, ids.shape[1] :]
            return self._did("transformers", out.numpy())

        return reply

    def llama_cpp(self, file: pathlib.Path, cores: int) -> Side:
        from tools.crosscheck import llama_cpp

        model = llama_cpp.load(str(file))
        options = dict(threads=cores)
        reply = lambda: llama_cpp.greedy(model, self.one, self.count, **options)
        return lambda: self._did("llama.cpp", np.array([reply()]))

    def _did(self, side: str, tokens_BR: np.ndarray) -> dict[str, float]:
        self.tokens[side] = np.asarray(tokens_BR)
        return {"tokens": tokens_BR.size}


def recipe(args) -> dict:
    """The config of the recipe as JSON, at one rate, without evaluations."""
    c = smollm2.get_config()
    c.init.run, c.data.sources.hh.path = args.run, args.data
    c.length = c.model.max_length = args.length
    c.schedule.warmup_steps, c.schedule.final = 0, 1.0  # the rate of the other side
    c.evaluation.every = c.sample.every = None
    return config.to_json(c)


def load_pairs(experiment: build.Experiment, pairs: int) -> list[tuple]:
    """The first pairs that fit, as ids of `(prompt, chosen, rejected)`.

    Raises:
      DataError: there are fewer.
    """
    c, padded = experiment.config, dict(share_prompt=False, pack="none")
    c = dataclasses.replace(c, data=dataclasses.replace(c.data, **padded))
    experiment = experiment._replace(config=c)
    data = build.load_data(experiment, experiment.tokenizer, "train")
    rows = np.arange(min(data.num_rows, 16 * pairs))
    documents = pair_batches.of_batch(types.batch(data.epoch_rows(rows)))
    documents = [x for x in documents if sum(map(len, x)) <= c.length]
    if len(documents) < pairs:
        raise errors.DataError(
            f"data: {len(documents)} of the first {len(rows)} pairs fit "
            f"--length={c.length}; {pairs} are needed"
        )
    return documents[:pairs]


class Step:
    """A step of the recipe on these pairs, and how many numbers it trains."""

    def __init__(self, experiment: build.Experiment, documents: list):
        self.experiment = experiment
        self.state = experiment.weights.state()
        self.frozen = experiment.weights.frozen()
        batch = pair_batches.batch(documents, "shared", experiment.config.length)
        self.batch, self.key = jax.device_put(batch), jax.random.key(1)
        self.train_step = running.train_step(experiment)
        self.trained = trees.count(self.state.params)

    def __call__(self) -> dict[str, float]:
        with sharding.use(self.experiment.mesh, self.experiment.rules):
            arguments = self.state, self.frozen, self.batch, self.key
            self.state, metrics = self.train_step(*arguments)
        return {"loss": float(metrics["loss"]), "trained": self.trained}


class TrlStep:
    """The same step of TRL's trainer with PEFT's adapters, by its own collator."""

    def __init__(self, model, section: Mapping, documents: list, vocab: int):
        import datasets
        import peft
        import torch
        import trl

        from tools.crosscheck import texts

        end = documents[0][1][-1]
        names = ("prompt", "chosen", "rejected")
        rows = [
            {n: texts.text(ids, end) for n, ids in zip(names, parts, strict=True)}
            for parts in documents
        ]
        self.folder, self.torch = tempfile.TemporaryDirectory(), torch
        fields = section["model"]
        self.trainer = trl.DPOTrainer(
            model=model,
            peft_config=peft.LoraConfig(
                r=fields["lora_rank"],
                lora_alpha=fields["lora_alpha"],
                target_modules="all-linear",
                task_type="CAUSAL_LM",
            ),
            args=trl.DPOConfig(
                output_dir=self.folder.name,
                report_to="none",
                use_cpu=True,
                bf16=False,
                gradient_checkpointing=False,
                per_device_train_batch_size=len(documents),
                max_length=None,
                learning_rate=section["optimizer"]["learning_rate"],
                disable_tqdm=True,
                beta=section["objective"]["beta"],
            ),
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=texts.tokenizer(vocab, end),
        )
        self.trainer.create_optimizer()
        rows = [self.trainer.train_dataset[i] for i in range(len(documents))]
        self.batch = self.trainer.data_collator(rows)
        self.trainer.model.train()
        parameters = self.trainer.model.parameters()
        self.parameters = [x for x in parameters if x.requires_grad]

    def __call__(self) -> dict[str, float]:
        trainer = self.trainer
        trainer.current_gradient_accumulation_steps = 1
        loss = trainer.training_step(trainer.model, dict(self.batch)).item()
        self.torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()
        return {"loss": loss, "trained": sum(x.numel() for x in self.parameters)}


def process(*command: str) -> dict[str, float]:
    """The time and the memory of a command. Raises ConfigError where it fails."""
    with tempfile.TemporaryFile() as output:
        start = time.perf_counter()
        child = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        peak, ended = 0, 0
        while not ended:
            peak = max(peak, _peak(child.pid))
            time.sleep(0.02)
            ended, status, usage = os.wait4(child.pid, os.WNOHANG)
        wall = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            output.seek(0)
            words = output.read().decode(errors="replace").strip()
            raise errors.ConfigError(f"{' '.join(command)} failed: {words[-2000:]}")
    cpu = usage.ru_utime + usage.ru_stime
    return {"cpu_s": cpu, "wall_s": wall, "peak_MiB": peak / 1024}


def _peak(pid: int) -> int:
    """KiB that a process held at most; its usage counts those of its parent too."""
    try:
        lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:  # it has ended
        return 0
    return next((int(x.split()[1]) for x in lines if x.startswith("VmHWM")), 0)


def opening(run: str, folder: pathlib.Path | None) -> dict[str, Side]:
    options = [f"--run={run}", f"--prompt={QUESTIONS[0]}", "--temperature=0"]
    command = [sys.executable, "-m", "alignjax", "generate", *options, "--max_tokens=1"]
    sides = {"alignjax": functools.partial(process, *command)}
    if folder is not None:
        command = [sys.executable, "-c", FIRST_TOKEN, str(folder), QUESTIONS[0]]
        sides["transformers"] = functools.partial(process, *command)
    return sides


def importing(file: str, nbytes: int, folder: pathlib.Path) -> Side:
    target = folder / "imported"
    command = [sys.executable, "-m", "alignjax", "convert", "import"]

    def once() -> dict[str, float]:
        shutil.rmtree(target, ignore_errors=True)
        facts = process(*command, file, str(target))
        return facts | {"times_float32": facts["peak_MiB"] * 2**20 / nbytes}

    return once


class Peers:
    """The weights of a run in the forms of others, made when they are first asked for.

    Attributes:
      folder: for what is written.
    """

    def __init__(self, run: analysis.Run, folder: pathlib.Path):
        self.run, self.folder = run, folder

    @functools.cached_property
    def transformers_folder(self) -> pathlib.Path:
        plan = conversion.plan_export(self.run.path, self.folder / "transformers")
        return conversion.export_run(plan)

    @functools.cached_property
    def gguf(self) -> pathlib.Path:
        plan = conversion.plan_gguf(self.run.path, self.folder / "model.gguf")
        return conversion.export_run(plan)

    def transformers(self):
        import torch
        import transformers

        load = transformers.AutoModelForCausalLM.from_pretrained
        return load(str(self.transformers_folder), dtype=torch.float32).eval()


def measure(case: str, args, run: analysis.Run, peers: Peers) -> dict[str, dict]:
    """Figures of a case by side."""
    sides: dict[str, Side] = {}
    if case in ROWS:
        replies = Replies(run, ROWS[case], args.tokens)
        sides["alignjax"] = replies.alignjax()
        if not args.alone:
            sides["transformers"] = replies.transformers(peers.transformers())
            if case == "greedy" and importlib.util.find_spec("cyllama"):
                sides["llama.cpp"] = replies.llama_cpp(peers.gguf, args.cores)
        figures = in_turns(sides, args.turns)
        for name, facts in figures.items():
            facts["tokens_per_cpu_s"] = facts["tokens"] / facts["cpu_s"]
            same = replies.tokens[name] == replies.tokens["alignjax"]
            facts["equal_tokens"] = float(same.mean())
        return figures
    if case == "dpo":
        section = recipe(args)
        experiment = build.build(section)
        documents = load_pairs(experiment, args.pairs)
        sides["alignjax"] = Step(experiment, documents)
        if not args.alone:
            vocab = run.model.config.vocab_size
            model = peers.transformers()
            sides["TRL"] = TrlStep(model, section, documents, vocab)
        figures = in_turns(sides, args.turns)
        tokens = sum(2 * len(p) + len(c) + len(r) for p, c, r in documents)
        for facts in figures.values():
            facts |= {"pairs": len(documents), "tokens": tokens}
            facts["tokens_per_cpu_s"] = tokens / facts["cpu_s"]
        return figures
    if case == "open":
        folder = None if args.alone else peers.transformers_folder
        return in_turns(opening(args.run, folder), args.turns)
    nbytes = 4 * trees.count(run.params())
    sides["alignjax"] = importing(args.gguf, nbytes, peers.folder)
    return in_turns(sides, args.turns)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("run", help="the run, such as runs/smollm2")
    add("--cases", help=f"some of {','.join(CASES)}; all whose files are named")
    add("--data", help="a file of HH's pairs, for dpo")
    add("--gguf", metavar="FILE", help="for import")
    add("--small", action="store_true", help="8 tokens, 2 pairs, 1 turn: a trial")
    add("--tokens", type=int, help="of a reply (64)")
    add("--pairs", type=int, help="of a step (4)")
    add("--length", type=int, default=384, help="tokens of a row (%(default)s)")
    add("--turns", type=int, help="of each side, after one that does not count (3)")
    add("--cores", type=int, default=1, help="and threads of each side (%(default)s)")
    add("--alone", action="store_true", help="alignjax without the others")
    add("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    sizes = dict(tokens=(64, 8), pairs=(4, 2), turns=(3, 1))
    for name, values in sizes.items():
        if getattr(args, name) is None:
            setattr(args, name, values[args.small])
    files = {"dpo": ("data", args.data), "import": ("gguf", args.gguf)}
    lacking = {case: name for case, (name, file) in files.items() if not file}
    chosen = [case for case in CASES if case not in lacking]
    chosen = chosen if args.cases is None else args.cases.split(",")
    for case in chosen:
        if case not in CASES:
            parser.error(f"--cases: {case!r} is not one of {', '.join(CASES)}")
        if case in lacking:
            parser.error(f"--cases: {case} needs --{lacking[case]}")
    processors = sorted(os.sched_getaffinity(0))
    for name in ("tokens", "pairs", "turns", "cores"):
        if getattr(args, name) < 1:
            parser.error(f"--{name}: {getattr(args, name)} must be at least 1")
    if args.cores > len(processors):
        parser.error(f"--cores: {args.cores}, where there are {len(processors)}")
    os.sched_setaffinity(0, processors[: args.cores])
    os.environ["OMP_NUM_THREADS"] = str(args.cores)
    try:
        timing.show(report(args, chosen), args.json)
    except errors.AlignError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def report(args, cases: list[str]) -> dict:
    """Figures by case and side, and how much faster alignjax is than each other."""
    if not args.alone:
        if "dpo" in cases:
            requires.packages("peft")
            requires.trl()
        requires.packages("torch", "transformers")
        import torch

        torch.set_num_threads(args.cores)
    log = functools.partial(print, file=sys.stderr, flush=True)
    log(f"{', '.join(cases)}: {args.turns} turns of each side on {args.cores} core(s)")
    cli.keep_programs(cli.CACHE_DIR)
    run, out = analysis.open_run(args.run), {}
    with tempfile.TemporaryDirectory() as folder:
        peers = Peers(run, pathlib.Path(folder))
        for case in cases:
            figures = measure(case, args, run, peers)
            out |= {f"{case} {side}": facts for side, facts in figures.items()}
            own = figures.pop("alignjax")
            for side, facts in figures.items():
                ratios = {k: facts[k] / own[k] for k in ("cpu_s", "wall_s")}
                out[f"{case} times {side}"] = ratios
                log(f"{case}: {ratios['cpu_s']:.2f} times as fast as {side}")
    return out


if __name__ == "__main__":
    sys.exit(main())
