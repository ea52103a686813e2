namespace LayerSkip.Server

open System.Collections.Generic
open System.Diagnostics
open System.Threading
open System.Threading.Channels
open System.Threading.Tasks
open LayerSkip

/// What came of a text since the last time somebody looked.
type internal Arrival = {
    /// With the first, where it is asked for: what the model's law says of the prompt's tokens.
    Prompt: TokenLogProbs option[]
    /// What has become certain.
    Text: string
    Tokens: TokenEvent list
    /// Drafted and accepted.
    Rounds: (int * int) list
    /// With the last.
    End: Completion option
}

/// Follows texts as they are written.
[<RequireQualifiedAccess>]
module internal Arrival =
    /// All that is there without waiting.
    let private take (events: ChannelReader<GenerationEvent>) : Arrival =
        let text = System.Text.StringBuilder()
        let tokens, rounds = List<TokenEvent>(), List<int * int>()
        let mutable prompt = [||]
        let mutable ended = None
        let mutable event = Unchecked.defaultof<GenerationEvent>

        while ended.IsNone && events.TryRead &event do
            match event with
            | GenerationEvent.Prompt scores -> prompt <- scores
            | GenerationEvent.Token token ->
                text.Append token.Text |> ignore
                tokens.Add token
            | GenerationEvent.Round round -> rounds.Add(round.Drafted, round.Accepted)
            | GenerationEvent.End(rest, completion) ->
                text.Append rest |> ignore
                ended <- Some completion

        {
            Prompt = prompt
            Text = text.ToString()
            Tokens = List.ofSeq tokens
            Rounds = List.ofSeq rounds
            End = ended
        }

    /// Gives what comes to `receive`, until the text ends; `began` is the timestamp of its submission.
    let follow
        (metrics: Metrics)
        (began: int64)
        (events: ChannelReader<GenerationEvent>)
        (cancelled: CancellationToken)
        (receive: Arrival -> Task)
        : Task<Completion> =
        task {
            let seconds (since: int64) = Stopwatch.GetElapsedTime(since).TotalSeconds
            let mutable completion = None
            let mutable last = began
            let mutable ttft = 0.0

            while completion.IsNone do
                let! isMore = events.WaitToReadAsync cancelled

                if not isMore then
                    invalidOp "the events ended before the text"

                let arrival = take events

                if not arrival.Tokens.IsEmpty then
                    if last = began then
                        ttft <- seconds began
                        metrics.FirstToken ttft
                        metrics.Tokens(arrival.Tokens.Length - 1, ttft)
                    else
                        metrics.Tokens(arrival.Tokens.Length, seconds last)

                    last <- Stopwatch.GetTimestamp()

                do! receive arrival
                completion <- arrival.End

            let completion = completion.Value
            metrics.Finished(seconds began, max 0.0 (ttft - completion.Timings.TtftMs / 1000.0))
            return completion
        }
