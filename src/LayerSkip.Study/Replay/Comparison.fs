namespace LayerSkip

open System.Diagnostics

/// A way to decode, as reports name it.
[<NoEquality; NoComparison>]
type ComparedWay = {
    Name: string
    /// One exit layer and draft length for every text: the best of these is known afterwards only.
    IsStatic: bool
    /// Made anew for each text, so that what a drafter remembers is of that text; the past texts are the others before it.
    Strategy: PastTexts -> Strategy
}

/// A prompt, as ids, and the set that reports count it with.
type ComparedText = { Set: string; Name: string; Prompt: int[] }

/// What a way did with a text.
type ComparedCell = {
    Way: string
    IsStatic: bool
    Text: ComparedText
    /// Of each run; the runs of all ways with a text come in turn.
    Times: TextTime[]
    /// Of the runs, milliseconds a token in deciding what to draft and in learning from it.
    PolicyMs: float
    /// Of the last run.
    Stats: SpeculationStats
    /// Whether every run wrote what plain decoding did.
    SameText: bool
} with

    /// Its median over the runs; NaN for a text of one token.
    member this.MsPerToken: float =
        if Array.forall TextTime.isTimed this.Times then
            (this.Times |> Array.map _.MsPerToken |> Spread.ofSamples).Median
        else
            nan

/// What is compared, and how often.
[<NoEquality; NoComparison>]
type ComparisonOptions = {
    Ways: ComparedWay list
    /// Timed runs of each way and text; one more comes before, to warm up.
    Runs: int
    /// New tokens of a run, at most.
    MaxNewTokens: int
    StopIds: int[]
    /// Is told of each run's texts as they come.
    Progress: string -> unit
}

/// What a way comes to, beside another one, over some texts.
type ComparedSummary = {
    Way: string
    IsStatic: bool
    /// How many times as fast as plain decoding: the geometric mean over texts of the ratio of their medians.
    ToPlain: Interval
    /// The same of texts taken together and of rates.
    SpeedUp: SpeedUp
    /// The text with the lowest ratio, and the ratio, with its interval over runs.
    Worst: ComparedText * Interval
    /// Of decode time, in deciding and learning.
    PolicyShare: float
    /// Of all texts.
    Sources: SourceStats[]
    SameText: bool
}

/// Ways to decode on the same prompts, live: what a choice among them is worth.
[<RequireQualifiedAccess>]
module Comparison =
    /// What every way is compared with.
    let plain: ComparedWay = { Name = "plain"; IsStatic = false; Strategy = fun _ -> Strategy.Autoregressive }

    let private key = Key.ofSeed 13L

    /// Decodes every text in every way, plain decoding first: each way has its turn with a text before another text comes, and every
    /// text before the next run. Past texts are those of other prompts, of the same run. Errors: those of `Generation.run`.
    let run
        (weights: Weights)
        (options: ComparisonOptions)
        (texts: ComparedText list)
        : Result<ComparedCell list, LayerSkipError list> =
        let ways = plain :: options.Ways

        let decode (text: ComparedText) past (way: ComparedWay) =
            let greedy = {
                GenerationOptions.greedy (way.Strategy past) options.MaxNewTokens with
                    StopIds = options.StopIds
            }

            Generation.complete weights None greedy text.Prompt |> Check.getOrRaise

        let decodeAll run =
            let past = PastTexts PastTexts.DefaultLimit
            let began = Stopwatch.StartNew()

            let made =
                texts
                |> List.map (fun text ->
                    let made = ways |> List.map (decode text past)
                    past.Add(System.ReadOnlySpan(Array.append text.Prompt made.Head.TokenIds))
                    made)

            options.Progress
                $"run {run} of {options.Runs}: {texts.Length} texts in {ways.Length} ways, {Shown.fixedPoint 1 began.Elapsed.TotalSeconds} s"

            made

        Check.guard (fun () ->
            // What .NET compiles, and caches fill, does not count.
            let warm = decodeAll 0
            let runs = [ for run in 1 .. options.Runs -> decodeAll run ]

            Ok [
                for place, text in List.indexed texts do
                    for index, way in List.indexed ways do
                        let made =
                            runs
                            |> List.map (fun (run: Completion list list) -> run[place][index])
                            |> Array.ofList
                        let first: Completion list = warm[place]
                        let own = first.Head.TokenIds
                        let times = made |> Array.map TextTime.ofCompletion
                        let all = Array.fold TextTime.add TextTime.none times

                        {
                            Way = way.Name
                            IsStatic = way.IsStatic
                            Text = text
                            Times = times
                            PolicyMs = (made |> Array.sumBy _.Timings.PolicyMs) / float (max 1 all.Tokens)
                            Stats = (Array.last made).Stats
                            SameText =
                                first[index].TokenIds = own
                                && made |> Array.forall (fun made -> made.TokenIds = own)
                        }
            ])

    let private ofWay (way: string) (cells: ComparedCell list) =
        cells |> List.filter (fun cell -> cell.Way = way) |> Array.ofList

    /// Cells of two ways by text, of those that both have times of.
    let private paired
        (slow: string)
        (fast: string)
        (cells: ComparedCell list)
        : (ComparedCell * ComparedCell)[] =
        let isTimed (cell: ComparedCell) = not (System.Double.IsNaN cell.MsPerToken)
        let slow =
            ofWay slow cells
            |> Array.filter isTimed
            |> Array.map (fun cell -> cell.Text, cell)
            |> dict

        ofWay fast cells
        |> Array.filter isTimed
        |> Array.choose (fun cell ->
            match slow.TryGetValue cell.Text with
            | true, other -> Some(other, cell)
            | _ -> None)

    let private geometric (ratios: float[]) = exp (Array.averageBy log ratios)

    /// How many times as fast one way is as another on each text, by medians.
    let ratios (slow: string) (fast: string) (cells: ComparedCell list) : (ComparedText * float)[] =
        paired slow fast cells |> Array.map (fun (a, b) -> b.Text, a.MsPerToken / b.MsPerToken)

    /// The geometric mean of `ratios`, and its interval over texts.
    let ratio (slow: string) (fast: string) (cells: ComparedCell list) : Interval =
        ratios slow fast cells |> Array.map snd |> Bootstrap.interval key geometric

    /// The lowest of `ratios`, and its interval over the text's runs, of which those that came in turn stay together; None without texts.
    let worst (slow: string) (fast: string) (cells: ComparedCell list) : (ComparedText * Interval) option =
        let median pick (runs: (TextTime * TextTime)[]) =
            (runs |> Array.map (fun run -> (pick run: TextTime).MsPerToken) |> Spread.ofSamples).Median

        paired slow fast cells
        |> Array.sortBy (fun (a, b) -> a.MsPerToken / b.MsPerToken)
        |> Array.tryHead
        |> Option.map (fun (a, b) ->
            b.Text,
            Array.zip a.Times b.Times
            |> Bootstrap.interval key (fun runs -> median fst runs / median snd runs))

    let private sources (cells: ComparedCell[]) : SourceStats[] =
        cells |> Seq.collect _.Stats.Sources |> SourceStats.merge

    /// Every way beside plain decoding, in the order of the cells; ways without a timed text are left out.
    let summaries (cells: ComparedCell list) : ComparedSummary list =
        cells
        |> List.map _.Way
        |> List.distinct
        |> List.choose (fun way ->
            worst plain.Name way cells
            |> Option.map (fun worst ->
                let own = ofWay way cells
                let pairs = paired plain.Name way cells
                let time (cell: ComparedCell) = { Tokens = 1; Ms = cell.MsPerToken }
                let ms = own |> Array.filter (fun cell -> cell.MsPerToken > 0.0) |> Array.sumBy _.MsPerToken

                {
                    Way = way
                    IsStatic = own[0].IsStatic
                    ToPlain = ratio plain.Name way cells
                    SpeedUp = pairs |> Array.map (fun (a, b) -> time a, time b) |> SpeedUp.paired key
                    Worst = worst
                    PolicyShare = (own |> Array.sumBy _.PolicyMs) / ms
                    Sources = sources own
                    SameText = own |> Array.forall _.SameText
                }))

    /// Of the static ways the fastest over all texts; None without one.
    let bestStatic (summaries: ComparedSummary list) : ComparedSummary option =
        match summaries |> List.filter _.IsStatic with
        | [] -> None
        | statics -> Some(statics |> List.maxBy _.ToPlain.Value)
