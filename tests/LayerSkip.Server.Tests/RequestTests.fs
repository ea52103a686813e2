module LayerSkip.Server.Tests.RequestTests

open System
open System.Text.Json
open Expecto
open FsCheck
open LayerSkip
open LayerSkip.Server

let private reader (json: string) = RequestReader(JsonDocument.Parse(json).RootElement)

let private fields (reader: RequestReader) = reader.Faults |> List.map _.Field

[<Tests>]
let tests =
    testList "requests" [
        testProperty "a whole number in its range is read, and another is a fault with its name"
        <| fun (value: int64) (a: int64) (b: int64) ->
            let least, most = min a b, max a b
            let reader = reader $"""{{"x": {value}}}"""
            let found = reader.Long("x", least, most)

            if least <= value && value <= most then
                found = Some value && reader.Faults.IsEmpty
            else
                found = None && fields reader = [ "x" ]

        testProperty "a finite number is read to its last bit"
        <| fun (NormalFloat value) ->
            let written = value.ToString("R", Globalization.CultureInfo.InvariantCulture)
            let reader = reader $"""{{"x": {written}}}"""
            reader.Real("x", Double.NegativeInfinity, Double.PositiveInfinity) = Some value

        testProperty "ids are read in their order"
        <| fun (ids: int[]) ->
            let json = JsonSerializer.Serialize ids
            RequestReader.TryIds(JsonDocument.Parse(json).RootElement) = Some ids

        testProperty "a list with anything but whole numbers of 32 bits is no list of ids"
        <| fun (ids: int list) (PositiveInt place) ->
            for wrong in [ "1.5"; "\"1\""; "null"; "[1]"; "99999999999"; "true" ] do
                let items = ids |> List.map string
                let items = List.insertAt (place % (items.Length + 1)) wrong items
                let json = $"""[{String.Join(',', items)}]"""
                Expect.isNone (RequestReader.TryIds(JsonDocument.Parse(json).RootElement)) json

        testCase "1e3 and 5.0 are whole, 1.5 and 1e400 are not" (fun () ->
            let read (number: string) = reader($"""{{"x": {number}}}""").Whole("x", 0, 5000)

            Expect.equal (List.map read [ "1e3"; "5.0"; "0" ]) [ Some 1000; Some 5; Some 0 ] "whole"
            Expect.equal
                (List.map read [ "1.5"; "1e400"; "-1"; "5001"; "9223372036854775808" ])
                (List.replicate 5 None)
                "not")

        testCase "a fault inside an object or a list has its whole name" (fun () ->
            let reader = reader """{"a": {"b": {"c": "x"}}, "d": [{}, {"e": 1}]}"""
            let inner = reader.Object("a").Value.Object("b").Value
            inner.Flag "c" |> ignore
            reader.Objects("d").Value[1].Text "e" |> ignore
            Expect.equal (fields reader) [ "a.b.c"; "d[1].e" ] "names")

        testCase "what the library finds is told in the request's words, without a path" (fun () ->
            let told errors =
                let refusal = Refusal.ofErrors errors
                refusal.Status, refusal.Param

            Expect.equal
                (told [ LayerSkipError.OutOfRange("top-p", "2", "at most 1") ])
                (400, Some "top_p")
                "option"
            Expect.equal
                (told [ LayerSkipError.OutOfRange("max-new-tokens", "0", "1 or more") ])
                (400, Some "max_tokens")
                "renamed"
            Expect.equal (told [ LayerSkipError.ExitOutsideModel(9, 5) ]) (400, Some "exit_layer") "exit"

            Expect.equal
                (told [
                    LayerSkipError.Excluded(
                        "draft-length",
                        "3",
                        "strategy",
                        "early-exit",
                        "it drafts nothing"
                    )
                ])
                (400, Some "draft_length")
                "in vain"

            for error in
                [
                    LayerSkipError.BadFile("/secret/place", "broken")
                    LayerSkipError.NotFound("/secret/place", "hint")
                    LayerSkipError.NoTokenizer "/secret/place"
                    LayerSkipError.NotWritten("/secret/place", "full")
                ] do
                Expect.isFalse ((Refusal.ofErrors [ error ]).Message.Contains "secret") "no path"

            Expect.equal (fst (told [ LayerSkipError.BadFile("/secret", "broken") ])) 500 "our affair")

        testCase "what a strategy has no use for is told of every field, with the other faults" (fun () ->
            let drafting = """"drafter": "exit", "draft_length": 3, "exit_layer": 2, "policy": "static" """

            for strategy, fields' in
                [
                    "autoregressive", [ "drafter"; "policy"; "exit_layer"; "draft_length" ]
                    "early-exit", [ "drafter"; "policy"; "draft_length" ]
                    "self-speculative", []
                ] do
                let reader = reader $"""{{"strategy": "{strategy}", {drafting}}}"""
                let read = DraftingFields.read reader
                Expect.equal (fields reader) fields' strategy
                Expect.equal read.Drafting.DraftLength (Some 3) "read all the same"

            let reader = reader """{"strategy": "autoregressive", "draft_length": 3, "stop_rule": 5}"""
            DraftingFields.read reader |> ignore
            Expect.containsAll (fields reader) [ "stop_rule"; "draft_length" ] "both"

            Expect.equal
                (reader.Faults |> List.map _.Text |> List.last)
                "\"draft_length\" does not go with strategy autoregressive: it drafts nothing"
                "why")

        testProperty "a histogram counts every value once, and sums them"
        <| fun (values: (NormalFloat * PositiveInt) list) ->
            let bounds = [| 0.1; 1.0; 10.0 |]
            let histogram = Histogram bounds

            for NormalFloat value, PositiveInt times in values do
                histogram.Add(value, times)

            let struct (buckets, count, _) = histogram.Read()

            let under bound =
                values
                |> List.sumBy (fun (NormalFloat value, PositiveInt times) ->
                    if value <= bound then int64 times else 0L)

            buckets = [| for bound in bounds -> bound, under bound |]
            && count = under Double.PositiveInfinity

        testCase "Prometheus' text keeps quotes and newlines of a name inside its label" (fun () ->
            let text = PrometheusText [ "model_name", "a\"b\\c\nd" ]
            text.Counter("x_total", "Things.", 3L)
            Expect.equal
                (text.ToString())
                "# HELP x_total Things.\n# TYPE x_total counter\nx_total{model_name=\"a\\\"b\\\\c\\nd\"} 3\n"
                "escaped")
    ]
