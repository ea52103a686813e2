// What self-speculative decoding costs beside its layer passes: the time of a whole decoding over the median time
// of each kind of pass times how often it ran.
//
//     dotnet fsi scripts/overhead.fsx --model DIR --exit-layer E --draft-length D --max-new-tokens N
#load "options.fsx"

open Options

let given =
    Given [
        "--model DIR", "must be given"
        "--exit-layer E", "the model's own"
        "--draft-length D", "the model's own"
        "--max-new-tokens N", "256"
    ]

#if !READY
#load "build.fsx"
exit (Build.runReady (__SOURCE_DIRECTORY__ + "/" + __SOURCE_FILE__) fsi.CommandLineArgs[1..])
#else

open System
open System.Diagnostics
open LayerSkip

let model =
    match given.TryText "--model" with
    | Some _ -> Checkpoint.load (given.Path "--model") None Device.Cpu |> orStop
    | None -> stop 2 "--model is missing; give a Hugging Face folder, a .gguf file, or a name on the hub"

let number name fallback = given.TryWhole(name, 1) |> Option.defaultValue fallback

let weights = model.Weights
let recommendedExit, recommendedDraft = Checkpoint.exitAndDraft model
let exitLayer, draftLength = number "--exit-layer" recommendedExit, number "--draft-length" recommendedDraft
let limit = given.Whole("--max-new-tokens", 1)
let prompt = [| defaultArg model.Config.Bos 1 |]

let decode () =
    let exit = ExitLayer.TryCreate(model.Config.Layers, exitLayer) |> orStop

    let options = GenerationOptions.greedy (Strategy.SelfSpeculative(exit, draftLength)) limit

    Generation.complete weights model.Tokenizer options prompt |> orStop

let median (values: float seq) =
    let sorted = Seq.sort values |> Array.ofSeq
    sorted[sorted.Length / 2]

let timed (body: unit -> Cache) (times: ResizeArray<float>) =
    let started = Stopwatch.GetTimestamp()
    let cache = Scope.free body
    times.Add(Stopwatch.GetElapsedTime(started).TotalMilliseconds)
    cache

/// The passes of a decoding and nothing else, each timed: draft passes, and verifying ones by their rows.
let passes (rounds: (int * int)[]) =
    let drafts = ResizeArray<float>()
    let verifications = Array.init (draftLength + 1) (fun _ -> ResizeArray<float>())
    let start = Cache.create weights exitLayer (prompt.Length + limit)
    use _storage = start.Slab :> IDisposable
    let ignored = ResizeArray<float>()

    /// A pass ends with its head and the choice of tokens.
    let second struct (hidden, cache) =
        Model.logits hidden |> Sampling.verdicts Sampling.Greedy |> ignore
        cache

    let mutable cache = timed (fun () -> second (Model.forwardRemainder weights 1 prompt start)) ignored

    for drafted, accepted in rounds do
        for _ in 1..drafted do
            let before = cache
            cache <- timed (fun () -> second (Model.forwardEarly weights prompt before)) drafts

        let ids = Array.create (drafted + 1) prompt[0]
        let before = cache
        cache <-
            timed
                (fun () -> second (Model.forwardRemainder weights ids.Length ids before))
                verifications[drafted]
        cache <- Cache.truncate (cache.Early.Length - (drafted - accepted)) cache

    drafts, verifications

let runs = 5
let first = decode ()

// Until .NET has compiled all of it for speed, which it does in the background.
let warming = Stopwatch.StartNew()

while warming.ElapsedMilliseconds < 4000L do
    decode () |> ignore
    passes first.Stats.Rounds |> ignore
    Threading.Thread.Sleep 150

// Interleaved, so that noise meets both.
let pairs = Array.init runs (fun _ -> (decode ()).Timings.DecodeMs, passes first.Stats.Rounds)
let whole = pairs |> Array.map fst |> median

let cost =
    pairs
    |> Array.map (fun (_, (drafts, verifications)) ->
        seq {
            yield drafts
            yield! verifications
        }
        |> Seq.filter (fun times -> times.Count > 0)
        |> Seq.sumBy (fun times -> median times * float times.Count))
    |> median

let drafts, verifications = snd pairs[0]
printfn "draft passes       %d of %.3f ms" drafts.Count (median drafts)

for rows, times in Array.indexed verifications do
    if times.Count > 0 then
        printfn "verifying %d rows   %d of %.3f ms" (rows + 1) times.Count (median times)

printfn "passes with heads  %.1f ms" cost
printfn "decoding           %.1f ms (median of %d)" whole runs
printfn "ratio              %.2f" (whole / cost)
#endif
