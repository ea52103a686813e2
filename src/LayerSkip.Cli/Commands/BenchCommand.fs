namespace LayerSkip.Cli

open System
open System.Diagnostics
open System.Text.Json
open LayerSkip

/// `layerskip bench`: measures passes and decoding of a model, or of random weights of a shape, and tells it as a table or as JSON;
/// the measuring is `Benchmark`'s.
[<RequireQualifiedAccess>]
module internal BenchCommand =
    /// What the command line gives.
    type private Given = {
        Runs: int
        Exit: int option
        DraftLength: int option
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
        | BenchArgument.ExitLayer exit -> { given with Exit = Some exit }
        | BenchArgument.DraftLength length -> { given with DraftLength = Some length }
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
        Exit = None
        DraftLength = None
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

    /// "name": median, 5th and 95th percentile of the runs, in milliseconds.
    let private spread (name: string) (spread: Spread) (writer: Utf8JsonWriter) =
        writer
        |> JsonWrite.object name (fun _ ->
            writer |> Output.milliseconds "median" spread.Median
            writer |> Output.milliseconds "p5" spread.P5
            writer |> Output.milliseconds "p95" spread.P95)

    /// One strategy's times in milliseconds: a token's, the first one's, and between events that bring some; the rate is in tokens a
    /// second.
    /// `split_ms` says where a token's time went, each part by its own median.
    let private times (times: DecodingTimes) (writer: Utf8JsonWriter) =
        writer |> spread "ms_per_token" times.MsPerToken
        writer |> spread "ttft_ms" times.TtftMs
        writer |> spread "latency_ms" times.LatencyMs
        writer.WriteNumber("tokens_per_second", Math.Round(1000.0 / times.MsPerToken.Median, 2))

        writer
        |> JsonWrite.object "split_ms" (fun _ ->
            writer |> Output.milliseconds "draft" times.DraftMs
            writer |> Output.milliseconds "verify" times.VerifyMs
            writer |> Output.milliseconds "head" times.HeadMs
            writer |> Output.milliseconds "overhead" times.OverheadMs)

    /// Of the pairs of runs.
    let private speedUp (options: BenchmarkOptions) (report: BenchmarkReport) : SpeedUp =
        [|
            for plain, fast in report.Decoded -> TextTime.ofCompletion plain, TextTime.ofCompletion fast
        |]
        |> SpeedUp.paired (Key.ofSeed options.Seed)

    /// The contract's object: times in milliseconds, rates in tokens or gigabytes (10^9 bytes) a second.
    let private json (checkpoint: Checkpoint) (options: BenchmarkOptions) (report: BenchmarkReport) =
        JsonWrite.line (fun writer ->
            let rounded (name: string) (value: float) = writer.WriteNumber(name, Math.Round(value, 3))

            writer.WriteString("model", checkpoint.Path)
            writer.WriteString("dtype", Weights.dtypeName checkpoint.Weights)
            writer |> JsonWrite.textOrNull "compute" (Weights.compute checkpoint.Weights)
            writer.WriteString("kv", Weights.kv checkpoint.Weights)
            writer.WriteNumber("threads", report.Threads)
            writer.WriteNumber("runs", options.Runs)
            writer.WriteString("cpu", report.Cpu)
            writer.WriteString("simd", CpuKernels.form ())
            rounded "read_bandwidth_gb_s" report.ReadBandwidth

            writer
            |> JsonWrite.object "pass_ms" (fun _ ->
                for rows, ms in report.PassMs do
                    writer |> Output.milliseconds (string rows) ms)

            match report.VerifyRowsRatio with
            | Some ratio -> rounded "verify_rows_ratio" ratio
            | None -> writer.WriteNull "verify_rows_ratio"

            writer
            |> JsonWrite.object "prefill" (fun _ ->
                writer.WriteNumber("tokens", report.PrefillTokens)
                rounded "tokens_per_second" (1000.0 * float report.PrefillTokens / report.PrefillMs)
                writer.WriteString("as", Prefill.name checkpoint.Weights.Prefill))

            writer
            |> JsonWrite.object "autoregressive" (fun _ ->
                times report.Autoregressive writer
                rounded "gb_s" report.AutoregressiveRate)

            writer
            |> JsonWrite.object "self_speculative" (fun _ ->
                writer.WriteNumber("exit_layer", options.Exit.Layers)
                writer.WriteNumber("draft_length", options.DraftLength)
                rounded "draft_acceptance_rate" report.SelfSpeculative.Acceptance
                writer |> Output.milliseconds "predicted_ms_per_token" report.PredictedMsPerToken
                times report.SelfSpeculative writer
                let metrics = report.Decoded |> Seq.map snd |> SpeculationMetrics.ofCompletions

                writer
                |> JsonWrite.object "stats" (fun _ ->
                    StatisticsJson.speculation metrics writer

                    writer
                    |> StatisticsJson.number
                        "tokens_per_layer"
                        (metrics.TokensPerLayer(checkpoint.Config.Layers, options.Exit.Layers))))

            writer |> StatisticsJson.speedUp "speed_up" (speedUp options report)

            writer.WriteBoolean("same_text", report.SameText)
            rounded "ratio" report.Ratio
            writer |> JsonWrite.textOrNull "stored_dtype" checkpoint.Config.StoredDtype)

    /// By medians, and by means with their intervals over the runs.
    let private ratio (options: BenchmarkOptions) (report: BenchmarkReport) =
        let speedUp = speedUp options report
        $"ratio {Shown.fixedPoint 2 report.Ratio}x; of mean times {Output.interval 2 speedUp.OfTimes}, of mean rates {Output.interval 2 speedUp.OfRates}"

    /// The same for readers: a row for each strategy, times in milliseconds.
    let private table (checkpoint: Checkpoint) (options: BenchmarkOptions) (report: BenchmarkReport) =
        let ms = Shown.fixedPoint 2

        // A column's head, and its times in milliseconds.
        let columns: (string * (DecodingTimes -> float)) list = [
            "median", _.MsPerToken.Median
            "p5", _.MsPerToken.P5
            "p95", _.MsPerToken.P95
            "latency p50", _.LatencyMs.Median
            "p95", _.LatencyMs.P95
            "first token", _.TtftMs.Median
            "draft", _.DraftMs
            "verify", _.VerifyMs
            "(head)", _.HeadMs
            "overhead", _.OverheadMs
        ]

        let row name times = name :: (columns |> List.map (fun (_, time) -> ms (time times)))

        let decoding =
            Output.table [ 1 .. columns.Length ] [
                "ms a token" :: List.map fst columns
                row "autoregressive" report.Autoregressive
                row "self-speculative" report.SelfSpeculative
            ]

        let passes =
            report.PassMs |> List.map (fun (rows, time) -> $"{rows}: {ms time}") |> String.concat ", "

        let rowsRatio =
            match report.VerifyRowsRatio with
            | Some ratio -> $"five rows cost {Shown.fixedPoint 2 ratio} of one"
            | None -> "the context has no room to measure more"

        String.concat "\n" [
            $"{checkpoint.Path}: {Inputs.machine checkpoint}, {CpuKernels.form ()}, {report.Cpu}"
            $"reads at most {Shown.fixedPoint 1 report.ReadBandwidth} GB/s; decoding reads {Shown.fixedPoint 1 report.AutoregressiveRate} GB/s of weights"
            $"a pass by rows, ms: {passes}; {rowsRatio}"
            $"prefill of {report.PrefillTokens} tokens: {Shown.fixedPoint 1 (1000.0 * float report.PrefillTokens / report.PrefillMs)} tokens/s"
            ""
            decoding
            ""
            $"exit layer {options.Exit.Layers}, draft length {options.DraftLength}: {Shown.percent report.SelfSpeculative.Acceptance} of drafts accepted; "
            + $"the passes alone would take {ms report.PredictedMsPerToken} ms a token"
            ratio options report
        ]

    /// Measures and tells; failed where a run's two texts differ.
    let private measure
        terminal
        (common: Common)
        (output: OutputFile)
        (page: OutputFile)
        (checkpoint: Checkpoint)
        (options: BenchmarkOptions)
        : int =
        Terminal.remark terminal $"{Inputs.machine checkpoint}, {options.Runs} interleaved runs"
        let report = Benchmark.run checkpoint.Weights options
        output.Tell(terminal, (if common.Json then json else table) checkpoint options report)

        page.Make(fun () ->
            let name = Fingerprint.name checkpoint.Path
            let model = $"{name}, {Inputs.machine checkpoint}"

            TimePlots.ofBenchmark
                model
                $"exit layer {options.Exit.Layers}, draft length {options.DraftLength}"
                report
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
            for length in Option.toList given.DraftLength do
                yield! Inputs.atLeastOne "draft-length" length
            match acceptRate with
            | Some(text, rate) when rate < 0.0 || rate > 1.0 ->
                LayerSkipError.OutOfRange("accept-rate", text, "0 to 1")
            | _ -> ()
        ]

        use output = OutputFile.Open(given.Output, Inputs.modelPlace common)
        use page = OutputFile.OpenPage(given.Html, given.Output, Inputs.modelPlace common)

        // What a process without a model has, libtorch included.
        Backend.ensure ()
        let empty, started = Environment.WorkingSet, Stopwatch.GetTimestamp()

        let checkpoint =
            match given.Shape with
            | Some text -> ofShape common text
            | None -> Inputs.load terminal common

        let loadMs = Stopwatch.GetElapsedTime(started).TotalMilliseconds
        let layers = checkpoint.Config.Layers
        Inputs.needEarlierExit "bench" checkpoint
        let recommendedExit, recommendedDraft = Checkpoint.exitAndDraft checkpoint

        let exit = ExitLayer.TryCreate(layers, defaultArg given.Exit recommendedExit) |> Check.getOrRaise

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

        let prompt, context = prompt checkpoint, checkpoint.Config.Context
        let room = context - prompt.Length

        if room < 2 then
            let allowed =
                $"{prompt.Length + 2} or more: a prompt, and two new tokens with a time between them"
            Inputs.stop (LayerSkipError.OutOfRange("the model's context", string context, allowed))

        let options: BenchmarkOptions = {
            Prompt = prompt
            Runs = given.Runs
            Exit = exit
            DraftLength = defaultArg given.DraftLength recommendedDraft
            MaxNewTokens = min given.MaxNewTokens room
            AcceptRate = acceptRate |> Option.map snd
            Seed = common.Seed
        }

        if given.Requests then
            Terminal.result terminal (BenchRequests.ready loadMs empty checkpoint.Weights)
            BenchRequests.run terminal Console.In checkpoint.Weights options
            ExitCode.done'
        else
            measure terminal common output page checkpoint options
