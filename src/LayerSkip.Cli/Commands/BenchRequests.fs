namespace LayerSkip.Cli

open System
open System.IO
open System.Text.Json
open LayerSkip
open LayerSkip.Kernels

/// A measurement that a line of standard input asks for.
[<RequireQualifiedAccess>]
type internal BenchRequest =
    /// Greedy decoding of so many tokens, plain.
    | Decode of tokens: int
    /// The same, self-speculative as the command line has it.
    | Speculate of tokens: int
    /// Passes of some rows, all with logits, this many times.
    | Rows of rows: int * times: int
    /// One pass over a prompt of so many ids.
    | Prefill of tokens: int
    /// How fast memory is read, by as many threads.
    | Bandwidth

/// `layerskip bench --requests`: a model that stays loaded and is measured as it is asked, a line a request and an object of JSON a
/// line; so that another engine can take turns with it, and no round has a load or a page fault in it.
[<RequireQualifiedAccess>]
module internal BenchRequests =
    /// Positions before the rows of `rows R TIMES`.
    let private past = 64

    let private (|Positive|_|) (word: string) = Number.tryWhole word |> Option.filter (fun n -> n >= 1)

    /// A line, or what it could have been.
    let tryParse (line: string) : Result<BenchRequest, string> =
        match line.Split(' ', StringSplitOptions.RemoveEmptyEntries) with
        | [| "decode"; Positive tokens |] when tokens > 1 -> Ok(BenchRequest.Decode tokens)
        | [| "speculate"; Positive tokens |] when tokens > 1 -> Ok(BenchRequest.Speculate tokens)
        | [| "rows"; Positive rows; Positive times |] -> Ok(BenchRequest.Rows(rows, times))
        | [| "prefill"; Positive tokens |] -> Ok(BenchRequest.Prefill tokens)
        | [| "bandwidth" |] -> Ok BenchRequest.Bandwidth
        | _ ->
            Error
                "there are decode N, speculate N, rows R TIMES, prefill N and bandwidth, with N at least 2 where tokens are decoded"

    /// The positions of the context that a request fills.
    let private needs (options: BenchmarkOptions) (request: BenchRequest) =
        match request with
        | BenchRequest.Decode tokens
        | BenchRequest.Speculate tokens -> options.Prompt.Length + tokens
        | BenchRequest.Rows(rows, _) -> past + rows
        | BenchRequest.Prefill tokens -> tokens
        | BenchRequest.Bandwidth -> 0

    let private decoding (times: DecodingTimes) (writer: Utf8JsonWriter) =
        writer |> Output.milliseconds "ms_per_token" times.MsPerToken.Median
        writer |> Output.milliseconds "first_token_ms" times.TtftMs.Median

    /// Measures; an object of JSON.
    let answer (weights: Weights) (options: BenchmarkOptions) (request: BenchRequest) : string =
        let decode tokens = Benchmark.decodeOnce weights { options with MaxNewTokens = tokens }

        JsonWrite.line (fun writer ->
            match request with
            | _ when needs options request > weights.Config.Context ->
                let needed, room = needs options request, weights.Config.Context
                writer.WriteString("error", $"{needed} positions, and the model has a context of {room}")
            | BenchRequest.Decode tokens -> writer |> decoding (decode tokens Strategy.Autoregressive)
            | BenchRequest.Speculate tokens ->
                let times = decode tokens options.Strategy
                writer |> decoding times
                writer.WriteNumber("draft_acceptance_rate", times.Acceptance)
            | BenchRequest.Rows(rows, times) ->
                let passes = PassTimes.ofRows weights past times [ rows ]
                writer |> Output.milliseconds "pass_ms" (snd passes.Head)
            | BenchRequest.Prefill tokens ->
                writer.WriteNumber(
                    "tokens_per_second",
                    1000.0 * float tokens / PassTimes.prefillOnce weights tokens
                )
            | BenchRequest.Bandwidth -> writer.WriteNumber("gb_s", Bandwidth.Read()))

    /// What is told first: what loading took, the bytes of a process without a model, and what decoding reads for a token.
    let ready (loadMs: float) (emptyBytes: int64) (weights: Weights) : string =
        JsonWrite.line (fun writer ->
            writer |> Output.milliseconds "load_ms" loadMs
            writer.WriteNumber("empty_bytes", emptyBytes)
            writer.WriteNumber("read_bytes", Benchmark.bytesRead weights)
            writer.WriteString("cpu", Benchmark.cpu ())
            writer.WriteString("simd", CpuKernels.form ())
            writer.WriteNumber("threads", CpuKernels.threads ()))

    /// Answers every line until there are no more; an unknown one by {"error": ..}, so that the model stays.
    let run
        (terminal: Terminal)
        (requests: TextReader)
        (weights: Weights)
        (options: BenchmarkOptions)
        : unit =
        let lines = Seq.initInfinite (fun _ -> requests.ReadLine()) |> Seq.takeWhile (isNull >> not)

        for line in lines do
            match tryParse line with
            | Ok request -> answer weights options request
            | Error what -> JsonWrite.line (fun writer -> writer.WriteString("error", what))
            |> Terminal.result terminal
