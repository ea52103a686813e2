/// Regular expressions of tokenizers: what they mean to Oniguruma is what they mean here, or they are refused.
module LayerSkip.Tests.PatternTests

open System
open System.Diagnostics
open System.Text.RegularExpressions
open Expecto
open FsCheck
open FsCheck.FSharp
open LayerSkip
open LayerSkip.Tests.TokenizerSupport

/// Each with what it finds in a text. By hand, from Oniguruma's manual.
let private meanings = [
    // Classes within classes, and what they share.
    " ?[^(\\s|[.,!?\u2026])]+", "Hi, you! (a|b)", [ "Hi"; " you"; "a"; "b" ]
    "[\\p{L}&&[^a-c]]+", "xabyz\u00E9", [ "x"; "yz\u00E9" ]
    "[a-z&&b-y&&c-x]+", "abcdxyz", [ "cdx" ]
    "[^a-z&&b-y]+", "abcz", [ "a"; "z" ]
    "[[^a-z][0-4]]+", "ab3A-9", [ "3A-9" ]
    "[[:digit:][:space:]]+", "a1 2b", [ "1 2" ]
    "[[:^digit:]]+", "a1\u0661b", [ "a"; "b" ]
    "[[:xdigit:]]+", "xFgA0", [ "F"; "A0" ]
    "[[:,]]+", "a:,b", [ ":," ]
    "[]a]+", "a]b", [ "a]" ]
    "[a\\-z]+", "a-zb", [ "a-z" ]
    "[a-c-]+", "a-cd", [ "a-c" ]
    "[\\]\\[]+", "a[]b", [ "[]" ]
    "[\\w-]+", "a-b c", [ "a-b"; "c" ]
    // Characters above U+FFFF, alone and in ranges.
    "[\U00010400-\U0001044F]+", "a\U00010400\U0001044F\U00010450", [ "\U00010400\U0001044F" ]
    "\\s?[A-Za-z\U00010400-\U0001044F]+", "x \U00010428y \U000104B0", [ "x"; " \U00010428y" ]
    "[^\U0001F600]+", "a\U0001F600b\U0001F601", [ "a"; "b\U0001F601" ]
    "\U0001F600\\x{1F601}?", "\U0001F600\U0001F601\U0001F600", [ "\U0001F600\U0001F601"; "\U0001F600" ]
    "\\p{L}+", "\U00010428a1\U0001D7CE", [ "\U00010428a" ]
    ".", "\U0001F600a", [ "\U0001F600"; "a" ]
    // Escapes.
    "\\h+", "xFf09g", [ "Ff09" ]
    "\\H+", "xFg", [ "x"; "g" ]
    "\\R", "a\r\nb\nc\u2028", [ "\r\n"; "\n"; "\u2028" ]
    "\\x41\\u0042\\x{43}", "ABC", [ "ABC" ]
    "\\p{^L}+", "a1-b", [ "1-" ]
    "\\P{L}+", "a1-b", [ "1-" ]
    "\\p{Letter}\\p{decimal_number}", "a1", [ "a1" ]
    "\\p{Han}+", "a\u4E00\u3005b\U00020000", [ "\u4E00\u3005"; "\U00020000" ]
    "\\d+", "1\u0661a\u00B2", [ "1\u0661" ]
    "\\w+", "a\u0301_1\u24B6-\u2160", [ "a\u0301_1\u24B6"; "\u2160" ]
    "\\bb", "ab b\u0301b", [ "b" ]
    // Quantifiers.
    "a?+ab", "aab ab", [ "aab" ]
    "a++b|a", "aab aa", [ "aab"; "a"; "a" ]
    "a{,2}b", "aaab", [ "aab" ]
    "a{2}?b", "ab aab b", [ "b"; "aab"; "b" ]
    "a{1,2}?", "aa", [ "a"; "a" ]
    "x{,y}", "x{,y}", [ "x{,y}" ]
    "a{2}+b", "aaaab aab", [ "aaaab"; "aab" ]
    // Lines.
    "a$", "a\na", [ "a"; "a" ]
    "^a", "a\na\n", [ "a"; "a" ]
    "^", "a\n", [ "" ]
    "\\s+$", "a  \n b ", [ "  "; " " ]
    "a\\z", "aa\n", []
    "a\\Z", "aa\n", [ "a" ]
    "\\Aa", "a\na", [ "a" ]
    "(?m:.)", "\n", [ "\n" ]
    ".", "\n", []
    // Options.
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)", "'S'\u017F'Re're'LL", [ "'S"; "'\u017F"; "'Re"; "'re"; "'LL" ]
    "a(?i)b|c", "aB aC c", [ "aB"; "aC" ]
    "(?i)[^a-c]+", "ABCDabcd", [ "D"; "d" ]
    "(?i:K)", "k\u212A", [ "k"; "\u212A" ]
    "(?-i:a)(?i:b)", "aBAB", [ "aB" ]
    "(?>a+)b", "aab", [ "aab" ]
    "(?<n>a)(?#no)b", "ab", [ "ab" ]
    "(?<=a)b(?!c)", "abc ab bb", [ "b" ]
    "(?=(\\d{3})+(?!\\d))", "1234567", [ ""; "" ]
]

/// What is not read, and must not be read as something else.
let private refused = [
    "[[:alpha:]]"
    "[[:punct:]]"
    "[[:nonsense:]]"
    "\\X"
    "\\K"
    "\\G"
    "\\1(a)"
    "(a)\\1"
    "\\k<a>"
    "(?<a>b)\\g<a>"
    "(?~a)"
    "(?x: a)"
    "(?s:.)"
    "(?(1)a|b)"
    "\\p{Latin}"
    "\\p{IsGreek}"
    "\\pL"
    "(?i:\u00E4)"
    "(?i:stra\u00DFe)"
    "(?i:ss)"
    "(?i:\\p{Lu})"
    "a{200000}"
    "a{3,2}"
    "(a"
    "a)"
    "[a"
    "[z-a]"
    "[a-\\d]"
    "*a"
    "a\\"
    "\\x"
    "\\xFF"
    "\\x{D800}"
    "\\x{110000}"
    String('(', 100_000) + String(')', 100_000)
    String('[', 100_000)
    String('a', 100_000)
]

let private found (pattern: TextPattern) (text: string) = [
    for struct (start, stop) in pattern.Find text -> text.Substring(start, stop - start)
]

let private expression source = TextPattern.expression "tokenizer.json" source |> Check.getOrRaise

/// Patterns of which .NET and Oniguruma mean the same, made of few characters.
let private plainPattern =
    let atom =
        Gen.elements [
            "a"
            "b"
            "[ab]"
            "[^a]"
            "\\s"
            "\\d"
            "\\p{L}"
            "\\P{N}"
            "[^\\s\\p{L}]"
            "."
            "(?:a|b )"
            "(?!b)"
            "(?=a)"
        ]
    let quantifier = Gen.elements [ ""; ""; "?"; "*"; "+"; "{1,2}"; "*?"; "+?"; "??" ]
    let item =
        Gen.map2
            (fun (atom: string) times ->
                (if atom.StartsWith "(?!" || atom.StartsWith "(?=" then
                     atom
                 else
                     atom + times))
            atom
            quantifier

    Gen.nonEmptyListOf item
    |> Gen.map (String.concat "")
    |> Gen.nonEmptyListOf
    |> Gen.map (List.truncate 3 >> String.concat "|")

let private plainText =
    Gen.elements [ 'a'; 'b'; ' '; '1'; '\u00E9'; '!'; '\u0661'; '\n' ]
    |> Gen.arrayOf
    |> Gen.map String

/// The published patterns of Llama-family models.
let private published = [
    "Llama 3",
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
    "I'LL say\n\n12345  \u00E9\U00010428 !?\n",
    [ "I"; "'LL"; " say"; "\n\n"; "123"; "45"; " "; " \u00E9\U00010428"; " !?\n" ]
    "Viking",
    " ?[^(\\s|[.,!?\u2026\u3002\uFF0C\u3001\u0964\u06D4\u060C])]+",
    "Hei, maailma (1)!",
    [ "Hei"; " maailma"; "1" ]
    "cl100k, with possessive quantifiers",
    "'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}++|\\p{N}{1,3}+| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*+|\\s++$|\\s*[\\r\\n]|\\s+(?!\\S)|\\s",
    "don't 1234 \n x",
    [ "don"; "'t"; " "; "1234"; " \n"; " x" ]
]

/// As many of them as a second machine could not try.
let private slow = [
    "(a+)+$", String('a', 48) + "!"
    "(a|a)*b", String('a', 48) + "!"
    "(?=(a+)+$)b", String('a', 48) + "!"
    "(a|a)*c", String('a', 48) + "!c"
    "(?:(?:(?:a{1,40}){1,40}){1,40}){1,40}c", String('a', 60) + "!c"
    "(?:(?:(?:a{1,40}){1,40}){1,40}){1,40}b", String('a', 60) + "!"
]

[<Tests>]
let tests =
    testList "patterns" [
        for source, text, expected in meanings do
            testCase $"{source} in %A{text}" (fun () ->
                Expect.equal (found (expression source) text) expected "matches")

        for source in refused do
            let shown = if source.Length > 40 then source[..39] + "..." else source
            testCase $"refuses {shown} in one short line" (fun () ->
                match TextPattern.expression "tokenizer.json" source with
                | Ok _ -> failtest "it was read"
                | Error faults ->
                    let line = LayerSkipError.summary faults
                    Expect.stringContains line "tokenizer.json" "says where"
                    Expect.isLessThan line.Length 700 "short"
                    Expect.isFalse (line.Contains '\n') "one line")

        for name, source, text, expected in published do
            testCase $"cuts as {name} does" (fun () ->
                Expect.equal (found (expression source) text) expected "words")

        testProperty "finds what .NET finds where both mean the same"
        <| Prop.forAll (Arb.fromGen (Gen.zip plainPattern plainText)) (fun (source, text) ->
            let theirs = [
                for one in Regex(source, RegexOptions.CultureInvariant).Matches text do
                    if one.Length > 0 then
                        one.Value
            ]

            (found (expression source) text |> List.filter (fun one -> one <> "")) = theirs)

        testProperty "finds in characters above U+FFFF what it finds in their likes of the basic plane"
        <| Prop.forAll (Arb.fromGen (Gen.zip plainPattern plainText)) (fun (source, text) ->
            // A letter, a digit and a sign for the ones outside ASCII that the texts have.
            let above (text: string) =
                text
                    .Replace("\u00E9", "\U00010428")
                    .Replace("\u0661", "\U0001D7CE")
                    .Replace("!", "\U0001F600")

            let pattern = expression source
            (found pattern (above text)) = (found pattern text |> List.map above))

        for rule in WordRules.names do
            testCase $"llama.cpp's {rule} is a rule that cuts a text and loses nothing" (fun () ->
                let text = GgufTokenizerExport.probe
                let words =
                    WordRules.words (WordRules.tryFind rule).Value { Text = text; Place = Place.First }
                Expect.equal (words |> Array.map _.Text |> String.concat "") text "all of it"
                Expect.isGreaterThan words.Length 10 "words")

        testCase "a pattern that backtracks without end says so" (fun () ->
            let pattern = expression "(?=a)(?:a|b|ab)*c"
            let text = String.replicate 40 "ab" + "!c"
            let fault = Expect.throwsC (fun () -> pattern.Find text |> ignore) id
            Expect.isTrue (fault :? LayerSkipException) "an error"
            Expect.stringContains fault.Message "no end" "says what")

        for source, text in slow do
            testCase $"{source} ends soon, in a match or in one line" (fun () ->
                let started = Stopwatch.GetTimestamp()

                try
                    found (expression source) text |> ignore
                with :? LayerSkipException as e ->
                    Expect.stringContains e.Message "tokenizer.json" "says where"

                Expect.isLessThan (Stopwatch.GetElapsedTime started).TotalSeconds 60.0 "it ended")
    ]
