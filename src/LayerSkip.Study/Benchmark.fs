namespace LayerSkip

open System
open System.Diagnostics
open System.IO
open System.Runtime.InteropServices
open LayerSkip.Kernels

/// A median, and the 5th and 95th of a hundred.
type Spread = { Median: float; P5: float; P95: float }

type BenchmarkOptions = {
    Prompt: int[]
    /// Timed runs of each strategy, interleaved; one more of each comes before, to warm up.
    Runs: int
    Exit: ExitLayer
    DraftLength: int
    MaxNewTokens: int
    /// Drafts are right with this probability, independently, whatever the exit says; None: the exit's own.
    AcceptRate: float option
    Seed: int64
}

/// What decoding one way took.
type DecodingTimes = {
    /// Of each run: the time from the first token to the last, over the tokens after the first.
    MsPerToken: Spread
    TtftMs: Spread
    /// Between one event that brings tokens and the next (a token, or the tokens of a round).
    LatencyMs: Spread
    /// Milliseconds a token in draft passes and in verifying passes, heads included; in the heads of both, with their
    /// norm and choice; and beside all passes.
    DraftMs: float
    VerifyMs: float
    HeadMs: float
    OverheadMs: float
    Acceptance: float
}

type BenchmarkReport = {
    Cpu: string
    Threads: int
    /// Gigabytes a second that as many threads read from memory at best.
    ReadBandwidth: float
    /// A whole forward pass, head included, by its number of new rows: of 1, 2, 5 and 8 those that the context has room for.
    PassMs: (int * float) list
    PrefillTokens: int
    PrefillMs: float
    Autoregressive: DecodingTimes
    /// Bytes of weights that a token reads, over its time, in GB/s.
    AutoregressiveRate: float
    SelfSpeculative: DecodingTimes
    /// From the measured times of the passes that the rounds ran, with nothing added for overhead.
    PredictedMsPerToken: float
    /// Whether both wrote the same text in every run.
    SameText: bool
} with

    member this.Ratio = this.Autoregressive.MsPerToken.Median / this.SelfSpeculative.MsPerToken.Median
    /// Five rows over one; None where the context has no room for five.
    member this.VerifyRowsRatio: float option =
        let passes = Map.ofList this.PassMs
        Option.map2 (/) (Map.tryFind 5 passes) (Map.tryFind 1 passes)

[<RequireQualifiedAccess>]
module Spread =
    let ofSamples (samples: float seq) : Spread =
        let sorted = Seq.sort samples |> Array.ofSeq

        let at (share: float) =
            if sorted.Length = 0 then
                nan
            else
                let place = share * float (sorted.Length - 1)
                let below = int place
                let above = min (sorted.Length - 1) (below + 1)
                sorted[below] + (place - float below) * (sorted[above] - sorted[below])

        { Median = at 0.5; P5 = at 0.05; P95 = at 0.95 }

/// Times of passes and of decoding, from interleaved runs.
[<RequireQualifiedAccess>]
module Benchmark =
    let defaultRuns = 5

    /// New tokens of a run.
    let defaultNewTokens = 64

    let cpu () : string =
        let described = "/proc/cpuinfo"

        if File.Exists described then
            File.ReadLines described
            |> Seq.tryFind (fun line -> line.StartsWith "model name")
            |> Option.map (fun line -> line.Substring(line.IndexOf ':' + 1).Trim())
            |> Option.defaultValue (string RuntimeInformation.ProcessArchitecture)
        else
            string RuntimeInformation.ProcessArchitecture

    /// In memory: the attention and MLP of every layer after `exit` add nothing, so that every exit from there on
    /// agrees with the last layer, at the same cost.
    let identityAfter (exit: int) (weights: Weights) : unit =
        use _noGrad = Scope.noGrad ()

        for layer in weights.Layers[exit..] do
            for tensor in
                [ Some layer.Output; Some layer.Down; layer.OutputBias; layer.DownBias ] |> List.choose id do
                tensor.zero_ () |> ignore

    let private elapsed since = Stopwatch.GetElapsedTime(since: int64).TotalMilliseconds

    let private timed (body: unit -> unit) =
        let started = Stopwatch.GetTimestamp()
        use _noGrad = Scope.noGrad ()
        Scope.free body
        elapsed started

    /// The median time of each of some passes, taken in turn `times` times after one round to warm up.
    let private interleaved times (passes: (unit -> unit) list) : float list =
        for pass in passes do
            timed pass |> ignore

        let rounds = List.init times (fun _ -> passes |> List.map timed)
        passes
        |> List.mapi (fun i _ -> (Spread.ofSamples (rounds |> List.map (List.item i))).Median)

    let private ids (weights: Weights) count =
        Array.init count (fun i -> (i * 131 + 1) % weights.Config.Vocabulary)

    let private choose hidden = Model.logits hidden |> Sampling.verdicts Sampling.Greedy |> ignore

    /// A cache that has read `length` positions, for `room` more.
    let private filled (weights: Weights) exit length room =
        let cache = Cache.create weights exit (length + room)
        use _noGrad = Scope.noGrad ()
        use _scope = Scope.start ()

        let struct (_, cache) = Model.forward weights 1 (ids weights length) cache
        cache

    /// Whole passes by rows, at a context of `length`.
    let private wholePasses (weights: Weights) length times (rows: int list) =
        let most = List.max rows
        let mutable cache = filled weights weights.Config.Layers length most
        use _storage = cache.Slab :> IDisposable

        let pass count () =
            let struct (hidden, next) = Model.forwardRemainder weights count (ids weights count) cache
            choose hidden
            cache <- Cache.truncate length next

        List.zip rows (interleaved times (rows |> List.map pass))

    /// One draft pass, and the verification of `drafted` tokens for each of some numbers, heads included.
    let private roundPasses (weights: Weights) (exit: ExitLayer) length times (drafted: int list) =
        let most = List.max drafted + 1
        let mutable cache = filled weights exit.Layers length most
        use _storage = cache.Slab :> IDisposable
        let draftMs = ResizeArray<float>()

        let draft () =
            let started = Stopwatch.GetTimestamp()
            let struct (hidden, next) = Model.forwardEarly weights [| 1 |] cache
            choose hidden
            cache <- next
            draftMs.Add(elapsed started)

        let verify count =
            use _noGrad = Scope.noGrad ()
            let tokens = ids weights (count + 1)

            for _ in 1..count do
                Scope.free draft

            timed (fun () ->
                let struct (hidden, next) = Model.forwardRemainder weights tokens.Length tokens cache
                choose hidden
                cache <- Cache.truncate length next)

        for count in drafted do
            verify count |> ignore

        draftMs.Clear()
        let rounds = List.init times (fun _ -> drafted |> List.map verify)

        (if draftMs.Count = 0 then
             0.0
         else
             (Spread.ofSamples draftMs).Median),
        drafted
        |> List.mapi (fun i count -> count, (Spread.ofSamples (rounds |> List.map (List.item i))).Median)
        |> Map.ofList

    let private prefill (weights: Weights) =
        let tokens = min 512 (weights.Config.Context - 1)

        let pass () =
            let cache = Cache.create weights weights.Config.Layers tokens
            use _storage = cache.Slab :> IDisposable
            let struct (hidden, _) = Model.forwardRemainder weights 1 (ids weights tokens) cache
            choose hidden

        tokens, List.head (interleaved 3 [ pass ])

    /// One decoding: the completion, and the milliseconds between events that brought tokens.
    let private decode (weights: Weights) (options: BenchmarkOptions) strategy =
        let gaps = ResizeArray<float>()
        let mutable last = 0L
        // Tokens of one round come at once: only the wait for the first of them is one.
        let mutable waited = false
        let mutable result = None

        for event in
            Generation.run
                weights
                None
                (GenerationOptions.greedy strategy options.MaxNewTokens)
                options.Prompt
            |> Check.getOrRaise do
            match event with
            | GenerationEvent.Token(_, origin, _) ->
                let now = Stopwatch.GetTimestamp()

                if waited then
                    gaps.Add(Stopwatch.GetElapsedTime(last, now).TotalMilliseconds)

                last <- now
                waited <- origin = Origin.Prefill || origin = Origin.Plain
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
            OverheadMs = median (fun timings -> timings.DecodeMs - timings.DraftMs - timings.VerifyMs)
            Acceptance = runs |> List.averageBy (fun (completion, _) -> completion.Stats.DraftAcceptanceRate)
        }

    let private middle (options: BenchmarkOptions) = options.Prompt.Length + options.MaxNewTokens / 2

    /// The cost of the rounds' passes (spec: tokens of a round over d drafts and one verification), a token.
    let private predicted (weights: Weights) (options: BenchmarkOptions) (completions: Completion list) =
        let rounds = completions |> Seq.collect _.Stats.Rounds |> Seq.map fst |> Seq.countBy id |> List.ofSeq
        let tokens = completions |> List.sumBy (fun completion -> completion.TokenIds.Length - 1)
        let drafted = List.map fst rounds
        // Where the middle of the text leaves no room for the longest round, as early as that needs.
        let length = min (middle options) (weights.Config.Context - (List.max drafted + 1))
        let draft, verify = roundPasses weights options.Exit length (max 9 (3 * options.Runs)) drafted

        let cost =
            rounds
            |> List.sumBy (fun (drafted, count) -> float count * (float drafted * draft + verify[drafted]))
        cost / float (max 1 tokens)

    /// Measures; the model should be otherwise idle, and the machine too.
    let run (weights: Weights) (options: BenchmarkOptions) : BenchmarkReport =
        let plain () = decode weights options Strategy.Autoregressive
        let reference, _ = plain ()
        let text = Array.append options.Prompt reference.TokenIds

        let fast number =
            let drafter =
                match options.AcceptRate with
                | None -> Drafter.earlyExit
                | Some rate -> replaced weights.Config.Vocabulary (options.Seed + int64 number) rate text

            Strategy.Speculative(drafter options.Exit, LengthPolicy.Fixed options.DraftLength)
            |> decode weights options

        fast 0 |> ignore
        let runs = List.init options.Runs (fun number -> plain (), fast (number + 1))
        let slow, quick = List.map fst runs, List.map snd runs
        let own = times slow
        let middle = middle options
        let room = weights.Config.Context - middle
        let rows = [ 1; 2; 5; 8 ] |> List.filter (fun rows -> rows <= room)
        let prefillTokens, prefillMs = prefill weights

        // A tied embedding is read as the head; one of its own is only looked up.
        let read =
            Weights.bytes weights
            - (if weights.Config.TiedHead then
                   0L
               else
                   weights.Embedding.numel () * weights.Embedding.ElementSize)

        {
            Cpu = cpu ()
            Threads = CpuKernels.threads ()
            ReadBandwidth = Bandwidth.Read()
            PassMs = wholePasses weights middle (max 15 (3 * options.Runs)) rows
            PrefillTokens = prefillTokens
            PrefillMs = prefillMs
            Autoregressive = own
            AutoregressiveRate = float read / own.MsPerToken.Median / 1e6
            SelfSpeculative = times quick
            PredictedMsPerToken = predicted weights options (List.map fst quick)
            SameText = runs |> List.forall (fun ((a, _), (b, _)) -> a.TokenIds = b.TokenIds)
        }
