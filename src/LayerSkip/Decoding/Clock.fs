namespace LayerSkip

open System.Diagnostics

/// What the time of decoding is spent on.
[<RequireQualifiedAccess>]
type Part =
    /// Drafting, heads included.
    | Draft
    /// The whole model's passes, heads included.
    | Verify
    /// Of both: norm, head and the choice of tokens.
    | Head
    /// Deciding what to draft, and learning from what came of it.
    | Policy

/// Milliseconds of each part, summed up.
[<Sealed>]
type Clock() =
    let mutable draft, verify, head, policy = 0.0, 0.0, 0.0, 0.0

    member _.DraftMs = draft
    member _.VerifyMs = verify
    member _.HeadMs = head
    member _.PolicyMs = policy

    /// Adds the time of `body` to a part, unless it throws.
    member _.Time(part: Part, body: unit -> 'T) : 'T =
        let started = Stopwatch.GetTimestamp()
        let result = body ()
        let ms = Stopwatch.GetElapsedTime(started).TotalMilliseconds

        match part with
        | Part.Draft -> draft <- draft + ms
        | Part.Verify -> verify <- verify + ms
        | Part.Head -> head <- head + ms
        | Part.Policy -> policy <- policy + ms

        result

    /// Back to 0.
    member _.Reset() =
        draft <- 0.0
        verify <- 0.0
        head <- 0.0
        policy <- 0.0
