// What a draft vocabulary saves and what it costs: the time of the head over some of its rows and over all of them, and of what keeps the
// rows up to date; how many of the tokens that the model itself writes stand among the ids when their turn comes, by kind of text: the
// vocabulary in context, beside the first ids of the tokenizer and beside a frequency list counted on other texts. With --exit-layers also
// decoding with and without, interleaved, with the exit's own drafts or with drafts that are right with probability R where the right id is
// there. With --shape the heads alone, of random weights with one layer.
//
//     dotnet fsi scripts/draft-vocabulary.fsx --model DIR
//     dotnet fsi scripts/draft-vocabulary.fsx --model DIR --prompts 0 --sizes 1024,4096 --threads 1
//     dotnet fsi scripts/draft-vocabulary.fsx --shape hidden=4096,heads=32,kv-heads=8,intermediate=14336,vocab=128256 --dtype bf16
#load "options.fsx"

open Options

let given =
    Given [
        "--model DIR", "models/stories-10m"
        "--data DIR", "../shared/data"
        "--sizes N,N", "512,1024,2048,4096,8192"
        "--prompts N", "4"
        "--max-new-tokens N", "128"
        "--round N", "4"
        "--exit-layers 2,8", "no decoding"
        "--draft-length D", "the model's own"
        "--accept-rate R", "the exit's own drafts"
        "--identity-after E", "the model as it is"
        "--shape hidden=N,heads=N,kv-heads=N,intermediate=N,vocab=N", "a model's"
        "--dtype T", "as stored"
        "--runs N", "31"
        "--threads N", "one for each core"
    ]

#if !READY
#load "build.fsx"
exit (Build.runReady (__SOURCE_DIRECTORY__ + "/" + __SOURCE_FILE__) fsi.CommandLineArgs[1..])
#else

open System
open System.Collections.Generic
open System.Diagnostics
open System.IO
open System.Text.Json
open System.Threading
open LayerSkip

Backend.load () |> orStop |> ignore
given.TryWhole("--threads", 1) |> Option.iter CpuKernels.setThreads

let dtype =
    given.TryText "--dtype"
    |> Option.map (fun name ->
        match Dtype.all |> List.tryFind (fun dtype -> Dtype.name dtype = name) with
        | Some dtype -> dtype
        | None -> stop 2 $"--dtype is {name}, it must be f32, f16 or bf16")

/// One layer of a shape, to see what its head costs beside.
let shaped (text: string) : Weights =
    let sizes =
        text.Split(',', StringSplitOptions.TrimEntries)
        |> Array.map (fun part ->
            match part.Split '=' with
            | [| name; value |] when (Number.tryWhole value).IsSome -> name, (Number.tryWhole value).Value
            | _ -> stop 2 $"--shape has {part}, it must be NAME=N")
        |> Map.ofArray

    let size name =
        match Map.tryFind name sizes with
        | Some size -> size
        | None -> stop 2 $"--shape lacks {name}"

    LlamaConfig.Llama(
        size "vocab",
        1,
        size "hidden",
        size "intermediate",
        size "heads",
        size "kv-heads",
        context = 256
    )
    |> Weights.random 1L 0.8 (defaultArg dtype Dtype.BF16) Device.Cpu

let model =
    match given.TryText "--shape" with
    | Some _ -> None
    | None -> Some(Checkpoint.load (given.Path "--model") dtype Device.Cpu |> orStop)

let weights =
    match model, given.TryWhole("--identity-after", 1) with
    | None, _ -> shaped (given.Text "--shape")
    | Some model, Some exit -> Benchmark.identityAfter exit model.Weights
    | Some model, None -> model.Weights

let config = weights.Config
let vocabulary = config.Vocabulary
let runs, limit = given.Whole("--runs", 1), given.Whole("--max-new-tokens", 1)
let round = given.Whole("--round", 1)

let sizes = given.Wholes("--sizes", 1, Int32.MaxValue) |> List.filter (fun size -> size < vocabulary)

let median (values: seq<float>) =
    let sorted = values |> Seq.sort |> Array.ofSeq
    sorted[sorted.Length / 2]

/// Milliseconds of some works taken in turn: the medians.
let interleaved (works: (unit -> unit) list) : float list =
    let times = works |> List.map (fun _ -> ResizeArray<float>())
    let warm = Stopwatch.StartNew()

    // Until .NET has compiled all of it for speed, which it does in the background.
    while warm.ElapsedMilliseconds < 1500L do
        for work in works do
            work ()

        Thread.Sleep 50

    for _ in 1..runs do
        for work, times in List.zip works times do
            let started = Stopwatch.GetTimestamp()
            work ()
            times.Add(Stopwatch.GetElapsedTime(started).TotalMilliseconds)

    times |> List.map median

/// Reads all weights once between two works, as a verification does: the next head comes from memory.
let headTimes () =
    let ids = Array.init 12 (fun i -> (i * 131 + 1) % vocabulary)
    let cache = Cache.create weights 1 64
    use _storage = cache.Slab :> IDisposable
    let struct (hidden, read) = Model.forward weights 1 ids cache
    let mutable cache, hidden = read, hidden

    let vocabularies =
        sizes
        |> List.map (fun size ->
            DraftVocabulary.create size cache
            |> DraftVocabulary.add (FrequencyList.firstIds size vocabulary))

    let pass () =
        use _noGrad = Scope.noGrad ()
        let struct (next, read) = Model.forward weights 1 [| 1 |] (Cache.truncate 11 cache)
        cache <- read
        hidden <- next

    let narrow each () = Model.narrowLogits each hidden |> DraftVocabulary.argmax each |> ignore
    let whole () = Model.logits hidden |> Logits.argmax |> ignore
    // The pass stands before each head, and is no part of it.
    let works = whole :: List.map narrow vocabularies
    let times = works |> List.collect (fun work -> [ pass; work ]) |> interleaved
    let heads = times |> List.chunkBySize 2 |> List.map List.last
    let wholeMs = heads.Head

    printfn
        "norm, head and choice of one row, after a pass over all weights (ms %.3f); median of %d"
        times.Head
        runs
    printfn "   rows        ms    cut by"
    printfn "%7d  %8.4f" vocabulary wholeMs

    for size, ms in List.zip sizes heads.Tail do
        printfn "%7d  %8.4f  %6.1f %%" size ms (100.0 * (1.0 - ms / wholeMs))

    let logits = Model.logits hidden
    let top = Logits.largest ContextVocabulary.defaultLikeliest 0 logits
    let some = Array.init 16 (fun i -> vocabulary - 1 - 97 * i % vocabulary)
    let size = min 4096 vocabulary
    let mutable growing = DraftVocabulary.create size cache
    let frequent = FrequencyList.firstIds (size / 2) vocabulary

    match
        interleaved [
            fun () -> Logits.largest ContextVocabulary.defaultLikeliest 0 logits |> ignore
            fun () -> growing <- DraftVocabulary.renew frequent growing
            fun () -> growing <- DraftVocabulary.add some growing
            fun () -> growing <- DraftVocabulary.add top growing
        ]
    with
    | [ likeliest; renewal; addition; known ] ->
        printfn
            "its upkeep: the %d likeliest of a row %.4f ms; %d rows anew %.3f ms; 16 rows more %.4f ms; none more %.4f ms"
            top.Length
            likeliest
            frequent.Length
            renewal
            addition
            known
    | _ -> ()

headTimes ()

/// Kinds of texts that are there, each with beginnings of some.
let prompts count : (string * string list) list =
    let data = given.Path "--data"
    let path (parts: string list) = Path.Combine(Array.ofList (data :: parts))

    let spread (items: 'T list) = [
        for i in 0 .. min count items.Length - 1 -> items[i * items.Length / min count items.Length]
    ]

    let texts name (parts: string list) (separator: string) =
        if File.Exists(path parts) then
            let pieces =
                File.ReadAllText(path parts).Split(separator, StringSplitOptions.TrimEntries)
                |> Array.filter (fun piece -> piece.Length > 400)
                |> List.ofArray

            [ (name, spread pieces |> List.map (fun piece -> piece[..300])) ]
        else
            []

    let questions = path [ "eval"; "spec_bench"; "question.jsonl" ]

    [
        yield! texts "TinyStories" [ "text"; "tinystories-valid.txt" ] "<|endoftext|>"
        yield! texts "Gutenberg" [ "text"; "gutenberg"; "The-Jungle-Book_236.txt" ] "\n\n"
        yield! texts "Wikipedia" [ "text"; "wikitext2_test.txt" ] "\n"

        if File.Exists questions then
            let kinds = [ "translation"; "summarization"; "qa"; "math_reasoning"; "rag" ]

            let asked = [
                for line in File.ReadLines questions do
                    let entry = JsonDocument.Parse(line).RootElement
                    let category = entry.GetProperty("category").GetString()
                    let kind =
                        if List.contains category kinds then
                            category
                        else
                            "MT-bench"
                    let turns = entry.GetProperty "turns"
                    kind, turns[0].GetString()
            ]

            for kind, items in List.groupBy fst asked do
                $"Spec-Bench {kind}", spread (List.map snd items)
    ]

/// A text that the model wrote by itself: prompt, and each token with the likeliest ids where it was chosen.
type Written = { Prompt: int[]; Tokens: int[]; Likeliest: int[][] }

let write (ids: int[]) : Written =
    let likeliest = Dictionary<int, int[]>()
    let watch place logits = likeliest[place] <- Logits.largest 32 0 logits

    let decoding = {
        Rounds.greedy weights Strategy.Autoregressive limit with
            StopIds = (Option.get model).StopIds
            Watch = Some watch
    }

    let struct (_, standing) = Rounds.run decoding ids CancellationToken.None |> Seq.last
    let tokens = standing.Text.ToArray()[ids.Length ..]
    {
        Prompt = ids
        Tokens = tokens
        Likeliest = tokens |> Array.mapi (fun i _ -> likeliest[ids.Length + i])
    }

/// How many of the tokens stand in the set when they are drafted; it learns at the end of each round of so many tokens, as
/// decoding does. And how many ids there were at the end.
let covered (frequent: int[]) hasText k (text: Written) : int * int =
    let ids = HashSet<int> frequent
    let mutable found = 0

    let learn (tokens: int[]) (likeliest: int[][]) =
        if hasText then
            ids.UnionWith tokens

        for row in likeliest do
            ids.UnionWith(Array.truncate k row)

    // The first token is the prompt's pass'.
    learn (Array.append text.Prompt [| text.Tokens[0] |]) [| text.Likeliest[0] |]

    for first in 1..round .. text.Tokens.Length - 1 do
        let last = min (first + round) text.Tokens.Length - 1
        found <- found + (text.Tokens[first..last] |> Seq.filter ids.Contains |> Seq.length)
        learn text.Tokens[first..last] text.Likeliest[first..last]

    found, ids.Count

let count = given.Whole("--prompts", 0)

/// Drafts of an exit, of which each is right with probability `rate` where the right token is among the ids; at the cost of the exit's own.
let replaced (rate: float) (text: int[]) (exit: ExitLayer) : Drafter =
    Drafter.stateless "replaced" (Some exit) (fun request reading ->
        let propose made token (reading: Reading) =
            let struct (hidden, cache) = Model.forwardEarly request.Weights [| token |] reading.Cache
            let struct (draft, key) = request.Pick DraftReading.Token made hidden reading.Key
            let place = cache.Early.Length
            let struct (u, _) = Key.uniform { Key.ofSeed 5L with Counter = uint64 place }
            let right = if place < text.Length then text[place] else 0
            let isThere = request.Vocabulary |> Option.forall (DraftVocabulary.contains right)
            let token =
                if u < rate && isThere then
                    right
                else
                    (right + 1) % vocabulary
            struct ({ draft with Token = token }, { Cache = cache; Key = key })

        let last = request.Text.Span[request.Text.Length - 1]

        Speculation.untilEnough (fun _ -> false) request.IsStop propose request.Ahead last {
            reading with
                Cache = Cache.splitAt exit.Layers reading.Cache
        })

/// Decoding of some prompts, plain and with drafts from all ids and from some, interleaved.
let live (model: Checkpoint) (exits: int list) (frequent: int[]) (texts: (int[] * int[]) list) =
    let _, recommendedDraft = Checkpoint.exitAndDraft model
    let length = given.TryWhole("--draft-length", 1) |> Option.defaultValue recommendedDraft

    let rate = given.TryText "--accept-rate" |> Option.map (fun _ -> given.Real "--accept-rate")
    let plan = ContextVocabulary.around (FrequencyList.firstIds (max 16 (vocabulary / 12)) vocabulary)

    let kinds = [
        "all ids", None
        "vocabulary in context", Some plan
        "first ids, as many", Some(ContextVocabulary.ofList (FrequencyList.firstIds plan.Capacity vocabulary))
        "frequency list, as many", Some(ContextVocabulary.ofList (Array.truncate plan.Capacity frequent))
    ]

    let decode (prompt: int[]) strategy =
        let options = { GenerationOptions.greedy strategy limit with StopIds = model.StopIds }
        Generation.complete weights None options prompt |> orStop

    let strategies text exit =
        let exit = ExitLayer.TryCreate(config.Layers, exit) |> orStop

        let drafter =
            match rate with
            | Some rate -> replaced rate text exit
            | None -> Drafter.earlyExit exit

        let strategy = Strategy.Speculative(drafter, LengthPolicy.Fixed length)
        kinds |> List.map (fun (_, plan) -> { strategy with Vocabulary = plan })

    let perToken pick (made: Completion list) =
        List.sumBy pick made
        / float (made |> List.sumBy (fun each -> max 1 (each.TokenIds.Length - 1)))

    printfn ""
    printfn
        "decoding %d prompts, up to %d tokens, drafts of %d%s; medians of %d interleaved runs"
        texts.Length
        limit
        length
        (match rate with
         | Some rate -> $", right with probability {Number.show rate} where the id is there"
         | None -> "")
        (min runs 7)

    let speculative = [
        for exit in exits do
            for index in 0 .. kinds.Length - 1 do
                Some(exit, index), (fun text -> List.item index (strategies text exit))
    ]

    let all = (None, (fun _ -> Strategy.Autoregressive)) :: speculative

    // Prompt by prompt in every way, so that what else the machine does meets all of them: [way][prompt].
    let run () =
        texts
        |> List.map (fun (prompt, text) ->
            all |> List.map (fun (_, strategy) -> decode prompt (strategy text)))
        |> List.transpose

    run () |> ignore
    let made = List.init (min runs 7) (fun _ -> run ()) |> List.transpose
    let ms pick (runs: Completion list list) = runs |> List.map (perToken pick) |> median
    let decodeMs = perToken _.Timings.DecodeMs
    // Of the same run, so that a slow one is slow for both.
    let times (than: Completion list list) (runs: Completion list list) =
        List.map2 (fun than own -> decodeMs than / decodeMs own) than runs |> median
    let plain = ms _.Timings.DecodeMs made.Head
    printfn "plain decoding %.3f ms a token" plain
    printfn
        "exit                             ms/token  speed-up  with all ids  drafts kept  draft ms  head ms  policy ms"

    for (name, _), runs in List.zip all made do
        match name with
        | None -> ()
        | Some(exit, index) ->
            let first = made[List.findIndex (fun (name, _) -> name = Some(exit, 0)) all]
            let accepted = runs.Head |> List.sumBy _.Stats.NumAcceptedDraftTokens
            let drafted = runs.Head |> List.sumBy _.Stats.NumDraftTokens

            if (runs.Head |> List.map _.TokenIds) <> (made.Head.Head |> List.map _.TokenIds) then
                stop 1 $"exit {exit}, {fst kinds[index]}: the texts differ from plain decoding's"

            printfn
                "%4d  %-26s %9.3f  %7.2fx  %11.2fx  %10.1f%%  %8.3f  %7.3f  %9.4f"
                exit
                (fst kinds[index])
                (ms _.Timings.DecodeMs runs)
                (times made.Head runs)
                (times first runs)
                (100.0 * float accepted / float (max 1 drafted))
                (ms _.Timings.DraftMs runs)
                (ms _.Timings.HeadMs runs)
                (ms _.Timings.PolicyMs runs)

match model |> Option.bind _.Tokenizer with
| Some tokenizer when count > 0 ->
    let encode (text: string) = Tokenizer.encode tokenizer text

    /// Counted on other texts than those that prompts are of.
    let frequent =
        [ "tinystories-train.txt"; "war-and-peace.txt"; "wikitext2_valid.txt" ]
        |> List.map (fun name -> Path.Combine(given.Path "--data", "text", name))
        |> List.filter File.Exists
        |> List.map (fun path -> encode (File.ReadAllText(path)))
        |> FrequencyList.count

    let room = max 1 (min 512 (config.Context - limit - 1))

    let kinds =
        prompts count
        |> List.map (fun (kind, texts) -> kind, texts |> List.map (encode >> Array.truncate room >> write))

    let all = "all", kinds |> List.collect snd

    let begun = [
        for text in snd all do
            if text.Tokens.Length > 8 then
                text.Prompt, Array.append text.Prompt text.Tokens
    ]

    given.TryWholes("--exit-layers", 1, config.Layers - 1)
    |> Option.iter (fun exits -> live model.Value exits frequent begun)

    printfn ""
    printfn
        "shares of the model's own tokens that stand among the ids when they are drafted, in rounds of %d; greedy, up to %d tokens, %d prompts a kind"
        round
        limit
        count

    printfn "%-28s %s" "" (String.concat "" [ for size in sizes -> $"%8d{size}" ])

    let line kind name (texts: Written list) (each: int -> Written -> int * int) =
        let tokens = texts |> List.sumBy (fun text -> text.Tokens.Length - 1)

        let shares =
            sizes
            |> List.map (fun size ->
                let found = texts |> List.sumBy (each size >> fst)
                sprintf "%7.1f%%" (100.0 * float found / float (max 1 tokens)))

        let more = texts |> List.map (fun text -> float (snd (each sizes.Head text) - sizes.Head)) |> median

        let beside =
            if more > 0.0 then
                $" (and %.0f{more} more at the end)"
            else
                ""
        printfn "%-28s %s  %s%s" kind (String.concat "" shares) name beside

    for kind, texts in kinds @ [ all ] do
        let first size = FrequencyList.firstIds size vocabulary
        line kind "first ids" texts (fun size -> covered (first size) false 0)
        line "" "frequency list" texts (fun size -> covered (Array.truncate size frequent) false 0)
        line "" "context around first ids" texts (fun size ->
            covered (first size) true ContextVocabulary.defaultLikeliest)
        line "" "context around the list" texts (fun size ->
            covered (Array.truncate size frequent) true ContextVocabulary.defaultLikeliest)

    printfn ""
    printfn
        "around %d first ids, by how many of the likeliest join; and the ids at the end of a text, median"
        sizes.Head

    for k in [ 0; 2; 4; 8; 16; 32 ] do
        let made = snd all |> List.filter (fun text -> text.Tokens.Length > 1)
        let found = made |> List.map (covered (FrequencyList.firstIds sizes.Head vocabulary) true k)
        let tokens = made |> List.sumBy (fun text -> text.Tokens.Length - 1)
        printfn
            "%4d likeliest  %6.1f %%  %6.0f ids"
            k
            (100.0 * float (List.sumBy fst found) / float tokens)
            (found |> List.map (snd >> float) |> median)
| _ -> ()
#endif
