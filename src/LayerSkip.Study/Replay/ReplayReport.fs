namespace LayerSkip

open System.Threading

/// What a fixed exit layer and draft length come to over a trace.
type ReplayPoint = {
    Exit: int
    DraftLength: int
    /// Of every round; exact but for drafts after a wrong one, where a stop token could have ended them unseen.
    Stats: SpeculationStats
    /// From the times of rounds; NaN where there are none.
    MsPerToken: float
    /// Plain decoding's time over it.
    Ratio: float
}

/// What a policy comes to over a trace.
type PolicyPoint = {
    Name: string
    Rounds: ReplayedRound[]
    Stats: SpeculationStats
    /// Where the drafts after a wrong one cannot be known, the fewest that there were; Stats has the most.
    DraftedAtLeast: int
    /// Over the rounds that draft.
    MeanExit: float
    MeanLength: float
    MsPerToken: float
    Ratio: float
    /// How much longer it takes than the oracle, and than the best fixed plan, as a share of their times: 0.1 is a tenth more.
    OracleRegret: float
    StaticRegret: float
}

/// What every plan and policy would have done with a text.
type ReplayReport = {
    Trace: Trace
    Times: RoundTimes option
    /// Every exit layer and draft length that was asked for.
    Grid: ReplayPoint list
    /// Of the grid the fastest.
    Best: ReplayPoint option
    Policies: PolicyPoint list
}

/// What is to be replayed.
type ReplayOptions = {
    Trace: TraceOptions
    Exits: int list
    Lengths: int list
    /// What a policy that has seen nothing yet begins with: as a rule what the model recommends.
    Start: DraftPlan
    /// Milliseconds for the timing of rounds.
    BudgetMs: float
}

/// The study: one decoding, one look at the times of rounds, and everything that follows from the two.
[<RequireQualifiedAccess>]
module ReplayReport =
    /// Draft lengths that are replayed where none are named.
    let defaultLengths = [ 1..8 ]

    /// Prompt positions that DEL has for evidence (arXiv 2504.05598).
    let defaultPromptRows = 32

    /// What is replayed where nothing is said: every exit layer and the usual draft lengths, of a text as decoding has it, from what the model
    /// recommends on. A model of one layer has nothing to replay.
    let options (checkpoint: Checkpoint) : Result<ReplayOptions, LayerSkipError list> =
        let layers = checkpoint.Config.Layers
        let exit, length = Checkpoint.exitAndDraft checkpoint

        ExitLayer.TryCreate(layers, exit)
        |> Result.map (fun exit -> {
            Trace = { Trace.options with StopIds = checkpoint.StopIds; PromptRows = defaultPromptRows }
            Exits = [ 1 .. layers - 1 ]
            Lengths = defaultLengths
            Start = DraftPlan.fixed' exit length
            BudgetMs = RoundTimes.budgetMs
        })

    /// Whether accepted lengths are live decoding's to the bit: where the CPU kernels compute. Elsewhere a row may depend on the rows beside
    /// it, and near ties may be decided otherwise than live.
    let isExact (weights: Weights) : bool = weights.Kernels.IsSome

    let private over (a: float) (b: float) = if b = 0.0 then nan else a / b

    let private statsOf (replay: Replay) (rounds: ReplayedRound[]) =
        rounds |> Array.map (Replay.asDecoded replay) |> SpeculationStats.ofRounds

    let private msOf (cost: RoundCost) (rounds: ReplayedRound[]) = rounds |> Array.sumBy (Replay.ms cost)

    /// Tokens after the first, which rounds bring.
    let private tokens (trace: Trace) = float trace.Rows.Length

    let private plans (layers: int) (exits: int list) (lengths: int list) : DraftPlan list = [
        for exit in exits do
            for length in lengths do
                DraftPlan.fixed' (ExitLayer.TryCreate(layers, exit) |> Check.getOrRaise) length
    ]

    /// The policies that reports compare: the start as it is, drafts that end where confidence does, at the start's exit, DEL
    /// in its two forms, the leader of the last 64 positions, and a bandit over lengths at the start's exit.
    let policies
        (cost: RoundCost)
        (start: DraftPlan)
        (lengths: int list)
        (candidates: DraftPlan list)
        (trace: Trace)
        =
        let longest = List.max lengths

        [
            DraftPolicy.fixed' $"fixed {start.Exit.Layers},{start.Length}" start
            for threshold in [ 0.4; 0.6; 0.8 ] do
                DraftPolicy.fixed' $"confidence {threshold}" {
                    start with
                        Length = longest
                        StopBelow = threshold
                }
            AdaptivePolicies.del false trace.Layers trace.PromptRows
            AdaptivePolicies.del true trace.Layers trace.PromptRows
            AdaptivePolicies.followTheLeader 64 cost start candidates
            AdaptivePolicies.ucb cost [ for length in lengths -> { start with Length = length } ]
        ]

    /// What follows from a trace and the times of rounds.
    let ofTrace (times: RoundTimes option) (options: ReplayOptions) (trace: Trace) : ReplayReport =
        let replay = Replay.ofTrace trace
        let cost = times |> Option.map RoundTimes.cost |> Option.defaultValue (fun _ _ -> nan)
        let plain = times |> Option.map _.PlainMs |> Option.defaultValue nan
        let candidates = plans trace.Layers options.Exits options.Lengths

        let grid: ReplayPoint list = [
            for plan in candidates do
                let rounds = Replay.rounds plan replay
                let ms = over (msOf cost rounds) (tokens trace)

                {
                    Exit = plan.Exit.Layers
                    DraftLength = plan.Length
                    Stats = statsOf replay rounds
                    MsPerToken = ms
                    Ratio = over plain ms
                }
        ]

        let timed =
            grid
            |> List.filter (fun (point: ReplayPoint) -> not (System.Double.IsNaN point.MsPerToken))
        let best =
            if timed.IsEmpty then
                None
            else
                Some(timed |> List.minBy (fun (point: ReplayPoint) -> point.MsPerToken))
        let least = best |> Option.map (fun point -> point.MsPerToken) |> Option.defaultValue nan

        // Without times there is nothing to choose by.
        let oracle =
            if timed.IsEmpty then
                [||]
            else
                Replay.oracle cost candidates replay
        let oracleMs = over (msOf cost oracle) (tokens trace)

        let point name (rounds: ReplayedRound[]) : PolicyPoint =
            let drafting = rounds |> Array.filter (fun round -> round.Drafted > 0)
            let ms = over (msOf cost rounds) (tokens trace)

            let mean (pick: ReplayedRound -> int) =
                over (float (Array.sumBy pick drafting)) (float drafting.Length)

            {
                Name = name
                Rounds = rounds
                Stats = statsOf replay rounds
                DraftedAtLeast = rounds |> Array.sumBy _.DraftedAtLeast
                MeanExit = mean _.Plan.Exit.Layers
                MeanLength = mean _.Drafted
                MsPerToken = ms
                Ratio = over plain ms
                OracleRegret = over (ms - oracleMs) oracleMs
                StaticRegret = over (ms - least) least
            }

        {
            Trace = trace
            Times = times
            Grid = grid
            Best = best
            Policies =
                if timed.IsEmpty then
                    []
                else
                    point "oracle" oracle
                    :: [
                        for policy in policies cost options.Start options.Lengths candidates trace ->
                            point policy.Name (Replay.follow cost policy replay)
                    ]
        }

    /// Every fault of options and a prompt: as `Generation.run`'s, an exit layer or a draft length outside its range, none.
    let check
        (weights: Weights)
        (options: ReplayOptions)
        (prompt: int[])
        : Result<unit, LayerSkipError list> =
        let layers = weights.Config.Layers

        let faults = [
            if options.Exits.IsEmpty then
                LayerSkipError.OutOfRange("exit-layers", "empty", "one layer or more")
            if options.Lengths.IsEmpty then
                LayerSkipError.OutOfRange("draft-lengths", "empty", "one length or more")
            for exit in options.Exits do
                if layers < 2 then
                    LayerSkipError.ExitOutsideModel(exit, layers)
                else
                    yield!
                        Check.inRange
                            (exit >= 1 && exit < layers)
                            "exit-layers"
                            (string exit)
                            $"1 to {layers - 1}"
            for length in options.Lengths do
                yield! Check.atLeast 1 "draft-lengths" length
            yield! Trace.check weights options.Trace prompt |> Check.faults
        ]

        Check.all faults ()

    /// Traces a text after a prompt of ids, times rounds at its middle, and replays. Errors: those of `check`, and numbers that
    /// overflow. Once `cancelled` is, it throws OperationCanceledException within a pass.
    let runUntil
        (cancelled: CancellationToken)
        (weights: Weights)
        (options: ReplayOptions)
        (prompt: int[])
        : Result<ReplayReport, LayerSkipError list> =
        check weights options prompt
        |> Result.bind (fun () -> Trace.runUntil cancelled weights options.Trace prompt)
        |> Result.map (fun trace ->
            let lengths = List.distinct (options.Lengths @ [ options.Start.Length ])

            let times =
                RoundTimes.measureUntil cancelled weights (prompt.Length + trace.Written.Length / 2) {
                    Exits = options.Exits @ [ options.Start.Exit.Layers ]
                    Lengths = [ 1 .. min 8 (List.max lengths) ] @ lengths
                    BudgetMs = options.BudgetMs
                }

            ofTrace times options trace)

    /// `runUntil` that nothing cancels.
    let run weights options prompt : Result<ReplayReport, LayerSkipError list> =
        runUntil CancellationToken.None weights options prompt
