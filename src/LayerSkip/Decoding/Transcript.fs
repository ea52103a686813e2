namespace LayerSkip

open System

/// The text that tokens make as they come: decoded, cut at a stop string, ended by a stop token or the limit.
[<NoEquality; NoComparison>]
type Transcript = private {
    Options: GenerationOptions
    Reversed: int list
    Tokens: int
    /// Latest first.
    LogProbs: TokenLogProbs list
    Stream: TextStream option
    Stops: StopText
    /// Text made certain so far, in pieces, latest first.
    Pieces: string list
    Ended: FinishReason option
} with

    /// What ended the text, if anything.
    member this.Finish = this.Ended

[<RequireQualifiedAccess>]
module Transcript =
    /// No token yet. Without a tokenizer there is no text, and no stop string can be found.
    let create (tokenizer: Tokenizer option) (options: GenerationOptions) : Transcript = {
        Options = options
        Reversed = []
        Tokens = 0
        LogProbs = []
        Stream = tokenizer |> Option.map (TextStream.continuing options.ShowSpecial)
        Stops = StopText.create options.StopTexts
        Pieces = []
        Ended = None
    }

    /// Adds a token that does not end the text by itself, and the piece of text that it makes certain.
    let private write id (transcript: Transcript) : struct (string * Transcript) =
        let struct (decoded, stream) =
            match transcript.Stream with
            | Some stream ->
                let struct (decoded, stream) = TextStream.push id stream
                struct (decoded, Some stream)
            | None -> struct ("", None)

        let struct (piece, stops) = StopText.push decoded transcript.Stops
        let tokens = transcript.Tokens + 1

        struct (piece,
                {
                    transcript with
                        Reversed = id :: transcript.Reversed
                        Tokens = tokens
                        Stream = stream
                        Stops = stops
                        Pieces = piece :: transcript.Pieces
                        Ended =
                            if stops.Matched then
                                Some FinishReason.Stop
                            elif tokens >= transcript.Options.MaxNewTokens then
                                Some FinishReason.Length
                            else
                                None
                })

    /// Adds tokens until one ends the text: an event for each that is part of it.
    let add
        (tokens: (int * Origin * TokenLogProbs option) seq)
        (transcript: Transcript)
        : struct (GenerationEvent list * Transcript) =
        let add struct (events, transcript: Transcript) (id, origin, logProbs) =
            if transcript.Ended.IsSome then
                struct (events, transcript)
            elif Array.contains id transcript.Options.StopIds then
                struct (events, { transcript with Ended = Some FinishReason.Stop })
            else
                let struct (piece, transcript) = write id transcript
                let event = { Id = id; Origin = origin; Text = piece; LogProbs = logProbs }
                let known = Option.toList logProbs @ transcript.LogProbs
                struct (GenerationEvent.Token event :: events, { transcript with LogProbs = known })

        let struct (events, transcript) = Seq.fold add (struct ([], transcript)) tokens
        struct (List.rev events, transcript)

    /// The last event. Text held back because a stop string or a character might have followed is text after all.
    let finish
        (prompt: int[])
        (reused: int)
        (promptLogProbs: TokenLogProbs option[])
        (loose: int)
        (stats: SpeculationStats)
        (timings: Timings)
        (transcript: Transcript)
        =
        let rest =
            match transcript.Stream with
            | Some stream when not transcript.Stops.Matched ->
                transcript.Stops.Held + TextStream.finish stream
            | _ -> ""

        GenerationEvent.End(
            rest,
            {
                PromptIds = prompt
                ReusedIds = reused
                TokenIds = Array.ofList (List.rev transcript.Reversed)
                Text =
                    transcript.Stream
                    |> Option.map (fun _ -> String.Concat(List.rev (rest :: transcript.Pieces)))
                LogProbs = Array.ofList (List.rev transcript.LogProbs)
                PromptLogProbs = promptLogProbs
                Finish = defaultArg transcript.Ended FinishReason.Length
                IsLossless = transcript.Options.Strategy.IsLossless
                Acceptance = transcript.Options.Strategy.Acceptance.Name
                LooseTokens = loose
                Stats = stats
                Timings = timings
            }
        )
