namespace LayerSkip

/// What decoding a text took: the tokens after its first one, and the milliseconds from that to the last.
[<Struct>]
type TextTime = {
    Tokens: int
    Ms: float
} with

    member this.MsPerToken = this.Ms / float this.Tokens
    member this.TokensPerSecond = 1000.0 * float this.Tokens / this.Ms

[<RequireQualifiedAccess>]
module TextTime =
    let none: TextTime = { Tokens = 0; Ms = 0.0 }

    /// Of a text of so many tokens, whose decoding took that.
    let ofText (tokens: int) (decodeMs: float) : TextTime = { Tokens = max 0 (tokens - 1); Ms = decodeMs }

    /// Of a finished text.
    let ofCompletion (completion: Completion) : TextTime =
        ofText completion.TokenIds.Length completion.Timings.DecodeMs

    /// Both together, as if they were one text.
    let add (a: TextTime) (b: TextTime) : TextTime = { Tokens = a.Tokens + b.Tokens; Ms = a.Ms + b.Ms }

    /// Whether it has a time a token and a rate.
    let isTimed (time: TextTime) = time.Tokens > 0 && time.Ms > 0.0

/// How many times as fast one way of decoding is as another, over the same texts; above 1 it is faster. Both definitions, for they
/// differ where texts do: means of rates weigh fast texts more.
type SpeedUp = {
    /// The mean time a token of the slow way over that of the fast one.
    OfTimes: Interval
    /// The mean rate in tokens a second of the fast way over that of the slow one, as Spec-Bench's script has it.
    OfRates: Interval
    /// The texts that were timed both ways.
    Texts: int
}

[<RequireQualifiedAccess>]
module SpeedUp =
    let private ratio (above: 'T -> float) (below: 'T -> float) (pairs: 'T[]) : float =
        Array.sumBy above pairs / Array.sumBy below pairs

    /// Of pairs that belong together, baseline first: a pair is drawn whole, so that what a text has in itself cancels out. Texts
    /// of one token have no time and do not count.
    let paired (key: Key) (pairs: (TextTime * TextTime)[]) : SpeedUp =
        let timed = pairs |> Array.filter (fun (slow, fast) -> TextTime.isTimed slow && TextTime.isTimed fast)

        let times = timed |> Array.map (fun (slow, fast) -> struct (slow.MsPerToken, fast.MsPerToken))
        let slow (struct (slow, _)) = slow
        let fast (struct (_, fast)) = fast

        {
            OfTimes = Bootstrap.interval key (ratio slow fast) times
            OfRates = Bootstrap.interval key (ratio (fast >> (/) 1.0) (slow >> (/) 1.0)) times
            Texts = timed.Length
        }
