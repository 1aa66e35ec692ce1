#!/usr/bin/env python3
"""Writes language.jsonl and chats.jsonl: what jinja2, set up as Transformers does for chat templates, makes of small templates.

Author-time only: needs jinja2 (3.1.2 or later). Run it in this folder after a change of the cases below.
"""
import datetime
import json

import jinja2
import jinja2.ext
import jinja2.sandbox


class Generation(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


class Raised(Exception):
    pass


def render(source, context):
    context = dict(context)
    now = datetime.datetime.fromisoformat(context.pop("now", "2025-03-09T08:07:06"))
    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])

    def raise_exception(message):
        raise Raised(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda format: now.strftime(format)
    try:
        return {"output": env.from_string(source).render(**context)}
    except Raised as e:
        return {"error": str(e)}
    except Exception:
        return {"fails": True}


CHAT = [{"role": "system", "content": " Be brief. "}, {"role": "user", "content": "Hé <b>?"},
        {"role": "assistant", "content": "<think>hm\n</think>\n\nNo.", "tool_calls": None},
        {"role": "user", "content": [{"type": "text", "text": "And "}, {"type": "image"}, {"type": "text", "text": "now?"}]}]
TOOLS = [{"type": "function", "function": {"name": "get_weather", "description": "Now, at a place", "parameters": {
    "type": "object", "properties": {"place": {"type": "string"}, "days": {"type": ["integer", "null"], "default": 1.0}},
    "required": ["place"]}}}]
PEOPLE = [{"name": "Ann", "age": 31, "pets": ["cat"]}, {"name": "ben", "age": 25, "pets": []}, {"name": "Cem", "age": 31}]

LANGUAGE = [
    # white space
    ("a\n{% if 1 %}\n  b\n{% endif %}\nc\n", {}), ("  {%- set x = 2 -%}\n {{ x }} \n", {}), ("{#- gone -#} x {# too #}\ny", {}),
    ("x{%+ if 1 +%}\n y{% endif %}", {}), ("{% raw %}{{ no }}{% endraw %}!", {}), ("a\r\nb\rc\r\n", {}),
    ("\t{{ 1 }}\n\t{% set y = 1 %}\n.", {}),
    # literals and operators
    ("{{ 0x1F }} {{ 1_000.5 }} {{ 1e-9 }} {{ 'a' \"b\" }} {{ '\\u00e9\\n\\x41\\'' }}", {}),
    ("{{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ 1 / 4 }} {{ 5.0 // 2 }}", {}),
    ("{{ 1e22 }} {{ 1e16 }} {{ 123456789.123 }} {{ 1e-5 }} {{ 0.1 + 0.2 }} {{ -0.0 }}", {}),
    ("{{ [1, 'a', none, true, 1.5, (1,), {}] }} {{ {'k': [1], 2: 'v'} }}", {}), ("{{ 'it\\'s' | list }} {{ ['it\\'s', '\"', '\\n', 'é', '\\x7f'] }}", {}),
    ("{{ 1 < 2 < 3 }} {{ 1 == true }} {{ 'a' in 'cat' }} {{ 3 not in [1, 2] }} {{ not 0 }}", {}),
    ("{{ 'a' ~ 1 ~ none ~ [] }} {{ 'ab' * 3 }} {{ [0] * 2 + [1] }}", {}), ("{{ 1 if false }}|{{ 1 if 0 else 2 if 0 else 3 }}", {}),
    ("{{ 'abcdef'[1:-1:2] }} {{ 'häß'[::-1] }} {{ [1, 2, 3][-2:] }} {{ (1, 2, 3)[:1] }} {{ range(9)[2:8:3] | list }}", {}),
    ("{{ '%05.1f|%-4s|%+d|%x|%%' % (3.14159, 'ab', 5, 255) }}", {}), ("{{ '{0:>6}|{x:^7}|{1:,}|{y!r:.3}'.format('a', 1234567, x='m', y='long') }}", {}),
    ("{{ 1 + 'a' }}", {}), ("{{ 1 / 0 }}", {}), ("{{ 'a' < 1 }}", {}), ("{{ [1][::0] }}", {}), ("{{ {[]: 1} }}", {}),
    # undefined
    ("[{{ x }}] {{ x is defined }} {{ x | default('d') }} {{ {}.a is undefined }} {{ [x] }}", {}), ("{{ x.y }}", {}), ("{{ x + 1 }}", {}),
    ("{{ none.a }}|{{ 'a'.b }}|{{ [1][5] }}|{{ {'a': 1}['b'] }}", {}), ("{{ x() }}", {}), ("{% for i in x %}a{% else %}none{% endfor %}", {}),
    # statements and scopes
    ("{% set x = 1 %}{% for i in [1, 2] %}{% set x = x + i %}{{ x }} {% endfor %}{{ x }}", {}),
    ("{% set ns = namespace(n=0) %}{% for i in range(5) if i % 2 %}{% set ns.n = ns.n + i %}{{ loop.index }}/{{ loop.length }} {% endfor %}{{ ns.n }}", {}),
    ("{% for k, v in d.items() %}{{ k }}={{ v }}{{ ', ' if not loop.last }}{% endfor %}", {"d": {"b": 1, "a": 2}}),
    ("{% for x in 'abc' %}{{ loop.previtem }}{{ x }}{{ loop.nextitem }}{{ loop.revindex0 }}{{ loop.cycle('!', '?') }} {% endfor %}", {}),
    ("{% for a in [1, 2, 3, 4] %}{% if a == 2 %}{% continue %}{% elif a == 4 %}{% break %}{% endif %}{{ a }}{% endfor %}", {}),
    ("{% for n in t recursive %}{{ n.v }}{{ loop.depth }}({{ loop(n.k) if n.k }}){% endfor %}", {"t": [{"v": "a", "k": [{"v": "b"}, {"v": "c"}]}]}),
    ("{% for x in [1, 2] %}{% for y in [1, 2] %}{{ loop.index }}{% endfor %}{{ loop.index }};{% endfor %}", {}),
    ("{% set a, b = 1, [2] %}{{ a }}{{ b }}{% set t | upper %}x{{ a }}{% endset %}{{ t }}", {}), ("{% with q = 3 %}{{ q }}{% endwith %}{{ q is defined }}", {}),
    ("{% macro m(a, b='B', c=a) %}[{{ a }}{{ b }}{{ c }}{{ varargs }}{{ kwargs }}]{% endmacro %}{{ m(1) }}{{ m(1, 2, 3, 4, z=5) }}{{ m.name }}", {}),
    ("{% macro box(t) %}<{{ t }}:{{ caller(1) }}>{% endmacro %}{% call(n) box('x') %}in{{ n }}{% endcall %}", {}),
    ("{% macro f(n) %}{{ n }}{{ f(n - 1) if n }}{% endmacro %}{{ f(4) }}", {}), ("{% set x = 1 %}{% macro m() %}{{ x }}{% endmacro %}{% set x = 2 %}{{ m() }}", {}),
    ("{% generation %}a{% set z = 1 %}{{ z }}{% endgeneration %}{{ z is defined }}", {}), ("{% filter upper %}a{{ 'b' }}{% endfilter %}", {}),
    ("{% if false %}{{ x | nosuch }}{% endif %}ok", {}), ("{{ x | nosuch }}", {}), ("{% break %}", {}), ("{% for x in [1] %}{% set loop = 1 %}{% endfor %}", {}),
    ("{% block a %}{{ v }}{% endblock %}{% set v = 2 %}", {"v": 1}), ("{% include 'x' %}", {}), ("{% if 1 %}", {}), ("{{ 1 2 }}", {}), ("{% set x.y = 1 %}", {}),
    # filters
    ("{{ people | map(attribute='name') | join(', ') }} {{ people | sum(attribute='age') }}", {"people": PEOPLE}),
    ("{{ people | selectattr('age', 'gt', 30) | map(attribute='name') | list }} {{ people | rejectattr('pets') | list | length }}", {"people": PEOPLE}),
    ("{{ people | sort(attribute='age,name', reverse=true) | map(attribute='name') | join }} {{ (people | min(attribute='age')).name }}", {"people": PEOPLE}),
    ("{% for g in people | groupby('age') %}{{ g.grouper }}:{{ g.list | length }} {% endfor %}", {"people": PEOPLE}),
    ("{{ {'b': 1, 'A': 2} | dictsort }} {{ ['b', 'A', 'a'] | unique | list }} {{ [3, 1, 2] | sort | first }}{{ [1, 2] | last }}", {}),
    ("{{ ' a  b ' | trim }}|{{ 'x y' | title }}|{{ 'ÄB' | lower }}|{{ 'straße' | upper }}|{{ 'abc' | capitalize }}", {}),
    ("{{ 'a\nb\n\nc' | indent(2) }}|{{ 'a\nb' | indent('> ', true) }}", {}), ("{{ 'one two three' | truncate(9, false, '…', 0) }} {{ 'a b c' | wordcount }}", {}),
    ("{{ 'a-b' | replace('-', '+') }} {{ 2.5 | round }} {{ 2.675 | round(2) }} {{ '7.9' | int }} {{ 'x' | int(3) }} {{ '1e2' | float }}", {}),
    ("{{ [1, 2, 3, 4, 5] | batch(2) | list }} {{ [1, 2, 3] | slice(2) | list }} {{ 'abc' | reverse }}", {}),
    ("{{ v | tojson }} {{ v | tojson(indent=2) }} {{ v | tojson(ensure_ascii=true, separators=(',', ':'), sort_keys=true) }}",
     {"v": {"z": [1, 2.0, None, True, "é\"\\\n\u2028"], "a": {}}}), ("{{ x | tojson }}", {}), ("{{ range(2) | tojson }}", {}),
    ("{{ '<a>' | safe + '<b>' }} {{ '<' | e }} {{ {'a': 1, 'b': none} | xmlattr }} {{ 'a b/é' | urlencode }}", {}),
    # tests and methods
    ("{{ 1 is odd }} {{ 'a' is string }} {{ {} is mapping }} {{ [] is sequence }} {{ none is none }} {{ 4 is divisibleby 2 }} {{ 'a' is in 'abc' }}", {}),
    ("{{ 'a,b,,c'.split(',') }} {{ ' a b '.split() }} {{ 'a.b.c'.rsplit('.', 1) }} {{ 'a=b=c'.partition('=') }}", {}),
    ("{{ '  x '.strip() }}|{{ 'xxay'.lstrip('x') }}|{{ 'abc'.endswith(('b', 'c')) }}|{{ 'aXbX'.replace('X', '-', 1) }}|{{ 'a\tb'.expandtabs(4) }}", {}),
    ("{{ 'héllo'.find('l') }} {{ 'aaa'.count('a') }} {{ 'ab'.center(7, '*') }} {{ '-5'.zfill(4) }} {{ ','.join('abc') }} {{ 'ǆ'.title() }}", {}),
    ("{{ {'a': 1}.get('b', 2) }} {{ {'a': 1}.keys() | list }} {{ {'items': 3}['items'] }} {{ {'a': 1}.items() }}", {}),
    ("{{ [1].append(2) }}", {}), ("{{ {}.update({}) }}", {}), ("{{ ''.__class__ }}{{ ''.__class__ is defined }}", {}), ("{{ 'ΑΣ ΑΣΑ Σ'.lower() }}", {}),
    ("{{ raise_exception('stop: ' ~ 1) }}", {}), ("{{ strftime_now('%d %B %Y %H:%M:%S %j %a') }}", {"now": "2024-02-29T01:02:03"}),
    ("{{ range(200000) }}", {}), ("{{ lipsum is defined }} {{ cycler(1, 2).next() }} {{ joiner('-')() }}|{{ dict(a=1) }}", {}),
]

CHATML = """{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' }}
{%- if message.content is string %}{{ message.content }}{% else %}{% for part in message.content if part.type == 'text' %}{{ part.text }}{% endfor %}{% endif %}
{{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
TOOL_USE = """{{ bos_token }}{% set ns = namespace(last=-1) %}
{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}
{% if tools %}
<tools>
{% for tool in tools %}
{{ tool | tojson }}
{{ tool.function.parameters.properties.items() | list }}
{% endfor %}
</tools>
{% endif %}
{% for m in messages -%}
  {% if m.role == 'assistant' and '</think>' in m.content and loop.index0 < ns.last %}
    {{- m.content.split('</think>')[-1].lstrip('\\n') + eos_token }}
  {%- else %}
    {{- '[' ~ m.role | upper ~ ']' ~ (m.content if m.content is string else m.content | selectattr('text') | map(attribute='text') | join) | trim }}
  {%- endif %}
{% endfor %}
"""
CHATS = [
    (CHATML, {"messages": CHAT, "tools": None, "add_generation_prompt": True}), (CHATML, {"messages": CHAT[1:3], "tools": None, "add_generation_prompt": False}),
    (TOOL_USE, {"messages": CHAT, "tools": TOOLS, "bos_token": "<s>", "eos_token": "</s>"}), (TOOL_USE, {"messages": CHAT, "tools": None, "eos_token": "</s>"}),
    (TOOL_USE, {"messages": [], "tools": TOOLS}),
]

for name, cases in (("language", LANGUAGE), ("chats", CHATS)):
    with open(f"{name}.jsonl", "w", encoding="utf-8", newline="\n") as f:
        for source, context in cases:
            f.write(json.dumps({"template": source, "context": context, **render(source, context)}, ensure_ascii=False) + "\n")
