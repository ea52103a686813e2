/// The interpreter itself: what Python would write, faults with their place, bounds.
module LayerSkip.Tests.JinjaTests

open System
open System.Diagnostics
open Expecto
open FsCheck
open FsCheck.FSharp
open LayerSkip
open LayerSkip.Tests.ChatSupport
open LayerSkip.Tests.TokenizerSupport

let private writes (source: string) (expected: string) =
    testCase source (fun () -> Expect.equal (renderPlain source) (Ok expected) source)

let private refuses (source: string) (part: string) =
    testCase $"refused: {source}" (fun () ->
        match renderPlain source with
        | Ok text -> failtest $"wrote {text}"
        | Error why -> Expect.stringContains why part source)

[<Tests>]
let tests =
    testList "Jinja" [
        // Values by jinja2 3.1.6 in Python 3.11.
        writes
            "{{ 1.0 }} {{ 1e16 }} {{ 1e-5 }} {{ 0.0001 }} {{ 123456789.125 }} {{ 1e15 }} {{ -0.0 }}"
            "1.0 1e+16 1e-05 0.0001 123456789.125 1000000000000000.0 -0.0"
        writes
            "{{ [1, 'a', \"it's\", none, true, 2.5, {'k': ('x',)}] }}"
            "[1, 'a', \"it's\", None, True, 2.5, {'k': ('x',)}]"
        writes
            "{{ -7 // 2 }} {{ -7 % 3 }} {{ 7 / 2 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ 10 ** 30 }}"
            "-4 2 3.5 1024 0.5 1000000000000000000000000000000"
        writes
            "{{ 'abcdef'[::-1] }}{{ 'abcdef'[-3:] }}{{ 'abcdef'[1:5:2] }}{{ 'a😀b'[1] }}{{ 'a😀b' | length }}"
            "fedcbadefbd😀3"
        writes
            "{{ 'straße ŉ ﬁ ΣΑΣ'.upper() }} {{ 'ΣΑΣ ΑΣ.'.lower() }} {{ 'ß ǆ'.title() }}"
            "STRASSE ʼN FI ΣΑΣ σας ας. Ss ǅ"
        writes
            "{{ 'a,b,,c'.split(',') }} {{ ' a  b '.split() }} {{ 'a b c'.split(' ', 1) }}"
            "['a', 'b', '', 'c'] ['a', 'b'] ['a', 'b c']"
        writes
            "{{ {'a': 1, 'b': [1, 2]} | tojson }} {{ {'é': '<\"&>'} | tojson }}"
            "{\"a\": 1, \"b\": [1, 2]} {\"é\": \"<\\\"&>\"}"
        writes "{{ [1, {'a': []}] | tojson(indent=2) }}" "[\n  1,\n  {\n    \"a\": []\n  }\n]"
        writes
            "{% set ns = namespace(n=0) %}{% for i in range(4) %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}"
            "6"
        writes "{% set x = 1 %}{% for i in [1, 2] %}{% set x = x + i %}{{ x }}{% endfor %}{{ x }}" "231"
        writes
            "{% for i in [1, 2, 3] if i != 2 %}{{ loop.index }}/{{ loop.length }}{% if not loop.last %}, {% endif %}{% endfor %}"
            "1/2, 2/2"
        writes "{% for i in [] %}x{% else %}none{% endfor %}" "none"
        writes "{% for k, v in {'a': 1}.items() %}{{ k }}={{ v }}{% endfor %}" "a=1"
        writes "{% macro m(a, b='x') %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}{{ m(1, b=2) }}" "1x12"
        writes
            "{% macro m(x) %}<{{ caller(x) }}>{% endmacro %}{% call(y) m(1) %}[{{ y }}]{% endcall %}"
            "<[1]>"
        refuses "{% macro m(x) %}{{ x }}{% endmacro %}{% call m(1) %}{% endcall %}" "no argument caller"
        writes "{% set x %}a{{ 1 }}{% endset %}{{ x }}" "a1"
        writes
            "{{ undefined_one }}|{{ undefined_one is defined }}|{{ undefined_one | default('d') }}|{% if undefined_one %}x{% endif %}"
            "|False|d|"
        writes "{{ 1 if false }}|{{ none }}|{{ 'a' ~ 1 ~ none }}" "|None|a1None"
        writes "{{ strftime_now('%d %b %Y, %H:%M') }}" "09 Jul 2026, 08:05"
        writes "a\n  {% if true %}\n  b\n  {% endif %}\nc\n" "a\n  b\nc"
        writes "a\n  {%- if true -%}\n  b\n  {%- endif %}\nc" "abc"
        writes "{% raw %}{{ x }}{% endraw %}{# gone #}!" "{{ x }}!"
        writes "{% generation %}{{ 1 }}{% endgeneration %}" "1"
        writes
            "{{ [3, 1, 2] | sort | join(',') }}{{ ['b', 'A'] | sort }}{{ [1, 2, 1] | unique | list }}"
            "1,2,3['A', 'b'][1, 2]"
        writes
            "{{ '42.9' | int }}{{ 'x' | int(7) }}{{ '1e2' | float }}{{ 2.5 | round }}{{ 2.345 | round(2) }}"
            "427100.02.02.35"
        writes
            "{{ 1 < 2 < 3 }}{{ 'a' in 'abc' }}{{ 1 not in [1] }}{{ 'b' in {'b': 1} }}{{ 1 == 1.0 == true }}"
            "TrueTrueFalseTrueTrue"

        refuses "line\n {{ 1 | nonsense }}" "2:9: no filter nonsense"
        refuses "{{ x is nonsense }}" "no test nonsense"
        refuses "{% frobnicate %}" "1:4: unknown tag frobnicate"
        refuses "{% if true %}" "if has no endif"
        refuses "{{ 'abc }}" "this text has no end"
        refuses "{{ (1 }}" "unexpected }"
        refuses "{{ messages.append(1) }}" "'messages' is undefined"
        refuses "{{ [1].append(2) }}" "would change a list"
        refuses "{{ x.y }}" "'x' is undefined"
        refuses "{{ 'a' + 1 }}" "a str and a int"
        refuses "{{ ''.__class__ }}" "kept from templates"
        refuses "{{ '%s' % 1 }}" "formatting by %"
        refuses "{{ raise_exception('only one user') }}" "only one user"
        refuses "{% include 'x' %}" "needs other templates"
        refuses "{{ cycler(1) }}" "cycler is not known"
        refuses "{% for x in y recursive %}{% endfor %}" "recursive"
        refuses "{{ [1, 2] | map('upper') }}" "has no text"

        testCase "work, texts, numbers and nesting are bounded, and end soon" (fun () ->
            let watch = Stopwatch.StartNew()

            for source in
                [
                    "{{ range(10**9) | list }}"
                    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
                    "{{ 'x' * 10**12 }}"
                    "{{ [1] * 10**12 }}"
                    "{{ 10 ** 10000 }}"
                    "{% macro m(x) %}{{ m(x) }}{% endmacro %}{{ m(1) }}"
                    "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}"
                    "{% set ns = namespace(x=[]) %}{% for i in range(99) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}"
                    "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}"
                    "{% set a = namespace(x=[], y=[]) %}{% for i in range(99) %}{% set a.x = [a.x, a.x] %}{% set a.y = [a.y, a.y] %}{% endfor %}{{ a.x == a.y }}"
                    "{{ " + String('(', 100_000) + "1" + String(')', 100_000) + " }}"
                    "{{ " + String.replicate 100_000 "not " + "1 }}"
                    String.replicate 20_000 "{% if 1 %}"
                    "{{ ('ab' * 10**6) | replace('', 'x' * 10**6) }}"
                ] do
                Expect.isError (renderPlain source) (Printable.cut 60 source)

            Expect.isLessThan watch.Elapsed.TotalSeconds 60.0 "seconds")

        testProperty "any text is a template or is refused with its place"
        <| fun (pieces: int list) ->
            let parts = [|
                "{{"
                "}}"
                "{%"
                "%}"
                "{#"
                "#}"
                "if "
                "for x in y"
                "end"
                "'"
                "1"
                "|"
                "("
                "]"
                " "
                "\n"
                "-"
                "é"
                "set x"
                "="
                "~"
            |]
            let source = pieces |> List.map (fun i -> parts[abs (i % parts.Length)]) |> String.concat ""

            match renderPlain source with
            | Ok _ -> true
            | Error why -> why.Contains ':'

        testPropertyWithConfig
            { FsCheckConfig.defaultConfig with maxTest = 200 }
            "text outside of tags stays, but for one newline at the end"
        <| Prop.forAll wellFormed (fun text ->
            let text = text.Replace("{", "(").Replace("\r", "")
            let expected =
                if text.EndsWith '\n' then
                    text[.. text.Length - 2]
                else
                    text
            renderPlain text = Ok expected)
    ]
