module LayerSkip.Tests.SweepTests

open System
open System.IO
open System.Text.Json
open Expecto
open FsCheck
open LayerSkip
open LayerSkip.Tests.CliSupport
open LayerSkip.Tests.FileSupport
open LayerSkip.Tests.SweepSupport

Backend.ensure ()

let private small: SweepOptions = {
    SweepOptions.defaults with
        ExitLayers = [ 1; 3 ]
        DraftLengths = [ 2; 5 ]
        MaxNewTokens = 12
        Runs = 2
}

/// A tiny model of random weights, a folder for files, and the plan of a shard of a sweep over it.
let private withSweep
    (options: SweepOptions)
    (body: Checkpoint -> string -> (string -> SweepPlan) -> 'T)
    : 'T =
    withModel (fun folder ->
        use checkpoint = Checkpoint.load folder None Device.Cpu |> Check.getOrRaise

        let plan shard =
            Shard.tryParse shard |> Result.bind (Sweep.plan checkpoint options) |> Check.getOrRaise

        body checkpoint folder plan)

let private run output plan = Sweep.run (fun _ _ -> ()) output plan |> Check.getOrRaise

let private cellsOf (plan: SweepPlan) (lines: RunCell list) =
    Sweep.read "a run" plan.Header lines |> Check.getOrRaise |> snd

/// What does not depend on the machine.
let private counts (cells: SweepCell list) = [
    for cell in cells ->
        cell.Prompt,
        cell.Run,
        cell.PromptTokens,
        [ for made in cell.Decodings -> made.Tokens, made.SameText, made.Metrics ]
]

let private part (text: string) = JsonPart(JsonDocument.Parse(text).RootElement)

let private property name body =
    testPropertyWithConfig
        { FsCheckConfig.defaultConfig with maxTest = 25; arbitrary = [ typeof<Arbitraries> ] }
        name
        body

let private message (result: Result<'T, LayerSkipError list>) =
    match result with
    | Ok _ -> failtest "there is a fault"
    | Error faults -> LayerSkipError.summary faults

[<Tests>]
let tests =
    testSequenced
    <| testList "sweep" [
        property "a cell is what its line says" (fun (Cells cells) ->
            Expect.equal (SweepConfig.read (part (SweepConfig.json config))) config "the first line"

            for cell in cells do
                let line = JsonWrite.line (SweepCell.write cell)
                Expect.equal (SweepCell.read config (part line)) cell "a cell's")

        property "a report counts what its cells count, and compares the same texts" (fun (Cells cells) ->
            let report = SweepReport.ofCells config cells
            Expect.equal (report.Rows |> List.map _.Setting) config.Settings "a row for each way"

            for at, row in List.indexed report.Rows do
                let own = cells |> List.map (fun cell -> cell.Decodings[at])
                Expect.equal row.Metrics (own |> List.map _.Metrics |> SpeculationMetrics.sum) "metrics"
                Expect.equal
                    row.DifferentTexts
                    (own |> List.filter (_.SameText >> not) |> List.length)
                    "texts"

                // Brute force: the mean over prompts of time over tokens, where both ways have some.
                let ms (cells: SweepCell list) at =
                    let made = cells |> List.map (fun cell -> cell.Decodings[at])
                    let tokens = made |> List.sumBy (fun made -> max 0 (made.Tokens - 1))
                    (made |> List.sumBy _.Timings.DecodeMs) / float tokens

                let texts =
                    match cells |> List.groupBy _.Prompt |> List.map snd with
                    | [ runs ] -> runs |> List.map List.singleton
                    | texts -> texts

                let both =
                    texts
                    |> List.map (fun text -> ms text 0, ms text at)
                    |> List.filter (fun (a, b) -> Double.IsFinite a && Double.IsFinite b)

                if not both.IsEmpty then
                    let expected = List.averageBy fst both / List.averageBy snd both
                    Expect.floatClose Accuracy.high row.SpeedUp.OfTimes.Value expected "speed-up")

        property "a prediction is the sum of its rounds' costs" (fun (Cells cells) ->
            let report = SweepReport.ofCells config cells

            for at, row in List.indexed report.Rows do
                match row.Setting, report.Costs with
                | SelfSpeculative(exit, _), [ costs ] ->
                    let made = cells |> List.map (fun cell -> cell.Decodings[at])
                    let tokens = made |> List.sumBy (fun made -> max 0 (made.Tokens - 1))

                    let ms =
                        List.sum [
                            for made in made do
                                for drafted, kept in SpeculationMetrics.counts made.Metrics do
                                    for count in kept do
                                        float count * RoundTimes.cost costs exit drafted
                        ]

                    if tokens > 0 then
                        Expect.floatClose
                            Accuracy.medium
                            row.PredictedMsPerToken
                            (ms / float tokens)
                            "a token"
                | PromptLookup _, _ ->
                    Expect.isTrue (Double.IsNaN row.PredictedSpeedUp) "lookup has no costs"
                | _ -> ())

        property
            "the picture has each row's speed-up, what the model says, and their ratio"
            (fun (Cells cells) ->
                let report = SweepReport.ofCells config cells
                let picture = SweepPlots.surface "a machine" report
                let values = picture.Heat.Value.Values
                Expect.equal values.Length (1 + config.ExitLayers.Length) "prompt lookup, and each exit"

                for row in report.Rows do
                    match row.Setting.DraftLength with
                    | None -> ()
                    | Some length ->
                        let line =
                            row.Setting.Exit
                            |> Option.map (fun exit -> 1 + List.findIndex ((=) exit) config.ExitLayers)
                            |> Option.defaultValue 0

                        let column = List.findIndex ((=) length) config.DraftLengths
                        let block number = values[line][number * (config.DraftLengths.Length + 1) + column]
                        let measured, predicted = row.SpeedUp.OfTimes.Value, row.PredictedSpeedUp
                        // As texts, where a number that is none equals itself.
                        Expect.equal (string (block 0)) (string measured) "timed"
                        Expect.equal (string (block 1)) (string predicted) "by the model"
                        Expect.equal (string (block 2)) (string (measured / predicted)) "the ratio"

                let page = SweepPlots.html { report with Config.Model = "<script>alert(1)</script>" }
                Expect.isFalse (page.Contains "<script>alert") "a name is text"
                Expect.stringContains page "prompt lookup" "named")

        testCase "each way decodes as it does alone, and writes plain decoding's text" (fun () ->
            withSweep small (fun checkpoint _ plan ->
                let plan = plan "1/1"
                let cells = run None plan |> cellsOf plan
                Expect.equal cells.Length (4 * 2) "prompts and runs"
                let prompts = SweepOptions.ownPrompts checkpoint small.Seed

                for cell in cells do
                    for at, setting in List.indexed plan.Config.Settings do
                        let strategy =
                            match setting with
                            | Autoregressive -> Strategy.Autoregressive
                            | PromptLookup length ->
                                Strategy.Speculative(Drafter.promptLookup 3, LengthPolicy.Fixed length)
                            | SelfSpeculative(exit, length) ->
                                Strategy.SelfSpeculative(Tiny.exit layers exit, length)

                        let alone =
                            Tiny.complete
                                checkpoint.Weights
                                (GenerationOptions.greedy strategy small.MaxNewTokens)
                                prompts[cell.Prompt]

                        let made = cell.Decodings[at]
                        Expect.equal
                            made.Metrics
                            (SpeculationMetrics.ofCompletions [ alone ])
                            $"%A{setting}"
                        Expect.equal
                            (made.Tokens, made.SameText)
                            (alone.TokenIds.Length, true)
                            $"%A{setting}"
                        Expect.isGreaterThan made.Timings.DecodeMs 0.0 "timed"))

        testCase "four shards merged count what one run counts, and report the same" (fun () ->
            withSweep small (fun _ folder plan ->
                let whole = run (Some(Path.Combine(folder, "whole"))) (plan "1/1")

                let parts = [
                    for index in 1..4 do
                        let path = Path.Combine(folder, $"part{index}")
                        run (Some path) (plan $"{index}/4") |> ignore
                        path
                ]

                let header, merged = RunFile.merge parts |> Check.getOrRaise
                let cells = cellsOf (plan "1/1") merged
                Expect.equal (counts cells) (counts (cellsOf (plan "1/1") whole)) "the same counts"
                let report = SweepReport.ofRun "merged" header merged |> Check.getOrRaise
                let own = SweepReport.ofRun "whole" header whole |> Check.getOrRaise
                Expect.equal (report.Cells, report.DifferentTexts) (8, 0) "whole"
                Expect.equal report.Costs.Length 4 "each process looked at its machine"

                for a, b in List.zip report.Rows own.Rows do
                    Expect.equal (a.Setting, a.Metrics) (b.Setting, b.Metrics) "a row"))

        testCase "a run that ends anywhere goes on to the same counts" (fun () ->
            withSweep small (fun _ folder plan ->
                let path = Path.Combine(folder, "run")
                let whole = run (Some path) (plan "1/1")
                let lines = File.ReadAllLines path

                for kept in [ 0; 1; 4; lines.Length - 1 ] do
                    // And the half of the line that a kill cut off.
                    let rest =
                        if kept < lines.Length then
                            lines[kept][.. lines[kept].Length / 2]
                        else
                            ""
                    File.WriteAllText(
                        path,
                        String.concat "" [ for line in lines[.. kept - 1] -> line + "\n" ] + rest
                    )
                    let again = run (Some path) (plan "1/1")
                    Expect.equal
                        (counts (cellsOf (plan "1/1") again))
                        (counts (cellsOf (plan "1/1") whole))
                        $"{kept}"
                    Expect.equal (File.ReadAllLines path).Length lines.Length "no line twice"))

        testCase "stop ids end texts, and without them all are as long" (fun () ->
            withSweep small (fun checkpoint _ plan ->
                let plan' = plan "1/1"
                let all = run None plan' |> cellsOf plan'
                Expect.all
                    all
                    (fun cell -> cell.Decodings |> Array.forall (fun made -> made.Tokens = 12))
                    "as long"
                let stops = [| 0..23 |]

                let ended =
                    Sweep.plan checkpoint { small with StopIds = stops } Shard.whole |> Check.getOrRaise

                let cells = run None ended |> cellsOf ended
                Expect.all
                    cells
                    (fun cell -> cell.Decodings |> Array.forall (fun made -> made.Tokens = 0))
                    "ended at once"
                let report = SweepReport.ofCells ended.Config cells
                Expect.isTrue (Double.IsNaN report.Rows.Head.MsPerToken.Value) "no time without tokens"
                Expect.isNone report.Best "nothing is fastest"))

        testCase "what cannot be swept is refused, all faults at once" (fun () ->
            withSweep small (fun checkpoint _ _ ->
                let refused options = message (Sweep.plan checkpoint options Shard.whole)

                for options, part in
                    [
                        { small with ExitLayers = [ 4 ] }, "exit-layers is 4"
                        { small with ExitLayers = [ 0 ] }, "exit-layers is 0"
                        { small with ExitLayers = [ 1; 1 ] }, "1 twice"
                        { small with DraftLengths = [ 0 ] }, "draft-lengths is 0"
                        { small with MaxNewTokens = 1 }, "max-new-tokens is 1"
                        { small with Runs = 0 }, "runs is 0"
                        { small with Prompts = [| [||] |] }, "empty"
                        { small with Prompts = [| Array.create 96 1 |] }, "96 tokens"
                        { small with Prompts = [| [| 24 |] |] }, "token id 24"
                    ] do
                    Expect.stringContains (refused options) part part

                let both = refused { small with Runs = 0; DraftLengths = [ 0 ] }
                Expect.stringContains both "runs" "one fault"
                Expect.stringContains both "draft-lengths" "and the other"))

        testCase "lines of another form are refused with their place" (fun () ->
            withSweep small (fun _ folder plan ->
                let path = Path.Combine(folder, "run")
                run (Some path) (plan "1/1") |> ignore
                let lines = File.ReadAllLines path

                for before, after, part in
                    [
                        "\"tokens\":12", "\"tokens\":\"12\"", "decodings[0].tokens"
                        "\"rounds\":[]", "\"rounds\":[[3,1]]", "counts no rounds"
                        "\"same_text\":true", "\"same\":true", "same_text"
                    ] do
                    let at = lines[1].IndexOf(before, StringComparison.Ordinal)
                    Expect.isGreaterThan at 0 before
                    let edited = lines[1].Remove(at, before.Length).Insert(at, after)
                    File.WriteAllLines(path, Array.append [| lines[0]; edited |] lines[2..])
                    Expect.stringContains (message (SweepReport.load path)) part after

                File.WriteAllText(path, lines[0].Replace("\"kind\":\"sweep\"", "\"kind\":\"eval\"") + "\n")
                Expect.stringContains (message (SweepReport.load path)) "not a sweep" "another kind"))

        testCase "the columns of the CSV are those of the docs" (fun () ->
            let report =
                SweepReport.ofCells config [
                    FSharp.Gen.sample 1 (cellOf config) |> Array.ofSeq |> Array.head
                ]
            let lines = (SweepOutput.csv report).TrimEnd().Split '\n'
            Expect.equal lines.Length (1 + config.Settings.Length) "a line for each row"
            let columns = lines[0].Split ','

            for line in lines do
                Expect.equal (line.Split ',').Length columns.Length line

            let docs = File.ReadAllText(Path.Combine(Support.root, "docs", "sweeps.md"))
            let documented = [
                for m in Text.RegularExpressions.Regex.Matches(docs, @"(?m)^\| `([a-z_]+)` \|") ->
                    m.Groups[1].Value
            ]
            Expect.equal documented (List.ofArray columns) "documented")
    ]
