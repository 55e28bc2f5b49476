"""mlx-lm's own loops, without any server: `python -m bench.mlx_loops FOLDER`.

Reads a line of JSON, `{"texts": […], "tokens": …}`, and answers with `{"seconds": …, "tokens": …}`,
until its input ends. One text goes through `stream_generate`, several through `BatchGenerator`.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any


def main() -> None:
    """Load the model and serve the lines."""
    from mlx_lm import load

    model, tokenizer = load(sys.argv[1])
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        prompts = [list(tokenizer.encode(text)) for text in asked["texts"]]
        began = time.monotonic()
        loop = _alone if len(prompts) == 1 else _together
        count = loop(model, tokenizer, prompts, asked["tokens"])
        seconds = time.monotonic() - began
        print(json.dumps({"seconds": seconds, "tokens": count}), flush=True)


def _alone(model: Any, tokenizer: Any, prompts: list[list[int]], tokens: int) -> int:
    from mlx_lm import stream_generate

    return sum(1 for _ in stream_generate(model, tokenizer, prompts[0], max_tokens=tokens))


def _together(model: Any, tokenizer: Any, prompts: list[list[int]], tokens: int) -> int:
    from mlx_lm.generate import BatchGenerator

    ends = [[token] for token in tokenizer.eos_token_ids]
    generator = BatchGenerator(
        model,
        stop_tokens=ends,
        completion_batch_size=len(prompts),
        prefill_batch_size=len(prompts),
    )
    generator.insert(prompts, [tokens] * len(prompts))
    count = open_rows = 0
    open_rows = len(prompts)
    while open_rows:
        _, responses = generator.next()
        count += len(responses)
        open_rows -= sum(response.finish_reason is not None for response in responses)
    generator.close()
    return count


if __name__ == "__main__":
    main()
