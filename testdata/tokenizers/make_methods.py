"""Writes `methods.json`: what Jinja2 makes of the string methods, filters and operators that published chat templates use.

Jinja2 is set as Hugging Face transformers sets it.
"""

import json
from pathlib import Path

from jinja2.sandbox import ImmutableSandboxedEnvironment

SOURCES = """
{{ 'a,b,c'.split(',') }}|{{ 'a,b,c'.split(',', 1) }}|{{ 'a,b,c'.split(',', maxsplit=1) }}|{{ 'a,b'.split(sep=',') }}
{{ ' a  b c '.split() }}|{{ ' a  b c '.split(None, 1) }}|{{ ' a  b c '.split(maxsplit=1) }}|{{ ''.split() }}|{{ ''.split(',') }}
{{ ' a  b c '.split(maxsplit=0) }}|{{ 'a b'.split(maxsplit=-1) }}|{{ 'a b'.split(' ')[-1] }}|{{ 'a</think>b'.split('</think>')[-1] }}
{{ 'a,b,c'.rsplit(',') }}|{{ 'a,b,c'.rsplit(',', 1) }}|{{ 'a,b,c'.rsplit(',', maxsplit=1)[0] }}|{{ ' a  b c '.rsplit(None, 1) }}
{{ ' a  b c '.rsplit() }}|{{ 'abc'.rsplit('x', 1) }}|{{ ' é  ü '.rsplit(maxsplit=1) }}|{{ 'aaa'.rsplit('aa') }}|{{ 'aaa'.split('aa') }}
{{ 'a=b=c'.partition('=') }}|{{ 'abc'.partition('=') }}|{{ 'a=b=c'.rpartition('=') }}|{{ 'abc'.rpartition('=')[2] }}
{{ 'abc'.removeprefix('a') }}|{{ 'abc'.removeprefix('b') }}|{{ 'abc'.removesuffix('bc') }}|{{ 'abc'.removesuffix('') }}
{{ "they're bill's friends x1y é".title() }}|{{ 'HELLO world'.title() }}|{{ ''.title() }}|{{ 'aB-cD_eF'.title() }}
{{ '42'.zfill(5) }}|{{ '-42'.zfill(5) }}|{{ '+1'.zfill(4) }}|{{ 'abc'.zfill(2) }}|{{ 'é'.zfill(3) }}|{{ '-'.zfill(3) }}|{{ ''.zfill(2) }}
{{ 'ab'.ljust(5) }}|{{ 'ab'.rjust(5, '.') }}|{{ 'ab'.center(5, '*') }}|{{ 'abc'.center(6, '*') }}|{{ 'ab'.center(1) }}|{{ 'abc'.center(8, '-') }}
{{ 'aBc'.swapcase() }}|{{ 'aBc'.upper() }}|{{ 'aBc'.lower() }}|{{ 'hello World'.capitalize() }}|{{ 'x'.isdigit() }}|{{ '12'.isdigit() }}
{{ 'a\\nb\\r\\nc\\rd\\n'.splitlines() }}|{{ 'a\\nb'.splitlines(true) }}|{{ 'a\\x0bb\\x0cc'.splitlines() }}|{{ ''.splitlines() }}|{{ '\\n\\n'.splitlines(keepends=true) }}
{{ ' ab '.strip() }}|{{ 'xxabxx'.strip('x') }}|{{ 'xyab'.lstrip('yx') }}|{{ 'ab\\n\\n'.rstrip('\\n') }}|{{ ' a'.lstrip() }}|
{{ 'a-b-c'.replace('-', '+') }}|{{ 'a-b-c'.replace('-', '+', 1) }}|{{ 'abc'.find('c') }}|{{ 'abc'.find('x') }}|{{ 'abcb'.rfind('b') }}|{{ 'abab'.count('ab') }}
{{ 'abc'.startswith('ab') }}|{{ 'abc'.endswith(('x', 'bc')) }}|{{ 'abc'.startswith(('x', 'y')) }}|{{ ', '.join(['a', 'b']) }}|{{ 'abc'[::-1] }}|{{ 'abc'[1:] }}
{{ '%s is %d' % ('a', 3) }}|{{ '%s' % 'b' }}|{{ '%05.2f|%-4s|%4s|%x' % (3.14159, 'a', 'b', 255) }}|{{ '%d%%' % 5 }}|{{ '%s' % [1, 2] }}
{% set x = 'w' %}{{ '<%s>' % x }}|{{ '%s' % (x,) }}|{{ ('%s' % x).upper() }}|{{ '%(a)s' % {'a': 1} }}
{{ 7 % 3 }}|{{ -7 % 3 }}|{{ 7 % -3 }}|{{ 7.5 % 2 }}|{{ true % 2 }}|{% set n = 5 %}{{ n % 2 == 1 }}|{{ -n % 3 }}|{{ n % -3 }}|{{ n % 2.0 }}
{{ '12' | int }}|{{ 'x' | int }}|{{ '3.7' | int }}|{{ none | int }}|{{ 'x' | int(5) }}|{{ 'ff' | int(base=16) }}|{{ 'x' | int(default=-1) }}|{{ [] | int }}|{{ ' 7 ' | int }}|{{ 3.9 | int }}|{{ true | int }}
{{ '1.5' | float }}|{{ 'x' | float }}|{{ 'x' | float(2.5) }}|{{ 3 | float }}|{{ none | float }}|{{ 'x' | float(default=1.0) }}
{{ '{}-{}'.format(1, 'a') }}|{{ '{0}{1}{0}'.format('a', 'b') }}|{{ '{x}'.format(x=3) }}|{{ '{:>4}|{:<4}|{:^4}'.format('a', 'b', 'c') }}|{{ '{:03d}'.format(7) }}|{{ '{:.2f}'.format(1.005) }}
{{ {'a': 1}.get('a') }}|{{ {'a': 1}.get('b') }}|{{ {'a': 1}.get('b', 2) }}|{% for k, v in {'b': 1, 'a': 2}.items() %}{{ k }}{{ v }}{% endfor %}|{{ {'b': 1}.keys() | list }}|{{ {'b': 1}.values() | list }}
{% set a, b = 'k: v'.split(': ') %}{{ b }}{{ a }}|{% set head, _, tail = 'x=1'.partition('=') %}{{ tail }}{{ head }}
""".strip().splitlines()


def main() -> None:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    cases = [(source, environment.from_string(source).render()) for source in SOURCES]
    out = json.dumps([{"source": source, "text": text} for source, text in cases], ensure_ascii=False, indent=1)
    (Path(__file__).resolve().parent / "methods.json").write_text(out + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
