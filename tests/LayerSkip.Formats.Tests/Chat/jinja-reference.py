"""Makes the golden files of ChatGoldenTests.fs with Python's jinja2, set up as transformers' apply_chat_template sets it up.

    python3 jinja-reference.py            # golden/*.json beside this file
    node jinja-reference.mjs              # then adds where npm's @huggingface/jinja says otherwise

templates/*.jinja (and local/*.jinja, which is not committed) are rendered over conversations.json; 200 generated templates, from a fixed seed, over
the first conversations. Where a template or its messages are refused, the golden value is null.
"""

import datetime
import json
import pathlib
import random
import sys

import jinja2
import jinja2.ext
import jinja2.nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

HERE = pathlib.Path(__file__).parent
NOW = datetime.datetime(2026, 7, 9, 8, 5, 3)


class Generation(jinja2.ext.Extension):
    """{% generation %} as a block that only writes, in a scope of its own."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        call = self.call_method("_write")
        return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _write(self, caller):
        return caller()


class Refused(jinja2.exceptions.TemplateError):
    pass


def environment():
    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def raise_exception(message):
        raise Refused(message)

    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    made.filters["tojson"] = tojson
    made.globals["raise_exception"] = raise_exception
    made.globals["strftime_now"] = lambda format: NOW.strftime(format)
    return made


ENVIRONMENT = environment()


def render(template, variables):
    try:
        return ENVIRONMENT.from_string(template).render(**variables)
    except Exception:
        return None


# Generated templates ---------------------------------------------------------------------------------------------------------


class Generator:
    """Small templates of what published ones are made of."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.names = []
        self.depth = 0

    def one(self, *choices):
        return self.random.choice(choices)

    def chance(self, share):
        return self.random.random() < share

    def text_literal(self):
        return self.one(
            "'<|im_start|>'", "'\\n'", '" x "', "'it\\'s'", "'user'", "''", "'a-b c'", "'Ärger ß'", "'日本'", "'\\t.'", "'%s'", "'😀!'"
        )

    def text(self):
        self.depth += 1
        try:
            if self.depth > 3:
                return self.text_literal()
            kind = self.random.randrange(13)
            if kind == 0:
                return self.text_literal()
            if kind == 1:
                return f"messages[{self.one(0, 1, -1)}]['content']"
            if kind == 2:
                return f"{self.text()} + {self.text()}"
            if kind == 3:
                return f"({self.text()} ~ {self.any()})"
            if kind == 4:
                return f"{self.text_name()} | {self.one('upper', 'lower', 'trim', 'title', 'capitalize', 'string', 'reverse')}"
            if kind == 5:
                return f"({self.text()}).{self.one('strip()', 'upper()', 'rstrip()', 'title()', 'lower()', 'capitalize()', 'lstrip()')}"
            if kind == 6:
                return f"({self.text()})[{self.slice()}]"
            if kind == 7:
                return f"({self.any()}) | tojson{self.one('', '', '(indent=2)', '(indent=4)')}"
            if kind == 8:
                return f"({self.text()} if {self.truth()} else {self.text()})"
            if kind == 9:
                return f"({self.list()}) | map('string') | join({self.text_literal()})"
            if kind == 10:
                return f"({self.text()}) | replace({self.text_literal()}, {self.text_literal()})"
            if kind == 11:
                return f"({self.text()}).split({self.one('', chr(39) + ' ' + chr(39), chr(39) + 'e' + chr(39))})[{self.one(0, -1)}]"
            return f"({self.text()}) | indent({self.one('2', '4, true', '1, true, true')})"
        finally:
            self.depth -= 1

    def text_name(self):
        return self.one("messages[0].content", "messages[-1]['role']", "bos_token", *self.names) if self.chance(0.6) else self.text_literal()

    def slice(self):
        bound = lambda: self.one("", "", 0, 1, 2, -1, -3, 7, 100)
        return f"{bound()}:{bound()}{self.one('', '', ':', ':2', ':-1', ':-2')}"

    def number(self):
        self.depth += 1
        try:
            if self.depth > 3 or self.chance(0.3):
                return self.one("0", "1", "2", "7", "-3", "10", "1.5", "1e3", "0.1", "100000")
            kind = self.random.randrange(5)
            if kind == 0:
                return f"({self.number()} {self.one('+', '-', '*', '//', '%', '/')} {self.number()})"
            if kind == 1:
                return f"({self.list()}) | length"
            if kind == 2:
                return f"({self.text()}) | length"
            if kind == 3:
                return f"({self.text()} | int)"
            return f"(-{self.number()} | abs)"
        finally:
            self.depth -= 1

    def list(self):
        self.depth += 1
        try:
            if self.depth > 3:
                return "[1, 2]"
            kind = self.random.randrange(9)
            if kind == 0:
                return f"[{self.any()}, {self.any()}, {self.any()}]"
            if kind == 1:
                return "messages | map(attribute='role') | list"
            if kind == 2:
                return f"range({self.one(3, 5, '1, 4', '6, 0, -2')}) | list"
            if kind == 3:
                return f"({self.text()}).split()"
            if kind == 4:
                return f"messages | {self.one('selectattr', 'rejectattr')}('role', 'equalto', {self.one(chr(39) + 'user' + chr(39), chr(39) + 'system' + chr(39))}) | list"
            if kind == 5:
                return f"[3, 1, 2, 1] | {self.one('sort', 'unique | list', 'reverse | list', 'sort(reverse=true)', 'select(' + chr(39) + 'odd' + chr(39) + ') | list')}"
            if kind == 6:
                return f"({self.list()})[{self.slice()}]"
            if kind == 7:
                return f"({self.list()} + {self.list()})"
            return f"{self.dict()} | {self.one('list', 'dictsort', 'items | list')}"
        finally:
            self.depth -= 1

    def dict(self):
        return "{" + f"'name': {self.any()}, 'b': {self.any()}, 'A': {self.number()}" + "}"

    def truth(self):
        self.depth += 1
        try:
            if self.depth > 3:
                return self.one("true", "false", "add_generation_prompt")
            kind = self.random.randrange(9)
            if kind == 0:
                return f"{self.any()} {self.one('==', '!=')} {self.any()}"
            if kind == 1:
                return f"{self.text_literal()} {self.one('in', 'not in')} {self.text()}"
            if kind == 2:
                return f"({self.any()}) is {self.one('string', 'defined', 'none', 'mapping', 'iterable', 'number', 'integer', 'boolean', 'not none', 'sequence')}"
            if kind == 3:
                return f"({self.truth()} {self.one('and', 'or')} {self.truth()})"
            if kind == 4:
                return f"not {self.truth()}"
            if kind == 5:
                return f"{self.number()} {self.one('<', '<=', '>', '>=')} {self.number()}"
            if kind == 6:
                return f"tools is {self.one('defined', 'none', 'not none')}"
            if kind == 7:
                return f"unknown{self.one('', ' is defined', ' is not defined')}"
            return f"({self.any()})"
        finally:
            self.depth -= 1

    def any(self):
        self.depth += 1
        try:
            if self.depth > 3:
                return self.one("1", "'x'", "none", "true", "2.5")
            return self.one(self.text, self.text, self.number, self.list, self.dict, self.truth, lambda: "none", lambda: "messages[0]")()
        finally:
            self.depth -= 1

    def tag(self, inner):
        return self.one("{%", "{%", "{%-", "{%+") + " " + inner + " " + self.one("%}", "%}", "-%}")

    def print(self):
        inner = self.one(self.text, self.text, self.number, self.any)()
        return self.one("{{", "{{-") + " " + inner + " " + self.one("}}", "}}", "-}}")

    def literal(self):
        return self.one("\n", "\n\n", "  ", "Text. ", "  indented\n", " {# a comment #}\n", "\n    ", "{#- tight -#} ", "a{b}c\n", "\r\n")

    def body(self, depth):
        return "".join(self.statement(depth) for _ in range(self.random.randrange(1, 4)))

    def statement(self, depth):
        names = list(self.names)
        try:
            kind = self.random.randrange(10)
            if depth == 0 or kind < 2:
                return self.literal()
            if kind < 5:
                return self.print()
            if kind == 5:
                branch = self.tag("elif " + self.truth()) + self.body(depth - 1) if self.chance(0.3) else ""
                other = self.tag("else") + self.body(depth - 1) if self.chance(0.5) else ""
                return self.tag("if " + self.truth()) + self.body(depth - 1) + branch + other + self.tag("endif")
            if kind == 6:
                name = self.one("m", "item")
                self.names.append(self.one(f"{name}['role']" if name == "m" else f"{name} | string", "loop.index | string"))
                over = "messages" if name == "m" else f"({self.list()})"
                inner = self.body(depth - 1) + self.one("", "{{ loop.index0 }}", "{{ loop.last }}", "{% if loop.first %}first{% endif %}", "{% if loop.index == 2 %}{% break %}{% endif %}", "{% continue %}")
                where = f" if {self.one('true', name + ' is defined', name + ' is mapping', name)}" if self.chance(0.3) else ""
                other = self.tag("else") + self.body(depth - 1) if self.chance(0.3) else ""
                return self.tag(f"for {name} in {over}{where}") + inner + other + self.tag("endfor")
            if kind == 7:
                name = self.one("a", "b", "c")
                made = self.tag(f"set {name} = {self.text()}")
                names.append(name)
                return made
            if kind == 8:
                name = self.one("a", "b")
                made = self.tag(f"set {name}") + self.body(depth - 1) + self.tag("endset")
                names.append(name)
                return made
            macro = self.one("f", "g")
            made = self.tag(f"macro {macro}(x, y={self.text_literal()})") + "{{ x }}" + self.literal() + "{{ y }}" + self.tag("endmacro")
            return made + "{{ " + f"{macro}({self.text()}{self.one('', ', ' + self.text_literal(), ', y=' + self.number())})" + " }}"
        finally:
            self.names = names

    def template(self):
        return "".join(self.statement(3) for _ in range(self.random.randrange(2, 7)))


def generated(conversations, count=200):
    """Of ten refused templates one is kept: most should say something."""
    found, seed = [], 0
    while len(found) < count:
        seed += 1
        template = Generator(seed).template()
        variables = conversations[seed % len(conversations)]["variables"]
        expected = render(template, variables)
        printed = expected is not None and " at 0x" not in expected and "&lt;" not in expected
        if "{{" in template and (printed or expected is None and seed % 10 == 0):
            found.append({"name": f"generated {seed}", "template": template, "conversation": seed % len(conversations), "expected": expected})
    return found


def main():
    conversations = json.loads((HERE / "conversations.json").read_text())
    plain = [{"name": c["name"], "variables": c["variables"]} for c in conversations if not c.get("templates")]

    def over(folder):
        return [
            {"name": f"{path.stem}: {c['name']}", "file": f"{folder}/{path.name}", "conversation": i, "expected": render(path.read_bytes().decode(), c["variables"])}
            for path in sorted((HERE / folder).glob("*.jinja"))
            for i, c in enumerate(conversations)
            if not c.get("templates") or path.stem in c["templates"]
        ]

    (HERE / "golden").mkdir(exist_ok=True)
    for name, cases in [("published", over("templates")), ("generated", generated(plain))]:
        (HERE / "golden" / f"{name}.json").write_text(json.dumps(cases, ensure_ascii=False, indent=1) + "\n")
        print(name, len(cases), sum(c["expected"] is None for c in cases), "refused")
    if (HERE / "local").exists():
        (HERE / "local" / "golden.json").write_text(json.dumps(over("local"), ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
