"""Templates that spell things as the families do, as short as can be."""

from __future__ import annotations

# Hermes and Qwen: tagged JSON, one tag for each call.
HERMES = """{% if tools %}<|im_start|>system
Tools: {{ tools | tojson }}<|im_end|>
{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}{% for call in m.tool_calls or [] %}\
{{ '\n' if m.content or not loop.first }}<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

# Qwen3: the same, with reasoning that can be switched off.
THINKER = HERMES.replace(
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
    "{% endif %}",
)
# DeepSeek R1: the prompt opens the reasoning.
OPENER = HERMES.replace(
    "<|im_start|>assistant\n{% endif %}", "<|im_start|>assistant\n<think>\n{% endif %}"
)
OPENER += "{# </think> #}"

# Llama 3: one call, JSON and nothing around it.
LLAMA = """{{ bos_token }}{% for m in messages %}<|start|>{{ m.role }}<|end|>

{% if m.tool_calls %}{{ '{"name": "' + m.tool_calls[0].function.name + '", "parameters": ' }}\
{{ m.tool_calls[0].function.arguments | tojson }}}{% else %}{{ m.content }}{% endif %}<|eot|>\
{% endfor %}{% if tools %}{{ tools | tojson }}{% endif %}"""

# DeepSeek V3: names and JSON between marks, all calls in a frame.
FRAMED = """{% for m in messages %}[{{ m.role }}]{{ m.content }}{% if m.tool_calls %}<calls>\
{% for call in m.tool_calls %}<call>{{ call.function.name }}<sep>\
{{ call.function.arguments | tojson }}</call>{% endfor %}</calls>{% endif %}<end>{% endfor %}\
{% if tools %}{{ tools | tojson }}{% endif %}"""

# Qwen3 Coder: no JSON, so a form that we do not read.
MARKUP = """{% for m in messages %}{{ m.content }}{% for call in m.tool_calls or [] %}\
<function={{ call.function.name }}>{% for k, v in call.function.arguments.items() %}\
<parameter={{ k }}>{{ v }}</parameter>{% endfor %}</function>{% endfor %}{% endfor %}{{ tools }}"""

CHATML = """{% for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

# Gemma 2: turns alternate, and the system says nothing.
STRICT = """{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}\
{% elif (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('must alternate') }}\
{% endif %}<turn>{{ m.role }}
{{ m.content }}</turn>{% endfor %}"""

# Command R: calls have numbers, which no form of ours has.
NUMBERED = """{% for m in messages %}<start>{{ m.role }}{{ m.content }}\
{% if m.tool_calls %}<action>[
{% for call in m.tool_calls %}{"tool_call_id": "{{ loop.index0 }}", "tool_name": \
"{{ call.function.name }}", "parameters": {{ call.function.arguments | tojson }}}\
{% if not loop.last %},{% endif %}{% endfor %}]</action>{% endif %}<end>{% endfor %}\
{% if tools %}{{ tools | tojson }}{% endif %}"""
