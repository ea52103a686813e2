namespace LayerSkip

open System

/// What one way of decoding came to.
type SweepRow = {
    Setting: SweepSetting
    /// The median over the texts.
    MsPerToken: Interval
    /// The mean of the texts' rates.
    TokensPerSecond: Interval
    /// The median.
    TtftMs: float
    Phases: Phases
    /// Of all texts and runs.
    Metrics: SpeculationMetrics
    /// Tokens over the layers that a row passes for them; plain decoding has 1 / L.
    TokensPerLayer: float
    /// Over plain decoding of the same texts.
    SpeedUp: SpeedUp
    /// What the cost model says of the rounds that there were, by the times of rounds alone: the sum of their costs over the tokens;
    /// NaN where it knows no costs, as of prompt lookup.
    PredictedMsPerToken: float
    /// The same over what it says of plain decoding.
    PredictedSpeedUp: float
    /// The share of drafts that must be right for the exit to be worth it at some draft length: (E + h) / (L + h), with h the head's
    /// cost in layers, measured: what a draft takes over what a token of plain decoding takes. NaN where no layers draft.
    BreakEven: float
    /// Texts that were not plain decoding's. None may be.
    DifferentTexts: int
}

/// What a sweep came to.
type SweepReport = {
    Config: SweepConfig
    /// In the order of the configuration's settings.
    Rows: SweepRow list
    /// The row of the largest speed-up by mean times, if any of them drafts and is faster than plain decoding.
    Best: SweepRow option
    /// Cells that the report is over, of those of the whole run.
    Cells: int
    /// The processors and numbers of threads that the cells were computed with: more than one, where shards ran on several machines.
    Machines: (string * int) list
    Texts: int
    DifferentTexts: int
    /// The costs of rounds that the predictions stand on.
    Costs: RoundTimes list
}

/// Reports of sweeps, from cells alone: from a run that has just ended, or from merged files.
[<RequireQualifiedAccess>]
module SweepReport =
    /// Of the resamples: any, so long as it is always the same.
    let private key = Key.ofSeed 0L

    let private time (decoding: SweepDecoding) : TextTime =
        TextTime.ofText decoding.Tokens decoding.Timings.DecodeMs

    /// The time of one prompt's runs together: what varies independently is the text. Of a single prompt each run stands for itself.
    let private samples (cells: SweepCell list) (pick: SweepCell -> TextTime) : TextTime[] =
        match cells |> List.groupBy _.Prompt with
        | [ _, runs ] -> runs |> List.map pick |> Array.ofList
        | texts ->
            texts
            |> List.map (fun (_, runs) -> runs |> List.map pick |> List.reduce TextTime.add)
            |> Array.ofList

    let private mean (values: float list) = if values.IsEmpty then nan else List.average values

    /// Milliseconds of the rounds of one setting by their costs, over the tokens after each text's first.
    let private predicted (exit: int) (metrics: SpeculationMetrics) (tokens: int) (cost: RoundCost) : float =
        let total =
            SpeculationMetrics.counts metrics
            |> List.sumBy (fun (drafted, kept) -> float (Array.sum kept) * cost exit drafted)

        total / float tokens

    let private breakEven
        (config: SweepConfig)
        (cells: SweepCell list)
        (plain: TextTime)
        (exit: int)
        : float =
        let drafting =
            config.Settings
            |> List.indexed
            |> List.filter (fun (_, setting) -> setting.Exit = Some exit)
            |> List.collect (fun (at, _) -> cells |> List.map (fun cell -> cell.Decodings[at]))

        let drafted = drafting |> List.sumBy _.Metrics.NumDraftTokens
        let ms = drafting |> List.sumBy _.Timings.DraftMs
        ms / float drafted / plain.MsPerToken

    let private row
        (config: SweepConfig)
        (cells: SweepCell list)
        (plain: TextTime[])
        (profiles: (RoundTimes * RoundCost) list)
        (needed: Map<int, float>)
        (at: int)
        (setting: SweepSetting)
        : SweepRow =
        let decodings = cells |> List.map (fun cell -> cell.Decodings[at])
        let own = samples cells (fun cell -> time cell.Decodings[at])
        let timed = own |> Array.filter TextTime.isTimed
        let metrics = decodings |> List.map _.Metrics |> SpeculationMetrics.sum
        let total = Array.fold TextTime.add TextTime.none own
        let predictions, ratios =
            match setting with
            | Autoregressive ->
                profiles |> List.map (fun (costs, _) -> costs.PlainMs), profiles |> List.map (fun _ -> 1.0)
            | PromptLookup _ -> [], []
            | SelfSpeculative(exit, _) ->
                let ms = profiles |> List.map (snd >> predicted exit metrics total.Tokens)
                ms, List.map2 (fun (costs: RoundTimes, _) ms -> costs.PlainMs / ms) profiles ms

        {
            Setting = setting
            MsPerToken = timed |> Array.map _.MsPerToken |> Bootstrap.median key
            TokensPerSecond = timed |> Array.map _.TokensPerSecond |> Bootstrap.mean key
            TtftMs = (decodings |> List.map _.Timings.TtftMs |> Spread.ofSamples).Median
            Phases = decodings |> List.map _.Timings |> Phases.ofTimings total.Tokens
            Metrics = metrics
            TokensPerLayer =
                (if setting = Autoregressive then
                     1.0 / float config.Layers
                 else
                     metrics.TokensPerLayer(config.Layers, defaultArg setting.Exit 0))
            SpeedUp = SpeedUp.paired key (Array.zip plain own)
            PredictedMsPerToken = mean predictions
            PredictedSpeedUp = mean ratios
            BreakEven = setting.Exit |> Option.map (fun exit -> needed[exit]) |> Option.defaultValue nan
            DifferentTexts = decodings |> List.filter (fun decoding -> not decoding.SameText) |> List.length
        }

    /// Of a sweep's cells, some or all.
    let ofCells (config: SweepConfig) (cells: SweepCell list) : SweepReport =
        let plain = samples cells (fun cell -> time cell.Decodings[0])
        let total = Array.fold TextTime.add TextTime.none plain
        let profiles = cells |> List.choose _.Costs |> List.map (fun costs -> costs, RoundTimes.cost costs)

        let needed =
            config.ExitLayers
            |> List.map (fun exit -> exit, breakEven config cells total exit)
            |> Map.ofList

        let rows = config.Settings |> List.mapi (row config cells plain profiles needed)

        let faster =
            rows
            |> List.filter (fun row -> row.Setting <> Autoregressive && row.SpeedUp.OfTimes.Value > 1.0)

        {
            Config = config
            Rows = rows
            Best =
                (if faster.IsEmpty then
                     None
                 else
                     Some(faster |> List.maxBy _.SpeedUp.OfTimes.Value))
            Cells = cells.Length
            Machines = cells |> List.map (fun cell -> cell.Cpu, cell.Threads) |> List.distinct
            Texts = cells.Length * rows.Length
            DifferentTexts = rows |> List.sumBy _.DifferentTexts
            Costs = cells |> List.choose _.Costs
        }

    /// Of a run's file: one that is being filled, a shard's, or a merged one. Errors: as `Sweep.read`'s.
    let ofRun
        (path: string)
        (header: RunHeader)
        (cells: RunCell list)
        : Result<SweepReport, LayerSkipError list> =
        Sweep.read path header cells |> Result.map (fun (config, cells) -> ofCells config cells)

    /// Of a run's file by its name.
    let load (path: string) : Result<SweepReport, LayerSkipError list> =
        RunFile.read path |> Result.bind (fun (header, cells) -> ofRun path header cells)
