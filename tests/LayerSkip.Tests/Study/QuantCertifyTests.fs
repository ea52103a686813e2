/// The certificate, and speculation, of quantised models.
module LayerSkip.Tests.QuantCertifyTests

open System.IO
open Expecto
open LayerSkip
open LayerSkip.Tests.Support
open LayerSkip.Tests.GgufBlockSupport
open LayerSkip.Tests.FileSupport
open LayerSkip.Tests.QuantFiles

Backend.ensure ()

let private certified (options: CertifyOptions) (path: string) =
    for compute in Compute.all do
        for kv in KvFormat.all do
            use model =
                Checkpoint.load path None Device.Cpu
                |> Result.map (Checkpoint.withCompute compute)
                |> Result.bind (Checkpoint.withKv (Some kv))
                |> Check.getOrRaise

            let report = Certify.run model options
            let test name = report.Tests |> List.find (fun test -> test.Name = name)
            Expect.equal report.Violation 0 $"{path}, {compute}, {report.Kv}: {report.Tests}"
            Expect.isGreaterThan (test "T3").Checks 0 "bit for bit is checked"
            Expect.equal (test "T3").Exact (test "T3").Checks $"{path}, {compute}, {report.Kv}: bit for bit"
            Expect.equal (test "T1").Exact (test "T1").Checks "speculation writes the plain text"
            Expect.equal
                (report.Compute, report.Kv)
                (Some(Compute.name compute), KvFormat.name kv)
                "it says what ran"

let private small = { Certify.options with ExitLayers = [ 1 ]; DraftLengths = [ 3 ]; MaxNewTokens = 10 }

let private accepted (path: string) =
    for compute in Compute.all do
        let model =
            Checkpoint.load path None Device.Cpu
            |> Result.map (Checkpoint.withCompute compute)
            |> Check.getOrRaise
        use weights = Benchmark.identityAfter 1 model.Weights

        let decode strategy =
            Generation.complete weights None (Tiny.options strategy 24) [| 1; 2; 3 |]
            |> Check.getOrRaise

        let fast = decode (Strategy.SelfSpeculative(Tiny.exit weights.Config.Layers 1, 3))
        Expect.equal fast.Stats.DraftAcceptanceRate 1.0 $"{path}, {compute}: every draft"
        Expect.equal fast.TokenIds (decode Strategy.Autoregressive).TokenIds "the same text"

[<Tests>]
let tests =
    testSequenced
    <| testList "certificate: quantised" [
        for name in quantFiles do
            sharedTest $"{name}: no violation, bit for bit" [ "quants"; $"{name}.gguf" ] (certified small)

            sharedTest
                $"{name}: layers that add nothing accept every draft"
                [ "quants"; $"{name}.gguf" ]
                accepted

        for mix in GgufMix.all do
            testCase $"{mix.Name}: what export writes has no violation" (fun () ->
                withFolder (fun folder ->
                    let path = Path.Combine(folder, "model.gguf")
                    use weights = Weights.random 3L 0.8 Dtype.F32 Device.Cpu wide

                    Export.quantise mix wide.Layers path (Checkpoint.ofWeights "tiny" weights None)
                    |> Check.getOrRaise
                    |> ignore

                    certified small path))

        for name, config in families do
            testCase $"{name}, formats that differ within a layer: no violation" (fun () ->
                withFile config 11 (mixOf 11 matrixFormats) (certified small))

        testCase "weights in a dtype have no compute to tell" (fun () ->
            use weights = Weights.random 3L 0.8 Dtype.F16 Device.Cpu narrow
            let model = Checkpoint.withCompute Compute.Float (Checkpoint.ofWeights "tiny" weights None)
            Expect.equal (Certify.run model small).Compute None "None")
    ]
