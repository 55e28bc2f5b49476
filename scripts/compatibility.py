"""Generate the table of docs/compatibility.md from the engine adapters. Run it after changing one.

python scripts/compatibility.py
"""

from __future__ import annotations

from pathlib import Path

from vllm_obtain.config.settings import Settings
from vllm_obtain.engines.adapter import Adapter
from vllm_obtain.engines.registry import BUILT_IN, adapter
from vllm_obtain.gateway.inference.context import ADVISORY
from vllm_obtain.protocol.requests import ChatRequest, CompletionRequest, InferenceFields

FILE = Path(__file__).parent.parent / "docs" / "compatibility.md"
BEGIN, END = "<!-- table -->\n", "<!-- end of the table -->\n"

# Remarks in the last column.
NOTES = {
    "presence_penalty": "llama.cpp also counts prompt tokens; the other engines count only the "
    "completion",
    "frequency_penalty": "llama.cpp also counts prompt tokens; the other engines count only the "
    "completion",
    "repetition_penalty": "counts prompt and completion",
    "seed": "same random numbers on one engine; engines differ from each other",
    "n": "at temperature 0 all choices are the same completion, generated once",
    "tools": "in the format of the chat template, or described in the prompt",
    "reasoning_effort": "if the chat template supports it",
    "enable_thinking": "if the chat template supports it",
    "think": "if the chat template supports it",
    "continue_final_message": "if the chat template keeps the last message unchanged",
    "echo": "not together with `logprobs`",
    "modalities": '`["text"]` is accepted',
    "functions": "deprecated name of `tools`; use `tools`",
    "function_call": "deprecated name of `tool_choice`; use `tool_choice`",
}
_IMAGES = "with a vision model; a `detail` other than `auto` is ignored"


def rows() -> list[str]:
    """Render the table: one row per parameter of chat completions and completions."""
    engines = [adapter(name, Settings.load({})) for name in BUILT_IN]
    names = dict.fromkeys([*ChatRequest.__struct_fields__, *CompletionRequest.__struct_fields__])
    head = ["Parameter", *(engine.name for engine in engines), "Notes"]
    lines = [head, ["---"] * len(head)]
    lines += [
        [f"`{name}`", *(_verdict(name, engine) for engine in engines), NOTES.get(name, "")]
        for name in names
    ]
    images = [
        "`image_url` parts",
        *("yes" if engine.supports_images else "400" for engine in engines),
        _IMAGES,
    ]
    lines.insert(lines.index(next(line for line in lines if line[0] == "`messages`")) + 1, images)
    return [f"| {' | '.join(line)} |".replace("|  |", "| |") for line in lines]


def _verdict(name: str, engine: Adapter) -> str:
    known = InferenceFields.LABELS | InferenceFields.OURS | engine.parameters
    if name in known:
        return "yes"
    return "ignored" if name in ADVISORY else "400"


def main() -> None:
    """Replace the table in docs/compatibility.md."""
    before, _, rest = FILE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    FILE.write_text(before + BEGIN + "\n".join(["", *rows(), "", ""]) + END + after)


if __name__ == "__main__":
    main()
