// What quantised weights cost: writes a model in every mix of formats that `layerskip export --dtype` knows, and tells for each
// its size, how far its weights are from the model's (root mean square, as a share of theirs), and its perplexity on texts, by the
// products of bytes that decoding runs and by those of decoded blocks in float32.
//
//     dotnet fsi scripts/quantise.fsx --text STORIES.txt
//     dotnet fsi scripts/quantise.fsx --model DIR --text A.txt,B.txt --tokens N --types q8_0,q4_k_m
#load "options.fsx"

open Options

let given =
    Given [
        "--model DIR", "models/stories-10m"
        "--text A.txt,B.txt", "none: no perplexity"
        "--tokens N", "4096"
        "--window N", "512, at most the model's context"
        "--types A,B", "all of them"
    ]

#if !READY
#load "build.fsx"
exit (Build.runReady (__SOURCE_DIRECTORY__ + "/" + __SOURCE_FILE__) fsi.CommandLineArgs[1..])
#else

open System
open System.Diagnostics
open System.IO
open LayerSkip

Backend.load () |> orStop |> ignore

let parts (text: string) =
    text.Split(',', StringSplitOptions.RemoveEmptyEntries ||| StringSplitOptions.TrimEntries)
    |> List.ofArray

let path = given.Path "--model"
// As exact as the file, whatever it holds.
let model = Checkpoint.load path (Some Dtype.F32) Device.Cpu |> orStop
let window = given.TryWhole("--window", 2) |> Option.defaultValue 512 |> min (model.Config.Context - 1)
let windows = max 1 (given.Whole("--tokens", 1) / window)

let mixes =
    match given.TryText "--types" with
    | None -> GgufMix.all
    | Some names ->
        parts names
        |> List.map (fun name ->
            match GgufMix.tryFind name with
            | Some mix -> mix
            | None ->
                let names = GgufMix.all |> List.map _.Name |> String.concat ", "
                stop 2 $"--types: there is no {name}; there are {names}")

/// Windows of a text's ids, each with the id after it.
let windowsOf (path: string) : int[] list =
    let tokenizer = Checkpoint.tokenizer model |> orStop

    if not (File.Exists path) then
        stop 2 $"{path}: not found"

    // Of no more than is needed: to encode a long text takes long.
    let text = File.ReadAllText(path).Replace("<|endoftext|>", "\n")
    let ids = Tokenizer.encode tokenizer text[.. min text.Length (windows * window * 12) - 1]

    if ids.Length <= windows * window then
        stop 2 $"{path} has {ids.Length} tokens, {windows * window + 1} are needed; give fewer --tokens"

    List.init windows (fun index -> ids[index * window .. (index + 1) * window])

let texts = given.TryText "--text" |> Option.map parts |> Option.defaultValue []
let samples = texts |> List.map windowsOf

/// The sum of -log p of a window's ids after the first, each from those before it.
let surprise (weights: Weights) (ids: int[]) : float =
    let cache = Cache.create weights weights.Config.Layers window
    use _slab = cache.Slab

    let surpriseOf (logits: float[]) (next: int) =
        let largest = Array.max logits
        largest + log (Array.sumBy (fun logit -> exp (logit - largest)) logits) - logits[next]

    // In pieces, since a row of logits may be long.
    let read (total, cache) (piece: int[]) =
        let struct (hidden, cache) =
            Model.forward weights piece.Length ids[piece[0] .. piece[piece.Length - 1]] cache
        let rows = Logits.toFloats (Model.logits hidden)
        total
        + Array.sum (Array.Parallel.map (fun (row, at) -> surpriseOf row ids[at + 1]) (Array.zip rows piece)),
        cache

    Array.chunkBySize 128 [| 0 .. window - 1 |] |> Array.fold read (0.0, cache) |> fst

let perplexity (weights: Weights) (windows: int[] list) : float =
    exp (List.sumBy (surprise weights) windows / float (windows.Length * window))

/// The weights' root mean square error, as a share of their own root mean square; matrices alone, which are quantised.
let distance (made: GgufFile) : float =
    let source = Map(Weights.named model.Weights)
    let squares = Array.sumBy (fun (value: float) -> value * value)

    let sums = [
        for tensor in made.Tensors do
            if tensor.Shape.Length > 1 then
                let values = Tensors.toFloats source[tensor.Name]
                squares (Array.map2 (-) values (StoredTensor.toFloats tensor)), squares values
    ]

    sqrt (List.sumBy fst sums / List.sumBy snd sums)

let parameters = float (Weights.parameters model.Config)
let columns =
    texts
    |> List.map (fun path -> $""" {(Path.GetFileNameWithoutExtension path)[..13], 14} {"in float", 14}""")
    |> String.concat ""
printfn $"""{"type", -8} {"bytes", 12} {"bits", 6} {"error %", 8} {"seconds", 8}{columns}"""

let line (name: string) (bytes: int64) (error: string) (seconds: string) (weights: Weights) =
    // Another way of computing ends the one before it.
    let ofAll compute =
        let weights = { Weights.withCompute compute weights with Prefill = Prefill.Exact }
        samples |> List.map (perplexity weights)

    let perplexities =
        List.zip (ofAll Compute.Auto) (ofAll Compute.Float)
        |> List.map (fun (bytes, float) -> $" {bytes, 14:F3} {float, 14:F3}")
        |> String.concat ""
    printfn
        $"{name, -8} {bytes, 12} {8.0 * float bytes / parameters, 6:F2} {error, 8} {seconds, 8}{perplexities}"

/// Of the model's files of weights.
let stored =
    if Directory.Exists path then
        DirectoryInfo(path).GetFiles("*.safetensors") |> Array.sumBy _.Length
    else
        FileInfo(path).Length

line "source" stored "" "" model.Weights

let folder = Directory.CreateTempSubdirectory("layerskip-").FullName

try
    for mix in mixes do
        let path = Path.Combine(folder, $"{mix.Name}.gguf")
        let started = Stopwatch.GetTimestamp()
        let report = Export.quantise mix model.Config.Layers path model |> orStop
        let seconds = Stopwatch.GetElapsedTime(started).TotalSeconds

        let error =
            use made = Gguf.openFile path |> orStop
            distance made

        use made = Checkpoint.load path None Device.Cpu |> orStop
        line mix.Name report.Bytes $"{100.0 * error:F3}" $"{seconds:F1}" made.Weights
        File.Delete path
finally
    Directory.Delete(folder, true)
#endif
