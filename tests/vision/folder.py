"""The tiny model that can see once more, as a folder of the family Idefics3 (SmolVLM)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from tests.vision.model import HEADS, HIDDEN, IMAGE, INNER, LAYERS, PATCH, TOKENS
from vllm_obtain.models.convert.gguf_source import open_source
from vllm_obtain.models.convert.tokenizer_config import tokenizer_config
from vllm_obtain.models.convert.tokenizer_json import tokenizer
from vllm_obtain.models.convert.vocabulary import read_vocabulary

# The words of the family for images; the first one stands for an image in a prompt.
WORDS = ("<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>")
# Four patches are a token; around them are three more.
SCALE = 2
IMAGE_TOKENS = TOKENS // SCALE**2
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}"
    "{% else %}{% for part in m.content %}{% if part.type == 'image' %}<image>{% else %}"
    "{{ part.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_HEADS = ("q_proj", "k_proj", "v_proj", "out_proj")


def write_folder(folder: Path, source: Path, seed: int = 7) -> Path:
    """Write the folder.

    Args:
        folder: where; it is made.
        source: a GGUF file whose tokens are taken.
        seed: of the weights.
    """
    folder.mkdir(parents=True)
    count = _write_words(folder, source)
    _json(folder / "config.json", _config(count))
    processor = {"processor_class": "Idefics3Processor", "image_seq_len": IMAGE_TOKENS}
    _json(folder / "processor_config.json", processor)
    _json(folder / "preprocessor_config.json", _preparation())
    draw = np.random.default_rng(seed)
    weights = {name: _random_tensor(name, shape, draw) for name, shape in _shapes(count).items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _write_words(folder: Path, source: Path) -> int:
    """Write the tokenizer with words for images; returns how many tokens there are."""
    with open_source(source) as opened:
        words = read_vocabulary(opened)
        config = tokenizer_config(opened, words)
        response = json.loads(tokenizer(words).to_str())
    count = len(words.tokens)
    for number, word in enumerate(WORDS, count):
        token = {"content": word, "lstrip": False, "normalized": False, "rstrip": False}
        token |= {"single_word": False, "special": True}
        response["added_tokens"].append({"id": number, **token})
        config["added_tokens_decoder"][str(number)] = token  # type: ignore[index]
    config["chat_template"] = TEMPLATE
    _json(folder / "tokenizer.json", response)
    _json(folder / "tokenizer_config.json", config)
    return count + len(WORDS)


def _config(count: int) -> dict[str, Any]:
    shared = {"hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": LAYERS}
    shared |= {"num_attention_heads": HEADS}
    text = {"model_type": "llama", "vocab_size": count}
    text |= {"max_position_embeddings": 1024, "rms_norm_eps": 1e-5, "tie_word_embeddings": False}
    # One head of 64: vLLM's attention on CPUs takes no small ones.
    text |= {"num_attention_heads": 1, "num_key_value_heads": 1}
    text |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    vision = {"model_type": "idefics3_vision", "image_size": IMAGE, "patch_size": PATCH}
    return {
        "architectures": ["Idefics3ForConditionalGeneration"],
        "model_type": "idefics3",
        "image_token_id": count - len(WORDS),
        "scale_factor": SCALE,
        "pad_token_id": 2,
        "torch_dtype": "float32",
        "tie_word_embeddings": False,
        "text_config": shared | text,
        "vision_config": shared | vision,
    }


def _preparation() -> dict[str, Any]:
    return {
        "image_processor_type": "Idefics3ImageProcessor",
        "processor_class": "Idefics3Processor",
        "do_convert_rgb": True,
        "do_image_splitting": False,
        "do_resize": True,
        "size": {"longest_edge": IMAGE},
        "max_image_size": {"longest_edge": IMAGE},
        "do_rescale": True,
        "do_normalize": True,
        "do_pad": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }


def _shapes(count: int) -> dict[str, tuple[int, ...]]:
    text, tower = "model.text_model", "model.vision_model"
    found: dict[str, tuple[int, ...]] = {
        f"{text}.embed_tokens.weight": (count, HIDDEN),
        f"{text}.norm.weight": (HIDDEN,),
        "lm_head.weight": (count, HIDDEN),
        f"{tower}.embeddings.patch_embedding.weight": (HIDDEN, 3, PATCH, PATCH),
        f"{tower}.embeddings.patch_embedding.bias": (HIDDEN,),
        f"{tower}.embeddings.position_embedding.weight": (TOKENS, HIDDEN),
        "model.connector.modality_projection.proj.weight": (HIDDEN, HIDDEN * SCALE**2),
    }
    found |= _norm(f"{tower}.post_layernorm")
    for layer in range(LAYERS):
        at = f"{text}.layers.{layer}"
        found |= {
            f"{at}.{name}.weight": shape
            for name, shape in {
                "input_layernorm": (HIDDEN,),
                "post_attention_layernorm": (HIDDEN,),
                "self_attn.q_proj": (HIDDEN, HIDDEN),
                "self_attn.k_proj": (HIDDEN, HIDDEN),
                "self_attn.v_proj": (HIDDEN, HIDDEN),
                "self_attn.o_proj": (HIDDEN, HIDDEN),
                "mlp.gate_proj": (INNER, HIDDEN),
                "mlp.up_proj": (INNER, HIDDEN),
                "mlp.down_proj": (HIDDEN, INNER),
            }.items()
        }
        at = f"{tower}.encoder.layers.{layer}"
        for name in _HEADS:
            found |= _linear(f"{at}.self_attn.{name}", HIDDEN, HIDDEN)
        found |= _linear(f"{at}.mlp.fc1", INNER, HIDDEN) | _linear(f"{at}.mlp.fc2", HIDDEN, INNER)
        found |= _norm(f"{at}.layer_norm1") | _norm(f"{at}.layer_norm2")
    return found


def _linear(name: str, out: int, into: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def _norm(name: str) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (HIDDEN,), f"{name}.bias": (HIDDEN,)}


def _random_tensor(name: str, shape: tuple[int, ...], draw: np.random.Generator) -> np.ndarray:
    if len(shape) == 1:
        centre = 1.0 if name.endswith("weight") else 0.0
        values = centre + 0.1 * draw.standard_normal(shape)
    else:
        scale = 0.2 if "embed_tokens" in name else shape[-1] ** -0.5
        values = scale * draw.standard_normal(shape)
    return values.astype(np.float32)


def _json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))
