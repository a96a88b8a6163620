"""Random templates from a small grammar, for make_templates.py: what chat templates
do, with values of all kinds in all places, so that many end in an error."""
import random

CONTEXT = {
    "i": 7, "j": -3, "x": 2.5, "y": 0.1, "s": "Hello World", "e": "", "w": "  a b\n\tc ", "u": "Straße éΑΣ",
    "n": None, "t": True, "f": False, "l": [3, 1, 2], "ls": ["b", "A", "c", "a"], "el": [],
    "d": {"k": 1, "items": [1, 2], "é": {"a": "<b>"}}, "big": 12345678901234567890,
    "m": [{"role": "system", "content": "S "}, {"role": "user", "content": "U", "k": 2.0},
          {"role": "assistant", "content": None, "k": 1, "tools": [{"name": "f", "args": {}}]}],
}
NAMES = list(CONTEXT) + ["zz", "ns", "v", "b"]
FILTERS = ["upper", "lower", "title", "capitalize", "trim", "length", "first", "last", "list", "string",
           "int", "float", "abs", "join", "join(', ')", "reverse", "reverse|list", "sort", "unique|list",
           "tojson", "tojson(indent=2)", "tojson(sort_keys=true)", "default('D')", "default('D', true)", "d(i)",
           "round", "round(1)", "sum", "min", "max", "items|list", "dictsort", "replace('a', 'o')",
           "map('upper')|list", "map(attribute='role')|join('|')", "map(attribute='k', default=0)|list",
           "selectattr('k')|list", "selectattr('role', 'equalto', 'user')|list", "rejectattr('k')|list",
           "select('string')|list", "reject('none')|list", "select", "batch(2)|list", "slice(2)|list",
           "groupby('role')", "indent", "indent(2, true)", "wordcount", "escape", "safe", "center(12)",
           "truncate(8)", "count", "map('length')|list", "sort(reverse=true)", "sort(attribute='role')",
           "list|length", "select|list", "urlencode", "format(i, s)"]
TESTS = ["defined", "undefined", "none", "string", "number", "integer", "float", "boolean", "mapping",
         "iterable", "sequence", "odd", "even", "divisibleby(3)", "true", "false", "lower", "upper", "in l",
         "in ls", "eq(7)", "lt(3)", "gt 1", "callable", "not none", "not string", "equalto s"]
METHODS = ["strip()", "split()", "split(' ')", "split('l', 1)", "rsplit('o', 1)", "upper()", "lower()",
           "title()", "startswith('H')", "endswith(('d', 'x'))", "replace('l', 'L', 1)", "find('o')",
           "count('l')", "lstrip()", "rstrip('d')", "splitlines()", "capitalize()", "isdigit()", "isalpha()",
           "items()", "keys()", "values()", "get('k')", "get('q', 5)", "join(ls)", "partition('o')",
           "items", "append(1)", "index(1)", "zfill(9)", "rfind('o')", "swapcase()", "removeprefix('He')"]
ATTRIBUTES = ["k", "role", "content", "items", "a", "zz", "0", "é"]
BINARY = ["+", "-", "*", "/", "//", "%", "~", "==", "!=", "<", ">", "<=", ">=", "and", "or", "in", "not in"]
LITERALS = ["0", "1", "2", "-1", "10", "1.5", "0.0", "1e16", "1e-7", "'a'", "'Hello'", "''", '"q\\"\'\\n"',
            "'\\u00e9\\x41'", "[]", "{}", "()", "(1,)", "true", "None", "[1, 'a', none]", "{'k': i, 'q': [x]}"]


class Grammar:
    def __init__(self, seed):
        self.r = random.Random(seed)
        self.macros = []

    def pick(self, items):
        return self.r.choice(items)

    def expression(self, depth):
        r = self.r.random()
        if depth <= 0 or r < 0.2:
            return self.pick(NAMES) if self.r.random() < 0.7 else self.pick(LITERALS)
        sub = lambda: self.expression(depth - 1)
        if r < 0.38:
            return f"{self.operand(depth - 1)}|{self.pick(FILTERS)}"
        if r < 0.48:
            return f"{self.operand(depth - 1)} {self.pick(BINARY)} {self.operand(depth - 1)}"
        if r < 0.56:
            return f"{self.operand(depth - 1)} is {self.pick(TESTS)}"
        if r < 0.66:
            return f"{self.operand(depth - 1)}.{self.pick(METHODS)}"
        if r < 0.74:
            return f"{self.operand(depth - 1)}.{self.pick(ATTRIBUTES)}"
        if r < 0.8:
            return f"{self.operand(depth - 1)}[{self.pick([sub(), '0', '-1', repr(self.pick(ATTRIBUTES))])}]"
        if r < 0.86:
            bound = lambda: self.pick(["", "", "1", "-1", "2", "-3", "100", "n"])
            return f"{self.pick(NAMES)}[{bound()}:{bound()}{self.pick(['', ':2', ':-1', ':'])}]"
        if r < 0.91:
            return f"{sub()} if {sub()}" + (f" else {sub()}" if self.r.random() < 0.8 else "")
        if r < 0.94:
            return f"{self.pick(['not ', '-'])}{self.operand(depth - 1)}"
        if r < 0.97 and self.macros:
            return f"{self.pick(self.macros)}({self.pick(['', sub(), sub() + ', ' + sub(), 'q=' + sub()])})"
        return self.pick([f"range({self.pick(['3', 'i', '1, 9, 3', '5, 0, -2'])})|list",
                          f"dict(a={sub()})", f"[{sub()}, {sub()}]", f"{{'z': {sub()}}}",
                          f"namespace(a={sub()}).a", f"'%s-%d' % ({sub()}, i)"])

    def operand(self, depth):
        text = self.expression(depth)
        plain = text.replace("_", "a").isalnum() and not text[0].isdigit()
        return text if plain else f"({text})"

    def tag(self, body):
        return "{%" + self.pick(["", "", "-", "+"]) + f" {body} " + self.pick(["", "", "-", "+"]) + "%}"

    def space(self):
        return self.pick(["", "", " ", "\n", "\n  ", "  \n", "\t", "\n\n ", "text", "a\n    b"])

    def block(self, depth, loop=False):
        return "".join(self.space() + self.statement(depth - 1, loop) for _ in range(self.r.randint(1, 3)))

    def statement(self, depth, loop=False):
        r = self.r.random()
        if depth <= 0 or r < 0.35:
            return "{{" + self.pick(["", "-"]) + f" {self.expression(3)} " + self.pick(["", "-"]) + "}}"
        if r < 0.5:
            text = self.tag(f"if {self.expression(2)}") + self.block(depth, loop)
            if self.r.random() < 0.3:
                text += self.tag(f"elif {self.expression(2)}") + self.block(depth, loop)
            if self.r.random() < 0.5:
                text += self.tag("else") + self.block(depth, loop)
            return text + self.tag("endif")
        if r < 0.68:
            return self.loop(depth)
        if r < 0.8:
            return self.pick([self.tag(f"set {self.pick(['v', 'b', 's', 'l'])} = {self.expression(2)}"),
                              self.tag(f"set ns = namespace(c={self.expression(1)})"),
                              self.tag(f"set ns.c = {self.expression(2)}"),
                              self.tag("set v, b = " + self.pick(["1, 2", "l", "ls[:2]", self.expression(1)])),
                              self.tag("set v") + self.block(depth) + self.tag("endset"),
                              self.tag("set v | " + self.pick(["upper", "trim", "length"])) + self.block(depth)
                              + self.tag("endset")])
        if r < 0.86:
            name = f"m{len(self.macros)}"
            text = self.tag(f"macro {name}(p, q={self.expression(1)})") + "{{ p }}{{ q }}" + self.block(depth) \
                + self.tag("endmacro")
            self.macros.append(name)
            return text
        if r < 0.9:
            return self.tag(f"filter {self.pick(['upper', 'trim', 'replace(s, u)', 'indent'])}") \
                + self.block(depth) + self.tag("endfilter")
        if r < 0.93:
            return self.tag(f"with v = {self.expression(1)}") + self.block(depth) + self.tag("endwith")
        if r < 0.96 and loop:
            return self.tag(f"if {self.expression(1)}") + self.tag(self.pick(["break", "continue"])) \
                + self.tag("endif")
        return self.pick(["{# note #}", "{#- note\n -#}", "{% raw %}{{ i }}\n{% endraw %}",
                          self.tag("generation") + self.block(depth) + self.tag("endgeneration")])

    def loop(self, depth):
        over = self.pick(["l", "ls", "m", "d", "s", "range(3)", "d.items()", "m|selectattr('k')", "el", "zz",
                          self.expression(2)])
        target = self.pick(["v", "v", "b", "v, b"])
        text = self.tag(f"for {target} in {over}" + self.pick(["", "", f" if {self.expression(1)}"]))
        text += self.block(depth, True)
        if self.r.random() < 0.6:
            text += "{{ loop." + self.pick(["index", "index0", "first", "last", "length", "revindex", "nextitem",
                                            "previtem", "cycle(1, 2)", "depth", "changed(v)", "zz"]) + " }}"
        if self.r.random() < 0.25:
            text += self.tag("else") + self.block(depth)
        return text + self.tag("endfor")

    def template(self):
        self.macros = []
        return self.block(4) + self.pick(["", "\n", "\n\n"])
