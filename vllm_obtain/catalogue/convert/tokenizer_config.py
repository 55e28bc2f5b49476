"""tokenizer_config.json: which tokens are special, and how a conversation becomes a prompt."""

from __future__ import annotations

from vllm_obtain.catalogue.convert.source import Source
from vllm_obtain.catalogue.convert.tokenizer import added_tokens
from vllm_obtain.catalogue.convert.vocabulary import Vocabulary


def tokenizer_config(source: Source, words: Vocabulary) -> dict[str, object]:
    """The content of tokenizer_config.json."""
    content: dict[str, object] = {
        # The class that takes tokenizer.json as it is; the families' own would rebuild it.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": source.hyper("context_length"),
        "clean_up_tokenization_spaces": False,
        "add_bos_token": words.add_bos,
        "add_eos_token": words.add_eos,
        "added_tokens_decoder": {
            str(index): {
                "content": token.content,
                "lstrip": False,
                "normalized": False,
                "rstrip": False,
                "single_word": False,
                "special": token.special,
            }
            for index, token in added_tokens(words)
        },
    }
    for name, token_id in (
        ("bos_token", words.bos),
        ("eos_token", words.eos),
        ("pad_token", words.pad),
        ("unk_token", words.unknown),
    ):
        content[name] = None if token_id is None else words.tokens[token_id]
    template = source.text("tokenizer.chat_template")
    if template:
        content["chat_template"] = template
    return content
