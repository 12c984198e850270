# SPDX-License-Identifier: Apache-2.0
"""Every field of a config, with its default and what it means.

A config file starts from here and changes what it needs. A field of None stands for the
default of the code that reads it, and a flag can set it; to clear a field that a file
sets, change the file. What a chosen part (an optimizer, a schedule, a family) does not
take is refused.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def language_model() -> ConfigDict:
    """Next-token prediction: pretraining."""
    c = ConfigDict()
    c.init = ConfigDict()  # another run, to start from its parameters
    c.init.run = placeholder(str)  # its directory; None starts from random ones
    c.init.step = placeholder(int)  # of its checkpoints; None is the newest
    c.reference = ConfigDict()  # the model that some objectives compare with
    c.reference.run = placeholder(str)  # None is where the policy starts from
    c.reference.step = placeholder(int)
    c.reference.store = False  # keep its log-probs on disk, and not it in memory
    c.reference.update_every = placeholder(int)  # TR-DPO: updates between its moves
    c.reference.update_share = placeholder(float)  # 0.6 is soft, 1 a copy of the policy
    c.trainable = ".*"  # the parameters that are trained, by path
    c.seed = 0  # of the parameters, of dropout and of the order of the data
    c.steps = placeholder(int)  # updates; schedules are stretched over them
    c.batch_size = placeholder(int)  # rows of a step, on all devices together
    c.length = placeholder(int)  # T, tokens of a row
    c.microbatches = 1  # parts that a batch goes through the model in; same update
    c.nonfinite = "stop"  # or "skip": what a loss or gradient of NaN or infinity does
    c.max_skipped = 10  # in a row, after which "skip" stops too
    c.watchdog = 1800.0  # seconds without progress after which the run is ended
    c.prefetch = 4  # batches fetched ahead
    c.cache_dir = "~/.cache/alignjax"  # tokens, tokenizers and compiled programs

    c.model = model()
    c.objective = ConfigDict()
    c.objective.name = "language_model"  # of objectives.OBJECTIVES, or module:function
    c.objective.loss = placeholder(str)  # "cross_entropy", or "dft" for fine-tuning
    c.objective.z_loss = placeholder(float)  # weight of log(Z)^2; 1e-4 is usual
    c.objective.router_scope = placeholder(str)  # of the balance: "microbatch", "batch"
    c.objective.chunk = placeholder(int)  # positions whose logits exist at one time

    c.tokenizer = ConfigDict()
    c.tokenizer.kind = "sentencepiece"  # or "bytes", "chars", "huggingface"
    c.tokenizer.path = placeholder(str)  # a model to read instead of training one
    c.tokenizer.vocab_size = placeholder(int)  # of a trained model
    c.tokenizer.model_type = placeholder(str)  # "bpe" or "unigram"
    c.tokenizer.byte_fallback = placeholder(bool)  # spell the unknown in bytes
    c.tokenizer.control_tokens = placeholder(tuple)  # tokens that no text can spell
    c.tokenizer.eos_token = placeholder(str)  # where a tokenizer.json does not tell
    c.tokenizer.train_bytes = placeholder(int)  # of the corpus, to train on

    c.data = ConfigDict()
    c.data.sources = ConfigDict()  # name -> kind, weight and the options of the kind
    c.data.validation_sources = ConfigDict()  # likewise, instead of holding out
    c.data.validation_fraction = 0.01  # of the data, held out
    c.data.validation_by = "hash"  # of each document; or "tail", the end of the corpus
    c.data.on_bad_row = "error"  # or "skip", counted and reported
    c.data.pack = "best_fit"  # several documents a row; or "none"
    c.data.long_documents = "split"  # those beyond the length; or "error", "skip"
    c.data.bos = True  # whether documents start with the start token
    # How dialogues become tokens: "roles", or a chat template: "tokenizer", its own; a
    # built-in one, "chatml", "gemma", "llama3", "mistral" or "world"; a .jinja file.
    c.data.chat = placeholder(str)
    c.data.train_on = placeholder(str)  # "all" replies, the "last" one, "everything"
    c.data.share_prompt = placeholder(bool)  # read a prompt once for all its responses
    c.data.groups_per_row = placeholder(int)  # of packed pairs and lists, at most
    c.data.workers = placeholder(int)  # processes that tokenise; all processors

    c.optimizer = optimizer()
    c.schedule = ConfigDict()
    c.schedule.name = "cosine"  # or "constant", "linear", "wsd", "rsqrt"
    c.schedule.warmup_steps = placeholder(int)  # either of the two
    c.schedule.warmup_tokens = placeholder(int)
    c.schedule.final = placeholder(float)  # last rate, as a share of the peak
    c.schedule.decay = placeholder(float)  # wsd: the share of steps that goes down
    c.schedule.timescale = placeholder(int)  # rsqrt: steps

    c.mesh = ConfigDict(dict(data=1, fsdp=-1, tensor=1))  # -1 takes what remains
    c.sharding_rules = ConfigDict()  # axis of arrays -> axis of the mesh

    c.checkpoint = ConfigDict()
    c.checkpoint.every = 500  # steps
    c.checkpoint.keep_last = 2
    c.checkpoint.keep_every = placeholder(int)  # keep multiples of this for ever
    c.checkpoint.keep_best = placeholder(tuple)  # ("eval/loss", "min") keeps the best
    c.checkpoint.timeout = 600.0  # seconds for a save
    c.checkpoint.accept = ()  # fields in which a resumed run may differ

    c.evaluation = ConfigDict()
    c.evaluation.every = placeholder(int)  # steps; None is never
    c.evaluation.batches = placeholder(int)  # at most; None is all
    c.sample = ConfigDict()
    c.sample.every = placeholder(int)  # steps; None is never
    c.sample.prompts = ("",)
    c.sample.max_tokens = 64
    c.sample.temperature = 0.8
    c.sample.top_p = placeholder(float)
    c.log = ConfigDict()
    c.log.every = 10  # steps between lines of the log; metrics.jsonl has every step
    c.log.tensorboard = True
    c.log.wandb = placeholder(str)  # a project; needs the extra
    return c


def sft() -> ConfigDict:
    """Fine-tuning on dialogues: the loss is on what the assistant says."""
    c = _from_another_run(language_model())
    c.schedule.final = 0.1
    return c


def reward_model() -> ConfigDict:
    """A model that scores responses, from comparisons."""
    c = _from_another_run(language_model())
    c.model.score_heads = 1  # members x attributes
    c.objective = ConfigDict()
    c.objective.name = "reward_model"
    c.objective.loss = "bradley_terry"  # of losses.catalogue.REWARD
    c.objective.pooling = placeholder(str)  # "last" token of a response, or the "mean"
    c.objective.members = placeholder(int)  # heads that learn apart, an ensemble
    c.objective.reduce = placeholder(str)  # to one score: "mean", "min", "penalised"
    c.objective.penalty = placeholder(float)  # standard deviations taken off
    c.objective.bootstrap = placeholder(bool)  # members see samples of the pairs
    c.objective.router_scope = placeholder(str)  # of the balance: "microbatch", "batch"
    c.objective.centring = placeholder(float)
    c.objective.label_smoothing = placeholder(float)
    return c


def preference() -> ConfigDict:
    """Preference optimisation; `python -m alignjax.losses` lists losses and options."""
    c = _from_another_run(language_model())
    c.objective = ConfigDict()
    c.objective.name = "preference"
    c.objective.loss = "dpo"  # of losses.catalogue, or module:function
    c.objective.mixture = ConfigDict()  # loss -> weight, or {weight, option: value}
    c.objective.router_scope = placeholder(str)  # of the balance: "microbatch", "batch"
    c.objective.chunk = placeholder(int)  # positions whose logits exist at one time
    # What losses take; one that the loss at hand does not take is refused.
    for option in (
        "beta alpha gamma eta delta label_smoothing temperature penalty clip drop "
        "sensitivity odds_weight nll_weight preference_weight quality_weight "
        "generation_weight desirable_weight undesirable_weight"
    ).split():
        c.objective[option] = placeholder(float)
    for option in ("divergence", "link", "distance"):
        c.objective[option] = placeholder(str)
    return c


def _from_another_run(c: ConfigDict) -> ConfigDict:
    """Model and tokenizer are those of `init.run`, but for the fields that are set."""
    c.model.family, c.model.name = placeholder(str), placeholder(str)
    c.tokenizer.kind = placeholder(str)
    c.data.chat = "roles"
    c.data.long_documents = "error"  # or "skip", "truncate_prompt"; all are counted
    return c


def model() -> ConfigDict:
    """A size of a family, and what is different from it."""
    m = ConfigDict()
    m.family = "llama"  # a module of alignjax.models
    m.name = "nano"  # a size in its CONFIGS
    sizes = "vocab_size d_model layers heads kv_heads head_dim d_ff max_length context"
    experts = "window experts experts_per_token expert_d_ff"
    for field in f"{sizes} {experts} unroll score_heads lora_rank".split():
        m[field] = placeholder(int)
    for field in (
        "norm norm_placement positions activation attention_bias qk_norm dtype "
        "attention remat lora_targets base"
    ).split():
        m[field] = placeholder(str)
    flags = "mlp_bias norm_topk tied embedding_scale lora_rslora lora_dora"
    for field in flags.split():
        m[field] = placeholder(bool)
    for field in (
        "norm_epsilon norm_offset rope_theta local_rope_theta rope_fraction "
        "attention_scale attention_softcap logit_softcap dropout init_std "
        "embedding_noise lora_alpha lora_dropout router_loss router_z_loss"
    ).split():
        m[field] = placeholder(float)
    m.window_pattern = placeholder(tuple)
    m.rope_scaling = placeholder(dict)
    return m


def optimizer() -> ConfigDict:
    """The rate, clipping and averaging, and the options of all optimizers."""
    o = ConfigDict()
    o.name = "adamw"  # or "adafactor", "lion", "muon", "sgd"
    o.learning_rate = placeholder(float)  # the peak of the schedule
    o.clip_norm = 1.0  # of the whole gradient; None is off
    o.decay = r".*(kernel|embed|head|lora_[ab])"  # what weight decay applies to
    o.ema = placeholder(float)  # decay of an average of the weights; None is off
    o.weight_decay = placeholder(float)
    o.b1 = placeholder(float)
    o.b2 = placeholder(float)
    o.eps = placeholder(float)
    o.momentum = placeholder(float)
    o.moment_dtype = placeholder(str)
    o.nesterov = placeholder(bool)
    o.rms = placeholder(float)
    o.factor_from = placeholder(int)
    return o
