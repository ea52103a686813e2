module LayerSkip.Tests.EvalTests

open System.IO
open System.Text.Json
open Expecto
open FsCheck
open LayerSkip
open LayerSkip.Tests.FileSupport
open LayerSkip.Tests.Support

Backend.ensure ()

/// A task without a model: item i holds i, and exit e finds i * e.
let private squares items : EvalTask = {
    Name = "squares"
    About = "for tests"
    Takes = []
    Prepare =
        fun _ options ->
            let exits = EvalOptions.exitLayers [ 1; 2 ] options

            Ok {
                Items = items
                Settings = fun json -> json.WriteNumber("items", items)
                Score =
                    fun index -> {
                        Item = EvalFields.ofNumbers [ "own", [ float index / 3.0 ] ]
                        Exits = [
                            for exit in exits ->
                                exit,
                                {
                                    Numbers = [ "found", [ float (index * exit); 1e-300 ] ]
                                    Texts = [ "said", $"\"{index}\" \u2028 ä" ]
                                }
                        ]
                    }
                ExitLayers = exits
                Files = []
                Remarks = [ "there are squares" ]
            }
    Sum =
        fun scores -> {
            Counts = [
                "sum", scores |> List.sumBy (fun score -> int (3.0 * EvalFields.number "own" score.Item))
            ]
            Chance = None
            Exits = [
                for exit in [ 1; 2 ] do
                    let found =
                        scores
                        |> List.collect (fun score -> score.Exits)
                        |> List.filter (fst >> (=) exit)
                        |> List.map (snd >> EvalFields.number "found")

                    if not found.IsEmpty then
                        exit, [ EvalMetric.mean "found" found ]
            ]
            Groups = []
            Remarks = [ "they are summed" ]
        }
}

let private tiny = Tiny.config 24 2 2 1 true

let private withCheckpoint (body: Checkpoint -> 'T) : 'T =
    Tiny.withWeights Dtype.F32 { Config = tiny; Seed = 3L } (fun weights ->
        body (Checkpoint.ofWeights "tiny" weights None))

let private shardOf text = Shard.tryParse text |> Check.getOrRaise

let private plan checkpoint task file shard =
    Eval.plan checkpoint task (EvalOptions.ofData [ file ]) (shardOf shard)

let private go output plan = Eval.run (fun _ _ -> ()) output plan |> Check.getOrRaise

let private withData (body: Checkpoint -> (string -> string) -> string -> 'T) : 'T =
    withCheckpoint (fun checkpoint ->
        withFolder (fun folder ->
            let path name = Path.Combine(folder, name)
            File.WriteAllText(path "data", "some data")
            body checkpoint path (path "data")))

let private near name expected (metric: EvalMetric) =
    Expect.floatClose Accuracy.high metric.Value expected name

[<Tests>]
let tests =
    testList "evaluation" [
        // Each line waits for the disk.
        testPropertyWithConfig
            { FsCheckConfig.defaultConfig with maxTest = 20 }
            "shards merge to the file that one run writes, and to its numbers"
        <| fun (PositiveInt items) (PositiveInt count) ->
            withData (fun checkpoint path data ->
                let task = squares (items % 12 + 1)
                let count = 1 + count % 4
                let whole = plan checkpoint task data "1/1" |> Check.getOrRaise
                let cells = go (Some(path "whole")) whole

                let parts = [
                    for index in 1..count do
                        let part = path $"part{index}"
                        plan checkpoint task data $"{index}/{count}"
                        |> Check.getOrRaise
                        |> go (Some part)
                        |> ignore
                        part
                ]

                let header, merged = RunFile.merge parts |> Check.getOrRaise
                RunFile.write (path "merged") header merged |> Check.getOrRaise
                Expect.equal (File.ReadAllText(path "merged")) (File.ReadAllText(path "whole")) "the file"
                let report header cells = Eval.report [ task ] "" header cells |> Check.getOrRaise
                let one, many = report whole.Header cells, report header merged
                Expect.equal many.Summary one.Summary "the numbers"
                Expect.equal
                    one.Summary.Remarks
                    [ "there are squares"; "they are summed" ]
                    "of data and of scores"
                Expect.equal (go None whole) cells "a run without a file finds the same")

        testProperty
            "a run that a kill ends anywhere goes on to the same file, and computes what is left alone"
        <| fun (NonNegativeInt cut) ->
            withData (fun checkpoint path data ->
                let plan = plan checkpoint (squares 7) data "1/1" |> Check.getOrRaise
                go (Some(path "whole")) plan |> ignore
                let bytes = File.ReadAllBytes(path "whole")
                let kept = bytes[.. cut % (bytes.Length + 1) - 1]
                File.WriteAllBytes(path "killed", kept)
                let there = max 0 ((kept |> Array.filter ((=) (byte '\n')) |> Array.length) - 1)
                let mutable computed = []
                let told number count = computed <- (number, count) :: computed
                Eval.run told (Some(path "killed")) plan |> Check.getOrRaise |> ignore
                Expect.equal
                    (File.ReadAllText(path "killed"))
                    (File.ReadAllText(path "whole"))
                    "the same lines"
                Expect.equal (List.rev computed) [ for n in there..6 -> n, 7 ] "the rest")

        testCase "what other data, model, exits or settings would give is another run" (fun () ->
            withData (fun checkpoint path data ->
                let file = path "run"
                let start options task = Eval.plan checkpoint task options Shard.whole |> Check.getOrRaise
                let options = EvalOptions.ofData [ data ]
                start options (squares 3) |> go (Some file) |> ignore
                let before = File.ReadAllText file

                let refused what plan =
                    Eval.run (fun _ _ -> ()) (Some file) plan
                    |> messages
                    |> expectFault [ "another run"; what ]

                start { options with ExitLayers = [ 2 ] } (squares 3)
                |> refused "exit_layers is [1,2] and not [2]"
                start { options with Seed = 9L } (squares 3) |> refused "seed"
                start { options with Limit = Some 2 } (squares 3) |> refused "cells is 3 and not 2"
                start options (squares 4) |> refused "items is 3 and not 4"
                start options { squares 3 with Name = "cubes" } |> refused "task"

                Tiny.withWeights Dtype.F64 { Config = tiny; Seed = 3L } (fun weights ->
                    Eval.plan (Checkpoint.ofWeights "tiny" weights None) (squares 3) options Shard.whole
                    |> Check.getOrRaise
                    |> refused "dtype")

                File.WriteAllText(data, "other data")
                start options (squares 3) |> refused "data"
                Expect.equal (File.ReadAllText file) before "kept"))

        testCase "options that do not fit are refused, all at once" (fun () ->
            withData (fun checkpoint _ data ->
                let refused options words =
                    Eval.plan checkpoint (squares 3) options Shard.whole
                    |> messages
                    |> fun found ->
                        for word in words do
                            expectFault [ word ] found

                let options = EvalOptions.ofData [ data ]
                refused { options with ExitLayers = [ 0; 3 ] } [
                    "is 0, it must be 1 to 2"
                    "is 3, it must be 1 to 2"
                ]
                refused { options with Limit = Some 0; Shots = Some -1 } [ "limit is 0"; "shots is -1" ]
                refused { options with Data = [] } [ "without data" ]
                refused { options with Data = [ data + "x" ] } [ "not found" ]))

        testCase "a report tells a run of another kind, a damaged cell and no cell at all" (fun () ->
            withData (fun checkpoint _ data ->
                let task = squares 2
                let plan = plan checkpoint task data "1/1" |> Check.getOrRaise
                let cells = go None plan
                let refused words report = report |> messages |> expectFault (words @ [ "run.jsonl" ])
                Eval.report [] "run.jsonl" plan.Header cells |> refused [ "squares" ]
                Eval.report [ task ] "run.jsonl" { plan.Header with Kind = "sweep" } cells
                |> refused [ "sweep" ]
                Eval.report [ task ] "run.jsonl" plan.Header [] |> refused [ "no item" ]
                let damaged = [ { Cell = 1; Json = """{"cell":1,"item":{}}""" } ]
                Eval.report [ task ] "run.jsonl" plan.Header damaged |> refused [ "cell 1"; "damaged" ]))

        testProperty
            "what a cell holds is read as it was written"
            (fun (numbers: NormalFloat list) (text: NonNull<string>) ->
                let fields = {
                    Numbers = [ "numbers", List.map (fun (NormalFloat x) -> x) numbers; "none", [] ]
                    Texts = [
                        "text",
                        System.Text.Encoding.UTF8.GetString(System.Text.Encoding.UTF8.GetBytes text.Get)
                    ]
                }

                let score = { Item = fields; Exits = [ 1, fields; 12, EvalFields.none ] }
                let cell = { Cell = 0; Json = JsonWrite.line (EvalCell.write score) }
                Expect.equal (EvalCell.read "" cell |> Check.getOrRaise) score "the same")

        testCase "shares have the sample's standard error, and Wilson's interval" (fun () ->
            // Newcombe 1998, table I, method 3: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
            for count, total, low, high in
                [
                    81, 263, 0.2553, 0.3662
                    15, 148, 0.0624, 0.1605
                    0, 20, 0.0, 0.1611
                    1, 29, 0.0061, 0.1718
                ] do
                let share = EvalMetric.share "acc" count total
                let found, top = share.Interval.Value
                Expect.isLessThan (abs (found - low)) 6e-5 $"{count} of {total}: {found}"
                Expect.isLessThan (abs (top - high)) 6e-5 $"{count} of {total}: {top}"

            let values = [ 1.0; 0.0; 0.0; 1.0; 1.0 ]
            let mean, share = EvalMetric.mean "" values, EvalMetric.share "" 3 5
            Expect.floatClose
                Accuracy.high
                share.StandardError.Value
                mean.StandardError.Value
                "of the same numbers"
            Expect.isNone (EvalMetric.share "" 1 1).StandardError "of one there is none")

        testProperty
            "a ratio over items of one size is the mean, with its standard error"
            (fun (values: NormalFloat list) ->
                let values = [ 1.0; 2.5 ] @ List.map (fun (NormalFloat x) -> x % 1000.0) values
                let ratio = EvalMetric.ratio "" [ for value in values -> 4.0 * value, 4.0 ]
                let mean = EvalMetric.mean "" values
                near "value" mean.Value ratio
                Expect.floatClose Accuracy.medium ratio.StandardError.Value mean.StandardError.Value "error")

        testProperty
            "windows predict each token but the first, once"
            (fun (PositiveInt window) (ids: int[]) ->
                let items = TextItems.ofWindows window ids
                let predicted = items |> Array.collect (fun item -> Array.tail item.Ids)
                Expect.equal
                    predicted
                    (Array.truncate ids.Length (if ids.Length > 1 then Array.tail ids else [||]))
                    "in order"

                for item in items do
                    Expect.isLessThanOrEqual item.Ids.Length (window + 1) "reads at most the window"
                    Expect.isGreaterThan item.Ids.Length 1 "predicts something")
    ]
