"""Builds tokenizer_config.json: special tokens and the chat template."""

from __future__ import annotations

from vllm_obtain.models.convert.gguf_source import GGUFSource
from vllm_obtain.models.convert.tokenizer_json import added_tokens
from vllm_obtain.models.convert.vocabulary import Vocabulary


def tokenizer_config(source: GGUFSource, vocabulary: Vocabulary) -> dict[str, object]:
    content: dict[str, object] = {
        # This class uses tokenizer.json unchanged; the model-specific classes rebuild it.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": source.hyper("context_length"),
        "clean_up_tokenization_spaces": False,
        "add_bos_token": vocabulary.add_bos,
        "add_eos_token": vocabulary.add_eos,
        "added_tokens_decoder": {
            str(index): {
                "content": token.content,
                "lstrip": False,
                "normalized": False,
                "rstrip": False,
                "single_word": False,
                "special": token.special,
            }
            for index, token in added_tokens(vocabulary)
        },
    }
    for name, token_id in (
        ("bos_token", vocabulary.bos),
        ("eos_token", vocabulary.eos),
        ("pad_token", vocabulary.pad),
        ("unk_token", vocabulary.unknown),
    ):
        content[name] = None if token_id is None else vocabulary.tokens[token_id]
    template = source.text("tokenizer.chat_template")
    if template:
        content["chat_template"] = template
    return content
