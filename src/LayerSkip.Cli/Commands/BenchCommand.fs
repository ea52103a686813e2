namespace LayerSkip.Cli

open System
open System.Diagnostics
open LayerSkip

/// `layerskip bench`: measures passes and decoding of a model, or of random weights of a shape; the measuring is `Benchmark`'s, the
/// telling `BenchOutput`'s.
[<RequireQualifiedAccess>]
module internal BenchCommand =
    /// What the command line gives.
    type private Given = {
        Runs: int
        Drafting: DraftingOptions
        AdapterFile: string option
        PastTexts: string list
        MaxNewTokens: int
        Shape: string option
        AcceptRate: string option
        IdentityAfter: int option
        Requests: bool
        Output: string option
        Html: string option
    }

    /// The options with one more; each is given once, or Argu refuses it.
    let private add (given: Given) (argument: BenchArgument) : Given =
        match argument with
        | BenchArgument.Runs count -> { given with Runs = count }
        | BenchArgument.ExitLayer exit -> { given with Drafting.ExitLayer = Some exit }
        | BenchArgument.DraftLength length -> { given with Drafting.DraftLength = Some length }
        | BenchArgument.Drafter drafter -> { given with Drafting.Drafter = Some drafter }
        | BenchArgument.Policy policy -> { given with Drafting.Policy = Some policy }
        | BenchArgument.StopRule rule -> { given with Drafting.StopRule = Some(DraftingArguments.rule rule) }
        | BenchArgument.DraftVocabulary ids -> { given with Drafting.DraftVocabulary = Some ids }
        | BenchArgument.LayersKept layers -> { given with Drafting.LayersKept = Some layers }
        | BenchArgument.AdapterFile file -> { given with AdapterFile = Some file }
        | BenchArgument.PastTexts path -> { given with PastTexts = given.PastTexts @ [ path ] }
        | BenchArgument.MaxNewTokens count -> { given with MaxNewTokens = count }
        | BenchArgument.Shape shape -> { given with Shape = Some shape }
        | BenchArgument.AcceptRate rate -> { given with AcceptRate = Some rate }
        | BenchArgument.IdentityAfter layer -> { given with IdentityAfter = Some layer }
        | BenchArgument.Requests -> { given with Requests = true }
        | BenchArgument.Output file -> { given with Output = Some file }
        | BenchArgument.Html file -> { given with Html = Some file }

    /// What a command line without options gives: the library's numbers, and the model's exit and length.
    let private none: Given = {
        Runs = Benchmark.defaultRuns
        Drafting = DraftingOptions.none
        AdapterFile = None
        PastTexts = []
        MaxNewTokens = Benchmark.defaultNewTokens
        Shape = None
        AcceptRate = None
        IdentityAfter = None
        Requests = false
        Output = None
        Html = None
    }

    /// The shape's random weights; like a file's, on a device that is there.
    let private ofShape (common: Common) (text: string) : Checkpoint =
        let config = Shapes.parse None text
        Backend.tryDevice common.Device |> Check.getOrRaise |> ignore
        let dtype = common.Dtype |> Option.defaultValue Dtype.BF16

        Checkpoint.ofWeights text (Weights.random common.Seed 0.5 dtype common.Device config) None
        |> Checkpoint.withKv common.Kv
        |> Check.getOrRaise
        |> Checkpoint.withPrefill common.Prefill

    /// An option of the table's alone.
    let private notOfRequests (argument: BenchArgument) =
        match argument with
        | BenchArgument.Runs _ -> Some "runs"
        | BenchArgument.MaxNewTokens _ -> Some "max-new-tokens"
        | BenchArgument.AcceptRate _ -> Some "accept-rate"
        | BenchArgument.Output _ -> Some "output"
        | BenchArgument.Html _ -> Some "html"
        | BenchArgument.ExitLayer _
        | BenchArgument.DraftLength _
        | BenchArgument.Drafter _
        | BenchArgument.Policy _
        | BenchArgument.StopRule _
        | BenchArgument.DraftVocabulary _
        | BenchArgument.LayersKept _
        | BenchArgument.AdapterFile _
        | BenchArgument.PastTexts _
        | BenchArgument.Shape _
        | BenchArgument.IdentityAfter _
        | BenchArgument.Requests -> None

    /// Of a model with a small context, the beginning of it.
    let private prompt (checkpoint: Checkpoint) =
        let config = checkpoint.Config

        match checkpoint.Tokenizer with
        | Some tokenizer ->
            Tokenizer.encode tokenizer "Once upon a time"
            |> Array.truncate (max 1 (config.Context / 2))
        | None -> [| defaultArg config.Bos 1 % config.Vocabulary |]

    /// Measures and tells; failed where a run's two texts differ.
    let private measure
        terminal
        (common: Common)
        (output: OutputFile)
        (page: OutputFile)
        (checkpoint: Checkpoint)
        (plan: DraftingPlan)
        (options: BenchmarkOptions)
        : int =
        Terminal.remark terminal $"{Inputs.machine checkpoint}, {options.Runs} interleaved runs"
        let report = Benchmark.run checkpoint.Weights options
        output.Tell(
            terminal,
            (if common.Json then BenchOutput.json else BenchOutput.table) checkpoint plan options report
        )

        page.Make(fun () ->
            let name = Fingerprint.name checkpoint.Path
            let model = $"{name}, {Inputs.machine checkpoint}"

            TimePlots.ofBenchmark model (BenchOutput.drafting plan report) report
            |> Plots.html $"Benchmark of {name}")

        if report.SameText then
            ExitCode.done'
        else
            Terminal.fault
                terminal
                "a run's two texts differ, which must not happen; please report it with `layerskip certify`"

            ExitCode.failed

    /// Runs the command; its exit code: failed where a run's two texts differ.
    let run (terminal: Terminal) (common: Common) (arguments: BenchArgument list) : int =
        let given = List.fold add none arguments
        Drafters.checkFile given.AdapterFile given.Drafting
        Drafters.checkPast given.PastTexts

        if given.Requests then
            arguments
            |> List.tryPick notOfRequests
            |> Option.iter (fun option ->
                Inputs.usage $"--requests answers what standard input asks for: --{option} has no part in it")

        let acceptRate =
            given.AcceptRate |> Option.map (fun text -> text, Inputs.real "accept-rate" "0 to 1" text)

        Inputs.refuse [
            yield! Inputs.atLeastOne "runs" given.Runs
            // One token has no time after the first.
            if given.MaxNewTokens < 2 then
                LayerSkipError.OutOfRange("max-new-tokens", string given.MaxNewTokens, "2 or more")
            for length in Option.toList given.Drafting.DraftLength do
                yield! Inputs.atLeastOne "draft-length" length
            match acceptRate with
            | Some(text, rate) when rate < 0.0 || rate > 1.0 ->
                LayerSkipError.OutOfRange("accept-rate", text, "0 to 1")
            | _ -> ()
        ]

        let reads = Inputs.modelPlace common @ List.filter IO.File.Exists given.PastTexts
        use output = OutputFile.Open(given.Output, reads)
        use page = OutputFile.OpenPage(given.Html, given.Output, reads)

        // What a process without a model has, libtorch included.
        Backend.ensure ()
        let empty, started = Environment.WorkingSet, Stopwatch.GetTimestamp()

        let loaded =
            match given.Shape with
            | Some text -> ofShape common text
            | None -> Inputs.load terminal common

        let checkpoint = Drafters.withFile given.AdapterFile loaded
        Drafters.remarks terminal given.Drafting checkpoint
        let loadMs = Stopwatch.GetElapsedTime(started).TotalMilliseconds
        let layers = checkpoint.Config.Layers
        Inputs.needEarlierExit "bench" checkpoint
        let past = Drafters.past terminal given.PastTexts checkpoint
        let drafting = { given.Drafting with Past = past }
        let plan = Drafting.decide Sampling.Greedy checkpoint drafting |> Check.getOrRaise
        Drafters.costsRemarks terminal (Some plan)

        if acceptRate.IsSome && (BenchOutput.fixedNumbers plan).IsNone then
            Inputs.usage
                "--accept-rate replaces the drafts of one exit: give it with --policy static and --drafter exit, or leave it out"

        match given.IdentityAfter with
        | Some layer when layer < 1 || layer >= layers ->
            Inputs.stop (
                LayerSkipError.OutOfRange("identity-after", string layer, LayerSkipError.oneTo (layers - 1))
            )
        | _ -> ()

        let weights =
            match given.IdentityAfter with
            | Some layer -> Benchmark.identityAfter layer checkpoint.Weights
            | None -> checkpoint.Weights

        use _weights = weights
        let checkpoint = { checkpoint with Weights = weights }
        let strategy = Drafting.strategy checkpoint plan

        let prompt, context = prompt checkpoint, checkpoint.Config.Context
        let room = context - prompt.Length

        if room < 2 then
            let allowed =
                $"{prompt.Length + 2} or more: a prompt, and two new tokens with a time between them"
            Inputs.stop (LayerSkipError.OutOfRange("the model's context", string context, allowed))

        let options: BenchmarkOptions = {
            Prompt = prompt
            Runs = given.Runs
            Strategy = strategy
            MaxNewTokens = min given.MaxNewTokens room
            AcceptRate = acceptRate |> Option.map snd
            Seed = common.Seed
        }

        if given.Requests then
            Terminal.result terminal (BenchRequests.ready loadMs empty checkpoint.Weights)
            BenchRequests.run terminal Console.In checkpoint.Weights options
            ExitCode.done'
        else
            measure terminal common output page checkpoint plan options
