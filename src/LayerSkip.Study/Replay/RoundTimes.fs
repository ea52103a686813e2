namespace LayerSkip

open System
open System.Diagnostics
open System.Threading

/// What rounds of an exit layer and so many drafts take, in milliseconds: medians.
type RoundTime = {
    Exit: int
    Drafted: int
    /// From the round before to its end, whatever decoding does between the passes included.
    RoundMs: float
    /// Of that, in the draft passes and in the verifying one, heads included.
    DraftMs: float
    VerifyMs: float
}

/// A model's rounds on a machine, timed.
type RoundTimes = {
    /// A token of plain decoding.
    PlainMs: float
    Rounds: RoundTime list
    /// Positions before the first timed round.
    Context: int
    /// Rounds of each kind that were timed, at least.
    Samples: int
}

/// What is timed, and for how long.
type RoundTimesOptions = {
    /// Exit layers and draft lengths that there are to be times of; where that would take long, some are left to interpolation.
    Exits: int list
    Lengths: int list
    /// Milliseconds after which no further turn begins, once there were four.
    BudgetMs: float
}

/// Times rounds as decoding runs them, so that what its caches hold, and what it does between passes, counts as it does there.
/// Every kind of round has its turn before one has its second; the drafts are made as always and then spoiled, so that a round
/// brings one token and the context stays about the same.
[<RequireQualifiedAccess>]
module RoundTimes =
    /// What a look at a small model costs.
    let budgetMs = 2000.0

    // Positions that a source goes through before it starts anew.
    let private stretch = 64

    let private median (samples: float seq) = (Spread.ofSamples samples).Median

    /// An endless source of timed rounds after a prompt that leaves room for two tokens.
    let private source
        cancelled
        (weights: Weights)
        (prompt: int[])
        strategy
        : (unit -> RoundTime) * IDisposable =
        let room = min (stretch + 2) (weights.Config.Context - prompt.Length)
        let decoding = Rounds.greedy weights strategy room
        let clock = decoding.Clock

        let start () =
            let rounds = (Rounds.run decoding prompt cancelled).GetEnumerator()
            rounds.MoveNext() |> ignore
            rounds

        let rounds = ref (start ())

        let rec pull () : RoundTime =
            let draft, verify = clock.DraftMs, clock.VerifyMs
            let started = Stopwatch.GetTimestamp()

            if rounds.Value.MoveNext() then
                let ms = Stopwatch.GetElapsedTime(started).TotalMilliseconds
                let struct (round, _) = rounds.Value.Current

                {
                    Exit = strategy.Exit |> Option.map _.Layers |> Option.defaultValue 0
                    Drafted = round.Drafted
                    RoundMs = ms
                    DraftMs = clock.DraftMs - draft
                    VerifyMs = clock.VerifyMs - verify
                }
            else
                rounds.Value.Dispose()
                rounds.Value <- start ()
                pull ()

        pull,
        {
            new IDisposable with
                member _.Dispose() = rounds.Value.Dispose()
        }

    /// Rounds of an exit whose drafts are spoiled, by the lengths in turn.
    let private strategyOf (weights: Weights) (lengths: int list) (exit: ExitLayer) : Strategy =
        let spoil _ token = (token + 1) % weights.Config.Vocabulary
        let lengths = Array.ofList lengths

        Strategy.Speculative(
            Drafter.alteredExit spoil exit,
            LengthPolicy.Adaptive(fun rounds -> lengths[rounds.Length % lengths.Length])
        )

    /// The first, second, fourth, eighth.. and the last: what is cached of few layers makes them cheaper than their share.
    let private spread (sorted: int list) : int list =
        let last = sorted.Length - 1
        let places = [ for power in 0..30 -> (1 <<< power) - 1 ] |> List.filter (fun place -> place < last)
        List.distinct (places @ [ max 0 last ]) |> List.map (fun place -> sorted[place])

    /// What a turn consists of.
    [<NoComparison>]
    type private Turn = {
        Exits: int list
        Lengths: int list
        /// Rounds of a kind after one another, of which all but the first count: what the caches of a small model hold after
        /// rounds of another kind makes the first one slower.
        Times: int
        /// Rounds before those, which do not count, where another exit had its turn before.
        Ahead: int
    } with

        member this.Rounds: int list =
            List.replicate this.Ahead this.Lengths.Head
            @ List.collect (List.replicate this.Times) this.Lengths

    /// What to time of what there is to be known: all of it where that fits the budget, else less and less.
    let private turnOf (plainMs: float) (options: RoundTimesOptions) : Turn =
        let exits = options.Exits |> List.distinct |> List.sort
        let lengths = options.Lengths |> List.distinct |> List.sort

        // With one between the first and the middle, where exits that pay are as a rule.
        let few =
            [ 0; exits.Length / 8; exits.Length / 2; exits.Length - 1 ]
            |> List.distinct
            |> List.map (fun place -> exits[place])

        let ms (turn: Turn) =
            let ofLengths = turn.Lengths |> List.sumBy (fun length -> 1.5 + 0.5 * float length)
            plainMs * float (turn.Times * turn.Exits.Length) * ofLengths

        let least = { Exits = few; Lengths = spread lengths; Times = 1; Ahead = 0 }

        [
            { Exits = spread exits; Lengths = lengths; Times = 2; Ahead = 2 }
            { least with Lengths = lengths }
        ]
        |> List.tryFind (fun turn -> 3.0 * ms turn <= options.BudgetMs)
        |> Option.defaultValue least

    /// Without those of the first turns, in which code was compiled and caches were cold.
    let private settled (samples: RoundTime seq) =
        let samples = List.ofSeq samples
        List.skip (min (samples.Length - 1) (max 1 (samples.Length / 3))) samples

    let private summary (exit: int, drafted: int) (samples: RoundTime list) : RoundTime = {
        Exit = exit
        Drafted = drafted
        RoundMs = samples |> List.map _.RoundMs |> median
        DraftMs = samples |> List.map _.DraftMs |> median
        VerifyMs = samples |> List.map _.VerifyMs |> median
    }

    /// Times at a context of about `length` positions, or as many as leave room for a round. None where the context has no
    /// room for two tokens after one, as then there is no round. Once `cancelled` is, it throws OperationCanceledException.
    let measureUntil
        (cancelled: CancellationToken)
        (weights: Weights)
        (length: int)
        (options: RoundTimesOptions)
        : RoundTimes option =
        let context = weights.Config.Context

        if context < 3 then
            None
        else
            let longest = List.max (1 :: options.Lengths)
            let start = max 1 (min (length - stretch / 2) (context - stretch - longest - 2))
            let prompt = PassProfile.ids weights start
            let plain, plainEnd = source cancelled weights prompt Strategy.Autoregressive
            use _plain = plainEnd

            let plainMs = List.init 4 (fun _ -> (plain ()).RoundMs) |> List.min
            let turn = turnOf plainMs options
            let rounds = turn.Rounds

            let sources =
                turn.Exits
                |> List.map (fun exit ->
                    ExitLayer.TryCreate(weights.Config.Layers, exit)
                    |> Check.getOrRaise
                    |> strategyOf weights rounds
                    |> source cancelled weights prompt)

            try
                let began = Stopwatch.StartNew()
                let samples = ResizeArray<RoundTime>()
                let mutable turns = 0

                while turns < 4 || began.Elapsed.TotalMilliseconds < options.BudgetMs do
                    for pull in plain :: List.map fst sources do
                        let mutable before = -1

                        for index in 0 .. rounds.Length - 1 do
                            let time = pull ()

                            if index >= turn.Ahead && (turn.Times = 1 || time.Drafted = before) then
                                samples.Add time

                            before <- time.Drafted

                    turns <- turns + 1

                let kinds =
                    samples
                    |> Seq.groupBy (fun time -> time.Exit, time.Drafted)
                    |> Seq.map (fun (kind, samples) -> kind, settled samples)
                    |> List.ofSeq

                let speculative = kinds |> List.filter (fun ((exit, drafted), _) -> exit > 0 && drafted > 0)

                Some {
                    PlainMs =
                        kinds
                        |> List.find (fun ((exit, _), _) -> exit = 0)
                        |> snd
                        |> List.map _.RoundMs
                        |> median
                    Rounds =
                        speculative
                        |> List.map (fun (kind, samples) -> summary kind samples)
                        |> List.sortBy (fun t -> t.Exit, t.Drafted)
                    Context = start
                    Samples =
                        if speculative.IsEmpty then
                            0
                        else
                            speculative |> List.map (fun (_, samples) -> samples.Length) |> List.min
                }
            finally
                for _, source in sources do
                    source.Dispose()

    /// `measureUntil` that nothing cancels.
    let measure (weights: Weights) (length: int) (options: RoundTimesOptions) : RoundTimes option =
        measureUntil CancellationToken.None weights length options

    /// Between two points on a line, and beyond the outermost on theirs.
    let private interpolate (points: struct (float * float)[]) (x: float) : float =
        let at index =
            let struct (x, _) = points[index]
            x

        match points.Length with
        | 1 ->
            let struct (_, y) = points[0]
            y
        | count ->
            let mutable upper = 1

            while upper < count - 1 && at upper < x do
                upper <- upper + 1

            let struct (x0, y0), struct (x1, y1) = points[upper - 1], points[upper]
            y0 + (y1 - y0) * (x - x0) / (x1 - x0)

    /// The numbers nearest to these, by squares, that never fall: neighbours that do are pooled (Ayer et al. 1955).
    let internal rising (values: float[]) : float[] =
        let rec pool blocks =
            match blocks with
            | struct (last: float, n) :: struct (before: float, m) :: rest when last < before ->
                pool (struct ((last * float n + before * float m) / float (n + m), n + m) :: rest)
            | blocks -> blocks

        values
        |> Array.fold (fun blocks value -> pool (struct (value, 1) :: blocks)) []
        |> List.rev
        |> List.collect (fun (struct (mean, count)) -> List.replicate count mean)
        |> Array.ofList

    /// A table whose rows and columns never fall, near to these: each in turn, until both hold.
    let private risingTable (table: float[][]) : float[][] =
        let both = Array.map rising >> Array.transpose

        let rec settle times (table: float[][]) =
            let next = table |> both |> both
            if times = 0 || next = table then
                next
            else
                settle (times - 1) next

        // Columns come last: rows may then fall by what rounding leaves.
        settle 100 table

    let private pairs (xs: float[]) (ys: float[]) = Array.map2 (fun x y -> struct (x, y)) xs ys

    // DEL's cap is 18.
    let private mostDrafts = 32.0

    /// The times as a function of any exit and number of drafts. 0 drafts are a step of plain decoding, whatever the exit, so
    /// that choosing not to draft is worth what plain decoding is. More drafts and later exits never cost less: what a busy machine
    /// added to some rounds is shared out among their neighbours.
    let cost (times: RoundTimes) : RoundCost =
        let byExit = times.Rounds |> List.groupBy _.Exit |> Array.ofList
        let exits = byExit |> Array.map (fst >> float)

        let lengths = byExit |> Array.map (fun (_, rounds) -> [| for time in rounds -> float time.Drafted |])
        let measured = byExit |> Array.map (fun (_, rounds) -> [| for time in rounds -> time.RoundMs |])

        let fitted =
            if lengths |> Array.distinct |> Array.length = 1 then
                risingTable
            else
                Array.map rising

        // With as many drafts as any policy has: beyond what was timed, on the line through the last two.
        let withMost lengths times = Array.append times [| interpolate (pairs lengths times) mostDrafts |]

        let table = fitted measured |> Array.map2 withMost lengths |> fitted
        let curves =
            (lengths, table)
            ||> Array.map2 (fun lengths times -> pairs (Array.append lengths [| mostDrafts |]) times)

        fun exit drafted ->
            if drafted = 0 || byExit.Length = 0 then
                times.PlainMs
            else
                // Exits before the first that was timed, or after the last, have no line to go by.
                Math.Clamp(float exit, exits[0], Array.last exits)
                |> interpolate (
                    pairs exits (curves |> Array.map (fun curve -> interpolate curve (float drafted)))
                )
