namespace LayerSkip

open System.Diagnostics
open LayerSkip.Kernels

/// Times of passes and of decoding, from interleaved runs.
[<RequireQualifiedAccess>]
module Benchmark =
    /// Timed runs of each strategy.
    let defaultRuns = 5

    /// New tokens of a run.
    let defaultNewTokens = 64

    /// The processor's name, as Linux has it; elsewhere its architecture.
    let cpu () : string = Processor.name ()

    let private zeroed (weight: Weight) : Weight =
        let zero (rows: WeightRows) =
            match rows with
            | WeightRows.Dense tensor -> WeightRows.Dense(tensor.zero_ ())
            | WeightRows.Blocks blocks ->
                let memory = MappedFile.Zeros blocks.Memory.Length
                (blocks.Owner :> System.IDisposable).Dispose()

                WeightRows.Blocks {
                    blocks with
                        Memory = { blocks.Memory with Address = memory.Address }
                        Owner = memory
                }

        { Rows = List.map zero weight.Rows }

    /// The same model, in its memory: the attention and MLP of every layer after `exit` add nothing, so that every exit from there on
    /// agrees with the last layer, at the same cost. The weights given are of no more use.
    let identityAfter (exit: int) (weights: Weights) : Weights =
        use _noGrad = Scope.noGrad ()

        let silent index (layer: LayerWeights) =
            if index < exit then
                layer
            else
                {
                    layer with
                        Output = zeroed layer.Output
                        Down = zeroed layer.Down
                        OutputBias = Option.map zeroed layer.OutputBias
                        DownBias = Option.map zeroed layer.DownBias
                }

        Weights.withLayers (Array.mapi silent weights.Layers) weights

    /// One decoding: the completion, and the milliseconds between events that brought tokens.
    let private decode (weights: Weights) (options: BenchmarkOptions) strategy =
        let gaps = ResizeArray<float>()
        let mutable last = 0L
        // Tokens of one round come at once: only the wait for the first of them is one.
        let mutable waited = false
        let mutable result = None

        let greedy = GenerationOptions.greedy strategy options.MaxNewTokens

        for event in Generation.run weights None greedy options.Prompt |> Check.getOrRaise do
            match event with
            | GenerationEvent.Token token ->
                let now = Stopwatch.GetTimestamp()

                if waited then
                    gaps.Add(Stopwatch.GetElapsedTime(last, now).TotalMilliseconds)

                last <- now
                waited <- token.Origin = Origin.Prefill || token.Origin = Origin.Plain
            | GenerationEvent.Prompt _ -> ()
            | GenerationEvent.Round _ -> waited <- true
            | GenerationEvent.End(_, completion) -> result <- Some completion

        result.Value, gaps.ToArray()

    /// An exit whose drafts are replaced by right ones with probability `rate`, independently by place.
    let private replaced (vocabulary: int) (seed: int64) (rate: float) (text: int[]) : ExitLayer -> Drafter =
        Drafter.alteredExit (fun place _ ->
            let struct (u, _) = Key.uniform { Key.ofSeed seed with Counter = uint64 place }
            let right = if place < text.Length then text[place] else 0
            if u < rate then right else (right + 1) % vocabulary)

    let private times (runs: (Completion * float[]) list) : DecodingTimes =
        let spread pick = runs |> List.map pick |> Spread.ofSamples
        let perToken (ms: Timings -> float) (completion: Completion, _) =
            ms completion.Timings / float (max 1 (completion.TokenIds.Length - 1))

        let median ms = (spread (perToken ms)).Median

        {
            MsPerToken = spread (perToken _.DecodeMs)
            TtftMs = spread (fun (completion, _) -> completion.Timings.TtftMs)
            LatencyMs = runs |> List.map snd |> Seq.concat |> Spread.ofSamples
            DraftMs = median _.DraftMs
            VerifyMs = median _.VerifyMs
            HeadMs = median _.HeadMs
            OverheadMs = median _.OverheadMs
            PolicyMs = median _.PolicyMs
            Acceptance = runs |> List.averageBy (fun (completion, _) -> completion.Stats.DraftAcceptanceRate)
        }

    /// One decoding, with no run to warm up: its times are their own medians.
    let internal decodeOnce
        (weights: Weights)
        (options: BenchmarkOptions)
        (strategy: Strategy)
        : DecodingTimes =
        times [ decode weights options strategy ]

    /// The bytes of weights that decoding reads for a token.
    let internal bytesRead (weights: Weights) : int64 =
        // A tied embedding is read as the head; one of its own is only looked up.
        let lookedUp = Weight.bytes weights.Embedding
        Weights.bytes weights - (if weights.Config.TiedHead then 0L else lookedUp)

    let private middle (options: BenchmarkOptions) = options.Prompt.Length + options.MaxNewTokens / 2

    /// The cost of the rounds' passes (spec: tokens of a round over d drafts and one verification), a token.
    let private predicted (weights: Weights) (options: BenchmarkOptions) (completions: Completion list) =
        let rounds = completions |> Seq.collect _.Stats.Rounds |> Seq.map fst |> Seq.countBy id |> List.ofSeq
        let tokens = completions |> List.sumBy (fun completion -> completion.TokenIds.Length - 1)
        let drafted = List.map fst rounds

        let sources = completions |> Seq.collect _.Stats.Sources |> SourceStats.merge
        let isExits = sources |> Array.forall (fun source -> source.Source = "exit")

        let cost =
            match options.Strategy.Exit, options.Strategy.DraftLength with
            | Some exit, Some _ when isExits ->
                // Where the middle of the text leaves no room for the longest round, as early as that needs.
                let length = min (middle options) (weights.Config.Context - (List.max drafted + 1))
                let draft, verify = PassTimes.ofRounds weights exit length (max 9 (3 * options.Runs)) drafted

                rounds
                |> List.sumBy (fun (drafted, count) ->
                    float count * (float drafted * draft + verify[drafted]))
            | _ ->
                let costs = PassProfile.measureWithin options.Strategy.Vocabulary weights
                let lookups = [ DraftSource.Lookup; DraftSource.Past ] |> List.map DraftSource.name

                let drafts =
                    sources
                    |> Array.filter (fun source -> not (lookups |> List.contains source.Source))
                    |> Array.sumBy (fun source ->
                        // Costs are a line over exits: the mean has the mean cost.
                        float source.DraftTokens
                        * (costs.DraftBase + costs.DraftLayer * defaultArg source.MeanExitLayer 0.0))

                drafts
                + (rounds
                   |> List.sumBy (fun (drafted, count) -> float count * PassCosts.pass costs (drafted + 1)))

        cost / float (max 1 tokens)

    /// Measures; the model should be otherwise idle, and the machine too.
    let run (weights: Weights) (options: BenchmarkOptions) : BenchmarkReport =
        let plain () = decode weights options Strategy.Autoregressive
        let reference, _ = plain ()
        let text = Array.append options.Prompt reference.TokenIds

        let fast number =
            let strategy =
                match options.AcceptRate, options.Strategy.Exit with
                | Some rate, Some exit ->
                    let drafter =
                        replaced weights.Config.Vocabulary (options.Seed + int64 number) rate text exit
                    { options.Strategy with Drafter = Some drafter }
                | _ -> options.Strategy

            decode weights options strategy

        fast 0 |> ignore
        let runs = List.init options.Runs (fun number -> plain (), fast (number + 1))
        let slow, quick = List.map fst runs, List.map snd runs
        let own = times slow
        let middle = middle options
        let room = weights.Config.Context - middle
        let rows = [ 1; 2; 5; 8 ] |> List.filter (fun rows -> rows <= room)
        let prefillTokens, prefillMs = PassTimes.prefill weights

        {
            Cpu = cpu ()
            Threads = CpuKernels.threads ()
            ReadBandwidth = Bandwidth.Read()
            PassMs = PassTimes.ofRows weights middle (max 15 (3 * options.Runs)) rows
            PrefillTokens = prefillTokens
            PrefillMs = prefillMs
            Autoregressive = own
            AutoregressiveRate = float (bytesRead weights) / own.MsPerToken.Median / 1e6
            SelfSpeculative = times quick
            PredictedMsPerToken = predicted weights options (List.map fst quick)
            SameText = runs |> List.forall (fun ((a, _), (b, _)) -> a.TokenIds = b.TokenIds)
            Decoded = runs |> List.map (fun ((plain, _), (fast, _)) -> plain, fast)
        }
