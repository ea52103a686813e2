namespace LayerSkip

/// How many tokens to draft in the next round.
[<RequireQualifiedAccess; NoEquality; NoComparison>]
type LengthPolicy =
    /// As many each time, at least 1: the paper's d.
    | Fixed of int
    /// A function of the rounds so far, the latest first; 0 is a plain step.
    | Adaptive of (Round list -> int)

[<RequireQualifiedAccess>]
module LengthPolicy =
    /// The length of the round after those, the latest of which is first; 0 or more.
    let next (rounds: Round list) (policy: LengthPolicy) : int =
        match policy with
        | LengthPolicy.Fixed length -> length
        | LengthPolicy.Adaptive choose -> max 0 (choose rounds)
