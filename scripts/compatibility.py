"""Write the table of docs/compatibility.md from the engines' own tables: run it after changing one.

python scripts/compatibility.py
"""

from __future__ import annotations

from pathlib import Path

from vllm_obtain.engines.base import Adapter
from vllm_obtain.engines.registry import BUILT_IN, adapter
from vllm_obtain.protocol.requests import ChatRequest, CompletionRequest, InferenceFields
from vllm_obtain.settings import Settings

FILE = Path(__file__).parent.parent / "docs" / "compatibility.md"
BEGIN, END = "<!-- table -->\n", "<!-- end of the table -->\n"

# What a yes alone would not tell.
NOTES = {
    "presence_penalty": "llama.cpp counts the prompt's tokens too, the others only the answer's",
    "frequency_penalty": "llama.cpp counts the prompt's tokens too, the others only the answer's",
    "repetition_penalty": "counts prompt and answer",
    "seed": "the same numbers are drawn on one engine; engines differ from each other",
    "n": "at temperature 0 all choices are one answer, made once",
    "tools": "the template's own form, or described in the prompt",
    "reasoning_effort": "where the chat template has it",
    "continue_final_message": "where the chat template leaves the last message as it is",
    "prediction": "it would only be a hint to be faster",
    "store": "`false` is accepted",
    "service_tier": "`auto` and `default` are accepted",
    "modalities": '`["text"]` is accepted',
    "functions": "the old name of `tools`",
    "function_call": "the old name of `tool_choice`",
}
_IMAGES = "with a model that can see; a `detail` other than `auto` is a 400"


def rows() -> list[str]:
    """The table, a line per parameter of both kinds of completion."""
    engines = [adapter(name, Settings.load({})) for name in BUILT_IN]
    names = dict.fromkeys([*ChatRequest.__struct_fields__, *CompletionRequest.__struct_fields__])
    head = ["parameter", *(engine.name for engine in engines), ""]
    lines = [head, ["---"] * len(head)]
    lines += [
        [f"`{name}`", *(_verdict(name, engine) for engine in engines), NOTES.get(name, "")]
        for name in names
    ]
    seen = ["`image_url` parts", *("yes" if engine.sees else "400" for engine in engines), _IMAGES]
    lines.insert(lines.index(next(line for line in lines if line[0] == "`messages`")) + 1, seen)
    return [f"| {' | '.join(line)} |".replace("|  |", "| |") for line in lines]


def _verdict(name: str, engine: Adapter) -> str:
    known = InferenceFields.LABELS | InferenceFields.OURS | engine.parameters
    return "yes" if name in known else "400"


def main() -> None:
    """Write the table into the page."""
    before, _, rest = FILE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    FILE.write_text(before + BEGIN + "\n".join(["", *rows(), "", ""]) + END + after)


if __name__ == "__main__":
    main()
