# SPDX-License-Identifier: Apache-2.0
"""Tiny GGUF files, written by the library or by hand; no torch."""

import io
import pathlib
import struct

import gguf
import numpy as np

D, N, K, F, V = 256, 4, 2, 256, 300
LETTERS = [chr(i) for i in range(33, 127)] + [chr(i) for i in range(161, 173)]
LETTERS += [chr(i) for i in range(174, 256)] + [chr(i) for i in range(256, 324)]
MERGES = ["t h", "th e", "Ġ the", "i n", "Ġ a", "1 2"]
ENDS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TOKENS = [*ENDS, *LETTERS, *(merge.replace(" ", "") for merge in MERGES)]
TOKENS += [f"[PAD{i}]" for i in range(len(TOKENS), V)]
TYPES = [3] * 3 + [1] * (len(LETTERS) + len(MERGES))
TYPES += [5] * (V - len(TYPES))
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def quantisations() -> list:
    """All that the library dequantises, by what it does."""
    kinds = []
    for kind in gguf.GGMLQuantizationType:
        _, size = gguf.GGML_QUANT_SIZES[kind]
        try:
            gguf.quants.dequantize(np.zeros((1, size), np.uint8), kind)
        except NotImplementedError:
            continue
        kinds.append(kind)
    return kinds


def shapes(layers: int = 1) -> dict[str, tuple[int, ...]]:
    """Of the tensors of a Llama, as numpy has them."""
    out = {"token_embd.weight": (V, D), "output_norm.weight": (D,)}
    for i in range(layers):
        inner = {"attn_norm": (D,), "ffn_norm": (D,), "attn_q": (D, D)}
        inner |= {"attn_k": (K * D // N, D), "attn_v": (K * D // N, D)}
        inner |= {"attn_output": (D, D), "ffn_gate": (F, D), "ffn_up": (F, D)}
        inner |= {"ffn_down": (D, F)}
        out |= {f"blk.{i}.{name}.weight": shape for name, shape in inner.items()}
    return out


def write(path: pathlib.Path, kinds=None, tokens=TOKENS, drop=(), **entries):
    """A file of a Llama, by the library; returns `{name: (bytes, quantisation)}`.

    Args:
      kinds: `{name: quantisation}` of tensors that are no float32.
      drop: keys that are left out.
      entries: further metadata, by key with `__` for dots; texts, numbers or lists.
    """
    writer, random = gguf.GGUFWriter(path, "llama"), np.random.default_rng(0)
    metadata = {
        "llama.context_length": 64,
        "llama.embedding_length": D,
        "llama.block_count": 1,
        "llama.feed_forward_length": F,
        "llama.attention.head_count": N,
        "llama.attention.head_count_kv": K,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.freq_base": 10000.0,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": TYPES[: len(tokens)],
        "tokenizer.ggml.merges": MERGES,
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.chat_template": TEMPLATE,
    } | {key.replace("__", "."): value for key, value in entries.items()}
    for key, value in metadata.items():
        if key in drop:
            continue
        if isinstance(value, list):
            writer.add_array(key, value)
        elif isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        else:
            writer.add_uint32(key, value)
    written = {}
    for name, shape in shapes().items():
        kind = (kinds or {}).get(name, gguf.GGMLQuantizationType.F32)
        values = (0.1 * random.standard_normal(shape)).astype(np.float32)
        if kind == gguf.GGMLQuantizationType.F32:
            stored = values
        else:
            block, size = gguf.GGML_QUANT_SIZES[kind]
            rows = (*shape[:-1], shape[-1] // block * size)
            stored = random.integers(0, 256, rows, np.uint8)
        writer.add_tensor(name, stored, raw_dtype=kind)
        written[name] = stored, kind
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return written


def write_pieces(path: pathlib.Path, prefix: bool):
    """A file with a tokenizer of sentencepiece; returns the library's own.

    Args:
      prefix: whether a space goes before a text.
    """
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    lines = ["the cats ate the pies and the hats in the rain"] * 50
    lines += ["it ate 12 cats as the thin hat sat"] * 50
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        add_dummy_prefix=prefix,
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        user_defined_symbols=[] if prefix else ["\n"],  # as Llama and Gemma
        vocab_size=V,
        minloglevel=2,
    )
    library = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    pieces = sentencepiece_model_pb2.ModelProto.FromString(model.getvalue()).pieces
    special = {
        f"tokenizer__ggml__{x}_token_id": getattr(library, f"{y}_id")()
        for x, y in (("unknown", "unk"), ("bos", "bos"), ("eos", "eos"))
    }
    write(
        path,
        tokens=[piece.piece for piece in pieces],
        drop=("tokenizer.ggml.merges", "tokenizer.ggml.pre"),
        tokenizer__ggml__model="llama",
        tokenizer__ggml__scores=[piece.score for piece in pieces],
        tokenizer__ggml__token_type=[piece.type for piece in pieces],
        tokenizer__ggml__add_space_prefix=prefix,
        **special,
    )
    return library


def texts(count: int) -> list[str]:
    """Varied texts, the same each time; none begins with a space."""
    random = np.random.default_rng(1)
    words = (
        "the 12 cats ate 3.5 pies don't É é ß 日本語 🙂 \t \n \n\n   <|im_end|> it's"
    )
    words = [*words.split(" "), "  ", "x=1;", "A1b2", "<s>", "\u00a0", "e\u0301", "ﬁ"]
    joined = lambda: " ".join(random.choice(words, random.integers(1, 12)))
    return ["", "a", *("a" + joined() for _ in range(count))]


def string(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def header(tensors: int = 0, entries: int = 0, body: bytes = b"") -> bytes:
    """A file by hand: its magic number, version and counts, and what follows."""
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, entries) + body
