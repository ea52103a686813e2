module LayerSkip.Tests.BenchTests

open System
open System.Diagnostics
open System.IO
open Expecto
open LayerSkip
open LayerSkip.Tests.CliSupport
open LayerSkip.Tests.FileSupport

Backend.ensure ()

let private shape = "hidden=32,layers=6,heads=4,kv-heads=2,intermediate=64,vocab=96"
let private quick tokens = [ "--runs"; "2"; "--max-new-tokens"; string tokens ]

let private resident () =
    GC.Collect()
    GC.WaitForPendingFinalizers()
    use me = Process.GetCurrentProcess()
    me.WorkingSet64

[<Tests>]
let tests =
    testSequenced
    <| testList "bench" [
        testCase "--json has what the contract names, and its ratios are those of its times" (fun () ->
            let report =
                json ([ "bench"; "--shape"; shape; "--exit-layer"; "2"; "--draft-length"; "3" ] @ quick 24)
            let number (path: string) =
                (path.Split '.'
                 |> Array.fold (fun (e: Text.Json.JsonElement) name -> e.GetProperty name) report)
                    .GetDouble()

            Expect.equal ((report.GetProperty "dtype").GetString()) "bf16" "16-bit weights"
            Expect.equal
                (number "runs", number "self_speculative.exit_layer", number "self_speculative.draft_length")
                (2.0, 2.0, 3.0)
                "as asked"
            Expect.isGreaterThan (number "read_bandwidth_gb_s") 0.1 "bandwidth"
            Expect.equal (number "prefill.tokens") 512.0 "prefill"

            for key in
                [
                    "prefill.tokens_per_second"
                    "autoregressive.gb_s"
                    "autoregressive.ms_per_token.p5"
                    "autoregressive.ms_per_token.p95"
                    "autoregressive.ttft_ms.median"
                    "autoregressive.latency_ms.p95"
                    "self_speculative.predicted_ms_per_token"
                    "self_speculative.split_ms.head"
                    "self_speculative.stats.mean_acceptance_length"
                    "self_speculative.stats.tokens_per_layer"
                    "speed_up.of_times.low"
                    "speed_up.of_rates.value"
                    "pass_ms.2"
                    "pass_ms.8"
                ] do
                Expect.isGreaterThanOrEqual (number key) 0.0 key

            let close a b = abs (a - b) <= 0.02 * (abs a + abs b) + 0.02
            Expect.isTrue
                (close
                    (number "ratio")
                    (number "autoregressive.ms_per_token.median"
                     / number "self_speculative.ms_per_token.median"))
                "ratio"
            Expect.isTrue
                (close (number "verify_rows_ratio") (number "pass_ms.5" / number "pass_ms.1"))
                "rows ratio")

        testCase "--accept-rate decides what is accepted, and --identity-after accepts everything" (fun () ->
            let acceptance tokens options =
                let report =
                    json (
                        [ "bench"; "--shape"; shape; "--exit-layer"; "2"; "--draft-length"; "3" ]
                        @ quick tokens
                        @ options
                    )
                Expect.isTrue
                    ((report.GetProperty "same_text").GetBoolean())
                    "the text is the whole model's all the same"
                ((report.GetProperty "self_speculative").GetProperty "draft_acceptance_rate").GetDouble()

            Expect.equal (acceptance 24 [ "--accept-rate"; "0" ]) 0.0 "none"
            Expect.equal (acceptance 24 [ "--accept-rate"; "1" ]) 1.0 "all"
            Expect.equal (acceptance 24 [ "--identity-after"; "2" ]) 1.0 "agreement"
            let half = acceptance 200 [ "--accept-rate"; "0.5" ]
            // Of three drafts (0.5 + 0.25 + 0.125) / 3 are kept.
            Expect.isTrue (half > 0.15 && half < 0.45) $"{half}")

        testCase "of a small context, what it has room for is measured" (fun () ->
            for context, rows in [ 3, [ "1" ]; 8, [ "1"; "2" ]; 16, [ "1"; "2"; "5"; "8" ] ] do
                for draft in [ "1"; "8" ] do
                    let made =
                        json [
                            "bench"
                            "--shape"
                            $"{shape},context={context}"
                            "--runs=1"
                            "--draft-length"
                            draft
                        ]

                    Expect.equal
                        (fields (made.GetProperty "pass_ms") |> List.map fst)
                        rows
                        $"rows at {context}"
                    let kind =
                        if List.contains "5" rows then
                            N
                        else
                            Text.Json.JsonValueKind.Null
                    Expect.equal (made.GetProperty "verify_rows_ratio").ValueKind kind "five rows over one"
                    Expect.isGreaterThan ((made.GetProperty "ratio").GetDouble()) 0.0 "timed")

        testCase "--requests answers what it is asked, line by line, and stays" (fun () ->
            withModel (fun folder ->
                let requests = [
                    "decode 8"
                    "speculate 8"
                    "rows 1 2"
                    "rows 8 2"
                    "prefill 16"
                    "sing"
                    "decode 1"
                    "rows 0 1"
                    "prefill 97"
                    "bandwidth"
                ]

                let outcome =
                    shell
                        folder
                        $"""printf '%%s\n' '{String.Join("' '", requests)}' | layerskip bench --requests --model . --identity-after 2 --exit-layer 2"""

                Expect.equal outcome.Code 0 outcome.Error
                let answers = [
                    for line in outcome.Out.TrimEnd().Split '\n' ->
                        Text.Json.JsonDocument.Parse(line).RootElement
                ]

                let number (name: string) (answer: Text.Json.JsonElement) =
                    (answer.GetProperty name).GetDouble()

                match answers with
                | [ ready; plain; fast; one; eight; prefill; unknown; short; none; long; bandwidth ] ->
                    // float64, of 24 words and 4 layers; the embedding is looked up.
                    Expect.isGreaterThan (number "read_bytes" ready) 1000.0 "bytes of a token"
                    Expect.isGreaterThan (number "load_ms" ready) 0.0 "load"
                    Expect.isGreaterThan (number "empty_bytes" ready) 1e6 "a process"

                    for answer, names in
                        [
                            plain, [ "ms_per_token"; "first_token_ms" ]
                            fast, [ "ms_per_token"; "first_token_ms" ]
                            one, [ "pass_ms" ]
                            eight, [ "pass_ms" ]
                            prefill, [ "tokens_per_second" ]
                            bandwidth, [ "gb_s" ]
                        ] do
                        for name in names do
                            Expect.isGreaterThan (number name answer) 0.0 name

                    Expect.equal
                        (number "draft_acceptance_rate" fast)
                        1.0
                        "the exit agrees with the last layer"

                    for answer, part in
                        [
                            unknown, "there are decode N"
                            short, "at least 2"
                            none, "rows R TIMES"
                            long, "97 positions"
                        ] do
                        Expect.stringContains
                            ((answer.GetProperty "error").GetString())
                            part
                            "a fault, and on"
                | other -> failtest $"{other.Length} answers: {outcome.Out}"))

        testCase "--requests refuses the table's options" (fun () ->
            for option in [ "--runs=2"; "--max-new-tokens=4"; "--accept-rate=0.5"; "--output=x" ] do
                [ "bench"; "--requests"; "--shape"; shape; option ]
                |> refuses [ "--requests"; option.Split('=')[0] ])

        testCase "bad options are one line and exit code 2" (fun () ->
            for options, part in
                [
                    [ "--shape"; "hidden=32" ], "lacks"
                    [ "--shape"; shape + ",depth=3" ], "depth=3"
                    [ "--shape"; "hidden=x,layers=2,heads=1,kv-heads=1,intermediate=8,vocab=8" ],
                    "whole number"
                    [ "--shape"; "hidden=30,layers=2,heads=4,kv-heads=2,intermediate=8,vocab=8" ], "heads"
                    [ "--shape"; "hidden=32,layers=2,heads=4,kv-heads=3,intermediate=8,vocab=8" ], "kv-heads"
                    [ "--shape"; shape + ",vocab=9" ], "twice"
                    [ "--shape"; shape; "--accept-rate"; "1.5" ], "accept-rate"
                    [ "--shape"; shape; "--accept-rate"; "0,1" ],
                    "accept-rate is \"0,1\", it must be a number"
                    [ "--shape"; shape; "--accept-rate"; "1,000" ], "accept-rate is \"1,000\""
                    [ "--shape"; shape; "--accept-rate"; "NaN" ], "accept-rate is \"NaN\""
                    [ "--shape"; shape.Replace("layers=6", "layers=6.0") ], "layers=6.0"
                    [ "--shape"; shape + ",context=2" ], "context is 2, it must be 3 or more"
                    [ "--shape"; shape; "--identity-after"; "6" ], "identity-after"
                    [ "--shape"; shape; "--exit-layer"; "6" ], "exit-layer"
                    [ "--shape"; shape; "--runs"; "0" ], "runs"
                    [ "--shape"; shape; "--draft-length"; "0" ], "draft-length"
                    [ "--shape"; shape; "--max-new-tokens"; "1" ], "max-new-tokens"
                ] do
                let outcome = cli ("bench" :: options)
                Expect.equal (outcome.Code, outcome.Out) (2, "") $"{options}: {outcome.Error}"
                Expect.stringContains outcome.Error part $"{options}"
                Expect.equal (outcome.Error.TrimEnd().Split('\n').Length) 1 outcome.Error)

        testCase "a load keeps one copy of the weights in memory" (fun () ->
            withFolder (fun folder ->
                let config = {
                    Tiny.config 4000 8 8 4 true with
                        Hidden = 512
                        Intermediate = 2048
                        HeadDim = 64
                }

                let size =
                    use weights = Weights.random 1L 0.8 Dtype.BF16 Device.Cpu config
                    TensorWriter.safetensors
                        (Path.Combine(folder, "model.safetensors"))
                        Map.empty
                        (Weights.named weights)
                    |> Check.getOrRaise
                    Weights.bytes weights

                let largest = 2L * 512L * 4096L
                let load () =
                    let files = Safetensors.openFolder folder |> Check.getOrRaise
                    let stored = files |> List.collect _.Tensors
                    let weights = StoredWeights.load Dtype.BF16 Device.Cpu config stored |> Check.getOrRaise
                    for file in files do
                        (file :> IDisposable).Dispose()
                    weights

                // Once before, so that code and libtorch's own buffers are there.
                (load () :> IDisposable).Dispose()
                let before = resident ()
                use weights = load ()
                let grown = resident () - before
                Expect.isGreaterThan size 40_000_000L "worth measuring"
                Expect.isLessThan
                    (float grown)
                    (1.3 * float size + float largest)
                    $"{grown} bytes for {size}"
                Expect.equal
                    weights.Head.Tensor.Handle
                    weights.Embedding.Tensor.Handle
                    "no copy of the tied head"))
    ]
