// What a grammar costs and what it leaves of speculation: the time to compile a JSON schema, the time of a mask and of the step
// after it, for a grammar's first text and later ones, and their share of decoding; acceptance with the schema and without.
//
//     dotnet fsi scripts/grammar.fsx
//     dotnet fsi scripts/grammar.fsx --model FILE --schema FILE --prompt TEXT --max-new-tokens 120 --threads 1
#load "options.fsx"

open Options

let given =
    Given [
        "--model DIR", "models/stories-10m"
        "--schema FILE", "one of a person"
        "--prompt TEXT", "Here is a JSON description of Anna, a baker from Paris: "
        "--max-new-tokens N", "120"
        "--runs N", "5"
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

let model = Checkpoint.load (given.Path "--model") None Device.Cpu |> orStop
let limit, runs = given.Whole("--max-new-tokens", 1), given.Whole("--runs", 1)
let tokenizer = Checkpoint.tokenizer model |> orStop
let prompt = Tokenizer.encode tokenizer (given.Text "--prompt")

let timed (work: unit -> 'T) =
    let start = Stopwatch.GetTimestamp()
    let result = work ()
    result, Stopwatch.GetElapsedTime(start).TotalMicroseconds

let median (values: float list) = (List.sort values)[values.Length / 2]

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
