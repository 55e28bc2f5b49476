"""What a model's template was found to know, or the one that its owner wants instead."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chat.templates import CHATML, HERMES, THINKER
from tests.models.gguf_files import write_gguf
from vllm_obtain.chat.chat_format import capabilities, chat_format
from vllm_obtain.chat.chat_template import TemplateError
from vllm_obtain.models import Model, ModelCatalog


def model(folder: Path, template: str) -> Model:
    write_gguf(folder / "m.gguf", {"tokenizer.chat_template": template})
    return ModelCatalog(folder).find("m")


@pytest.mark.parametrize(
    ("template", "tools", "reasoning"),
    [(CHATML, "prompt", False), (HERMES, "template", False), (THINKER, "template", True)],
)
def test_capabilities(tmp_path: Path, template: str, tools: str, reasoning: bool) -> None:
    found = capabilities(model(tmp_path, template))
    assert found is not None
    assert (found["tools"], found["reasoning"]) == (tools, reasoning)
    assert found["chat_template"] == "own"
    assert capabilities(model(tmp_path, ""))["chat_template"] == "assumed"  # type: ignore[index]
    assert capabilities(model(tmp_path, "{% if %}")) is None


def test_the_owners_template_stands_in(tmp_path: Path) -> None:
    file = tmp_path / "mine.jinja"
    file.write_text("{% for m in messages %}>{{ m.content }}{% endfor %}")
    it = model(tmp_path, CHATML)
    assert chat_format(it, file).prompt([{"role": "user", "content": "Hi"}]) == ">Hi"
    assert capabilities(it, file)["chat_template"] == "set"  # type: ignore[index]
    with pytest.raises(TemplateError, match="cannot be read"):
        chat_format(it, tmp_path / "gone.jinja")


@pytest.mark.parametrize("source", [r"{{ '\ud800' }}", r"{{ raise_exception('\ud800') }}"])
def test_text_that_is_no_unicode_is_an_error(tmp_path: Path, source: str) -> None:
    with pytest.raises(TemplateError, match=r"failed: Unicode|rejects"):
        chat_format(model(tmp_path, source)).prompt([{"role": "user", "content": "Hi"}])


PARTS_ONLY = (
    "{% for m in messages %}{{ m.role }}:{% for part in m.content %}{% if part.type == 'image' %}"
    "<image>{% elif part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}\n{% endfor %}"
)
EITHER = (
    "{% for m in messages %}{{ m.role }}:{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for part in m.content %}{% if 'image' in part or part.type == 'image' %}<|begin|><|pad|>"
    "<|end|>{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}\n{% endfor %}"
)
IMAGES_FIRST = (
    "{% for m in messages %}{{ m.role }}: {% for part in m.content | "
    "selectattr('type', 'equalto', 'image') %}<image>\n{% endfor %}{% for part in m.content | "
    "selectattr('type', 'equalto', 'text') %}{{ part.text }}{% endfor %}{% endfor %}"
)


@pytest.mark.parametrize(
    ("template", "placeholder"),
    [
        (PARTS_ONLY, "<image>"),
        (EITHER, "<|begin|><|pad|><|end|>"),
        (IMAGES_FIRST, "<image>"),
        (CHATML, None),
        (HERMES, None),
        ("{% for m in messages %}{{ m.content | tojson }}{% endfor %}", None),
        ("{{ raise_exception('no') }}", None),
    ],
)
def test_what_a_template_writes_for_an_image(
    tmp_path: Path, template: str, placeholder: str | None
) -> None:
    found = chat_format(model(tmp_path, template))
    assert found.placeholder == placeholder
    if placeholder:
        # Whether a template takes texts or lists only, a text is written.
        assert "Hi\nyou" in found.prompt([{"role": "user", "content": "Hi\nyou"}])
