/// Our tokenizers as tokenizers of Microsoft.ML.Tokenizers: whatever takes one may take ours.
module LayerSkip.Tests.TokenizerBaseTests

open System
open System.Buffers
open System.IO
open System.Text.Json
open Expecto
open FsCheck.FSharp
open LayerSkip
open LayerSkip.Tests.Support
open LayerSkip.Tests.TokenizerSupport

type private Base = Microsoft.ML.Tokenizers.Tokenizer

/// Tokens, and the text that their offsets count in.
let private tokens (tokenizer: Base) (text: string) =
    let struct (found, normalized) =
        let mutable normalized = null
        let found = tokenizer.EncodeToTokens(text, &normalized)
        struct (Array.ofSeq found, normalized)

    found, (if isNull normalized then text else normalized)

let private covered (normalized: string) (token: Microsoft.ML.Tokenizers.EncodedToken) =
    let start = token.Offset.Start.Value
    normalized.Substring(start, token.Offset.End.Value - start)

let private firstIds (tokenizer: Base) (text: string) (most: int) =
    let mutable normalized, consumed = null, 0
    let ids = tokenizer.EncodeToIds(text, most, &normalized, &consumed)
    Array.ofSeq ids, consumed

let private index (tokenizer: Base) (text: string) (most: int) =
    let mutable normalized, count = null, 0
    let index = tokenizer.GetIndexByTokenCount(text, most, &normalized, &count)
    index, count

let private indexFromEnd (tokenizer: Base) (text: string) (most: int) =
    let mutable normalized, count = null, 0
    let index = tokenizer.GetIndexByTokenCountFromEnd(text, most, &normalized, &count)
    index, count

let private decodeInto (tokenizer: Base) (room: int) (ids: int[]) =
    let destination = Array.zeroCreate<char> room
    let mutable consumed, written = 0, 0
    let status = tokenizer.Decode(ids, Span destination, &consumed, &written)
    status, consumed, String(destination, 0, written)

/// With what a file may say besides: words that lose their spaces, ids only for some characters, special tokens that take
/// the space beside them.
let private odd = [
    "words without spaces",
    loadOk (
        byteJson [
            """"pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "Removed", "invert": false}"""
        ] []
    )
    "a metaspace and a template",
    loadOk
        """{"model": {"vocab": {"<unk>": 0, "<s>": 1, "▁": 2, "a": 3, "▁a": 4}, "merges": ["▁ a"], "unk_token": "<unk>", "fuse_unk": true},
            "added_tokens": [{"id": 1, "content": "<s>", "special": true, "lstrip": true}],
            "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"},
            "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}],
                               "special_tokens": {"<s>": {"ids": [1]}}}}"""
]

let private texts =
    let special = [ "<|begin|>"; " <s>"; "hello w"; "\u00e9"; "\U0001F999"; " a" ] |> Gen.elements

    Gen.oneof [ wellFormed.Generator; special ]
    |> Gen.listOf
    |> Gen.map (String.concat "")
    |> Arb.fromGen

let private property name (holds: Tokenizer -> string -> unit) =
    testList name [
        for family, tokenizer in families @ odd ->
            testPropertyWithConfig
                { FsCheckConfig.defaultConfig with maxTest = 200 }
                family
                (Prop.forAll texts (fun text ->
                    holds tokenizer text
                    true))
    ]

let private reference name parts load (cases: JsonElement -> (string * int[]) list) =
    sharedTest $"gives the vectors of {name}" parts (fun path ->
        let tokenizer: Base = load path

        for text, ids in cases (JsonDocument.Parse(File.ReadAllBytes path).RootElement) do
            Expect.equal (Array.ofSeq (tokenizer.EncodeToIds text)) ids $"ids of {text}"
            Expect.equal (tokenizer.CountTokens text) ids.Length $"their number of {text}")

let private ids (element: JsonElement) = [| for id in element.EnumerateArray() -> id.GetInt32() |]

[<Tests>]
let tests =
    testList "tokenizers of Microsoft.ML" [
        property "offsets cover the text" (fun tokenizer text ->
            let found, normalized = tokens tokenizer text
            let mutable last = 0

            for token in found do
                let start, stop = token.Offset.Start.Value, token.Offset.End.Value
                Expect.equal start last "no gap"
                Expect.isGreaterThanOrEqual stop start "forwards"
                last <- stop

            if found.Length > 0 then
                Expect.equal last normalized.Length "to the end")

        property "a token's characters are its piece" (fun tokenizer text ->
            let found, normalized = tokens tokenizer text

            for token in found do
                let covered = covered normalized token
                let bytes = tokenizer.Bytes true token.Id
                Expect.equal token.Value (Tokenizer.tokenText tokenizer token.Id) "its piece"

                // Part of a character, a special token and what is no piece spell no text of their own. Characters without any
                // token lie with the token after them, or with the last.
                let spells =
                    not (Text.Encoding.UTF8.GetString(bytes).Contains '\uFFFD')
                    && not (tokenizer.Added.ContainsKey token.Id)
                    && tokenizer.Parts.Bpe.Unknown <> Some token.Id

                if spells then
                    Expect.stringContains
                        (covered.Replace('\u2581', ' '))
                        (Text.Encoding.UTF8.GetString bytes)
                        "its text")

        property "encodes, counts and decodes as the functions of F# do" (fun tokenizer text ->
            let expected = Tokenizer.encode tokenizer text
            let found, _ = tokens tokenizer text
            Expect.equal (found |> Array.map _.Id) expected "tokens"
            Expect.equal (Array.ofSeq (tokenizer.EncodeToIds text)) expected "ids"
            Expect.equal (Array.ofSeq (tokenizer.EncodeToIds(text.AsSpan()))) expected "ids of a span"
            Expect.equal (tokenizer.CountTokens text) expected.Length "number"
            Expect.equal (tokenizer.Decode expected) (Tokenizer.decode false tokenizer expected) "text")

        property "a limit keeps whole characters, and says how many" (fun tokenizer text ->
            let found, normalized = tokens tokenizer text

            for most in 1 .. found.Length + 1 do
                let first, consumed = firstIds tokenizer text most
                let stop, count = index tokenizer text most
                Expect.isLessThanOrEqual first.Length most "no more"
                Expect.equal (stop, count) (consumed, first.Length) "the index agrees"
                Expect.equal first (found |> Array.truncate count |> Array.map _.Id) "the first"
                let isWhole =
                    stop = 0 || stop = normalized.Length || not (Char.IsLowSurrogate normalized[stop])
                Expect.isTrue isWhole "no half of a character"

                let start, count = indexFromEnd tokenizer text most
                Expect.isLessThanOrEqual count most "no more from the end"
                let expected =
                    if count = 0 then normalized.Length
                    elif count = found.Length then 0
                    else found[found.Length - count].Offset.Start.Value
                Expect.equal start expected "where the last begin"

            if found.Length > 0 then
                Expect.equal (index tokenizer text found.Length) (normalized.Length, found.Length) "all"
                Expect.equal (indexFromEnd tokenizer text found.Length) (0, found.Length) "all from the end")

        property "decodes into as much room as there is" (fun tokenizer text ->
            let ids = Tokenizer.encode tokenizer text
            let whole = Tokenizer.decode false tokenizer ids
            Expect.equal
                (decodeInto tokenizer whole.Length ids)
                (OperationStatus.Done, ids.Length, whole)
                "all"

            for room in 0 .. min 40 (whole.Length - 1) do
                let status, consumed, written = decodeInto tokenizer room ids
                Expect.equal status OperationStatus.DestinationTooSmall "no room"
                Expect.equal
                    written
                    (Tokenizer.decode false tokenizer ids[.. consumed - 1])
                    "what was consumed")

        testCase "a character of several tokens belongs to the last of them" (fun () ->
            let found, normalized = tokens byteLevel "h\U0001F999w"
            Expect.equal normalized "h\U0001F999w" "not changed"

            Expect.equal
                [ for token in found -> token.Offset ]
                [ Range(0, 1); Range(1, 1); Range(1, 1); Range(1, 1); Range(1, 3); Range(3, 4) ]
                "offsets"

            Expect.equal (index byteLevel "h\U0001F999w" 3) (1, 1) "no index within it"
            Expect.equal (indexFromEnd byteLevel "h\U0001F999w" 3) (3, 1) "nor from the end")

        testCase "the normalized text is what is merged" (fun () ->
            let found, normalized = tokens sentencePiece "hello w"
            Expect.equal normalized "▁hello▁w" "with its spaces"
            Expect.equal [ for token in found -> token.Value ] [ "<s>"; "▁hello"; "▁w" ] "pieces"
            Expect.equal [ for token in found -> covered normalized token ] [ ""; "▁hello"; "▁w" ] "covered"

            let mutable normalized = ""
            let raw = (sentencePiece :> Base).EncodeToTokens("hello", &normalized, true, false)
            Expect.equal [ for token in raw -> token.Value ] [ "<s>"; "hello" ] "unless it is not wanted"
            Expect.isNull normalized "no other text then")

        testCase "without pre-tokenization the text is one word" (fun () ->
            let mutable normalized = ""
            let spaced = byteLevel.EncodeToTokens("1 2", &normalized, false)
            Expect.equal [ for token in spaced -> token.Value ] [ "1"; "Ġ"; "2" ] "pieces"
            let whole = loadOk (byteJson [ $"\"pre_tokenizer\": {byteStage}" ] []) :> Base
            Expect.equal (whole.CountTokens "a1a") 3 "words"
            Expect.equal (whole.CountTokens("aaaa", false)) 1 "one word")

        reference
            "stories260K"
            [ "stories260K"; "tokenizer_cases.json" ]
            (fun path ->
                Tokenizer.tryLoad (Path.GetDirectoryName path) |> Check.getOrRaise |> Option.get :> Base)
            (fun root -> [ for case in root.EnumerateObject() -> case.Name, ids case.Value ])

        reference
            "SmolLM2"
            [ "smollm2-135m-instruct"; "tokenizer_cases.json" ]
            (fun path ->
                Tokenizer.tryLoad (Path.GetDirectoryName path) |> Check.getOrRaise |> Option.get :> Base)
            (fun root -> [
                for case in root.EnumerateArray() ->
                    case.GetProperty("text").GetString(), ids (case.GetProperty "ids")
            ])
    ]
