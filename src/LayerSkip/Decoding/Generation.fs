namespace LayerSkip

open System.Collections.Generic
open System.Diagnostics
open System.Threading

/// Decoding as a sequence of events that the caller pulls: rounds, their text, and the time that they took.
[<RequireQualifiedAccess>]
module Generation =
    [<NoEquality; NoComparison>]
    type private Progress =
        /// A prompt, for so long.
        | Reading of Ms: float
        | Decoding of Transcript * Round list * TtftMs: float * DecodeMs: float
        | Ended

    let private origin isFirst (round: Round) place : Origin =
        if isFirst then
            Origin.Prefill
        elif place < round.Accepted then
            match round.Sources[place] with
            | DraftSource.Lookup
            | DraftSource.Past -> Origin.LookedUp
            | _ -> Origin.Drafted
        elif round.Drafted = 0 then
            Origin.Plain
        elif round.Accepted < round.Drafted then
            Origin.Corrected
        else
            Origin.Bonus

    let private told isFirst (round: Round) (standing: Standing) =
        round.Tokens
        |> Seq.mapi (fun place token ->
            token, origin isFirst round place, Array.tryItem place standing.LogProbs)

    let private faults (config: LlamaConfig) tokenizer (options: GenerationOptions) (prompt: int[]) = [
        yield! PromptIds.faults config prompt
        yield! PromptIds.unknown config options.StopIds
        yield! Check.atLeast 1 "max-new-tokens" options.MaxNewTokens
        yield! TokenRules.faults config.Vocabulary options.Rules
        yield! options.Strategy.Acceptance.Faults
        yield! TokenLogProbs.faults "logprobs" options.LogProbs
        yield! TokenLogProbs.faults "prompt-logprobs" options.PromptLogProbs
        yield!
            options.Strategy.DraftLength
            |> Option.toList
            |> List.collect (Check.atLeast 1 "draft-length")
        yield!
            options.Strategy.Vocabulary
            |> Option.toList
            |> List.collect (ContextVocabulary.faults config.Vocabulary)
        for exit in Option.toList options.Strategy.Exit do
            yield! ExitLayer.TryCreate(config.Layers, exit.Layers) |> Check.faults
        yield!
            Check.inRange
                (not (List.contains "" options.StopTexts))
                "stop-texts"
                "empty"
                "texts of one character or more"
        if Option.isNone tokenizer && not (List.isEmpty options.StopTexts) then
            let what = "a stop string for a model without a tokenizer"
            LayerSkipError.Unsupported(what, "give stop ids instead")
    ]

    /// The events of a prompt and options that are good, a round's at a time.
    let private rounds
        (loan: CacheLoan option)
        (weights: Weights)
        tokenizer
        (options: GenerationOptions)
        (prompt: int[])
        cancelled
        : seq<GenerationEvent list> =
        let options = {
            options with
                MaxNewTokens = min options.MaxNewTokens (weights.Config.Context - prompt.Length)
        }

        // A text that has ended says so with its last tokens.
        let andEnd (clock: Clock) (reused: int ref) (standing: Standing) events progress =
            match progress with
            | Decoding(transcript, drafted, ttft, decode) when transcript.Finish.IsSome ->
                let timings = {
                    TtftMs = ttft
                    DecodeMs = decode
                    DraftMs = clock.DraftMs
                    VerifyMs = clock.VerifyMs
                    HeadMs = clock.HeadMs
                    PolicyMs = clock.PolicyMs
                }

                let stats = SpeculationStats.ofRounds (Array.ofList (List.rev drafted))

                let ending =
                    Transcript.finish
                        prompt
                        reused.Value
                        standing.PromptLogProbs
                        standing.Loose
                        stats
                        timings
                        transcript

                Some(events @ [ ending ], Ended)
            | progress -> Some(events, progress)

        let advance
            (clock: Clock)
            (reused: int ref)
            (rounds: IEnumerator<struct (Round * Standing) voption>)
            progress
            =
            let pull () =
                let began = Stopwatch.GetTimestamp()

                if not (rounds.MoveNext()) then
                    invalidOp "the rounds ended before the text"

                struct (rounds.Current, fun () -> Stopwatch.GetElapsedTime(began).TotalMilliseconds)

            match progress with
            | Ended -> None
            | Reading read ->
                match pull () with
                | struct (ValueNone, ms) -> Some([], Reading(read + ms ()))
                | struct (ValueSome(struct (round, standing)), ms) ->
                    let struct (events, transcript) =
                        Transcript.create tokenizer options |> Transcript.add (told true round standing)

                    let ttft = read + ms ()
                    // The pass over the prompt is no part of decoding.
                    clock.Reset()

                    let prompt =
                        if options.PromptLogProbs.IsSome then
                            [ GenerationEvent.Prompt standing.PromptLogProbs ]
                        else
                            []

                    Decoding(transcript, [], ttft, 0.0) |> andEnd clock reused standing (prompt @ events)
            | Decoding(transcript, drafted, ttft, decode) ->
                let struct (pulled, ms) = pull ()
                let struct (round, standing) = pulled.Value
                let struct (events, transcript) = Transcript.add (told false round standing) transcript
                let decode = decode + ms ()
                let andEnd = andEnd clock reused standing

                if options.Strategy.Drafter.IsNone then
                    Decoding(transcript, [], ttft, decode) |> andEnd events
                else
                    Decoding(transcript, round :: drafted, ttft, decode)
                    |> andEnd (events @ [ GenerationEvent.Round round ])

        seq {
            let decoding = {
                Rounds.greedy weights options.Strategy options.MaxNewTokens with
                    Sampling = options.Sampling
                    Rules = options.Rules
                    StopIds = options.StopIds
                    Seed = options.Seed
                    LogProbs = options.LogProbs
                    PromptLogProbs = options.PromptLogProbs
            }

            let reused = ref 0

            let loan = loan |> Option.defaultWith (fun () -> Rounds.ownCache decoding prompt)

            let take () =
                let cache = loan.Take()

                let cache =
                    if GenerationOptions.readsAll options then
                        Cache.truncate 0 cache
                    else
                        cache

                reused.Value <- cache.Early.Length
                cache

            use rounds = (Rounds.runOver { loan with Take = take } decoding prompt cancelled).GetEnumerator()
            yield! Seq.unfold (advance decoding.Clock reused rounds) (Reading 0.0)
        }

    /// `run`, to be started with a token that ends it: once that is cancelled, the pull under way throws
    /// OperationCanceledException after about a tenth of a second's work, also where it reads a long prompt.
    let prepare
        (weights: Weights)
        (tokenizer: Tokenizer option)
        (options: GenerationOptions)
        (prompt: int[])
        =
        let faults = faults weights.Config tokenizer options prompt
        Check.all faults (rounds None weights tokenizer options prompt >> Seq.concat)

    /// `prepare`, over a cache that is lent, with the events of a round at a time: none, one or several of each pull. The cache is taken at
    /// the first pull, and given back when the sequence ends or its enumerator is disposed. A sequence is for one enumeration.
    let prepareOver
        (loan: CacheLoan)
        (weights: Weights)
        (tokenizer: Tokenizer option)
        (options: GenerationOptions)
        (prompt: int[])
        : Result<CancellationToken -> seq<GenerationEvent list>, LayerSkipError list> =
        let faults = faults weights.Config tokenizer options prompt
        Check.all faults (rounds (Some loan) weights tokenizer options prompt)

    /// Decodes a prompt of ids. The sequence starts anew, with a cache of its own, each time it is enumerated,
    /// and computes a round when one is asked for. Events may be pulled from any thread, one at a time. Where the model's
    /// numbers overflow, a LayerSkipException comes in place of an event. Errors: an empty prompt or one that fills the
    /// context, ids outside the vocabulary, an option or an exit outside its range, stop strings without a tokenizer.
    let run weights tokenizer options prompt : Result<seq<GenerationEvent>, LayerSkipError list> =
        prepare weights tokenizer options prompt
        |> Result.map (fun start -> start CancellationToken.None)

    /// The result of a sequence of events, which it pulls to the end.
    let result (events: seq<GenerationEvent>) : Completion =
        events
        |> Seq.pick (function
            | GenerationEvent.End(_, completion) -> Some completion
            | _ -> None)

    /// `prepare` to its end; numbers that overflow are an error too.
    let completeUntil cancelled weights tokenizer options prompt : Result<Completion, LayerSkipError list> =
        Check.guard (fun () ->
            prepare weights tokenizer options prompt
            |> Result.map (fun start -> start cancelled |> result))

    /// `completeUntil` that nothing cancels.
    let complete weights tokenizer options prompt : Result<Completion, LayerSkipError list> =
        completeUntil CancellationToken.None weights tokenizer options prompt
