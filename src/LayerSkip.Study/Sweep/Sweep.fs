namespace LayerSkip

open System
open System.Threading

/// A sweep that may begin: everything is checked.
[<NoEquality; NoComparison>]
type SweepPlan = internal {
    weights: Weights
    options: SweepOptions
    config: SweepConfig
    shard: Shard
} with

    member this.Config = this.config

    /// The first line of its file.
    member this.Header: RunHeader = {
        Kind = "sweep"
        Config = SweepConfig.json this.config
        Cells = this.config.Cells
        Shard = this.shard
    }

/// Every exit layer with every draft length, plain decoding and prompt lookup, timed in turn over the same texts.
[<RequireQualifiedAccess>]
module Sweep =
    let private faults (checkpoint: Checkpoint) (options: SweepOptions) : LayerSkipError list =
        let config = checkpoint.Config
        let unique name (values: int list) =
            match values |> List.countBy id |> List.tryFind (fun (_, count) -> count > 1) with
            | Some(value, _) -> [ LayerSkipError.OutOfRange(name, $"{value} twice", "each number once") ]
            | None -> []

        [
            yield! Check.atLeast 1 "runs" options.Runs
            // One token has no time after the first.
            yield! Check.atLeast 2 "max-new-tokens" options.MaxNewTokens
            yield! unique "exit-layers" options.ExitLayers
            yield! unique "draft-lengths" options.DraftLengths

            for exit in options.ExitLayers do
                if config.Layers < 2 then
                    LayerSkipError.ExitOutsideModel(exit, config.Layers)
                else
                    yield!
                        Check.inRange
                            (0 < exit && exit < config.Layers)
                            "exit-layers"
                            (string exit)
                            $"1 to {config.Layers - 1}: the model has {config.Layers} layers"

            for length in options.DraftLengths do
                yield! Check.atLeast 1 "draft-lengths" length

            yield! options.Prompts |> Seq.collect (PromptIds.length config)
            yield! PromptIds.unknown config (Array.append (Array.concat options.Prompts) options.StopIds)
        ]

    /// What is to be computed: options with nothing left to default, found good. Errors: an exit layer that the model has not, a
    /// number given twice, a prompt that is empty, or leaves no room in the context, ids outside the vocabulary, and a model of one
    /// layer, which has no exit.
    let plan
        (checkpoint: Checkpoint)
        (options: SweepOptions)
        (shard: Shard)
        : Result<SweepPlan, LayerSkipError list> =
        let layers = checkpoint.Config.Layers
        let recommended, _ = Checkpoint.exitAndDraft checkpoint

        let options = {
            options with
                Prompts =
                    (if options.Prompts.Length = 0 then
                         SweepOptions.ownPrompts checkpoint options.Seed
                     else
                         options.Prompts)
                ExitLayers =
                    match options.ExitLayers with
                    // Where there is none, the fault names one.
                    | [] when layers < 2 -> [ 1 ]
                    | [] -> SweepOptions.exitLayers layers recommended
                    | given -> given
                DraftLengths =
                    (if options.DraftLengths.IsEmpty then
                         SweepOptions.defaultDraftLengths
                     else
                         options.DraftLengths)
        }

        Check.all (faults checkpoint options) ()
        |> Result.bind (fun () -> SweepConfig.create checkpoint options)
        |> Result.map (fun config -> {
            weights = checkpoint.Weights
            options = options
            config = config
            shard = shard
        })

    let private strategy (layers: int) (setting: SweepSetting) : Strategy =
        match setting with
        | Autoregressive -> Strategy.Autoregressive
        | PromptLookup length ->
            let drafter = Drafter.promptLookup PromptLookup.defaultNgram
            Strategy.Speculative(drafter, LengthPolicy.Fixed length)
        | SelfSpeculative(exit, length) ->
            Strategy.SelfSpeculative(ExitLayer.TryCreate(layers, exit) |> Check.getOrRaise, length)

    let private decode
        cancelled
        (plan: SweepPlan)
        (tokens: int)
        (prompt: int[])
        (setting: SweepSetting)
        : Completion =
        let options = {
            GenerationOptions.greedy (strategy plan.config.Layers setting) tokens with
                StopIds = plan.options.StopIds
        }

        Generation.completeUntil cancelled plan.weights None options prompt |> Check.getOrRaise

    let private decoded (reference: Completion) (completion: Completion) : SweepDecoding = {
        Tokens = completion.TokenIds.Length
        Timings = completion.Timings
        Metrics = SpeculationMetrics.ofCompletions [ completion ]
        SameText = completion.TokenIds = reference.TokenIds
    }

    /// A prompt in every way. The way that begins is another from cell to cell: the first after a pause may be the slower one.
    let private cell
        cancelled
        (plan: SweepPlan)
        (costs: RoundTimes option)
        (turn: int)
        (number: int)
        : SweepCell =
        let settings = Array.ofList plan.config.Settings
        let prompt = plan.options.Prompts[number % plan.config.Prompts]
        let completions = Array.zeroCreate settings.Length

        for step in 0 .. settings.Length - 1 do
            let at = (turn + step) % settings.Length
            completions[at] <- decode cancelled plan plan.config.MaxNewTokens prompt settings[at]

        {
            Prompt = number % plan.config.Prompts
            Run = number / plan.config.Prompts
            PromptTokens = prompt.Length
            Cpu = Benchmark.cpu ()
            Threads = CpuKernels.threads ()
            Decodings = completions |> Array.map (decoded completions[0])
            Costs = costs
        }

    // Tokens that each way decodes before any is timed: code is compiled, and buffers are there.
    let private warmUpTokens = 12

    let private warmUp cancelled (plan: SweepPlan) : unit =
        for setting in plan.config.Settings do
            decode cancelled plan (min warmUpTokens plan.config.MaxNewTokens) plan.options.Prompts[0] setting
            |> ignore

    /// What rounds take at the middle of a text.
    let private costs cancelled (plan: SweepPlan) : RoundTimes option =
        let config = plan.config
        let prompt = plan.options.Prompts |> Array.averageBy (fun prompt -> float prompt.Length)

        RoundTimes.measureUntil cancelled plan.weights (int prompt + config.MaxNewTokens / 2) {
            Exits = config.ExitLayers
            // At the end of a text rounds are cut short.
            Lengths = List.distinct ([ 1 .. min 8 (List.max config.DraftLengths) ] @ config.DraftLengths)
            BudgetMs = RoundTimes.budgetMs
        }

    /// Computes the shard's cells that `output` has not (all of them without one), and gives the lines of all that are done then.
    /// `progress` gets the number of cells done before and how many there are, before each. A process that is killed loses the cell
    /// under way; the same command goes on. Errors: what `RunWriter.Open` finds, a file that cannot be written on, numbers that overflow.
    /// Once `cancelled` is, it throws OperationCanceledException within a pass; the cells before stay.
    let runUntil
        (cancelled: CancellationToken)
        (progress: int -> int -> unit)
        (output: string option)
        (plan: SweepPlan)
        : Result<RunCell list, LayerSkipError list> =
        let count = (Shard.cells plan.config.Cells plan.shard).Length

        let compute (left: int list) add =
            if not left.IsEmpty then
                warmUp cancelled plan

            let costs = if left.IsEmpty then None else costs cancelled plan

            let one (index: int, number: int) =
                progress (count - left.Length + index) count
                // The process tells them once, in its first cell.
                let told = if index = 0 then costs else None
                add (number, SweepCell.write (cell cancelled plan told (number / plan.shard.Count) number))

            left |> List.indexed |> Check.each one

        Check.guard (fun () -> Run.cells output plan.Header compute)

    /// `runUntil` that nothing cancels.
    let run progress output plan : Result<RunCell list, LayerSkipError list> =
        runUntil CancellationToken.None progress output plan

    /// The cells of a run's file. Errors: a file of another kind of run, lines that no sweep wrote.
    let read
        (path: string)
        (header: RunHeader)
        (cells: RunCell list)
        : Result<SweepConfig * SweepCell list, LayerSkipError list> =
        let part (json: string) (read: JsonPart -> 'T) : Result<'T, LayerSkipError list> =
            JsonPart.guard path (fun () ->
                use document = Text.Json.JsonDocument.Parse json
                Ok(read (JsonPart document.RootElement)))

        if header.Kind <> "sweep" then
            Check.bad path $"is of a run of kind \"{header.Kind}\", and not a sweep"
        else
            part header.Config SweepConfig.read
            |> Result.bind (fun config ->
                cells
                |> List.map (fun cell -> part cell.Json (SweepCell.read config))
                |> Check.list
                |> Result.map (fun cells -> config, cells))
