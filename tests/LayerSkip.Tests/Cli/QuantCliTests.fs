/// Quantised GGUF files through the command.
module LayerSkip.Tests.QuantCliTests

open System
open System.IO
open System.Text.Json
open Expecto
open LayerSkip
open LayerSkip.Tests.FileSupport
open LayerSkip.Tests.CliSupport
open LayerSkip.Tests.GgufBlockSupport
open LayerSkip.Tests.GgufWriter
open LayerSkip.Tests.QuantFiles

let private q4_k = GgufFormat.Quantised GgufBlocks.q4_K

let private withQuantised (body: string -> unit) : unit = withFile wide 3 (fun _ -> q4_k) body

let private withBytes (bytes: byte[]) (body: string -> unit) : unit =
    withFolder (fun folder ->
        let path = Path.Combine(folder, "m.gguf")
        File.WriteAllBytes(path, bytes)
        body path)

/// Sets the first scale of each block of some tensors.
let private rescale (path: string) (scale: float32) (names: string list) : unit =
    let header = SourceFile.using path "" GgufHeader.read |> Check.getOrRaise
    let bytes = File.ReadAllBytes path
    let data = (header.End + 31L) / 32L * 32L

    for info in header.Infos do
        match GgufFormat.tryOf info.Type with
        | Some(GgufFormat.Quantised format) when names |> List.exists info.Name.Contains ->
            let count = int (Array.fold (*) 1UL info.Dims) / format.Values

            for block in 0 .. count - 1 do
                let at = int data + int info.Offset + block * format.Bytes + format.Scales.Head
                BitConverter.GetBytes(Half.op_Explicit scale: Half).CopyTo(bytes, at)
        | _ -> ()

    File.WriteAllBytes(path, bytes)

let private generate path options =
    typed $"generate --model {path} --prompt-ids 1,2,3 --max-new-tokens 8" @ options

let private computeOf (report: JsonElement) =
    match report.GetProperty "compute" with
    | value when value.ValueKind = JsonValueKind.Null -> None
    | value -> Some(value.GetString())

let private dtypeOf (report: JsonElement) = (report.GetProperty "dtype").GetString()

/// Reports of generate, certify, bench and info.
let private reports path options = [
    json (generate path options)
    json (
        typed $"certify --model {path} --max-new-tokens 6 --exit-layers 1 --draft-lengths 2"
        @ options
    )
    json (typed $"bench --model {path} --runs 1 --max-new-tokens 6" @ options)
    (json (typed $"info --model {path}" @ options)).GetProperty "model"
]

let private tokens (report: JsonElement) = [|
    for id in (report.GetProperty "token_ids").EnumerateArray() -> id.GetInt32()
|]

[<Tests>]
let tests =
    testList "command line: quantised" [
        testCase "reports say what the blocks are, and how they were multiplied" (fun () ->
            withQuantised (fun path ->
                for options, expected in [ [], "auto"; typed "--compute float", "float" ] do
                    for report in reports path options do
                        Expect.equal (dtypeOf report, computeOf report) ("q4_k", Some expected) "as asked"

                let info = (json (typed $"info --model {path}")).GetProperty "model"
                use file = Gguf.openFile path |> Check.getOrRaise
                use model = Checkpoint.load path None Device.Cpu |> Check.getOrRaise
                Expect.equal ((info.GetProperty "bytes").GetInt64()) (Weights.bytes model.Weights) "bytes"
                let matrices = file.Tensors |> List.filter (fun tensor -> tensor.Format = "Q4_K")
                let counted = (info.GetProperty "formats").GetProperty("Q4_K").GetInt32()
                Expect.equal counted matrices.Length "formats"

                let said = cli (typed $"info --model {path} --compute=float")
                Expect.stringContains said.Out "q4_k" "dtype"
                Expect.stringContains said.Out "float" "compute"

                let certificate =
                    cli (
                        typed $"certify --model {path} --max-new-tokens 4 --exit-layers 1 --draft-lengths 1"
                    )
                Expect.stringContains certificate.Out "in q4_k, compute auto, kv" "the certificate's text"

                Expect.stringContains
                    (cli (generate path (typed "--compute float"))).Error
                    "q4_k, compute float"
                    "what decodes"))

        testCase "of other weights there is nothing to say: --compute float is what they do" (fun () ->
            withModel (fun folder ->
                let own = json (generate folder [])
                let asked = json (generate folder (typed "--compute float"))
                Expect.equal (computeOf own, computeOf asked) (None, None) "null"
                Expect.equal (tokens asked) (tokens own) "the same text"))

        testCase "in a dtype there are no blocks" (fun () ->
            withQuantised (fun path ->
                let report = json (generate path (typed "--dtype f32"))
                Expect.equal (dtypeOf report, computeOf report) ("f32", None) "f32"
                let float = json (generate path (typed "--compute float"))
                Expect.equal (tokens float) (tokens report) "the same numbers, the same text"))

        testCase "bench --identity-after: every draft is accepted, in both computes" (fun () ->
            withQuantised (fun path ->
                for compute in Compute.all do
                    let report =
                        json (
                            typed
                                $"bench --model {path} --identity-after 1 --exit-layer 1 --draft-length 3 --runs 1 --max-new-tokens 12 --compute {Compute.name compute}"
                        )

                    let speculative = report.GetProperty "self_speculative"
                    Expect.equal
                        ((speculative.GetProperty "draft_acceptance_rate").GetDouble())
                        1.0
                        "drafts"
                    Expect.isTrue ((report.GetProperty "same_text").GetBoolean()) "the same text"))

        testCase "--compute is auto or float" (fun () ->
            withQuantised (fun path -> generate path (typed "--compute bytes") |> refuses [ "--compute" ]))

        testCase "a type that is not read: the tensor and the type" (fun () ->
            let bytes = modelOfFormat 12u
            // Of its entry: name, two dimensions, type.
            let name = text "blk.0.ffn_up.weight"
            let at = bytes.AsSpan().IndexOf(ReadOnlySpan name) + name.Length + 4 + 16

            for kind, word in [ 16u, "IQ2_XXS"; 99u, "99" ] do
                (u32 kind).CopyTo(bytes, at)
                withBytes bytes (fun path -> generate path [] |> refuses [ "blk.0.ffn_up.weight"; word ]))

        testCase "a file that ends within a block" (fun () ->
            for _, format, _ in formats do
                let bytes = modelOfFormat format.Kind
                withBytes (Array.truncate (bytes.Length - 1) bytes) (fun path ->
                    generate path [] |> refuses [ "m.gguf"; "truncated" ]))

        testCase "rows that are no multiple of a block" (fun () ->
            let bytes =
                gguf
                    3u
                    (model "llama")
                    (placed [ "token_embd.weight", [ 48UL; 10UL ], 12u, Array.zeroCreate 1440 ])
            withBytes bytes (fun path -> generate path [] |> refuses [ "token_embd.weight"; "48"; "256" ]))

        testCase "a scale that is no number, in each kind" (fun () ->
            for _, format, scales in formats do
                let bytes = modelOfFormat format.Kind
                let at = startOf bytes "token_embd.weight" "blk.0.ffn_up.weight"

                for scale in scales do
                    let spoilt = Array.copy bytes
                    BitConverter.GetBytes(Half.NaN).CopyTo(spoilt, at + 3 * format.Bytes + scale)

                    withBytes spoilt (fun path ->
                        for options in [ []; typed "--compute float"; typed "--dtype f32" ] do
                            generate path options |> refuses [ "blk.0.ffn_up.weight"; "NaN or infinity" ]))

        testCase
            "finite weights whose hidden states overflow in a norm: a failure that names the layer"
            (fun () ->
                withFile wide 3 (fun _ -> GgufFormat.Quantised GgufBlocks.q8_0) (fun path ->
                    rescale path 65504.0f [ "blk.1.ffn" ]

                    for options in
                        [
                            []
                            typed "--compute float"
                            typed "--kv f16"
                            typed "--dtype f32"
                            typed "--exit-layer 1"
                        ] do
                        let outcome = cli (generate path options)
                        Expect.equal (outcome.Code, outcome.Out.Trim()) (1, "") outcome.Error
                        Expect.stringContains
                            outcome.Error
                            "layer 3 of 3 is not finite at position 0"
                            "where"

                    let outcome = cli (typed $"certify --model {path} --max-new-tokens 4")
                    Expect.equal outcome.Code 1 outcome.Error
                    Expect.stringContains outcome.Error "not finite" "no certificate"
                    let wider = cli (generate path (typed "--dtype f64"))
                    Expect.equal wider.Code 0 wider.Error))

        testCase "export of a quantised file: to a folder, to another mix, its first layers" (fun () ->
            withQuantised (fun path ->
                let made name options =
                    let output = Path.Combine(Path.GetDirectoryName path, name)
                    json (typed $"export --model {path} --output {output}" @ options) |> ignore
                    json (generate output []) |> tokens

                let own = tokens (json (generate path (typed "--dtype f16")))
                Expect.equal (made "folder" (typed "--format hf")) own "a folder, in f16"
                Expect.equal (made "wide" (typed "--format hf --dtype f32")).Length 8 "a folder, in f32"

                for mix in [ "q8_0"; "q4_k_m"; "q6_k" ] do
                    Expect.equal (made $"{mix}.gguf" (typed $"--format gguf --dtype {mix}")).Length 8 mix

                let part = made "part.gguf" (typed "--format gguf --dtype q8_0 --layers 2")
                Expect.equal part.Length 8 "the first layers"))

        testCase "a quantised file can be trained on" (fun () ->
            withQuantised (fun path ->
                let folder = Path.GetDirectoryName path
                let data = Path.Combine(folder, "data.tokens")

                TokenFile.write data [ for i in 0..20 -> [| for j in 0..19 -> (i + 5 * j) % 24 |] ]
                |> Check.getOrRaise
                |> ignore

                let trained =
                    cli (
                        typed
                            $"train --model {path} --data {data} --output {folder}/run --steps=2 --batch-size=2 --sequence-length=8"
                    )

                Expect.equal trained.Code 0 trained.Error
                Expect.equal (tokens (json (generate $"{folder}/run" []))).Length 8 "it runs"))
    ]
