module LayerSkip.Tests.PrintableTests

open System
open Expecto
open LayerSkip

let private steers (character: char) =
    Char.IsControl character
    || Char.IsSurrogate character
    || "\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069".Contains character

/// Every case that holds texts, with the same text in all of them.
let private errorsWith (text: string) : LayerSkipError list = [
    LayerSkipError.NotFound(text, text)
    LayerSkipError.BadFile(text, text)
    LayerSkipError.MissingTensor text
    LayerSkipError.UnknownTensor text
    LayerSkipError.WrongShape(text, [ 1L ], [ 2L ])
    LayerSkipError.WrongShape("a", [ 1L ], [ for i in 1 .. text.Length -> int64 i ])
    LayerSkipError.WrongDtype(text, text, text)
    LayerSkipError.NotFinite text
    LayerSkipError.BeyondDtype(text, "f16", "bf16")
    LayerSkipError.Overflow(text, 3, "f16")
    LayerSkipError.InWeights(text, [ LayerSkipError.MissingTensor text ])
    LayerSkipError.InGguf(text, [ LayerSkipError.WrongShape(text, [ 1L ], [ 2L ]) ])
    LayerSkipError.Unsupported(text, text)
    LayerSkipError.OutOfRange(text, text, text)
    LayerSkipError.NoTokenizer text
    LayerSkipError.NoTokenizerInGguf text
    LayerSkipError.NoChatTemplate text
    LayerSkipError.ChatRefused text
    LayerSkipError.NoDevice(text, "why")
]

[<Tests>]
let tests =
    testList "Printable" [
        testProperty "a line has no control, no lone surrogate and nothing that turns its order"
        <| fun (characters: char list) ->
            let text = String(Array.ofList characters)
            let shown = Printable.line text
            let pairs = shown.EnumerateRunes() |> Seq.filter (fun rune -> rune.Value > 0xffff) |> Seq.length
            let surrogates = shown |> Seq.filter Char.IsSurrogate |> Seq.length
            let others = shown |> Seq.filter (fun c -> steers c && not (Char.IsSurrogate c)) |> Seq.length
            others = 0 && surrogates = 2 * pairs

        testProperty "what steers nothing is shown as it is"
        <| fun (characters: char list) ->
            let text = String(characters |> List.filter (steers >> not) |> Array.ofList)
            Printable.line text = text && Printable.text text = text

        testCase "controls are shown by their numbers; a text keeps its lines and tabs"
        <| fun () ->
            let text = "a\u001b[31m\tb\n\u009b\u007f\ud83d\ude00" + string (char 0xd83d)
            let line = "a\\u001b[31m\\u0009b\\u000a\\u009b\\u007f\U0001f600\\ud83d"
            Expect.equal (Printable.line text) line "a line"

            Expect.equal
                (Printable.text text)
                (line.Replace("\\u0009", "\t").Replace("\\u000a", "\n"))
                "a text"

        testCase "a long text is cut in its middle, and says by how much"
        <| fun () ->
            let text = "start" + String('x', 100_000) + "end"
            let shown = Printable.cut 60 text
            Expect.isTrue (shown.StartsWith "startxxx" && shown.EndsWith "xxxend") shown
            Expect.stringContains shown "(99,948 characters)" "what is left out"
            Expect.equal (Printable.cut 60 shown[..59]) shown[..59] "what is short stays"

        testCase "no message of an error steers a terminal or is long, whatever a file put into it"
        <| fun () ->
            for text in [ "a\u001b[2J\nb\u202e"; String('\u001b', 300_000); String('9', 300_000) ] do
                let errors = errorsWith text

                for shown in LayerSkipError.summary errors :: List.map LayerSkipError.message errors do
                    Expect.isFalse (Seq.exists steers shown) $"%A{shown} is one plain line"
                    Expect.isLessThan shown.Length 20_000 "its length"
    ]
