namespace LayerSkip

open System
open System.Diagnostics
open System.Threading

/// Decoding as a sequence of events that the caller pulls.
[<RequireQualifiedAccess>]
module Generation =
    /// What a round changes beside the text.
    [<NoEquality; NoComparison>]
    type private Reader = {
        Cache: Cache
        /// All that the early layers have read, the latest first.
        Read: int list
        /// The fault of the row that decides the next token, where its numbers are not finite.
        Overflow: Lazy<exn> option
        Key: Key
        DraftMs: float
        VerifyMs: float
        HeadMs: float
    }

    /// What a certificate or a benchmark looks at, and what it may change.
    [<NoEquality; NoComparison>]
    type internal Inspection = {
        /// After a round: the text so far, and the cache of all but its last token.
        Round: (unit -> int[]) -> Cache -> unit
        /// The place in the text of the token that a verifying pass's first row decides, and the logits of its rows.
        Logits: (int -> float[][] -> unit) option
        /// A greedy draft's place in the text and its token: the token to go on with.
        Draft: int -> int -> int
    }

    let internal noInspection: Inspection = {
        Round = fun _ _ -> ()
        Logits = None
        Draft = fun _ token -> token
    }

    /// The text so far.
    [<NoEquality; NoComparison>]
    type private Writer = {
        Reversed: int list
        Count: int
        Stream: TextStream option
        Stops: StopText
        /// Text made certain so far, in pieces, latest first.
        Pieces: string list
        Finish: FinishReason option
    }

    [<NoEquality; NoComparison>]
    type private Progress =
        | Starting
        | Decoding of Reader * Writer * rounds: (int * int) list * TtftMs: float * DecodeMs: float
        | Ended

    let private elapsed (since: int64) = Stopwatch.GetElapsedTime(since).TotalMilliseconds

    let private uniforms count (key: Key) =
        Array.mapFold
            (fun key _ ->
                let struct (u, next) = Key.uniform key
                u, next)
            key
            (Array.zeroCreate<unit> count)

    /// What a pass says of each row, up to the first whose numbers are not finite; that row's fault, should it count.
    [<NoEquality; NoComparison>]
    type private Seen = { Verdicts: Verdicts; Overflow: Lazy<exn> option }

    /// A row counts only where all drafts before it are kept: one that the whole model would not have come to may overflow.
    let private see sampling weights layers rows (reader: Reader) (logits: Logits) : Seen =
        match Logits.tryFirstNotFinite logits with
        | None -> { Verdicts = Sampling.judge sampling logits; Overflow = None }
        | Some row ->
            let fault () =
                reader.Read
                |> List.skip (rows - 1 - row)
                |> List.rev
                |> Array.ofList
                |> Overflow.exceptionOf weights layers

            {
                Verdicts = Sampling.judge sampling (Logits.truncate row logits)
                Overflow = Some(Lazy<exn> fault)
            }

    /// What an exit that overflows drafts: a token, for certain. The whole model, which may be sound, judges it like any other.
    let private blind (sampling: Sampling) (vocabulary: int) : Verdicts =
        match sampling with
        | Sampling.Greedy -> Verdicts.Tokens [| 0 |]
        | Sampling.Filtered _ ->
            Verdicts.Laws [| Array.init vocabulary (fun id -> if id = 0 then 1.0 else 0.0) |]

    /// Layers 1..E propose token by token.
    let private propose cancelled weights sampling (inspection: Inspection) last (reader: Reader) =
        let started = Stopwatch.GetTimestamp()
        let struct (hidden, cache) = Model.passEarly cancelled weights [| last |] reader.Cache
        let headStarted = Stopwatch.GetTimestamp()
        let reader = { reader with Cache = cache; Read = last :: reader.Read }
        let logits = Model.logits weights hidden

        let verdict =
            match Logits.tryFirstNotFinite logits with
            | None -> Sampling.judge sampling logits
            | Some _ -> blind sampling weights.Config.Vocabulary

        let reader = { reader with HeadMs = reader.HeadMs + elapsed headStarted }

        let struct (draft, reader) =
            match verdict with
            | Verdicts.Tokens own ->
                struct ({ Token = inspection.Draft cache.Early.Length own[0]; Law = [||] }, reader)
            | Verdicts.Laws laws ->
                let struct (u, key) = Key.uniform reader.Key

                struct ({ Token = Sampling.pick laws[0] u; Law = laws[0] }, { reader with Key = key })

        struct (draft, { reader with DraftMs = reader.DraftMs + elapsed started })

    /// One pass over what the whole model has not read; with early exit, "whole" is layers 1..E.
    let private verify
        (cancelled: CancellationToken)
        weights
        (options: GenerationOptions)
        (inspection: Inspection)
        (rows: int -> int)
        (ids: int[])
        (reader: Reader)
        =
        let started = Stopwatch.GetTimestamp()

        let struct (layers, judged, fresh, struct (hidden, cache)) =
            match options.Strategy with
            | Strategy.EarlyExit exit ->
                struct (exit.Layers, 1, ids, Model.passEarly cancelled weights ids reader.Cache)
            | Strategy.Autoregressive
            | Strategy.SelfSpeculative _ ->
                let judged = rows ids.Length
                let passed = Model.passRemainder cancelled weights judged ids reader.Cache
                struct (weights.Config.Layers, judged, ids[reader.Cache.Pending ..], passed)

        let headStarted = Stopwatch.GetTimestamp()
        let reader = { reader with Read = Array.fold (fun read id -> id :: read) reader.Read fresh }
        let logits = Model.logits weights hidden

        inspection.Logits
        |> Option.iter (fun look ->
            let rows = Logits.toFloats logits
            look (cache.Early.Length - rows.Length + 1) rows)

        let seen = see options.Sampling weights layers judged reader logits

        struct (seen,
                {
                    reader with
                        Cache = cache
                        VerifyMs = reader.VerifyMs + elapsed started
                        HeadMs = reader.HeadMs + elapsed headStarted
                })

    let private judge (drafts: Draft<float[]>[]) (seen: Seen) (reader: Reader) =
        let struct (agreed, next, reader) =
            match seen.Verdicts with
            | Verdicts.Tokens own ->
                let struct (agreed, next) = Speculation.acceptGreedy own (drafts |> Array.map _.Token)
                struct (agreed, next, reader)
            | Verdicts.Laws laws ->
                let us, key = uniforms (drafts.Length + 1) reader.Key
                let judged = Array.truncate laws.Length drafts
                let struct (agreed, law) = Speculation.acceptSampled us laws judged
                let next = law |> ValueOption.map (fun law -> Sampling.pick law us[drafts.Length])
                struct (agreed, next, { reader with Key = key })

        // The kept drafts may end the text before the row that overflows is asked for.
        let reader = { reader with Overflow = if next.IsNone then seen.Overflow else None }
        struct (agreed, next, reader)

    let private rewind count (reader: Reader) =
        if count = 0 then
            reader
        else
            {
                reader with
                    Cache = Cache.truncate (reader.Cache.Early.Length - count) reader.Cache
                    Read = List.skip count reader.Read
            }

    /// Adds one token to the text: the piece it makes certain, and what ends there, if anything.
    let private write (options: GenerationOptions) id (writer: Writer) : struct (string * Writer) =
        if Array.contains id options.StopIds then
            struct ("", { writer with Finish = Some FinishReason.Stop })
        else
            let struct (decoded, stream) =
                match writer.Stream with
                | Some stream ->
                    let struct (decoded, stream) = TextStream.push id stream
                    struct (decoded, Some stream)
                | None -> struct ("", None)

            let struct (piece, stops) = StopText.push decoded writer.Stops
            let count = writer.Count + 1

            struct (piece,
                    {
                        Reversed = id :: writer.Reversed
                        Count = count
                        Stream = stream
                        Stops = stops
                        Pieces = piece :: writer.Pieces
                        Finish =
                            if stops.Matched then
                                Some FinishReason.Stop
                            elif count >= options.MaxNewTokens then
                                Some FinishReason.Length
                            else
                                None
                    })

    /// Adds tokens until one ends the text.
    let private writeAll options (tokens: (int * Origin) seq) (writer: Writer) =
        let add (events, writer: Writer) (id, origin) =
            if writer.Finish.IsSome then
                events, writer
            else
                let struct (piece, next) = write options id writer
                // A stop token is no part of the text.
                (if next.Count > writer.Count then
                     GenerationEvent.Token(id, origin, piece) :: events
                 else
                     events),
                next

        let events, writer = Seq.fold add ([], writer) tokens
        List.rev events, writer

    let private origins (round: Round) =
        round.Tokens
        |> Seq.mapi (fun i token ->
            token,
            if i < round.Accepted then Origin.Drafted
            elif round.Drafted = 0 then Origin.Plain
            elif round.Accepted < round.Drafted then Origin.Corrected
            else Origin.Bonus)

    /// The last event. Text held back because a stop string or a character might have followed is text after all.
    let private finish (prompt: int[]) (reader: Reader) (writer: Writer) finish rounds ttft decode =
        let rest =
            match writer.Stream with
            | Some stream when not writer.Stops.Matched -> writer.Stops.Held + TextStream.finish stream
            | _ -> ""

        GenerationEvent.End(
            rest,
            {
                PromptIds = prompt
                TokenIds = Array.ofList (List.rev writer.Reversed)
                Text = writer.Stream |> Option.map (fun _ -> String.Concat(List.rev (rest :: writer.Pieces)))
                Finish = finish
                Stats = SpeculationStats.ofRounds (Array.ofList (List.rev rounds))
                Timings = {
                    TtftMs = ttft
                    DecodeMs = decode
                    DraftMs = reader.DraftMs
                    VerifyMs = reader.VerifyMs
                    HeadMs = reader.HeadMs
                }
            }
        )

    let private faults
        (weights: Weights)
        (tokenizer: Tokenizer option)
        (options: GenerationOptions)
        (prompt: int[])
        =
        let config = weights.Config

        [
            if prompt.Length = 0 then
                LayerSkipError.EmptyPrompt
            if prompt.Length >= config.Context then
                LayerSkipError.PromptTooLong(prompt.Length, config.Context)
            match prompt |> Array.tryFind (fun id -> id < 0 || id >= config.Vocabulary) with
            | Some id -> LayerSkipError.UnknownToken(id, config.Vocabulary)
            | None -> ()
            match options.StopIds |> Array.tryFind (fun id -> id < 0 || id >= config.Vocabulary) with
            | Some id -> LayerSkipError.UnknownToken(id, config.Vocabulary)
            | None -> ()
            if options.MaxNewTokens < 1 then
                LayerSkipError.OutOfRange("max-new-tokens", string options.MaxNewTokens, "1 or more")
            match options.Strategy with
            | Strategy.SelfSpeculative(exit, length) ->
                if length < 1 then
                    LayerSkipError.OutOfRange("draft-length", string length, "1 or more")

                yield! ExitLayer.TryCreate(config.Layers, exit.Layers) |> Check.faults
            | Strategy.EarlyExit exit ->
                yield! ExitLayer.TryCreate(config.Layers, exit.Layers) |> Check.faults
            | Strategy.Autoregressive -> ()
            if tokenizer.IsNone && not (List.isEmpty options.StopTexts) then
                LayerSkipError.Unsupported(
                    "a stop string for a model without a tokenizer",
                    "give stop ids instead"
                )
        ]

    /// The events of a prompt and options that are good.
    let private events
        (inspection: Inspection)
        (weights: Weights)
        (tokenizer: Tokenizer option)
        (options: GenerationOptions)
        (prompt: int[])
        (cancelled: CancellationToken)
        : seq<GenerationEvent> =

        let exit, draftLength =
            match options.Strategy with
            | Strategy.Autoregressive -> weights.Config.Layers, 0
            | Strategy.EarlyExit exit -> exit.Layers, 0
            | Strategy.SelfSpeculative(exit, length) -> exit.Layers, length

        let options = {
            options with
                MaxNewTokens = min options.MaxNewTokens (weights.Config.Context - prompt.Length)
        }

        let isStop id = Array.contains id options.StopIds
        let draft = Speculation.oneByOne isStop (propose cancelled weights options.Sampling inspection)
        let round =
            Speculation.step isStop draft (verify cancelled weights options inspection id) judge rewind

        let start began cache =
            let reader = {
                Cache = cache
                Read = []
                Overflow = None
                Key = Key.ofSeed options.Seed
                DraftMs = 0.0
                VerifyMs = 0.0
                HeadMs = 0.0
            }

            let struct (first, reader) =
                Scope.run (fun () ->
                    let struct (verdicts, read) =
                        verify cancelled weights options inspection (fun _ -> 1) prompt reader
                    let struct (_, first, read) = judge [||] verdicts read
                    struct (first, { read with VerifyMs = 0.0; HeadMs = 0.0 }))

            let events, writer =
                writeAll options (first |> ValueOption.toArray |> Seq.map (fun id -> id, Origin.Prefill)) {
                    Reversed = []
                    Count = 0
                    Stream = tokenizer |> Option.map (TextStream.continuing options.ShowSpecial)
                    Stops = StopText.create options.StopTexts
                    Pieces = []
                    Finish = None
                }

            events, Decoding(reader, writer, [], elapsed began, 0.0)

        let advance began cache progress =
            match progress with
            | Ended -> None
            | Starting -> Some(start began cache)
            | Decoding(reader, writer, rounds, ttft, decode) ->
                match writer.Finish, writer.Reversed with
                | Some reason, _ -> Some([ finish prompt reader writer reason rounds ttft decode ], Ended)
                | None, _ when reader.Overflow.IsSome -> raise reader.Overflow.Value.Value
                | None, [] -> invalidOp "the pass over the prompt gave no token"
                | None, last :: _ ->
                    let began = Stopwatch.GetTimestamp()
                    let ahead = min draftLength (options.MaxNewTokens - writer.Count - 1)
                    let struct (made, reader) = Scope.run (fun () -> round ahead last reader)
                    let events, writer = writeAll options (origins made) writer

                    if writer.Finish <> Some FinishReason.Stop && reader.Overflow.IsNone then
                        inspection.Round
                            (fun () -> Array.append prompt (Array.ofList (List.rev writer.Reversed)))
                            reader.Cache

                    let events, rounds =
                        if draftLength = 0 then
                            events, rounds
                        else
                            events @ [ GenerationEvent.Round made ], (made.Drafted, made.Accepted) :: rounds

                    Some(events, Decoding(reader, writer, rounds, ttft, decode + elapsed began))

        seq {
            let began = Stopwatch.GetTimestamp()
            let cache = Cache.create weights exit (prompt.Length + options.MaxNewTokens)
            use _storage = cache.Slab :> IDisposable
            yield! Seq.unfold (advance began cache) Starting |> Seq.concat
        }

    let private prepareInspected inspection weights tokenizer options prompt =
        Check.all
            (faults weights tokenizer options prompt)
            (events inspection weights tokenizer options prompt)

    /// `run`, with looks inside.
    let internal runInspected inspection weights tokenizer options prompt =
        prepareInspected inspection weights tokenizer options prompt
        |> Result.map (fun start -> start CancellationToken.None)

    /// `run`, to be started with a token that ends it: once that is cancelled, the pull under way throws
    /// OperationCanceledException after about a tenth of a second's work, also where it reads a long prompt.
    let prepare
        weights
        tokenizer
        options
        prompt
        : Result<CancellationToken -> seq<GenerationEvent>, LayerSkipError list> =
        prepareInspected noInspection weights tokenizer options prompt

    /// Decodes a prompt of ids. The sequence starts anew, with a cache of its own, each time it is enumerated,
    /// and computes a round when one is asked for. Events may be pulled from any thread, one at a time. Where the model's
    /// numbers overflow, a LayerSkipException comes in place of an event.
    let run weights tokenizer options prompt : Result<seq<GenerationEvent>, LayerSkipError list> =
        runInspected noInspection weights tokenizer options prompt

    /// `run` to its end.
    let complete weights tokenizer options prompt : Result<Completion, LayerSkipError list> =
        try
            run weights tokenizer options prompt
            |> Result.map (
                Seq.pick (function
                    | GenerationEvent.End(_, completion) -> Some completion
                    | _ -> None)
            )
        with :? LayerSkipException as fault ->
            Error fault.Errors
