module LayerSkip.Tests.PictureTests

open System
open System.IO
open Expecto
open FsCheck
open LayerSkip
open LayerSkip.Tests.CliSupport
open LayerSkip.Tests.FileSupport
open LayerSkip.Tests.Support

Backend.ensure ()

/// Confidences of 0 to 1, and whether each was right.
let private pairs (given: (byte * bool)[]) =
    given |> Array.map (fun (share, right) -> float share / 255.0, right)

let private isSmall a b = abs (a - b) < 1e-9

/// A certificate of a tiny model, with so many violations and a name that would do harm.
let private certificate violations : CertifyReport =
    withModel (fun folder ->
        use checkpoint = Checkpoint.load folder None Device.Cpu |> Check.getOrRaise
        let report = Certify.run checkpoint { Certify.options with MaxNewTokens = 2 }
        { report with Model = "<b>model</b>"; Violation = violations })

[<Tests>]
let tests =
    testSequenced
    <| testList "pictures" [
        testProperty "at the break-even acceptance one draft a round costs what it brings, heads included"
        <| fun (layers: byte) (exit: byte) (head: byte) ->
            let layers = 2 + int layers
            let exit = 1 + int exit % (layers - 1)
            let head = float head / 16.0
            let rate = AcceptancePlots.breakEven layers head exit
            let whole, draft = float layers + head, float exit + head
            // A round of one draft brings 1 + rate tokens for a draft and a verification.
            isSmall ((1.0 + rate) / (draft + whole)) (1.0 / whole)

        testProperty
            "the calibration error is 0 of who is right as often as sure, and a distance of 0 to 1 always"
        <| fun (NonEmptyArray given: NonEmptyArray<byte * bool>) ->
            let given = pairs given
            let error = CalibrationPlots.error given
            let binned = CalibrationPlots.binned given
            let sure = [|
                for share in 0..9 do
                    for i in 0..9 -> float share / 10.0 + 0.05, i < share
            |]
            Expect.floatClose Accuracy.high (CalibrationPlots.error sure) 0.05 "half a bin beside"
            Expect.equal
                (binned |> List.sumBy (fun (_, _, count) -> count))
                given.Length
                "each pair in one bin"
            error >= 0.0 && error <= 1.0

        testCase "who is always sure and never right has an error of 1" (fun () ->
            Expect.floatClose Accuracy.high (CalibrationPlots.error (Array.create 7 (1.0, false))) 1.0 "1")

        testProperty "a higher threshold drafts less"
        <| fun (NonEmptyArray given: NonEmptyArray<byte * bool>) ->
            let picture = CalibrationPlots.thresholds "" 1 (pairs given)
            let shares = Mark.points picture.Marks.Head |> List.map snd
            shares.Head = 1.0 && shares = List.sortDescending shares

        testProperty "no point of the front is beaten, and each point that is not on it is"
        <| fun (NonEmptyArray given: NonEmptyArray<byte * byte>) ->
            let points = [ for i, (x, y) in Array.indexed given -> $"p{i}", float x, float y ]
            let picture = LayerPlots.pareto "" (Axis.linear "score" "points") points
            let front = picture.Marks |> List.find _.IsGuide |> Mark.points
            let beats (x, y) (a, b) = x >= a && y >= b && (x > a || y > b)
            let places = points |> List.map (fun (_, x, y) -> x, y)

            places
            |> List.forall (fun place ->
                let isBeaten = List.exists (fun other -> beats other place) places
                isBeaten <> List.contains place front)

        testCase "rounds are drawn as they were counted" (fun () ->
            let metrics = SpeculationMetrics.ofRounds [ 3, 3; 3, 0; 3, 1; 2, 2; 0, 0 ]
            let bars = (AcceptancePlots.lengths "" [ "a", metrics ]).Marks.Head
            Expect.equal (Mark.points bars) [ 0.0, 1.0; 1.0, 1.0; 2.0, 1.0; 3.0, 1.0 ] "bars"
            let line = (AcceptancePlots.byPosition "" [ "a", metrics ]).Marks.Head
            Expect.equal (Mark.points line) [ 1.0, 0.75; 2.0, 0.5; 3.0, 1.0 / 3.0 ] "survival")

        testCase "a certificate says what it found, and escapes the model's name" (fun () ->
            for violations, verdict in [ 0, ">Certified: "; 3, ">NOT certified: " ] do
                let html = CertificatePlots.ofReport "cpu" (certificate violations) |> Plots.html "x"
                Expect.stringContains html verdict "verdict"
                Expect.isFalse (html.Contains "<b>model") "escaped")

        testCase "tokens have the colour of their origin, and their text is shown, not run" (fun () ->
            let token text origin settled = { Text = text; Id = 1; Origin = origin; Settled = settled }

            let html =
                TokenPlots.coloured "t" "" "<i>" [
                    token "<script>" Origin.Prefill None
                    token "a\n" Origin.Drafted (Some 2)
                    token "c" Origin.LookedUp None
                    token "" Origin.Corrected None
                    token "b" Origin.Bonus None
                ]
                |> List.singleton
                |> Plots.html "x"

            for part in
                [
                    "class=\"drafted\""
                    "class=\"lookup\""
                    "class=\"corrected\""
                    "class=\"bonus\""
                    "&lt;script&gt;"
                    "<sub>2</sub>"
                    "↵<br/>"
                    "settled at layer 2"
                ] do
                Expect.stringContains html part part

            Expect.isFalse (html.Contains "<script>" || html.Contains "<i>") "escaped")

        testCase "commands draw pages, and refuse one file for two" (fun () ->
            withModel (fun folder ->
                withFolder (fun out ->
                    let page = Path.Combine(out, "page.html")

                    let commands = [
                        [ "generate"; "--model"; folder ]
                        @ ids
                        @ [ "--max-new-tokens"; "6"; "--exit-layer"; "1" ],
                        "settled at layer"
                        [ "bench"; "--model"; folder; "--runs"; "1"; "--max-new-tokens"; "4" ],
                        "Where the time of a token goes"
                        [ "certify"; "--model"; folder; "--max-new-tokens"; "2" ], "Certified: "
                    ]

                    for command, words in commands do
                        let outcome = cli (command @ [ "--html"; page ])
                        Expect.equal outcome.Code 0 outcome.Error
                        Expect.stringContains (File.ReadAllText page) words command.Head
                        File.Delete page
                        refuses [ "--html"; "--output" ] (command @ [ "--html"; page; "--output"; page ])
                        refuses
                            [ "page.html" ]
                            (command @ [ "--html"; Path.Combine(out, "no", "page.html") ]))))
    ]
