"""Reference answers for chat templates: tests/golden/templates/.

pip install transformers jinja2 tokenizers; run in this folder. language.json: pieces
of Jinja, written by hand and at random (template_grammar.py), each with what the
environment of Transformers renders with a fixed set of variables. requests.json:
chat requests through apply_chat_template with whole templates. Null stands for an
error. Each file is the same byte for byte every time.
"""
import copy
import json
import os
import random
import warnings

from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import _cached_compile_jinja_template as compile_template

from template_grammar import CONTEXT, Grammar

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.join(HERE, "templates")
warnings.simplefilter("ignore")

# Grouped as src/text/jinja_*.c is.
LANGUAGE = [
    # white space
    "a\n  {% if t %}\n  b\n  {% endif %}\nc\n", "a\n  {%- if t -%}\n  b\n  {%- endif -%}\nc", "\n\n{{ i }}\n\n",
    "  {%+ if t %}x{% endif +%}\ny", "{# c #}\n x {#- c -#} y\n  {# d #}\nz", "{% if t %} {{- s -}} {% endif %}\n\n",
    "a {% raw %}{{ x }} {% if %}{% endraw %}\nb", "  {%- raw -%}  {{ x }}  {%- endraw -%}  z", "\r\na\rb{{ '\r\n' }}\n",
    "{{ s }}\u00a0\u2003{{- i }}", "x{% set v = 1 %}\n{% set b = 2 %}\n  {% set s = 3 %}y", "\t {% if t %}a{% endif %} \n b",
    "{{+ i }}{{- i }}", "{% if t -%}\n\n  x{% endif %}", "{%if t%}x{%endif%}", "{{ {'a': {'b': 1}}}}", "",
    # literals
    r"""{{ '\x41\u0042\101\q\'\n' }}{{ "a" 'b' }}""", r"{{ '\é' }}{{ 'a\
b' }}", "{{ 1_000 }} {{ 0x1F }} {{ 0b11 }} {{ 0o17 }} {{ 1_0.5e-1_0 }} {{ 007 }}", "{{ 1.0 }} {{ 1e16 }} {{ 1e-5 }} {{ 0.1 }} {{ 1e5 }} {{ 123456789.123 }} {{ -0.0 }} {{ 1e308 * 10 }} {{ 5e-324 }}",
    "{{ 0x }}", "{{ 0 if 1 else 0b }}", "{{ 0b2 }}", "{{ [0o, 1] }}", "{{ 0_ }}", "{{ 0x_ }}", "{{ 0xfg }}", "{{ 0x_F }}",
    "{{ [1, 2,] }}{{ (1,) }}{{ () }}{{ (1, 2) }}{{ {'a': 1,} }}{{ {} }}", "{{ True }}{{ none }}{{ false }}{{ None }}",
    r"""{{ ['a"b', "a'b", "a'\"b", 'x\n\t\\', '\u00e9\u200b\x07\U0001f600'] }}""", "{{ 1, 2 }}",
    # arithmetic and comparison
    "{{ 1 + 2 * 3 ** 2 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 7.5 // 2 }} {{ -7.5 % 2 }} {{ 1/3 }} {{ 2**-1 }} {{ 10/5 }} {{ 2**3**2 }} {{ -2**2 }}",
    "{{ 'ab'*3 }} {{ [0]*3 }} {{ [1]+[2] }} {{ (1,)+(2,) }} {{ True + 1 }} {{ 'a' ~ 1 ~ none ~ 1.5 ~ [1] }} {{ 2 * 'x' }}",
    "{{ 1 == 1.0 }} {{ 1 == true }} {{ {'a':1} == {'a':1.0} }} {{ [1]==(1,) }} {{ 'a' < 'b' }} {{ [1,2] < [1,3] }} {{ 1 < 2 < 3 }} {{ 3 > 2 > 2 }} {{ 'é' > 'z' }} {{ zz == zy }}",
    "{{ 'a' + 1 }}", "{{ 1/0 }}", "{{ zz + 1 }}", "{{ 'x' + zz }}", "{{ [] < {} }}", "{{ none < 1 }}", "{{ 1.5 // 0 }}",
    "{{ 'lo' in s }} {{ 'k' in d }} {{ 1 in l }} {{ 4 not in l }} {{ '' in '' }} {{ 1 in zz }} {{ not 1 in l }}", "{{ 1 in 'a' }}", "{{ 'a' in n }}",
    "{{ t and 5 }} {{ f or '' }} {{ n and 1 }} {{ not t or s }} {{ e or n or 'x' }} {{ 'a' if f }} {{ 1 if f else 2 if f else 3 }}", "{{ (1 if f).x }}",
    "{{ big }} {{ [big] }} {{ big == big }} {{ big is number }}", "{{ '%s|%5s|%-5s|%05d|%+d|%.2f|%5.1f|%x|%%|%r' % (1, 'a', 'b', 42, 3, 2.567, 2.25, 255, 'q') }} {{ '%(a)s' % {'a': n} }} {{ '%d' % 3.9 }}", "{{ '%s' % (1, 2) }}", "{{ '%s %s' % 1 }}", "{{ '%d' % 'x' }}",
    # access
    "{{ s[0] }}{{ s[-1] }}{{ s[1:3] }}{{ s[::-1] }}{{ s[::2] }}{{ s[10:2:-3] }}{{ u[3:5] }}{{ u[-1] }}{{ l[::-1] }}{{ l[-2:] }}{{ l[5:] }}{{ l[:-1] }}{{ l[-100:100] }}{{ s[100:-100:-1] }}",
    "{{ d.items }}", "{{ d.items is callable }} {{ d['items'] }} {{ d.items()|list }} {{ d.k }} {{ d['k'] }} {{ d.zz is defined }} {{ d.keys() }} {{ d.values() }} {{ d.items() }}",
    "{{ n.foo is defined }} {{ 'abc'.x is defined }} {{ m.0.role }} {{ m[5] is defined }} {{ m[-1].content is none }} {{ l['x'] is defined }} {{ d[1] is defined }}",
    "{{ zz.a }}", "{{ zz['a'] }}", "{{ n.foo.bar }}", "{{ zz[1:] }}", "{{ l.append(1) }}", "{{ d.pop('k') }}", "{{ l.append is defined }}", "{{ d.get('q') }} {{ d.get('q', 3) }} {{ d.get('k') }}", "{{ zz() }}", "{{ s() }}", "{{ l[::0] }}",
    # statements
    "{% for x in l %}{{ loop.index }}{{ loop.first }}{{ loop.last }}{{ loop.revindex }}{{ loop.length }}{{ x }}{% if not loop.last %},{% endif %}{% else %}none{% endfor %}",
    "{% for x in l if x > 1 %}{{ loop.index }}/{{ loop.length }}:{{ x }} {% endfor %}", "{% for x in el %}a{% else %}b{% endfor %}", "{% for x in l %}{% break %}{% else %}else{% endfor %}", "{% for x in l %}{% continue %}{% else %}else{% endfor %}",
    "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}", "{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}", "{% for a, b in [(1, 2, 3)] %}{% endfor %}", "{% for x in 5 %}{% endfor %}", "{% for x in n %}{% endfor %}", "{% for x in zz %}{% else %}e{% endfor %}",
    "{% for x in 'aé' %}{{ x }}.{% endfor %}", "{% for x in l %}{% for y in ls %}{{ loop.index }}{% endfor %}{{ loop.index }}{% endfor %}", "{% for x in l %}{{ loop.previtem }}{{ loop.nextitem }}{{ loop.cycle('a', 'b') }}{{ loop.changed(x > 1) }}{{ loop.depth }}{% endfor %}",
    "{% set v = 1 %}{% for x in l %}{{ v }}{% set v = v + x %}{{ v }}{% endfor %}{{ v }}", "{% for x in l %}{% set q = x %}{% endfor %}{{ q is defined }}", "{% if f %}{% set i = 0 %}{% endif %}{{ i }}", "{% if t %}{% set i = 0 %}{% endif %}{{ i }}", "{% for x in l %}{% if x == 1 %}{% set i = 0 %}{% endif %}{{ i }}{% endfor %}{{ i }}",
    "{% for x in l %}{{ i }}{% endfor %}{% set i = 9 %}{{ i }}", "{{ i }}{% set i = 9 %}{{ i }}", "{% macro q() %}{{ i }}{% endmacro %}{% set i = 9 %}{{ q() }}{% set i = 10 %}{{ q() }}", "{% macro q() %}{{ i }}{% endmacro %}{{ q() }}", "{% for i in l %}{% endfor %}{{ i }}",
    "{% set ns = namespace(c=0, x='') %}{% for x in range(9) %}{% if x == 7 %}{% break %}{% endif %}{% if x % 2 %}{% continue %}{% endif %}{% set ns.c = ns.c + x %}{% endfor %}{{ ns.c }} {{ ns }} {{ ns.zz is defined }}", "{% set ns = namespace({'a': 1}, b=2) %}{{ ns.a }}{{ ns['b'] }}{% set ns.a, v = 3, 4 %}{{ ns.a }}{{ v }}", "{% set d.k = 1 %}", "{{ namespace(_a=1) }}", "{% set ns = namespace() %}{% set ns._a = 1 %}",
    "{% for x in m if not ns.done %}{{ x.role }}{% endfor %}", "{% set ns = namespace(go=true) %}{% for x in l if ns.go %}{{ x }}{% set ns.go = x != 1 %}{% endfor %}", "{% set g = l|select('gt', 1) %}{% for x in g %}{{ x }}{% break %}{% endfor %}|{{ g|list }}", "{% set g = l|map('string') %}{{ g|first }}{{ g|list }}{{ g|list }}{% if g %}T{% endif %}",
    "{% macro q(a, b=2, c='x') %}{{ a }}-{{ b }}-{{ c }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ q(1) }}{{ q(1, c=3) }}{{ q(1,2,3,4,z=5) }}{{ q() }}", "{% macro q(a, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ q(1) }}{{ q(*l[:2]) }}{{ q(**{'b': 3}) }}", "{% macro q(a) %}{{ a }}{% endmacro %}{{ q(1, 2) }}", "{% macro q(a) %}{{ a }}{% endmacro %}{{ q(b=2) }}", "{% macro q() %}{{ q.name }}{% endmacro %}{{ q() }}{{ q }}",
    "{% macro q(x) %}[{{ caller(x) }}]{% endmacro %}{% call(y) q(5) %}in{{ y }}{{ i }}{% endcall %}", "{% macro q() %}{{ caller is defined }}{% endmacro %}{{ q() }}", "{% macro q(k) %}{% if k > 0 %}{{ k }}{{ q(k - 1) }}{% endif %}{% endmacro %}{{ q(5) }}",
    "{% set v %}abc {{ i }}{% endset %}{{ v|upper }}{% set v | upper | replace('A','b') %}abc{% endset %}{{ v }}", "{% set v %}{% set i = 1 %}{% endset %}{{ i }}", "{% filter upper %}abc{{ s }}{% endfilter %}{% filter replace('a', 'b')|trim %} aa {% endfilter %}", "{% with x = 5, y = i %}{{ x }}{{ y }}{% endwith %}{{ x }}", "{% set a, b = 5, 6 %}{{ a }}{{ b }}{% set a, b = b, a %}{{ a }}{{ b }}", "{% set a, b = 5 %}",
    "{% generation %}g{{ s }}{% set i = 0 %}{% endgeneration %}{{ i }}", "{% print i %}", "{% if n %}a{% elif e %}b{% elif t %}c{% else %}d{% endif %}", "{{ raise_exception('told: ' ~ i) }}",
    "{% break %}", "{% if %}", "{% if t %}", "{% endif %}", "{{ a b }}", "{{ a", "{{ 'abc }}", "{{ [1,2 }}", "{{ (1,2] }}", "{# x", "{% raw %}x", "{% nope %}", "{% for loop in l %}{{ loop }}{% endfor %}", "{{ a!b }}", "{{ i is i is i }}", "{% set 1 = 2 %}", "{% for x in l %}{% macro q() %}{% break %}{% endmacro %}{% endfor %}", "{{ i|nope }}", "{{ i is nope }}", "{{ range(100001) }}", "{{ f(1, *l, 2) }}", "{{ d(a=1, 2) }}",
    # filters
    "{{ d|tojson }} {{ d|tojson(indent=2) }} {{ u|tojson(ensure_ascii=true) }} {{ d|tojson(separators=(',',':')) }} {{ {'b':1,'a':2}|tojson(sort_keys=true) }} {{ [1.0, 1e16, 0.1, big, none, true, '<\\u007f\\u0001\\n&\"'] | tojson }} {{ {1: 2, none: 3, 1.5: 4, true: 5}|tojson }} {{ [[], {}, [[]]]|tojson(indent=1) }} {{ (1, 2)|tojson(indent='--') }}",
    "{{ zz|tojson }}", "{{ range(3)|tojson }}", "{{ m|map('upper')|tojson }}", "{{ d.items()|tojson }}",
    "{{ u|upper }} {{ u|lower }} {{ u|title }} {{ u|capitalize }} {{ u.title() }} {{ u.swapcase() }} {{ 'ǆ ﬁ İ ŉ ΐ'|upper }} {{ 'ǆ ﬁx'.title() }} {{ 'ΑΣ ΑΣΑ Σ'|lower }} {{ \"they're b-c (d) e.f\"|title }} {{ \"they're b-c\".title() }} {{ 5|upper }}",
    "{{ l|sort }} {{ ls|sort }} {{ ls|sort(reverse=true) }} {{ ls|sort(case_sensitive=true) }} {{ m|sort(attribute='role')|map(attribute='role')|list }} {{ [3, 'a']|length }} {{ l|sum }} {{ l|min }} {{ l|max }} {{ ls|min }} {{ ls|max(case_sensitive=true) }} {{ m|sum(attribute='zz.q') }}", "{{ l|sum(start=10) }} {{ [[1],[2]]|sum(start=[]) }} {{ [1, 2.5, true]|sum }}", "{{ ls|sum }}", "{{ [1, 'a']|sort }}", "{{ el|max is defined }} {{ el|first is defined }} {{ el|last is defined }} {{ el|sum }}",
    "{{ m|map(attribute='role')|list }} {{ m|selectattr('role','equalto','user')|list }} {{ m|rejectattr('k')|list }} {{ m|map(attribute='k', default=9)|list }} {{ m|selectattr('tools.0.name')|list|length }} {{ l|select('odd')|list }} {{ l|reject('gt',1)|list }} {{ ['a','b']|map('upper')|join }} {{ ls|map('replace', 'a', 'z')|list }} {{ m|selectattr('k', 'defined')|map(attribute='role')|join(',') }} {{ [1, n, e]|select|list }}", "{{ l|map('nope')|list }}", "{{ l|map|list }}", "{{ l|select('nope')|list }}",
    "{{ l|first }} {{ l|last }} {{ l|length }} {{ s|length }} {{ u|length }} {{ l|join('-') }} {{ m|join('|', attribute='role') }} {{ l|reverse|list }} {{ s|reverse }} {{ [1,1.0,2,'a','A']|unique|list }} {{ d|dictsort }} {{ {'b':1,'A':2}|dictsort(true) }} {{ {'b':1,'a':2}|dictsort(by='value', reverse=true) }} {{ d|items|list }} {{ d|length }} {{ d|list }} {{ s|list }} {{ zz|items|list }}", "{{ l|map('string')|length }}", "{{ 5|length }}", "{{ n|length }}", "{{ l|items }}", "{{ l|map('string')|last }}", "{{ [[1]]|unique|list }}",
    "{{ range(10)|batch(3)|list }} {{ range(10)|batch(3,'x')|list }} {{ range(10)|slice(3)|list }} {{ range(10)|slice(3,'x')|list }} {{ m|groupby('role') }} {{ ls|groupby('0')|map('first')|list }} {% for g in [{'a':1,'b':2},{'a':1,'b':3},{'a':2}]|groupby('a') %}{{ g.grouper }}{{ g.list|length }}{% endfor %}",
    "{{ '3.7'|int }} {{ ' 3 '|int }} {{ 'x'|int(7) }} {{ '0x1f'|int(base=16) }} {{ '1_0'|int }} {{ '1__0'|int }} {{ 3.9|int }} {{ -3.9|int }} {{ n|int }} {{ true|int }} {{ '2.5'|float }} {{ '1e3'|float }} {{ '.5'|float }} {{ '5.'|float }} {{ 'x'|float }} {{ 'inf'|float }} {{ '-NaN'|float }} {{ l|int(-1) }} {{ ''|int }} {{ '_1'|int }} {{ '1_'|float(9) }} {{ '+7'|int }}", "{{ zz|int }}", "{{ zz|float }}",
    "{{ 2.567|round(1) }} {{ 2.5|round }} {{ 3.5|round }} {{ 2.1|round(0,'ceil') }} {{ 2.19|round(1,'floor') }} {{ 42|round }} {{ 1.005|round(2) }} {{ 0.5|round }} {{ -3|abs }} {{ -3.5|abs }} {{ true|abs }} {{ 1e300|round(2) }}", "{{ 'a'|round }}", "{{ 'a'|abs }}",
    "{{ zz|default('D') }} {{ e|default('D', true) }} {{ n|d('x') }} {{ n|d('x', boolean=true) }} {{ zz|length }} {{ zz|list }} {{ zz|join }} {{ zz|upper }} {{ [n, t, zz] }} {{ zz|trim }} {{ zz|string }} {{ zz|first is defined }} {{ zz|sort }} {{ zz|reverse|list }} {{ zz|default }}",
    "{{ 'a\\nb\\n\\nc'|indent }} {{ 'a\\nb\\n\\nc'|indent(2) }} {{ 'a\\nb\\n\\nc\\n'|indent(2, true, true) }} {{ 'a\\nb'|indent('> ') }} {{ s|truncate(5) }} {{ s|truncate(9, true, '..', 0) }} {{ s|truncate(9, leeway=0) }} {{ s|wordcount }} {{ s|center(21) }}| {{ s|replace('o','0',1) }} {{ 5|replace(5, 6) }} {{ w|trim }}| {{ 'xxaxx'|trim('x') }} {{ s|urlencode }} {{ 'ü/ &~'|urlencode }}", "{{ 5|indent }}",
    "{{ '<a&\"\\'>'|e }} {{ ('<b>'|safe) + '<' }} {{ '<' + ('<b>'|safe) }} {{ ('<'|e)|e }} {{ ('<'|e)|forceescape }} {{ '<b>'|safe is escaped }} {{ ('<'|safe) ~ '<' }} {{ ['<'|safe] }} {{ '%s-%d'|format('a', 3) }} {{ '%(x)s'|format(x=1) }}",
    # tests
    "{{ n is none }} {{ zz is undefined }} {{ i is number }} {{ x is float }} {{ i is integer }} {{ t is integer }} {{ t is number }} {{ t is boolean }} {{ s is string }} {{ d is mapping }} {{ l is sequence }} {{ d is sequence }} {{ d.items() is sequence }} {{ l is iterable }} {{ i is iterable }} {{ s is iterable }} {{ zz is sequence }} {{ zz is iterable }} {{ zz is callable }} {{ l|map('string') is iterable }} {{ l|map('string') is sequence }}",
    "{{ 4 is divisibleby 2 }} {{ 3 is odd }} {{ 4 is even }} {{ 'a1' is lower }} {{ 'A' is upper }} {{ '1' is upper }} {{ 1 is eq 1 }} {{ 1 is in [1] }} {{ t is sameas true }} {{ 1 is sameas true }} {{ t is true }} {{ f is false }} {{ 'upper' is filter }} {{ 'nope' is filter }} {{ 'odd' is test }} {{ 1 is lt 2 }} {{ 1 is ge(2) }} {{ i is not none }} {{ not i is none }} {{ 1 is ne 2 and 2 is gt 1 }} {{ l is sameas l }}", "{{ 'a' is odd }}", "{{ zz is odd }}", "{{ zz is lower }}", "{{ zz is lt 1 }}",
    # methods
    "{{ w.split() }} {{ w.split(' ') }} {{ 'a,b,c'.split(',', 1) }} {{ 'a,b,c'.rsplit(',', 1) }} {{ ' a b  c '.split(none, 1) }} {{ ' a b  c '.rsplit(none, 1) }} {{ ''.split() }} {{ ''.split('x') }} {{ 'a--b'.split('--') }} {{ 'aXbXc'.split('X', maxsplit=1) }} {{ 'x'.split('', 1) if f else '' }}", "{{ 'x'.split('') }}",
    "{{ w.strip() }}| {{ w.lstrip() }}| {{ w.rstrip() }}| {{ 'xxaxx'.strip('x') }} {{ 'éaé'.strip('é') }} {{ '\\u00a0a\\u2028'.strip() }} {{ 'ab'.lstrip('ba') }}| {{ 'a-b-c'.partition('-') }} {{ 'a-b-c'.rpartition('-') }} {{ 'ab'.partition('-') }} {{ 'ab'.rpartition('-') }} {{ 'abc'.removeprefix('a') }} {{ 'abc'.removesuffix('c') }}",
    "{{ 'abc'.find('c') }} {{ 'éabc'.find('c') }} {{ 'abc'.find('x') }} {{ 'abcabc'.rfind('b') }} {{ 'abcabc'.find('b', 2) }} {{ 'abcabc'.find('a', 1, 3) }} {{ 'abc'.find('') }} {{ 'abc'.find('', 9) }} {{ 'abcabc'.count('bc') }} {{ 'aaa'.count('') }} {{ 'abc'.index('b') }} {{ 'abc'.startswith('b', 1) }} {{ 'abc'.startswith(('x','a')) }} {{ 'abc'.endswith('c') }} {{ 'abc'.startswith('') }} {{ 'abc'.endswith(()) }}", "{{ 'abc'.index('x') }}", "{{ 'abc'.startswith(1) }}",
    "{{ ','.join(ls) }} {{ ''.join('ab') }} {{ 'abc'.replace('b','') }} {{ 'aaa'.replace('a','b',2) }} {{ 'ab'.replace('','-') }} {{ 'ab'.replace('','-', 2) }} {{ 'a\\nb\\r\\nc\\x0bd\\x85e\\n'.splitlines() }} {{ 'a\\nb\\n'.splitlines(true) }} {{ 'ab'.center(7,'*') }} {{ 'abc'.center(6) }}| {{ '-5'.zfill(4) }} {{ 'x'.ljust(3) }}| {{ 'x'.rjust(3, '.') }} {{ 'ab'.ljust(1) }}", "{{ ','.join([1]) }}",
    "{{ 'abc'.isalpha() }} {{ 'a1'.isalnum() }} {{ '12'.isdigit() }} {{ ''.isdigit() }} {{ ' \\t'.isspace() }} {{ 'aB'.islower() }} {{ 'AB1'.isupper() }} {{ 'é'.isascii() }} {{ 'é'.isalpha() }} {{ 'a\\n'.isprintable() }} {{ '٣'.isdecimal() }}",
    "{{ '{} {}'.format(1, 'a') }} {{ '{0}{1}{0} {x!r}'.format('a','b',x='q') }} {{ '{{}} {a.k} {b[0]}'.format(a=d, b=l) }}", "{{ '{} {}'.format(1) }}", "{{ l.count(1) }} {{ l.index(2) }} {{ (1, 2).count(2) }} {{ l.copy() }} {{ d.copy() }}", "{{ l.index(9) }}",
    # functions
    "{{ range(3) }} {{ range(1,10,3)|list }} {{ range(5, 0, -2)|list }} {{ range(3)[1] }} {{ range(10)[2:5] }} {{ range(10)[::-3]|list }} {{ range(0)|length }} {{ range(3) == range(0, 3) }} {{ 2 in range(3) }}", "{{ range(1, 2, 0) }}", "{{ range('a') }}",
    "{{ dict(a=1, **{'b':2}) }} {{ dict([('a', 1)]) }} {{ dict({'x': 1}, y=2) }} {% set j = joiner('|') %}{{ j() }}{{ j() }}{% set c = cycler(1,2) %}{{ c.next() }}{{ c.current }}{{ c.next() }}{{ c.next() }}{{ c.reset() }}{{ c.current }}", "{{ dict(1) }}", "{{ strftime_now('%%') }}{{ strftime_now('') }}",
]

# What jinja2 renders and this runtime refuses: an error that names the line.
REFUSED = [
    "a\n{{ 2**100 }}", "a\n{{ 9223372036854775807 + 1 }}", "a\n{{ 99999999999999999999 }}", "a\n{{ big + 1 }}", "a\n{{ big < 1 }}",
    "a\n{{ '{:>5}'.format(3) }}", "a\n{{ self }}", "a\n{% block a %}x{% endblock %}", "a\n{% for x in l recursive %}{% endfor %}",
    "a\n{{ 'x' is sameas 'x' }}", "a\n{{ d.items }}", "a\n{{ l|map('string') }}", "a\n{{ s.encode() }}", "a\n{{ 5 .real }}",
    "a\n{{ l|random }}", "a\n{{ s|wordwrap }}", "a\n{{ '<b>x</b>'|striptags }}", "a\n{{ 1000|filesizeformat }}", "a\n{{ s|pprint }}",
    "a\n{{ l.__class__ }}", "a\n{{ lipsum() }}", "a\n{{ '²'.isdigit() }}", "a\n{{ 1.5|round(-1) }}", "a\n{{ l[1,2] }}",
]


def render(template, context):
    try:
        return compile_template(template).render(**copy.deepcopy(context))
    except Exception:
        return None


def random_pieces(count):
    """Half of them errors, none with an address in its text."""
    pieces, errors, seed = [], 0, 0
    while len(pieces) < count:
        grammar = Grammar(seed)
        template = "{{ " + grammar.expression(seed % 4 + 1) + " }}" if seed % 3 else grammar.block(1 + seed % 2)
        seed += 1
        answer = render(template, CONTEXT)
        if answer is None and errors * 3 > count or answer is not None and (" at 0x" in answer or len(answer) > 400):
            continue
        if any(word in template for word in ("urlencode", "(i|select)", "(big|", "is callable", "isdigit")):
            continue
        errors += answer is None
        pieces.append([template, answer])
    return pieces


# ---- requests -----------------------------------------------------------------

WEATHER = {"type": "function", "function": {"name": "get_weather", "description": "Get \"weather\" <b> é", "parameters": {
    "type": "object", "properties": {"city": {"type": "string", "enum": ["a", "b"]}, "n": {"type": "integer", "default": 1.0}},
    "required": ["city"]}}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Zürich", "n": 1e16}}}


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return dict(role="assistant", content=text, **more)


CHATS = [
    [user("Hi")],
    [{"role": "system", "content": " Sys \n"}, user("Hi"), assistant("Yo "), user(" q")],
    [user("q"), assistant("<think>\nr\n</think>\n\nans"), user("q2"), assistant("z")],
    [user("q"), assistant("a", reasoning_content="why\nso"), user("q2"), assistant("b", reasoning="again")],
    [user("w?"), assistant("let me", tool_calls=[CALL]), {"role": "tool", "content": "{\"t\": 1}", "name": "get_weather"},
     {"role": "tool", "content": "two"}, assistant("It is 1.", thinking="hm")],
    [user("w?"), assistant("", tool_calls=[CALL, {"name": "f", "arguments": "{\"y\": 2}"}], refusal=None)],
    [user("<tool_response>x</tool_response>"), assistant("k")],
    [{"role": "developer", "content": "d"}, user("x"), {"role": "narrator", "content": "n", "name": "bob"}],
    [user([{"type": "text", "text": "p1"}, {"type": "text", "text": "p2 "}])],
]
KEYS = [
    {}, {"add_generation_prompt": True}, {"add_generation_prompt": True, "enable_thinking": False},
    {"add_generation_prompt": True, "enable_thinking": True, "tools": [WEATHER]}, {"tools": [WEATHER, WEATHER]}, {"tools": []},
    {"continue_final_message": True}, {"continue_final_message": "reasoning_content"}, {"continue_final_message": "thinking"},
    {"continue_final_message": "zz"}, {"continue_final_message": True, "add_generation_prompt": True},
    {"chat_template_kwargs": {"enable_thinking": False, "style": "short", "eos_token": "<END>"}, "add_generation_prompt": True},
    {"documents": [{"title": "T", "text": "x"}]},
]
SMALL = {
    "parts": "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{% if m.content is string %}{{ m.content|trim }}"
             "{% else %}{% for p in m.content %}[{{ p.type }}:{{ p.text }}]{% endfor %}{% endif %}{{ eos_token }}\n{% endfor %}"
             "{% if add_generation_prompt %}<a>{% endif %}{{ style }}{{ pad_token is defined }}{{ tools is none }}",
    "whole": "{% for m in messages %}{{ m|tojson }}{{ '\\n' }}{% endfor %}{{ documents|tojson }}",
    "reasons": "{% for m in messages %}{% if m.thinking %}({{ m.thinking }}){% endif %}{{ m.content }};{% endfor %}",
}
FILES = ["comment", "history", "newlines", "qwen3", "qwen3_instruct_2507", "qwen2_5"]


def tokenizer(template):
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(BPE()), chat_template=template, bos_token="<s>",
                                   eos_token="</s>")


def answer(template, request):
    """What Transformers renders; null for an error."""
    request = copy.deepcopy(request)
    request.update(request.pop("chat_template_kwargs", {}))
    try:
        return tokenizer(template).apply_chat_template(request.pop("messages"), tokenize=False, **request)
    except Exception:
        return None


def requests():
    templates, cases = dict(SMALL), []
    for name in FILES:
        with open(os.path.join(OUT, name + ".jinja"), encoding="utf-8") as f:
            templates[name] = f.read()
    chooser = random.Random(1)
    for name in templates:
        for i, chat in enumerate(CHATS):
            if name != "parts" and not isinstance(chat[0]["content"], str):
                continue  # the others take text alone: joined here, printed as a list there
            for keys in KEYS[1:3] + chooser.sample(KEYS[3:], 2) if name not in SMALL else KEYS:
                cases.append([name, dict(keys, messages=chat), answer(templates[name], dict(keys, messages=chat))])
    return {"templates": SMALL, "cases": cases}


def write(name, lines):
    with open(os.path.join(OUT, name), "w", encoding="utf-8") as f:
        f.write(lines + "\n")


def dump(value):
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def dump_lines(rows):
    return "[\n" + ",\n".join(dump(row) for row in rows) + "\n]"


def main():
    known = [[template, render(template, CONTEXT)] for template in LANGUAGE]
    known = [row for row in known if row[1] is None or " at 0x" not in row[1]]
    write("language.json", '{"context":%s,\n"written":%s,\n"random":%s,\n"refused":%s}' % (
        dump(CONTEXT), dump_lines(known), dump_lines(random_pieces(500)), dump_lines(REFUSED)))
    found = requests()
    write("requests.json", '{"templates":%s,\n"cases":%s}' % (dump(found["templates"]), dump_lines(found["cases"])))


if __name__ == "__main__":
    main()
