// What a grammar costs and what it leaves of speculation: the time to compile a JSON schema, the time of a mask and of the step
// after it, for a grammar's first text and later ones, and their share of decoding; acceptance with the schema and without.
//
//     dotnet fsi scripts/grammar.fsx
//     dotnet fsi scripts/grammar.fsx --model FILE --schema FILE --prompt TEXT --max-new-tokens 120 --threads 1
//
// With --tokenizer no model is read: masks alone, over its vocabulary (tokenizer.json), along texts of random tokens that the grammar allows.
//
//     dotnet fsi scripts/grammar.fsx --tokenizer tokenizer.json --schema FILE --runs 5
#load "options.fsx"

open Options

let given =
    Given [
        "--model DIR", "models/stories-10m"
        "--schema FILE", "one of a person"
        "--prompt TEXT", "Here is a JSON description of Anna, a baker from Paris: "
        "--max-new-tokens N", "120"
        "--runs N", "5"
        "--tokenizer FILE", "none: the model's"
        "--threads N", "one for each core"
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
given.TryWhole("--threads", 1) |> Option.iter CpuKernels.setThreads

let person =
    """{"type":"object","properties":{"name":{"type":"string","maxLength":20},"age":{"type":"integer","minimum":0,"maximum":120},
"city":{"type":"string","maxLength":20},"mail":{"type":"string","format":"email"},"born":{"type":"string","format":"date"},
"kind":{"enum":["friend","colleague","stranger"]},
"hobbies":{"type":"array","items":{"type":"string","maxLength":15},"minItems":2,"maxItems":6}},
"required":["name","age","city","mail","born","kind","hobbies"]}"""

let schema =
    match given.TryText "--schema" with
    | Some file -> File.ReadAllText file
    | None -> person

let timed (work: unit -> 'T) =
    let start = Stopwatch.GetTimestamp()
    let result = work ()
    result, Stopwatch.GetElapsedTime(start).TotalMicroseconds

let median (values: float list) = (List.sort values)[values.Length / 2]

/// Masks along texts of random tokens: of those that are allowed one, but where the text may end its end, so that texts are short.
let masksOf (file: string) : unit =
    let runs = given.Whole("--runs", 1)
    let tokenizer = Tokenizer.ofJson file |> orStop
    let stop = Tokenizer.eos tokenizer |> Option.defaultValue 0
    let bytes, trie = timed (fun () -> TokenBytes.ofTokenizer tokenizer)
    let count = Tokenizer.vocabularySize tokenizer
    printfn "%d tokens; the vocabulary's trie, once a model: %.0f ms" count (trie / 1000.0)
    let mask = Array.zeroCreate<uint64>((count + 63) / 64)

    let write (random: Random) (start: GrammarState) =
        let times = ResizeArray<float>()
        let mutable state = start

        while not (state.IsComplete || times.Count = 200) do
            times.Add(snd (timed (fun () -> state.Allows(mask.AsSpan()))))

            let allowed = [|
                for id in 0 .. count - 1 do
                    if id <> stop && (mask[id >>> 6] >>> (id &&& 63)) &&& 1UL = 1UL then
                        id
            |]

            let next = allowed[random.Next allowed.Length]
            let after, step = timed (fun () -> state.Advance next)
            times[times.Count - 1] <- times[times.Count - 1] + step
            state <- after

        List.ofSeq times

    let tell (name: string) (times: float list) =
        printfn
            "%-12s %5d masks with their steps: mean %7.1f us, median %5.1f, 99 of 100 under %7.1f, worst %7.0f"
            name
            times.Length
            (List.average times)
            (median times)
            (List.sort times |> List.item (times.Length * 99 / 100))
            (List.max times)

    for run in 0..runs do
        let grammar, compiling = timed (fun () -> JsonSchemaGrammar.compile schema |> orStop)
        let start, beginning = timed (fun () -> Grammar.start grammar bytes [| stop |] |> orStop)
        printfn
            "%s: compiling %.1f ms, beginning %.1f ms"
            (if run = 0 then "cold" else "warm")
            (compiling / 1000.0)
            (beginning / 1000.0)
        tell "first text" (write (Random run) start)
        tell "later texts" (List.concat [ for text in 1..10 -> write (Random(100 * run + text)) start ])

given.TryText "--tokenizer"
|> Option.iter (fun file ->
    masksOf file
    exit 0)

let model = Checkpoint.load (given.Path "--model") None Device.Cpu |> orStop
let limit, runs = given.Whole("--max-new-tokens", 1), given.Whole("--runs", 1)
let tokenizer = Checkpoint.tokenizer model |> orStop
let prompt = Tokenizer.encode tokenizer (given.Text "--prompt")

/// A constraint that keeps the time [us] of each mask, and of each step.
let rec watched
    (masks: ResizeArray<float>)
    (steps: ResizeArray<float>)
    (rule: TokenConstraint)
    : TokenConstraint = {
    new TokenConstraint with
        member _.Allows mask =
            let start = Stopwatch.GetTimestamp()
            rule.Allows mask
            masks.Add(Stopwatch.GetElapsedTime(start).TotalMicroseconds)

        member _.Advance id =
            let next, time = timed (fun () -> rule.Advance id)
            steps.Add time
            watched masks steps next
}

printfn
    $"{model.Path}, {Weights.description model.Weights}, {CpuKernels.threads ()} threads, {Tokenizer.vocabularySize tokenizer} tokens"

let _, trie = timed (fun () -> TokenBytes.ofTokenizer tokenizer)
printfn "the vocabulary's trie, once a model: %.0f ms" (trie / 1000.0)

let compile () = JsonSchemaGrammar.compile schema |> orStop
let compiled = [ for _ in 0..runs -> snd (timed compile) ]
printfn
    "compiling the schema: %.2f ms at first, then %.2f"
    (compiled[0] / 1000.0)
    (median compiled.Tail / 1000.0)

let decode strategy rule =
    let options = {
        GenerationOptions.greedy strategy limit with
            StopIds = if Option.isSome rule then model.StopIds else [||]
            Rules.Constraint = rule
    }

    Generation.complete model.Weights (Some tokenizer) options prompt |> orStop

let told name (masks: ResizeArray<float>) (steps: ResizeArray<float>) (made: Completion) =
    let sum = Seq.sum masks + Seq.sum steps

    printfn
        "%-12s %3d masks: mean %6.1f us, median %5.1f, worst %7.0f; steps: mean %5.2f us; together %.2f %% of %.0f ms of decoding"
        name
        masks.Count
        (Seq.average masks)
        (median (List.ofSeq masks))
        (Seq.max masks)
        (Seq.average steps)
        (100.0 * sum / 1000.0 / made.Timings.DecodeMs)
        made.Timings.DecodeMs

let measured name rule =
    let masks, steps = ResizeArray<float>(), ResizeArray<float>()
    let made = decode Strategy.Autoregressive (Some(watched masks steps rule))
    told name masks steps made
    made

let constraintOf grammar = GrammarConstraint.create grammar model.StopIds model |> orStop

// A process compiles its code while it writes its first text: that is no grammar's cost.
measured "cold" (constraintOf (compile ())) |> ignore

for _ in 1..runs do
    let rule = constraintOf (compile ())
    measured "first text" rule |> ignore
    measured "second" rule |> ignore

let rule = constraintOf (compile ())
let text = (decode Strategy.Autoregressive (Some rule)).Text.Value
printfn $"{text}"

let strategies = [
    Strategy.Autoregressive
    if Drafting.isMeant model DraftingOptions.none then
        Drafting.create Sampling.Greedy model DraftingOptions.none |> orStop
    let exit, draft = Checkpoint.exitAndDraft model
    Strategy.SelfSpeculative(ExitLayer.TryCreate(model.Config.Layers, exit) |> orStop, draft)
    Drafting.create Sampling.Greedy model { DraftingOptions.none with Drafter = Some DrafterKind.Lookup }
    |> orStop
]

for strategy in strategies do
    for name, rule in [ "free", None; "schema", Some rule ] do
        let made = [ for _ in 1..runs -> decode strategy rule ]
        let stats = made.Head.Stats

        if rule.IsSome && made.Head.Text <> Some text then
            stop 1 $"{strategy.Name} wrote another text: {made.Head.Text}"

        printfn
            "%-22s %-7s %7.1f tokens a second (the median of %d), accepted %d of %d drafts, %.2f tokens a round"
            strategy.Name
            name
            (median [ for completion in made -> completion.TokensPerSecond ])
            runs
            stats.NumAcceptedDraftTokens
            stats.NumDraftTokens
            stats.MeanAcceptanceLength
#endif
