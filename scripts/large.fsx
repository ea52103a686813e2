// Loads a model of real size that takes no room on disk, and decodes a few tokens both ways: does the machine hold it, and
// what does that cost? By default Qwen3-8B's shape in bfloat16, 16.4 GB of which all but a few pages are holes.
//
//     dotnet fsi scripts/large.fsx --folder DIR
//     dotnet fsi scripts/large.fsx --folder DIR --layers 2 --vocab 20000 --prompt-length 600 --max-new-tokens 8
#load "options.fsx"

open Options

let given =
    Given [
        "--folder DIR", "must be given"
        "--hidden N", "4096"
        "--intermediate N", "12288"
        "--layers N", "36"
        "--heads N", "32"
        "--kv-heads N", "8"
        "--head-dim N", "128"
        "--vocab N", "151936"
        "--prompt-length N", "64"
        "--max-new-tokens N", "8"
    ]

#if !READY
#load "build.fsx"
exit (Build.runReady (__SOURCE_DIRECTORY__ + "/" + __SOURCE_FILE__) fsi.CommandLineArgs[1..])
#else

open System
open System.Diagnostics
open System.IO
open System.Text
open System.Text.Json
open LayerSkip

let folder =
    match given.TryText "--folder" with
    | Some folder -> folder
    | None -> stop 2 "--folder is missing; give a scratch folder for the model's files"

let size name = given.Whole(name, 1)
let layers, vocabulary = size "--layers", size "--vocab"
let promptLength, newTokens = size "--prompt-length", size "--max-new-tokens"

/// Ids that have an embedding and a head; the last of them lie as far in their tensors as any.
let ids =
    [| for i in 0..31 -> i * 3 % vocabulary |]
    |> Array.append [| vocabulary - 1; vocabulary / 2 |]
    |> Array.distinct

let configText =
    JsonSerializer.Serialize {|
        model_type = "qwen3"
        hidden_size = size "--hidden"
        intermediate_size = size "--intermediate"
        num_hidden_layers = layers
        num_attention_heads = size "--heads"
        num_key_value_heads = size "--kv-heads"
        head_dim = size "--head-dim"
        vocab_size = vocabulary
        max_position_embeddings = 40960
        rms_norm_eps = 1e-6
        rope_theta = 1000000.0
        tie_word_embeddings = false
        torch_dtype = "bfloat16"
    |}

Directory.CreateDirectory folder |> ignore
File.WriteAllText(Path.Combine(folder, "config.json"), configText)
let config = LlamaConfig.load (Path.Combine(folder, "config.json")) |> orStop

/// The rows of a tensor that are written: norms all, embedding and head those of `ids`, of other matrices the first few.
let writtenRows (name: string) (shape: int64 list) =
    match name with
    | _ when shape.Length = 1 -> [| 0L |]
    | "model.embed_tokens.weight"
    | "lm_head.weight" -> Array.map int64 ids
    | _ -> [| 0L .. min 7L (shape.Head - 1L) |]

let bfloat16 (value: float) =
    BitConverter.GetBytes(uint16 (BitConverter.SingleToUInt32Bits(float32 value) >>> 16))

let writeWeights (path: string) =
    let entries =
        Weights.expected config
        |> List.mapFold
            (fun start (name, shape) ->
                let size = 2L * List.fold (*) 1L shape
                (name, shape, start, start + size), start + size)
            0L

    let header =
        fst entries
        |> List.map (fun (name, shape, first, last) ->
            let dims = shape |> List.map string |> String.concat ","
            $"\"{name}\":{{\"dtype\":\"BF16\",\"shape\":[{dims}],\"data_offsets\":[{first},{last}]}}")
        |> String.concat ","

    let header = Encoding.UTF8.GetBytes("{" + header + "}")
    use file = File.Create path
    file.Write(BitConverter.GetBytes(uint64 header.Length).AsSpan())
    file.Write(header.AsSpan())
    let data = file.Position
    file.SetLength(data + snd entries)

    for index, (name, shape, first, _) in List.indexed (fst entries) do
        let width = int (List.last shape)
        let random = Random index
        let deviation = 1.0 / sqrt (float width)

        let value () =
            if shape.Length = 1 then
                1.0
            else
                deviation * sqrt 12.0 * (random.NextDouble() - 0.5)

        for row in writtenRows name shape do
            file.Position <- data + first + 2L * row * int64 width
            file.Write((Array.init width (fun _ -> bfloat16 (value ())) |> Array.concat).AsSpan())

/// A number of /proc/self/status, in gigabytes.
let memory (name: string) =
    let line = File.ReadLines "/proc/self/status" |> Seq.find _.StartsWith(name + ":")
    float (line.Split([| ' '; '\t' |], StringSplitOptions.RemoveEmptyEntries)[1]) * 1024.0
    / 1e9

let seconds (started: int64) = Stopwatch.GetElapsedTime(started).TotalSeconds

writeWeights (Path.Combine(folder, "model.safetensors"))
let started = Stopwatch.GetTimestamp()
let model = Checkpoint.load folder None Device.Cpu |> orStop
let bytes = float (Weights.bytes model.Weights) / 1e9
let peak = memory "VmHWM"

printfn
    "loaded %.2f GB of weights (%s) in %.1f s; peak memory %.2f GB, %.3f of the weights"
    bytes
    (Weights.dtypeName model.Weights)
    (seconds started)
    peak
    (peak / bytes)

let prompt = Array.init promptLength (fun i -> ids[i % ids.Length])

let decode name strategy =
    let made =
        Generation.complete model.Weights None (GenerationOptions.greedy strategy newTokens) prompt
        |> orStop

    printfn
        "%s: first token after %.1f s, then %.2f s a token; drafts kept %.0f %%; peak memory %.2f GB"
        name
        (made.Timings.TtftMs / 1000.0)
        (made.Timings.DecodeMs / 1000.0 / float (max 1 (newTokens - 1)))
        (100.0 * made.Stats.DraftAcceptanceRate)
        (memory "VmHWM")

    made.TokenIds

let plain = decode "plain" Strategy.Autoregressive

if layers > 1 then
    let exit = ExitLayer.TryCreate(layers, LlamaConfig.defaultExit config) |> orStop

    if decode "self-speculative" (Strategy.SelfSpeculative(exit, 4)) <> plain then
        stop 1 "the texts differ"

    printfn "both wrote %s" (plain |> Seq.map string |> String.concat ",")
#endif
