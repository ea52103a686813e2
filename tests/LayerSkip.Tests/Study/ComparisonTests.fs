module LayerSkip.Tests.ComparisonTests

open System.Text.Json
open Expecto
open LayerSkip
open LayerSkip.Tests.Tiny

let private text name : ComparedText = { Set = "a set"; Name = name; Prompt = [| 1 |] }

/// A way's times of two texts, each of its runs in milliseconds a token.
let private cells (way: string) isStatic (first: float list) (second: float list) : ComparedCell list = [
    for name, times in [ "first", first; "second", second ] ->
        {
            Way = way
            IsStatic = isStatic
            Text = text name
            Times = [| for ms in times -> { Tokens = 10; Ms = 10.0 * ms } |]
            PolicyMs = 0.1
            Stats =
                SpeculationStats.ofRounds [|
                    {
                        Tokens = [| 1; 2 |]
                        Drafted = 3
                        Accepted = 1
                        Sources = Array.create 3 DraftSource.Lookup
                    }
                |]
            SameText = true
        }
]

let private all =
    cells "plain" false [ 4.0; 8.0; 6.0 ] [ 2.0; 2.0; 2.0 ]
    @ cells "exit 1, 2 drafts" true [ 3.0; 3.0; 9.0 ] [ 4.0; 4.0; 4.0 ]
    @ cells "exit 2, 2 drafts" true [ 2.0; 2.0; 2.0 ] [ 2.0; 2.0; 1.0 ]
    @ cells "auto" false [ 1.5; 1.5; 1.5 ] [ 1.0; 1.0; 1.0 ]

let private close (a: float) (b: float) what = Expect.floatClose Accuracy.high a b what

[<Tests>]
let tests =
    testSequenced
    <| testList "comparison of ways" [
        testCase "ratios are of medians, their mean is geometric, and the worst text is named" (fun () ->
            // 6 / 3 and 2 / 4.
            let static1 = Comparison.ratio "plain" "exit 1, 2 drafts" all
            close static1.Value 1.0 "one twice as fast, one half"
            let name, worst = (Comparison.worst "plain" "exit 1, 2 drafts" all).Value
            Expect.equal name.Name "second" "the worst"
            close worst.Value 0.5 "half"
            close worst.Low 0.5 "in every run"
            // 6 / 1.5 and 2 / 1.
            close (Comparison.ratio "plain" "auto" all).Value (sqrt 8.0) "auto"
            close (Comparison.ratio "auto" "plain" all).Value (1.0 / sqrt 8.0) "the other way round"
            close
                (Comparison.ratio "exit 2, 2 drafts" "auto" all).Value
                (sqrt (2.0 / 1.5 * 2.0))
                "over a static")

        testCase "the best static is the fastest over all texts" (fun () ->
            let summaries = Comparison.summaries all
            Expect.equal (summaries |> List.map _.Way) (all |> List.map _.Way |> List.distinct) "all of them"
            let best = (Comparison.bestStatic summaries).Value
            Expect.equal best.Way "exit 2, 2 drafts" "of two"
            let auto = List.last summaries
            close auto.PolicyShare (0.2 / 2.5) "the policy's own time"
            let lookup = Array.exactlyOne auto.Sources
            Expect.equal (lookup.DraftTokens, lookup.AcceptedDraftTokens) (6, 2) "of both texts"
            Expect.isNone
                (Comparison.bestStatic (List.filter (fun way -> not way.IsStatic) summaries))
                "none")

        testCase "the JSON has ways, sets, texts and what each way is worth beside the best static" (fun () ->
            use document = JsonDocument.Parse(ComparisonJson.line "a model" (Map [ "first", 3.0 ]) all)
            let root = document.RootElement
            let array (name: string) = root.GetProperty(name).EnumerateArray() |> List.ofSeq
            Expect.equal (root.GetProperty("best_static").GetString()) "exit 2, 2 drafts" "best"

            let ratio =
                array "to_best_static"
                |> List.find (fun way -> way.GetProperty("way").GetString() = "auto")
                |> fun way -> way.GetProperty("ratio").GetProperty("value").GetDouble()

            close (round (1e6 * sqrt (2.0 / 1.5 * 2.0))) (1e6 * ratio) "over it"
            Expect.equal (array "ways").Length 4 "ways"
            Expect.equal (array "sets").Length 1 "sets"
            Expect.equal (array "texts").Length 8 "texts"
            Expect.equal ((array "oracle").Head.GetProperty("to_plain").GetDouble()) 3.0 "oracle")

        testCase "pictures hold a point for each way and text that has an oracle" (fun () ->
            let regret = ComparisonPlots.regret "about" [ "auto"; "plain" ] (Map [ "first", 8.0 ]) all

            let points = [
                for mark in regret.Marks do
                    match mark with
                    | Mark.Dots(way, points) -> for point in points -> way, point.Y
                    | _ -> ()
            ]

            Expect.equal points [ "auto", 1.0; "plain", 7.0 ] "beyond the oracle's time"
            Expect.equal (ComparisonPlots.all "about" [ "auto" ] Map.empty all).Length 2 "a page")

        testCase
            "live, every way writes plain decoding's text, with other prompts' texts as the past"
            (fun () ->
                use weights = Tiny.weights Dtype.F32 { Config = Tiny.config 24 3 4 2 true; Seed = 5L }
                let pasts = ResizeArray<int>()

                let lookup: ComparedWay = {
                    Name = "lookup"
                    IsStatic = false
                    Strategy =
                        fun past ->
                            pasts.Add past.Count
                            Strategy.Adaptive(Drafter.suffixLookup (Some past))
                }

                let static' = {
                    lookup with
                        Name = "exit 1"
                        IsStatic = true
                        Strategy = fun _ -> Strategy.SelfSpeculative(Tiny.exit 3 1, 2)
                }

                let texts = [
                    for number in 1..3 ->
                        { Set = "random"; Name = $"text {number}"; Prompt = [| number; 7; number |] }
                ]

                let cells =
                    texts
                    |> Comparison.run weights {
                        Ways = [ static'; lookup ]
                        Runs = 2
                        MaxNewTokens = 20
                        StopIds = [||]
                        Progress = ignore
                    }
                    |> Check.getOrRaise

                Expect.equal cells.Length 9 "ways and texts"
                Expect.all cells _.SameText "the same texts"
                Expect.all cells (fun cell -> cell.Times.Length = 2 && cell.MsPerToken > 0.0) "times"
                // Prompts of 3 and texts of 20, anew in each of three runs.
                Expect.equal
                    (List.ofSeq pasts)
                    [
                        for _ in 1..3 do
                            yield! [ 0; 23; 46 ]
                    ]
                    "past texts")
    ]
