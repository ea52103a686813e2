module LayerSkip.Tests.LayerSetTests

open Expecto
open FsCheck
open LayerSkip
open LayerSkip.Tests.Tiny

let private ofLayers layers kept = LayerSet.ofLayers layers kept |> Check.getOrRaise

/// The first layer and any others, by the bits of a number.
let private anySet layers (bits: int) =
    ofLayers layers [
        for layer in 1..layers do
            if layer = 1 || (bits >>> layer) % 2 = 1 then
                layer
    ]

let private drafting set length = Strategy.Speculative(Drafter.layers set, length)

let private lengths = [ LengthPolicy.Fixed 3; LengthPolicy.Adaptive(fun rounds -> rounds.Length % 4) ]

let private message (result: Result<LayerSet, LayerSkipError list>) =
    match result with
    | Ok set -> $"{set}"
    | Error faults -> LayerSkipError.summary faults

[<Tests>]
let tests =
    testSequenced
    <| testList "layer sets" [
        testProperty "what is written is read again"
        <| fun (PositiveInt layers) (bits: int) ->
            let layers = 2 + layers % 30
            let set = anySet layers bits
            Expect.equal (LayerSet.tryParse layers $"{set}") (Ok set) $"{set}"
            Expect.equal (set.Count + set.Skipped) layers "kept and left out"

            let runs = set.RunsAfter set.Prefix.Layers
            let later = [
                for struct (first, count) in runs do
                    yield! [ first + 1 .. first + count ]
            ]
            Expect.equal ([ 1 .. set.Prefix.Layers ] @ later) set.KeptLayers "prefix and runs are the set"

        testCase "sets are spelled by layers and ranges" (fun () ->
            for text, kept in [ "1-10,15,30", [ 1..10 ] @ [ 15; 30 ]; "3, 1-2 ,2", [ 1; 2; 3 ]; "1", [ 1 ] ] do
                Expect.equal (LayerSet.tryParse 30 text) (Ok(ofLayers 30 kept)) text)

        testCase "bad sets are refused in one line that says what to do" (fun () ->
            for layers, text, part in
                [
                    5,
                    "",
                    "layers-kept is empty, it must be layers and ranges of them with commas between, as 1-10,15,30"
                    5, "1,", "it must be layers and ranges"
                    5, "1-", "it must be layers and ranges"
                    5, "4-2,1", "it must be layers and ranges"
                    5, "1,x", "layers-kept is 1,x"
                    5, "1-2-3", "it must be layers and ranges"
                    5, "-1", "it must be layers and ranges"
                    5, "1,6", "layers-kept is layer 6, it must be 1 to 5: the model has 5 layers"
                    5, "0,1", "layers-kept is layer 0, it must be 1 to 5"
                    5, "1-2000000000", "layers-kept is layer 2000000000, it must be 1 to 5"
                    5, "2-5", "a set without layer 1, it must be one with it"
                    1, "1", "a model of one layer has no earlier exit"
                ] do
                let said = message (LayerSet.tryParse layers text)
                Expect.stringContains said part text
                Expect.isFalse (said.Contains '\n') "one line")

        for dtype in [ Dtype.F32; Dtype.F64 ] do
            testPropertyWithConfig
                (Tiny.settings 20)
                $"{dtype}: whichever layers draft, the text is the whole model's"
            <| fun (case: Case) (bits: int) ->
                use weights = Tiny.weights dtype case.Model
                let set = anySet case.Model.Config.Layers bits
                let text strategy = (complete weights (options strategy 24) case.Prompt).TokenIds
                let plain = text Strategy.Autoregressive

                for length in lengths do
                    Expect.equal (text (drafting set length)) plain $"{set}"

            testPropertyWithConfig
                (Tiny.settings 10)
                $"{dtype}: the first layers alone draft what their exit drafts"
            <| fun (case: Case) ->
                use weights = Tiny.weights dtype case.Model
                let layers = case.Model.Config.Layers
                let made strategy = complete weights (options strategy 24) case.Prompt
                let length = LengthPolicy.Fixed case.Draft
                let own = made (drafting (ofLayers layers [ 1 .. case.Exit ]) length)
                let exit = made (Strategy.Speculative(Drafter.earlyExit (Tiny.exit layers case.Exit), length))
                Expect.equal own.Stats.Rounds exit.Stats.Rounds "rounds"

        // Longer than the memory that a cache begins with, so that it grows while drafts wait.
        testPropertyWithConfig
            (Tiny.settings 15)
            "f32: with every layer all drafts are kept, also while the cache grows"
        <| fun (case: Case) ->
            use weights = Tiny.weights Dtype.F32 case.Model
            let set = LayerSet.all case.Model.Config.Layers |> Check.getOrRaise

            let made =
                complete weights (options (drafting set (LengthPolicy.Fixed case.Draft)) 90) [|
                    case.Prompt[0]
                |]

            Expect.equal made.Stats.DraftAcceptanceRate 1.0 $"%A{made.Stats.Rounds}"

        testPropertyWithConfig
            (Tiny.settings 10)
            "sampled: one seed, one text, whatever waits when memory grows"
        <| fun (case: Case) (bits: int) ->
            use weights = Tiny.weights Dtype.F32 case.Model
            let set = anySet case.Model.Config.Layers bits

            let made () =
                let warm = {
                    options (drafting set (LengthPolicy.Fixed case.Draft)) 90 with
                        Sampling = Sampling.Filtered(1.0, 0, 1.0, 0.0)
                }
                (complete weights warm [| case.Prompt[0] |]).Stats.Rounds

            Expect.equal (made ()) (made ()) "rounds"

        testPropertyWithConfig (Tiny.settings 10) "sampled: every layer's drafts are always kept"
        <| fun (case: Case) ->
            use weights = Tiny.weights Dtype.F32 case.Model
            let set = LayerSet.all case.Model.Config.Layers |> Check.getOrRaise
            let warm = {
                options (drafting set (LengthPolicy.Fixed 3)) 24 with
                    Sampling = Sampling.Filtered(1.0, 0, 1.0, 0.0)
            }
            Expect.equal (complete weights warm case.Prompt).Stats.DraftAcceptanceRate 1.0 "accepted"
    ]
