// The main job: decode a prompt with every layer, then with the first layers (or the text) drafting and every layer verifying,
// and show that both write the same text, and what it costs.
//
//     dotnet fsi scripts/speculate.fsx
//     dotnet fsi scripts/speculate.fsx --model DIR --prompt TEXT --exit-layer E --draft-length D --max-new-tokens N
//     dotnet fsi scripts/speculate.fsx --policy static --drafter lookup
//     dotnet fsi scripts/speculate.fsx --layers-kept 1-4,9,24 --stop-rule adaedl
#load "options.fsx"

open Options

let given =
    Given [
        "--model DIR", "models/stories-10m"
        "--prompt TEXT", "Once upon a time, there was a boy named Tim."
        "--prompt-ids 1,2,3", "those of the prompt"
        "--exit-layer E", "the model's own"
        "--draft-length D", "the model's own"
        "--policy static|auto|del", "auto; static with --exit-layer or --draft-length"
        "--drafter exit|lookup|cascade|layers|adapter", "exit; cascade with policy auto"
        "--stop-rule RULE", "never, or confidence:T, draft-verify, adaedl, del, marginal"
        "--draft-vocabulary all|auto|N|FILE", "all"
        "--layers-kept 1-10,15,30", "the model's own, with --drafter layers"
        "--adapter-file FILE|DIR", "the model's own, with --drafter adapter"
        "--past-texts FILE|DIR", "none; where lookup also looks"
        "--max-new-tokens N", "128"
        "--compute auto|float", "auto"
        "--kv f32|f16|q8", "f32"
        "--prefill auto|exact", "auto"
        "--runs N", "15"
    ]

#if !READY
#load "build.fsx"
exit (Build.runReady (__SOURCE_DIRECTORY__ + "/" + __SOURCE_FILE__) fsi.CommandLineArgs[1..])
#else

open System
open System.IO
open LayerSkip

/// What is out of range is the library's to say.
let any = Int32.MinValue

Backend.load () |> orStop |> ignore

/// The value of a name among those of a kind.
let oneOf (option: string) (name: 'T -> string) (all: 'T list) (given: string) : 'T =
    match all |> List.tryFind (fun value -> name value = given) with
    | Some value -> value
    | None ->
        let names = List.map name all
        let first = names |> List.take (names.Length - 1) |> String.concat ", "
        stop 2 $"{option} is {given}, it must be {first} or {List.last names}"

let compute = given.Text "--compute" |> oneOf "--compute" Compute.name Compute.all
let kv = given.TryText "--kv" |> Option.map (oneOf "--kv" KvFormat.name KvFormat.all)
let prefill = given.Text "--prefill" |> oneOf "--prefill" Prefill.name Prefill.all

let model =
    Checkpoint.load (given.Path "--model") None Device.Cpu
    |> Result.map (Checkpoint.withCompute compute)
    |> Result.bind (Checkpoint.withKv kv)
    |> Result.map (Checkpoint.withPrefill prefill)
    |> Result.map (fun model ->
        given.TryText "--adapter-file"
        |> Option.fold (fun model file -> Adapters.withFile file model) model)
    |> orStop

let drafting = {
    DraftingOptions.none with
        Policy =
            given.TryText "--policy"
            |> Option.map (oneOf "--policy" DraftPolicyKind.name DraftPolicyKind.all)
        Drafter =
            given.TryText "--drafter"
            |> Option.map (oneOf "--drafter" DrafterKind.name DrafterKind.all)
        StopRule = given.TryText "--stop-rule" |> Option.map (StopRule.tryParse >> orStop)
        DraftVocabulary = given.TryText "--draft-vocabulary"
        LayersKept = given.TryText "--layers-kept"
        Past =
            given.TryText "--past-texts"
            |> Option.map (fun path ->
                let past, remarks = PastTextFiles.load PastTexts.DefaultLimit model [ path ] |> orStop
                remarks |> List.iter (eprintfn "%s")
                past)
        ExitLayer = given.TryWhole("--exit-layer", any)
        DraftLength = given.TryWhole("--draft-length", any)
}

if given.TryText("--adapter-file").IsSome && drafting.Drafter <> Some DrafterKind.Adapter then
    stop 2 "--adapter-file goes with --drafter adapter"

let limit = given.Whole("--max-new-tokens", any)
let runs = given.Whole("--runs", 1)

let prompt =
    match given.TryText "--prompt-ids", given.TryText "--prompt", model.Tokenizer with
    | Some _, Some _, _ -> stop 2 "give --prompt or --prompt-ids, not both"
    | Some ids, None, _ ->
        ids.Split(',', StringSplitOptions.TrimEntries ||| StringSplitOptions.RemoveEmptyEntries)
        |> Array.map (fun id ->
            match Number.tryWhole id with
            | Some value -> value
            | None -> stop 2 $"--prompt-ids is {ids}, it must be whole numbers with commas between")
    | None, Some text, Some tokenizer -> Tokenizer.encode tokenizer text
    | None, Some _, None ->
        let why = Checkpoint.tokenizer model |> Check.faults |> LayerSkipError.summary
        stop 2 $"{why}, or give --prompt-ids 1,2,3"
    | None, None, Some tokenizer -> Tokenizer.encode tokenizer (given.Text "--prompt")
    | None, None, None -> [| 1 |]

let decode strategy : Completion =
    let options = { GenerationOptions.greedy strategy limit with StopIds = model.StopIds }

    Generation.complete model.Weights model.Tokenizer options prompt |> orStop

let plan = Drafting.decide Sampling.Greedy model drafting |> orStop
let speculative = Drafting.strategy model plan

// The first pair warms up and shows the texts; the timed pairs alternate, so that noise meets both.
let plain, fast = decode Strategy.Autoregressive, decode speculative

if plain.TokenIds <> fast.TokenIds then
    let at = Seq.zip plain.TokenIds fast.TokenIds |> Seq.takeWhile (fun (a, b) -> a = b) |> Seq.length
    stop
        1
        $"the texts differ from new token {at + 1} on: this must not happen; please report it with `layerskip certify`"

let text (ids: int[]) =
    match model.Tokenizer with
    | Some tokenizer -> Tokenizer.decode false tokenizer ids
    | None -> ids |> Array.map string |> String.concat " "

printfn "%s" (text (Array.append prompt plain.TokenIds))
printfn ""

let median (values: float[]) = (Array.sort values)[values.Length / 2]

let timed = Array.init runs (fun _ -> decode Strategy.Autoregressive, decode speculative)
let rate pick = timed |> Array.map (fun pair -> (pick pair: Completion).TokensPerSecond) |> median
let slow, quick = rate fst, rate snd
// What is chosen depends on time: of the last timed run.
let last = snd (Array.last timed)
let stats = last.Stats

printfn "texts              equal, %d new tokens (%A)" plain.TokenIds.Length plain.Finish

match plan with
| {
      Policy = DraftPolicyKind.Static
      Drafter = DrafterKind.Exit
      Exit = Some exit
      Length = Some length
  } ->
    printfn
        "draft              layers 1..%d of %d write up to %d tokens a round"
        exit.Layers
        model.Config.Layers
        length
| _ ->
    let layers =
        match plan.Exit with
        | Some exit -> $", layers 1..{exit.Layers} of {model.Config.Layers} at first"
        | None -> ""

    printfn
        "draft              policy %s, drafter %s%s; %.1f tokens a round"
        (DraftPolicyKind.name plan.Policy)
        (DrafterKind.name plan.Drafter)
        (if plan.Policy = DraftPolicyKind.Auto then layers else "")
        (float stats.NumDraftTokens / float (max 1 stats.Rounds.Length))

printfn
    "accepted           %d of %d drafted tokens (%.1f %%) in %d rounds"
    stats.NumAcceptedDraftTokens
    stats.NumDraftTokens
    (100.0 * stats.DraftAcceptanceRate)
    stats.Rounds.Length

if plan.StopRule <> StopRuleKind.Never then
    printfn "stop rule          %s" (StopRule.spell plan.StopRule)

if plan.Policy <> DraftPolicyKind.Static || plan.Drafter <> DrafterKind.Exit then
    for source in stats.Sources do
        let exit = source.MeanExitLayer |> Option.map (fun mean -> $" {mean:F1}") |> Option.defaultValue ""

        printfn
            "                   %s%s: %d of %d"
            source.Source
            exit
            source.AcceptedDraftTokens
            source.DraftTokens

    printfn "policy             %.1f %% of the time" (100.0 * last.Timings.PolicyShare)

printfn "autoregressive     %.1f tokens/s" slow
printfn "self-speculative   %.1f tokens/s" quick
printfn
    "ratio              %s"
    ((quick / slow).ToString("0.00", Globalization.CultureInfo.InvariantCulture) + "x")
#endif
