# SPDX-License-Identifier: Apache-2.0
"""Tiny tokenizers with chat templates, as the hub's repositories have them.

Each has the form of a family's own: the same classes of `tokenizers`, the same kinds of
special tokens and files. What they know is a few English words.
"""

from __future__ import annotations

import json
import pathlib

import tokenizers as library
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

# Characters of a byte-level BPE, in the order of its 256 bytes.
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
MERGES = (
    "t h|th e|Ġ the|i n|a n|e r|Ġ a|o u|r e|Ġ w|Ġ s|Ġ t|an d|in g|Ġ o|Ġ c|Ġ b|Ġ in|"
    "e s|o r|i s|o n|Ġ f|e n|l l|Ġ m|Ġ p|Ġ d|e d|i t|Ġ h|o f"
).split("|")

CHATML = """{%- if messages[0]['role'] != 'system' -%}
{{- '<|im_start|>system\\nBe brief.<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] -}}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}"""

LLAMA3 = """{{- bos_token -}}
{%- for message in messages -%}
{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' -}}
{{- message['content'] | trim + '<|eot_id|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
{%- endif -%}"""

GEMMA = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
{%- set prefix = messages[0]['content'] + '\\n\\n' -%}
{%- set turns = messages[1:] -%}
{%- else -%}
{%- set prefix = '' -%}
{%- set turns = messages -%}
{%- endif -%}
{%- for message in turns -%}
{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
{{ raise_exception('user and assistant do not take turns') }}
{%- endif -%}
{%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
{{ '<start_of_turn>' + role + '\\n' + (prefix if loop.first else '') }}
{{- message['content'] | trim + '<end_of_turn>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<start_of_turn>model\\n' }}
{%- endif -%}"""


def _special(text: str) -> library.AddedToken:
    return library.AddedToken(text, special=True, normalized=False)


def _byte_level(special: list[str]) -> library.Tokenizer:
    """A byte-level BPE: 256 bytes, what they merge to, then the special tokens."""
    merges = [tuple(merge.split(" ")) for merge in MERGES]
    pieces = [*BYTES, *(left + right for left, right in merges)]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    tok = library.Tokenizer(models.BPE(vocab, merges))
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    tok.add_special_tokens([_special(text) for text in special])
    return tok


def _write(
    folder: pathlib.Path, tok: library.Tokenizer, config: dict, template: str | None
) -> None:
    """Files as a hub repository has them; the template stands in a file or in one."""
    tok.save(str(folder / "tokenizer.json"))
    added = {
        str(i): {
            "content": token.content,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": True,
        }
        for i, token in tok.get_added_tokens_decoder().items()
    }
    config = {"added_tokens_decoder": added, **config}
    config |= dict(clean_up_tokenization_spaces=False)
    config |= dict(tokenizer_class="PreTrainedTokenizerFast")
    if template is not None:
        config["chat_template"] = template
    text = json.dumps(config, indent=2) + "\n"
    (folder / "tokenizer_config.json").write_text(text)


def chatml(folder: pathlib.Path) -> None:
    """As Qwen's: no start of text, padding is <|endoftext|>, <|im_end|> ends a turn."""
    tok = _byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    config = dict(bos_token=None, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    config |= dict(add_bos_token=False, model_max_length=256)
    _write(folder, tok, config, CHATML)


def llama3(folder: pathlib.Path) -> None:
    """As Llama 3's: encoding adds the start, which stands in the template too."""
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>"]
    special += ["<|end_header_id|>", "<|eot_id|>"]
    tok = _byte_level(special)
    start = (special[0], tok.token_to_id(special[0]))
    tok.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=f"{special[0]} $A",
                pair=f"{special[0]} $A {special[0]}:1 $B:1",
                special_tokens=[start],
            ),
        ]
    )
    config = dict(bos_token=special[0], eos_token=special[-1], model_max_length=256)
    _write(folder, tok, config, LLAMA3)
    names = dict(bos_token=special[0], eos_token=special[-1])
    text = json.dumps(names, indent=2) + "\n"
    (folder / "special_tokens_map.json").write_text(text)


def gemma(folder: pathlib.Path) -> None:
    """As Gemma's: bytes where a character is unknown, and U+2581 for spaces."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
    pieces = [*special, *(f"<0x{i:02X}>" for i in range(256))]
    pieces += ["\n", "▁", *map(chr, range(33, 127))]
    merges = []
    for left, right in ("th", "he", "in", "an", "er", "▁a", "ou", "re"):
        merges.append((left, right))
        pieces.append(left + right)
    vocab = {piece: i for i, piece in enumerate(pieces)}
    tok = library.Tokenizer(
        models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    tok.normalizer = normalizers.Replace(" ", "▁")
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tok.decoder = decoders.Sequence(steps)
    tok.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos>:1 $B:1", special_tokens=[("<bos>", 2)]
    )
    tok.add_special_tokens([_special(text) for text in special])
    config = dict(bos_token="<bos>", eos_token="<eos>", pad_token="<pad>")
    config |= dict(unk_token="<unk>", model_max_length=256)
    _write(folder, tok, config, None)
    (folder / "chat_template.jinja").write_text(GEMMA)


KINDS = {"chatml": chatml, "llama3": llama3, "gemma": gemma}
