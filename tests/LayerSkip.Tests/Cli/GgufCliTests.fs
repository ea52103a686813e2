/// GGUF files through the command: what they are called, what is said of them, what is written.
module LayerSkip.Tests.GgufCliTests

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

let private beside (path: string) (name: string) = Path.Combine(Path.GetDirectoryName path, name)

let private withQuantised (body: string -> unit) : unit = withFile wide 3 (fun _ -> q4_k) body

let private textOf (name: string) (report: JsonElement) = (report.GetProperty name).GetString()

let private generating path options =
    typed $"generate --model {path} --prompt-ids 1,2,3 --max-new-tokens 6" @ options

/// A file whose rows no K type divides, written as Q4_K_M.
let private withStandIns (body: string -> unit) : unit =
    withFile narrow 3 (fun _ -> GgufFormat.F32) (fun path ->
        let made = beside path "made.gguf"
        json (typed $"export --model {path} --dtype Q4_K_M --output {made}") |> ignore
        body made)

/// A model of blocks with an entry of one tensor changed: `edit` gets its name's place, and the place after its dimensions.
let private withEntry (name: string) (edit: byte[] -> int -> int -> unit) (body: string -> unit) : unit =
    withFolder (fun folder ->
        let path = Path.Combine(folder, "m.gguf")
        let bytes = modelOfFormat 12u
        let at = bytes.AsSpan().IndexOf(ReadOnlySpan(text name)) + 8
        edit bytes at (at + name.Length + 4)
        File.WriteAllBytes(path, bytes)
        body path)

[<Tests>]
let tests =
    testList "command line: GGUF files" [
        testCase "a GGUF file is one by its first bytes, whatever it is called" (fun () ->
            withQuantised (fun path ->
                let other = beside path "noext"
                json (typed $"export --model {path} --format gguf --output {other}") |> ignore
                let expected = tokenIds (json (generating path []))
                Expect.equal (tokenIds (json (generating other []))) expected "the same model"
                let info = json (typed $"info --model {other}")
                Expect.isTrue (fst ((info.GetProperty "model").TryGetProperty "formats")) "its formats"))

        testCase "export without --dtype keeps the formats; a folder is said to be f16" (fun () ->
            withQuantised (fun path ->
                let made = cli (typed $"export --model {path} --output {path}.copy.gguf")
                Expect.equal made.Code 0 made.Error
                Expect.stringContains made.Out "as gguf in q4_k" "the line names them"
                Expect.stringContains made.Out "(22 Q4_K, 7 F32)" "and counts them"
                let folder = beside path "folder"
                let made = cli (typed $"export --model {path} --output {folder}")
                Expect.equal made.Code 0 made.Error
                Expect.stringContains made.Out "as hf in f16" "the line"
                Expect.stringContains made.Error "quantised weights are written in f16" "the remark"
                Expect.stringContains made.Error "use --format gguf to keep them" "in the command's words"))

        testCase "formats that stand in are counted in the line, and the file goes by its own name" (fun () ->
            withStandIns (fun path ->
                let plain = beside path "model.gguf"
                let made = cli (typed $"export --model {plain} --dtype q2_k --output {plain}.q2.gguf")
                Expect.equal made.Code 0 made.Error
                Expect.isFalse (made.Out.Contains "Q2_K") made.Out
                Expect.stringContains made.Out "IQ4_NL" "what is there"
                Expect.stringContains made.Error "in IQ4_NL for Q2_K" "and why"

                let report = json (generating path [])
                Expect.equal
                    (textOf "dtype" report, textOf "stored_dtype" report)
                    ("q5_0", "Q4_K_M")
                    "generate"
                let said = cli (generating path [])
                Expect.stringContains
                    said.Error
                    "q4_k_m, mostly q5_0, compute auto, prefill auto"
                    "its line"
                Expect.stringContains (cli (typed $"info --model {path}")).Out "q4_k_m, mostly q5_0" "info"

                let certify =
                    typed $"certify --model {path} --max-new-tokens 3 --exit-layers 1 --draft-lengths 1"
                Expect.equal (textOf "stored_dtype" (json certify)) "Q4_K_M" "certify"
                Expect.stringContains (cli certify).Out "in q4_k_m, mostly q5_0, compute" "its verdict"
                let inF32 = cli (generating path (typed "--dtype F32"))
                Expect.stringContains inF32.Error ", f32, prefill" "converted, it is neither"))

        testCase "generate says how its prompt was read" (fun () ->
            withQuantised (fun path ->
                for prefill in [ "auto"; "exact" ] do
                    let options = typed $"--prefill {prefill}"
                    Expect.equal (textOf "prefill" (json (generating path options))) prefill "JSON"
                    Expect.stringContains (cli (generating path options)).Error $"prefill {prefill}" "line"))

        testCase "options that a command has no use for are said to have none" (fun () ->
            withQuantised (fun path ->
                let made =
                    cli (
                        typed
                            $"export --model {path} --output {path}.gguf --compute float --kv q8 --prefill exact --seed 3"
                    )

                Expect.equal made.Code 0 made.Error

                for option in [ "compute"; "kv"; "prefill"; "seed" ] do
                    Expect.stringContains made.Error $"--{option} has no effect in export" option

                let info = cli (typed $"info --model {path} --kv q8 --prefill exact")
                Expect.equal info.Code 0 info.Error
                Expect.equal
                    (info.Error.Trim())
                    "--prefill has no effect in info"
                    "what counts is left alone"
                let silent =
                    cli (generating path (typed "--compute float --kv q8 --prefill exact --seed 3"))
                Expect.isFalse (silent.Error.Contains "no effect") silent.Error))

        testCase "types in capitals, as files have them" (fun () ->
            withQuantised (fun path ->
                let made = json (typed $"export --model {path} --dtype Q8_0 --output {path}.q8.gguf")
                Expect.equal (textOf "dtype" made) "q8_0" "a mix"
                Expect.equal (textOf "dtype" (json (generating path (typed "--dtype F16")))) "f16" "a dtype"))

        testCase "what contradicts what" (fun () ->
            withQuantised (fun path ->
                let export options = typed $"export --model {path} --dtype q4_0" @ typed options
                export $"--output {path}.other.gguf --format hf"
                |> refuses [ "--format hf"; "--output"; "leave --format out" ]
                export $"--output {path}-made" |> refuses [ "ends in .gguf"; "--format gguf" ]
                generating path (typed "--kv q8 --dtype f64") |> refuses [ "bf16 and quantised weights" ]
                export "--output /proc/a.gguf" |> refuses [ "/proc/a.gguf"; "nothing can be written" ]
                generating path (typed "--output /proc/a.json")
                |> refuses [ "/proc/a.json"; "nothing can be written" ]))

        testCase "a model of one layer has no exit to certify or to time" (fun () ->
            withQuantised (fun path ->
                let one = beside path "one.gguf"
                json (typed $"export --model {path} --layers 1 --output {one}") |> ignore
                typed $"certify --model {one}"
                |> refuses [ "certify needs a model with an earlier exit"; "one layer" ]
                typed $"bench --model {one}" |> refuses [ "bench needs a model with an earlier exit" ]
                typed $"export --model {one} --layers 2 --output {one}.gguf"
                |> refuses [ "--layers is 2, it must be 1, " ]))

        testCase "a file without a tokenizer: the file has none, not the folder" (fun () ->
            withQuantised (fun path ->
                let outcome = cli (typed $"generate --model {path} --prompt Once")
                Expect.equal outcome.Code 2 outcome.Error
                Expect.stringContains
                    outcome.Error
                    "the file holds no tokenizer (tokenizer.ggml.model"
                    "what"
                Expect.stringContains outcome.Error "--prompt-ids 1,2,3" "what to do"
                Expect.isFalse (outcome.Error.Contains "beside") outcome.Error

                use model = Checkpoint.load path None Device.Cpu |> Check.getOrRaise
                let told = Checkpoint.tokenizer model |> Check.faults |> LayerSkipError.summary
                Expect.isFalse (told.Contains "ids") "nobody else can give ids"))

        testCase "tensors go by the file's names, in the file's order of dimensions" (fun () ->
            let refusesWith words path =
                let outcome = cli (generating path [])
                Expect.equal outcome.Code 2 outcome.Error

                for word in words do
                    Expect.stringContains outcome.Error word "words"

                for word in [ "model.layers"; "_proj"; "take both" ] do
                    Expect.isFalse (outcome.Error.Contains word) outcome.Error

            let rename (bytes: byte[]) at _ = "z"B.CopyTo(bytes, at + "blk.0.ffn_".Length)
            withEntry
                "blk.0.ffn_up.weight"
                rename
                (refusesWith [ "blk.0.ffn_up.weight is missing"; "blk.0.ffn_zp.weight" ])
            let shorten (bytes: byte[]) _ dims = BitConverter.GetBytes(8UL).CopyTo(bytes, dims + 8)
            withEntry
                "blk.0.ffn_up.weight"
                shorten
                (refusesWith [ "blk.0.ffn_up.weight has dimensions [256, 8]"; "ask for [256, 256]" ]))

        testCase "the manuals say what is the same, and what certify's tests are" (fun () ->
            let manual command = (cli [ command; "--help" ]).Out.ReplaceLineEndings(" ")
            let squeezed (text: string) =
                String.Join(' ', text.Split(' ', StringSplitOptions.RemoveEmptyEntries))
            Expect.stringContains (squeezed (manual "generate")) "the same greedy text" "generate"
            let certify = squeezed (manual "certify")

            for word in [ "T1 "; "T2 "; "T3 "; "T4 "; "T5 "; "The gap is" ] do
                Expect.stringContains certify word "certify"

            Expect.stringContains (squeezed (manual "export")) "auto keeps each tensor's format" "export")
    ]
